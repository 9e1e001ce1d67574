"""Every figure of a set of points with its interval: of all, by range, by surface, at edges; order and calibration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation.calibration import calibration
from depthlm.evaluation.ordering import order_errors, reuse
from depthlm.evaluation.resample import RESAMPLES, ImageSums, figures
from depthlm.evaluation.scalars import FORMULAS, GROUP_METRICS, columns
from depthlm.tasks.numbers import MOST

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, np.inf)  # metres, even in ratio
ANGLES = (0.0, 30.0, 60.0, 90.0)  # degrees between the line of sight and the surface's normal
FEWEST_IN_GROUP = 20
MOST_SURFACES = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Answers beside truths, one row for each asked point, of one quantity.

    image: [N] which image, any integers. truth: [N] metres, positive and finite. predicted: [N] metres, NaN for none.
    quantity: what both are. factor: [N] distance / z of the pixel (ray factor), or None where it is not known.
    low, high: [N] the ends of the 80 % interval, NaN for none. said: [N] the number as said, metres, before it was
    turned from distance into z or back; None where it is `predicted`. digit: [N] its last digit, -1 for none.
    surface: [N] what the point shows, "" where the source does not say. near_edge: [N] within 3 px of a depth edge.
    incidence: [N] degrees between the line of sight and the surface's normal, NaN where unknown.
    """

    image: NDArray[np.int64]
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    quantity: Literal["z", "distance"] = "z"
    factor: NDArray[np.float64] | None = None
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    said: NDArray[np.float64] | None = None
    digit: NDArray[np.int64] | None = None
    surface: NDArray[np.str_] | None = None
    near_edge: NDArray[np.bool_] | None = None
    incidence: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        size = len(self.truth)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and value.shape != (size,):
                raise InputError(f"points: {field.name} has shape {value.shape} for {size} truths; expected ({size},)")
        bad = np.flatnonzero(~(np.isfinite(self.truth) & (self.truth > 0)))
        if len(bad):
            raise InputError(
                f"points: truth {self.truth[bad[0]]} at row {bad[0]} ({len(bad)} such rows of {size}); a truth is a "
                "positive finite number of metres, leave the others out"
            )

    def __len__(self) -> int:
        return len(self.truth)


