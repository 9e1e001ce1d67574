"""The best guess without looking: a table from (u, v, focal length) to one depth per cell.

Beside the best constant it tells how much of a score is the picture's layout (floors are below and near, the middle is
far) and how much is seen. It knows everything about the data except the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from depthlm.errors import InputError
from depthlm.metrics import best_constant, is_correct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera

_BINS = tuple(product((1, 2, 4, 8), (4, 6, 8, 12, 16), (1, 2, 4)))  # columns, rows, focal lengths
_FEWEST = 20  # a cell with fewer points has nothing of its own to say: it takes the constant


def lookup_features(uv: ArrayLike, camera: Camera) -> NDArray[np.float64]:
    """[N, 2] uv -> [N, 3]: column and row as shares of the image, focal length in image widths."""
    points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
    place = (points + 0.5) / (camera.width, camera.height)
    return np.column_stack([place, np.full(len(points), camera.fx / camera.width)])


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """edges: the inner bin edges of the three features; values: [columns, rows, focals] metres."""

    edges: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    values: NDArray[np.float64]

    def predict(self, features: ArrayLike) -> NDArray[np.float64]:
        """[N, 3] `lookup_features` -> [N] metres."""
        return self.values[_cells(np.asarray(features, dtype=np.float64).reshape(-1, 3), self.edges)]


def lookup_baseline(features: ArrayLike, truth: ArrayLike, image: ArrayLike) -> Lookup:
    """The table that scores best: its size is chosen on held-out images, then it is filled from all.

    features: [N, 3] of `lookup_features`; truth: [N] metres; image: [N] which image each point is on (half of the
    images are held out for the choice). Every cell holds its delta1-optimal constant. Raises InputError for fewer than
    two images: there is then nothing to hold out.
    """
    x = np.asarray(features, dtype=np.float64).reshape(-1, 3)
    g = np.asarray(truth, dtype=np.float64).reshape(-1)
    ids, inverse = np.unique(np.asarray(image).reshape(-1), return_inverse=True)
    if len(ids) < 2:
        raise InputError(f"a lookup table needs points of at least 2 images; got {len(ids)}")
    held = inverse % 2 == 1

    def score(bins: Sequence[int]) -> float:
        return float(is_correct(_fit(x[~held], g[~held], bins).predict(x[held]), g[held]).mean())

    return _fit(x, g, max(_BINS, key=score))


def _fit(x: NDArray[np.float64], g: NDArray[np.float64], bins: Sequence[int]) -> Lookup:
    edges = (
        np.linspace(0, 1, bins[0] + 1)[1:-1],
        np.linspace(0, 1, bins[1] + 1)[1:-1],
        np.quantile(x[:, 2], np.linspace(0, 1, bins[2] + 1)[1:-1]),
    )
    constant, _ = best_constant(g)
    values = np.full(tuple(bins), constant, dtype=np.float64)
    flat = np.ravel_multi_index(_cells(x, edges), values.shape)
    order = np.argsort(flat, kind="stable")
    cells, starts = np.unique(flat[order], return_index=True)
    for cell, members in zip(cells, np.split(order, starts[1:]), strict=True):
        if len(members) >= _FEWEST:
            values.flat[cell] = best_constant(g[members])[0]
    return Lookup(edges, values)


def _cells(
    x: NDArray[np.float64], edges: tuple[NDArray[np.float64], ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    columns, rows, focals = (np.searchsorted(edge, x[:, k], side="right") for k, edge in enumerate(edges))
    return columns, rows, focals
