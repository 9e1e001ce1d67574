"""Small trees in official layouts, written from procedural rooms whose geometry is known exactly."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from depthlm.camera import Camera
from depthlm.synth.render import render
from depthlm.synth.scene import build_scene, sample_camera

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.data.readers.base import Frame


@dataclass(frozen=True)
class Known:
    """A rendered view: rgb [H, W, 3] uint8, z [H, W] float32 metres (NaN: nothing), its camera and pose [4, 4]."""

    rgb: NDArray[np.uint8]
    z: NDArray[np.float32]
    camera: Camera
    pose: NDArray[np.float64]

    def encoded(self, form: str = "JPEG") -> bytes:
        """The picture as a file."""
        buffer = io.BytesIO()
        Image.fromarray(self.rgb).save(buffer, form)
        return buffer.getvalue()


@functools.lru_cache(maxsize=32)
def known_view(
    seed: int = 0, width: int = 64, height: int = 48, *, camera: Camera | None = None, kind: str = "indoor"
) -> Known:
    """One view of a procedural scene; `camera` replaces the drawn one (its size counts then)."""
    rng = np.random.default_rng([seed, width, height])
    scene = build_scene(seed, kind)
    size = (width, height) if camera is None else (camera.width, camera.height)
    focal = 0.8 * size[0]
    drawn, pose = sample_camera(scene, rng, size, (focal, focal))
    rendered = render(scene, camera or drawn, pose, frame="0", rng=rng)
    return Known(rendered.image, rendered.z, rendered.camera, rendered.pose)


def check_labels(frame: Frame, known: Known, *, z_tolerance: float, pixels: float = 0.5) -> None:
    """Every label lies within `pixels` of a pixel centre of `known` and says that pixel's z within `z_tolerance` m.

    At an edge of the scene half a pixel decides between two surfaces: any z of the 3x3 neighbourhood counts there.
    """
    uv, z = frame.labels.take(np.arange(frame.labels.count), frame.camera)
    assert len(z), "no label at all"
    near = np.round(uv).astype(int)
    assert np.abs(uv - near).max() <= pixels
    height, width = known.z.shape
    best = np.full(len(z), np.inf)
    for dv in (-1, 0, 1):
        for du in (-1, 0, 1):
            u, v = (near[:, 0] + du).clip(0, width - 1), (near[:, 1] + dv).clip(0, height - 1)
            best = np.fmin(best, np.abs(known.z[v, u] - z))
    centre = np.abs(known.z[near[:, 1], near[:, 0]] - z)
    assert np.mean(centre <= z_tolerance) > 0.95, f"only {np.mean(centre <= z_tolerance):.3f} of the labels are right"
    assert best.max() <= z_tolerance


def write_ibims(root: Path, frames: int) -> list[str]:
    """An iBims-1 core_raw tree of `frames` rooms; the names of its pictures."""
    names = [f"room_{i:03d}" for i in range(frames)]
    for folder in ("rgb", "depth", "calib", "mask_invalid", "mask_transp"):
        (root / folder).mkdir(parents=True)
    for i, name in enumerate(names):
        known = known_view(i % 8)
        z = np.nan_to_num(known.z, nan=0.0).astype(np.float64)
        Image.fromarray(np.roll(known.rgb, i, axis=1)).save(root / "rgb" / f"{name}.png")  # no two pictures alike
        Image.fromarray((z * 65535 / 50).round().astype(np.uint16)).save(root / "depth" / f"{name}.png")
        for mask in ("mask_invalid", "mask_transp"):
            Image.fromarray(np.full(z.shape, 255, np.uint8)).save(root / mask / f"{name}.png")
        c = known.camera
        (root / "calib" / f"{name}.txt").write_text(f"{c.fx},{c.fy},{c.cx},{c.cy}\n")
    (root / "imagelist.txt").write_text("\n".join(names) + "\n")
    return names
