"""Which points of one sample another sample of the scene shows, and which two samples make a pair.

From sparse points, z, cameras and world poses alone. A point of the first picture is visible in the second when it
falls inside it and the nearest labelled point there agrees in depth. One that disagrees hides it (or shows that the
scene has changed); where nothing labelled is near, nothing is known, and that is not visible either.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from depthlm.motion import relative_pose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.sample import Sample, Samples

COVISIBLE = 0.25  # least share of either picture's points that the other shows (paper.md 4, vlm3.md 1.6)
WINDOW = 8  # rows before and after a sample that are looked at for its partner
# Against rendered depth (tests/test_covisibility.py), with 300 points a picture: 96 % of the points called visible are,
# and 92 % of the visible ones are found. A larger ratio finds more and errs more, a smaller radius finds fewer.
NEAR = 0.05  # of the second picture's width: how far its nearest labelled point may lie
DEPTH_RATIO = 1.1  # by which the two depths may differ
_LEAST_Z = 0.05  # metres; nearer than that to the second camera a projection means nothing


class Sight(IntEnum):
    """What the second picture says of a point of the first."""

    OUTSIDE = 0
    UNKNOWN = 1
    HIDDEN = 2
    VISIBLE = 3


def sight(first: Sample, second: Sample) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Where the second sample's picture shows the points of the first.

    Returns uv [N, 2] pixels of the second camera (NaN behind it) and [N] what `Sight` they have there. Both samples
    need a pose in one world.
    """
    assert first.pose is not None, "sight needs poses"
    assert second.pose is not None, "sight needs poses"
    state = np.full(len(first), Sight.OUTSIDE, dtype=np.int64)
    uv = np.full((len(first), 2), np.nan)
    motion = relative_pose(second.pose, first.pose)  # of the first camera in the frame of the second
    xyz = first.camera.unproject(first.uv, first.z) @ motion[:3, :3].T + motion[:3, 3]
    ahead = xyz[:, 2] > _LEAST_Z
    uv[ahead] = second.camera.project(xyz[ahead])
    inside = np.flatnonzero(second.camera.contains(uv))
    state[inside] = Sight.UNKNOWN
    if len(inside) and len(second):
        from scipy.spatial import cKDTree

        reach = NEAR * second.camera.width
        gap, nearest = cKDTree(second.uv).query(uv[inside], distance_upper_bound=reach)
        known, nearest = inside[np.isfinite(gap)], nearest[np.isfinite(gap)]
        ratio = xyz[known, 2] / second.z[nearest]
        agrees = np.maximum(ratio, 1 / ratio) < DEPTH_RATIO
        state[known] = np.where(agrees, Sight.VISIBLE, Sight.HIDDEN)
    return uv, state


def covisibility(first: Sample, second: Sample) -> float:
    """Share of the first sample's points that the second one shows; 0 where either has none."""
    return float((sight(first, second)[1] == Sight.VISIBLE).mean()) if len(first) else 0.0


def find_partner(samples: Samples, row: int, seed: int) -> int | None:
    """The row of another sample that makes a pair with this one, or None.

    Both have poses, show the same scene, stand at most `WINDOW` rows apart with nothing of another scene between them
    (shards hold the samples of a scene together), and each shows at least `COVISIBLE` of the other's points. Of
    several, one is drawn; which, depends on (seed, row) and the samples alone.
    """
    first = samples[row]
    if first.pose is None or not first.scene:
        return None
    around: dict[int, Sample] = {}
    for step in (-1, 1):
        for other in range(row + step, row + step * (WINDOW + 1), step):
            if not 0 <= other < len(samples):
                break
            sample = samples[other]
            if sample.scene != first.scene:
                break
            if sample.pose is not None:
                around[other] = sample
    for other in np.random.default_rng([seed, row]).permutation(sorted(around)).tolist():
        if min(covisibility(first, around[other]), covisibility(around[other], first)) >= COVISIBLE:
            return int(other)
    return None
