"""Pinhole camera, and the one rule that ties pixels to rays through every image operation.

Pixel convention (OpenCV): the centre of the top-left pixel is (0, 0). Resizing an image from W to W' columns maps
u' = (u + 0.5) * W'/W - 0.5, so the principal point moves by the same rule.
Camera frame: x right, y down, z forward, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Camera:
    """Pinhole intrinsics in pixels.

    fx, fy: focal lengths; cx, cy: principal point (pixel-centre convention above); width, height: image size.
    Raises InputError for a focal length that is not a positive finite number or an empty image.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("fx", "fy"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"camera {name} is {value}; a focal length in pixels is a positive number")
        for name in ("cx", "cy"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise InputError(f"camera {name} is {value}; a principal point is a finite number of pixels")
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < 1 or value != int(value):
                raise InputError(f"camera {name} is {value}; an image size is a positive whole number of pixels")

    # --- construction -------------------------------------------------------------------------------------------

    @classmethod
    def from_matrix(cls, matrix: ArrayLike, width: int, height: int) -> Camera:
        """From a [3, 3] intrinsic matrix K."""
        k = np.asarray(matrix, dtype=np.float64)
        if k.shape != (3, 3):
            raise InputError(f"intrinsic matrix has shape {k.shape}; expected (3, 3)")
        return cls(float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), width, height)

    @classmethod
    def from_focal(cls, focal: float, width: int, height: int) -> Camera:
        """Square pixels of focal length `focal` (px), principal point at the image centre."""
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)

    @classmethod
    def from_fov(cls, width: int, height: int, fov_x: float) -> Camera:
        """From the horizontal field of view in degrees, edge to edge of the image."""
        if not 0 < fov_x < 180:
            raise InputError(f"field of view is {fov_x} degrees; expected more than 0 and less than 180")
        return cls.from_focal(width / 2 / math.tan(math.radians(fov_x) / 2), width, height)

    @classmethod
    def from_35mm(cls, focal_35mm: float, width: int, height: int) -> Camera:
        """From the 35 mm equivalent focal length, by the ratio of diagonals (36 x 24 mm film: 43.27 mm)."""
        return cls.from_focal(focal_35mm * math.hypot(width, height) / math.hypot(36, 24), width, height)

    # --- derived quantities -------------------------------------------------------------------------------------

    @property
    def matrix(self) -> NDArray[np.float64]:
        """K, [3, 3]."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    @property
    def fov_x(self) -> float:
        """Horizontal field of view in degrees, edge to edge."""
        return math.degrees(math.atan((self.cx + 0.5) / self.fx) + math.atan((self.width - 0.5 - self.cx) / self.fx))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, as in our JSON and YAML camera files."""
        return {name: getattr(self, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}

    def contains(self, uv: ArrayLike) -> NDArray[np.bool_]:
        """[N, 2] uv -> [N] whether the point lies on the image (pixel areas: -0.5 <= u < width - 0.5)."""
        u, v = _uv(uv).T
        return (u >= -0.5) & (u < self.width - 0.5) & (v >= -0.5) & (v < self.height - 0.5)

    # --- geometry -----------------------------------------------------------------------------------------------

    def rays(self, uv: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] uv pixels -> [N, 3] directions with z = 1 (not unit length)."""
        u, v = _uv(uv).T
        return np.stack([(u - self.cx) / self.fx, (v - self.cy) / self.fy, np.ones_like(u)], axis=1)

    def ray_factor(self, uv: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] uv pixels -> [N] factor f with distance = z * f."""
        return np.linalg.norm(self.rays(uv), axis=1)

    def unproject(self, uv: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] uv pixels, [N] z metres -> [N, 3] points in the camera frame, metres."""
        return self.rays(uv) * np.asarray(z, dtype=np.float64).reshape(-1, 1)

    def project(self, xyz: ArrayLike) -> NDArray[np.float64]:
        """[N, 3] points in the camera frame, z > 0 -> [N, 2] uv pixels (possibly off the image)."""
        points = np.asarray(xyz, dtype=np.float64).reshape(-1, 3)
        if not (points[:, 2] > 0).all():
            raise ValueError("project needs points in front of the camera (z > 0)")
        x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
        return np.stack([self.fx * x + self.cx, self.fy * y + self.cy], axis=1)

    # --- image operations: what each does to the camera -------------------------------------------------------------

    def resize(self, width: int, height: int) -> Camera:
        """The camera of the image resampled to width x height."""
        sx, sy = width / self.width, height / self.height
        return Camera(
            self.fx * sx,
            self.fy * sy,
            (self.cx + 0.5) * sx - 0.5,
            (self.cy + 0.5) * sy - 0.5,
            width,
            height,
        )

    def crop(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of the window that starts at pixel (left, top); a negative start pads."""
        return Camera(self.fx, self.fy, self.cx - left, self.cy - top, width, height)

    def pad(self, left: int, top: int, right: int, bottom: int) -> Camera:
        """The camera of the image with that many pixels added on each side."""
        return self.crop(-left, -top, self.width + left + right, self.height + top + bottom)

    def unified_size(self, focal: float) -> tuple[int, int]:
        """The integer size (width, height) whose resize brings fx and fy to `focal`, off by at most 0.5/W' (0.5/H')."""
        if not (math.isfinite(focal) and focal > 0):
            raise InputError(f"unified focal length is {focal}; expected a positive number of pixels")
        return (
            _whole(self.width * focal / self.fx),
            _whole(self.height * focal / self.fy),
        )

    def unify_focal(self, focal: float) -> Camera:
        """The camera after focal unification: fx = fy = `focal` to within integer sizes; carries the true value."""
        return self.resize(*self.unified_size(focal))


def _whole(length: float) -> int:
    """The whole number n >= 1 next to `length` with |n / length - 1| <= 0.5 / n (plain rounding up can miss it)."""
    low = math.floor(length)
    return max(1, min((low, low + 1), key=lambda n: n * abs(n - length)))


def resize_uv(uv: ArrayLike, from_size: tuple[int, int], to_size: tuple[int, int]) -> NDArray[np.float64]:
    """[N, 2] uv on an image of from_size (width, height) -> uv after resampling it to to_size."""
    scale = np.asarray(to_size, dtype=np.float64) / np.asarray(from_size, dtype=np.float64)
    return (_uv(uv) + 0.5) * scale - 0.5


def _uv(uv: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(uv, dtype=np.float64)
    return array.reshape(-1, 2)
