"""What a dense map of z says about its pixels: depth edges near by, and how the surface is turned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera

EDGE_RATIO = 1.15  # farthest over nearest of a 3x3 window
BAND = 3  # pixels round an edge


def known_depths(z: ArrayLike) -> NDArray[np.float64]:
    """A copy as floats, NaN where there is no depth: not finite, zero or negative."""
    found = np.array(z, dtype=np.float64)
    found[~(np.isfinite(found) & (found > 0))] = np.nan
    return found


def edge_band(z: ArrayLike) -> NDArray[np.bool_]:
    """[H, W] pixels with a depth that lie within 3 px (either axis) of a depth edge of the map z, metres.

    An edge is a pixel in whose 3x3 window the farthest valid depth is more than 1.15 times the nearest.
    """
    g = known_depths(z)
    far = maximum_filter(np.where(np.isnan(g), -np.inf, g), 3)
    near = minimum_filter(np.where(np.isnan(g), np.inf, g), 3)
    with np.errstate(invalid="ignore"):
        edge = np.isfinite(g) & (far > EDGE_RATIO * near)
    return np.asarray(maximum_filter(edge, 2 * BAND + 1, mode="constant") & np.isfinite(g))


def incidence_deg(xyz: Callable[[int, int], NDArray[np.float64]]) -> NDArray[np.float64]:
    """[...] angle between line of sight and the surface's normal: 0 faces the camera, 90 is seen edge on.

    xyz(du, dv): [..., 3] the points that the pixels so many columns and rows away show, camera frame, NaN where there
    is none. From central differences; NaN where a neighbour or the point itself is missing.
    """
    normal, ray = np.cross(xyz(1, 0) - xyz(-1, 0), xyz(0, 1) - xyz(0, -1)), xyz(0, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.abs(np.sum(normal * ray, axis=-1))
        cosine /= np.linalg.norm(normal, axis=-1) * np.linalg.norm(ray, axis=-1)
        return np.asarray(np.degrees(np.arccos(np.clip(cosine, 0, 1))))


def point_facts(
    z: ArrayLike,
    u: NDArray[np.int64],
    v: NDArray[np.int64],
    camera: Camera,
    place: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of pixels u [N], v [N] of a map: near_edge [N], and incidence [N] in degrees.

    Incidence is NaN near edges, across which there is no surface, and beside pixels without a depth.
    place: columns and rows of the map -> [N, 2] pixels of `camera`, where they are not the same.
    """
    g = known_depths(z)
    height, width = g.shape

    def xyz(du: int, dv: int) -> NDArray[np.float64]:
        column, row = u + du, v + dv
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        depth = np.where(inside, g[row.clip(0, height - 1), column.clip(0, width - 1)], np.nan)
        uv = np.stack([column, row], axis=1).astype(np.float64) if place is None else place(column, row)
        return camera.unproject(uv, depth)

    near_edge = edge_band(g)[v, u]
    return near_edge, np.where(near_edge, np.nan, incidence_deg(xyz))
