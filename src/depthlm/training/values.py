"""Recipes as plain values: YAML files and key=value read, then built into dataclasses, whose checks are named."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


def read_values(path: Path | str, what: str, hint: str = "") -> dict[str, Any]:
    """The keys and values of a YAML file; what: its kind, hint: what to give instead, for messages.

    Raises InputError for a file that cannot be read or has none.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {path}: cannot be read ({error}){hint}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{what} {path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{what} {path}: expected keys and values, found {type(values).__name__}")
    return values


def apply(values: dict[str, Any], override: str) -> None:
    """Set one value in place, by `key=value` as of load_recipe. Raises InputError where there is no such place."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r} is not key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not valid YAML ({error})") from error
    *parents, last = key.split(".")
    target: Any = values
    for part in parents:
        if isinstance(target, list):
            if not part.isdigit() or int(part) > len(target):
                raise InputError(f"override {override!r}: {part!r} is no position of a list of {len(target)}")
            if int(part) == len(target):
                target.append({})  # one more entry, begun by its first key
            target = target[int(part)]
        else:
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        if not isinstance(target, (dict, list)):
            raise InputError(f"override {override!r}: {part!r} holds a plain value, nothing lies below it")
    if isinstance(target, list):
        if not last.isdigit() or int(last) >= len(target):
            raise InputError(f"override {override!r}: {last!r} is no position of a list of {len(target)}")
        target[int(last)] = value
    else:
        target[last] = value


def build(kind: Any, value: Any, where: str) -> Any:
    """Plain YAML values -> the type `kind`, a dataclass or what its fields are; `where` names the place in errors."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return build(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is list:
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, found {value!r}")
        return [build(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(args):
            raise InputError(f"{where}: expected {len(args)} values, found {value!r}")
        return tuple(build(a, item, where) for a, item in zip(args, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected keys and values, found {value!r}")
        return {build(args[0], k, where): build(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"{where}: expected a number, found {value!r}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected keys and values, found {value!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), fields, 1, 0.75)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"{where}: unknown key {', '.join(map(str, unknown))}; {meant}the keys are {', '.join(sorted(fields))}"
        )
    missing = [
        name
        for name, f in fields.items()
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: missing key {', '.join(missing)}")
    hints = get_type_hints(kind)
    built = {name: build(hints[name], item, f"{where}: {name}") for name, item in value.items()}
    try:
        return kind(**built)
    except InputError as error:  # what the class itself does not take
        raise InputError(f"{where}: {error}") from error


def check_numbers(owner: Any, expected: str, good: Callable[[float], bool], *keys: str) -> None:
    """Raises InputError for the first of these fields that is no finite number or not `good`; None passes."""
    for key in keys:
        value = getattr(owner, key)
        if value is not None and not (math.isfinite(value) and good(value)):
            raise InputError(f"{key} is {value}; expected {expected}")


def check_shares(weights: dict[str, float], key: str) -> None:
    """Raises InputError unless the weights under this key are numbers from 0 with at least one above it."""
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"{key}: weight of {name} is {weight}; expected 0 or more")
    if not any(weights.values()):
        raise InputError(f"{key}: {weights} gives everything weight 0; give at least one a positive number")
