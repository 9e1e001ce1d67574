"""Many pictures: found, checked before anything is asked, asked once, kept through an interruption, written whole."""

from __future__ import annotations

import csv
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import depthlm
from cli_runner import run
from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.inference.many import ahead
from depthlm.inference.request import Answer
from depthlm.inference.sources import find_pictures, inside, output_paths, read_points
from test_bad_input import refused

FOV = ("--fov", 60)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of five frames, one of them in a folder below it, and what else lies in folders."""
    folder = tmp_path / "frames"
    (folder / "more").mkdir(parents=True)
    (folder / ".thumbs").mkdir()
    rng = np.random.default_rng(0)
    for name in ("1.png", "2.png", "10.png", "more/3.JPG", ".thumbs/1.png", ".hidden.png"):
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / "wide.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A model that says 2, 3, 4, ... metres; how many questions came at a time."""
    calls: list[int] = []

    def answer(self: Engine, requests: Any, progress: Any = None) -> list[Answer]:
        calls.append(len(requests))
        return [Answer(f"{2.0 + k}", 2.0 + k, 1.5 + k, 2.5 + k) for k in range(len(requests))]

    monkeypatch.setattr(Engine, "ask", answer)
    return calls


# --- finding ----------------------------------------------------------------------------------------------------------


def test_folders_globs_and_files(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, others = find_pictures([frames])
    assert [job.name for job in jobs] == ["1.png", "2.png", "10.png", "more/3.JPG", "wide.png"]
    assert others == {".txt": 1}
    jobs, others = find_pictures([f"{frames}/*[0-9].png", frames / "1.png"], [(1, 2), (3, 4)])
    assert [job.name for job in jobs] == ["1.png", "2.png", "10.png"], "each once"
    assert [job.rows for job in jobs] == [(0, 1), (2, 3), (4, 5)]
    assert others == {}
    assert [job.name for job in find_pictures([f"{frames}/**/*"])[0]][3] == "more/3.JPG"
    monkeypatch.chdir(frames)
    assert [str(job.path) for job in find_pictures(["*.png"])[0]] == ["1.png", "2.png", "10.png", "wide.png"]
    (frames / "a[1].png").write_bytes((frames / "1.png").read_bytes())
    assert [job.name for job in find_pictures(["a[1].png"])[0]] == ["a[1].png"], "a name before it is a pattern"
    assert [job.name for job in find_pictures(["../frames/gone.png"])[0]] == ["gone.png"]


@pytest.mark.parametrize("given", ["frames/.thumbs/none", "frames/*.tif"])
def test_no_picture(frames: Path, given: str) -> None:
    (frames / ".thumbs" / "none").mkdir()
    with pytest.raises(InputError, match=r"no picture .*\.jpg"):
        find_pictures([frames.parent / given])


def test_outputs_have_names_of_their_own(frames: Path) -> None:
    jobs, _ = find_pictures([frames])
    paths = output_paths(jobs, Path("out"), [".npy", ".ply"])
    assert paths["more/3.JPG"] == [Path("out/more/3.npy"), Path("out/more/3.ply")]
    (frames / "1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"1\.jpg and .*1\.png would both be written to out/1"):
        output_paths(find_pictures([frames])[0], Path("out"), [".npy"])


# --- predict ----------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_table(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, tmp_path: Path, asked: list[int]
) -> None:
    arguments = ("predict", tiny_model, frames, "--point", "3,4", "--point", "9,9", *FOV)
    status, out, err = run(capsys, *arguments, "--out", tmp_path / "r.csv", "--json")
    facts = json.loads(out)
    assert (status, facts["n_images"], facts["n_rows"], facts["n_asked"], facts["n_skipped"]) == (0, 5, 10, 5, 0)
    assert "left out: files that are no pictures: 1 .txt" in err
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["image"] for row in rows[::2]] == ["1.png", "2.png", "10.png", "more/3.JPG", "wide.png"]
    assert [float(row["value"]) for row in rows] == [2, 3] * 5
    assert float(rows[0]["distance"]) == pytest.approx(np.linalg.norm([float(rows[0][axis]) for axis in "xyz"]))
    assert "--fov 60" in rows[0]["camera"]
    for suffix in ("parquet", "jsonl"):
        assert run(capsys, *arguments, "--out", tmp_path / f"r.{suffix}")[0] == 0
    table = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert table == [json.loads(line) for line in (tmp_path / "r.jsonl").open()]
    assert [(row["image"], row["u"], row["value"]) for row in table] == [
        (row["image"], float(row["u"]), float(row["value"])) for row in rows
    ]
    assert run(capsys, *arguments, "--out", tmp_path / "each")[0] == 0
    one = json.loads((tmp_path / "each" / "more" / "3.json").read_text())
    assert [point["value"] for point in one["points"]] == [2, 3]
    printed = json.loads(run(capsys, *arguments, "--json")[1])
    assert [image["points"] for image in printed["images"]][3] == one["points"]


