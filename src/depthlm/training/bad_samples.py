"""Samples that a run cannot use: each is logged once and counted once, whichever process met it and however often."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from depthlm.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


class BadSamples:
    """Lines that say what is wrong with which sample, at most `limit` different ones.

    path: a file that keeps them, one a line, for loader processes, ranks and resumed runs to count together; None keeps
    them in memory.
    """

    def __init__(self, limit: int = 100, path: Path | None = None) -> None:
        self.limit, self.path = limit, path
        self._lines: dict[str, None] = {}

    @property
    def lines(self) -> list[str]:
        """All of them, in the order in which they were met."""
        if self.path is not None and self.path.exists():
            self._lines |= dict.fromkeys(self.path.read_text(encoding="utf-8").splitlines())
        return list(self._lines)

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, line: str) -> None:
        """Note a sample. Raises InputError when there are more than `limit`, or when the file cannot be written."""
        line = " ".join(line.split())
        if line not in self.lines:
            log.warning("skipped a sample: %s", line)
            self._lines[line] = None
            self._write(line)
        if len(self) > self.limit:
            kept = "" if self.path is None else f" (all of them: {self.path})"
            raise InputError(f"more than max_bad={self.limit} samples cannot be used; the last: {line}{kept}")

    def _write(self, line: str) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:  # short lines: appends of several processes do not mix
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.path} ({error}); make room and run the same again") from error
