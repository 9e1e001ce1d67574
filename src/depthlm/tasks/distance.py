"""How far is this point? The question and answer are the prompt's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthlm.tasks.base import QA

if TYPE_CHECKING:
    from depthlm.tasks.base import PointContext


class Distance:
    """Metres from the camera centre, or along the principal axis when the model's label is z."""

    name = "distance"
    markers = True

    def ask(self, context: PointContext) -> QA:
        """The prompt's distance question about the point."""
        question = context.prompt.question(context.reference, context.view.uv[context.point], context.view.camera)
        return QA(question, context.prompt.format_answer(context.metres()))
