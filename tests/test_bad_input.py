"""Every kind of bad input: exit status 2, one line on stderr that says what and where, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_runner import run

GOOD = {
    "image": "a.png",
    "intrinsics": [50.0, 50.0, 31.5, 23.5, 64, 48],
    "pixel_coords": [[3, 4], [20, 20]],
    "depth": [1.5, 2],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one good picture."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("a regular file: nothing can be made below it, not even by root")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any, naming: str) -> str:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert naming in err
    return err


def change(**values: Any) -> Callable[[Path], str]:
    return lambda folder: json.dumps(GOOD | values)


def truncated(folder: Path) -> str:
    data = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    return json.dumps(GOOD | {"image": "cut.png"})


ROWS: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing image": (change(image="gone.png"), "gone.png"),
    "truncated image": (truncated, "truncated"),
    "NaN focal": (change(intrinsics=[float("nan"), 50, 31.5, 23.5, 64, 48]), "nan"),
    "zero focal": (change(intrinsics=[0, 50, 31.5, 23.5, 64, 48]), "0"),
    "negative focal": (change(intrinsics=[-50, 50, 31.5, 23.5, 64, 48]), "-50"),
    "three intrinsics": (change(intrinsics=[50, 50, 31.5]), "intrinsics"),
    "point outside": (change(pixel_coords=[[3, 4], [64, 20]]), "outside"),
    "point before the border": (change(pixel_coords=[[-1, 4], [20, 20]]), "outside"),
    "empty labels": (change(pixel_coords=[], depth=[]), "depth"),
    "text as label": (change(depth=["near", 2]), "depth"),
    "null as label": (change(depth=[None, 2]), "depth"),
    "NaN label": (change(depth=[float("nan"), 2]), "depth"),
    "negative depth": (change(depth=[-1.5, 2]), "-1.5"),
    "zero depth": (change(depth=[0, 2]), "depth"),
    "fewer depths": (change(depth=[1.5]), "2"),
    "more depths": (change(depth=[1.5, 2, 3]), "3"),
    "no depths at all": (lambda folder: json.dumps({k: v for k, v in GOOD.items() if k != "depth"}), "depth"),
    "not JSON": (lambda folder: "{image:", "json"),
    "a list": (lambda folder: "[1, 2]", ":2"),
    "size of another image": (change(intrinsics=[50, 50, 31.5, 23.5, 65, 48]), "65x48"),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_row(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, name: str) -> None:
    """The second of two rows is bad: found before anything is asked, with file and line; --skip-bad counts it."""
    make, naming = ROWS[name]
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps(GOOD) + "\n" + make(folder) + "\n")
    out = folder / "run"
    err = refused(capsys, "eval", tiny_model, rows, "--label", "z", "--out", out, naming="rows.jsonl:2")
    assert naming.lower() in err.lower()
    assert not out.exists()
    status, text, notes = run(capsys, "eval", tiny_model, rows, "--label", "z", "--skip-bad", "--json")
    assert status == 0
    assert (json.loads(text)["n"], json.loads(text)["n_skipped"]) == (2, 1)
    assert "rows.jsonl:2" in notes


@pytest.mark.parametrize("text", ["", "\n\n", "{}\n"])
def test_nothing_usable(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, text: str) -> None:
    (folder / "rows.jsonl").write_text(text)
    refused(capsys, "eval", tiny_model, folder / "rows.jsonl", "--label", "z", naming="rows.jsonl")
    refused(capsys, "eval", tiny_model, folder / "rows.jsonl", "--label", "z", "--skip-bad", naming="rows.jsonl")


def test_jsonl_needs_its_label(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path) -> None:
    (folder / "rows.jsonl").write_text(json.dumps(GOOD))
    refused(capsys, "eval", tiny_model, folder / "rows.jsonl", naming="--label")


@pytest.mark.parametrize("data", ["gone", "gone.jsonl", "a.png", "."])
def test_no_such_data(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, data: str) -> None:
    refused(capsys, "eval", tiny_model, folder / data, "--label", "z", naming=str(folder / data))
    refused(capsys, "inspect", folder / data, "--label", "z", "--out", folder / "s.png", naming=str(folder / data))
    assert not (folder / "s.png").exists()


# --- models ---------------------------------------------------------------------------------------------------------


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def cut_weights(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def unknown_key(model: Path) -> None:
    (model / "depthlm.json").write_text('{"focal": 1000, "colour": "red"}')


def bad_focal(model: Path) -> None:
    (model / "depthlm.json").write_text('{"focal": 0}')


def empty(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def gone(model: Path) -> None:
    shutil.rmtree(model)


@pytest.mark.parametrize("damage", [no_weights, cut_weights, no_config, unknown_key, bad_focal, empty, gone])
def test_wrong_model_folder(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    tiny_model: Path,
    damage: Callable[[Path], None],
) -> None:
    model = folder / "model"
    shutil.copytree(tiny_model, model)
    damage(model)
    naming = "depthlm.json" if damage in (unknown_key, bad_focal) else str(model)
    refused(capsys, "predict", model, folder / "a.png", "--point", "1,1", "--focal", 50, naming=naming)


# --- predict --------------------------------------------------------------------------------------------------------

PREDICT: dict[str, tuple[tuple[Any, ...], str]] = {
    "no camera and no EXIF": ((), "--assume-fov"),
    "two cameras": (("--focal", 50, "--fov", 60), "--focal and --fov"),
    "zero focal": (("--focal", 0), "--focal"),
    "NaN focal": (("--focal", "nan"), "--focal"),
    "negative focal": (("--focal", -5), "--focal"),
    "wide fov": (("--fov", 180), "--fov"),
    "point right of it": (("--focal", 50, "--point", "64,5"), "(64, 5)"),
    "point above it": (("--focal", 50, "--point", "5,-3"), "(5, -3)"),
    "NaN point": (("--focal", 50, "--point", "nan,3"), "nan"),
    "one number": (("--focal", 50, "--point", "5"), "U,V"),
    "words": (("--focal", 50, "--point", "left,top"), "U,V"),
    "unknown reference": (("--focal", 50, "--reference", "circle"), "circle"),
    "no camera file": (("--camera", "gone.json"), "gone.json"),
    "unknown device": (("--focal", 50, "--device", "abacus"), "abacus"),
    "unknown dtype": (("--focal", 50, "--dtype", "int3"), "int3"),
}


@pytest.mark.parametrize("name", PREDICT)
def test_predict(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, name: str) -> None:
    options, naming = PREDICT[name]
    refused(capsys, "predict", tiny_model, folder / "a.png", "--point", "5,5", *options, naming=naming)


@pytest.mark.parametrize("image", ["gone.png", "cut.png", "file", "."])
def test_predict_image(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, image: str) -> None:
    truncated(folder)
    refused(capsys, "predict", tiny_model, folder / image, "--point", "5,5", "--focal", 50, naming=str(folder / image))


# --- outputs and recipes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["eval", "synth", "inspect", "demo", "train"])
def test_unwritable_output(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    tiny_model: Path,
    command: str,
) -> None:
    (folder / "rows.jsonl").write_text(json.dumps(GOOD))
    below = folder / "file" / "out"
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: t\nmodel: {tiny_model}\ndata: [{{path: {folder / 'rows.jsonl'}, label: z}}]\nstages: [{{steps: 1}}]\n"
    )
    arguments: dict[str, tuple[Any, ...]] = {
        "eval": (tiny_model, folder / "rows.jsonl", "--label", "z", "--out", below),
        "synth": (below, "--scenes", 1),
        "inspect": (folder / "rows.jsonl", "--out", below / "sheet.png"),
        "demo": ("--out", below),
        "train": (recipe, "--out", below),
    }
    before = sorted(folder.rglob("*"))
    refused(capsys, command, *arguments[command], naming=str(folder / "file"))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "override", "naming"),
    [
        ("name: t\nmodel: nano\ndata: [{path: x}]\nstages: [{steps: 1}]\ncolour: red\n", None, "colour"),
        ("name: t\nmodel: nano\ndata: [{path: x}]\nstages: [{steps: 1}]\n", "stages.0.colour=red", "colour"),
        ("name: t\nmodel: nano\ndata: [{path: x}]\nstages: [{steps: 1}]\n", "stages.0.steps=many", "many"),
        ("name: t\nmodel: nano\ndata: [{path: x}]\nstages: [{steps: 1}]\n", "nothing", "key=value"),
        ("name: t\n", None, "model"),
        ("- a\n- b\n", None, "recipe"),
        ("a: [", None, "YAML"),
        (None, None, "recipe.yaml"),
    ],
)
def test_bad_recipe(
    capsys: pytest.CaptureFixture[str], folder: Path, text: str | None, override: str | None, naming: str
) -> None:
    recipe = folder / "recipe.yaml"
    if text is not None:
        recipe.write_text(text)
    refused(capsys, "train", recipe, *([override] if override else []), "--out", folder / "run", naming=naming)
    assert not (folder / "run").exists()
