"""Depth Pro: metres along the principal axis; the focal length is its own estimate, or the true one where it is given.

The processor of transformers needs torchvision. What it does is little: pixels are normalised first and resized after
that, without antialiasing, by the very function of torch that torchvision calls.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.rivals.base import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.rivals.base import Focal, Means

_PROCESSOR = "preprocessor_config.json"
_LEAST, _MOST = 1e-4, 1e4  # of inverse depth, 1 / metres


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How pixels become the model's input; the defaults are those of transformers' DepthProImageProcessor."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    factor: float = 1 / 255
    size: tuple[int, int] = (1536, 1536)

    @classmethod
    def read(cls, folder: Path) -> Preparation:
        """From preprocessor_config.json, where there is one. Raises InputError for values that it cannot have."""
        path = folder / _PROCESSOR
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            size = values.get("size", {"height": cls.size[0], "width": cls.size[1]})
            return cls(
                mean=tuple(float(v) for v in values.get("image_mean", cls.mean)),
                std=tuple(float(v) for v in values.get("image_std", cls.std)),
                factor=float(values.get("rescale_factor", cls.factor)),
                size=(int(size["height"]), int(size["width"])),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: is no image processor of Depth Pro ({error!r}); download it again") from error

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """An RGB picture -> [1, 3, height, width] float32."""
        import torch
        from torch.nn.functional import interpolate

        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()
        mean, std = (torch.tensor(values)[:, None, None] * (1.0 / self.factor) for values in (self.mean, self.std))
        normal = ((pixels - mean) / std)[None]
        if normal.shape[-2:] == self.size:
            return normal
        return interpolate(normal, size=self.size, mode="bilinear", align_corners=False, antialias=False)


def traits(config: Any) -> tuple[Means, Focal]:
    """What its numbers are, and whether it takes the camera: it must where it has no head for the field of view."""
    return "z", ("optional" if config.use_fov_model else "needed")


def load(folder: Path, device: str) -> Checkpoint:
    """The model, and the preparation of its pictures in the place of a processor."""
    from transformers import DepthProForDepthEstimation

    preparation = Preparation.read(folder)
    return Checkpoint(load_checkpoint(folder, DepthProForDepthEstimation, None, device).model, preparation)


def measure(loaded: Checkpoint, image: Image.Image, camera: Camera | None = None) -> NDArray[np.float32]:
    """[H, W] metres.

    The model tells inverse depth of a picture whose focal length is its width; camera: of the true one, else the focal
    length is the model's own.
    """
    from torch.nn.functional import interpolate

    found = loaded.run(loaded.processor(image))
    inverse = found.predicted_depth[:, None]
    if camera is not None:
        inverse = inverse * (image.width / camera.fx)
    elif found.field_of_view is not None:
        inverse = inverse * (2 * math.tan(math.radians(float(found.field_of_view[0])) / 2))
    inverse = interpolate(inverse, size=(image.height, image.width), mode="bilinear", align_corners=False)
    return np.asarray((1.0 / inverse.clamp(_LEAST, _MOST))[0, 0].numpy(), dtype=np.float32)
