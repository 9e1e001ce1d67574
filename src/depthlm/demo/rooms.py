"""The demo's settings, its rooms and their truth, and its progress bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.errors import InputError
from depthlm.sample import Sample
from depthlm.synth.generate import encode, synth_rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from depthlm.synth.render import Rendered

    Progress = Callable[[int, int], None]

# Seeds from 9,000,000 are kept for the demo: no recipe trains on them.
ROOM_SEED, LOOKUP_SEED = 9_000_000, 9_500_000
SIZE, FOCAL_RANGE = (256, 192), (150.0, 260.0)  # what nano was trained on
LOOKUP_SHRINK = 4  # the lookup's rooms need depths only, so they are rendered small
SETTINGS: dict[str, Any] = {"kind": "indoor", "size": SIZE, "focal_range": FOCAL_RANGE}


@dataclass(kw_only=True)
class DemoConfig:
    """How much the demo measures. The defaults take about a minute on 2 cores."""

    model: str = "nano"
    """`nano`, a model folder or a hub id."""
    rooms: int = 48
    """Rooms measured, at least 2."""
    points: int = 8
    """Points measured in each room, with every reference."""
    grid: tuple[int, int] = (32, 24)
    """Columns and rows of the coarse depth map."""
    lookup_rooms: int = 100
    """Other rooms that the lookup table is fitted on."""
    gallery: int = 4
    """Further rooms shown."""
    seed: int = 0
    """Which rooms, and which points in them."""
    workers: int | None = None
    """Processes that render; default: every core."""
    large: int = 4
    """How many times larger than the model sees it the first picture is rendered; the others half as many."""

    def __post_init__(self) -> None:
        for name, least in (
            ("rooms", 2),
            ("points", 1),
            ("lookup_rooms", 2),
            ("gallery", 0),
            ("seed", 0),
            ("large", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(f"demo: {name} is {getattr(self, name)}; expected at least {least}")
        if min(self.grid) < 2:
            raise InputError(f"demo: grid is {self.grid[0]}x{self.grid[1]}; expected at least 2x2 cells")
        if self.seed >= LOOKUP_SEED - ROOM_SEED:
            raise InputError(f"demo: seed is {self.seed}; expected less than {LOOKUP_SEED - ROOM_SEED}")


def with_random_points(room: Rendered, count: int, seed: list[int]) -> Sample:
    """The room as a sample whose points are drawn evenly from all pixels, the border included."""
    v, u = np.nonzero(np.isfinite(room.z))
    picked = np.random.default_rng(seed).choice(len(u), size=min(count, len(u)), replace=False)
    u, v = u[picked], v[picked]
    uv = np.stack([u, v], axis=1).astype(np.float64)
    return Sample(
        encode(room.image), room.camera, uv, room.z[v, u].astype(np.float64), scene=room.scene, frame=room.frame
    )


def larger(room: Rendered, scale: int, seed: int, index: int) -> Image.Image:
    """The same view of the same scene, `scale` times as large, for the reader. seed, index: the demo's, the room's."""
    if scale == 1:
        return as_seen(room)
    size = (scale * SIZE[0], scale * SIZE[1])
    focal = (scale * FOCAL_RANGE[0], scale * FOCAL_RANGE[1])
    seed += ROOM_SEED
    big = next(synth_rendered(1, seed=seed, views=1, kind="indoor", size=size, focal_range=focal, first_scene=index))
    assert np.allclose(big.pose, room.pose), "the same seed gives the same view at every size"
    return Image.fromarray(big.image)


def nearest_z(room: Rendered, uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] true z of the pixel each point lies in, metres."""
    u, v = np.floor(uv + 0.5).astype(int).T
    return room.z[v.clip(0, room.z.shape[0] - 1), u.clip(0, room.z.shape[1] - 1)].astype(np.float64)


def as_seen(room: Rendered) -> Image.Image:
    """The picture as the model is given it."""
    return Image.fromarray(room.image)


class Steps:
    """Shares of one progress bar of a hundred."""

    def __init__(self, progress: Progress | None) -> None:
        self.report = progress or (lambda done, total: None)
        self.done = 0.0

    def part(self, total: int, *, share: float) -> Progress:
        """A callback (done, total) that moves the bar on by `share` in all."""
        before = self.done
        self.done += share

        def callback(done: int, _: int) -> None:
            self.report(min(100, round(before + share * done / total)), 100)

        return callback

    def count(self, items: Iterable[Any], total: int, *, share: float) -> Iterable[Any]:
        """The items, counted as they pass."""
        callback = self.part(total, share=share)
        for number, item in enumerate(items, 1):
            yield item
            callback(number, total)
