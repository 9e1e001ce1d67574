"""Reports and paired tests of runs: what a page holds, what is refused, what is kept when a part is bad."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli_runner import run
from depthlm.data.shards import ShardDataset, write_shards
from depthlm.errors import InputError
from depthlm.evaluation.cases import choose_cases, choose_disagreements, with_picture
from depthlm.evaluation.compare import compare_runs, format_comparison
from depthlm.evaluation.maps import DenseCase
from depthlm.evaluation.page import Entry, write_report
from depthlm.evaluation.record import add_cost, open_samples, record_command
from depthlm.evaluation.runs import find_runs, read_run, to_points
from depthlm.evaluation.words import unit_note
from depthlm.pictures import metres
from depthlm.sample import Sample
from depthlm.synth.generate import synth_samples
from test_evaluator import CAMERA, make_samples


def make_run(
    folder: Path, samples: list[Sample], noise: float, *, seed: int = 0, change: Any = None, **summary: Any
) -> Path:
    """A finished evaluation as `evaluate` leaves it, of a model with a known error; `change` alters the rows."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number, sample in enumerate(samples):
        for k in range(len(sample)):
            z, distance = float(sample.z[k]), float(sample.distance[k])
            value = round(z * float(np.exp(rng.normal(0, noise))), 2)
            rows.append({
                "image": number, "partner": None, "frame": sample.frame, "u": float(sample.uv[k, 0]),
                "v": float(sample.uv[k, 1]), "z": z, "distance": distance,
                "surface": sample.surface[k] if sample.surface else None, "question": "How far?",
                "truth": json.dumps(z), "text": f"<answer>{value}</answer>", "answer": json.dumps(value),
                "value": value,
                "low": value * 0.9, "high": value * 1.1,
                "score": float(max(value / z, z / value) < 1.25) if value > 0 else 0.0,
            })  # fmt: skip
    for row in change(rows) if change else ():
        row["score"] = 0.0
    folder.mkdir(parents=True)
    score = float(np.mean([row["score"] for row in rows]))
    facts = {
        "n": len(rows), "n_unparsed": 0, "n_unasked": 0, "images": len(samples), "task": "z", "metric": "delta1",
        "unit": "m", "score": score, "score_ci": [score - 0.1, score + 0.1], "floor_score": 0.2, "floor_answer": 2.0,
        "label": "z", "points": len(rows), "seed": 0, "model": folder.name, "data": "rooms", "reference": "text",
        "read": "greedy", "asked": "z", "answers": "z", "n_skipped": 0, "trained": True,
    } | summary  # fmt: skip
    config = {
        "model": folder.name,
        "backend": {"name": "hf", "weights": "abc123"},
        "samples": "def456",
        "card": {"focal": 500.0, "prompt": "nano"},
    }
    (folder / "summary.json").write_text(json.dumps(facts))
    (folder / "config.json").write_text(json.dumps(config))
    pq.write_table(pa.Table.from_pylist(rows), folder / "points.parquet")
    return folder


@pytest.fixture(scope="module")
def rooms() -> list[Sample]:
    return list(synth_samples(6, seed=9_300_000, views=1, size=(96, 72), focal_range=(60, 90), points=40))


@pytest.fixture(scope="module")
def two(rooms: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return make_run(root / "good", rooms, 0.05), make_run(root / "bad", rooms, 0.5, seed=1)


# --- reports --------------------------------------------------------------------------------------------------------


def test_report_of_one_run(two: tuple[Path, Path], rooms: list[Sample], tmp_path: Path) -> None:
    z = np.where(np.arange(96) < 48, 2.0, 4.0) * np.ones((72, 1))
    case = DenseCase(
        name="wall", camera=rooms[0].camera, truth=z, predicted=z * 1.1, image=rooms[0].load_image(),
        regions=(z == 4).astype(np.int64),
    )  # fmt: skip
    result = write_report(tmp_path, [Entry(run=read_run(two[0]), samples=rooms, maps=[case])])
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "report.md", "summary.json"}
    assert json.loads((tmp_path / "summary.json").read_text()) == result
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for word in (
        "delta1",
        "SILog",
        "Worst answers",
        "Best answers",
        "Depth maps",
        "What was run",
        "abc123",
        "def456",
        "not noted",
    ):
        assert word in page, word
        assert word in text, word
    assert result["maps"]["figures"]["boundary_f1"]["value"] == 1
    assert page.count("data:image/svg+xml") == 6
    assert page.count("<figure>") == 6 + 12 + 8
    assert "1 picture with a dense truth. Planes are looked for in the truth." in text
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "nothing from elsewhere"
    assert not re.findall(r"url\(|@import", page)
    assert f"{result['score']:.3f}" in page
    assert "NaN" not in text


