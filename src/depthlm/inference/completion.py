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
_CHUNK = 8192  # pixels at a time


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
        count = min(NEIGHBOURS, len(uv))
        near = cKDTree(uv).query(at, k=count, workers=-1)[1].reshape(len(at), count)
        points = np.stack([*uv.T, 1 / z, inverse, *slope.T, *self.lab[uv[:, 1], uv[:, 0]].T]).astype(np.float32)
        parts = [
            self._vote(points, near[start : start + _CHUNK].T, at[start : start + _CHUNK], noise)
            for start in range(0, len(at), _CHUNK)
        ]
        return Votes(*(np.concatenate([getattr(part, name) for part in parts]) for name in Votes.__slots__))

    def _vote(self, points: NDArray[np.float32], near: NDArray[np.int64], at: NDArray[np.int64], noise: float) -> Votes:
        """The votes at pixels [M, 2] of the points `near` [K, M], nearest first, by columns of points [9, N].

        In float32 and few pixels at a time, which the processor's caches hold: a map hears millions of votes between
        its questions.
        """
        count = len(near)
        u, v, measured, inverse, across, along, *lab = points[:, near]  # [K, M] each
        right, down = at.T.astype(np.float32)[:, None] - (u, v)
        told = inverse + across * right + along * down
        told = np.clip(told, measured / np.float32(_FARTHEST), measured * np.float32(_FARTHEST))
        measured = points[2]
        logs = -np.log(np.clip(told, measured.min() / np.float32(_BEYOND), measured.max() * np.float32(_BEYOND)))
        squared = right**2 + down**2
        scale = np.float32(_REACH) * np.sqrt(squared[min(2, count - 1)]) + np.float32(0.5)
        own = self.lab[at[:, 1], at[:, 0]].T[:, None]  # [3, 1, M]
        colour = ((own - np.stack(lab)) ** 2).sum(axis=0)
        weight = np.float32(-0.5) * squared / scale**2 - np.minimum(colour / np.float32(2 * _COLOUR**2), 4)
        weight = np.exp(weight - weight.max(axis=0))
        weight /= weight.sum(axis=0)
        steep = np.float32(-0.5 / (_AGREE**2 + noise**2))
        support = weight.copy()
        for i, j in combinations(range(count), 2):
            alike = np.exp(steep * (logs[i] - logs[j]) ** 2)
            support[i] += weight[j] * alike
            support[j] += weight[i] * alike
        # Of equally supported votes that of the nearer, more alike point; a mild preference, or single points win.
        best = (support * weight**0.25).argmax(axis=0)[None]
        votes = weight * np.exp(steep * (logs - np.take_along_axis(logs, best, axis=0)) ** 2)
        share = votes.sum(axis=0)
        log_z = (votes * logs).sum(axis=0) / share
        off = np.minimum(np.expm1(np.abs(logs - log_z)), 1)
        found = np.exp(log_z), share, (weight * off).sum(axis=0)
        return Votes(*(values.astype(np.float64) for values in found))


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
