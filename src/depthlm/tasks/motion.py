"""How the camera has moved and turned from the first picture to the second (paper.md 4, vlm3.md 1.4).

Everything is told in the first camera's frame; motion.py has the conventions, docs/tasks.md a worked example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.motion import rotation_angle, yaw_pitch_roll
from depthlm.tasks import answers
from depthlm.tasks.base import PairTask, Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthlm.tasks.base import Context

_LEAST_MOVE = 0.05  # metres; of a shorter way poses tell neither the length to 25 % nor the direction
_LEAST_WORD = 0.02  # parts of a direction that are written no larger than that have no word
_WORDS = (("left", "right"), ("up", "down"), ("backward", "forward"))  # of x, y, z, below 0 and above


class _Move(PairTask):
    """About the way; asked of cameras that have moved at all."""

    def draw(self, context: Context) -> Subject | None:
        """No point: the two pictures are the subject."""
        if context.second is None or np.linalg.norm(context.second.motion[:3, 3]) < _LEAST_MOVE:
            return None
        return Subject(())


class Moved(_Move):
    """Metres between the two cameras."""

    name = "moved"
    answer = answers.METRES
    wordings = {
        "english": (
            "How many meters has the camera moved between these 2 images?",
            "These 2 images were taken by one camera at two places. How many meters lie between the places?",
        ),
        "nano": ("how far moved",),
    }

    def truth(self, context: Context, subject: Subject) -> float:
        """Length of the translation."""
        assert context.second is not None
        return float(np.linalg.norm(context.second.motion[:3, 3]))


class MoveDirection(_Move):
    """Where the second camera stands, seen from the first: a unit vector."""

    name = "direction"
    answer = answers.Direction()
    wordings = {
        "english": (
            "In which direction has the camera moved from the first image to the second? Answer with a unit vector in "
            "the frame of the first camera: X right, Y down, Z forward.",
            "Seen from the camera of the first image, where was the second image taken? Give the direction as a unit "
            "vector (X, Y, Z) with X to the right, Y down and Z forward.",
        ),
        "nano": ("where moved",),
    }
    replies = {
        "english": "The camera moves {words}, unit vector {value}.",
        "nano": "{value}",
    }

    def truth(self, context: Context, subject: Subject) -> tuple[float, float, float]:
        """x, y, z of the translation, of length 1."""
        assert context.second is not None
        way = context.second.motion[:3, 3]
        x, y, z = (float(part) for part in way / np.linalg.norm(way))
        return x, y, z

    def say(self, context: Context, subject: Subject, truth: Sequence[float]) -> str:
        """English: (-0.69, +0.02, +0.72). nano: each axis by its word and size."""
        if context.prompt.language != "nano":
            return f"({', '.join(context.prompt.signed(part, 2) for part in truth)})"
        return " ".join(
            f"{words[part > 0]} {context.prompt.size(part, 2)}" for words, part in zip(_WORDS, truth, strict=True)
        )

    def fields(self, context: Context, subject: Subject) -> dict[str, str]:
        """The words of the axes that are not small."""
        parts = zip(_WORDS, self.truth(context, subject), strict=True)
        return {"words": ", ".join(words[part > 0] for words, part in parts if round(abs(part), 2) > _LEAST_WORD)}


class Turned(PairTask):
    """Yaw, pitch, roll from the first camera to the second."""

    name = "rotation"
    answer = answers.Rotation()
    wordings = {
        "english": (
            "How has the camera turned from the first image to the second? Answer with yaw, pitch and roll in degrees, "
            "applied in this order about the camera's own axes: yaw is positive to the right, pitch is positive "
            "upward, roll is positive when the camera banks to the right.",
            "Give the rotation from the first camera to the second in degrees, as intrinsic yaw (right is positive), "
            "then pitch (up is positive), then roll (banking right is positive).",
        ),
        "nano": ("how turned",),
    }
    replies = {"english": "{value}", "nano": "{value}"}
    _NAMES = (("Yaw", "left", "right"), ("Pitch", "down", "up"), ("Roll", "left", "right"))

    def truth(self, context: Context, subject: Subject) -> tuple[float, float, float]:
        """Degrees."""
        assert context.second is not None
        return yaw_pitch_roll(context.second.motion[:3, :3])

    def say(self, context: Context, subject: Subject, truth: Sequence[float]) -> str:
        """English: Yaw=+89.6\u00b0, Pitch=+2.6\u00b0, Roll=+6.1\u00b0. nano: each sign by its word."""
        parts = list(zip(self._NAMES, truth, strict=True))
        if context.prompt.language != "nano":
            return ", ".join(f"{name}={context.prompt.signed(part, 1)}\u00b0" for (name, _, _), part in parts)
        return " ".join(
            f"{name.lower()} {words[part > 0]} {context.prompt.size(part, 1)}" for (name, *words), part in parts
        )


class TurnAngle(PairTask):
    """Degrees of the one rotation between the two cameras."""

    name = "angle"
    answer = answers.Angle()
    wordings = {
        "english": (
            "By how many degrees is the camera of the second image rotated relative to the camera of the first?",
            "What is the relative rotation angle between these 2 images, in degrees?",
        ),
        "nano": ("how much turned",),
    }
    replies = {"english": "Rotation angle: {value} degrees", "nano": "{value}"}

    def truth(self, context: Context, subject: Subject) -> float:
        """Degrees, 0 to 180."""
        assert context.second is not None
        return rotation_angle(context.second.motion[:3, :3])

    def say(self, context: Context, subject: Subject, truth: float) -> str:
        """One decimal in English; it may be 0."""
        return context.prompt.size(truth, 1)
