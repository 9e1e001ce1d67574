"""Intervals and tests for figures that are functions of sums over images: one pass over the points, then small tables.

A share, a mean, an RMSE, SILog and a regression slope all are functions of sums over points. The sums of each image are
computed once; a bootstrap over images is then one matrix product, whatever the number of points. Nearly every metric of
this package is such a function; the few that are not say so where they are defined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.metrics import image_draws, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    Sums = Mapping[str, NDArray[np.float64]]
    Formula = Callable[[Sums], NDArray[np.float64]]

RESAMPLES = 2000
LEVEL = 0.95
_LEAST_DEFINED = 0.5  # share of the draws in which a figure must exist for its interval to be given


class ImageSums:
    """Sums of named columns over the points of each image, apart for each group.

    values: name -> [images, groups].
    """

    def __init__(self, values: dict[str, NDArray[np.float64]]) -> None:
        self.values = values

    @classmethod
    def of(
        cls,
        columns: Iterable[tuple[str, NDArray[Any]]],
        image: NDArray[np.int64],
        images: int,
        group: NDArray[np.int64] | None = None,
        groups: int = 1,
    ) -> ImageSums:
        """columns: (name, [N]) one after the other, so that only one is in memory; image: [N] in 0 .. images - 1.

        group: [N] in 0 .. groups - 1, or -1 for points of no group.
        """
        if group is None:
            place, kept = image, None
        else:
            kept = np.flatnonzero(group >= 0)
            place = image[kept] * groups + group[kept]
        size = images * groups
        values: dict[str, NDArray[np.float64]] = {}
        for name, column in columns:
            weights = np.asarray(column, dtype=np.float64)[... if kept is None else kept]
            values[name] = (
                np.bincount(place, weights=weights, minlength=size).astype(np.float64).reshape(images, groups)
            )
        return cls(values)

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(next(iter(self.values.values())))

    def total(self) -> dict[str, NDArray[np.float64]]:
        """Name -> [groups] sums over all images."""
        return {name: value.sum(axis=0) for name, value in self.values.items()}


def figures(
    sums: ImageSums, formulas: Mapping[str, Formula], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, list[dict[str, Any]]]:
    """Name -> for each group {value, ci [low, high]}, the interval by a percentile bootstrap over images.

    None where a figure does not exist (nothing to divide by), and for the ends of an interval of fewer than two images.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 (clusters) and 13 (percentiles).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = {name: formula(sums.total()) for name, formula in formulas.items()}
        drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in formulas}
        if sums.images >= 2:
            for draws in image_draws(sums.images, seed=seed, resamples=resamples):
                table = {name: np.tensordot(draws, column, axes=1) for name, column in sums.values.items()}
                for name, formula in formulas.items():
                    drawn[name].append(formula(table))
    ends = {name: interval(np.concatenate(blocks)) if blocks else None for name, blocks in drawn.items()}
    return {
        name: [
            {"value": plain(v), "ci": [None, None] if (found := ends[name]) is None else found[k]}
            for k, v in enumerate(value[name])
        ]
        for name in formulas
    }


def interval(drawn: NDArray[np.float64], level: float = LEVEL) -> list[list[float | None]]:
    """[B, groups] figures of the draws -> for each group [low, high].

    None where too few draws give a figure: the interval would be that of the draws which happened to hold its group.
    """
    found: list[list[float | None]] = []
    for column in drawn.T:
        known = column[np.isfinite(column)]
        if len(known) < max(2, _LEAST_DEFINED * len(column)):
            found.append([None, None])
            continue
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        found.append([float(low), float(high)])
    return found


def paired(
    first: ImageSums,
    second: ImageSums,
    formulas: Mapping[str, Formula],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, list[dict[str, Any]]]:
    """Differences `second` - `first` of two runs on the same points: for each group {value, ci, p}.

    ci: bootstrap over images, the same images drawn for both. p: two-sided permutation test: under the null hypothesis
    an image's two sets of errors could as well have been swapped; p is the share of random swaps (one coin for each
    image) whose difference is at least as large, the observed one counted in, so it is never 0.
    Source: Efron and Tibshirani, chapters 8 and 15; Phipson and Smyth, 2010 (the count of the observed one).
    """
    if first.images != second.images:
        raise ValueError(f"paired runs have the same images; got {first.images} and {second.images}")
    a, b = first.values, second.values
    with np.errstate(divide="ignore", invalid="ignore"):
        value = {name: f(second.total()) - f(first.total()) for name, f in formulas.items()}
        drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in formulas}
        beyond = {name: np.zeros(len(v)) for name, v in value.items()}
        tried = {name: np.zeros(len(v)) for name, v in value.items()}
        if first.images >= 2:
            coins = np.random.default_rng([seed, 1])
            for draws in image_draws(first.images, seed=seed, resamples=resamples):
                x, y = ({k: np.tensordot(draws, v, axes=1) for k, v in side.items()} for side in (a, b))
                swap = (coins.random(draws.shape) < 0.5).astype(np.float64)
                mixed = {k: np.tensordot(swap, b[k] - a[k], axes=1) for k in a}
                u = {k: a[k].sum(axis=0) + mixed[k] for k in a}
                w = {k: b[k].sum(axis=0) - mixed[k] for k in a}
                for name, formula in formulas.items():
                    drawn[name].append(formula(y) - formula(x))
                    swapped = np.abs(formula(w) - formula(u))
                    # A swap that changes nothing but the order of a sum counts as equal.
                    beyond[name] += (swapped >= np.abs(value[name]) * (1 - 1e-9) - 1e-12).sum(axis=0)
                    tried[name] += np.isfinite(swapped).sum(axis=0)
    result: dict[str, list[dict[str, Any]]] = {}
    for name in formulas:
        ends = interval(np.concatenate(drawn[name])) if drawn[name] else None
        result[name] = [
            {
                "value": plain(v),
                "ci": [None, None] if ends is None else ends[k],
                "p": float((beyond[name][k] + 1) / (tried[name][k] + 1)) if tried[name][k] and np.isfinite(v) else None,
            }
            for k, v in enumerate(value[name])
        ]
    return result


def holm(p: ArrayLike) -> list[float]:
    """p-values of several tests -> adjusted so that calling those below 0.05 different errs in 5 % of such families.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    steps = values[order] * (len(values) - np.arange(len(values)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(v) for v in adjusted]
