"""Draws docs/img/two-images.png: two pictures of a room, and what docs/tasks.md says of the motion between them.

python examples/two_images.py [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm.covisibility import Sight, covisibility, sight
from depthlm.motion import rotation_matrix
from depthlm.synth.generate import to_sample
from depthlm.synth.render import render
from depthlm.synth.scene import build_scene, sample_camera

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from depthlm.sample import Sample

# The worked example of docs/tasks.md.
YAW, PITCH, ROLL = 30.0, 10.0, -5.0
WAY = (0.5, -0.1, 2.0)
SCENE, VIEW = 9_100_007, 2  # a room with space ahead of the camera
FIRST, SECOND = "#1f6fb4", "#c8501e"
MATCHES = 6


def example() -> np.ndarray:
    """[4, 4] pose of the second camera in the frame of the first."""
    motion = np.eye(4)
    motion[:3, :3] = rotation_matrix(YAW, PITCH, ROLL)
    motion[:3, 3] = WAY
    return motion


def pair() -> tuple[Sample, Sample]:
    """A room from two places that lie as in the example."""
    scene = build_scene(SCENE, "indoor")
    rng = np.random.default_rng([SCENE, VIEW])
    camera, pose = sample_camera(scene, rng, (512, 384), (300.0, 300.0))
    views = [render(scene, camera, p, frame=str(k), rng=rng) for k, p in enumerate((pose, pose @ example()))]
    first, second = (to_sample(scene, view, 1200, rng) for view in views)
    return first, second


def draw(out: Path) -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    first, second = pair()
    figure = plt.figure(figsize=(11, 8.2), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    pictures = [figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])]
    uv, state = sight(first, second)
    width, height = first.camera.width, first.camera.height
    inside = (first.uv[:, 0] < 0.9 * width) & (uv[:, 0] < 0.9 * width) & (uv[:, 1] > 0.1 * height)
    visible = np.flatnonzero((state == Sight.VISIBLE) & inside)
    chosen = visible[np.linspace(0, len(visible) - 1, MATCHES + 2).astype(int)[1:-1]]
    seen = (
        f"shows {covisibility(first, second):.0%} of image 1's points (the other way {covisibility(second, first):.0%})"
    )
    for axes, sample, points, title in zip(
        pictures,
        (first, second),
        (first.uv[chosen], uv[chosen]),
        ("image 1: the question's frame", f"image 2: {seen}"),
        strict=True,
    ):
        axes.imshow(sample.load_image())
        for number, (u, v) in enumerate(points, 1):
            axes.plot(u, v, "o", mfc="none", mec="white", mew=1.6, ms=9)
            axes.annotate(str(number), (u, v), (6, 6), textcoords="offset points", color="white", weight="bold")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    plans = [figure.add_subplot(grid[1, 2 * k : 2 * k + 2]) for k in range(3)]
    from_above(plans[0])
    from_the_side(plans[1])
    from_behind(plans[2])
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def from_above(axes: Axes) -> None:
    """From above, x and z: where the second camera stands, and yaw."""
    x, _, z = WAY
    _camera(axes, (0, 0), 0, FIRST, "camera 1")
    _camera(axes, (x, z), YAW, SECOND, "camera 2")
    axes.annotate("", (x, z), (0, 0), arrowprops={"arrowstyle": "->", "color": "black", "lw": 1.2})
    axes.text(0.34, 0.9, f"moved {np.linalg.norm(WAY):.2f} m", fontsize=9)
    axes.plot([x, x], [z, z + 1], ":", color="grey")
    _arc(axes, (x, z), 0.8, 90 - YAW, 90, f"yaw +{YAW:.0f}\u00b0 (right)", (x - 0.15, z + 1.1))
    axes.set_title("from above: X right, Z forward", fontsize=10)
    axes.set(xlim=(-1, 2.2), ylim=(-0.4, 3.5), xlabel="X (m)", ylabel="Z (m)", aspect="equal")


def from_the_side(axes: Axes) -> None:
    """From its right, z and y of a camera that has yawed already: pitch."""
    axes.plot([0, 1.5], [0, 0], ":", color="grey")
    axes.text(1.5, 0.12, "forward, after yaw", fontsize=8, ha="right", va="center", color="grey")
    tip = 1.5 * np.cos(np.radians(PITCH)), -1.5 * np.sin(np.radians(PITCH))
    axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": SECOND, "lw": 2})
    _arc(axes, (0, 0), 1.1, -PITCH, 0, f"pitch +{PITCH:.0f}\u00b0 (up)", (0.25, -0.42))
    axes.set_title("from the right side: Z forward, Y down", fontsize=10)
    axes.set(xlim=(-0.2, 1.8), ylim=(0.7, -0.7), xlabel="forward", ylabel="Y (down)", aspect="equal")


def from_behind(axes: Axes) -> None:
    """From behind, x and y of a camera that has yawed and pitched already: roll."""
    axes.plot([-1, 1], [0, 0], ":", color="grey")
    turn = np.radians(ROLL)
    right, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    box = np.array([-right * 0.8 - down * 0.5, right * 0.8 - down * 0.5, right * 0.8 + down * 0.5])
    box = np.concatenate([box, [-right * 0.8 + down * 0.5, box[0]]])
    axes.plot(*box.T, color=SECOND, lw=2)
    axes.annotate("", right, (0, 0), arrowprops={"arrowstyle": "->", "color": SECOND, "lw": 2})
    axes.text(*(1.05 * right), "its right", fontsize=8, va="bottom")
    axes.text(-1.1, -0.72, f"roll {ROLL:.0f}\u00b0 (banks left: left side lower)", fontsize=9)
    axes.set_title("from behind: X right, Y down", fontsize=10)
    axes.set(xlim=(-1.2, 1.6), ylim=(0.9, -0.9), xlabel="X (right)", ylabel="Y (down)", aspect="equal")


def _camera(axes: Axes, place: tuple[float, float], yaw: float, colour: str, name: str) -> None:
    """A field of view seen from above."""
    for side in (-26, 0, 26):
        angle = np.radians(yaw + side)
        tip = place[0] + np.sin(angle), place[1] + np.cos(angle)
        axes.plot(*zip(place, tip, strict=True), color=colour, lw=2 if side == 0 else 1)
    axes.plot(*place, "o", color=colour)
    axes.annotate(name, place, (8, -10), textcoords="offset points", fontsize=9, color=colour)


def _arc(
    axes: Axes,
    centre: tuple[float, float],
    radius: float,
    start: float,
    stop: float,
    text: str,
    at: tuple[float, float],
) -> None:
    angles = np.radians(np.linspace(start, stop, 20))
    axes.plot(centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles), color=SECOND, lw=1)
    axes.text(*at, text, fontsize=9, color=SECOND)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "img" / "two-images.png")
