"""GLPN: metres along the principal axis up to its config's max_depth. It does not take a focal length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthlm.rivals.base import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.rivals.base import Focal, Means


def traits(config: Any) -> tuple[Means, Focal]:
    """What its numbers are, and whether it takes the camera."""
    return "z", "unused"


def load(folder: Path, device: str) -> Checkpoint:
    """The model and its processor."""
    from transformers import GLPNForDepthEstimation, GLPNImageProcessorPil

    return load_checkpoint(folder, GLPNForDepthEstimation, GLPNImageProcessorPil, device)


def measure(loaded: Checkpoint, image: Image.Image, camera: Camera | None = None) -> NDArray[np.float32]:
    """[H, W] metres."""
    return loaded.post_processed(image)
