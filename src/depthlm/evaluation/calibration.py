"""Whether a model knows how wrong it is: coverage and width of its intervals, and errors sorted by uncertainty.

An interval [low, high] is the 80 % interval of an answer, calibrated or the model's own. Its half width in logarithms,
ln(high / low) / 2, is taken as the uncertainty: errors of depth are relative.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.evaluation.resample import RESAMPLES, ImageSums, figures
from depthlm.inference.interval import INTERVAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.evaluation.resample import Sums

NOMINAL = INTERVAL
STEPS = 100
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def calibration(
    predicted: NDArray[np.float64],
    truth: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    image: NDArray[np.int64],
    images: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any] | None:
    """Figures over the points with an answer above zero and an interval 0 < low <= high; None when there is none.

    coverage: share of truths inside; `nominal` is what was promised. sharpness: mean of (high - low) / p: of two
    calibrated models the sharper is better. ause: area between two curves of AbsRel against the share of points left
    out, most uncertain first and largest error first, 0 for an order as good as knowing the errors
    (Ilg et al., Uncertainty Estimates for Optical Flow, arXiv 1802.07095); ause_random: the same for a random order.
    reliability: for each level the share of truths within the central interval of that level, if the model's belief is
    log-normal with the quantiles it gave (Kuleshov et al., arXiv 1807.00263).
    AUSE orders all points: its bootstrap keeps the 100 steps of the whole set, so that it is a function of sums.
    """
    with np.errstate(invalid="ignore"):
        kept = np.flatnonzero(np.isfinite(predicted) & (predicted > 0) & (low > 0) & (high >= low) & np.isfinite(high))
    if not len(kept):
        return None
    p, g, a, b, place = predicted[kept], truth[kept], low[kept], high[kept], image[kept]
    spread = np.log(b / a) / 2
    columns = [("n", np.ones(len(p))), ("inside", (a <= g) & (g <= b)), ("width", (b - a) / p)]
    columns += _reliability_columns(g, a, b, spread)
    basic = figures(
        ImageSums.of(columns, place, images),
        {
            "coverage": lambda s: s["inside"] / s["n"],
            "sharpness": lambda s: s["width"] / s["n"],
            **{f"{level:g}": _level(level) for level in LEVELS},
        },
        seed=seed, resamples=resamples,
    )  # fmt: skip
    error = np.abs(p - g) / g
    return {
        "n": len(p),
        "nominal": NOMINAL,
        "coverage": basic["coverage"][0],
        "sharpness": basic["sharpness"][0],
        "reliability": [{"level": level, "share": basic[f"{level:g}"][0]} for level in LEVELS],
        **_sparsification(error, spread, place, images, seed, resamples),
    }


def sparsification_curve(
    error: NDArray[np.float64], uncertainty: NDArray[np.float64], *, seed: int = 0
) -> NDArray[np.float64]:
    """[STEPS] mean error of what is left when 0 %, 1 %, ... of the points are left out, most uncertain first."""
    sums = np.bincount(_ranks(uncertainty, seed), weights=error, minlength=STEPS)
    counts = np.bincount(_ranks(uncertainty, seed), minlength=STEPS)
    with np.errstate(invalid="ignore"):
        return np.cumsum(sums)[::-1] / np.cumsum(counts)[::-1]


def _sparsification(
    error: NDArray[np.float64],
    uncertainty: NDArray[np.float64],
    place: NDArray[np.int64],
    images: int,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """AUSE, that of a random order, and the two curves."""
    by_belief = ImageSums.of(
        [("error", error), ("n", np.ones(len(error)))], place, images, _ranks(uncertainty, seed), STEPS
    ).values
    by_error = ImageSums.of(
        [("error", error), ("n", np.ones(len(error)))], place, images, _ranks(error, seed), STEPS
    ).values
    stacked = {
        "belief": by_belief["error"], "belief_n": by_belief["n"], "oracle": by_error["error"], "oracle_n": by_error["n"]
    }  # fmt: skip
    sums = ImageSums({name: value[:, None, :] for name, value in stacked.items()})  # one figure of 100 steps
    found = figures(sums, {"ause": _ause, "ause_random": _ause_random}, seed=seed, resamples=resamples)
    return {
        "ause": found["ause"][0],
        "ause_random": found["ause_random"][0],
        "left_out": [k / STEPS for k in range(STEPS)],
        "curve": [float(v) for v in np.nan_to_num(sparsification_curve(error, uncertainty, seed=seed))],
        "oracle": [float(v) for v in np.nan_to_num(sparsification_curve(error, error, seed=seed))],
    }


def _ranks(value: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """[N] which of STEPS equal parts each value falls in, smallest first; ties in random order (beliefs have many)."""
    order = np.lexsort((np.random.default_rng([seed, 3]).random(len(value)), value))
    rank = np.empty(len(value), dtype=np.int64)
    rank[order] = np.arange(len(value)) * STEPS // len(value)
    return rank


def _curve(error: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., STEPS] sums, least uncertain first -> mean error of what is left, most points first."""
    return np.cumsum(error, axis=-1)[..., ::-1] / np.cumsum(count, axis=-1)[..., ::-1]


def _ause(s: Sums) -> NDArray[np.float64]:
    gap = _curve(s["belief"], s["belief_n"]) - _curve(s["oracle"], s["oracle_n"])
    return np.nanmean(gap, axis=-1)


def _ause_random(s: Sums) -> NDArray[np.float64]:
    mean = s["oracle"].sum(axis=-1, keepdims=True) / s["oracle_n"].sum(axis=-1, keepdims=True)
    return np.nanmean(mean - _curve(s["oracle"], s["oracle_n"]), axis=-1)


def _reliability_columns(
    g: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], spread: NDArray[np.float64]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """For each level whether the truth lies in the central interval of that level."""
    unit = NormalDist().inv_cdf(0.5 + NOMINAL / 2)  # standard deviations from the middle to an end
    off = np.abs(np.log(g) - (np.log(low) + np.log(high)) / 2)
    return [(f"in{level:g}", off <= NormalDist().inv_cdf(0.5 + level / 2) / unit * spread + 1e-12) for level in LEVELS]


def _level(level: float) -> Any:
    return lambda s: s[f"in{level:g}"] / s["n"]
