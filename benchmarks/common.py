"""What every benchmark shares: its options, the object it prints and its exit status (shared/DESIGN.md, section 6)."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PACKAGES = ("depthlm", "embreex", "numpy", "rtree", "torch", "transformers", "trimesh")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every script takes; the script adds its own options."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options.add_argument("--quick", action="store_true", help="smaller sizes, for `make bench`: does it still work?")
    return options


def run(
    options: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, measure, print. Returns the exit status: 0 done, 1 a check failed, 2 bad input (one line on stderr).

    measure: arguments -> {"headline": ..., "checks": {name: bool}, "config": {...}, raw figures}.
    """
    arguments = options.parse_intermixed_args(argv)
    try:
        result = _plain(measure(arguments) | {"versions": versions()})
    except InputError as error:
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, allow_nan=False) if arguments.json else _table(result))
    return 0 if all(result["checks"].values()) else 1


def counts(text: str, option: str) -> list[int]:
    """Whole numbers of 1 or more, separated by commas, in rising order. Raises InputError that names the option."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise InputError(f"{option} takes whole numbers of 1 or more, separated by commas; {text!r} was given")
    return numbers


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that benchmarks stand on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def progress(line: str) -> None:
    """One line for whoever waits; stdout belongs to the result."""
    print(line, file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    """The same with plain Python numbers, and None for what JSON cannot hold (NaN, infinities)."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(result: dict[str, Any]) -> str:
    rows = list(_rows("", result))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _rows(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _rows(f"{prefix}.{key}".lstrip("."), item)]
    if isinstance(value, bool) and prefix.startswith("checks."):
        return [(prefix, "ok" if value else "FAILED")]
    return [(prefix, f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value))]
