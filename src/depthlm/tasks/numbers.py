"""Text -> metres (m/s, seconds, degrees): what number, if any, a model's answer states.

One reading for every checkpoint and every prompt, so that two models are compared on what they said and not on how
they said it. Order of trust: the last `<answer>...</answer>`; else the last number that carries a unit of the quantity
asked for; else the last bare number.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 10_000.0  # metres, beyond any depth sensor: an answer above this is a slip of the pen, not a measurement

# The unit of each quantity's values, and how many of it the others hold.
LENGTHS: Mapping[str, float] = {
    "millimeters": 1e-3, "millimetres": 1e-3, "millimeter": 1e-3, "millimetre": 1e-3, "mm": 1e-3,
    "centimeters": 1e-2, "centimetres": 1e-2, "centimeter": 1e-2, "centimetre": 1e-2, "cm": 1e-2,
    "kilometers": 1e3, "kilometres": 1e3, "kilometer": 1e3, "kilometre": 1e3, "km": 1e3,
    "meters": 1.0, "metres": 1.0, "meter": 1.0, "metre": 1.0, "m": 1.0,
    "feet": 0.3048, "foot": 0.3048, "ft": 0.3048,
}  # fmt: skip
SPEEDS: Mapping[str, float] = {
    "meters per second": 1.0, "metres per second": 1.0, "m/s": 1.0, "mps": 1.0,
    "kilometers per hour": 1 / 3.6, "kilometres per hour": 1 / 3.6, "km/h": 1 / 3.6, "kph": 1 / 3.6, "mph": 0.44704,
}  # fmt: skip
TIMES: Mapping[str, float] = {
    "milliseconds": 1e-3, "millisecond": 1e-3, "ms": 1e-3,
    "seconds": 1.0, "second": 1.0, "secs": 1.0, "sec": 1.0, "s": 1.0,
    "minutes": 60.0, "minute": 60.0, "min": 60.0, "hours": 3600.0, "hour": 3600.0, "h": 3600.0,
}  # fmt: skip
ANGLES: Mapping[str, float] = {
    "degrees": 1.0, "degree": 1.0, "deg": 1.0, "\u00b0": 1.0,
    "radians": 180 / math.pi, "radian": 180 / math.pi, "rad": 180 / math.pi,
}  # fmt: skip
# Longest spelling first, so that "m/s" is not read as "m" and "mm" not as "m".
_UNITS = sorted({*LENGTHS, *SPEEDS, *TIMES, *ANGLES}, key=len, reverse=True)

# A sign counts only where it cannot be a dash between two words or numbers ("1-2 meters"). A comma is a thousands
# separator before three digits and a decimal comma before one or two.
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>[-+\u2212]?)\s?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+,\d{1,2}(?![\d,])|\d+(?:\.\d*)?|\.\d+)"
    r"(?P<exponent>[eE][-+]?\d+)?"
    r"(?:\s*(?P<unit>" + "|".join(_UNITS) + r")(?![A-Za-z0-9_])|(?![\dA-Za-z_]))"
    r"|(?<=\d)[-\u2013](?P<after_dash>\d+(?:\.\d*)?)(?:\s*(?P<dash_unit>" + "|".join(_UNITS) + r")(?![A-Za-z0-9_]))?",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number found in an answer: its value, its digits as written, and how many of the value's units its unit holds.

    Lengths are metres, speeds m/s, times seconds, angles degrees.
    """

    value: float
    literal: str
    per_unit: float


def parse_answer(text: str, units: Mapping[str, float] = LENGTHS) -> float | None:
    """The quantity that `text` states (a length in metres by default), or None when it states none.

    units: one of the tables above. Negative, infinite and absurd (above 10,000) numbers are None: an evaluation counts
    them as unparsed and wrong; so are numbers whose unit belongs to another quantity. Zero is a number (a nearby point
    may round to it), and never a correct one.
    """
    reading = read_answer(text, units)
    return None if reading is None else reading.value


def read_answer(text: str, units: Mapping[str, float] = LENGTHS) -> Reading | None:
    """As `parse_answer`, with the digits as they stand in the text."""
    with_unit, bare = [], []
    for match in _NUMBER.finditer(answer_part(text)):
        unit = (match["unit"] or match["dash_unit"] or "").lower()
        if unit in units:
            with_unit.append((match, units[unit]))
        elif not unit:
            bare.append((match, 1.0))
    if not (with_unit or bare):
        return None
    match, scale = (with_unit or bare)[-1]
    literal = match["digits"] or match["after_dash"]
    value = float(_plain(literal) + (match["exponent"] or "")) * scale
    if match["sign"] in ("-", "\u2212") and value != 0:
        return None
    if not math.isfinite(value) or value > MOST:
        return None
    return Reading(value, literal, scale)


def answer_part(text: str) -> str:
    """What stands in the last pair of answer tags, or the whole text where there is none."""
    tagged = _ANSWER.findall(text)
    return str(tagged[-1]) if tagged else text


def _plain(digits: str) -> str:
    """Digits with a comma -> digits that float() reads."""
    whole, comma, rest = digits.rpartition(",")
    if comma and len(rest) < 3 and "." not in rest:
        return f"{whole}.{rest}"
    return digits.replace(",", "")
