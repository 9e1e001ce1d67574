"""Completion: a depth at every pixel from depths at a few, without surfaces bridging what stands in front and behind.

Inverse depth is affine in the pixel on any plane. Every measured point gets the plane that most of its neighbours agree
on, and each pixel is told a depth by the planes of the nearest points. Nearer points and points of the pixel's own
colour count for more. The pixel takes the depth on which the votes agree best (their mode), so that between two
surfaces it belongs to one of them; a mean of both would be a point that flies between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

NEIGHBOURS = 12  # points whose planes a pixel hears, and points that a plane is fitted to
_HYPOTHESES = 6  # nearest points; each two of them, with the point, span a plane to try
_ON_PLANE = 0.01  # relative inverse depth: how far points of one surface stray from its plane
_AGREE = 0.03  # ln depth: how far votes for one surface lie apart
_FLAT = 0.02  # how much a steep hypothesis must win by
_OWN = 4.0  # how many neighbours a point's own measurement counts for
_COLOUR = 15.0  # CIELAB: difference at which a point's vote is much weaker
_REACH = 0.7  # of the distance to the third nearest point: how fast votes fade
_FARTHEST = 1.5  # a plane is not followed beyond this factor from the depth at its point
_BEYOND = 1.1  # no depth lies farther outside the measured range
_CHUNK = 100_000  # pixels at a time


@dataclass(frozen=True, slots=True)
class Votes:
    """What was found at M pixels.

    z: [M] metres. agreement: [M] 0 to 1, share of the votes for it. spread: [M] mean relative difference of the votes
    from it, at most 1: the error to be expected if each vote were right as often as it is heard.
    """

    z: NDArray[np.float64]
    agreement: NDArray[np.float64]
    spread: NDArray[np.float64]


class Completer:
    """Completes depths of one picture. rgb: PIL picture of the pixel grid that uv are given in."""

    def __init__(self, image: Image.Image) -> None:
        smooth = cv2.bilateralFilter(np.asarray(image.convert("RGB")), 7, 25, 3)
        self.lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)

    def __call__(
        self, uv: NDArray[np.int64], z: NDArray[np.float64], at: NDArray[np.int64], noise: float = 0.0
    ) -> Votes:
        """Depths at pixels `at` [M, 2] from measured z [N] > 0 at pixels uv [N, 2]; N >= 1.

        noise: relative error to be expected of z; what differs by no more than that is one surface.
        """
        inverse, slope = fit_planes(uv, 1 / z, noise)
        tree = cKDTree(uv)
        parts = [
            self._vote(tree, uv, 1 / z, inverse, slope, at[start : start + _CHUNK], noise)
            for start in range(0, len(at), _CHUNK)
        ]
        return Votes(*(np.concatenate([getattr(part, name) for part in parts]) for name in Votes.__slots__))

    def _vote(
        self,
        tree: cKDTree,
        uv: NDArray[np.int64],
        measured: NDArray[np.float64],
        inverse: NDArray[np.float64],
        slope: NDArray[np.float64],
        at: NDArray[np.int64],
        noise: float,
    ) -> Votes:
        count = min(NEIGHBOURS, len(uv))
        distance, near = (array.reshape(len(at), count) for array in tree.query(at, k=count))  # [M, K]
        told = inverse[near] + np.einsum("mkc,mkc->mk", slope[near], at[:, None] - uv[near])
        told = np.clip(told, measured[near] / _FARTHEST, measured[near] * _FARTHEST)
        logs = -np.log(np.clip(told, measured.min() / _BEYOND, measured.max() * _BEYOND))
        scale = _REACH * distance[:, min(2, count - 1), None] + 0.5
        colour = self.lab[at[:, 1], at[:, 0], None] - self.lab[uv[near, 1], uv[near, 0]]
        weight = -0.5 * (distance / scale) ** 2 - np.minimum(0.5 * (colour**2).sum(axis=2) / _COLOUR**2, 4)
        weight = np.exp(weight - weight.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        agree = np.hypot(_AGREE, noise)
        support = np.zeros_like(weight)
        for k in range(count):
            support += weight[:, k, None] * np.exp(-0.5 * ((logs[:, k, None] - logs) / agree) ** 2)
        # Of equally supported votes that of the nearer, more alike point; a mild preference, or single points win.
        best = (support * weight**0.25).argmax(axis=1)[:, None]
        votes = weight * np.exp(-0.5 * ((logs - np.take_along_axis(logs, best, axis=1)) / agree) ** 2)
        share = votes.sum(axis=1)
        log_z = (votes * logs).sum(axis=1) / share
        off = np.minimum(np.expm1(np.abs(logs - log_z[:, None])), 1)
        return Votes(np.exp(log_z), share, (weight * off).sum(axis=1))


def fit_planes(
    uv: NDArray[np.int64], inverse: NDArray[np.float64], noise: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inverse depth [N] and its slope per pixel [N, 2] of the surface at each point, from those around it.

    Of the planes through the point and each two of its nearest neighbours, and the level one, the one that most
    neighbours lie on; then least squares over those that do.
    """
    count = min(NEIGHBOURS, len(uv) - 1)
    if count < 2:
        return inverse, np.zeros((len(uv), 2))
    distance, near = cKDTree(uv).query(uv, k=count + 1)
    distance, near = distance[:, 1:], near[:, 1:]
    offset = (uv[near] - uv[:, None]).astype(np.float64)  # [N, K, 2]
    change = inverse[near] / inverse[:, None] - 1  # [N, K]
    scale = np.median(distance, axis=1)[:, None]
    weight = np.exp(-0.5 * (distance / scale) ** 2)
    tolerance = np.hypot(_ON_PLANE, noise)

    slopes = _hypotheses(offset, change, min(_HYPOTHESES, count))  # [N, H, 2]
    off = change[:, None] - np.einsum("nhc,nkc->nhk", slopes, offset)
    support = (weight[:, None] * np.exp(-0.5 * (off / tolerance) ** 2)).sum(axis=2)
    support *= np.exp(-_FLAT * np.linalg.norm(slopes, axis=2) * scale / tolerance)
    slope = slopes[np.arange(len(uv)), support.argmax(axis=1)]

    level = np.zeros(len(uv))
    design = np.concatenate([np.ones((*change.shape, 1)), offset / scale[..., None]], axis=2)  # [N, K, 3]
    own = np.diag([_OWN, 0.05, 0.05])
    for _ in range(3):
        off = change - level[:, None] - np.einsum("nc,nkc->nk", slope, offset)
        on = weight * np.exp(-0.5 * (off / tolerance) ** 2)
        normal = np.einsum("nk,nki,nkj->nij", on, design, design) + own
        found = np.linalg.solve(normal, np.einsum("nk,nki,nk->ni", on, design, change)[..., None])[..., 0]
        level, slope = found[:, 0], found[:, 1:] / scale
    return inverse * (1 + level), inverse[:, None] * slope


def _hypotheses(offset: NDArray[np.float64], change: NDArray[np.float64], nearest: int) -> NDArray[np.float64]:
    """[N, H, 2] slopes of the planes through each point and two of its neighbours, 0 where the three lie in line."""
    i, j = np.array(list(combinations(range(nearest), 2))).T
    a, b = offset[:, i], offset[:, j]  # [N, H - 1, 2]
    turn = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    spans = np.abs(turn) > 0.3 * np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2)
    turn = np.where(spans, turn, 1.0)
    ca, cb = change[:, i], change[:, j]
    slopes = np.stack([ca * b[..., 1] - cb * a[..., 1], cb * a[..., 0] - ca * b[..., 0]], axis=2) / turn[..., None]
    slopes = np.where(spans[..., None], slopes, 0.0)
    return np.concatenate([np.zeros((len(offset), 1, 2)), slopes], axis=1)
