"""ZoeDepth: metres along the principal axis. It does not take a focal length; the flipped picture is not averaged in.

The processor pads the picture by reflection. transformers takes that off again with torchvision; here it is done with
torch, which is what torchvision calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.rivals.base import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.rivals.base import Focal, Means

_PADDED = 3  # times sqrt(size / 2) at either end: the processor's own factor


def traits(config: Any) -> tuple[Means, Focal]:
    """What its numbers are, and whether it takes the camera."""
    return "z", "unused"


def load(folder: Path, device: str) -> Checkpoint:
    """The model and its processor."""
    from transformers import ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil

    return load_checkpoint(folder, ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil, device)


def measure(loaded: Checkpoint, image: Image.Image, camera: Camera | None = None) -> NDArray[np.float32]:
    """[H, W] metres."""
    from torch.nn.functional import interpolate

    top, left = (
        int(np.sqrt(size / 2) * _PADDED) if loaded.processor.do_pad else 0 for size in (image.height, image.width)
    )
    found = loaded.predict(image).predicted_depth
    padded = (image.height + 2 * top, image.width + 2 * left)
    whole = interpolate(found[:, None], size=padded, mode="bicubic", align_corners=False)
    inside = whole[0, 0, top : top + image.height, left : left + image.width]
    return np.asarray(inside.numpy(), dtype=np.float32)
