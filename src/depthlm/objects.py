"""Labelled objects of one image: the rectangle of what is seen of each, and its box in space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera

Box = tuple[float, float, float, float]
_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_MIRROR = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """One object that an image shows.

    name: what it is ("chair"). box: (u0, v0, u1, v1) pixels, the edges of the rectangle round every pixel that shows
    it; pixel column k reaches from k - 0.5 to k + 0.5. size: (width, height, depth) of its box in space, metres: across
    its front, upright, from its front to its back. center: [3] of that box in the camera frame, metres. axes: [9] the
    rotation matrix, row by row, whose columns are its width, height (downwards) and depth (to its back) directions in
    the camera frame: the identity for what is seen squarely from its front. visible: the share of it, 0 to 1, that
    lies on the image and is not hidden.
    """

    name: str
    box: Box
    size: tuple[float, float, float]
    center: tuple[float, float, float]
    axes: tuple[float, ...]
    visible: float = 1.0

    @property
    def rotation(self) -> NDArray[np.float64]:
        """`axes` as a matrix, [3, 3]."""
        return np.array(self.axes, dtype=np.float64).reshape(3, 3)

    @property
    def up(self) -> NDArray[np.float64]:
        """[3] the direction away from the floor it stands on, in the camera frame."""
        return -self.rotation[:, 1]

    @property
    def volume(self) -> float:
        """Of its box, cubic metres."""
        return float(np.prod(self.size))

    def corners(self) -> NDArray[np.float64]:
        """[8, 3] of its box in the camera frame, metres."""
        return _CORNERS * self.size @ self.rotation.T + self.center

    def span(self, direction: ArrayLike) -> tuple[float, float]:
        """From where to where its box reaches along a unit vector [3] of the camera frame, metres from the camera."""
        along = self.corners() @ np.asarray(direction, dtype=np.float64)
        return float(along.min()), float(along.max())

    def mirrored(self) -> LabelledObject:
        """The same object in the left-right mirrored world, x -> -x; its pixels are left as they are."""
        x, y, z = self.center
        # Mirrored on both sides a rotation stays one; the box is its own mirror image, so its width may point back.
        turned = _MIRROR @ self.rotation @ _MIRROR
        return replace(self, center=(-x, y, z), axes=tuple(turned.ravel().tolist()))


def check_objects(objects: Sequence[LabelledObject], camera: Camera, where: str) -> None:
    """Raises InputError, beginning with `where`, for the first object that cannot be one of an image of this camera."""
    for number, thing in enumerate(objects):
        name = f"{where}object {number} ({thing.name!r}) "
        for field, length in (("box", 4), ("size", 3), ("center", 3), ("axes", 9)):
            values = np.asarray(getattr(thing, field), dtype=np.float64)
            if values.shape != (length,) or not np.isfinite(values).all():
                raise InputError(f"{name}has {field} {getattr(thing, field)}; expected {length} finite numbers")
        u0, v0, u1, v1 = thing.box
        if not (-0.5 <= u0 < u1 <= camera.width - 0.5 and -0.5 <= v0 < v1 <= camera.height - 0.5):
            raise InputError(
                f"{name}has box {thing.box}; expected (left, top, right, bottom) on the {camera.width}x{camera.height} "
                "image, from -0.5 on"
            )
        if min(thing.size) <= 0:
            raise InputError(f"{name}has size {thing.size}; expected positive metres")
        rotation = thing.rotation
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-6 or np.linalg.det(rotation) < 0:
            raise InputError(f"{name}has axes that are no rotation matrix")
        if not 0 < thing.visible <= 1:
            raise InputError(f"{name}has a visible share of {thing.visible}; expected more than 0 and at most 1")
