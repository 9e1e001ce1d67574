"""Text -> metres: what number, if any, a model's answer states.

One reading for every checkpoint and every prompt, so that two models are compared on what they said and not on how
they said it. Order of trust: the last `<answer>...</answer>`; else the last number that carries a unit of length; else
the last bare number.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MAX_METRES = 10_000.0  # beyond any depth sensor: an answer above this is a slip of the pen, not a measurement

# Metres per unit. Longest spelling first, so that "mm" is not read as "m".
_UNITS = {
    "millimeters": 1e-3, "millimetres": 1e-3, "millimeter": 1e-3, "millimetre": 1e-3, "mm": 1e-3,
    "centimeters": 1e-2, "centimetres": 1e-2, "centimeter": 1e-2, "centimetre": 1e-2, "cm": 1e-2,
    "kilometers": 1e3, "kilometres": 1e3, "kilometer": 1e3, "kilometre": 1e3, "km": 1e3,
    "meters": 1.0, "metres": 1.0, "meter": 1.0, "metre": 1.0, "m": 1.0,
    "feet": 0.3048, "foot": 0.3048, "ft": 0.3048,
}  # fmt: skip

# A sign counts only where it cannot be a dash between two words or numbers ("1-2 meters"). A comma is a thousands
# separator before three digits and a decimal comma before one or two.
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>[-+\u2212]?)\s?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+,\d{1,2}(?![\d,])|\d+(?:\.\d*)?|\.\d+)"
    r"(?P<exponent>[eE][-+]?\d+)?"
    r"(?:\s*(?P<unit>" + "|".join(_UNITS) + r")(?![A-Za-z0-9_])|(?![A-Za-z_]))"
    r"|(?<=\d)[-\u2013](?P<after_dash>\d+(?:\.\d*)?)(?:\s*(?P<dash_unit>" + "|".join(_UNITS) + r")(?![A-Za-z0-9_]))?",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number found in an answer: its value in metres, its digits as written, and how many metres its unit holds."""

    value: float
    literal: str
    metres_per_unit: float


def parse_answer(text: str) -> float | None:
    """The length in metres that `text` states, or None when it states none.

    Negative, infinite and absurd (above 10,000 m) numbers are None: an evaluation counts them as unparsed and wrong.
    Zero is a number (a nearby point may round to it), and never a correct one.
    """
    reading = read_answer(text)
    return None if reading is None else reading.value


def read_answer(text: str) -> Reading | None:
    """As `parse_answer`, with the digits as they stand in the text."""
    tagged = _ANSWER.findall(text)
    found = list(_NUMBER.finditer(tagged[-1] if tagged else text))
    if not found:
        return None
    with_unit = [match for match in found if match["unit"] or match["dash_unit"]]
    match = (with_unit or found)[-1]
    literal = match["digits"] or match["after_dash"]
    number = float(_plain(literal) + (match["exponent"] or ""))
    scale = _UNITS[(match["unit"] or match["dash_unit"] or "m").lower()]
    value = number * scale
    if match["sign"] in ("-", "\u2212") and value != 0:
        return None
    if not math.isfinite(value) or value > MAX_METRES:
        return None
    return Reading(value, literal, scale)


def _plain(digits: str) -> str:
    """Digits with a comma -> digits that float() reads."""
    whole, comma, rest = digits.rpartition(",")
    if comma and len(rest) < 3 and "." not in rest:
        return f"{whole}.{rest}"
    return digits.replace(",", "")
