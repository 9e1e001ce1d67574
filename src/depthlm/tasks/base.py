"""What a task sees and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

    from depthlm.prompts import Prompt
    from depthlm.reference import Reference
    from depthlm.view import View


class QA(NamedTuple):
    """A question and the text a model is trained to answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointContext:
    """One point of a labelled view and how the question points at it.

    view.z is set. point: row of view.uv. surface: what each row of view.uv shows, or None. label: what answers mean.
    text: the text reference in whose words a place is answered. rng: for tasks that draw a second point.
    """

    view: View
    point: int
    reference: Reference
    prompt: Prompt
    label: Literal["distance", "z"]
    rng: np.random.Generator
    text: Reference
    surface: tuple[str, ...] | None = None

    def pointer(self, point: int | None = None) -> str:
        """The words that point at a row of view.uv (the context's own by default)."""
        row = self.point if point is None else point
        return self.prompt.pointer(self.reference, self.view.uv[row], self.view.camera)

    def metres(self, point: int | None = None) -> float:
        """Depth z or distance of a row of view.uv, as `label` says."""
        assert self.view.z is not None, "a labelled view has depths"
        row = self.point if point is None else point
        z = float(self.view.z[row])
        return z if self.label == "z" else z * float(self.view.camera.ray_factor(self.view.uv[row])[0])


class Task(Protocol):
    """A kind of question about a point. `markers`: whether it can be asked with a marker."""

    name: str
    markers: bool

    def ask(self, context: PointContext) -> QA | None:
        """The question and its answer, or None when the point lacks what the task needs."""
        ...
