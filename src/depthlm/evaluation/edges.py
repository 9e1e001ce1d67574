"""Depth edges of a true map, and points that fly between the surfaces on either side of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EDGE_RATIO = 1.15  # farthest over nearest of a 3x3 window
BAND = 3  # pixels round an edge
NEAR = 0.05  # a prediction within this share of a true depth lies on that surface


def edge_band(z: ArrayLike) -> NDArray[np.bool_]:
    """[H, W] pixels with a depth that lie within 3 px (either axis) of a depth edge of the map z, metres.

    An edge is a pixel in whose 3x3 window the farthest valid depth is more than 1.15 times the nearest.
    """
    g = _known(z)
    far = maximum_filter(np.where(np.isnan(g), -np.inf, g), 3)
    near = minimum_filter(np.where(np.isnan(g), np.inf, g), 3)
    with np.errstate(invalid="ignore"):
        edge = np.isfinite(g) & (far > EDGE_RATIO * near)
    side = 2 * BAND + 1
    return np.asarray(binary_dilation(edge, np.ones((side, side))) & np.isfinite(g))


def flying_rate(predicted: ArrayLike, truth: ArrayLike) -> float | None:
    """Share of the pixels near true edges whose prediction lies on no surface near them; None without an edge.

    A pixel of `edge_band(truth)` flies when its predicted z differs by more than 5 % from every valid true z of its 7x7
    window; one without a prediction does not count. The truth itself scores 0, and blur only adds (a share of pixels
    far from both sides, by contrast, falls again under strong blur). predicted, truth: [H, W] metres.
    """
    p, g = _known(predicted), _known(truth)
    band = edge_band(g) & np.isfinite(p)
    v, u = np.nonzero(band)
    if not len(v):
        return None
    around = np.pad(g, BAND, constant_values=np.nan)
    said = p[v, u]
    lies = np.zeros(len(v), dtype=bool)
    for row in range(2 * BAND + 1):
        for column in range(2 * BAND + 1):
            true = around[v + row, u + column]
            with np.errstate(invalid="ignore"):
                lies |= np.abs(said - true) <= NEAR * true
    return float((~lies).mean())


def _known(z: ArrayLike) -> NDArray[np.float64]:
    """A copy as floats, NaN where there is no depth."""
    found = np.array(z, dtype=np.float64)
    found[~(np.isfinite(found) & (found > 0))] = np.nan
    return found
