"""Bad samples are named, counted and left out, and the run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.training.bad_samples import BadSamples
from depthlm.training.run import run_recipe
from test_bad_input import GOOD, ROWS, change
from test_training import broken, recipe, rows, sample

SHORT = ["stages=[{name: one, steps: 3, batch: 2, references: {text: 1}}]", "save_every=3"]


def mono(folder: Path) -> str:
    (folder / "text.png").write_text("no picture at all")
    return json.dumps(GOOD | {"image": "text.png"})


# Twenty kinds with those that `eval` refuses; each is the second of two rows.
KINDS = ROWS | {
    "text for a picture": (mono, "text.png"),
    "infinite depth": (change(depth=[float("inf"), 2]), "depth"),
    "three coordinates": (change(pixel_coords=[[3, 4, 5], [20, 20, 5]]), "pixel_coords"),
    "pose of nine numbers": (change(pose=[1.0] * 9), "pose"),
}
FOUND_LATE = {"truncated image"}  # only decoding finds it, when the sample is drawn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    return tmp_path


def test_there_are_twenty_kinds() -> None:
    assert len(KINDS) >= 20


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_row_is_named_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """As training opens and draws its data, without the model."""
    from depthlm.training.recipe import DataSource
    from depthlm.training.stage import open_source

    make, naming = KINDS[name]
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + make(folder) + "\n")
    source = open_source(DataSource(path=str(path), label="z"), print, skip_bad=True)
    assert len(source) == (2 if name in FOUND_LATE else 1)
    drawn = rows(source, references={"text": 1.0})
    assert all(drawn[index].questions for index in range(4)), "nothing is lost: the other rows go on"
    noted = drawn.bad.lines if name in FOUND_LATE else source.skipped
    assert len(noted) == 1
    assert "rows.jsonl:2" in noted[0]
    assert naming.lower() in noted[0].lower()
    assert "\n" not in noted[0]


def test_a_run_with_bad_rows_ends_and_says_which(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "rows.jsonl"
    good = [json.dumps(GOOD | {"pixel_coords": [[u, 20], [u + 1, 24]]}) for u in range(10, 16)]
    cut, _ = ROWS["truncated image"]
    path.write_text("\n".join([*good, "{image:", cut(folder)]) + "\n")
    run = folder / "run"
    model = run_recipe(recipe(folder, path, "data.0.label=z", *SHORT, "stages.0.steps=6"), run)
    assert model.is_dir()
    kept = (run / "one" / "skipped.txt").read_text().splitlines()
    assert len(kept) == 1
    assert "rows.jsonl:8" in kept[0]
    assert "rows.jsonl:7" in caplog.text
    with pytest.raises(InputError, match=r"more than max_bad=0 samples cannot be used; the last: .*rows.jsonl:7"):
        run_recipe(recipe(folder, path, "data.0.label=z", "max_bad=0", *SHORT), folder / "strict")
    assert not (folder / "strict").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_limit_stops_the_run_with_one_line(tmp_path: Path, workers: int) -> None:
    """Loader processes count together: neither meets more than a part of the bad samples."""
    write_shards([sample(0), *(broken(seed) for seed in range(1, 8))], tmp_path / "data")
    long = recipe(tmp_path, tmp_path / "data", *SHORT, "stages.0.steps=12", f"workers={workers}", "max_bad=4")
    with pytest.raises(InputError, match=r"^more than max_bad=4 samples .*skipped\.txt\)$") as caught:
        run_recipe(long, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert len((tmp_path / "run" / "one" / "skipped.txt").read_text().splitlines()) >= 5


def test_a_sample_counts_once_and_over_resumed_runs(tmp_path: Path) -> None:
    first = BadSamples(2, tmp_path / "skipped.txt")
    for _ in range(5):
        first.add("a.png:\n cut short")
    again = BadSamples(2, tmp_path / "skipped.txt")
    assert again.lines == ["a.png: cut short"]
    again.add("b.png: cut short")
    assert len(first) == 2
    with pytest.raises(InputError, match="more than max_bad=2 .*the last: c.png"):
        first.add("c.png: cut short")
    with pytest.raises(InputError, match="cannot write"):
        BadSamples(2, tmp_path / "gone" / "skipped.txt").add("a")
