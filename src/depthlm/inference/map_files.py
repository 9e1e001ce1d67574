"""A depth map of a photo, and the files it is kept in: arrays and pictures in the photo's own pixels, point clouds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.errors import InputError
from depthlm.inference.dense import depth_map
from depthlm.pointcloud import PointCloud, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.inference.backend import Backend, Quantity
    from depthlm.inference.predict import Photo

SUFFIXES = (".npy", ".png", ".ply", ".glb")
MAX_EDGE = 0.1  # PointCloud.filter: points on a depth edge belong to neither side
_FARTHEST_MM = 65_535


def map_photo(
    backend: Backend,
    photo: Photo,
    path: Path,
    *,
    budget: int,
    answers: Quantity | None = None,
    shape: Callable[[Image.Image], NDArray[np.floating[Any]]] | None = None,
    max_edge: float | None = MAX_EDGE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a photo densely and write the map; what was done, as plain values.

    path: .npy float32 metres along the principal axis; .png 16 bit, millimetres, 0 for none or beyond 65.5 m; .ply and
    .glb a coloured point cloud, without points whose `edge` is above max_edge. shape: the straightened picture -> what
    a relative-depth model sees. Raises InputError for another suffix
    before anything is asked.
    """
    check_suffix(path)
    image, camera, _ = photo.resolved.straighten(photo.image, photo.uv)
    relative = None if shape is None else shape(image)
    dense = depth_map(backend, image, camera, budget=budget, answers=answers, shape=relative, progress=progress)
    lens = photo.resolved.lens
    z = dense.z if lens is None else lens.map_to_original(dense.z)
    points = None
    if path.suffix in (".ply", ".glb"):
        cloud = PointCloud.from_depth(image, dense.z, camera).filter(max_edge=max_edge)
        cloud.save(path)
        points = len(cloud)
    else:
        write_whole(path, npy_bytes(z) if path.suffix == ".npy" else png_bytes(z))
    return {
        "image": str(photo.path),
        "out": str(path),
        "reference": backend.reference.name,
        "camera": {**photo.resolved.camera.to_dict(), "reason": photo.resolved.reason},
        "asked": len(dense.uv),
        "answered": int(np.isfinite(dense.measured).sum()),
        "z_range": [float(np.nanmin(z)), float(np.nanmax(z))],
        "confidence": float(dense.confidence.mean()),
        "points": points,
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