def test_what_stands_beside_a_run(two: tuple[Path, Path], rooms: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two[0], folder)
    write_shards(rooms, tmp_path / "rooms", info={})
    add_cost(folder, "nothing was noted before")
    assert not (folder / "command.json").exists()
    record_command(folder, ShardDataset(tmp_path / "rooms"), seconds=12.3, asked=200)
    add_cost(folder, "200 questions, 0.0100 dollars")
    add_cost(folder, "0 questions")  # read again: asked and paid for before
    write_report(tmp_path / "out", [Entry(run=read_run(folder))])
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"| time | 12 s for 200 questions on {os.cpu_count()} cores" in text
    assert "| cost | 200 questions, 0.0100 dollars |" in text
    assert f"| versions | Python {platform.python_version()}, depthlm" in text
    samples, reason = open_samples(folder)
    assert (len(samples or ()), reason) == (len(rooms), "")
    (folder / "command.json").write_text("[")
    assert open_samples(folder) == (None, "where the pictures are was not noted")
    (folder / "command.json").write_text('{"data": {"path": "/absent"}, "seconds": 1}')
    assert open_samples(folder)[1].startswith("no picture: ")


def test_report_of_several_runs(two: tuple[Path, Path], rooms: list[Sample], tmp_path: Path) -> None:
    result = write_report(tmp_path, [Entry(run=read_run(folder), samples=rooms) for folder in two])
    assert result["means"]["all"]["score"] == pytest.approx(np.mean([r["score"] for r in result["runs"]]))
    text = (tmp_path / "report.md").read_text()
    assert "| mean, all (2) |" in text
    assert "## rooms: good, text" in text
    assert "### Accuracy" in text


def test_means_apart_for_sets_trained_on(rooms: list[Sample], tmp_path: Path) -> None:
    folders = []
    for name, domain in (("paper/nuscenes", "in-domain"), ("paper/ddad", "zero-shot"), ("paper/eth3d", "zero-shot")):
        folders.append(make_run(tmp_path / name, rooms, 0.2, data=name, domain=domain))
    result = write_report(tmp_path / "out", [Entry(run=read_run(folder)) for folder in folders])
    assert {name: len(mean["sets"]) for name, mean in result["means"].items()} == {
        "all": 3, "in-domain": 1, "zero-shot": 2
    }  # fmt: skip
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| mean, zero-shot (2) |" in text
    assert "| paper/nuscenes (in-domain): nuscenes, text, z |" in text


def test_pictures_that_are_missing_leave_the_rest(two: tuple[Path, Path], rooms: list[Sample], tmp_path: Path) -> None:
    broken = [Sample(b"no picture", s.camera, s.uv, s.z, frame=s.frame) for s in rooms[:3]] + rooms[3:4]
    write_report(tmp_path / "a", [Entry(run=read_run(two[0]), samples=broken)])
    page = (tmp_path / "a" / "report.html").read_text()
    assert "no picture: " in page
    assert "not a readable image" in page
    assert "list index out of range" in page  # rows beyond the data at hand
    write_report(tmp_path / "b", [Entry(run=read_run(two[0]))])
    assert "the pictures were not at hand" in (tmp_path / "b" / "report.html").read_text()
    small = DenseCase(name="small", camera=rooms[0].camera, truth=np.ones((4, 4)), predicted=np.ones((4, 4)))
    result = write_report(tmp_path / "c", [Entry(run=read_run(two[0]), maps=[small])])
    assert "small: depth map has shape (4, 4)" in result["maps"]["error"]
    assert "The depth maps are not measured" in (tmp_path / "c" / "report.md").read_text()


