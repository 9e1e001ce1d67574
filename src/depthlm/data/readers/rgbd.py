"""What the readers of depth-camera sets share: places of scans, times that belong together, poses, depth maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera_io import read_camera
from depthlm.data.readers.base import DenseLabels, FrameError
from depthlm.data.readers.files import read_depth_png, read_gray
from depthlm.data.readers.lidar import quaternion_rotation
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.camera import Camera
    from depthlm.lens import LensCamera

PICTURES = (".jpg", ".jpeg", ".png")
MILLIMETRE = 0.001
CONFIDENT = 1  # ARKit grades its depth 0 (low), 1, 2 (high): 0 is mostly edges and dark or shiny surfaces


def scans(root: Path, is_scan: Callable[[Path], bool]) -> list[str]:
    """Names of the scan folders: "" when `root` is one itself, else its sub-folders that are, sorted."""
    if not root.is_dir():
        return []
    if is_scan(root):
        return [""]
    return sorted(path.name for path in root.iterdir() if path.is_dir() and is_scan(path))


def in_scan(scan: str, name: str) -> str:
    """Id of a frame: its name, below its scan where there are several."""
    return f"{scan}/{name}" if scan else name


def pictures(folder: Path, suffixes: Sequence[str] = PICTURES) -> list[Path]:
    """The files of a folder with one of the suffixes (any case), sorted by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def nearest(times: NDArray[np.float64], time: float, within: float) -> int | None:
    """Place of the nearest of the sorted [N] `times`, or None when it is farther than `within` seconds."""
    if not len(times):
        return None
    right = int(np.searchsorted(times, time))
    best = min((i for i in (right - 1, right) if 0 <= i < len(times)), key=lambda i: abs(float(times[i]) - time))
    # Stamps have 3 or more decimals: a difference of exactly `within` must not fail for its last binary digit.
    return best if abs(float(times[best]) - time) <= within + 1e-6 else None


def pose_matrix(xyz: Sequence[float], xyzw: Sequence[float]) -> NDArray[np.float64]:
    """[4, 4] from a position and a quaternion (w last); not finite where they are not (files.rigid refuses it then)."""
    x, y, z, w = xyzw
    pose = np.eye(4)
    with np.errstate(invalid="ignore", divide="ignore"):
        pose[:3, :3] = quaternion_rotation((w, x, y, z))
    pose[:3, 3] = xyz
    return pose


def known_pose(pose: NDArray[np.float64]) -> tuple[float, ...] | None:
    """For FrameRef.pose: 16 numbers, or None where one is not finite (`read` says so then)."""
    return tuple(pose.ravel().tolist()) if np.isfinite(pose).all() else None


def camera_file(path: Path, size: tuple[int, int]) -> LensCamera:
    """`read_camera` for one frame of a tree: what is wrong with the file is a FrameError."""
    try:
        return read_camera(path, size)
    except InputError as error:
        raise FrameError(str(error)) from error


def check_shape(z: NDArray[Any], camera: Camera, path: Path) -> None:
    """A depth map of another shape than its picture cannot be stretched over it. Raises FrameError."""
    height, width = z.shape
    # Rounding a size to whole pixels may cost one of the smaller grid.
    if abs(camera.width * height - camera.height * width) > max(camera.width, camera.height):
        raise FrameError(
            f"{path}: depth map is {width}x{height} but its picture {camera.width}x{camera.height}, another shape; "
            "depth must be registered to the picture and cover the same view"
        )


def dense_png(
    path: Path,
    camera: Camera,
    metres: float = MILLIMETRE,
    *,
    lens: LensCamera | None = None,
    confidence: Path | None = None,
) -> DenseLabels:
    """A registered 16-bit depth picture -> labels; with ARKit's grades, only readings of CONFIDENT or better.

    `camera` is that of the original picture; with `lens` the depth lies in its distorted grid.
    """
    z, valid = read_depth_png(path, metres)
    check_shape(z, camera, path)
    if confidence is not None:
        grade = read_gray(confidence)
        if grade.shape != z.shape:
            raise FrameError(f"{confidence}: confidence of shape {grade.shape} for a depth map of shape {z.shape}")
        valid &= grade >= CONFIDENT
    return DenseLabels(z, valid, lens)
