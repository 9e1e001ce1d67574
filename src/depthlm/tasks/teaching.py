"""Easy questions that teach pointing and seeing before measuring: surface, colour, where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.tasks.answers import Word
from depthlm.tasks.base import Subject, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.tasks.base import Context

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


def colour_name(rgb: NDArray[np.floating]) -> str:
    """[3] sRGB 0..255 -> the nearest basic colour word."""
    return _NAMES[int(np.argmin(((_ANCHORS - rgb) ** 2).sum(axis=1)))]


class Surface(Task):
    """What does this point show? Needs surface labels."""

    name = "surface"
    answer = Word()
    wordings = {
        "english": ("What is at this point? Answer with one word. Point: {point}",),
        "nano": ("what is at {point}",),
    }

    def draw(self, context: Context) -> Subject | None:
        """The point, if the sample says what it shows."""
        return Subject((context.point,)) if context.surface is not None and context.surface[context.point] else None

    def truth(self, context: Context, subject: Subject) -> str:
        """The surface's name."""
        assert context.surface is not None
        return context.surface[subject.points[0]]


class Colour(Task):
    """Which colour is the image here? Mean of the 5x5 pixels round the point, before any marker is drawn."""

    name = "colour"
    answer = Word(_NAMES)
    wordings = {
        "english": ("Which colour is the image at this point? Answer with one word. Point: {point}",),
        "nano": ("what colour is at {point}",),
    }

    def truth(self, context: Context, subject: Subject) -> str:
        """The colour word."""
        x, y = np.round(context.view.uv[subject.points[0]]).astype(int)
        image = context.view.image
        box = (max(0, x - 2), max(0, y - 2), min(image.width, x + 3), min(image.height, y + 3))
        return colour_name(np.asarray(image.crop(box), dtype=np.float64).reshape(-1, 3).mean(axis=0))


class Where(Task):
    """Where is the marker? Answered in text coordinates; only asked of a marker."""

    name = "where"
    answer = Word()
    references = ("marker",)
    wordings = {
        "english": ("Where is this point? Answer with its (x, y). Point: {point}",),
        "nano": ("where is {point}",),
    }

    def truth(self, context: Context, subject: Subject) -> str:
        """The marker's place in the words of a text reference."""
        return context.prompt.pointer(context.text, context.view.uv[subject.points[0]], context.view.camera)
