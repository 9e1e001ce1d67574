"""Questions about two points of one view: how far apart, which is nearer."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from depthlm.tasks.answers import METRES, Word
from depthlm.tasks.base import Subject, Task

if TYPE_CHECKING:
    from depthlm.tasks.base import Context

_TRIES = 4  # second points that are drawn before a question is given up
_APART = 0.05  # metres: of two points closer than that, labels and coordinates say too little
_ORDER_RATIO = 1.25  # nearer-or-farther is asked of points whose distances differ by more than this


class _TwoPoints(Task):
    points = 2

    def draw(self, context: Context) -> Subject | None:
        """The context's point and another one."""
        others = context.others()
        for _ in range(_TRIES if len(others) else 0):
            subject = Subject((context.point, int(context.rng.choice(others))))
            if self.suits(context, subject):
                return subject
        return None

    @abstractmethod
    def suits(self, context: Context, subject: Subject) -> bool:
        """Whether the question has an answer for these two."""


class Between(_TwoPoints):
    """Metres between the two points in space."""

    name = "between"
    answer = METRES
    wordings = {
        "english": (
            "How far are these 2 points from each other? Points: {first} and {second}",
            "How many meters of straight line lie between these 2 points? Points: {first} and {second}",
        ),
        "nano": ("distance between {first} and {second}",),
    }

    def suits(self, context: Context, subject: Subject) -> bool:
        """Two different places."""
        return self.truth(context, subject) > _APART

    def truth(self, context: Context, subject: Subject) -> float:
        """Length of the difference of the two back-projected points."""
        first, second = (context.xyz(point) for point in subject.points)
        return float(np.linalg.norm(first - second))


class Nearer(_TwoPoints):
    """Which of the two is nearer to the camera: first or second."""

    name = "nearer"
    answer = Word(("first", "second"))
    wordings = {
        "english": (
            "Which of these 2 points is nearer to the camera, the first or the second? Points: {first} and {second}",
            "Two points are given. Say which one is closer to the camera: first or second? Points: {first} and "
            "{second}",
        ),
        "nano": ("what is nearer {first} or {second}",),
    }

    def suits(self, context: Context, subject: Subject) -> bool:
        """Clearly different distances."""
        first, second = (context.metres(point) for point in subject.points)
        return max(first / second, second / first) > _ORDER_RATIO

    def truth(self, context: Context, subject: Subject) -> str:
        """The word."""
        first, second = (context.metres(point) for point in subject.points)
        return "first" if first < second else "second"
