"""How far is this point? The question and answer are the prompt's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthlm.tasks.answers import METRES
from depthlm.tasks.base import Task

if TYPE_CHECKING:
    from depthlm.tasks.base import Context, Subject


class Distance(Task):
    """Metres from the camera centre, or along the principal axis when the model's label is z."""

    name = "distance"
    answer = METRES

    def truth(self, context: Context, subject: Subject) -> float:
        """Metres, of the quantity that the model's answers mean."""
        return context.metres(subject.points[0], context.label)

    def question(self, context: Context, subject: Subject) -> str:
        """The prompt's distance question."""
        uv = context.view.uv[subject.points[0]]
        return context.prompt.question(context.reference, uv, context.view.camera, context.mark)

    def lead(self, context: Context) -> str:
        """The constant beginning of the prompt's answer."""
        return context.prompt.answer_prefix

    def reply(self, context: Context, subject: Subject, truth: float) -> str:
        """The prompt's answer."""
        return context.prompt.format_answer(truth)
