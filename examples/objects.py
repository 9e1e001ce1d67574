"""Draws docs/img/tasks-objects.png: the labelled objects of one generated room. `python examples/objects.py`."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from depthlm.synth.labels import labelled_objects
from depthlm.synth.render import render
from depthlm.synth.scene import build_scene, sample_camera

SEED, SIZE, FOCAL = 52, (768, 576), (480.0, 522.0)
COLOURS = ("red", "deepskyblue", "lime", "yellow", "magenta", "orange", "cyan", "white")

scene = build_scene(SEED)
camera, pose = sample_camera(scene, np.random.default_rng(SEED), SIZE, FOCAL)
rendered = render(scene, camera, pose)
figure = Figure(figsize=(SIZE[0] / 96, SIZE[1] / 96), dpi=96)
axes = figure.add_axes((0, 0, 1, 1))
axes.imshow(rendered.image)
for number, thing in enumerate(labelled_objects(scene, rendered)):
    colour = COLOURS[number % len(COLOURS)]
    u0, v0, u1, v1 = thing.box
    axes.plot([u0, u1, u1, u0, u0], [v0, v0, v1, v1, v0], color=colour, lw=1.5)
    corners = thing.corners()  # [8, 3]: neighbours differ in one of the three bits of their number
    if corners[:, 2].min() > 0.1:
        u, v = camera.project(corners).T
        for a, b in itertools.combinations(range(8), 2):
            if (a ^ b).bit_count() == 1:
                axes.plot([u[a], u[b]], [v[a], v[b]], color=colour, lw=0.8, ls=":")
    width, height, depth = thing.size
    text = f"{thing.name} {width:.2f} x {height:.2f} x {depth:.2f} m, {thing.visible:.0%}"
    place = min(max(u0 + 3, 3), SIZE[0] - 6 * len(text)), max(v0, 0) + 12 + 16 * (v0 < 0 and number % 2)
    axes.text(
        *place, text, fontsize=7.5, color="black",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5, "alpha": 0.85},
    )  # fmt: skip
axes.set_xlim(-0.5, SIZE[0] - 0.5)
axes.set_ylim(SIZE[1] - 0.5, -0.5)
axes.set_axis_off()
figure.savefig(Path(__file__).parents[1] / "docs" / "img" / "tasks-objects.png")
