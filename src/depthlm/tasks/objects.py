"""Questions about labelled objects: how large, which is larger, how two of them lie to each other for the viewer.

Sizes are those of the object's own box in space (objects.LabelledObject), not of what happens to be seen of it. Where
two are nearly equal, or lie beside each other in the direction asked about, nothing is asked. docs/tasks.md has all
definitions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from depthlm.metrics import DELTA1_RATIO
from depthlm.tasks.answers import METRES, Word
from depthlm.tasks.base import Subject, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.objects import LabelledObject
    from depthlm.tasks.base import Context

LENGTH_RATIO = DELTA1_RATIO  # widths and heights that differ by less are not compared
VOLUME_RATIO = LENGTH_RATIO**3  # as when all three sides differ by that much
OVERLAP = 0.25  # share of the shorter of two spans that may lie beside the other when one is called left, above, behind
SAME_UP = 0.98  # cosine of the angle (11 degrees) between the upright directions of things that share a floor
STEEPEST = 0.9  # cosine between the viewing direction and straight up or down; beyond it nothing is ahead
APART = 0.1  # metres: centres that are closer belong to things inside each other


class _OneObject(Task):
    points = 0
    objects = 1
    needs = "samples with labelled objects"
    answer = METRES

    def draw(self, context: Context) -> Subject:
        """The context's object."""
        return Subject((), objects=(context.point,))


class Width(_OneObject):
    """Metres across the front of the object."""

    name = "width"
    wordings = {
        "english": (
            "How many meters wide is this object, measured across its front? Object: {object}",
            "What is the width of this object from its left side to its right side, in meters? Object: {object}",
        ),
        "nano": ("width of {object}",),
    }

    def truth(self, context: Context, subject: Subject) -> float:
        """Of its box."""
        return context.view.objects[subject.objects[0]].size[0]


class Height(_OneObject):
    """Metres from the object's lowest point to its highest."""

    name = "height"
    wordings = {
        "english": (
            "How many meters tall is this object? Object: {object}",
            "What is the height of this object from its lowest to its highest point, in meters? Object: {object}",
        ),
        "nano": ("height of {object}",),
    }

    def truth(self, context: Context, subject: Subject) -> float:
        """Of its box."""
        return context.view.objects[subject.objects[0]].size[1]


class _TwoObjects(Task):
    points = 0
    objects = 2
    needs = "samples with labelled objects, two on one picture"

    def draw(self, context: Context) -> Subject | None:
        """The context's object and another one for which the question has an answer."""
        for other in context.rng.permutation(len(context.view.objects)).tolist():
            subject = Subject((), objects=(context.point, other))
            if other != context.point and self.suits(*self.pair(context, subject)):
                return subject
        return None

    def pair(self, context: Context, subject: Subject) -> tuple[LabelledObject, LabelledObject]:
        """The two objects."""
        first, second = (context.view.objects[row] for row in subject.objects)
        return first, second

    @abstractmethod
    def suits(self, first: LabelledObject, second: LabelledObject) -> bool:
        """Whether the question has an answer for these two."""


class BoxDistance(_TwoObjects):
    """Metres of straight line between the centres of the two boxes in space."""

    name = "box_distance"
    answer = METRES
    wordings = {
        "english": (
            "How many meters lie between the centers of these 2 objects? Objects: {first} and {second}",
            "How far are these 2 objects from each other, from center to center, in meters? Objects: {first} and "
            "{second}",
        ),
        "nano": ("distance between {first} and {second}",),
    }

    def suits(self, first: LabelledObject, second: LabelledObject) -> bool:
        """Two different places."""
        return self._metres(first, second) > APART

    def truth(self, context: Context, subject: Subject) -> float:
        """Length of the difference of the two centres."""
        return self._metres(*self.pair(context, subject))

    @staticmethod
    def _metres(first: LabelledObject, second: LabelledObject) -> float:
        return float(np.linalg.norm(np.subtract(first.center, second.center)))


class _Comparison(_TwoObjects):
    """Which of the two is larger: first or second."""

    answer = Word(("first", "second"))

    def truth(self, context: Context, subject: Subject) -> str:
        """The word."""
        first, second = self.pair(context, subject)
        return "first" if self.measure(first) > self.measure(second) else "second"

    def suits(self, first: LabelledObject, second: LabelledObject) -> bool:
        """Clearly different sizes."""
        return _ratio(self.measure(first), self.measure(second)) > LENGTH_RATIO

    @abstractmethod
    def measure(self, thing: LabelledObject) -> float:
        """What is compared."""


class Wider(_Comparison):
    """By width."""

    name = "wider"
    wordings = {
        "english": (
            "Which of these 2 objects is wider, the first or the second? Objects: {first} and {second}",
            "Two objects are given. Say which one is wider across its front: first or second? Objects: {first} and "
            "{second}",
        ),
        "nano": ("what is wider {first} or {second}",),
    }

    def measure(self, thing: LabelledObject) -> float:
        """Metres."""
        return thing.size[0]


