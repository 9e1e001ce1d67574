"""DPT (MiDaS v3): inverse depth up to scale and shift.

Some checkpoints of this architecture were trained for metres (heads for NYUv2 or KITTI); their config does not say so.
`"depth_estimation_type": "metric"` in config.json says it, as Depth Anything's does. No focal length is taken.
"""

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
    is_metric = getattr(config, "depth_estimation_type", "relative") == "metric"
    return ("z" if is_metric else "inverse"), "unused"


def load(folder: Path, device: str) -> Checkpoint:
    """The model and its processor."""
    from transformers import DPTForDepthEstimation, DPTImageProcessorPil

    return load_checkpoint(folder, DPTForDepthEstimation, DPTImageProcessorPil, device)


def measure(loaded: Checkpoint, image: Image.Image, camera: Camera | None = None) -> NDArray[np.float32]:
    """[H, W] inverse depth, or metres along the principal axis where the config says metric."""
    return loaded.post_processed(image)
