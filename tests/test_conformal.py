"""Calibrated intervals: the quantile by hand, coverage on fresh points, and from the command to the engine."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from depthlm.cli import main
from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.evaluation.conformal import LEAST_POINTS, calibrate, widening
from depthlm.inference.engine import Engine
from depthlm.models.card import ModelCard
from depthlm.models.loading import load_model
from depthlm.models.locate import NANO_FOLDER
from depthlm.synth.generate import synth_samples


def test_the_quantile_by_hand() -> None:
    """Scores -k for k = 1..99: with n = 99 the ceil(100 * 0.8) = 80th smallest is -20; one NaN is left out."""
    k = np.arange(1, 100)
    truth = np.append(np.ones(99), 1.0)
    low, high = np.append(np.exp(-k.astype(float)), np.nan), np.append(np.exp(k.astype(float)), np.nan)
    assert widening(low, high, truth) == pytest.approx(-20)
    assert widening(low[:-1] * 0 + 2.0, high[:-1] * 0 + 3.0, truth[:-1]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.6])
def test_fresh_points_are_covered(spread: float) -> None:
    rng = np.random.default_rng(1)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        g = rng.lognormal(1, 0.6, n)
        p = g * np.exp(rng.normal(0.03, 0.2, n))
        return p * math.exp(-spread), p * math.exp(spread), g

    wider = math.exp(widening(*draw(4000)))
    low, high, g = draw(20_000)
    assert ((low / wider <= g) & (g <= high * wider)).mean() == pytest.approx(0.8, abs=0.02)


def test_too_few_points() -> None:
    few = np.ones(LEAST_POINTS - 1)
    with pytest.raises(InputError, match=f"{LEAST_POINTS - 1} points with an interval"):
        widening(few, few, few)


@pytest.fixture(scope="module")
def rooms() -> list:
    return list(synth_samples(4, seed=77, views=2, points=40))


def test_from_the_card_to_the_answers(rooms: list) -> None:
    nano = load_model("nano")
    own = replace(nano, card=replace(nano.card, calibration={}))
    wide = replace(nano, card=replace(nano.card, calibration={"text": 0.5}))
    sample = rooms[0]
    measured = []
    for loaded in (own, wide):
        engine = Engine(loaded, reference="text")
        measured.append(engine.measure(sample.load_image(), sample.uv[:6], sample.camera))
        assert engine.calibrated is (loaded is wide)
    assert np.allclose(measured[1].low, measured[0].low / math.exp(0.5))
    assert np.allclose(measured[1].high, measured[0].high * math.exp(0.5))
    assert np.array_equal(measured[0].distance, measured[1].distance)
    card, (found,) = calibrate(own, rooms, references=["text"], points=200)
    assert found["points"] == 200
    assert card.calibration["text"] == pytest.approx(math.log(found["widened_by"]))
    again, _ = calibrate(wide, rooms, references=["text"], points=200)
    assert again.calibration == card.calibration, "what the card says already plays no part"


def test_command(rooms: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(rooms, tmp_path / "rooms")
    shutil.copytree(NANO_FOLDER, tmp_path / "model")
    arguments = [
        "calibrate",
        str(tmp_path / "model"),
        str(tmp_path / "rooms"),
        "--reference",
        "text",
        "--points",
        "120",
    ]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--json"])
    assert stop.value.code in (0, None)
    (found,) = json.loads(capsys.readouterr().out)["references"]
    card = ModelCard.load(tmp_path / "model")
    assert card.calibration["text"] == pytest.approx(math.log(found["widened_by"]))
    assert not (tmp_path / "model" / ".calibrating").exists()
    for bad, message in (
        (["calibrate", "nano", str(tmp_path / "rooms")], "give --out FOLDER"),
        ([*arguments[:-1], "20"], "calibration takes at least 50"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(bad)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.count("\n") == 1
        assert message in error


@pytest.mark.parametrize("value", [0.1, {"text": "wide"}, {"pencil": 0.1}, {"text": math.inf}])
def test_a_card_that_cannot_be(value: object) -> None:
    with pytest.raises(InputError, match="calibration .* expected a reference and a number"):
        ModelCard(calibration=value)  # type: ignore[arg-type]
