"""depthlm: metric depth from vision-language models. Heavy imports happen inside the rooms that need them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthlm.api import load
    from depthlm.camera import Camera
    from depthlm.pointcloud import PointCloud

__version__ = "0.1.0"
__all__ = ["Camera", "PointCloud", "__version__", "load"]

_HOMES = {"load": "depthlm.api", "Camera": "depthlm.camera", "PointCloud": "depthlm.pointcloud"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import depthlm` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'depthlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
