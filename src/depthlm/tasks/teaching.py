"""Easy questions that teach pointing and seeing before measuring: surface, colour, nearer, where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.tasks.base import QA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.tasks.base import PointContext

# sRGB anchors of the basic colour words; a pixel takes the nearest one's name.
_COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 25),
    "grey": (128, 128, 128),
    "white": (230, 230, 230),
    "red": (190, 40, 40),
    "orange": (225, 140, 50),
    "brown": (120, 80, 45),
    "yellow": (225, 210, 80),
    "green": (70, 140, 60),
    "cyan": (80, 180, 190),
    "blue": (50, 80, 180),
    "purple": (120, 60, 150),
    "pink": (230, 150, 170),
}
_NAMES = tuple(_COLOURS)
_ANCHORS = np.array(list(_COLOURS.values()), dtype=np.float64)
_NEARER_RATIO = 1.15  # nearer-or-farther is only asked of points whose distances differ by more than this


def colour_name(rgb: NDArray[np.floating]) -> str:
    """[3] sRGB 0..255 -> the nearest basic colour word."""
    return _NAMES[int(np.argmin(((_ANCHORS - rgb) ** 2).sum(axis=1)))]


class Surface:
    """What does this point show? Needs surface labels."""

    name = "surface"
    markers = True

    def ask(self, context: PointContext) -> QA | None:
        """The surface name of the point, if the sample has one."""
        if context.surface is None or not context.surface[context.point]:
            return None
        return QA(f"what is at {context.pointer()}", context.surface[context.point])


class Colour:
    """Which colour is the image here? Mean of the 5x5 pixels round the point, before any marker is drawn."""

    name = "colour"
    markers = True

    def ask(self, context: PointContext) -> QA:
        """The colour word of the point."""
        x, y = np.round(context.view.uv[context.point]).astype(int)
        box = (
            max(0, x - 2),
            max(0, y - 2),
            min(context.view.image.width, x + 3),
            min(context.view.image.height, y + 3),
        )
        mean = np.asarray(context.view.image.crop(box), dtype=np.float64).reshape(-1, 3).mean(axis=0)
        return QA(f"what colour is at {context.pointer()}", colour_name(mean))


class Nearer:
    """Which of two points is nearer? Text references only: a view carries one marker."""

    name = "nearer"
    markers = False

    def ask(self, context: PointContext) -> QA | None:
        """The word first or second, for a second point drawn at a clearly different distance."""
        for _ in range(4):
            other = int(context.rng.integers(len(context.view.uv)))
            first, second = context.metres(), context.metres(other)
            if max(first / second, second / first) > _NEARER_RATIO:
                question = f"what is nearer {context.pointer()} or {context.pointer(other)}"
                return QA(question, "first" if first < second else "second")
        return None


class Where:
    """Where is the marker? Answered in text coordinates; only asked of a marker."""

    name = "where"
    markers = True

    def ask(self, context: PointContext) -> QA | None:
        """The marker's place in the words of a text reference."""
        if context.reference.kind != "marker":
            return None
        place = context.prompt.pointer(context.text, context.view.uv[context.point], context.view.camera)
        return QA(f"where is {context.pointer()}", place)
