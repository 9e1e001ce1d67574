"""Lens distortion: the picture a lens draws <-> the pinhole picture the model sees.

Models: OpenCV's polynomial one (k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4]]]), OpenCV's fisheye (k1..k4), and COLMAP's
THIN_PRISM_FISHEYE, which OpenCV lacks. All work on normalised rays (x, y) = ((u - cx) / fx, (v - cy) / fy).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from depthlm.camera import Camera
from depthlm.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

LensModel = Literal["opencv", "fisheye", "thin_prism_fisheye"]
_COUNTS: dict[LensModel, tuple[int, ...]] = {
    "opencv": (0, 4, 5, 8, 12),
    "fisheye": (0, 4),
    "thin_prism_fisheye": (8,),
}
_GROWTH = 2.0  # the pinhole picture reaches at most this many times as far from the principal point as the original
_TOLERANCE = 1e-9  # of a normalised ray: a millionth of a pixel at a focal length of 1000


@dataclass(frozen=True, slots=True)
class LensCamera:
    """A camera with lens distortion. `camera` describes the original picture; `distortion` bends its rays.

    `undistorted` is the pinhole camera of the straightened picture: same focal lengths and centre ray, its size such
    that every original pixel lies on it (up to twice as far out; rays beyond that have no place in a pinhole picture).
    Raises InputError for a wrong number of coefficients or a coefficient that is not finite.
    """

    camera: Camera
    model: LensModel = "opencv"
    distortion: tuple[float, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if self.model not in _COUNTS:
            raise InputError(f"lens model is {self.model!r}; expected one of {', '.join(_COUNTS)}")
        if len(self.distortion) not in _COUNTS[self.model]:
            counts = ", ".join(map(str, _COUNTS[self.model]))
            raise InputError(f"lens model {self.model} got {len(self.distortion)} coefficients; expected {counts}")
        if not np.isfinite(self.distortion).all():
            raise InputError(f"a distortion coefficient is not a finite number: {list(self.distortion)}")

    @property
    def is_pinhole(self) -> bool:
        """True when there is nothing to undo."""
        return not self.distortion or (self.model == "opencv" and not any(self.distortion))

    @property
    def undistorted(self) -> Camera:
        """The pinhole camera of the straightened picture."""
        return self.camera if self.is_pinhole else _canvas(self)[0]

    def undistort(self, image: Image.Image) -> tuple[Image.Image, Camera]:
        """The straightened picture and its camera; black where the original shows nothing."""
        import cv2
        from PIL import Image as PILImage

        if image.size != (self.camera.width, self.camera.height):
            raise InputError(
                f"image is {image.width}x{image.height} but its camera says {self.camera.width}x{self.camera.height}"
            )
        if self.is_pinhole:
            return image, self.camera
        camera, reach = _canvas(self)
        map_u, map_v = self._maps(camera)
        # Far outside, a distortion polynomial can fold back into the picture: no ghosts beyond its true corner rays.
        x, y = (np.arange(camera.width) - camera.cx) / camera.fx, (np.arange(camera.height) - camera.cy) / camera.fy
        map_u[np.hypot(x[None, :], y[:, None]) > reach * 1.001] = -10
        pixels = cv2.remap(np.asarray(image.convert("RGB")), map_u, map_v, cv2.INTER_CUBIC, borderValue=(0, 0, 0))
        return PILImage.fromarray(pixels), camera

    def to_undistorted(self, uv: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] original pixels -> [N, 2] pixels of the straightened picture.

        Raises InputError for a point whose ray leaves the straightened picture (only very wide lenses have such).
        """
        uv = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        if self.is_pinhole:
            return uv
        camera = self.undistorted
        moved = _to_pixels(camera, self._straighten(_to_rays(self.camera, uv)))
        lost = np.isnan(moved).any(axis=1) | ~camera.contains(np.nan_to_num(moved))
        lost &= self.camera.contains(uv)  # a point off the original picture is for the caller to refuse
        if lost.any():
            u, v = uv[int(np.flatnonzero(lost)[0])]
            raise InputError(
                f"point ({u:g}, {v:g}) looks too far sideways through this lens for a pinhole picture; "
                "choose one nearer the centre"
            )
        return moved

    def to_original(self, uv: ArrayLike) -> NDArray[np.float64]:
        """[N, 2] pixels of the straightened picture -> [N, 2] original pixels."""
        uv = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        if self.is_pinhole:
            return uv
        return _to_pixels(self.camera, self._bend(_to_rays(self.undistorted, uv)))

    def map_to_original(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[H', W'] values at the pixels of the straightened picture -> [H, W] at the original ones, the nearest one's.

        NaN where the ray of an original pixel has no place in the straightened picture. A z stays what it is: both
        cameras look along one axis.
        """
        if self.is_pinhole:
            return values
        camera = self.undistorted
        v, u = np.mgrid[: self.camera.height, : self.camera.width]
        original = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
        uv = _to_pixels(camera, self._straighten(_to_rays(self.camera, original)))
        found = np.isfinite(uv).all(axis=1) & camera.contains(np.nan_to_num(uv, nan=-9))
        column, row = np.rint(uv[found]).astype(np.int64).T
        out = np.full(len(uv), np.nan, dtype=np.float32)
        out[found] = values[row.clip(0, camera.height - 1), column.clip(0, camera.width - 1)]
        return out.reshape(u.shape)

    def _maps(self, camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[H, W] each: where every pixel of the straightened picture lies in the original."""
        import cv2

        size, coefficients = (camera.width, camera.height), np.array(self.distortion)
        if self.model == "opencv":
            return cv2.initUndistortRectifyMap(
                self.camera.matrix, coefficients, None, camera.matrix, size, cv2.CV_32FC1
            )
        if self.model == "fisheye":
            return cv2.fisheye.initUndistortRectifyMap(
                self.camera.matrix, coefficients, np.eye(3), camera.matrix, size, cv2.CV_32FC1
            )
        v, u = np.mgrid[: camera.height, : camera.width]
        uv = self.to_original(np.stack([u.ravel(), v.ravel()], axis=1)).astype(np.float32)
        return uv[:, 0].reshape(u.shape).copy(), uv[:, 1].reshape(u.shape).copy()

    def _bend(self, rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 2] pinhole rays -> [N, 2] rays as the lens draws them (as cv2.projectPoints, without its Jacobian)."""
        if self.model == "opencv":
            k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = self.distortion + (0.0,) * (12 - len(self.distortion))
            x, y = rays.T
            r2 = x * x + y * y
            radial = (1 + _powers(r2, (k1, k2, k3))) / (1 + _powers(r2, (k4, k5, k6)))
            return np.column_stack(
                [
                    x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + _powers(r2, (s1, s2)),
                    y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + _powers(r2, (s3, s4)),
                ]
            )
        radius = np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
        theta = np.arctan(radius)
        if self.model == "fisheye":
            return rays / radius * theta * (1 + _powers(theta**2, self.distortion))
        k1, k2, p1, p2, k3, k4, sx1, sy1 = self.distortion
        flat = rays / radius * theta
        x, y = flat.T
        r2 = x * x + y * y
        radial = 1 + _powers(r2, (k1, k2, k3, k4))
        return np.column_stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + sx1 * r2,
                y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + sy1 * r2,
            ]
        )

    def _straighten(self, bent: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inverse of `_bend` by damped Newton steps; NaN where no pinhole ray is drawn there.

        OpenCV's own inverse stops after five fixed-point steps: tenths of a pixel in the corners of wide lenses.
        """
        rays = bent.copy()
        if self.model != "opencv":
            radius = np.maximum(np.linalg.norm(bent, axis=1, keepdims=True), 1e-12)
            rays *= np.tan(np.minimum(radius, 1.4)) / radius
        error = self._bend(rays) - bent
        for _ in range(50):
            size = np.linalg.norm(error, axis=1)
            if not (size > _TOLERANCE).any():
                break
            step = _solve(self._slope(rays), error)
            for _ in range(8):  # halve the steps that would make it worse
                trial = rays - step
                trial_error = self._bend(trial) - bent
                worse = ~(np.linalg.norm(trial_error, axis=1) <= size)
                if not worse.any():
                    break
                step[worse] /= 2
            rays = np.where(worse[:, None], rays, trial)
            error = np.where(worse[:, None], error, trial_error)
        rays[~(np.linalg.norm(error, axis=1) <= 100 * _TOLERANCE)] = np.nan
        return rays

    def _slope(self, rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 2, 2] derivative of `_bend`, by central differences."""
        eps = 1e-6
        columns = [(self._bend(rays + d) - self._bend(rays - d)) / (2 * eps) for d in np.eye(2) * eps]
        return np.stack(columns, axis=2)


def _powers(x: NDArray[np.float64], coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    """c1 x + c2 x^2 + ..."""
    total = np.zeros_like(x)
    for c in reversed(coefficients):
        total = (total + c) * x
    return total


def _solve(slope: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 2, 2], [N, 2] -> [N, 2] Newton steps; zero where the slope is singular."""
    (a, b), (c, d) = slope[:, 0].T, slope[:, 1].T
    det = a * d - b * c
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.column_stack([d * error[:, 0] - b * error[:, 1], a * error[:, 1] - c * error[:, 0]]) / det[:, None]
    return np.where(np.isfinite(step), step, 0.0)


def _to_rays(camera: Camera, uv: NDArray[np.float64]) -> NDArray[np.float64]:
    return camera.rays(uv)[:, :2]


def _to_pixels(camera: Camera, rays: NDArray[np.float64]) -> NDArray[np.float64]:
    return rays * (camera.fx, camera.fy) + (camera.cx, camera.cy)


@lru_cache(maxsize=64)
def _canvas(lens: LensCamera) -> tuple[Camera, float]:
    """The camera of the straightened picture, and the longest ray (tangent of its angle) the original shows."""
    camera = lens.camera
    edge = np.linspace(-0.5, 0.5, 65)
    side = np.concatenate([np.column_stack([edge, np.full(65, s)]) for s in (-0.5, 0.5)])
    border = np.concatenate([side, side[:, ::-1]]) * (camera.width, camera.height)
    border += ((camera.width - 1) / 2, (camera.height - 1) / 2)
    rays = lens._straighten(_to_rays(camera, border))
    reach = np.inf if np.isnan(rays).any() else float(np.linalg.norm(rays, axis=1).max())
    straight = _to_pixels(camera, rays)
    centre, size = np.array([camera.cx, camera.cy]), np.array([camera.width, camera.height])
    lowest, highest = centre - _GROWTH * (centre + 0.5), centre + _GROWTH * (size - 0.5 - centre)
    # A border ray without a pinhole direction looks sideways or backwards: as far as allowed, on the side it lies on.
    straight = np.where(np.isnan(straight), np.where(border < centre, lowest, highest), straight)
    low = np.floor(np.maximum(straight.min(axis=0), lowest)).astype(int)
    high = np.ceil(np.minimum(straight.max(axis=0), highest)).astype(int)
    return camera.crop(int(low[0]), int(low[1]), *(int(n) for n in high - low + 1)), reach
