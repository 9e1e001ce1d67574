"""What is handed out: a wheel and an sdist with nano and nothing else, and a wheel that works where nothing is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from test_package import ROOT

pytestmark = pytest.mark.slow
NANO = "depthlm/models/weights/nano/model.safetensors"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel made from it."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, capture_output=True)
    return out


def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nothing says which files belong to the project")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(listed.splitlines())


def test_the_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        weights = archive.getinfo(NANO).file_size
        about = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    files = tracked()
    package = {name.removeprefix("src/") for name in files if name.startswith("src/depthlm/")}
    recipes = {f"depthlm/{name}" for name in files if re.fullmatch(r"recipes/[^/]+\.yaml", name)}
    assert names == package | recipes
    assert 15e6 < weights < 30e6
    assert wheel.stat().st_size < 20e6
    assert "License-Expression: Apache-2.0" in about
    assert not re.search(r"Requires-Dist: .* @ ", about), "a dependency by address"


def test_the_sdist(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = {name.split("/", 1)[1] for name in (member.name for member in members if member.isfile())}
    files = tracked()
    assert names - {"PKG-INFO"} <= files | {".gitignore"}
    needed = {name for name in files if name.split("/")[0] in ("src", "tests", "recipes", "docs", "benchmarks")}
    assert needed | {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "constraints.txt", "Makefile"} <= names
    assert not any(member.issym() or member.islnk() for member in members)
    assert sdist.stat().st_size < 30e6


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new environment that holds the wheel and what it asks for, in the versions that are tested."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (wheel,) = built.glob("*.whl")
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True, capture_output=True)
    yield folder / "bin" / "depthlm"
    shutil.rmtree(folder)


def depthlm(program: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(program), *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.timeout(900)
def test_the_wheel_works_where_nothing_else_is(installed: Path, tmp_path: Path) -> None:
    told = json.loads(depthlm(installed, "doctor", "--json", cwd=tmp_path).stdout)
    assert told["problems"] == []
    assert "nano" in told["recipes"]
    assert told["extras"]["server"]["missing"] == {"openai": "not installed"}
    done = depthlm(installed, "demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    table = done.stdout.split("page:")[0].strip()
    assert table in (ROOT / "README.md").read_text(), "the README says what the demo prints"
    assert (tmp_path / "out" / "demo" / "index.html").is_file()
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    predict = ("predict", "nano", "a.png", "--point", "3,4", "--fov", "60", "--json")
    assert json.loads(depthlm(installed, *predict, cwd=tmp_path).stdout)["images"][0]["points"][0]["value"] > 0
    refused = depthlm(installed, "train", "recipes/nano.yaml", "stages.0.steps=none", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.splitlines()[-1][:6]) == (2, "error:")
    assert "shipped with depthlm" in refused.stderr
