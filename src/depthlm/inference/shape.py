"""Shape: what a relative-depth model sees between measured points. Those give the scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.inference.completion import Votes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.inference.completion import Completer

_LEAST = 0.02  # of the median inverse depth: nothing is aligned to be farther than 50 times as far
_FEWEST = 8  # points that scale and shift are fitted to
_ROUNDS = 10


class Shape:
    """Completes as a Completer does, along a map of another model.

    relative: [H, W] depth or inverse depth up to scale and shift; which of the two, the measured points say.
    """

    def __init__(self, relative: NDArray[np.floating[Any]], completer: Completer) -> None:
        self.relative = np.asarray(relative, dtype=np.float64)
        self.completer = completer

    def __call__(
        self, uv: NDArray[np.int64], z: NDArray[np.float64], at: NDArray[np.int64], noise: float = 0.0
    ) -> Votes:
        """As Completer; with fewer than 8 points the shape is left out."""
        if len(z) < _FEWEST:
            return self.completer(uv, z, at, noise)
        inverse = self.align(uv, z)
        votes = self.completer(uv, z * inverse[uv[:, 1], uv[:, 0]], at, noise)
        return Votes(votes.z / inverse[at[:, 1], at[:, 0]], votes.agreement, votes.spread)

    def align(self, uv: NDArray[np.int64], z: NDArray[np.float64]) -> NDArray[np.float64]:
        """[H, W] inverse depth, 1 / metres, by the scale and shift that fit the points best."""
        depth = self.relative - self.relative.min()
        ways = [self.relative, 1 / (depth + 0.05 * max(1e-9, float(np.median(depth))))]
        fits = [_fit(way[uv[:, 1], uv[:, 0]], 1 / z) for way in ways]
        way, (scale, shift, _) = min(zip(ways, fits, strict=True), key=lambda pair: pair[1][2])
        return np.maximum(scale * way + shift, _LEAST * float(np.median(1 / z)))


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Scale, shift and median relative error of y ~ scale x + shift; least absolute relative errors by reweighting."""
    weight = 1 / y
    scale, shift = 0.0, float(np.median(y))
    for _ in range(_ROUNDS):
        design = np.stack([x, np.ones_like(x)], axis=1) * weight[:, None]
        scale, shift = np.linalg.lstsq(design, y * weight, rcond=None)[0]
        weight = 1 / (y * np.sqrt(np.maximum(np.abs((scale * x + shift) / y - 1), 1e-3)))
    return float(scale), float(shift), float(np.median(np.abs((scale * x + shift) / y - 1)))


def predict_shape(model: str, image: Image.Image, *, device: str = "cpu") -> NDArray[np.float32]:
    """[H, W] of a depth-estimation model of transformers (a folder or a hub id), at the picture's size.

    Raises InputError when there is no such model, or it is of another kind.
    """
    from depthlm.rivals import open_rival

    found = open_rival(model, device=device).measure(image.convert("RGB"), None)
    return np.asarray(found, dtype=np.float32)
