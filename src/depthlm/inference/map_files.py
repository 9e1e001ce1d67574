"""A depth map of a photo, and the files it is kept in: arrays and pictures in the photo's own pixels, point clouds."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.errors import InputError
from depthlm.inference.dense import depth_map
from depthlm.pointcloud import PointCloud, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.camera import Camera
    from depthlm.inference.backend import Backend, Quantity
    from depthlm.inference.dense import DenseMap
    from depthlm.inference.predict import Photo

SUFFIXES = (".npy", ".png", ".ply", ".glb")
MAX_EDGE = 0.1  # PointCloud.filter: points on a depth edge belong to neither side
_FARTHEST_MM = 65_535


@dataclass(frozen=True, slots=True, eq=False)
class PhotoMap:
    """A photo measured densely. image, camera: the photo without lens distortion, which is what `dense` is of."""

    photo: Photo
    image: Image.Image
    camera: Camera
    dense: DenseMap
    reference: str

    @property
    def z(self) -> NDArray[np.float32]:
        """[H, W] metres along the principal axis, in the photo's own pixels."""
        lens = self.photo.resolved.lens
        return self.dense.z if lens is None else lens.map_to_original(self.dense.z)

    def cloud(self, max_edge: float | None = MAX_EDGE) -> PointCloud:
        """The coloured points, without those whose `edge` is above max_edge."""
        return PointCloud.from_depth(self.image, self.dense.z, self.camera).filter(max_edge=max_edge)

    def save(self, path: Path, *, max_edge: float | None = MAX_EDGE) -> int | None:
        """Write the map or its cloud, by suffix (see `map_photo`); the number of points of a cloud.

        Raises InputError for another suffix and a folder that cannot be written.
        """
        check_suffix(path)
        if path.suffix in (".ply", ".glb"):
            cloud = self.cloud(max_edge)
            cloud.save(path)
            return len(cloud)
        write_whole(path, npy_bytes(self.z) if path.suffix == ".npy" else png_bytes(self.z))
        return None

    def summary(self) -> dict[str, Any]:
        """What was done and found, as plain values."""
        return {
            "image": str(self.photo.path),
            "reference": self.reference,
            "camera": {**self.photo.resolved.camera.to_dict(), "reason": self.photo.resolved.reason},
            "asked": len(self.dense.uv),
            "answered": int(np.isfinite(self.dense.measured).sum()),
            "z_range": [float(np.nanmin(self.z)), float(np.nanmax(self.z))],
            "confidence": float(self.dense.confidence.mean()),
        }


def measure_map(
    backend: Backend,
    photo: Photo,
    *,
    budget: int,
    answers: Quantity | None = None,
    shape: Callable[[Image.Image], NDArray[np.floating[Any]]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PhotoMap:
    """Measure a photo densely. shape: the straightened picture -> what a relative-depth model sees.

    progress: called with (asked, budget); what it raises ends the work. Raises InputError as `depth_map` does.
    """
    image, camera, _ = photo.straight
    relative = None if shape is None else shape(image)
    dense = depth_map(backend, image, camera, budget=budget, answers=answers, shape=relative, progress=progress)
    return PhotoMap(photo, image, camera, dense, backend.reference.name)


def map_photo(
    backend: Backend,
    photo: Photo,
    paths: Sequence[Path],
    *,
    budget: int,
    answers: Quantity | None = None,
    shape: Callable[[Image.Image], NDArray[np.floating[Any]]] | None = None,
    max_edge: float | None = MAX_EDGE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a photo densely and write the map to each of `paths`; what was done, as plain values.

    By suffix: .npy float32 metres along the principal axis; .png 16 bit, millimetres, 0 for none or beyond 65.5 m;
    .ply and .glb a coloured point cloud, without points whose `edge` is above max_edge. shape, progress: see
    `measure_map`. Raises InputError for another suffix before anything is asked.
    """
    for path in paths:
        check_suffix(path)
    found = measure_map(backend, photo, budget=budget, answers=answers, shape=shape, progress=progress)
    points = [found.save(path, max_edge=max_edge) for path in paths]
    return {
        **found.summary(),
        "out": ", ".join(map(str, paths)),
        "points": next((n for n in points if n is not None), None),
    }


def check_suffix(path: Path) -> None:
    """Raise InputError for a file that a map cannot be written to."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: cannot write a map as {path.suffix!r}; use {', '.join(SUFFIXES)}")


def npy_bytes(z: NDArray[np.float32]) -> bytes:
    """[H, W] metres as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, z.astype(np.float32))
    return buffer.getvalue()


def png_bytes(z: NDArray[np.float32]) -> bytes:
    """[H, W] metres as a 16 bit PNG of millimetres."""
    mm = np.rint(np.nan_to_num(z.astype(np.float64), nan=0.0) * 1000)
    buffer = io.BytesIO()
    Image.fromarray(np.where(mm <= _FARTHEST_MM, mm, 0).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def format_map(result: dict[str, Any]) -> str:
    """A few lines for people."""
    near, far = result["z_range"]
    camera = result["camera"]
    cloud = "" if result["points"] is None else f", {result['points']:,} points"
    return (
        f"{result['image']}  {camera['width']}x{camera['height']}\n"
        f"  camera     fx {camera['fx']:.1f} fy {camera['fy']:.1f}  ({camera['reason']})\n"
        f"  asked      {result['asked']:,} pixels by {result['reference']}, {result['answered']:,} answered\n"
        f"  z          {near:.2f} to {far:.2f} m, mean agreement {result['confidence']:.2f}\n"
        f"  written    {result['out']}{cloud}"
    )
