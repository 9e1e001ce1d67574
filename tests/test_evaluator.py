"""An evaluation run with a scripted model: conversions, exactly-once, resuming, refusing, no NaN."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.evaluation import evaluator
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.record import read_command
from depthlm.evaluation.report import format_summary
from depthlm.inference.engine import Engine
from depthlm.inference.request import Answer
from depthlm.metrics import best_constant
from depthlm.models.card import ModelCard
from depthlm.sample import Sample
from depthlm.view import ViewConfig

CAMERA = Camera(60.0, 62.0, 30.0, 22.0, 64, 48)


def true_z(uv: np.ndarray) -> np.ndarray:
    """Depth is a function of the pixel, so a scripted model can know it from what it is shown."""
    return 1.0 + uv[:, 0] / 16 + uv[:, 1] / 24


def make_samples(images: int = 3, points: int = 20) -> list[Sample]:
    rng = np.random.default_rng(0)
    made = []
    for k in range(images):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
        uv = rng.uniform([-0.5, -0.5], [63.49, 47.49], (points, 2))
        made.append(Sample(buffer.getvalue(), CAMERA, uv, true_z(uv), frame=str(k)))
    return made


class Script:
    """Answers every request with the exact z (or what `say` makes of it), and counts how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, say: Any = None) -> None:
        self.asked: list[tuple[float, float]] = []
        self.fail_after: int | None = None
        self.say = say or (lambda z: f"<answer>{z:.9f}</answer>")
        script = self

        def ask_batch(engine: Engine, requests: Any) -> list[Answer]:
            from depthlm.tasks.numbers import parse_answer

            out = []
            for request in requests:
                if script.fail_after is not None and len(script.asked) >= script.fail_after:
                    raise KeyboardInterrupt
                uv = request.view.transform.inverse(request.uv)
                script.asked.append(tuple(uv[0].round(6)))
                text = script.say(float(true_z(uv)[0]))
                value = parse_answer(text)
                out.append(Answer(text, value, value, value) if value else Answer(text, value))
            return out

        monkeypatch.setattr(Engine, "_ask_batch", ask_batch)


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    card = ModelCard(focal=80.0, grid=16, references=["arrow", "text"], label="z")
    return SimpleNamespace(card=card, path=tmp_path, view_config=ViewConfig(focal=80.0, grid=16))


@pytest.mark.parametrize("reference", ["arrow", "square", "cross", "text"])
@pytest.mark.parametrize("task", ["distance", "z"])
def test_exact_answers_score_one(loaded: Any, monkeypatch: pytest.MonkeyPatch, reference: str, task: Any) -> None:
    """Through marker padding, focal unification and the z -> distance factor of the ORIGINAL camera."""
    script = Script(monkeypatch)
    samples = make_samples()
    summary = evaluate(loaded, samples, EvaluationConfig(reference=reference, task=task))
    assert (summary["n"], summary["n_unparsed"], summary["delta1"]) == (60, 0, 1.0)
    assert summary["absrel"] == pytest.approx(0, abs=1e-6)
    assert summary["interval_coverage"] is not None
    truth = np.concatenate([getattr(s, task) for s in samples])
    assert summary["floor_delta1"] == best_constant(truth)[1]
    asked = {tuple(uv.round(6)) for s in samples for uv in s.uv}
    assert sorted(script.asked) == sorted(asked)  # every point once


def test_answers_override_changes_the_reading(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch)
    as_z = evaluate(loaded, make_samples(), EvaluationConfig(task="distance"))
    as_distance = evaluate(loaded, make_samples(), EvaluationConfig(task="distance", answers="distance"))
    assert as_z["rmse"] == pytest.approx(0, abs=1e-6)
    assert as_distance["rmse"] > 0.1
    assert (as_z["answers"], as_distance["answers"]) == ("z", "distance")