def test_truths_that_are_nan_are_left_out_and_said(rooms: list[Sample], tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows[3:5]:
            row["z"] = float("nan")
        return rows[3:5]

    folder = make_run(tmp_path / "run", rooms, 0.1, change=spoil)
    result = write_report(tmp_path / "out", [Entry(run=read_run(folder))])
    assert result["metrics"]["n"] == result["n"] - 2
    assert "2 of" in result["metrics"]["left_out"][0]
    assert "row 3, image 0, z nan" in (tmp_path / "out" / "report.md").read_text()


def test_counts_of_what_is_no_answer(rooms: list[Sample], tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = ["no idea", "<answer>-3</answer>", "<answer>99999</answer>", "<answer>0</answer>"]
        for row, text in zip(rows, texts, strict=False):
            none = text != "<answer>0</answer>"
            row |= {"text": text, "answer": "null" if none else "0.0", "value": None if none else 0.0}
        return rows[:4]

    found = write_report(tmp_path / "out", [Entry(run=read_run(make_run(tmp_path / "r", rooms, 0.1, change=spoil)))])
    assert (found["metrics"]["n_unparsed"], found["metrics"]["n_out_of_range"]) == (3, 3)


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (1000.0, "answers are 1000 times the truths (geometric mean): are they millimetres?"),
        (100.0, "are they centimetres?"),
        (0.001, "answers are 0.001 times the truths (geometric mean): are they kilometres?"),
        (1.0, None),
        (8.0, None),  # wrong, but in no other unit
    ],
)
def test_answers_in_another_unit_are_noticed(rooms: list[Sample], tmp_path: Path, factor: float, told: Any) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            row["value"] = row["z"] * factor
        return []

    folder = make_run(tmp_path / "run", rooms, 0.1, change=change)
    summary = write_report(tmp_path / "out", [Entry(run=read_run(folder))])
    assert (unit_note(summary) is None) == (told is None)
    text = (tmp_path / "out" / "report.md").read_text()
    assert told is None or told in text
    assert told is not None or "are they" not in text


def test_last_digits_are_those_of_the_text(two: tuple[Path, Path]) -> None:
    table = read_run(two[0]).table
    points, _ = to_points(table, "z")
    assert points is not None
    assert points.digit is not None
    written = [int(re.sub(r"\D", "", row["text"])[-1]) for row in table]
    assert points.digit.tolist() == written


def test_worst_and_best(two: tuple[Path, Path]) -> None:
    worst, best = choose_cases(read_run(two[1]).table, "z", 3)
    off = [abs(np.log(case.ratio)) for case in [*worst, *best]]
    assert min(off[:3]) > max(off[3:])
    assert off[:3] == sorted(off[:3], reverse=True)
    assert len({case.row["image"] for case in worst}) == 3


def test_where_models_disagree(two: tuple[Path, Path], rooms: list[Sample]) -> None:
    good, bad = (read_run(folder).table for folder in two)
    bad = [dict(row) for row in bad]
    bad[5]["value"], bad[6]["value"], bad[7]["value"] = 9e3, None, 0.0  # picture 0; two of them are no answers
    cases = choose_disagreements([good, bad], ["A", "B"], "z", 3)
    assert cases[0].row == good[5]
    assert cases[0].answers == (("A", good[5]["value"]), ("B", 9e3))
    assert cases[0].words.endswith(f"A {metres(good[5]['value'])}; B {metres(9e3)}")
    gaps = [max(v) / min(v) for v in ([value for _, value in case.answers] for case in cases)]
    assert gaps == sorted(gaps, reverse=True)
    assert len({case.row["image"] for case in cases}) == 3
    assert choose_disagreements([good, good], ["A", "B"], "z") == []
    shown = with_picture(cases[0], rooms)
    assert shown.picture is not None
    others = [*rooms[1:], rooms[0]]
    assert "the data have changed" in with_picture(cases[0], others).note


# --- comparing ------------------------------------------------------------------------------------------------------


def test_compare(two: tuple[Path, Path]) -> None:
    good, bad = (read_run(folder) for folder in two)
    result = compare_runs([good, bad], resamples=300)
    (pair,) = result["pairs"]
    delta = pair["differences"]["delta1"]
    truth = [np.mean([row["score"] for row in run_.table]) for run_ in (good, bad)]
    assert delta["value"] == pytest.approx(truth[1] - truth[0])
    assert delta["ci"][0] < delta["value"] < delta["ci"][1] < 0
    assert delta["p"] < 0.1  # six pictures: 64 ways to swap them
    text = format_comparison(result)
    assert "bad (text) minus good (text)" in text
    assert f"{delta['value']:+.3f}" in text
    same = compare_runs([good, good], resamples=20)
    assert same["pairs"][0]["differences"]["absrel"]["p"] == 1
    assert same["runs"][0]["name"].endswith(f"in {good.folder}")
    three = compare_runs([good, bad, good], resamples=50)
    assert len(three["pairs"]) == 3
    assert all(pair["differences"]["delta1"]["p_holm"] >= pair["differences"]["delta1"]["p"] for pair in three["pairs"])


