"""What is asked of a model and what comes back: one question about a view, one answer, measured points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlm.reference import draw_marks
from depthlm.tasks.answers import METRES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.objects import Box
    from depthlm.reference import Reference
    from depthlm.tasks.answers import AnswerKind
    from depthlm.view import View


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question about a view; uv: [K, 2] the pixels of the view that it is about, in the order it names them.

    boxes: the edges (u0, v0, u1, v1) of the objects, for a question about those.
    The requests about one image share their View object (but for points that needed padding), so that an engine may
    share the work on it: with text coordinates they differ in the question alone. kind: how its answer is read.
    second: the other view of a question about two pictures; nothing is drawn on it. lead: what every trained answer
    says before its number; None where that varies. shares_markers: uv are the markers of several neighbouring questions
    about one picture, and this one is about one of them. expected: what a trained model should say, where a truth is
    known; only the oracle looks at it.
    """

    view: View
    uv: NDArray[np.float64]
    question: str
    reference: Reference
    kind: AnswerKind = METRES
    second: View | None = None
    boxes: tuple[Box, ...] = ()
    lead: str | None = None
    shares_markers: bool = False
    expected: str | None = None

    def images(self) -> list[Image.Image]:
        """What the model sees: the view with its markers drawn, then the second one."""
        marked = draw_marks(self.reference, self.view.image, self.uv, self.boxes)
        return [marked] if self.second is None else [marked, self.second.image]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and the value it means in the terms of the request's kind (None: it states none).

    A length is metres in the meaning of the model's `depthlm.json`. low, high: 80 % interval of a number, from the
    model's own belief, for points widened as its card says (`Backend.widen`). mass: its probability that a number comes
    at all. None when unknown. failed: why there is no answer, where whoever was asked broke down; None otherwise.
    """

    text: str
    value: Any | None
    low: float | None = None
    high: float | None = None
    mass: float | None = None
    failed: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """Measured points: everything [N], lengths in metres, NaN where the answer holds no number.

    uv: [N, 2] original pixels. distance from the camera centre; z along the principal axis; xyz: [N, 3] camera frame.
    low, high: 80 % interval of `distance`, calibrated where the model's card has it. text: the raw answers.
    """

    uv: NDArray[np.float64]
    distance: NDArray[np.float64]
    z: NDArray[np.float64]
    xyz: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    text: list[str]
