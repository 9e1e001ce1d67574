"""What commands share: outputs checked and printed, progress, models loaded."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from depthlm.models.loading import LoadedModel


def parse_point(text: str) -> tuple[float, float]:
    """U,V as two numbers. Raises InputError for anything else."""
    try:
        u, v = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--point {text!r} is not U,V; give two numbers of pixels, such as --point 320,240") from None
    return u, v


def choose_device(device: str | None) -> str:
    """The device that was named, else a GPU where there is one."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def load(model: str, device: str | None, dtype: str | None, revision: str | None) -> LoadedModel:
    """A model on its device; says so where its card had to be assumed."""
    from depthlm.models.loading import load_model

    loaded = load_model(model, device=choose_device(device), dtype=dtype, revision=revision)
    if loaded.card_source == "assumed":
        note = "no depthlm.json: focal length, prompt and meaning of its answers are assumed; figures mean little"
        print(f"note: {model}: {note}", file=sys.stderr)
    return loaded


def require_writable(path: Path) -> None:
    """Refuse an output that cannot be made before any work is done for it."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if existing != path and not existing.is_dir():
        raise InputError(f"cannot write {path}: {existing} is not a folder; give another output")
    if not os.access(existing, os.W_OK):
        raise InputError(f"cannot write {path}: no permission to write to {existing}; give another output")


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The one thing that goes to stdout."""
    print(json.dumps(result, allow_nan=False, default=str) if as_json else text)


def counted(items: Any, progress: Callable[[int, int], None], total: int) -> Iterator[Any]:
    """The items, counted as they pass."""
    for number, item in enumerate(items, 1):
        yield item
        progress(number, total)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, int], None]]:
    """A bar on stderr, and the function that moves it: progress(done, total)."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