def test_points_of_a_table(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, tmp_path: Path, asked: list[int]
) -> None:
    """Rows keep their order and their other columns, each picture is read once for all of its points."""
    points = frames / "points.csv"
    points.write_text("\ufeffimage,u,v,id\n1.png,3,4,a\nmore/3.JPG,0,0,b\n1.png,31.4,23,c\n", encoding="utf-8")
    arguments = ("predict", tiny_model, "--points", points, *FOV, "--out", tmp_path / "r.parquet")
    assert run(capsys, *arguments)[0] == 0
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [(row["id"], row["image"], row["u"], row["value"]) for row in rows] == [
        ("a", "1.png", 3, 2),
        ("b", "more/3.JPG", 0, 2),
        ("c", "1.png", 31.4, 3),
    ]
    assert asked == [2, 1]
    (tmp_path / "points.csv").write_text(points.read_text(encoding="utf-8-sig"))
    moved = ("predict", tiny_model, "--points", tmp_path / "points.csv", "--images", frames, *FOV)
    assert run(capsys, *moved, "--out", tmp_path / "moved.jsonl")[0] == 0
    assert [json.loads(line)["id"] for line in (tmp_path / "moved.jsonl").open()] == ["a", "b", "c"]


def test_pairs_of_points(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, tmp_path: Path, asked: list[int]
) -> None:
    (frames / "points.csv").write_text("image,u,v,id\n" + "".join(f"1.png,{k},{k},{k}\n" for k in range(4)))
    arguments = ("predict", tiny_model, "--points", frames / "points.csv", *FOV, "--task", "between")
    assert run(capsys, *arguments, "--out", tmp_path / "r.jsonl")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").open()]
    assert [[row[name] for name in ("u", "v", "u2", "v2", "id")] for row in rows] == [
        [0, 0, 1, 1, "0"],
        [2, 2, 3, 3, "2"],
    ]


