"""FullProcessor: any other image-text-to-text family through its own AutoProcessor.

The family's processor resizes pictures as it likes, so a view's focal length holds only up to that resize; use one of
the families of `families.py` where accuracy matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from depthlm.models.chat import IGNORE, ChatProcessor, Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from depthlm.models.families import Family


class FullProcessor(ChatProcessor):
    """The same interface as ThinProcessor over a transformers processor; `grid` is 1: any view size will do."""

    def __init__(self, processor: Any, family: Family) -> None:
        tokenizer = processor.tokenizer
        if tokenizer.chat_template is None:
            tokenizer.chat_template = getattr(processor, "chat_template", None)
        if tokenizer.chat_template is None:
            raise ValueError("neither the processor nor its tokenizer has a chat template")
        image_token = getattr(processor, "image_token", None)
        if not isinstance(image_token, str):
            raise ValueError(f"{type(processor).__name__} does not say which token stands for an image")
        super().__init__(tokenizer, family, image_token)
        self.processor = processor
        self.image_processor = processor.image_processor
        self.resize = True
        self.grid = self.patch = self.merge = 1
        self.max_pixels: int | None = None

    @property
    def needs_token_types(self) -> bool:
        """Whether the family's processor makes mm_token_type_ids."""
        return "mm_token_type_ids" in self.processor.model_input_names

    def fits(self, width: int, height: int) -> bool:
        """Any size is taken; the family's processor resizes it."""
        return min(width, height) > 0

    def encode(
        self,
        images: Sequence[Image.Image],
        question: str,
        answer: str | None = None,
        system: str | None = None,
        *,
        prefill: str = "",
    ) -> Encoded:
        """One conversation, as ThinProcessor.encode. Raises ValueError for a template that drops images."""
        text = self.render(len(images), question, system)
        bos = self.tokenizer.bos_token
        made = dict(
            self.processor(
                text=[text],
                images=[image.convert("RGB") for image in images],
                return_tensors="pt",
                add_special_tokens=not (bos and text.startswith(bos)),  # the template may have written it already
            )
        )
        ids: torch.Tensor = made.pop("input_ids")[0]
        made.pop("attention_mask", None)
        made.pop("mm_token_type_ids", None)
        tail, tail_labels = self.answer_tokens(answer, prefill, system)
        input_ids = torch.cat([ids, torch.tensor(tail, dtype=torch.int64)])
        labels = torch.tensor([IGNORE] * len(ids) + tail_labels, dtype=torch.int64)
        filler = torch.zeros(len(tail), dtype=torch.int64)
        per_token = {name for name, value in made.items() if tuple(value.shape) == (1, len(ids))}
        return Encoded(
            input_ids=input_ids,
            labels=labels,
            mm_token_type_ids=(input_ids == self.image_token_id).to(torch.int64),
            images={name: value for name, value in made.items() if name not in per_token},
            extra={name: torch.cat([made[name][0], filler]) for name in per_token},
        )

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the processor's and the tokenizer's files."""
        self.processor.save_pretrained(folder)
