"""Which number of a model's belief is the best answer, and whether its intervals keep their promise.

    python benchmarks/readings.py [--model nano] [--data out/data/nano-pairs] [--reference text] [--points 1024]
                                  [--json] [--quick]

The same points are read four ways (greedy text, mean, median, best bet for delta1): delta1, AbsRel, and how many
different values 100 answers have. Coverage of the 80 % interval: the model's own, with the calibration of its card, and
calibrated on the other half of this data's scenes (each half by the other). Digits: what is left of the mean reading,
the finest there is, when its numbers end after so many decimals, as decoding with --decimals does. Headline: delta1
of the best reading minus greedy, and the coverage of halves calibrated on each other.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import pyarrow.parquet as pq

from depthlm.data import open_data
from depthlm.errors import InputError
from depthlm.evaluation.conformal import LEAST_POINTS, widening
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.runs import POINTS
from depthlm.inference.interval import INTERVAL
from depthlm.metrics import absrel, delta1
from depthlm.models.card import READINGS
from depthlm.models.loading import load_model
from depthlm.synth.generate import synth_samples

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from depthlm.sample import Samples


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when an answer is lost or calibrated halves miss their promise by more than 0.03."""
    options = common.parser(__doc__)
    options.add_argument("--model", default="nano")
    options.add_argument("--data", type=Path, default=Path("out/data/nano-pairs"), help="labelled pictures never seen")
    options.add_argument("--reference", default="text")
    options.add_argument("--points", type=int, default=1024)
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every reading, then the intervals."""
    points = 120 if arguments.quick else arguments.points
    if points < 2 * LEAST_POINTS:
        raise InputError(f"--points is {points}; halves of {LEAST_POINTS} or more need at least {2 * LEAST_POINTS}")
    loaded = load_model(arguments.model)
    data: Samples = list(synth_samples(8, seed=7, views=1)) if arguments.quick else open_data(arguments.data)
    own = replace(loaded, card=replace(loaded.card, calibration={}))
    readings: dict[str, Any] = {}
    for reading in READINGS:
        config = EvaluationConfig(reference=arguments.reference, points=points, read=reading, batch=32)
        with tempfile.TemporaryDirectory() as folder:
            summary = evaluate(own, data, config, out=Path(folder) / "run")
            table = pq.read_table(Path(folder) / "run" / POINTS)
        values = np.array(table["value"].to_pylist(), dtype=np.float64)
        if reading == "mean":
            kept = digits(values, np.array(table["distance"].to_pylist(), dtype=np.float64))
        readings[reading] = {
            **{key: summary[key] for key in ("n", "n_unparsed", "delta1", "delta1_ci", "absrel")},
            "distinct_per_100": distinct(values[np.isfinite(values)]),
        }
        common.progress(f"{reading}: delta1 {summary['delta1']:.3f}")
    scene = np.array([data[row].scene for row in table["image"].to_pylist()])
    low, high, truth = (np.array(table[name].to_pylist(), dtype=np.float64) for name in ("low", "high", "distance"))
    coverage = intervals(low, high, truth, scene, loaded.card.calibration.get(arguments.reference))
    best = max(readings, key=lambda name: readings[name]["delta1"])
    halves = coverage["halves_on_each_other"]
    return {
        "headline": {
            "best_over_greedy": readings[best]["delta1"] - readings["greedy"]["delta1"], "coverage": halves,
        },
        "checks": {
            "every_answer_kept": len({row["n"] for row in readings.values()}) == 1,
            **({} if arguments.quick else {"coverage_within_0.03": abs(halves - INTERVAL) <= 0.03}),
        },
        "config": {
            "model": arguments.model, "data": "8 rooms of seed 7" if arguments.quick else str(arguments.data),
            "reference": arguments.reference, "points": points, "quick": arguments.quick,
        },
        "best_reading": best,
        "readings": readings,
        "coverage": coverage,
        "decimals_kept": kept,
    }  # fmt: skip


def intervals(
    low: NDArray[np.float64], high: NDArray[np.float64], truth: NDArray[np.float64], scene: NDArray[Any],
    stored: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Share of truths inside: the model's own interval, with the card's calibration, and halves by each other."""

    def inside(widen: float, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return (low[rows] * math.exp(-widen) <= truth[rows]) & (truth[rows] <= high[rows] * math.exp(widen))

    every = np.isfinite(low) & np.isfinite(high)
    names = np.unique(scene)
    half = np.isin(scene, names[np.random.default_rng(0).permutation(len(names))[::2]]) & every
    other = every & ~half
    crossed = [
        inside(widening(low[a], high[a], truth[a]), b) for a, b in ((half, other), (other, half))
    ]  # fmt: skip
    return {
        "own": float(inside(0.0, every).mean()),
        "card": None if stored is None else float(inside(stored, every).mean()),
        "halves_on_each_other": float(np.concatenate(crossed).mean()),
    }


def digits(values: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """delta1 and AbsRel of values cut off after 0 to 3 decimals, and whole ("all")."""
    found = {}
    for decimals in (0, 1, 2, 3, None):
        cut = values if decimals is None else np.floor(values * 10**decimals) / 10**decimals
        answered = np.isfinite(cut)
        found["all" if decimals is None else str(decimals)] = {
            "delta1": delta1(cut, truth), "absrel": absrel(cut[answered], truth[answered]),
        }  # fmt: skip
    return found


def distinct(values: NDArray[np.float64], draws: int = 200) -> float:
    """How many different values (to 0.01 m) 100 answers drawn at random have, on average."""
    rng = np.random.default_rng(0)
    rounded = np.round(values, 2)
    return float(np.mean([len(np.unique(rng.choice(rounded, min(100, len(rounded)), False))) for _ in range(draws)]))


if __name__ == "__main__":
    sys.exit(main())
