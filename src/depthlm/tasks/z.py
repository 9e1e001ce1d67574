"""How far is this point along the principal axis? (paper.md 4: "principal-axis distance")"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthlm.tasks.answers import METRES
from depthlm.tasks.base import Task

if TYPE_CHECKING:
    from depthlm.tasks.base import Context, Subject


class PrincipalAxisDepth(Task):
    """z in metres, whatever the model's distance question means."""

    name = "z"
    answer = METRES
    wordings = {
        "english": (
            "How far is this point from the camera in the forward backward direction? Point: {point}",
            "How many meters in front of the camera plane is this point, measured along the viewing direction? "
            "Point: {point}",
            "What is the depth of this point along the principal axis of the camera, in meters? Point: {point}",
        ),
        "nano": ("depth at {point}",),
    }

    def truth(self, context: Context, subject: Subject) -> float:
        """z, metres."""
        return context.metres(subject.points[0], "z")
