"""What is installed, what is missing for what; recipes by name; completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cli_runner import run
from depthlm import doctor
from depthlm.errors import InputError
from depthlm.training import shipped
from depthlm.training.recipe import load_recipe
from test_package import PROJECT, ROOT


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert (status, found["problems"]) == (0, [])
    assert found["packages"]["torch"]["version"] == metadata.version("torch")
    assert found["devices"][0]["device"] == "cpu"
    assert "nano" in found["recipes"]
    assert found["extras"]["train"]["missing"] == {}
    text = run(capsys, "doctor")[1]
    assert "[train]    ready  (LoRA" in text
    assert "nothing is missing" in text


def test_doctor_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = metadata.version
    old = {"torch": "1.0", "peft": None, "tensorboard": "1.0"}

    def version(name: str) -> str:
        if name in old and old[name] is None:
            raise metadata.PackageNotFoundError(name)
        return old.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor, "NANO_FOLDER", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # what cannot be imported
    status, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert status == 1
    assert [line.split()[0] for line in found["problems"]] == ["torch", "nano", "torch"]
    assert "torch is 1.0, depthlm needs torch>=2.11" in found["problems"]
    assert found["extras"]["train"]["missing"] == {"peft": "not installed", "tensorboard": "1.0"}
    assert "missing peft, tensorboard: pip install 'depthlm[train]'" in run(capsys, "doctor")[1]


def test_every_extra_says_what_it_is_for() -> None:
    assert set(PROJECT["optional-dependencies"]) <= set(doctor.EXTRAS)


@pytest.mark.parametrize("given", ["nano", "nano.yaml", "recipes/nano.yaml"])
def test_recipes_have_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str) -> None:
    """As they are written in the documents, wherever the package is used."""
    monkeypatch.chdir(tmp_path)
    assert load_recipe(given).name == "nano"
    assert shipped.find_recipe(given) == ROOT / "recipes" / "nano.yaml"
    (tmp_path / "nano.yaml").write_text("name: mine")
    assert shipped.find_recipe("nano.yaml") == Path("nano.yaml"), "a file that is there comes first"


def test_a_recipe_that_nobody_knows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for given in ("nono", "elsewhere/nano.yaml", "nano.yml"):
        with pytest.raises(InputError, match=r"cannot be read .* give a file or one of ibims-overfit, lora-24gb, nano"):
            load_recipe(given)
    status, _, err = run(capsys, "train", "nano", "stages.0.steps=none", "--out", tmp_path / "x")
    assert status == 2
    assert "shipped with depthlm" in err


@pytest.mark.parametrize(("word", "expected"), [("pre", "predict"), ("do", "doctor")])
def test_completion(word: str, expected: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "_DEPTHLM_COMPLETE": "complete_bash",
        "COMP_WORDS": f"depthlm {word}",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "depthlm"], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [expected]
