"""Example rooms: rendered when the page starts, never seen in training, with a truth to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlm.demo.rooms import ROOM_SEED, SETTINGS, as_seen, larger
from depthlm.synth.generate import synth_rendered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.camera import Camera

SHOWN = 4  # times as large as the model sees it
NUMBERS = (2, 4, 0, 5, 1, 3)  # of the demo's rooms: the first six, those that show most of a room first


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """image: what the model is shown. large: the same view for people. z: [H, W] true metres, NaN for none."""

    name: str
    image: Image.Image
    large: Image.Image
    camera: Camera
    z: NDArray[np.float64]


def example_rooms(numbers: Sequence[int] = NUMBERS, *, shown: int = SHOWN) -> list[Room]:
    """Rooms of the demo, by number. shown: how many times larger people see them than the model does."""
    made = []
    for place, number in enumerate(numbers, 1):
        (room,) = synth_rendered(1, seed=ROOM_SEED, views=1, workers=1, first_scene=number, **SETTINGS)
        made.append(
            Room(f"Room {place}", as_seen(room), larger(room, shown, 0, number), room.camera, room.z.astype(float))
        )
    return made