def test_an_interrupted_run_goes_on(
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    frames: Path,
    tmp_path: Path,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("predict", tiny_model, frames, "--point", "3,4", *FOV)
    assert run(capsys, *arguments, "--out", tmp_path / "whole.csv")[0] == 0
    count, ask = len(asked), Engine.ask

    def stops(self: Engine, requests: Any, progress: Any = None) -> list[Answer]:
        if len(asked) == count + 2:
            raise KeyboardInterrupt
        return ask(self, requests, progress)

    monkeypatch.setattr(Engine, "ask", stops)
    out = tmp_path / "r.csv"
    assert run(capsys, *arguments, "--out", out)[0] == 130
    assert not out.exists(), "a table appears whole or not at all"
    record = tmp_path / "r.csv.record.jsonl"
    record.write_bytes(record.read_bytes()[:-20])  # as a crash leaves it: the second answer is lost
    monkeypatch.setattr(Engine, "ask", ask)
    facts = json.loads(run(capsys, *arguments, "--out", out, "--json")[1])
    assert (facts["n_images"], facts["n_asked"]) == (5, 4)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    # Nothing is asked twice; what has changed, or is new, is asked.
    assert json.loads(run(capsys, *arguments, "--out", out, "--json")[1])["n_asked"] == 0
    Image.new("RGB", (32, 24)).save(frames / "2.png")
    Image.new("RGB", (32, 24)).save(frames / "11.png")
    facts = json.loads(run(capsys, *arguments, "--out", out, "--json")[1])
    assert (facts["n_images"], facts["n_asked"], facts["n_rows"]) == (6, 2, 6)


def test_a_run_goes_on_with_its_own_settings_only(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, tmp_path: Path, asked: list[int]
) -> None:
    arguments = ("predict", tiny_model, frames, "--point", "3,4", "--out", tmp_path / "r.csv")
    assert run(capsys, *arguments, *FOV)[0] == 0
    before = (tmp_path / "r.csv").read_bytes()
    refused(capsys, *arguments, "--fov", 70, naming="begun with other settings (fov 60.0, now 70.0)")
    refused(capsys, *arguments, *FOV, "--task", "z", naming="task distance, now z")
    assert (tmp_path / "r.csv").read_bytes() == before
    (tmp_path / "r.csv.record.jsonl").write_text("image,u,v\n")
    refused(capsys, *arguments, *FOV, naming="line 1 holds no answer; give another --out")


@pytest.mark.parametrize("command", ["predict", "map"])
def test_a_bad_picture(
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    frames: Path,
    tmp_path: Path,
    asked: list[int],
    command: str,
) -> None:
    """Found before anything is asked; with --skip-bad left out, listed and counted."""
    (frames / "2.png").write_bytes((frames / "2.png").read_bytes()[:500])
    (frames / "3.png").write_bytes(b"")
    out = tmp_path / "out"
    options = ("--point", "3,4") if command == "predict" else ("--budget", 8)
    arguments = (command, tiny_model, frames, *options, *FOV, "--out", out)
    refused(capsys, *arguments, naming="2.png: not a readable image")
    assert asked == []
    assert not out.exists()
    status, text, err = run(capsys, *arguments, "--skip-bad", "--json")
    facts = json.loads(text)
    assert (status, facts["n_images"], facts["n_skipped"]) == (0, 4, 2)
    assert [Path(line.split(":")[0]).name for line in facts["skipped"]] == ["2.png", "3.png"]
    assert err.count("skipped: ") == 2
    for name in ("1.png", "10.png", "wide.png", "more/3.JPG"):
        (frames / name).write_bytes(b"")
    refused(capsys, *arguments[:-1], tmp_path / "none", "--skip-bad", naming="no picture can be used; the first:")
    assert not (tmp_path / "none").exists()


TABLES: dict[str, tuple[str, str]] = {
    "a name that leads upwards": ("image,u,v\n../../x.png,1,1\n", "points.csv:2: image '../../x.png' leads out"),
    "a name from the root": ("image,u,v\n/etc/passwd,1,1\n", "leads out of its folder"),
    "a name of another system": ("image,u,v\n..\\..\\x.png,1,1\n", "leads out of its folder"),
    "no name": ("image,u,v\n,1,1\n", "expected the name of a picture"),
    "no such picture": ("image,u,v\ngone.png,1,1\n", "gone.png"),
    "no header": ("1.png,1,1\n", "column image, u, v missing"),
    "words": ("image,u,v\n1.png,left,1\n", "'left'"),
    "no number": ("image,u,v\n1.png,nan,1\n", "nan"),
    "a short row": ("image,u,v\n1.png,1\n", "points.csv:2: not 3 values"),
    "a long row": ("image,u,v\n1.png,1,2,3\n", "points.csv:2: not 3 values"),
    "outside": ("image,u,v\n1.png,32,1\n", "(32, 1) lies outside"),
    "a field without end": ("image,u,v\n" + "x" * 200_000 + ",1,1\n", "cannot be read as CSV"),
    "an open quote": ('image,u,v\n"1.png,1,1\n', "cannot be read as CSV"),
    "a column of ours": ("image,u,v,value\n1.png,1,1,7\n", "column 'value'"),
    "nothing": ("", "column image"),
    "no row": ("image,u,v\n", "no row in it"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, tmp_path: Path, name: str
) -> None:
    text, naming = TABLES[name]
    (frames / "points.csv").write_text(text)
    before = sorted(tmp_path.rglob("*"))
    out = ("--out", tmp_path / "r.csv")
    refused(capsys, "predict", tiny_model, "--points", frames / "points.csv", *FOV, *out, naming=naming)
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_rows_of_a_table_are_skipped(frames: Path) -> None:
    (frames / "points.csv").write_text("image,u,v\n1.png,1,1\n../x.png,1,1\n1.png,here,1\n2.png,2,2\n")
    jobs, skipped = read_points(frames / "points.csv", skip_bad=True)
    assert [(job.name, job.uv) for job in jobs] == [("1.png", ((1, 1),)), ("2.png", ((2, 2),))]
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in skipped] == ["3", "4"]
    with pytest.raises(InputError, match="expected the name"):
        inside("a\0b", "x")


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": (("--point", "1,1"), "no picture given"),
    "both": (("IMAGE", "--points", "POINTS"), "leave IMAGE out"),
    "both points": (("--points", "POINTS", "--point", "1,1"), "leave --point out"),
    "images of no table": (("IMAGE", "--point", "1,1", "--images", "."), "--images"),
    "another table": (("IMAGE", "--point", "1,1", "--out", "r.xlsx"), "use .csv, .parquet, .jsonl, or a folder"),
    "two images": (("IMAGE", "IMAGE", "--task", "moved", "--out", "r.csv"), "about two images"),
    "no thread": (("IMAGE", "--point", "1,1", "--workers", 0), "--workers"),
    "no table": (("--points", "gone.csv"), "gone.csv: cannot be read"),
    "no folder": (("--points", "POINTS", "--images", "gone"), "image folder gone"),
}


