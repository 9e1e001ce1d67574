"""The depth metrics of points, each with its definition and source, as functions of sums over points.

p is the prediction, g the truth, both metres of the same quantity (z or distance). A prediction that could not be read
is NaN: the delta metrics count it as wrong; the others, which have no value for it, leave it out. What takes a
logarithm uses predictions above zero only. How many are left out is reported beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.metrics import DELTA1_RATIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from depthlm.evaluation.resample import Formula, Sums

_EIGEN = "Eigen et al., arXiv 1406.2283"
_KITTI = "KITTI depth benchmark; Uhrig et al., arXiv 1708.06500"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A metric: what it is, where it comes from, which way is better, and its value from sums of `columns`."""

    name: str
    title: str
    definition: str
    source: str
    better: Literal["higher", "lower", "one"]
    unit: str
    formula: Formula


def _share(hits: str) -> Formula:
    return lambda s: s[hits] / s["n"]


def _mean(total: str, count: str = "answered") -> Formula:
    return lambda s: s[total] / s[count]


def _root(total: str, count: str = "answered") -> Formula:
    return lambda s: np.sqrt(s[total] / s[count])


def _silog(s: Sums) -> NDArray[np.float64]:
    mean = s["log"] / s["positive"]
    return 100 * np.sqrt(np.maximum(s["log_sq"] / s["positive"] - mean**2, 0))


def _slope(s: Sums) -> NDArray[np.float64]:
    """Least squares of log p on log g. log p = log g + d, so the slope is 1 + cov(log g, d) / var(log g)."""
    n = s["positive"]
    spread = s["g_sq"] - s["g"] ** 2 / n
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = 1 + (s["g_log"] - s["g"] * s["log"] / n) / spread
    # All truths alike: there is no line to lay, and a spread of 1e-12 is rounding.
    return np.where(spread > 1e-9 * np.maximum(s["g_sq"], 1), slope, np.nan)


SCALARS = (
    Scalar("delta1", "delta1", "share of all points with max(p/g, g/p) < 1.25, p > 0", _EIGEN, "higher", "",
           _share("right1")),
    Scalar("delta2", "delta2", "the same with 1.25 squared", _EIGEN, "higher", "", _share("right2")),
    Scalar("delta3", "delta3", "the same with 1.25 cubed", _EIGEN, "higher", "", _share("right3")),
    Scalar("absrel", "AbsRel", "mean of |p - g| / g", _EIGEN, "lower", "", _mean("abs_rel")),
    Scalar("sqrel", "SqRel", "mean of (p - g)^2 / g", _EIGEN, "lower", "m", _mean("sq_rel")),
    Scalar("rmse", "RMSE", "root of the mean of (p - g)^2", _EIGEN, "lower", "m", _root("sq")),
    Scalar("rmse_log", "RMSE log", "root of the mean of (ln p - ln g)^2", _EIGEN, "lower", "",
           _root("log_sq", "positive")),
    Scalar("log10", "log10", "mean of |log10 p - log10 g|", "Saxena et al., Make3D, 2009", "lower", "",
           _mean("log10", "positive")),
    Scalar("silog", "SILog", "100 times the standard deviation of ln p - ln g over all points: blind to a common scale",
           f"{_EIGEN} (lambda = 1, root), {_KITTI}", "lower", "", _silog),
    Scalar("scale", "scale", "exp of the mean of ln p - ln g: 1.1 says that answers are 10 % too far in the geometric "
           "mean", "geometric mean ratio", "one", "", lambda s: np.exp(s["log"] / s["positive"])),
    Scalar("slope", "slope", "slope of the least-squares line of ln p on ln g: below 1 the range of depths is "
           "compressed (far is called too near, near too far)", "ordinary least squares in log space", "one", "",
           _slope),
)  # fmt: skip
FORMULAS: dict[str, Formula] = {scalar.name: scalar.formula for scalar in SCALARS}
# What is told of every group of points (a range, a surface, an edge).
GROUP_METRICS = ("delta1", "absrel", "scale")


def columns(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The columns [N] whose sums the formulas take, one after the other so that memory stays flat."""
    p, g = predicted, truth
    with np.errstate(divide="ignore", invalid="ignore"):
        yield "n", np.ones(len(g))
        ratio = np.maximum(p / g, g / p)
        for power in (1, 2, 3):
            yield f"right{power}", (p > 0) & (ratio < DELTA1_RATIO**power)
        del ratio
        answered = np.isfinite(p)
        yield "answered", answered
        error = np.where(answered, p - g, 0.0)
        yield "abs_rel", np.abs(error) / g
        yield "sq_rel", error**2 / g
        yield "sq", error**2
        del error
        positive = answered & (p > 0)
        yield "positive", positive
        log = np.where(positive, np.log(p) - np.log(g), 0.0)
        yield "log", log
        yield "log_sq", log**2
        yield "log10", np.abs(log) / np.log(10)
        x = np.where(positive, np.log(g), 0.0)
        yield "g", x
        yield "g_sq", x**2
        yield "g_log", x * log


def scalar(name: str, predicted: ArrayLike, truth: ArrayLike) -> float | None:
    """One metric of SCALARS over all points [N]; None where it does not exist."""
    p = np.asarray(predicted, dtype=np.float64).reshape(-1)
    g = np.asarray(truth, dtype=np.float64).reshape(-1)
    if p.shape != g.shape:
        raise ValueError(f"{p.size} predictions for {g.size} depths")
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(FORMULAS[name]({key: np.array([column.sum()]) for key, column in columns(p, g)})[0])
    return value if np.isfinite(value) else None
