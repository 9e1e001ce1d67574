"""What a task sees and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from depthlm.covisibility import Sight, sight
from depthlm.errors import InputError
from depthlm.motion import relative_pose
from depthlm.tasks.answers import Number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from depthlm.prompts import Prompt
    from depthlm.reference import Reference, Text
    from depthlm.sample import Sample
    from depthlm.tasks.answers import AnswerKind
    from depthlm.view import View


class Subject(NamedTuple):
    """What one question is about.

    points: rows of view.uv, in the order the question names them. given: the number the question states (seconds,
    metres per second), or None. objects: rows of view.objects, for a question about those.
    """

    points: tuple[int, ...]
    given: float | None = None
    objects: tuple[int, ...] = ()


class Question(NamedTuple):
    """A question, the text a model is trained to answer, and what is true.

    truth: in the terms of the task's answer kind (metres, a word, ...), exact where the text is rounded.
    points: rows of view.uv that it is about, in the order it names them (several markers are told apart by colour).
    objects: rows of view.objects, for a question about those.
    """

    text: str
    answer: str
    truth: Any
    points: tuple[int, ...] = ()
    objects: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Second:
    """The second picture of a question about two.

    motion: [4, 4] pose of its camera in the frame of the first (motion.py). shown: [N, 2] the pixel of `view` that
    shows each row of the first view's uv, NaN where none does, by the depths of both (covisibility.py). All NaN where
    the truth is not known.
    """

    view: View
    motion: NDArray[np.float64]
    shown: NDArray[np.float64]

    @classmethod
    def unknown(cls, view: View, points: int) -> Second:
        """A picture without poses, beside a first one of so many points."""
        return cls(view, np.full((4, 4), np.nan), np.full((points, 2), np.nan))

    @classmethod
    def of(cls, first: Sample, first_view: View, second: Sample, view: View) -> Second:
        """Views of two samples that both have a pose in one world."""
        assert first.pose is not None, "a pair has poses"
        assert second.pose is not None, "a pair has poses"
        uv, state = sight(first, second)
        uv[state != Sight.VISIBLE] = np.nan
        shown = view.transform.forward(uv)[first_view.index]
        shown[~view.camera.contains(shown)] = np.nan  # a crop shows less than its picture
        return cls(view, relative_pose(first.pose, second.pose), shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One point or object of a view and how questions point at it.

    view.z is set where the truth is known. point: row of view.uv; for tasks about objects, of view.objects. surface:
    what each row of view.uv shows, or None. label: what answers to the distance question mean. text: the text reference
    in whose words a place is answered. rng: whatever a question draws. vary: draw among a task's wordings
    (training) in place of its first (evaluation).
    second: the other picture where the question is about two; `view` is the first. mark: which of several markers on
    the view points at it, where they belong to as many questions; None where the question has the markers to itself.
    """

    view: View
    point: int
    reference: Reference
    prompt: Prompt
    label: Literal["distance", "z"]
    rng: np.random.Generator
    text: Text
    surface: tuple[str, ...] | None = None
    vary: bool = False
    second: Second | None = None
    mark: int | None = None

    def pointers(self, points: tuple[int, ...]) -> list[str]:
        """The words that point at rows of view.uv; of several markers each by its colour."""
        numbers = range(len(points)) if len(points) > 1 else [self.mark] * len(points)
        return [
            self.prompt.pointer(self.reference, self.view.uv[row], self.view.camera, number)
            for row, number in zip(points, numbers, strict=True)
        ]

    def regions(self, objects: tuple[int, ...]) -> list[str]:
        """The words that point at rows of view.objects; each drawn box by its colour."""
        return [
            self.prompt.region(self.reference, self.view.objects[row].box, self.view.camera, number)
            for number, row in enumerate(objects)
        ]

    def others(self) -> NDArray[np.int64]:
        """[M] the other rows of view.uv that the reference can point at."""
        fits = self.reference.which_fit(self.view.uv, *self.view.image.size)
        fits[self.point] = False
        return np.flatnonzero(fits)

    def metres(self, point: int, quantity: Literal["distance", "z"] = "distance") -> float:
        """Distance or z of a row of view.uv."""
        assert self.view.z is not None, "truth needs a labelled view"
        z = float(self.view.z[point])
        return z if quantity == "z" else z * float(self.view.camera.ray_factor(self.view.uv[point])[0])

    def xyz(self, point: int) -> NDArray[np.float64]:
        """[3] a row of view.uv in the camera frame, metres."""
        assert self.view.z is not None, "truth needs a labelled view"
        return self.view.camera.unproject(self.view.uv[point], self.view.z[point])[0]


