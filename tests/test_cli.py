"""The command line: light to import, one JSON object, honest exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import depthlm
from cli_runner import run
from depthlm.cli import main
from depthlm.data.shards import write_shards
from test_evaluator import make_samples

HEAVY = ("torch", "transformers", "pyarrow", "matplotlib", "trimesh", "cv2", "scipy", "pandas")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shards"
    write_shards(make_samples(), out, info={})
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


# --- light ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["import depthlm", "import depthlm.cli", "from depthlm.cli import main; main(['--help'])"]
)
def test_nothing_heavy_is_imported(code: str) -> None:
    probe = (
        "import sys, contextlib\n"
        f"with contextlib.suppress(SystemExit):\n    {code}\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_lazy_names() -> None:
    import depthlm

    assert {"load", "Camera", "PointCloud"} <= set(dir(depthlm))
    assert depthlm.Camera.from_fov(64, 48, 60).width == 64
    assert callable(depthlm.load)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = depthlm.nothing


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["demo", "synth", "inspect", "train", "eval", "compare", "predict"])
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, err = run(capsys, command, "--help")
    assert (status, err) == (0, "")
    assert f"depthlm {command}" in out


def test_eval_json(capsys: pytest.CaptureFixture[str], tiny_model: Path, shards: Path, tmp_path: Path) -> None:
    arguments = ("eval", tiny_model, shards, "--points", 6, "--json", "--out", tmp_path / "run", "--batch", 3)
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    summary = json.loads(out)
    needed = (
        "n n_unparsed n_skipped delta1 delta1_ci absrel rmse floor_delta1 label scored answers task reference model"
    )
    assert set(needed.split()) <= set(summary)
    assert summary["n"] == 6
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert json.loads(run(capsys, *arguments)[1]) == summary


def test_eval_several(capsys: pytest.CaptureFixture[str], tiny_model: Path, shards: Path, tmp_path: Path) -> None:
    status, out, _ = run(
        capsys,
        "eval",
        tiny_model,
        shards,
        shards,
        "--points",
        2,
        "--json",
        "--reference",
        "text",
        "--out",
        tmp_path / "r",
    )
    assert status == 0
    assert [r["n"] for r in json.loads(out)["runs"]] == [2, 2]
    assert len(list((tmp_path / "r").glob("*/summary.json"))) == 2


def test_eval_table(capsys: pytest.CaptureFixture[str], tiny_model: Path, shards: Path) -> None:
    status, out, _ = run(
        capsys, "eval", tiny_model, shards, "--points", 3, "--task", "z", "--answers", "z", "--no-intervals"
    )
    assert status == 0
    assert "delta1" in out
    assert "constant" in out


def test_eval_begins_answers_or_leaves_them_free(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, shards: Path, tmp_path: Path
) -> None:
    arguments = ("eval", tiny_model, shards, "--points", 3, "--no-intervals", "--json")
    texts = {}
    for name, more in (("begun", ("--decimals", 1, "--batch-mem", 64)), ("free", ("--free",))):
        assert run(capsys, *arguments, *more, "--out", tmp_path / name)[0] == 0
        texts[name] = [r["text"] for r in pq.read_table(tmp_path / name / "points.parquet").to_pylist()]
    assert all(text.startswith("<answer>") for text in texts["begun"])
    assert not any(text.startswith("<answer>") for text in texts["free"]), "random weights begin with anything else"
    for option, value in (("--decimals", -1), ("--batch-mem", 0)):
        status, _, error = run(capsys, *arguments, option, value)
        assert (status, error.count("\n")) == (2, 1)
        assert f"{option} is {value}" in error


def test_eval_of_other_tasks(capsys: pytest.CaptureFixture[str], tiny_model: Path, shards: Path) -> None:
    arguments = ("eval", tiny_model, shards, "--points", 4, "--no-intervals")
    summary = json.loads(run(capsys, *arguments, "--task", "nearer", "--json")[1])
    assert (summary["task"], summary["metric"], summary["delta1"]) == ("nearer", "accuracy", None)
    assert summary["n"] + summary["n_unasked"] == 4
    assert summary["floor_answer"] in ("first", "second")
    assert summary["trained"] is False
    text = run(capsys, *arguments, "--task", "nearer")[1]
    assert "not trained to answer nearer" in text
    status, out, _ = run(capsys, *arguments, "--task", "all", "--json")
    assert (status, [r["task"] for r in json.loads(out)["runs"]]) == (0, ["distance"])
    assert "distance" in run(capsys, *arguments, "--task", "all")[1]


def test_eval_retention(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthlm.cli.evaluate.RETENTION_ROOMS", {"scenes": 1, "seed": 3, "views": 1, "points": 12})
    arguments = ("eval", tiny_model, "--retention", "--points", 3, "--no-intervals", "--json")
    status, out, err = run(capsys, *arguments, "--reference", "text")
    runs = json.loads(out)["runs"]
    assert (status, [r["task"] for r in runs]) == (0, ["surface", "colour", "nearer"])
    assert {r["data"] for r in runs} == {"rendered-rooms"}
    assert "task where is left out" in err
    # Of several tasks, those that the data has nothing for are named and left out.
    status, out, err = run(capsys, "eval", tiny_model, shards, "--retention", "--points", 3, "--json")
    assert (status, [r["task"] for r in json.loads(out)["runs"]][:2]) == (0, ["colour", "nearer"])
    assert "nothing that task surface can ask about" in err
    runs = json.loads(run(capsys, *arguments, "--reference", "arrow")[1])["runs"]
    assert [r["task"] for r in runs][-1] == "where"
    status, _, err = run(capsys, "eval", tiny_model, shards, "--retention", "--task", "z")
    assert (status, "leave --task" in err) == (2, True)
    # The samples of the test have no surface names: nothing to ask, said in one line.
    status, _, err = run(capsys, "eval", tiny_model, shards, "--task", "surface")
    assert (status, "nothing that task surface can ask about" in err) == (2, True)
    status, _, err = run(capsys, "eval", tiny_model, shards, "--task", "where", "--reference", "text")
    assert (status, "is asked by marker only" in err) == (2, True)


def test_eval_of_other_tasks_refuses_what_has_no_meaning(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, shards: Path
) -> None:
    status, _, err = run(capsys, "eval", tiny_model, shards, "--task", "time", "--answers", "z")
    assert status == 2
    assert "--answers says what distances mean" in err


def test_eval_of_the_official_photographs(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, samples_dir: Path
) -> None:
    rows = samples_dir / "ibims1_official" / "ibims1_val.jsonl"
    for label in ("z", "distance"):
        status, out, _ = run(capsys, "eval", tiny_model, rows, "--label", label, "--points", 4, "--json")
        assert status == 0
        assert json.loads(out)["label"] == label


def test_inspect(capsys: pytest.CaptureFixture[str], shards: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "deep" / "sheet.png"
    status, out, _ = run(capsys, "inspect", shards, "--out", sheet, "--json")
    facts = json.loads(out)
    assert (status, facts["samples"], facts["points"]) == (0, 3, 60)
    z = np.concatenate([s.z for s in make_samples()])
    assert facts["z_m"]["min"] == pytest.approx(z.min())
    assert facts["z_m"]["max"] == pytest.approx(z.max())
    assert Image.open(sheet).width > 500
    assert [p.name for p in sheet.parent.iterdir()] == ["sheet.png"]
    assert "60 labelled points" in run(capsys, "inspect", shards, "--out", sheet)[1]


def test_synth(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    arguments = ("--scenes", 1, "--views", 2, "--points", 20, "--seed", 5, "--workers", 1, "--json")
    status, text, _ = run(capsys, "synth", out, *arguments, "--focal-range", 180, 200)
    assert status == 0
    assert json.loads(text)["samples"] == 2
    facts = json.loads(run(capsys, "inspect", out, "--out", tmp_path / "s.png", "--json")[1])
    assert facts["samples"] == 2
    assert facts["focal_px"]["min"] >= 180
    assert facts["focal_px"]["max"] <= 200


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("--focal", 50), "--focal 50"),
        (("--fov", 60), "--fov 60"),
        (("--assume-fov", 60), "assumed"),
        (("--camera", "FILE"), "--camera"),
    ],
)
def test_predict_names_its_camera(
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    photo: Path,
    tmp_path: Path,
    option: tuple[Any, Any],
    reason: str,
) -> None:
    file = tmp_path / "camera.json"
    file.write_text(json.dumps({"fx": 50, "fy": 50, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}))
    name, value = option
    value = file if value == "FILE" else value
    arguments = ("predict", tiny_model, photo, "--point", "5,6", "--point", "63,47", name, value)
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 0
    result = json.loads(out)["images"][0]
    assert reason in result["camera"]["reason"]
    assert result["interval"] == "uncalibrated"
    assert [(p["u"], p["v"]) for p in result["points"]] == [(5, 6), (63, 47)]
    assert {"value", "low", "high", "distance", "z", "xyz", "text"} <= set(result["points"][0])
    assert reason in run(capsys, *arguments)[1]


def test_predict_reads_exif(capsys: pytest.CaptureFixture[str], tiny_model: Path, photo: Path) -> None:
    image = Image.open(photo)
    image.load()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28  # FocalLengthIn35mmFilm
    image.save(photo, exif=exif)
    status, out, _ = run(capsys, "predict", tiny_model, photo, "--point", "5,6", "--json")
    assert status == 0
    camera = json.loads(out)["images"][0]["camera"]
    assert camera["fx"] == pytest.approx(28 * 80 / 43.2666, rel=1e-4)
    assert "EXIF" in camera["reason"]


def test_predict_says_the_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_model: Path, photo: Path
) -> None:
    from depthlm.inference.engine import Engine
    from depthlm.inference.request import Answer

    monkeypatch.setattr(Engine, "_ask_batch", lambda self, requests: [Answer("2.5 m", 2.5, 2.0, 3.0)] * len(requests))
    arguments = ("predict", tiny_model, photo, "--point", "0,0", "--focal", 50)
    point = json.loads(run(capsys, *arguments, "--json")[1])["images"][0]["points"][0]
    factor = np.sqrt(1 + (31.5 / 50) ** 2 + (23.5 / 50) ** 2)
    assert point["value"] == point["distance"] == 2.5
    assert point["z"] == pytest.approx(2.5 / factor)
    assert np.linalg.norm(point["xyz"]) == pytest.approx(2.5)
    as_z = json.loads(run(capsys, *arguments, "--task", "z", "--json")[1])["images"][0]["points"][0]
    assert (as_z["value"], as_z["low"]) == (pytest.approx(2.5 / factor), pytest.approx(2.0 / factor))
    assert "uncalibrated" in run(capsys, *arguments)[1]


def test_predict_of_other_tasks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_model: Path, photo: Path
) -> None:
    from depthlm.inference.engine import Engine
    from depthlm.inference.request import Answer

    asked = []

    def ask(self, requests):
        asked.extend(requests)
        return [Answer(text := "6.0 m, so 1.5 m/s", r.kind.read(text)) for r in requests]

    monkeypatch.setattr(Engine, "_ask_batch", ask)
    two = ("predict", tiny_model, photo, "--point", "0,0", "--point", "60,40", "--focal", 50)
    said = json.loads(run(capsys, *two, "--task", "speed", "--given", 4, "--json")[1])["images"][0]["questions"]
    assert [(q["points"], q["value"], q["unit"], q["given"]) for q in said] == [
        ([[0, 0]], 1.5, "m/s", 4),
        ([[60, 40]], 1.5, "m/s", 4),
    ]
    assert "in exactly 4.0 seconds" in asked[0].question
    said = json.loads(run(capsys, *two, "--task", "between", "--json")[1])["images"][0]["questions"]
    assert [(q["points"], q["value"]) for q in said] == [([[0, 0], [60, 40]], 6.0)]
    request = asked[-1]
    assert "the red arrow and the blue arrow" in request.question
    assert np.allclose(request.view.transform.inverse(request.uv), [[0, 0], [60, 40]])
    assert all(request.reference.fits(uv, *request.view.image.size) for uv in request.uv)
    assert "between 6.00 m" in run(capsys, *two, "--task", "between")[1]
    assert "no answer to nearer" in run(capsys, *two, "--task", "nearer")[1]


def test_predict_of_two_images(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_model: Path, photo: Path
) -> None:
    from depthlm.inference.engine import Engine
    from depthlm.inference.request import Answer

    says, asked = {}, []

    def ask(self, requests):
        asked.extend(requests)
        return [Answer(says["text"], r.kind.read(says["text"])) for r in requests]

    monkeypatch.setattr(Engine, "_ask_batch", ask)
    pair = ("predict", tiny_model, photo, photo, "--focal", 50)
    says["text"] = "<answer>2.06</answer>"
    (result,) = json.loads(run(capsys, *pair, "--task", "moved", "--json")[1])["images"]
    assert result["second"] == str(photo)
    assert [(q["points"], q["value"], q["pixel"]) for q in result["questions"]] == [([], 2.06, None)]
    assert len(asked[0].images()) == 2
    says["text"] = "Yaw=+30.0°, Pitch=+10.0°, Roll=-5.0°"
    assert "rotation (30.00, 10.00, -5.00) degrees" in run(capsys, *pair, "--task", "rotation")[1]
    says["text"] = "(1000, 1000)"  # the middle of the second view, which is padded
    width, height = asked[0].second.image.size
    match = (*pair, "--task", "match", "--point", "3,3", "--point", "60,40")
    said = json.loads(run(capsys, *match, "--json")[1])["images"][0]["questions"]
    assert [q["points"] for q in said] == [[[3, 3]], [[60, 40]]]
    expected = asked[0].second.transform.inverse([width / 2, height / 2])[0]
    assert all(q["pixel"] == pytest.approx(expected) for q in said)
    assert "of the second image" in run(capsys, *match)[1]
    for arguments, message in [
        ((*pair[:3], "--task", "moved"), "is about two images, the first and the second; 1 given"),
        ((*pair, "--task", "moved", "--point", "3,3"), "task moved is about 0 points at a time; 1 were given"),
        ((*pair, "--task", "match"), "task match is about points; give --point U,V"),
    ]:
        status, _, err = run(capsys, *arguments)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "speed"), "task speed needs --given, a positive number of s"),
        (("--task", "time", "--given", "-1"), "task time needs --given, a positive number of m/s"),
        (("--task", "between"), "about 2 points at a time; 1 were given"),
        (("--given", "3"), "task distance asks without a number of its own"),
        (("--task", "nearer", "--given", "3"), "task nearer asks without a number of its own"),
        (("--task", "surface", "--answers", "z"), "--answers says what distances mean"),
    ],
)
def test_predict_of_other_tasks_refuses(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, photo: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, out, err = run(capsys, "predict", tiny_model, photo, "--point", "3,3", "--focal", 50, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nothing",),
        ("eval",),
        ("eval", "m"),
        ("eval", "m", "d", "--points", "many"),
        ("eval", "m", "d", "--task", "weight"),
        ("eval", "m", "d", "--suite", "paper", "--task", "speed"),
        ("predict", "m", "i", "--point", "1,1", "--task", "weight"),
        ("eval", "m", "d", "--nope"),
        ("synth", "out"),
        ("synth", "out", "--scenes", "0"),
        ("predict", "m", "i"),
    ],
)
def test_parser_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_fault_of_ours_is_status_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("depthlm.data.open_data", fail)
    status, _, err = run(capsys, "inspect", "x", "--out", "y.png")
    assert status == 1
    assert err == "error: RuntimeError: two lines (run again with --debug for the traceback)\n"
    with pytest.raises(RuntimeError):
        main(["inspect", "x", "--out", "y.png", "--debug"])


def test_the_version_is_said_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"depthlm {depthlm.__version__}\n", "")
