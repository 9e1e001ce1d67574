"""What a rival is, and what those of transformers share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.errors import InputError
from depthlm.models.locate import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.camera import Camera

Means = Literal["z", "distance", "inverse"]
Focal = Literal["unused", "optional", "needed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rival:
    """A dense depth model, ready to measure pictures.

    measure: an RGB picture, and its camera or None -> [H, W] numbers, one for each pixel. means: what they are: z or
    distance in metres, or `inverse`: 1 / z up to a scale and a shift that differ from picture to picture.
    focal: whether it takes the camera. identity: plain values that say which code and which weights these are.
    """

    name: str
    measure: Callable[[Image.Image, Camera | None], NDArray[np.floating[Any]]]
    means: Means
    focal: Focal
    identity: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A depth model of transformers in float32, in eval mode, with the PIL version of its image processor.

    processor: None where transformers has none that runs without torchvision.
    """

    model: Any
    processor: Any

    def predict(self, image: Image.Image) -> Any:
        """The model's output for a picture as its processor prepares it."""
        return self.run(self.processor(images=image, return_tensors="pt")["pixel_values"])

    def run(self, pixel_values: Any) -> Any:
        """The model's output for [1, 3, h, w] prepared pixels, on the CPU."""
        import torch

        with torch.inference_mode():
            output = self.model(pixel_values=pixel_values.to(self.model.device))
        return type(output)({k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in output.items()})

    def post_processed(self, image: Image.Image) -> NDArray[np.float32]:
        """[H, W] as the processor's own `post_process_depth_estimation` gives it at the picture's size."""
        found = self.processor.post_process_depth_estimation(
            self.predict(image), target_sizes=[(image.height, image.width)]
        )
        return np.asarray(found[0]["predicted_depth"].numpy(), dtype=np.float32)


# Weights that no depth goes through, and that some released checkpoints (DPT's) lack.
_UNUSED = ("neck.fusion_stage.layers.0.residual_layer1.", "pooler.")


def load_checkpoint(folder: Path, model_class: Any, processor_class: Any, device: str) -> Checkpoint:
    """Raises InputError for a folder without weights, with too few of them, or that cannot be read."""
    import torch

    from depthlm.models.loading import quiet

    try:
        with quiet():
            model, report = model_class.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        processor = None if processor_class is None else processor_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # safetensors, torch and transformers each raise their own kinds
        raise InputError(f"{folder}: cannot be loaded as {model_class.__name__} ({first_line(error)})") from error
    if missing := sorted(key for key in report["missing_keys"] if not any(part in key for part in _UNUSED)):
        raise InputError(
            f"{folder}: lacks {len(missing)} weights of {model_class.__name__} (the first: {missing[0]}); download it"
            " again"
        )
    return Checkpoint(model.eval().to(device), processor)


def digest_files(paths: Iterable[Path]) -> str:
    """16 hex digits that stand for the content of files, and of all files in folders but hidden ones."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            below = file.relative_to(path if path.is_dir() else path.parent)
            if not file.is_file() or any(part.startswith(".") for part in below.parts):
                continue
            digest.update(below.as_posix().encode() + b"\0")
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