def test_order_and_edges_are_compared_too(rooms: list[Sample], tmp_path: Path) -> None:
    def edges(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for k, row in enumerate(rows):
            row["near_edge"] = k % 4 == 0
            row["value"] = row["z"]
        return []

    def turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        edges(rows)
        for row in rows:
            row["value"] = (10 if row["near_edge"] else 100) / row["z"]  # far is called near
        return []

    runs = [read_run(make_run(tmp_path / name, rooms, 0, change=how)) for name, how in (("a", edges), ("b", turned))]
    result = compare_runs(runs, resamples=100)
    first, second = (row["figures"] for row in result["runs"])
    assert [first[name]["value"] for name in ("delta1_interior", "delta1_boundary", "order_50")] == [1, 1, 0]
    assert [second[name]["value"] for name in ("delta1_interior", "order_10_25")] == [0, pytest.approx(1, abs=0.5)]
    apart = result["pairs"][0]["differences"]
    assert apart["delta1_interior"]["value"] == -1
    assert apart["order_50"]["value"] == second["order_50"]["value"] > 0.5
    assert apart["order_50"]["p"] < 0.1
    assert {"sqrel", "log10", "rmse_log"} <= set(apart)
    text = format_comparison(result)
    assert "order_10_25" in text
    assert "sqrel" in text
    plain = compare_runs([read_run(make_run(tmp_path / name, rooms, 0.1)) for name in ("c", "d")], resamples=20)
    assert "delta1_boundary" not in plain["runs"][0]["figures"]  # whose data say nothing of edges


def test_compare_command(capsys: pytest.CaptureFixture[str], two: tuple[Path, Path]) -> None:
    status, out, err = run(capsys, "compare", *two, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["pairs"][0]["differences"]["delta1"]["value"] < 0
    status, out, _ = run(capsys, "compare", *two)
    assert status == 0
    assert "bad (text) minus good (text)" in out


def shifted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[7]["u"] += 1
    return []


@pytest.mark.parametrize(
    ("summary", "change", "told"),
    [
        ({"label": "distance"}, None, "different kinds of label (z and distance)"),
        ({"task": "distance"}, None, "different tasks (z and distance)"),
        ({}, shifted, "different points (row 7"),
        ({}, lambda rows: [rows.pop()][:0], "different points (24"),
        ({"suite": "depthvlm"}, None, "different suites (None and depthvlm)"),
    ],
)
def test_runs_that_cannot_be_compared(
    capsys: pytest.CaptureFixture[str], two: tuple[Path, Path], rooms: list[Sample], tmp_path: Path, summary: Any,
    change: Any, told: str,
) -> None:  # fmt: skip
    other = make_run(tmp_path / "other", rooms, 0.2, change=change, **summary)
    status, out, err = run(capsys, "compare", two[0], other)
    assert (status, out, err.count("\n")) == (2, "", 1)
    if "24" in told:
        told = f"different points ({sum(len(s) for s in rooms)} and {sum(len(s) for s in rooms) - 1})"
    assert told in err


def test_folders_that_are_no_run(capsys: pytest.CaptureFixture[str], two: tuple[Path, Path], tmp_path: Path) -> None:
    def refused(*folders: Path) -> str:
        status, out, err = run(capsys, "compare", *folders)
        assert (status, out, err.count("\n")) == (2, "", 1)
        return err

    assert "at least two" in refused(two[0])
    assert "holds no evaluation (no points.parquet)" in refused(two[0], tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(two[0], tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "holds a list; expected an object" in refused(two[0], tmp_path)
    for name in ("config.json", "summary.json"):
        (tmp_path / name).write_bytes((two[0] / name).read_bytes())
    (tmp_path / "points.parquet").write_bytes(b"junk")
    assert "points.parquet cannot be read" in refused(two[0], tmp_path)
    pq.write_table(pa.table({"image": [1]}), tmp_path / "points.parquet")
    assert "points.parquet lacks u, v" in refused(two[0], tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_runs(tmp_path / "none")
    assert find_runs(two[0].parent) == sorted(two)


def test_eval_writes_a_report(capsys: pytest.CaptureFixture[str], tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(make_samples(), tmp_path / name, info={})
    sets = (tmp_path / "a", tmp_path / "b")
    status, out, err = run(
        capsys, "eval", tiny_model, *sets, "--points", 6, "--json", "--out", tmp_path / "out", "--batch", 3
    )
    assert status == 0
    assert f"report: {tmp_path / 'out' / 'report.html'}" in err
    assert len(json.loads(out)["runs"]) == 2
    assert "| mean, all (2) |" in (tmp_path / "out" / "report.md").read_text()
    runs = find_runs(tmp_path / "out")
    assert len(runs) == 2
    status, out, _ = run(capsys, "compare", *runs, "--json")
    assert status == 0
    assert CAMERA.width == 64
