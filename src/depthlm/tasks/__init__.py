"""Questions with text answers about one view. A registry: recipes name tasks with weights.

`distance` is what the model is for. The others teach a model that is trained from scratch what a pre-trained VLM knows
already: which pixel is meant, what it shows, where the marker is. They read labels every sample has (z, the image) or
may have (surface names); a task that lacks its label for a point returns None and another is drawn.
"""

from __future__ import annotations

from depthlm.errors import InputError
from depthlm.tasks.base import QA, PointContext, Task
from depthlm.tasks.distance import Distance
from depthlm.tasks.teaching import Colour, Nearer, Surface, Where

TASKS: dict[str, Task] = {task.name: task for task in (Distance(), Surface(), Colour(), Nearer(), Where())}


def get_task(name: str) -> Task:
    """The task of that name. Raises InputError for an unknown one."""
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; choose one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["QA", "TASKS", "PointContext", "Task", "get_task"]
