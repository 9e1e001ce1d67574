"""How fast, or how long, to reach a point: its distance first, then one division (paper.md 4, "reasoning")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthlm.tasks.answers import Number
from depthlm.tasks.base import Subject, Task
from depthlm.tasks.numbers import SPEEDS, TIMES

if TYPE_CHECKING:
    from depthlm.tasks.base import Context

# The paper gives examples (4.0 s, 6.0 m/s) and no range; these keep answers within what people and cars do.
_GIVEN = (1.0, 10.0)


class _Travel(Task):
    def draw(self, context: Context) -> Subject:
        """The point, and a number of one decimal."""
        low, high = (round(10 * bound) for bound in _GIVEN)
        return Subject((context.point,), int(context.rng.integers(low, high + 1)) / 10)

    def truth(self, context: Context, subject: Subject) -> float:
        """Distance over what is given: m / s is a speed, m / (m/s) a time."""
        assert subject.given is not None
        return context.metres(subject.points[0]) / subject.given

    def fields(self, context: Context, subject: Subject) -> dict[str, str]:
        """The distance that is divided."""
        return {"distance": context.prompt.number(context.metres(subject.points[0]))}


class Speed(_Travel):
    """Metres per second that reach the point in so many seconds."""

    name = "speed"
    answer = Number("m/s", SPEEDS)
    given = "s"
    wordings = {
        "english": (
            "How many meters per second should we move in order to reach this point in exactly {given} seconds? "
            "Point: {point}",
            "We want to be at this point in {given} seconds. How fast do we have to move, in meters per second? "
            "Point: {point}",
        ),
        "nano": ("speed to {point} in {given} seconds",),
    }
    replies = {
        "english": "The point is around {distance} meters away. Hence, the speed should be around "
        "{distance} / {given} = {value}m/s",
        "nano": "{distance} / {given} = {value}",
    }


class Time(_Travel):
    """Seconds to reach the point at so many metres per second."""

    name = "time"
    answer = Number("s", TIMES)
    given = "m/s"
    wordings = {
        "english": (
            "How many seconds do we need to reach this point if we move towards it with the speed of {given}m/s? "
            "Point: {point}",
            "We move straight to this point at {given} m/s. After how many seconds are we there? Point: {point}",
        ),
        "nano": ("time to {point} at {given} metres per second",),
    }
    replies = {
        "english": "The point is around {distance} meters away. Hence, we need around {distance} / {given} = {value}s",
        "nano": "{distance} / {given} = {value}",
    }
