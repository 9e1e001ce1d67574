"""What the package promises before anything is run: light imports, complete pins, nothing left out of the wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import depthlm

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("torch", "transformers", "accelerate", "matplotlib", "trimesh", "cv2", "pyarrow", "scipy")


def requirement_name(line: str) -> str:
    return re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0].lower().replace("_", "-")


def pins() -> dict[str, str]:
    # The page's gradio takes an older pillow than everything else is tested with: its own file, its own environment.
    texts = [(ROOT / name).read_text() for name in ("constraints-app.txt", "constraints.txt")]
    lines = "\n".join(texts).splitlines()
    return {requirement_name(line): line.split("==")[1] for line in lines if line and not line.startswith("#")}


@pytest.mark.parametrize("code", ["import depthlm", "import depthlm.cli"])
def test_import_loads_nothing_heavy(code: str) -> None:
    ask = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    assert "depthlm" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_every_direct_dependency_is_pinned_exactly() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = {requirement_name(line) for line in [*PROJECT["dependencies"], *chain(*extras.values())]} - {"depthlm"}
    assert wanted == set(pins())
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins().values())


def test_the_version_is_said_once_in_two_places() -> None:
    assert depthlm.__version__ == PROJECT["version"]


def test_licence_and_entry_point() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["scripts"]["depthlm"] == "depthlm.cli:main"


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "docs", "bench"])
def test_make_knows_the_target_and_would_build_its_own_environment(target: str, tmp_path: Path) -> None:
    venv = tmp_path / "fresh"
    run = subprocess.run(["make", "-n", target, f"VENV={venv}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"-m venv {venv}" in run.stdout
    assert "-c constraints.txt" in run.stdout
    assert not venv.exists()


def test_the_build_files_name_no_host() -> None:
    for name in (".ci/run", "Makefile", "constraints.txt"):
        assert not re.search(r"https?://|index-url|find-links", (ROOT / name).read_text()), name


def test_the_readme_prints_what_the_committed_demo_printed() -> None:
    """Word for word what `depthlm demo` wrote for the weights in the package."""
    from depthlm.demo import format_table

    summary = json.loads((ROOT / "docs" / "results" / "nano" / "demo-summary.json").read_text())
    assert f"```text\n{format_table(summary)}\n```" in (ROOT / "README.md").read_text()


def test_the_readme_tree_names_only_what_exists() -> None:
    """Every path in the README's tree is there, and every room of the package is in the tree."""
    tree = re.search(r"```\nsrc/depthlm/\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    named = {line.split()[0].rstrip("/") for line in tree[1].splitlines() if re.match(r"  \w", line)}
    rooms = {path.name for path in (ROOT / "src/depthlm").iterdir() if not path.name.startswith(("__", "py.typed"))}
    assert named == rooms