def measure_points(points: Points, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Every figure of the points, as plain numbers; {value, ci} where a figure has an interval over images.

    n, images, n_unparsed, n_out_of_range (predictions that are no possible length: 0 or less, above 10 km).
    scalars: {quantity: {metric: figure}}, for z and for distance where `factor` is known.
    readings: {"z", "distance": delta1 if what was said is taken for that}. by_range, by_surface, by_edge, by_incidence:
    groups with n, images and GROUP_METRICS. order, reuse, calibration: see those functions.
    """
    if not len(points):
        raise InputError("no point with a known truth; nothing to measure")
    ids, image = np.unique(points.image, return_inverse=True)
    images, p, g = len(ids), points.predicted, points.truth
    draw: dict[str, Any] = {"seed": seed, "resamples": resamples}
    scalars = {}
    for quantity in ("z", "distance"):
        scale = _to(points, quantity)
        if scale is not None:
            sums = ImageSums.of(columns(p * scale, g * scale), image, images)
            scalars[quantity] = {name: found[0] for name, found in figures(sums, FORMULAS, **draw).items()}
    with np.errstate(invalid="ignore"):
        out_of_range = int(((p <= 0) | (p > MOST)).sum())
    return {
        "n": len(points),
        "images": images,
        "quantity": points.quantity,
        "n_unparsed": int(np.isnan(p).sum()),
        "n_out_of_range": out_of_range,
        "scalars": scalars,
        "readings": _readings(points, image, images, draw),
        "by_range": _by_range(points, image, images, draw),
        "by_surface": _by_surface(points, image, images, draw),
        "by_edge": _by_edge(points, image, images, draw),
        "by_incidence": _by_incidence(points, image, images, draw),
        "order": order_errors(p, g, image, images, **draw),
        "reuse": reuse(p if points.said is None else points.said, image, images, digit=points.digit, **draw),
        "calibration": None
        if points.low is None or points.high is None
        else calibration(p, g, points.low, points.high, image, images, **draw),
    }


def _to(points: Points, quantity: str) -> NDArray[np.float64] | float | None:
    """What turns the points' quantity into this one, or None where the pixels' rays are not known."""
    if quantity == points.quantity:
        return 1.0
    if points.factor is None:
        return None
    return points.factor if quantity == "distance" else 1 / points.factor


def _readings(points: Points, image: NDArray[np.int64], images: int, draw: dict[str, Any]) -> dict[str, Any]:
    """delta1 if the numbers as said are taken for z, and if taken for distance: how much the protocol moves."""
    if points.factor is None or points.said is None:
        return {}
    found = {}
    for quantity in ("z", "distance"):
        scale = _to(points, quantity)
        assert scale is not None, "the rays are known"
        sums = ImageSums.of(columns(points.said, points.truth * scale), image, images)
        found[quantity] = figures(sums, {"delta1": FORMULAS["delta1"]}, **draw)["delta1"][0]
    return found


def _groups(
    points: Points, image: NDArray[np.int64], images: int, group: NDArray[np.int64], groups: int, draw: dict[str, Any]
) -> list[dict[str, Any]]:
    """For each group {n, images, delta1, absrel, scale}."""
    sums = ImageSums.of(columns(points.predicted, points.truth), image, images, group, groups)
    found = figures(sums, {name: FORMULAS[name] for name in GROUP_METRICS}, **draw)
    counts = sums.values["n"]
    shown = (counts > 0).sum(axis=0)
    for name in GROUP_METRICS:
        for k in np.flatnonzero(shown < 2):  # draws of the other images say nothing about this group
            found[name][k]["ci"] = [None, None]
    return [
        {"n": int(counts[:, k].sum()), "images": int(shown[k])} | {name: found[name][k] for name in GROUP_METRICS}
        for k in range(groups)
    ]


def _by_range(points: Points, image: NDArray[np.int64], images: int, draw: dict[str, Any]) -> list[dict[str, Any]]:
    group = np.searchsorted(RANGES, points.truth, side="right") - 1
    found = _groups(points, image, images, group, len(RANGES) - 1, draw)
    ends = [None if np.isinf(edge) else edge for edge in RANGES]
    rows = [{"from": a, "to": b} | row for a, b, row in zip(ends, ends[1:], found, strict=False)]
    return [row for row in rows if row["n"]]


def _by_surface(points: Points, image: NDArray[np.int64], images: int, draw: dict[str, Any]) -> list[dict[str, Any]]:
    """The most frequent surfaces by name, and the others together."""
    if points.surface is None or not (points.surface != "").any():
        return []
    names, place, counts = np.unique(points.surface, return_inverse=True, return_counts=True)
    shown = [int(k) for k in np.argsort(-counts, kind="stable") if names[k] and counts[k] >= FEWEST_IN_GROUP]
    shown = shown[:MOST_SURFACES]
    order = np.full(len(names), len(shown))
    order[shown] = np.arange(len(shown))
    order[names == ""] = -1
    found = _groups(points, image, images, order[place], len(shown) + 1, draw)
    titles = [str(names[k]) for k in shown] + ["others"]
    return [{"surface": title} | row for title, row in zip(titles, found, strict=True) if row["n"]]


def _by_edge(points: Points, image: NDArray[np.int64], images: int, draw: dict[str, Any]) -> list[dict[str, Any]]:
    if points.near_edge is None:
        return []
    found = _groups(points, image, images, points.near_edge.astype(np.int64), 2, draw)
    return [{"place": name} | row for name, row in zip(("interior", "boundary"), found, strict=True) if row["n"]]


def _by_incidence(points: Points, image: NDArray[np.int64], images: int, draw: dict[str, Any]) -> list[dict[str, Any]]:
    if points.incidence is None:
        return []
    group = np.where(np.isfinite(points.incidence), np.searchsorted(ANGLES, points.incidence, side="right") - 1, -1)
    group = np.minimum(group, len(ANGLES) - 2)  # 90 degrees belong to the last
    found = _groups(points, image, images, group, len(ANGLES) - 1, draw)
    rows = [{"from": a, "to": b} | row for a, b, row in zip(ANGLES, ANGLES[1:], found, strict=False)]
    return [row for row in rows if row["n"]]
