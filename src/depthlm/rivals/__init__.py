"""Dense depth models, measured beside language models: one file for each architecture of transformers, or anybody's.

A file of this room has `traits(config)`, `load(folder, device)` and `measure(loaded, image, camera)`.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError
from depthlm.models.locate import resolve_folder
from depthlm.rivals.base import Rival, digest_files

if TYPE_CHECKING:
    from pathlib import Path

# A checkpoint's model_type -> the module here that runs it.
ARCHITECTURES = ("depth_anything", "depth_pro", "dpt", "glpn", "zoedepth")


def architecture(folder: Path) -> str | None:
    """The name in ARCHITECTURES of the checkpoint in a folder; None for anything else."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return kind if kind in ARCHITECTURES else None


def open_rival(model: str, *, device: str = "cpu", revision: str | None = None) -> Rival:
    """A depth-estimation checkpoint of transformers: a folder or a hub id. Weights are computed with in float32.

    Raises InputError when there is none, when it is incomplete, or of an architecture that has no file here.
    """
    folder = resolve_folder(model, revision=revision)
    kind = architecture(folder)
    if kind is None:
        raise InputError(
            f"{model}: is no depth-estimation model of transformers that is known here ({', '.join(ARCHITECTURES)}); "
            "run another by --rival FILE"
        )
    module: Any = importlib.import_module(f"depthlm.rivals.{kind}")
    loaded = module.load(folder, device)
    means, focal = module.traits(loaded.model.config)
    return Rival(
        name=model,
        means=means,
        focal=focal,
        measure=lambda image, camera: module.measure(loaded, image, camera),
        identity={"rival": kind, "weights": digest_files([folder])},
    )


__all__ = ["ARCHITECTURES", "Rival", "architecture", "open_rival"]
