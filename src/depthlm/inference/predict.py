"""Measure points in one photograph: file in, plain values and their explanation out."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.camera_io import ResolvedCamera, resolve_camera
from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.inference.images import read_bytes
from depthlm.sample import decode_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from depthlm.inference.engine import Quantity
    from depthlm.models.loading import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """An upright picture, where its camera came from, and the points asked about, [N, 2] original pixels."""

    path: Path
    image: Image.Image
    resolved: ResolvedCamera
    uv: NDArray[np.float64]


def read_photo(
    path: Path,
    uv: Sequence[tuple[float, float]],
    *,
    focal: float | None = None,
    fov: float | None = None,
    file: Path | None = None,
    estimator: str | None = None,
    assume_fov: float | None = None,
) -> Photo:
    """Read a picture and find its camera. Raises InputError, with the file's name, for anything that does not fit."""
    data = read_bytes(path)
    upright = decode_image(data, where=str(path))
    try:
        # EXIF lives in the file as it is, not in the upright copy.
        resolved = resolve_camera(
            Image.open(io.BytesIO(data)), focal=focal, fov=fov, file=file, estimator=estimator, assume_fov=assume_fov
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
    outside = ~(np.isfinite(points).all(axis=1) & resolved.camera.contains(points))
    if outside.any():
        u, v = points[int(np.flatnonzero(outside)[0])]
        raise InputError(f"{path}: point ({u:g}, {v:g}) lies outside the {upright.width}x{upright.height} image")
    return Photo(path, upright, resolved, points)


def predict_image(
    loaded: LoadedModel,
    photo: Photo,
    *,
    task: Quantity = "distance",
    reference: str | None = None,
    answers: Quantity | None = None,
    read: str | None = None,
) -> dict[str, Any]:
    """Measure the photo's points. Lengths in metres; None where the model's answer holds no number.

    `value`, `low` and `high` are of the quantity `task`; the interval is the model's own belief, uncalibrated.
    """
    image, camera, uv = photo.resolved.straighten(photo.image, photo.uv)
    engine = Engine(loaded, reference=reference, read=read)
    m = engine.measure(image, uv, camera, answers=answers)
    factor = np.ones(len(uv)) if task == "distance" else camera.ray_factor(uv)
    points = [
        {
            "u": float(photo.uv[i, 0]),
            "v": float(photo.uv[i, 1]),
            "value": _number(m.distance[i] / factor[i]),
            "low": _number(m.low[i] / factor[i]),
            "high": _number(m.high[i] / factor[i]),
            "distance": _number(m.distance[i]),
            "z": _number(m.z[i]),
            "xyz": [float(x) for x in m.xyz[i]] if np.isfinite(m.xyz[i]).all() else None,
            "text": m.text[i],
        }
        for i in range(len(uv))
    ]
    return {
        "image": str(photo.path),
        "task": task,
        "reference": engine.reference.name,
        "read": engine.read,
        "interval": "uncalibrated",
        "camera": {**photo.resolved.camera.to_dict(), "reason": photo.resolved.reason},
        "points": points,
    }


def format_prediction(result: dict[str, Any]) -> str:
    """A few lines for people."""
    camera = result["camera"]
    lines = [
        f"{result['image']}  {camera['width']}x{camera['height']}",
        f"  camera     fx {camera['fx']:.1f} fy {camera['fy']:.1f} cx {camera['cx']:.1f} cy {camera['cy']:.1f}"
        f"  ({camera['reason']})",
    ]
    for point in result["points"]:
        where = f"  ({point['u']:g}, {point['v']:g})"
        if point["value"] is None:
            lines.append(f"{where}  no number in the answer {point['text']!r}")
            continue
        interval = "interval unknown"
        if point["low"] is not None:
            interval = f"uncalibrated 68 % interval {point['low']:.2f} to {point['high']:.2f} m"
        x, y, z = point["xyz"]
        lines.append(
            f"{where}  {result['task']} {point['value']:.2f} m  ({interval})"
            f"  z {z:.2f} m  xyz ({x:.2f}, {y:.2f}, {z:.2f}) m"
        )
    return "\n".join(lines)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
