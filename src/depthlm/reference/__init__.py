"""References: how a question points at a pixel, by a marker drawn on the image or by text coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from depthlm.errors import InputError
from depthlm.reference.marker import COLOURS, MARKERS, Marker, outline
from depthlm.reference.text import PixelText, Rounding, Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from depthlm.objects import Box

Kind = Literal["marker", "text"]

REFERENCE_NAMES: tuple[str, ...] = (*MARKERS, "text", "text-pixels")


class Reference(Protocol):
    """One way to point at a pixel. `uv` is one point [2] in view pixels (centre of the top-left pixel is (0, 0))."""

    @property
    def name(self) -> str:
        """One of REFERENCE_NAMES."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether it is drawn on the image or said in the question."""
        ...

    @property
    def margin(self) -> int:
        """Pixels that must lie between the point and every border of the view."""
        ...

    @property
    def coordinate_range(self) -> int | None:
        """R of text coordinates in [0, R); None where the reference has none (markers, raw pixels)."""
        ...

    def fits(self, uv: ArrayLike, width: int, height: int) -> bool:
        """Whether the point can be referred to on a view of that size."""
        ...

    def which_fit(self, uv: ArrayLike, width: int, height: int) -> NDArray[np.bool_]:
        """[N, 2] points -> [N] which of them can be."""
        ...

    def draw(self, image: Image.Image, uv: ArrayLike, colour: int = 0) -> Image.Image:
        """A marked copy of the RGB view, in the colour of that number (COLOURS); text references return the view."""
        ...

    def coordinates(self, uv: ArrayLike, width: int, height: int) -> tuple[int, int]:
        """The two integers a text question names. Raises ValueError for markers."""
        ...


def get_reference(
    name: str, coordinate_range: int = 2000, rounding: Rounding = "nearest", half_pixel: bool = False
) -> Reference:
    """The reference of that name: arrow, square, cross, text or text-pixels.

    coordinate_range, rounding, half_pixel: what a checkpoint's text coordinates mean (its `depthlm.json`); markers
    ignore them. Raises InputError for an unknown name or an unusable range.
    """
    if name in MARKERS:
        return MARKERS[name]
    if name == "text":
        return Text(coordinate_range=coordinate_range, rounding=rounding, half_pixel=half_pixel)
    if name == "text-pixels":
        return PixelText(rounding=rounding)
    raise InputError(f"unknown reference {name!r}; choose one of {', '.join(REFERENCE_NAMES)}")


def group_apart(uv: NDArray[np.float64], most: int, apart: float) -> list[list[int]]:
    """Rows of uv [N, 2] in groups of at most `most`; no two of a group lie within `apart` pixels along both axes.

    First come, first served: each row joins the first group that has room for it.
    """
    groups: list[list[int]] = []
    for row in range(len(uv)):
        for group in groups:
            if len(group) < most and (abs(uv[group] - uv[row]).max(axis=1) > apart).all():
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def draw_marks(
    reference: Reference, image: Image.Image, uv: Iterable[ArrayLike], boxes: Sequence[Box] = ()
) -> Image.Image:
    """The RGB view with a marker at each of uv, told apart by colour; text references draw nothing.

    boxes: the edges (u0, v0, u1, v1) of objects, which any marker reference outlines.
    """
    for number, point in enumerate(uv):
        image = reference.draw(image, point, number)
    return outline(image, boxes) if reference.kind == "marker" else image


__all__ = [
    "COLOURS",
    "MARKERS",
    "REFERENCE_NAMES",
    "Kind",
    "Marker",
    "PixelText",
    "Reference",
    "Rounding",
    "Text",
    "draw_marks",
    "get_reference",
    "group_apart",
]
