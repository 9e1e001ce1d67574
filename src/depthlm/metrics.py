"""Depth metrics, each with its definition; every function takes [N] metres and knows nothing of files or models.

A prediction that could not be read from the answer is NaN. delta1 counts it as wrong; absrel and rmse leave it out, as
they have no value for it, and the number left out is reported beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

DELTA1_RATIO = 1.25


def is_correct(prediction: ArrayLike, truth: ArrayLike) -> NDArray[np.bool_]:
    """[N] whether max(p/g, g/p) < 1.25, strictly, and p > 0; NaN and non-positive predictions are wrong.

    Source: Eigen et al., arXiv 1406.2283, section 4 (threshold accuracy).
    """
    p, g = _pair(prediction, truth)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (p > 0) & (np.maximum(p / g, g / p) < DELTA1_RATIO)


def delta1(prediction: ArrayLike, truth: ArrayLike) -> float | None:
    """Share of all points that `is_correct`; None for no points."""
    correct = is_correct(prediction, truth)
    return float(correct.mean()) if correct.size else None


def absrel(prediction: ArrayLike, truth: ArrayLike) -> float | None:
    """Mean of |p - g| / g over the points that have a prediction; None when none has.

    Source: Eigen et al., arXiv 1406.2283, section 4.
    """
    p, g = _answered(prediction, truth)
    return float((np.abs(p - g) / g).mean()) if p.size else None


def rmse(prediction: ArrayLike, truth: ArrayLike) -> float | None:
    """Square root of the mean squared error, metres, over the points that have a prediction; None when none has."""
    p, g = _answered(prediction, truth)
    return float(np.sqrt(((p - g) ** 2).mean())) if p.size else None


def best_constant(truth: ArrayLike) -> tuple[float, float] | tuple[None, None]:
    """The one answer that maximises delta1 on these points, and that delta1: the floor a model has to beat.

    Exact, O(n log n): a constant c is right for g when c lies in the open interval (g / 1.25, 1.25 g), so a run of
    sorted depths is right together when its ends differ by less than a factor of 1.25 squared; c is the geometric
    mean of the ends of the longest such run (of several, the one nearest to the median in log depth).
    """
    g = np.sort(np.asarray(truth, dtype=np.float64).reshape(-1))
    if not g.size:
        return None, None
    last = np.searchsorted(g, g * DELTA1_RATIO**2, side="left") - 1
    last = np.maximum(last, np.arange(g.size))
    length = last - np.arange(g.size) + 1
    starts = np.flatnonzero(length == length.max())
    centres = np.sqrt(g[starts] * g[last[starts]])
    constant = float(centres[np.argmin(np.abs(np.log(centres / np.median(g))))])
    return constant, float(is_correct(np.full_like(g, constant), g).mean())


def bootstrap_interval(
    correct: ArrayLike, image: ArrayLike, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of a share, resampling whole images.

    correct: [N] bool. image: [N] which image each point is on: points of one image share its errors, so the image and
    not the point is what is drawn again. Returns (None, None) for fewer than two images: nothing can be said then.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 (clusters) and 13 (percentiles).
    """
    ids, inverse = np.unique(np.asarray(image).reshape(-1), return_inverse=True)
    images = len(ids)
    if images < 2:
        return None, None
    hits = np.bincount(inverse, weights=np.asarray(correct, dtype=np.float64).reshape(-1), minlength=images)
    counts = np.bincount(inverse, minlength=images).astype(np.float64)
    shares = [(draws @ hits) / (draws @ counts) for draws in image_draws(images, seed=seed, resamples=resamples)]
    low, high = np.quantile(np.concatenate(shares), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def image_draws(images: int, *, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """The draws of a bootstrap over images, in blocks [B, images]: how often each image is drawn.

    The same seed gives the same draws, whatever is computed from them; blocks bound the table to 32 MB.
    """
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // images)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield rng.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)


def _pair(prediction: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p = np.asarray(prediction, dtype=np.float64).reshape(-1)
    g = np.asarray(truth, dtype=np.float64).reshape(-1)
    if p.shape != g.shape:
        raise ValueError(f"{p.size} predictions for {g.size} depths")
    return p, g


def _answered(prediction: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, g = _pair(prediction, truth)
    known = np.isfinite(p)
    return p[known], g[known]


def plain(value: float) -> float | None:
    """A Python number, or None for what JSON cannot hold."""
    return float(value) if np.isfinite(value) else None