@pytest.mark.parametrize("name", WRONG)
def test_predict_refuses(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, tmp_path: Path, name: str
) -> None:
    options, naming = WRONG[name]
    (frames / "points.csv").write_text("image,u,v\n1.png,1,1\n")
    places = {"IMAGE": frames / "1.png", "POINTS": frames / "points.csv"}
    refused(capsys, "predict", tiny_model, *(places.get(o, o) for o in options), *FOV, naming=naming)


# --- map --------------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_maps(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, tmp_path: Path, asked: list[int]
) -> None:
    out = tmp_path / "maps"
    arguments = ("map", tiny_model, frames, *FOV, "--budget", 24, "--format", "npy", "--format", "ply", "--out", out)
    facts = json.loads(run(capsys, *arguments, "--json")[1])
    assert (facts["n_images"], facts["n_asked"]) == (5, 5)
    assert np.load(out / "more" / "3.npy").shape == (24, 32)
    assert np.load(out / "wide.npy").shape == (48, 64)
    assert (out / "10.ply").read_bytes().startswith(b"ply")
    assert facts["images"][0]["points"] > 0
    # A map that is missing is made again, no other.
    (out / "2.ply").unlink()
    count = len(asked)
    facts = json.loads(run(capsys, *arguments, "--json")[1])
    assert (facts["n_images"], facts["n_asked"]) == (5, 1)
    assert len(asked) - count < 24
    assert (out / "2.ply").is_file()
    refused(capsys, *arguments, "--max-edge", 0.5, naming="max_edge 0.1, now 0.5")


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        (("--out", "m.npy"), "is one file for 5 pictures; give a folder and --format npy"),
        (("--out", "maps", "--format", "jpg"), "cannot write a map as '.jpg'"),
        (("--out", "m.npy", "--format", "ply"), "--format is for a folder"),
        (("--out", "m.tif"), "cannot write a map as '.tif'"),
    ],
)
def test_map_refuses(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, frames: Path, options: tuple[Any, ...], naming: str
) -> None:
    refused(capsys, "map", tiny_model, frames, *FOV, *options, naming=naming)


# --- Python -----------------------------------------------------------------------------------------------------------


def test_the_python_iterators(tiny_model: Path, frames: Path, asked: list[int]) -> None:
    model = depthlm.load(str(tiny_model))
    found = list(model.measure_many(frames, [(3, 4), (9, 9)], fov=60, workers=3))
    assert [item.path.name for item in found] == ["1.png", "2.png", "10.png", "3.JPG", "wide.png"]
    assert found[0].measurement.distance.tolist() == [2, 3]
    assert found[4].camera == depthlm.Camera.from_fov(64, 48, 60)
    assert "--fov 60" in found[4].reason
    own = {frames / "1.png": [(0, 0)], frames / "wide.png": [(63, 47), (1, 1)]}
    assert [len(item.measurement.distance) for item in model.measure_many(own, own, fov=60)] == [1, 2]
    maps = list(model.depth_maps([frames / "1.png", frames / "wide.png"], budget=8, fov=60))
    assert [item.z.shape for item in maps] == [(24, 32), (48, 64)]
    with pytest.raises(InputError, match=r"2\.png: has no points"):
        next(model.measure_many([frames / "2.png"], own, fov=60))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        next(model.measure_many(frames, [1, 2, 3], fov=60))
    with pytest.raises(InputError, match="no camera"):
        next(model.measure_many(frames, [(1, 1)]))
    told: list[Path] = []
    good = list(model.measure_many(frames, [(40, 40)], fov=60, on_bad=lambda path, error: told.append(path)))
    assert ([item.path.name for item in good], len(told)) == (["wide.png"], 4)


def test_pictures_are_read_ahead_but_not_all_at_once() -> None:
    begun, free = [], threading.Event()

    def read(item: int) -> int:
        begun.append(item)
        if item == 1:
            free.wait(10)
        return item

    results = ahead(read, range(100), 2)
    assert next(results) == 0
    time.sleep(0.2)
    assert 3 <= len(begun) <= 5, "the second holds the others up, no more than a few are waiting"
    free.set()
    assert list(results) == list(range(1, 100))
    assert list(ahead(read, [], 2)) == []
