"""Questions with text answers about one view, or two. A registry: recipes name tasks with weights, --task names one.

A task is one class: what it needs of a sample, how it asks, what it answers, how the answer is read and scored. Truth
is computed from stored depths, cameras, poses and object boxes alone. A task that lacks its label for a point draws
nothing and another is asked. `surface`, `colour` and `where` teach a model that is trained from scratch what a
pre-trained VLM knows already.
"""

from __future__ import annotations

from depthlm.errors import InputError
from depthlm.tasks.base import Context, PairTask, Question, Second, Subject, Task
from depthlm.tasks.distance import Distance
from depthlm.tasks.match import Match
from depthlm.tasks.motion import Moved, MoveDirection, TurnAngle, Turned
from depthlm.tasks.objects import (
    AboveBelow,
    BehindFront,
    Bigger,
    BoxDistance,
    Height,
    LeftRight,
    Taller,
    Wider,
    Width,
)
from depthlm.tasks.teaching import Colour, Surface, Where
from depthlm.tasks.travel import Speed, Time
from depthlm.tasks.two_points import Between, Nearer
from depthlm.tasks.z import PrincipalAxisDepth

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Distance(), PrincipalAxisDepth(), Speed(), Time(), Between(), Nearer(),
        Moved(), MoveDirection(), Turned(), TurnAngle(), Match(),
        Width(), Height(), BoxDistance(), Wider(), Taller(), Bigger(), LeftRight(), AboveBelow(), BehindFront(),
        Surface(), Colour(), Where(),
    )
}  # fmt: skip


# What fine-tuning may cost: questions without a length in them, asked before and after (`eval --retention`).
RETENTION = ("surface", "colour", "nearer", "where")


def get_task(name: str) -> Task:
    """The task of that name. Raises InputError for an unknown one."""
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; choose one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["RETENTION", "TASKS", "Context", "PairTask", "Question", "Second", "Subject", "Task", "get_task"]
