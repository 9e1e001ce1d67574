"""Which pixel of the second picture shows this point of the first? (vlm3.md 1.4, "correspondence")"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.tasks.answers import Pixel, Spot
from depthlm.tasks.base import PairTask, Subject

if TYPE_CHECKING:
    from depthlm.tasks.base import Context


class Match(PairTask):
    """Asked of points that the second picture shows, by its own depths; answered in text coordinates."""

    name = "match"
    answer = Pixel()
    points = 1
    questions = 4
    wordings = {
        "english": (
            "Which pixel of the second image shows the same point as this one of the first image? Answer with its "
            "(x, y). Point: {point}",
            "Given these 2 images, what pixel in the second image corresponds to this point in the first image? Report "
            "the answer as (x, y). Point: {point}",
        ),
        "nano": ("where is {point} in second",),
    }
    replies = {"english": "The corresponding pixel is {value}", "nano": "{value}"}

    def draw(self, context: Context) -> Subject | None:
        """One of the visible points; another for each of the context's points, so that few questions do not repeat."""
        if context.second is None:
            return None
        fits = context.reference.which_fit(context.view.uv, *context.view.image.size)
        rows = np.flatnonzero(np.isfinite(context.second.shown).all(axis=1) & fits).tolist()
        if not rows:
            return None
        order = np.random.default_rng(0).permutation(len(rows))
        return Subject((rows[order[context.point % len(rows)]],))

    def truth(self, context: Context, subject: Subject) -> Spot:
        """Where it is, unrounded."""
        assert context.second is not None
        view, uv = context.second.view, context.second.shown[subject.points[0]]
        place = context.text.place(uv, *view.image.size)
        return Spot(*place, context.text.coordinate_range, *view.image.size)

    def say(self, context: Context, subject: Subject, truth: Spot) -> str:
        """In the words of the text reference."""
        assert context.second is not None
        second = context.second
        return context.prompt.pointer(context.text, second.shown[subject.points[0]], second.view.camera)

    def introduction(self, context: Context) -> str:
        """What coordinates mean, also where a marker asks: the answer has some."""
        return context.prompt.introduce(context.text, context.view.camera)
