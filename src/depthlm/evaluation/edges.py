"""Points that fly between the surfaces on either side of a depth edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.surfaces import BAND, edge_band, known_depths

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NEAR = 0.05  # a prediction within this share of a true depth lies on that surface


def flying_rate(predicted: ArrayLike, truth: ArrayLike) -> float | None:
    """Share of the pixels near true edges whose prediction lies on no surface near them; None without an edge.

    A pixel of `edge_band(truth)` flies when its predicted z differs by more than 5 % from every valid true z of its 7x7
    window; one without a prediction does not count. The truth itself scores 0, and blur only adds (a share of pixels
    far from both sides, by contrast, falls again under strong blur). predicted, truth: [H, W] metres.
    """
    p, g = known_depths(predicted), known_depths(truth)
    band = edge_band(g) & np.isfinite(p)
    v, u = np.nonzero(band)
    if not len(v):
        return None
    return float(flies(p[v, u], u, v, g).mean())


def flies(said: NDArray[np.float64], u: NDArray[np.int64], v: NDArray[np.int64], truth: ArrayLike) -> NDArray[np.bool_]:
    """[N] whether z said of pixels u [N], v [N] differs by more than 5 % from every true z of their 7x7 window.

    said: [N] metres; NaN flies. truth: [H, W] metres.
    """
    around = np.pad(known_depths(truth), BAND, constant_values=np.nan)
    lies = np.zeros(len(said), dtype=bool)
    for row in range(2 * BAND + 1):
        for column in range(2 * BAND + 1):
            true = around[v + row, u + column]
            with np.errstate(invalid="ignore"):
                lies |= np.abs(said - true) <= NEAR * true
    return ~lies
