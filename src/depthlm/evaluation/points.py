"""Which labelled points an evaluation asks about: a seeded draw over all images, each point at most once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def choose_points(counts: Sequence[int], total: int, seed: int) -> NDArray[np.int64]:
    """`total` points drawn without replacement from all points of all images, every point equally likely.

    counts: how many labelled points each image has. Returns [min(total, sum), 2] rows (image, point of that image),
    sorted, so that the points of one image stand together. All points when there are fewer than `total`.
    Raises InputError when there is nothing to choose from, or nothing is asked for.
    """
    if total < 1:
        raise InputError(f"--points is {total}; expected at least 1")
    sizes = np.asarray(counts, dtype=np.int64).reshape(-1)
    available = int(sizes.sum())
    if available == 0:
        raise InputError("the data holds no labelled point; nothing to evaluate")
    flat = np.arange(available)
    if total < available:
        flat = np.sort(np.random.default_rng(seed).choice(available, size=total, replace=False, shuffle=False))
    ends = np.cumsum(sizes)
    image = np.searchsorted(ends, flat, side="right")
    point = flat - (ends - sizes)[image]
    return np.stack([image, point], axis=1)