class Taller(_Comparison):
    """By height."""

    name = "taller"
    wordings = {
        "english": (
            "Which of these 2 objects is taller, the first or the second? Objects: {first} and {second}",
            "Two objects are given. Say which one has the greater height: first or second? Objects: {first} and "
            "{second}",
        ),
        "nano": ("what is taller {first} or {second}",),
    }

    def measure(self, thing: LabelledObject) -> float:
        """Metres."""
        return thing.size[1]


class Bigger(_Comparison):
    """By the volume of the box."""

    name = "bigger"
    wordings = {
        "english": (
            "Which of these 2 objects is bigger, the first or the second? Objects: {first} and {second}",
            "Two objects are given. Say which one takes up more space: first or second? Objects: {first} and {second}",
        ),
        "nano": ("what is bigger {first} or {second}",),
    }

    def suits(self, first: LabelledObject, second: LabelledObject) -> bool:
        """Clearly different volumes, and the bigger one's front is the larger too: a flat thing is no clear case."""
        fronts = [thing.size[0] * thing.size[1] for thing in (first, second)]
        agree = (fronts[0] - fronts[1]) * (first.volume - second.volume) >= 0
        return agree and _ratio(first.volume, second.volume) > VOLUME_RATIO

    def measure(self, thing: LabelledObject) -> float:
        """Cubic metres."""
        return thing.volume


class _Relation(_TwoObjects):
    """On which side of the second the first lies: both reach over a span, and one span comes before the other.

    words: the answer where the first object's span comes first, and where it comes last.
    """

    words: ClassVar[tuple[str, str]]

    def truth(self, context: Context, subject: Subject) -> str:
        """The word."""
        one, other = self.spans(*self.pair(context, subject))
        return self.words[0] if sum(one) < sum(other) else self.words[1]

    def suits(self, first: LabelledObject, second: LabelledObject) -> bool:
        """Spans that hardly lie beside each other."""
        one, other = self.spans(first, second)
        beside = min(one[1], other[1]) - max(one[0], other[0])
        return beside <= OVERLAP * min(one[1] - one[0], other[1] - other[0])

    @abstractmethod
    def spans(self, first: LabelledObject, second: LabelledObject) -> tuple[tuple[float, float], tuple[float, float]]:
        """From where to where each reaches, in the direction that is asked about."""


class LeftRight(_Relation):
    """Left or right in the picture, by the rectangles of what is seen."""

    name = "left_right"
    words = ("left", "right")
    answer = Word(words)
    wordings = {
        "english": (
            "Is the first of these 2 objects to the left or to the right of the second, as the viewer sees them? "
            "Objects: {first} and {second}",
            "On which side of the second object does the viewer see the first, left or right? Objects: {first} and "
            "{second}",
        ),
        "nano": ("is {first} left or right of {second}",),
    }

    def spans(self, first: LabelledObject, second: LabelledObject) -> tuple[tuple[float, float], tuple[float, float]]:
        """Pixels, from the left."""
        return (first.box[0], first.box[2]), (second.box[0], second.box[2])


class _Upright(_Relation):
    """A relation in the room, which both objects must stand in alike."""

    def suits(self, first: LabelledObject, second: LabelledObject) -> bool:
        """Besides, both agree on where above is, and the camera does not look straight up or down."""
        alike = float(first.up @ second.up) > SAME_UP and abs(self.up(first, second)[2]) < STEEPEST
        return alike and super().suits(first, second)

    def up(self, first: LabelledObject, second: LabelledObject) -> NDArray[np.float64]:
        """[3] unit vector of the camera frame, away from the floor."""
        both = first.up + second.up
        return both / np.linalg.norm(both)


class AboveBelow(_Upright):
    """Above or below in the room, along the objects' own upright direction, wherever they are in the picture."""

    name = "above_below"
    words = ("below", "above")
    answer = Word(words)
    wordings = {
        "english": (
            "Is the first of these 2 objects higher up in the scene than the second, above it, or lower, below it? "
            "Objects: {first} and {second}",
            "Compare the heights of these 2 objects above the floor: is the first above or below the second? "
            "Objects: {first} and {second}",
        ),
        "nano": ("is {first} above or below {second}",),
    }

    def spans(self, first: LabelledObject, second: LabelledObject) -> tuple[tuple[float, float], tuple[float, float]]:
        """Metres, from below."""
        up = self.up(first, second)
        return first.span(up), second.span(up)


class BehindFront(_Upright):
    """In front of or behind: the one that is reached first on walking where the camera looks."""

    name = "behind_front"
    words = ("front", "behind")
    answer = Word(words)
    wordings = {
        "english": (
            "Is the first of these 2 objects in front of the second or behind it, as the viewer sees them? "
            "Objects: {first} and {second}",
            "Seen from the camera, is the first object in front of or behind the second? Objects: {first} and {second}",
        ),
        "nano": ("is {first} in front or behind {second}",),
    }

    def spans(self, first: LabelledObject, second: LabelledObject) -> tuple[tuple[float, float], tuple[float, float]]:
        """Metres along the floor from the camera, in the direction it looks."""
        up = self.up(first, second)
        ahead = np.array([0.0, 0.0, 1.0]) - up[2] * up  # level, however the camera is pitched
        ahead /= np.linalg.norm(ahead)
        return first.span(ahead), second.span(ahead)


def _ratio(one: float, other: float) -> float:
    return max(one / other, other / one)
