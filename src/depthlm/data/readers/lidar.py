"""Lidar points -> labels of a camera: the chain of frames, a z-buffer, and what a nearer surface hides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import minimum_filter

from depthlm.data.readers.base import SparseLabels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera

# A lidar sits some decimetres beside the camera and sees past edges that the camera does not: its points on the wall
# behind a car land on the car's pixels. A point is hidden when another within WINDOW of it is nearer by more than a
# surface can recede there: TOLERANCE, or as steeply as a road seen from EYE metres above it.
WINDOW = 0.006  # radians to each side
TOLERANCE = (0.4, 0.08)  # metres, and share of the nearer z
EYE = 1.2  # metres


def quaternion_rotation(wxyz: ArrayLike) -> NDArray[np.float64]:
    """[4] quaternion (w first; normalised here) -> [3, 3] rotation."""
    w, x, y, z = np.asarray(wxyz, dtype=np.float64) / np.linalg.norm(np.asarray(wxyz, dtype=np.float64))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def transform(pose: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """[4, 4] pose, [N, 3] points -> [N, 3] points in the other frame."""
    matrix = np.asarray(pose, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def project_lidar(
    camera_from_lidar: ArrayLike, points: ArrayLike, camera: Camera, *, near: float = 0.5
) -> SparseLabels:
    """All points that fall on the picture, in front of the camera by `near` metres: [N, 3] lidar frame -> labels."""
    xyz = transform(camera_from_lidar, points)
    xyz = xyz[np.isfinite(xyz).all(axis=1)]
    xyz = xyz[xyz[:, 2] > near]
    uv = camera.project(xyz)
    on = camera.contains(uv)
    return SparseLabels(uv[on], xyz[on, 2])


def visible(labels: SparseLabels, camera: Camera) -> SparseLabels:
    """One point per pixel, the nearest, and none that a nearer surface hides (limits above); reading order."""
    if not labels.count:
        return labels
    column, row = np.round(labels.uv).astype(np.int64).T
    order = np.lexsort((labels.z, row * camera.width + column))
    flat = (row * camera.width + column)[order]
    order = order[np.r_[True, flat[1:] != flat[:-1]]]  # the nearest of each pixel
    uv, z = labels.uv[order], labels.z[order]
    # A grid of cells one window wide: the least z of a cell and its neighbours covers the window round its points.
    focal = (camera.fx + camera.fy) / 2
    cell = max(1.0, WINDOW * focal)
    columns, rows = (int(n / cell) + 1 for n in (camera.width, camera.height))
    i, j = np.floor((uv[:, 1] + 0.5) / cell).astype(int), np.floor((uv[:, 0] + 0.5) / cell).astype(int)
    nearest = np.full((rows, columns), np.inf)
    np.minimum.at(nearest, (i, j), z)
    front = minimum_filter(nearest, size=3, mode="constant", cval=np.inf)[i, j]
    recede = np.maximum(TOLERANCE[0] + TOLERANCE[1] * front, 2 * WINDOW * z**2 / EYE)
    keep = z <= front + recede
    return SparseLabels(uv[keep], z[keep])
