"""Markers: a few red pixels drawn beside the queried one, which itself stays as it was.

The arrow is the released protocol of DepthLM pixel for pixel (reference/paper.md 1.2): with (x, y) the query truncated
to integers, a shaft of five pixels on its left and a head of two steps, nine pixels, drawn after the focal resize and
the crop. The other two shapes are the paper's Figure 9; their exact pixels are not published, these are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from depthlm.objects import Box

# The first is the released protocol's; the others tell several markers on one view apart.
COLOURS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (255, 0, 0)),
    ("blue", (0, 0, 255)),
    ("green", (0, 255, 0)),
    ("yellow", (255, 255, 0)),
    ("cyan", (0, 255, 255)),
)
RED = COLOURS[0][1]

_ARROW = (
    *((-step, 0) for step in range(1, 6)),
    *((-step - 1, side * step) for step in (1, 2) for side in (-1, 1)),
)
_SQUARE = tuple((dx, dy) for dx in range(-4, 5) for dy in range(-4, 5) if max(abs(dx), abs(dy)) == 4)
_CROSS = tuple(offset for step in range(2, 6) for offset in ((step, 0), (-step, 0), (0, step), (0, -step)))


@dataclass(frozen=True, slots=True)
class Marker:
    """A shape of red pixels around the queried one.

    offsets: (dx, dy) of every painted pixel from the queried pixel. margin: the border, in pixels, in which the
    released protocol draws nothing; the same for every shape, so that an ablation asks the same points.
    """

    name: str
    offsets: tuple[tuple[int, int], ...]
    margin: int = 5
    kind: Literal["marker"] = "marker"
    coordinate_range: None = None

    def fits(self, uv: ArrayLike, width: int, height: int) -> bool:
        """Whether the whole marker lies on a width x height view: 5 <= x < width - 5, and so for y."""
        return bool(self.which_fit(uv, width, height)[0])

    def which_fit(self, uv: ArrayLike, width: int, height: int) -> NDArray[np.bool_]:
        """[N, 2] points -> [N] which of them do."""
        pixels = np.asarray(uv, dtype=np.float64).reshape(-1, 2).astype(np.int64)
        m = self.margin
        inside = (pixels >= m) & (pixels < (width - m, height - m))
        return np.all(inside, axis=1)

    def draw(self, image: Image.Image, uv: ArrayLike, colour: int = 0) -> Image.Image:
        """A marked copy of the RGB image; colour: position in COLOURS.

        Raises ValueError where the marker does not fit: pad the view first.
        """
        if not self.fits(uv, image.width, image.height):
            raise ValueError(f"{self.name} at {tuple(_pixel(uv))} does not fit a {image.width}x{image.height} view")
        x, y = _pixel(uv)
        marked = image.copy()
        for dx, dy in self.offsets:
            marked.putpixel((x + dx, y + dy), COLOURS[colour][1])
        return marked

    def coordinates(self, uv: ArrayLike, width: int, height: int) -> tuple[int, int]:
        """Markers have no text coordinates."""
        raise ValueError(f"{self.name} is drawn on the image; it has no text coordinates")


def outline(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """The RGB image with a line of one pixel on the border pixels of each box, in the marker colours in that order.

    boxes: their edges (u0, v0, u1, v1); a box of whole pixels keeps every pixel outside it.
    """
    if not boxes:
        return image
    marked = image.copy()
    pen = ImageDraw.Draw(marked)
    for number, (u0, v0, u1, v1) in enumerate(boxes):
        left, top = max(0, round(u0 + 0.5)), max(0, round(v0 + 0.5))
        right, bottom = min(image.width - 1, round(u1 - 0.5)), min(image.height - 1, round(v1 - 0.5))
        pen.rectangle((min(left, right), min(top, bottom), right, bottom), outline=COLOURS[number][1])
    return marked


def _pixel(uv: ArrayLike) -> tuple[int, int]:
    """[2] uv -> the integer pixel, truncated as in the released protocol."""
    u, v = np.asarray(uv, dtype=np.float64).reshape(2)
    return int(u), int(v)


MARKERS: dict[str, Marker] = {
    marker.name: marker for marker in (Marker("arrow", _ARROW), Marker("square", _SQUARE), Marker("cross", _CROSS))
}
