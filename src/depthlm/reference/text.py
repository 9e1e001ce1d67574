"""Text references: the point is named by two integers in the question and the image stays as it is.

`text` is VLM3's (reference/vlm3.md 1.3): each axis normalised on its own to [0, R), nearest integer by Python's round.
`text-pixels` names raw pixels, the paper's losing alternative, kept for the ablation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from depthlm.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

Rounding = Literal["nearest", "floor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Coordinates min(R - 1, round(u / width * R)) on the padded view.

    coordinate_range: R. rounding: "nearest" (Python's round, half to even) or "floor".
    half_pixel: whether u + 0.5 enters in the place of u, i.e. whether 0 is the left edge of the first pixel (True) or
    its centre (False, as the released checkpoints).
    """

    coordinate_range: int = 2000
    rounding: Rounding = "nearest"
    half_pixel: bool = False
    name: str = "text"
    kind: Literal["text"] = "text"
    margin: int = 0

    def __post_init__(self) -> None:
        _check_rounding(self.rounding)
        if self.coordinate_range != int(self.coordinate_range) or self.coordinate_range < 2:
            raise InputError(f"coordinate_range is {self.coordinate_range}; expected a whole number of at least 2")

    def fits(self, uv: ArrayLike, width: int, height: int) -> bool:
        """Whether the point lies on the view."""
        return bool(_on_view(uv, width, height)[0])

    def which_fit(self, uv: ArrayLike, width: int, height: int) -> NDArray[np.bool_]:
        """[N, 2] points -> [N] which of them do."""
        return _on_view(uv, width, height)

    def draw(self, image: Image.Image, uv: ArrayLike, colour: int = 0) -> Image.Image:
        """The image itself: nothing is drawn."""
        return image

    def coordinates(self, uv: ArrayLike, width: int, height: int) -> tuple[int, int]:
        """[2] uv view pixels -> (x, y) integers in [0, R)."""
        x, y = self._exact(uv, width, height)
        last = self.coordinate_range - 1
        return _to_integer(x, self.rounding, last), _to_integer(y, self.rounding, last)

    def place(self, uv: ArrayLike, width: int, height: int) -> tuple[float, float]:
        """[2] uv -> the (x, y) that an answer in whole coordinates comes nearest to: exact, and true to `rounding`."""
        x, y = self._exact(uv, width, height)
        half = 0.0 if self.rounding == "nearest" else 0.5  # 7 stands for all of [7, 8) there, so its place is 7.5
        return x - half, y - half

    def pixel(self, x: float, y: float, width: int, height: int) -> tuple[float, float]:
        """(x, y) that an answer states -> uv pixels of the view: the inverse of `place`."""
        shift = 0.5 if self.half_pixel else 0.0
        half = 0.0 if self.rounding == "nearest" else 0.5
        return (
            (x + half) / self.coordinate_range * width - shift,
            (y + half) / self.coordinate_range * height - shift,
        )

    def _exact(self, uv: ArrayLike, width: int, height: int) -> tuple[float, float]:
        shift = 0.5 if self.half_pixel else 0.0
        u, v = np.asarray(uv, dtype=np.float64).reshape(2)
        return float((u + shift) / width * self.coordinate_range), float((v + shift) / height * self.coordinate_range)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelText:
    """Raw pixel coordinates in the question."""

    rounding: Rounding = "nearest"
    name: str = "text-pixels"
    kind: Literal["text"] = "text"
    margin: int = 0
    coordinate_range: None = None

    def __post_init__(self) -> None:
        _check_rounding(self.rounding)

    def fits(self, uv: ArrayLike, width: int, height: int) -> bool:
        """Whether the point lies on the view."""
        return bool(_on_view(uv, width, height)[0])

    def which_fit(self, uv: ArrayLike, width: int, height: int) -> NDArray[np.bool_]:
        """[N, 2] points -> [N] which of them do."""
        return _on_view(uv, width, height)

    def draw(self, image: Image.Image, uv: ArrayLike, colour: int = 0) -> Image.Image:
        """The image itself: nothing is drawn."""
        return image

    def coordinates(self, uv: ArrayLike, width: int, height: int) -> tuple[int, int]:
        """[2] uv view pixels -> (x, y) whole pixels of the view."""
        u, v = np.asarray(uv, dtype=np.float64).reshape(2)
        return _to_integer(u, self.rounding, width - 1), _to_integer(v, self.rounding, height - 1)


def _to_integer(value: float, rounding: Rounding, last: int) -> int:
    whole = round(float(value)) if rounding == "nearest" else math.floor(value)
    # A point may lie up to half a pixel outside the centres of the border pixels.
    return min(last, max(0, whole))


def _on_view(uv: ArrayLike, width: int, height: int) -> NDArray[np.bool_]:
    points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
    inside = (points >= -0.5) & (points < (width - 0.5, height - 0.5))
    return np.all(inside, axis=1)


def _check_rounding(rounding: str) -> None:
    if rounding not in ("nearest", "floor"):
        raise InputError(f"unknown rounding {rounding!r}; choose nearest or floor")
