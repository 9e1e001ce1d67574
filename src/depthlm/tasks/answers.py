"""Kinds of answers: how text is read back, and how right a reading is.

Every kind scores an answer from 0 to 1 so that all tasks stand in one table; the score's name is `metric`.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from depthlm.metrics import best_constant, is_correct
from depthlm.motion import angle_between, rotation_angle, rotation_matrix
from depthlm.tasks.numbers import ANGLES, LENGTHS, MOST, Reading, answer_part, read_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def figures(self, values: Sequence[Any | None], truths: Sequence[Any]) -> dict[str, float | None]:
        """Further figures over the answered questions, by name with unit; None where nothing was answered."""
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

    def figures(self, values: Sequence[Any | None], truths: Sequence[Any]) -> dict[str, float | None]:
        """None of its own: absrel and rmse are the evaluator's."""
        return {}


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

    def figures(self, values: Sequence[Any | None], truths: Sequence[Any]) -> dict[str, float | None]:
        """None of its own."""
        return {}


METRES = Number("m", LENGTHS)

# --- angles and pixels ------------------------------------------------------------------------------------------------

AUC_DEGREES = 30.0  # an angular error of this much or more scores 0
PCK_SHARE = 0.05  # of the picture's longer side: a pixel no farther off than this is right
_CANDIDATES = 500  # answers that are tried for a floor
_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[-+\u2212]?\s?{_DECIMAL}"


class _Angular(ABC):
    """Answers whose error is an angle. Their mean score is AUC@30, the area under recall against the error allowed."""

    metric = "auc@30"
    unit = "degrees"

    @abstractmethod
    def read(self, text: str) -> Any | None:
        """What the text states."""

    @abstractmethod
    def error(self, value: Any, truth: Any) -> float:
        """Degrees between two values."""

    def locate(self, text: str) -> Reading | None:
        """Several numbers are none."""
        return None

    def scores(self, values: Sequence[Any | None], truths: Sequence[Any]) -> NDArray[np.float64]:
        """max(0, 1 - error / 30 degrees): its mean is the share right within t degrees, averaged over t in 0..30."""
        errors = [
            np.inf if value is None else self.error(value, truth) for value, truth in zip(values, truths, strict=True)
        ]
        return np.clip(1 - np.array(errors, dtype=np.float64) / AUC_DEGREES, 0, 1)

    def floor(self, truths: Sequence[Any]) -> Any:
        """The best of the truths themselves (of evenly many of them where they are more than 500)."""
        return _best_of(self, truths)

    def figures(self, values: Sequence[Any | None], truths: Sequence[Any]) -> dict[str, float | None]:
        """Median error."""
        errors = [self.error(value, truth) for value, truth in zip(values, truths, strict=True) if value is not None]
        return {"median_error_deg": float(np.median(errors)) if errors else None}


class Angle(_Angular):
    """One angle without a sign; a value is degrees."""

    def locate(self, text: str) -> Reading | None:
        """The number with its digits as written."""
        return read_answer(text, ANGLES)

    def read(self, text: str) -> float | None:
        """Degrees."""
        reading = self.locate(text)
        return None if reading is None else reading.value

    def error(self, value: float, truth: float) -> float:
        """Their difference."""
        return abs(value - truth)


class Rotation(_Angular):
    """Yaw, pitch and roll (motion.py); a value is the three in degrees.

    Signs are told by + and -, or by words: yaw left or right, pitch up or down, roll left or right.
    """

    _SIGNS: Mapping[str, int] = {"right": 1, "up": 1, "left": -1, "down": -1}
    _PART = re.compile(
        rf"\b(?P<name>yaw|pitch|roll)\b\s*(?:[=:]|is)?\s*(?P<before>left|right|up|down)?\s*(?P<sign>[-+\u2212]?)\s?"
        rf"(?P<digits>{_DECIMAL})(?![\w.]*\d)(?:\s*(?P<unit>\u00b0|deg(?:rees?)?\b|rad(?:ians?)?\b))?"
        r"(?:\s*(?:to the\s+)?(?P<after>left|right|up|down)\b)?",
        re.IGNORECASE,
    )

    def read(self, text: str) -> tuple[float, float, float] | None:
        """All three, or None; an angle that is stated twice with different values is not stated."""
        found: dict[str, set[float]] = {}
        for match in self._PART.finditer(answer_part(text)):
            word = (match["before"] or match["after"] or "").lower()
            negative = match["sign"] in ("-", "\u2212")
            if word and (negative or (match["before"] and match["after"])):
                return None  # "left -3": which of the two is meant?
            size = float(match["digits"]) * ANGLES[(match["unit"] or "deg").lower()]
            if size > MOST:
                return None
            sign = self._SIGNS[word] if word else -1 if negative else 1
            found.setdefault(match["name"].lower(), set()).add(sign * size)
        if sorted(found) != ["pitch", "roll", "yaw"] or any(len(values) > 1 for values in found.values()):
            return None
        yaw, pitch, roll = (found[name].pop() for name in ("yaw", "pitch", "roll"))
        return yaw, pitch, roll

    def error(self, value: Sequence[float], truth: Sequence[float]) -> float:
        """The angle of the rotation that takes one to the other."""
        return rotation_angle(rotation_matrix(*value).T @ rotation_matrix(*truth))


