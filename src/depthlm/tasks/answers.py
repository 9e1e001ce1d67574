"""Kinds of answers: how text is read back, and how right a reading is.

Every kind scores an answer from 0 to 1 so that all tasks stand in one table; the score's name is `metric`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from depthlm.metrics import best_constant, is_correct
from depthlm.tasks.numbers import LENGTHS, Reading, answer_part, read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class AnswerKind(Protocol):
    """What a task's answers are. A value is what `read` finds in a text; None where it finds nothing."""

    @property
    def metric(self) -> str:
        """Name of the score."""
        ...

    @property
    def unit(self) -> str:
        """Of the value, for people; empty where it has none."""
        ...

    def locate(self, text: str) -> Reading | None:
        """Where the answer is one number: it, with its digits as written. None for every other kind."""
        ...

    def read(self, text: str) -> Any | None:
        """The value that a text states, or None: counted as unparsed, and wrong."""
        ...

    def scores(self, values: Sequence[Any | None], truths: Sequence[Any]) -> NDArray[np.float64]:
        """[N] how right each value is, 0 to 1; None scores 0."""
        ...

    def floor(self, truths: Sequence[Any]) -> Any:
        """The one answer that, given to every question, scores best (or nearly): what a model has to beat."""
        ...


@dataclass(frozen=True, slots=True)
class Number:
    """A positive number with a unit; right within a factor of 1.25 (delta1)."""

    unit: str
    units: Mapping[str, float]
    metric: str = "delta1"

    def locate(self, text: str) -> Reading | None:
        """The number with its digits as written."""
        return read_answer(text, self.units)

    def read(self, text: str) -> float | None:
        """The number in `unit`."""
        reading = self.locate(text)
        return None if reading is None else reading.value

    def scores(self, values: Sequence[float | None], truths: Sequence[float]) -> NDArray[np.float64]:
        """1 where max(p/g, g/p) < 1.25 and p > 0."""
        return is_correct([np.nan if value is None else value for value in values], truths).astype(np.float64)

    def floor(self, truths: Sequence[float]) -> float:
        """Exact: `best_constant`."""
        constant = best_constant(truths)[0]
        assert constant is not None, "a floor of no questions"
        return constant


@dataclass(frozen=True, slots=True)
class Word:
    """One of a few words. An answer that holds several of them, or none, is unparsed."""

    choices: tuple[str, ...] = ()
    metric: str = "accuracy"
    unit: str = ""

    def locate(self, text: str) -> None:
        """A word is no number."""

    def read(self, text: str) -> str | None:
        """The choice that stands in the answer; with no choices fixed, the answer's own words, in lower case."""
        said = answer_part(text).strip().lower()
        if not self.choices:
            return said.strip(" .") or None
        found = {choice for choice in self.choices if re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", said)}
        # Of "left" and "left and behind" the longer one is meant.
        found = {a for a in found if not any(a != b and a in b for b in found)}
        return found.pop() if len(found) == 1 else None

    def scores(self, values: Sequence[str | None], truths: Sequence[str]) -> NDArray[np.float64]:
        """1 where the words are the same."""
        return np.array([value == truth for value, truth in zip(values, truths, strict=True)], dtype=np.float64)

    def floor(self, truths: Sequence[str]) -> str:
        """The most frequent word; of several, the first in the alphabet."""
        words, counts = np.unique(list(truths), return_counts=True)
        return str(words[np.argmax(counts)])


METRES = Number("m", LENGTHS)
