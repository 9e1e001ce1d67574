"""Anybody's depth model, from one Python file.

FOCAL = "unused"                     # or "needed", "optional": whether infer is given the camera
MEANS = "z"                          # or "distance", or "inverse" (1 / z up to scale and shift)
WEIGHTS = ["/models/mine.pt"]        # optional: files or folders whose content names a run

def load(model, device): ...         # model: the MODEL of the command line; returns whatever infer needs
def infer(loaded, image, camera):    # a PIL RGB picture; camera.fx, fy, cx, cy in its pixels, or None
    return depth                     # [H, W] at the picture's size, metres
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from depthlm.errors import InputError
from depthlm.models.locate import first_line
from depthlm.rivals.base import Focal, Means, Rival, digest_files

if TYPE_CHECKING:
    from types import ModuleType


def open_file(path: Path | str, model: str, *, device: str = "cpu") -> Rival:
    """The rival that a file describes. Raises InputError for a file that cannot be run or lacks load or infer."""
    path = Path(path)
    module = _run(path)
    for name in ("load", "infer"):
        if not callable(getattr(module, name, None)):
            raise InputError(f"{path}: has no function {name}; a rival has load(model, device) and {_INFER}")
    focal: Any = getattr(module, "FOCAL", "unused")
    means: Any = getattr(module, "MEANS", "z")
    for constant, value, allowed in (("FOCAL", focal, get_args(Focal)), ("MEANS", means, get_args(Means))):
        if value not in allowed:
            raise InputError(f"{path}: {constant} is {value!r}; expected one of {', '.join(allowed)}")
    weights = _weights(path, module, model)
    try:
        loaded = module.load(model, device)
    except Exception as error:  # whatever somebody's code raises
        raise InputError(f"{path}: load({model!r}, {device!r}) raised {told(error)}") from error
    return Rival(
        name=model,
        means=means,
        focal=focal,
        measure=lambda image, camera: module.infer(loaded, image, camera),
        identity={
            "rival": path.stem,
            "file": digest_files([path]),
            "weights": digest_files(weights) if weights else "not named",
        },
    )


_INFER = "infer(loaded, image, camera)"


def told(error: BaseException) -> str:
    """An error in one line, with its kind."""
    return f"{type(error).__name__}: {first_line(error)}"


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"--rival {path}: no such file; give a Python file with load(model, device) and {_INFER}")
    spec = importlib.util.spec_from_file_location(f"depthlm_rival_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--rival {path}: is no Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's code raises
        raise InputError(f"{path}: cannot be run ({told(error)})") from error
    return module


def _weights(path: Path, module: Any, model: str) -> list[Path]:
    """The files that WEIGHTS names, seen from the rival's folder; else MODEL, where that is on this disk."""
    named = getattr(module, "WEIGHTS", None)
    if named is None:
        given = Path(model).expanduser()
        return [given] if given.exists() else []
    if not isinstance(named, list | tuple) or not all(isinstance(name, str | Path) for name in named):
        raise InputError(f"{path}: WEIGHTS is {named!r}; expected a list of files or folders")
    found = [path.parent / Path(name).expanduser() for name in named]
    for file in found:
        if not file.exists():
            raise InputError(f"{path}: WEIGHTS names {file}, which is not there")
    return found
