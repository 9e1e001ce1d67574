"""ThinProcessor: PIL image processor + tokenizer + our own placeholder expansion.

The full processors need torchvision and resize pictures by themselves; a resize changes the focal length, so this one
refuses a view that would not pass through it unresampled. With `resize=True` (the released protocol, `geometry:
official`) the checkpoint's image processor is left to do what it was trained with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from depthlm.errors import InputError
from depthlm.models.chat import IGNORE, ChatProcessor, Encoded, collate_images
from depthlm.rgbx import view_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from depthlm.models.families import Family

__all__ = ["IGNORE", "Encoded", "ThinProcessor", "collate_images"]

PREPROCESSOR_FILE = "preprocessor_config.json"
_LARGEST_TOKENS = 16384  # image tokens of the largest picture, as in Qwen's own configs
_AT_ONCE = 128  # patches whose levels and numbers all stay in the cache
_LONGEST_EDGE = 8192  # pixels; Pixtral bounds the longer side and not the area


class ThinProcessor(ChatProcessor):
    """Images and text -> model inputs, for one checkpoint of a family we know.

    image_processor: the family's PIL image processor; its size limits are set from `max_pixels` unless `resize` (then
    they stay as the checkpoint has them). patch, grid: pixels; merge: patches per side of one image token.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any,
        family: Family,
        *,
        resize: bool = False,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(tokenizer, family, family.image_token)
        self.image_processor = image_processor
        self.resize = resize
        self.patch, self.merge = _patch_and_merge(image_processor, family)
        self.grid = self.patch * self.merge
        self.max_pixels = max_pixels or _LARGEST_TOKENS * self.grid**2
        self.image_start_id = self._token_id(family.start_token) if family.start_token else None
        self.image_end_id = self._token_id(family.end_token) if family.end_token else None
        self.image_break_id = self._token_id(family.break_token) if family.break_token else None
        if not resize:
            image_processor.size = (
                {"shortest_edge": self.grid**2, "longest_edge": self.max_pixels}
                if family.images == "patches"
                else {"longest_edge": _LONGEST_EDGE}
            )
        self._levels = _level_table(image_processor)

    # --- images -------------------------------------------------------------------------------------------------

    def fits(self, width: int, height: int) -> bool:
        """Whether a picture of that size passes through unresampled."""
        on_grid = width % self.grid == 0 and height % self.grid == 0 and min(width, height) > 0
        return on_grid and self._within_limits(width, height)

    def encode_images(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """RGB views -> pixel_values (float32) with image_grid_thw or image_sizes.

        Raises ValueError for a view off the patch grid and InputError for one beyond the size limits (unless `resize`).
        """
        if self.resize:
            batch = self.image_processor(images=list(images), return_tensors="np")
            return {
                name: torch.from_numpy(np.asarray(batch[name]))
                for name in ("pixel_values", "image_grid_thw", "image_sizes")
                if name in batch
            }
        for image in images:
            if image.width % self.grid or image.height % self.grid:
                raise ValueError(
                    f"view of {image.width}x{image.height} would be resampled by the image processor, which changes"
                    f" its focal length; both sizes must be multiples of {self.grid}"
                )
            if not self._within_limits(image.width, image.height):
                raise InputError(
                    f"view of {image.width}x{image.height} is beyond the model's size limits"
                    f" {dict(self.image_processor.size)}; use a smaller image or set max_pixels in depthlm.json"
                )
        levels = [view_levels(image if image.mode == "RGB" else image.convert("RGB")) for image in images]
        return self._patches(levels) if self.family.images == "patches" else self._planes(levels)

    def image_placeholder_ids(self, grid: Sequence[int] | torch.Tensor) -> list[int]:
        """Tokens that stand for one image: a row of image_grid_thw or of image_sizes -> ids, start and end included."""
        numbers = [int(n) for n in grid]
        assert self.image_end_id is not None
        if self.family.images == "patches":
            assert self.image_start_id is not None
            count = numbers[0] * numbers[1] * numbers[2] // self.merge**2
            return [self.image_start_id, *[self.image_token_id] * count, self.image_end_id]
        assert self.image_break_id is not None
        row = [self.image_token_id] * (numbers[1] // self.grid) + [self.image_break_id]
        return [*(row * (numbers[0] // self.grid))[:-1], self.image_end_id]

    def _within_limits(self, width: int, height: int) -> bool:
        size = self.image_processor.size
        if self.family.images == "planes":
            return max(width, height) <= size["longest_edge"]
        # 200: the image processor's own bound on the aspect ratio.
        is_slim = max(width, height) > 200 * min(width, height)
        return size["shortest_edge"] <= width * height <= size["longest_edge"] and not is_slim

    def _patches(self, levels: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """uint8 [H, W, 3 or 4] each -> flat patches [P, 3 * T * p * p] in merge order; equal to the PIL processor's."""
        p = self.patch
        frames = int(self.image_processor.temporal_patch_size)
        grids = [(1, image.shape[0] // p, image.shape[1] // p) for image in levels]
        out = np.empty((sum(rows * columns for _, rows, columns in grids), 3, frames, p * p), dtype=np.float32)
        start = 0
        for image in levels:
            patches = self._merge_order(image)
            self._write_numbers(patches, out[start : start + len(patches)])
            start += len(patches)
        return {
            "pixel_values": torch.from_numpy(out.reshape(len(out), 3 * frames * p * p)),
            "image_grid_thw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
        }

    def _merge_order(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> [P, p * p, C] in merge order."""
        p, m, (height, width, channels) = self.patch, self.merge, image.shape
        rows = np.ascontiguousarray(image).reshape(height, width * channels)
        pieces = rows.view(f"V{p * channels}")  # p pixels of a row move as one
        pieces = pieces.reshape(height // self.grid, m, p, width // self.grid, m).transpose(0, 3, 1, 4, 2)
        return np.ascontiguousarray(pieces).view(np.uint8).reshape(-1, p * p, channels)

    def _write_numbers(self, patches: np.ndarray, out: np.ndarray) -> None:
        """[P, p * p, C] grey levels -> their numbers in out [P, 3, T, p * p], the same in all frames."""
        numbers = np.empty((3, _AT_ONCE, patches.shape[1]), dtype=np.float32)
        for start in range(0, len(patches), _AT_ONCE):
            some = patches[start : start + _AT_ONCE]
            for channel, levels in enumerate(_channels(some)):
                self._look_up(channel, levels, numbers[channel, : len(some)])
            out[start : start + len(some)] = numbers[:, : len(some)].swapaxes(0, 1)[:, :, None]

    def _planes(self, levels: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """uint8 [H, W, 3 or 4] each -> [I, 3, max H, max W], zero beyond each picture."""
        height = max(image.shape[0] for image in levels)
        width = max(image.shape[1] for image in levels)
        out = np.zeros((len(levels), 3, height, width), dtype=np.float32)
        for target, image in zip(out, levels, strict=True):
            for channel, plane in enumerate(_channels(image)):
                self._look_up(channel, plane, target[channel, : image.shape[0], : image.shape[1]])
        sizes = [image.shape[:2] for image in levels]
        return {"pixel_values": torch.from_numpy(out), "image_sizes": torch.tensor(sizes, dtype=torch.int64)}

    def _look_up(self, channel: int, levels: np.ndarray, out: np.ndarray) -> None:
        """[N, M] grey levels of a channel -> what the model is given for them, in out [N, M]."""
        import cv2

        cv2.LUT(levels, self._levels[channel], out)

    # --- conversations ------------------------------------------------------------------------------------------

    def encode(
        self,
        images: Sequence[Image.Image],
        question: str,
        answer: str | None = None,
        system: str | None = None,
        *,
        prefill: str = "",
    ) -> Encoded:
        """One conversation: at least one picture, the question, then (to train) the answer and its end token.

        prefill: start of the answer that is given, not asked (generation only; ignored with an answer).
        Raises ValueError for a view the image processor would resample, or a template that drops images.
        """
        pixels = self.encode_images(images)
        ids = self.encode_ids(pixels, question, system)
        tail, tail_labels = self.answer_tokens(answer, prefill, system)
        input_ids = torch.tensor(ids + tail, dtype=torch.int64)
        return Encoded(
            input_ids=input_ids,
            labels=torch.tensor([IGNORE] * len(ids) + tail_labels, dtype=torch.int64),
            mm_token_type_ids=(input_ids == self.image_token_id).to(torch.int64),
            images=pixels,
        )

    def encode_ids(self, images: dict[str, torch.Tensor], question: str, system: str | None = None) -> list[int]:
        """Token ids of a question about pictures that are encoded already (`Encoded.images`), up to its answer."""
        grids = images["image_grid_thw" if self.family.images == "patches" else "image_sizes"]
        return self.expand(self.tokenize(self.render(len(grids), question, system)), grids)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write tokenizer files, chat template and preprocessor_config.json with the size limits in it."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        path = Path(folder) / PREPROCESSOR_FILE
        config = json.loads(path.read_text(encoding="utf-8"))
        # Other tools know the class by its common name; ours picks the PIL one whatever stands here.
        config["image_processor_type"] = config["image_processor_type"].removesuffix("Pil")
        _write_json(path, config)
        if self.family.images == "planes":
            # Without it other tools take a LLaVA config for CLIP's kind, whose processor knows no rows.
            names = {
                "processor_class": "PixtralProcessor",
                "patch_size": self.patch,
                "spatial_merge_size": self.merge,
                "image_token": self.image_token,
                "image_break_token": self.family.break_token,
                "image_end_token": self.family.end_token,
            }
            _write_json(Path(folder) / "processor_config.json", names)

    def expand(self, ids: list[int], grids: torch.Tensor) -> list[int]:
        """Replace each single image token of a rendered text by its image's placeholders."""
        out: list[int] = []
        images = iter(grids)
        for token in ids:
            if token != self.image_token_id:
                out.append(token)
                continue
            placeholders = self.image_placeholder_ids(next(images))
            # The template has already written the start and end tokens of the Qwen families.
            out += placeholders[1:-1] if self.image_start_id is not None else placeholders
        return out


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _channels(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3 or 4] -> its first three channels, [3, H, W]."""
    import cv2

    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    cv2.mixChannels([image], list(planes), [0, 0, 1, 1, 2, 2])
    return planes


def _patch_and_merge(image_processor: Any, family: Family) -> tuple[int, int]:
    """Patch side in pixels and patches merged per side into one token."""
    patch = image_processor.patch_size
    if not isinstance(patch, int):
        patch = patch["height"]
    return int(patch), int(image_processor.merge_size) if family.images == "patches" else 1


def _level_table(image_processor: Any) -> np.ndarray:
    """[3, 256] float32: what each grey level becomes in each channel, by the image processor's own arithmetic."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=0)  # [3, 256, 1], channels first
    values: np.ndarray = levels.astype(np.float32)
    if image_processor.do_rescale:
        values = image_processor.rescale(levels, image_processor.rescale_factor)
    if image_processor.do_normalize:
        values = image_processor.normalize(values, image_processor.image_mean, image_processor.image_std)
    return np.asarray(values, dtype=np.float32)[:, :, 0]