def test_wrong_and_unparsed_answers_are_counted(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = iter(["no idea", "-1", "nan", "0", "1e9"] + ["<answer>2</answer>"] * 55)
    Script(monkeypatch, lambda z: next(replies))
    summary = evaluate(loaded, make_samples(), EvaluationConfig(task="z"))
    assert summary["n"] == 60
    assert summary["n_unparsed"] == 4  # zero is a number, and wrong
    assert summary["delta1"] < summary["floor_delta1"]


def test_nothing_parsed_gives_null(loaded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Script(monkeypatch, lambda z: "no idea")
    out = tmp_path / "run"
    summary = evaluate(loaded, make_samples(1), EvaluationConfig(), out=out)
    text = (out / "summary.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == summary
    assert (summary["absrel"], summary["rmse"], summary["delta1"]) == (None, None, 0.0)
    assert summary["delta1_ci"] == [None, None]
    assert pq.read_table(out / "points.parquet")["value"].null_count == 20
    assert "unparsed   20" in format_summary(summary)


def test_files(loaded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Script(monkeypatch)
    out = tmp_path / "run"
    summary = evaluate(
        loaded, make_samples(), EvaluationConfig(points=25, seed=3), out=out, model_name="m", data_name="d"
    )
    assert {p.name for p in out.iterdir()} == {"command.json", "config.json", "points.parquet", "summary.json"}
    rows = pq.read_table(out / "points.parquet").to_pylist()
    assert len(rows) == summary["n"] == 25
    labels = "image partner frame u v z distance surface near_edge incidence"
    assert list(rows[0]) == f"{labels} question truth text failed answer value low high score".split()
    for row in rows:
        factor = CAMERA.ray_factor([row["u"], row["v"]])[0]
        assert row["distance"] == pytest.approx(row["z"] * factor)
        assert row["value"] == pytest.approx(float(row["answer"]) * factor)
    needed = (
        "n n_unparsed n_skipped delta1 delta1_ci absrel rmse floor_delta1 label scored answers task reference model"
    )
    assert set(needed.split()) <= set(summary)


def test_resumes_where_it_stopped(loaded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluator, "PART_POINTS", 16)
    config = EvaluationConfig(batch=4)
    script = Script(monkeypatch)
    whole = evaluate(loaded, make_samples(), config, out=tmp_path / "whole")
    assert len(script.asked) == 60

    script = Script(monkeypatch)
    script.fail_after = 40
    with pytest.raises(KeyboardInterrupt):
        evaluate(loaded, make_samples(), config, out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "summary.json").exists()
    script.fail_after = None
    script.asked.clear()
    seen: list[tuple[int, int]] = []
    resumed = evaluate(
        loaded, make_samples(), config, out=tmp_path / "cut", progress=lambda done, total: seen.append((done, total))
    )
    assert len(script.asked) == 60 - 32  # two parts of 16 were done
    assert seen[-1] == (60, 60)
    assert resumed == whole
    assert [read_command(tmp_path / name)["asked"] for name in ("whole", "cut")] == [60, 28]
    for name in ("points.parquet", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    script.asked.clear()
    assert evaluate(loaded, make_samples(), config, out=tmp_path / "cut") == whole
    assert not script.asked  # finished: only read again


def test_damaged_part_is_asked_again(loaded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluator, "PART_POINTS", 16)
    script = Script(monkeypatch)
    script.fail_after = 40
    with pytest.raises(KeyboardInterrupt):
        evaluate(loaded, make_samples(), EvaluationConfig(batch=4), out=tmp_path / "cut")
    (tmp_path / "cut" / "parts" / "part-00000.parquet").write_bytes(b"junk")
    script.fail_after = None
    assert evaluate(loaded, make_samples(), EvaluationConfig(batch=4), out=tmp_path / "cut")["delta1"] == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"task": "z"}, "task"), ({"reference": "text"}, "reference"), ({"points": 7}, "points")],
)
def test_another_config_is_refused(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    Script(monkeypatch)
    evaluate(loaded, make_samples(), EvaluationConfig(), out=tmp_path / "run")
    with pytest.raises(InputError, match=f"another {named}"):
        evaluate(loaded, make_samples(), EvaluationConfig(**change), out=tmp_path / "run")
    with pytest.raises(InputError, match="another samples"):
        evaluate(loaded, make_samples(2), EvaluationConfig(), out=tmp_path / "run")


def test_unusable_folders(loaded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Script(monkeypatch)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        evaluate(loaded, make_samples(), out=tmp_path / "file" / "run")
    with pytest.raises(InputError, match="holds no evaluation"):
        evaluate(loaded, make_samples(), out=tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_batch_does_not_change_the_choice(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for batch in (1, 7, 64):
        script = Script(monkeypatch)
        evaluate(loaded, make_samples(), EvaluationConfig(points=30, batch=batch))
        asked.append(script.asked)
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize(
    ("field", "value"), [("task", "depth"), ("answers", "metres"), ("label", "x"), ("points", 0), ("reference", "dot")]
)
def test_bad_settings(loaded: Any, field: str, value: Any) -> None:
    with pytest.raises(InputError, match=str(value)):
        evaluate(loaded, make_samples(), EvaluationConfig(**{field: value}))


def test_a_cluster_gives_the_records_of_one_machine(tmp_path: Path, tiny_model: Path, capsys: Any) -> None:
    pytest.importorskip("ray")
    from cli_runner import run
    from depthlm.data.shards import write_shards

    write_shards(make_samples(4, 160), tmp_path / "data")
    arguments = ("eval", tiny_model, tmp_path / "data", "--points", 600, "--reference", "text")
    assert run(capsys, *arguments, "--out", tmp_path / "here")[0] == 0
    status, _, told = run(capsys, *arguments, "--out", tmp_path / "spread", "--ray", "local")
    assert status == 0, told
    here, spread = (pq.read_table(tmp_path / name / "points.parquet").to_pylist() for name in ("here", "spread"))
    assert here == spread
    # One part was lost: it alone is asked again.
    (tmp_path / "spread" / "summary.json").unlink()
    assert run(capsys, *arguments, "--out", tmp_path / "spread")[0] == 0
    assert pq.read_table(tmp_path / "spread" / "points.parquet").to_pylist() == here


def test_a_cluster_that_cannot_be(tmp_path: Path, tiny_model: Path, capsys: Any, monkeypatch: Any) -> None:
    import sys

    from cli_runner import run
    from depthlm.data.shards import write_shards

    write_shards(make_samples(1, 4), tmp_path / "data")
    for extra in (("--backend", "oracle"), ("--suite", "paper")):
        status, _, told = run(capsys, "eval", tiny_model, tmp_path / "data", "--ray", "local", *extra)
        assert (status, told.count("\n")) == (2, 1)
        assert "--ray spreads weights over DATA" in told
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, told = run(capsys, "eval", tiny_model, tmp_path / "data", "--ray", "local")
    assert (status, "pip install depthlm[ray]" in told) == (2, True)
