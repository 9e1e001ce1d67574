"""Intervals that keep their promise: what a model's own 80 % interval must be widened by, from labelled points.

Split conformal prediction (Vovk et al. 2005; Romano et al., Conformalized Quantile Regression, arXiv 1905.03222) on the
logarithm of a length, as errors of depth are relative. The score of a point is how far the truth lies outside the
model's own interval, max(ln low - ln truth, ln truth - ln high), negative inside; the interval is widened by the 80 %
quantile of the scores, with the correction for their finite number. On points exchangeable with these it then holds
the truth in at least 80 % of cases; points of one picture are not independent, so that it holds on average over many
pictures.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from depthlm.errors import InputError
from depthlm.inference.interval import INTERVAL
from depthlm.models.card import CARD_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples

LEAST_POINTS = 50  # of fewer, the quantile is little more than an accident


def widening(low: ArrayLike, high: ArrayLike, truth: ArrayLike) -> float:
    """What ln low and ln high of [N] intervals must move apart by, each, to hold 80 % of the truths; may be negative.

    Points without an interval (NaN) are left out. Raises InputError for fewer than LEAST_POINTS others.
    """
    a, b, g = (np.asarray(values, dtype=np.float64) for values in (low, high, truth))
    with np.errstate(invalid="ignore"):
        known = (a > 0) & (b >= a) & (g > 0) & np.isfinite(b) & np.isfinite(g)
    n = int(known.sum())
    if n < LEAST_POINTS:
        raise InputError(f"{n} points with an interval and a truth; calibration takes at least {LEAST_POINTS}")
    scores = np.sort(np.maximum(np.log(a[known] / g[known]), np.log(g[known] / b[known])))
    return float(scores[min(n, math.ceil((n + 1) * INTERVAL)) - 1])


def calibrate(
    loaded: LoadedModel,
    data: Samples,
    *,
    references: list[str] | None = None,
    points: int = 1024,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ModelCard, list[dict[str, Any]]]:
    """The model's card with calibrated intervals for each reference, and what was found for each.

    data: labelled pictures it has not been trained on. references: default all of the card's. Raises InputError where
    too few of its answers have an interval.
    """
    from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
    from depthlm.evaluation.runs import POINTS

    own = replace(loaded, card=replace(loaded.card, calibration={}))
    found, calibration = [], dict(loaded.card.calibration)
    for reference in references or loaded.card.references:
        config = EvaluationConfig(task=loaded.card.label, reference=reference, points=points, seed=seed, batch=32)
        with tempfile.TemporaryDirectory() as folder:
            evaluate(own, data, config, out=Path(folder) / "run", progress=progress)
            table = pq.read_table(Path(folder) / "run" / POINTS)
        low, high, truth = (
            np.array(table[name].to_pylist(), dtype=np.float64) for name in ("low", "high", loaded.card.label)
        )
        calibration[reference] = round(widening(low, high, truth), 4)
        found.append(
            {
                "reference": reference,
                "points": int(np.isfinite(low).sum()),
                "coverage_before": float(((low <= truth) & (truth <= high))[np.isfinite(low)].mean()),
                "widened_by": math.exp(calibration[reference]),
            }
        )
    return dataclasses.replace(loaded.card, calibration=calibration), found


def write_card(card: ModelCard, folder: Path) -> None:
    """depthlm.json in that folder, by rename. Raises InputError when it cannot be written."""
    try:
        (temporary := folder / ".calibrating").mkdir(parents=True, exist_ok=True)
        card.save(temporary)
        (temporary / CARD_FILE).replace(folder / CARD_FILE)
        temporary.rmdir()
    except OSError as error:
        raise InputError(f"cannot write {folder / CARD_FILE} ({error.strerror or error}); give --out FOLDER") from error