class Direction(_Angular):
    """A direction in the first camera's frame; a value is x (right), y (down), z (forward), of length 1.

    Read from three numbers in brackets, or from words with their numbers: "left 0.69 up 0.02 forward 0.72".
    """

    unit = ""
    _TRIPLE = re.compile(rf"[(\[]\s*({_SIGNED})\s*,\s*({_SIGNED})\s*,\s*({_SIGNED})\s*[)\]]")
    _WORDS = re.compile(rf"\b(left|right|up|down|backward|forward)\s+({_DECIMAL})(?![\w.]*\d)", re.IGNORECASE)
    _AXES: Mapping[str, tuple[int, int]] = {
        "left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1), "backward": (2, -1), "forward": (2, 1),
    }  # fmt: skip

    def read(self, text: str) -> tuple[float, float, float] | None:
        """The last three numbers in brackets, else the words; of any length but 0."""
        said = answer_part(text)
        vector = np.zeros(3)
        if triples := self._TRIPLE.findall(said):
            vector[:] = [float(number.replace("\u2212", "-").replace(" ", "")) for number in triples[-1]]
        else:
            axes = []
            for word, number in self._WORDS.findall(said):
                axis, sign = self._AXES[word.lower()]
                axes.append(axis)
                vector[axis] = sign * float(number)
            if sorted(axes) != [0, 1, 2]:
                return None
        length = float(np.linalg.norm(vector))
        if not (length > 0 and np.isfinite(length)):
            return None
        x, y, z = (float(part) for part in vector / length)
        return x, y, z

    def error(self, value: Sequence[float], truth: Sequence[float]) -> float:
        """The angle between the two."""
        return angle_between(value, truth)


class Spot(NamedTuple):
    """A place on a view: exact text coordinates x, y, whose range is [0, range), and the view's size in pixels."""

    x: float
    y: float
    range: int
    width: int
    height: int


class Pixel:
    """A pixel in text coordinates; a value is (x, y), a truth a `Spot`. Right within 5 % of the longer side (PCK)."""

    metric = f"pck@{PCK_SHARE:g}"
    unit = ""
    _PAIR = re.compile(
        rf"[(\[]\s*({_DECIMAL})\s*,\s*({_DECIMAL})\s*[)\]]|\bx\s?=?\s?({_DECIMAL})\s*,?\s*y\s?=?\s?({_DECIMAL})(?!\w)"
        rf"|^\s*({_DECIMAL})\s*,\s*({_DECIMAL})\s*$",
        re.IGNORECASE,
    )

    def locate(self, text: str) -> None:
        """Two numbers are none."""

    def read(self, text: str) -> tuple[float, float] | None:
        """The last pair, written (x, y), x4 y2, or as the whole answer: 4, 2."""
        pairs = [[part for part in match if part] for match in self._PAIR.findall(answer_part(text))]
        if not pairs:
            return None
        x, y = map(float, pairs[-1])
        return (x, y) if max(x, y) <= MOST else None

    def error(self, value: Sequence[float], truth: Sequence[float]) -> float:
        """Pixels of the second view between the two (its end point error)."""
        spot = Spot(*truth)  # type: ignore[arg-type]
        across, down = (value[0] - spot.x) * spot.width, (value[1] - spot.y) * spot.height
        return math.hypot(across, down) / spot.range

    def scores(self, values: Sequence[Any | None], truths: Sequence[Any]) -> NDArray[np.float64]:
        """1 where the error is at most 5 % of the longer side of the view."""
        return np.array(
            [
                value is not None and self.error(value, truth) <= PCK_SHARE * max(Spot(*truth)[3:])
                for value, truth in zip(values, truths, strict=True)
            ],
            dtype=np.float64,
        )

    def floor(self, truths: Sequence[Any]) -> tuple[float, float]:
        """The best of the true places and their middle."""
        middle = np.median([truth[:2] for truth in truths], axis=0)
        x, y = _best_of(self, truths, [(truth[0], truth[1]) for truth in truths] + [tuple(middle.tolist())])
        return x, y

    def figures(self, values: Sequence[Any | None], truths: Sequence[Any]) -> dict[str, float | None]:
        """Mean and median end point error."""
        errors = [self.error(value, truth) for value, truth in zip(values, truths, strict=True) if value is not None]
        return {
            "epe_px": float(np.mean(errors)) if errors else None,
            "median_epe_px": float(np.median(errors)) if errors else None,
        }


def _best_of(kind: AnswerKind, truths: Sequence[Any], candidates: Sequence[Any] | None = None) -> Any:
    """The candidate (default: a truth) that scores best when given to every question; of several, the first."""
    tried = truths if candidates is None else candidates
    if len(tried) > _CANDIDATES:
        tried = [tried[i] for i in np.linspace(0, len(tried) - 1, _CANDIDATES).astype(int)]
    totals = [kind.scores([candidate] * len(truths), truths).sum() for candidate in tried]
    return tried[int(np.argmax(totals))]