class Task(ABC):
    """A kind of question about a view, or two. Subclasses are values: one instance each, in the registry.

    name: what recipes and --task call it. answer: how answers are read and scored. images: how many pictures a question
    shows. points: how many points it is about. objects: how many objects, for a task about those (points is then 0).
    needs: of the data, for people. given: the unit of the number its questions state, or None. references: kinds that
    can ask it. wordings: question templates by the prompt's language, the first asked in evaluation; {point} or
    {object}, or {first} and {second}, and {given}. replies: answer templates by language; {value}, {given}, and what
    `fields` adds.
    """

    name: ClassVar[str]
    answer: ClassVar[AnswerKind]
    images: ClassVar[int] = 1
    points: ClassVar[int] = 1
    needs: ClassVar[str] = "points with the labels that it asks about"
    objects: ClassVar[int] = 0
    given: ClassVar[str | None] = None
    references: ClassVar[tuple[str, ...]] = ("marker", "text")
    wordings: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    replies: ClassVar[Mapping[str, str]] = {"english": "<answer>{value}</answer>", "nano": "{value}"}

    def count(self, sample: Sample) -> int:
        """How many different questions an evaluation may ask of a sample: number k is about its point or object k."""
        has, needs = (len(sample.objects), self.objects) if self.objects else (len(sample), self.points)
        return has if has >= needs else 0

    def draw(self, context: Context) -> Subject | None:
        """What a question about the context's point is about, or None when that lacks what the task needs."""
        return Subject((context.point,))

    @abstractmethod
    def truth(self, context: Context, subject: Subject) -> Any:
        """What is true, in the terms of `answer`, from stored depths, cameras and object boxes alone."""

    def question(self, context: Context, subject: Subject) -> str:
        """The question in the prompt's language. Raises InputError for a prompt that asks for distances alone."""
        choices = self._in_language(context, self.wordings)
        number = int(context.rng.integers(len(choices))) if context.vary and len(choices) > 1 else 0
        pointers = context.regions(subject.objects) if self.objects else context.pointers(subject.points)
        alone = "object" if self.objects else "point"
        names = [alone] if len(pointers) == 1 else ["first", "second"][: len(pointers)]
        words = dict(zip(names, pointers, strict=True))
        text = choices[number].format(**words, given=None if subject.given is None else f"{subject.given:.1f}")
        return self.introduction(context) + text

    def introduction(self, context: Context) -> str:
        """What the question begins with."""
        return context.prompt.introduce(context.reference, context.view.camera, regions=self.objects > 0)

    def say(self, context: Context, subject: Subject, truth: Any) -> str:
        """What is true, as the prompt writes it."""
        return truth if isinstance(truth, str) else context.prompt.number(truth)

    def reply(self, context: Context, subject: Subject, truth: Any) -> str:
        """The text a model is trained to answer."""
        return self._in_language(context, self.replies).format(
            value=self.say(context, subject, truth),
            given=None if subject.given is None else f"{subject.given:.1f}",
            **self.fields(context, subject),
        )

    def lead(self, context: Context) -> str | None:
        """What every reply says before its number; None where that varies, or the answer is no single number."""
        before, _, _ = str(self._in_language(context, self.replies)).partition("{value}")
        return before if isinstance(self.answer, Number) and "{" not in before else None

    def fields(self, context: Context, subject: Subject) -> dict[str, str]:
        """What else the reply says on the way to its value."""
        return {}

    def ask(self, context: Context) -> Question | None:
        """A question with its answer and truth, or None when the context lacks what the task needs."""
        subject = self.draw(context) if context.reference.kind in self.references else None
        if subject is None:
            return None
        truth = self.truth(context, subject)
        text, reply = self.question(context, subject), self.reply(context, subject, truth)
        return Question(text, reply, truth, subject.points, subject.objects)

    def _in_language(self, context: Context, templates: Mapping[str, Any]) -> Any:
        language = context.prompt.language
        if language is None or language not in templates:
            raise InputError(
                f"prompt {context.prompt.name!r} has no words for task {self.name!r}; it asks for distances alone"
            )
        return templates[language]


class PairTask(Task):
    """A kind of question about two views of one scene. questions: how many an evaluation asks of a pair at most."""

    images = 2
    points = 0
    questions: ClassVar[int] = 1
    needs = "two pictures of one scene near each other in the data, with poses, that show at least 25 % of each other"

    def count(self, sample: Sample) -> int:
        """As many of any sample: whether it has a partner is found when it is asked."""
        return self.questions

    def draw(self, context: Context) -> Subject | None:
        """No point: the two pictures are the subject."""
        return None if context.second is None else Subject(())

    def introduction(self, context: Context) -> str:
        """None: no pixel is named."""
        return ""
