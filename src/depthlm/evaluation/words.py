"""How a report writes figures, and how its files appear."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DASH = "\N{EN DASH}"
_UNITS = {"millimetres": 1000.0, "centimetres": 100.0, "kilometres": 0.001}  # how many are a metre


def cell(figure: dict[str, Any], decimals: int = 3) -> str:
    """A figure with its interval, where it has one."""
    low, high = figure["ci"]
    told = value(figure, decimals)
    between = " to " if low is not None and low < 0 else DASH  # a dash and a minus sign are hard to tell apart
    return told if low is None or told == DASH else f"{told} ({low:.{decimals}f}{between}{high:.{decimals}f})"


def value(figure: dict[str, Any] | None, decimals: int = 3) -> str:
    """A figure alone."""
    return DASH if figure is None or figure["value"] is None else f"{figure['value']:.{decimals}f}"


def figure_cell(value: float | None) -> str:
    """A number in a table of the terminal."""
    return "-" if value is None else f"{value:.3f}"


def ends(ci: Sequence[float | None]) -> str:
    """An interval alone."""
    low, high = ci
    return "one picture" if low is None or high is None else f"{low:.3f}{DASH}{high:.3f}"


def share(count: int, total: int) -> str:
    """A count with its share of all."""
    return f"{count} ({100 * count / total:.1f} %)" if count else "0"


def counted(count: int) -> str:
    """So many pictures."""
    return f"{count:,} picture{'' if count == 1 else 's'}"


def angle(row: dict[str, Any]) -> str:
    """A range of angles."""
    return f"{row['from']:g}{DASH}{row['to']:g}\N{DEGREE SIGN}"


def band(row: dict[str, Any]) -> str:
    """By how much the depths of a pair differ."""
    low = f"{100 * row['from']:.0f}"
    return f"{low} % and more" if row["to"] is None else f"{low}{DASH}{100 * row['to']:.0f} %"


def unit_note(summary: Mapping[str, Any]) -> str | None:
    """A line for a run whose answers look like another unit: their geometric mean ratio to the truths is near one."""
    found = (summary.get("metrics") or {}).get("scalars", {}).get(summary["task"], {}).get("scale")
    scale = None if found is None else found["value"]
    if scale is None:
        return None
    for name, factor in _UNITS.items():
        if factor / 2 < scale < factor * 2:
            times = f"{scale:.0f}" if scale > 1 else f"{scale:.2g}"
            return f"answers are {times} times the truths (geometric mean): are they {name}? Metres are expected"
    return None


def version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
