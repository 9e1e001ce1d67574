"""What stands beside a run and is no part of what it is: how long it took, on what, its cost, where its pictures lie.

command.json of a run's folder holds it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.claim import write_text
from depthlm.data import open_place, place_of
from depthlm.errors import InputError
from depthlm.evaluation.words import version

if TYPE_CHECKING:
    from depthlm.sample import Samples

COMMAND = "command.json"
_PACKAGES = ("depthlm", "torch", "transformers", "numpy", "pillow")


def record_command(folder: Path, samples: object, *, seconds: float, asked: int) -> None:
    """Note a run that has just been finished. asked: questions of these `seconds`; the others were asked before."""
    versions = {"Python": platform.python_version()}
    versions |= {name: found for name in _PACKAGES if (found := version(name))}
    facts = {
        "seconds": round(seconds, 3), "asked": asked, "machine": _machine(), "versions": versions,
        "data": place_of(samples),
    }  # fmt: skip
    write_text(folder / COMMAND, json.dumps(facts, indent=2) + "\n")


def add_cost(folder: Path, cost: str) -> None:
    """Note what a server was asked for a run, in words, unless that is known; a run read again costs nothing."""
    facts = read_command(folder)
    if facts and "cost" not in facts:
        write_text(folder / COMMAND, json.dumps(facts | {"cost": cost}, indent=2) + "\n")


def read_command(folder: Path) -> dict[str, Any]:
    """What was noted; empty where nothing was, or nothing that can be read."""
    try:
        facts = json.loads((folder / COMMAND).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def open_samples(folder: Path) -> tuple[Samples | None, str]:
    """The pictures that a run was asked about; None with the reason where they are not where they were."""
    place = read_command(folder).get("data")
    if not place:
        return None, "where the pictures are was not noted"
    try:
        return open_place(place), ""
    except (InputError, KeyError, TypeError) as error:
        return None, f"no picture: {' '.join(str(error).split())}"


def _machine() -> str:
    """Cores, and the accelerator where torch has one."""
    cores = f"{os.cpu_count()} cores"
    torch: Any = sys.modules.get("torch")  # whoever answers without it needs no accelerator
    return f"{cores}, {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else cores


def told_time(folder: Path) -> str:
    """Time of a run, in words."""
    facts = read_command(folder)
    if not {"seconds", "asked", "machine"} <= facts.keys():
        return "not noted"
    return f"{facts['seconds']:.0f} s for {facts['asked']:,} questions on {facts['machine']}"


def told_cost(folder: Path) -> str:
    """What a server was asked for a run, in words."""
    return str(read_command(folder).get("cost", "no server was asked, or not noted"))


def told_versions(folder: Path) -> str:
    """What a run was computed with, in words."""
    found = read_command(folder).get("versions")
    return ", ".join(f"{name} {one}" for name, one in found.items()) if found else "not noted"
