"""What points say about one another: order of depths in pairs, and how often the same answer is given again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.evaluation.resample import RESAMPLES, ImageSums, figures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from depthlm.evaluation.resample import Sums

BANDS = ((0.10, 0.25), (0.25, 0.50), (0.50, np.inf))  # by how much the farther of a pair is farther
ROUNDS = 16
_STEP = 0.01  # metres: the two decimals that the protocol asks for
REUSE_DRAW = 100


def pair_columns(
    predicted: NDArray[np.float64],
    truth: NDArray[np.float64],
    image: NDArray[np.int64],
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Pairs of points of one image, in rounds: ([M] image, [M] band or -1, [M] error).

    error: 0 in the right order, 1 in the wrong one or where one has no answer, 0.5 where both were given the same
    answer: what a coin would add. An image's points are shuffled by seed and laid in a ring; round k pairs each with
    the k-th after it, so that an image of up to 2 * rounds + 1 points has each of its pairs once, a larger one
    `rounds` of each point's. Memory grows with the points, not with the pairs.
    """
    order = np.lexsort((np.random.default_rng([seed, 2]).random(len(image)), image))
    p, g, im = predicted[order], truth[order], image[order]
    _, start, size = np.unique(im, return_index=True, return_counts=True)
    first, count = np.repeat(start, size), np.repeat(size, size)
    place = np.arange(len(im)) - first
    for k in range(1, rounds + 1):
        use = (2 * k < count) | ((2 * k == count) & (place < k))  # half a turn meets each pair from both ends
        i = np.flatnonzero(use)
        if not len(i):
            return
        j = first[i] + (place[i] + k) % count[i]
        gap = np.maximum(g[i], g[j]) / np.minimum(g[i], g[j]) - 1
        band = np.full(len(i), -1)
        for number, (low, high) in enumerate(BANDS):
            band[(gap >= low) & (gap < high)] = number
        with np.errstate(invalid="ignore"):
            said = np.sign(p[i] - p[j])
        error = np.where(np.isfinite(said), (1 - said * np.sign(g[i] - g[j])) / 2, 1.0)
        yield im[i], band, error


def order_errors(
    predicted: NDArray[np.float64],
    truth: NDArray[np.float64],
    image: NDArray[np.int64],
    images: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """For each band {from, to, n, error {value, ci}}: share of pairs of one image put in the wrong order.

    image: [N] in 0 .. images - 1. A constant answer scores 0.5.
    Source: ordinal error of Chen et al., Single-Image Depth Perception in the Wild, arXiv 1604.03901 (their pairs are
    drawn by people; ours lie in bands of the true ratio, so that near-ties do not rule).
    """
    sums = order_sums(predicted, truth, image, images, seed=seed)
    found = figures(sums, {"error": order_error}, seed=seed, resamples=resamples)["error"]
    return [
        {"from": low, "to": None if np.isinf(high) else high, "n": int(n), "error": figure}
        for (low, high), n, figure in zip(BANDS, sums.total()["pairs"], found, strict=True)
    ]


def order_sums(
    predicted: NDArray[np.float64], truth: NDArray[np.float64], image: NDArray[np.int64], images: int, *, seed: int = 0
) -> ImageSums:
    """For each image and band: `pairs`, and how many of them are `wrong`. The same seed takes the same pairs."""
    wrong, pairs = np.zeros((2, images, len(BANDS)))
    for im, band, error in pair_columns(predicted, truth, image, seed=seed):
        part = ImageSums.of((("wrong", error), ("pairs", np.ones(len(im)))), im, images, band, len(BANDS))
        wrong += part.values["wrong"]
        pairs += part.values["pairs"]
    return ImageSums({"wrong": wrong, "pairs": pairs})


def order_error(sums: Sums) -> NDArray[np.float64]:
    """Share of the pairs in the wrong order."""
    return sums["wrong"] / sums["pairs"]


def reuse(
    said: NDArray[np.float64],
    image: NDArray[np.int64],
    images: int,
    *,
    digit: NDArray[np.int64] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """How many different numbers a model says, and whether it prefers a last digit.

    said: [N] the numbers as said, metres, NaN for none; equal when they agree to 0.01. digit: [N] the last digit as
    written, -1 for none; None takes it from `said` at two decimals.
    distinct_per_100: expected number of different values among 100 answers drawn with replacement,
    sum over values of 1 - (1 - share)^100; it does not depend on how many points there are, as a count of values does.
    (Hurlbert's rarefaction, 1971, with replacement.) A bootstrap sample repeats images and so its answers: its interval
    lies a little low.
    top_digit_share: share of the most frequent last digit; 0.1 for numbers without a preference.
    """
    known = np.isfinite(said)
    steps = np.round(said[known] / _STEP).astype(np.int64)
    _, value = np.unique(steps, return_inverse=True)
    digit = np.abs(steps) % 10 if digit is None else digit[known]
    place = image[known]
    distinct = _distinct(value, place, images, seed, resamples)
    sums = ImageSums.of([("n", np.ones(len(place)))], place, images, np.where(digit >= 0, digit, -1), 10)
    top = figures(
        ImageSums({"n": sums.values["n"][:, None, :]}),  # the ten digits are one figure's, not ten groups
        {"top": lambda s: s["n"].max(axis=-1) / s["n"].sum(axis=-1)},
        seed=seed, resamples=resamples,
    )["top"][0] if len(place) else {"value": None, "ci": [None, None]}  # fmt: skip
    counts = sums.total()["n"]
    return {
        "n": len(place),
        "values": int(value.max()) + 1 if len(value) else 0,
        "distinct_per_100": distinct,
        "top_digit": int(counts.argmax()) if counts.any() else None,
        "top_digit_share": top,
        "digits": [int(c) for c in counts],
    }


def _distinct(
    value: NDArray[np.int64], image: NDArray[np.int64], images: int, seed: int, resamples: int
) -> dict[str, Any]:
    """Not a ratio of sums: it takes the histogram of each draw, a sparse product [draws, images] x [images, values]."""
    from scipy.sparse import csr_array

    from depthlm.evaluation.resample import interval
    from depthlm.metrics import image_draws, plain

    if not len(value):
        return {"value": None, "ci": [None, None]}
    values = int(value.max()) + 1
    table = csr_array((np.ones(len(value)), (image, value)), shape=(images, values))

    def expected(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        share = counts / counts.sum(axis=-1, keepdims=True)
        return (1 - (1 - share) ** REUSE_DRAW).sum(axis=-1)

    drawn = []
    step = max(1, 4_000_000 // values)
    with np.errstate(invalid="ignore", divide="ignore"):
        if images >= 2:
            for draws in image_draws(images, seed=seed, resamples=resamples):
                drawn += [expected((table.T @ draws[at : at + step].T).T) for at in range(0, len(draws), step)]
        whole = plain(float(expected(np.asarray(table.sum(axis=0)).reshape(-1))))
    return {"value": whole, "ci": interval(np.concatenate(drawn)[:, None])[0] if drawn else [None, None]}
