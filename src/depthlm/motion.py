"""How one camera stands to another: the turn as yaw, pitch, roll or one angle, the way as a vector.

Everything is told in the frame of the FIRST camera (x right, y down, z forward). The turn takes the first camera's axes
to the second's: yaw about the down axis, then pitch about the right axis it has turned to, then roll about the forward
axis (intrinsic, vlm3.md 1.4). Signs: yaw > 0 turns right, pitch > 0 looks up, roll > 0 banks right (the right side of
the camera goes down). docs/tasks.md has a worked example and a picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LOCKED = 1e-9  # cosine of the pitch below which yaw and roll turn about the same axis


def relative_pose(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """[4, 4] camera-to-world poses of two cameras -> [4, 4] pose of the second in the frame of the first.

    It takes points of the second camera's frame to the first's: its last column is where the second camera stands, its
    other columns are where the second camera's right, down and forward point.
    """
    return np.asarray(np.linalg.solve(first, second), dtype=np.float64)


def rotation_matrix(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """[3, 3] turn of so many degrees; its columns are the turned right, down and forward axes."""
    (a, b, c), (sa, sb, sc) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    about_down = np.array([[a, 0, sa], [0, 1, 0], [-sa, 0, a]])
    about_right = np.array([[1, 0, 0], [0, b, -sb], [0, sb, b]])
    about_forward = np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]])
    return about_down @ about_right @ about_forward


def yaw_pitch_roll(turn: NDArray[np.float64]) -> tuple[float, float, float]:
    """The inverse of `rotation_matrix`, degrees: yaw and roll in (-180, 180], pitch in [-90, 90].

    Looking straight up or down, only yaw and roll together are defined: roll is then 0.
    """
    level = math.hypot(turn[1, 0], turn[1, 1])  # cosine of the pitch
    pitch = math.atan2(-turn[1, 2], level)
    if level < _LOCKED:
        yaw, roll = math.atan2(-turn[2, 0], turn[0, 0]), 0.0
    else:
        yaw, roll = math.atan2(turn[0, 2], turn[2, 2]), math.atan2(turn[1, 0], turn[1, 1])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def rotation_angle(turn: NDArray[np.float64]) -> float:
    """Degrees, 0 to 180, of the one rotation that a [3, 3] turn is."""
    # The axis times twice the sine: by the arc cosine of the trace alone, angles below 1e-6 degrees would be lost.
    axis = turn[[2, 0, 1], [1, 2, 0]] - turn[[1, 2, 0], [2, 0, 1]]
    return math.degrees(math.atan2(float(np.linalg.norm(axis)), float(np.trace(turn)) - 1))


def angle_between(first: Sequence[float], second: Sequence[float]) -> float:
    """Degrees, 0 to 180, between two vectors of any length but 0."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b)))
