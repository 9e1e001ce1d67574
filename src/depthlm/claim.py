"""Output folders that belong to one set of settings: an interrupted run goes on there, another one does not mix in."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = ".parts"  # what is finished, while a run lasts


def write_json(path: Path, value: Any) -> None:
    """Write by rename: the file is there whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same for any text."""
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def same_settings(path: Path, settings: dict[str, Any], what: str) -> bool:
    """True when the file holds these settings; what: the kind of run, for messages.

    Raises InputError when it holds others or cannot be read.
    """
    folder = path.parent
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} exists and is no {what} ({error}); choose another folder or remove it") from error
    if found == settings:
        return True
    different = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
    raise InputError(
        f"{folder} holds {_article(what)} {what} that differs in {', '.join(different)} (see {path}); "
        "choose another folder or remove it"
    )


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def claim(path: Path, settings: dict[str, Any], what: str) -> None:
    """Make the folder of the file this run's, with a place for its records; drop what a killed run left half-written.

    Raises InputError for a folder that holds something else, or cannot be written.
    """
    out = path.parent
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            same_settings(path, settings, what)
            for leftover in [*out.glob(".*.writing-*"), *(out / RECORDS).glob(".*.writing-*")]:
                leftover.unlink(missing_ok=True)
        (out / RECORDS).mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; choose another folder") from error
