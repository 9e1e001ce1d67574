"""A depth map of a rendered room by nano: where it asked, what it says, what is true. Writes docs/img/dense-room.png.

python examples/dense_map.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import depthlm
from depthlm.metrics import absrel, delta1
from depthlm.pictures import depth_picture, overview
from depthlm.synth.generate import synth_rendered

OUT = Path(__file__).resolve().parents[1] / "docs" / "img" / "dense-room.png"
BUDGET = 2000


def main() -> None:
    """Render, ask, draw, and print how right the map is."""
    rooms = synth_rendered(6, seed=800_000, views=1, size=(640, 480), focal_range=(400.0, 500.0))
    room = max(
        rooms, key=lambda one: np.subtract(*np.nanquantile(np.where(np.isfinite(one.z), one.z, np.nan), [0.9, 0.1]))
    )
    image = Image.fromarray(np.asarray(room.image))
    dense = depthlm.load("nano").depth_map(image, room.camera, budget=BUDGET)
    known = np.isfinite(room.z)
    near, far = np.quantile(room.z[known], [0.02, 0.98])
    asked = image.copy()
    draw = ImageDraw.Draw(asked)
    for u, v in dense.uv.tolist():
        draw.rectangle([u - 1, v - 1, u + 1, v + 1], fill=(255, 214, 10))
    panels = [
        (title, depth_picture(z, (640, 480), near=near, far=far))
        for title, z in ((f"nano's z from {BUDGET} questions", dense.z.astype(float)), ("true z", room.z))
    ]
    overview(asked, panels).save(OUT)
    print(f"delta1 {delta1(dense.z[known], room.z[known]):.3f}, AbsRel {absrel(dense.z[known], room.z[known]):.3f}")


if __name__ == "__main__":
    main()
