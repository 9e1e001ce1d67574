"""Conversations as tokens: the part that every processor of this package shares.

A conversation is: pictures, question | answer, end token. Its layout comes from the tokenizer's chat template, rendered
once per (number of images, system text) and cached as the text around the question.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthlm.models.families import Family

IGNORE = -100
_QUESTION = "QUESTION\x1f"
_ANSWER = "ANSWER\x1f"
_FURTHER = "FURTHER\x1f"


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One conversation, ready to be batched.

    input_ids, labels, mm_token_type_ids: [L] int64 (labels IGNORE but for the answer and the end token; types 1 at
    image features, else 0). images: pixel_values with image_grid_thw [I, 3] or image_sizes [I, 2] (height, width).
    extra: further [L] tensors that a family's own processor makes.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    mm_token_type_ids: torch.Tensor
    images: dict[str, torch.Tensor]
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def pixel_values(self) -> torch.Tensor:
        """[patches, values] for Qwen families, [I, 3, H, W] for Pixtral."""
        return self.images["pixel_values"]

    @property
    def image_grid_thw(self) -> torch.Tensor | None:
        """[I, 3] patches (time, rows, columns) of each image, before merging; Qwen families only."""
        return self.images.get("image_grid_thw")

    @property
    def image_sizes(self) -> torch.Tensor | None:
        """[I, 2] height and width in pixels of each image; Pixtral only."""
        return self.images.get("image_sizes")


class ChatProcessor:
    """Text of a conversation -> token ids, labels and batches. Subclasses add the images.

    tokenizer: a fast transformers tokenizer with all special tokens of the family. image_token: the placeholder the
    chat template writes once per image. Raises ValueError for a tokenizer without one of the needed tokens.
    """

    def __init__(self, tokenizer: Any, family: Family, image_token: str) -> None:
        self.tokenizer = tokenizer
        self.family = family
        self.image_token = image_token
        self._layouts: dict[tuple[int, str | None], tuple[str, str, str]] = {}
        self._turns: dict[str | None, tuple[str, str]] = {}
        if tokenizer.chat_template is None:
            tokenizer.chat_template = family.chat_template
        if tokenizer.pad_token_id is None:
            # Only a filler: padded positions are masked in attention and in labels, whatever token stands there.
            tokenizer.pad_token = tokenizer.eos_token
        self.image_token_id = self._token_id(image_token)
        self.end_id = self._token_id(family.turn_end) if family.turn_end else int(tokenizer.eos_token_id)
        self.pad_id = int(tokenizer.pad_token_id)

    @property
    def needs_token_types(self) -> bool:
        """Whether the model wants mm_token_type_ids (M-RoPE families go 1-D or fail without them)."""
        return self.family.mrope

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a piece of text, nothing added; special tokens in it are recognised."""
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int] | torch.Tensor) -> str:
        """Text of answer tokens, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def render(self, images: int, question: str, system: str | None = None) -> str:
        """Conversation text up to where the answer begins, one image token per image."""
        before, after, _ = self._layout(images, system)
        return before + question + after

    def render_answer(self, answer: str, system: str | None = None) -> str:
        """Text of the answer as the template lays it out, without its end token."""
        return self._layout(1, system)[2] + answer

    def render_turn(self, question: str, system: str | None = None) -> str:
        """Text of a further turn: from after an answer's end token to where the next answer begins."""
        between, after = self._further_turn(system)
        return between + question + after

    def answer_tokens(self, answer: str | None, prefill: str, system: str | None) -> tuple[list[int], list[int]]:
        """(ids, labels) after the question: answer and end token to train, or a given start of a numeric answer."""
        if answer is not None:
            ids = [*self.tokenize(self.render_answer(answer, system)), self.end_id]
            return ids, ids
        ids = self.lead_tokens(prefill, system) if prefill else []
        return ids, [IGNORE] * len(ids)

    def lead_tokens(self, lead: str, system: str | None = None) -> list[int]:
        """Tokens of the start of an answer that a number follows: what answers with different numbers share."""
        first, *others = (self.tokenize(self.render_answer(lead + n, system)) for n in ("0.5", "1.1", "22", "9.9"))
        same = next((i for i, ids in enumerate(zip(first, *others, strict=False)) if len(set(ids)) > 1), len(first))
        return first[:same]

    def collate(self, batch: Sequence[Encoded], pad: Literal["left", "right"] = "right") -> dict[str, torch.Tensor]:
        """Conversations -> model inputs: pad right to train, left to generate. [B, L] text, images concatenated."""
        length = max(len(item) for item in batch)

        def stack(rows: list[torch.Tensor], fill: int) -> torch.Tensor:
            out = torch.full((len(rows), length), fill, dtype=torch.int64)
            for target, row in zip(out, rows, strict=True):
                target[slice(0, len(row)) if pad == "right" else slice(length - len(row), length)] = row
            return out

        out = {
            "input_ids": stack([item.input_ids for item in batch], self.pad_id),
            "attention_mask": stack([torch.ones_like(item.input_ids) for item in batch], 0),
            "labels": stack([item.labels for item in batch], IGNORE),
        }
        if self.needs_token_types:
            out["mm_token_type_ids"] = stack([item.mm_token_type_ids for item in batch], 0)
        for name in batch[0].extra:
            out[name] = stack([item.extra[name] for item in batch], 0)
        return out | collate_images([item.images for item in batch])

    # --- internals ----------------------------------------------------------------------------------------------

    def _layout(self, images: int, system: str | None) -> tuple[str, str, str]:
        """Template text around a question: (before it, after it up to the answer, what precedes the answer's words)."""
        key = (images, system)
        if key not in self._layouts:
            self._layouts[key] = self._render_layout(images, system)
        return self._layouts[key]

    def _render_layout(self, images: int, system: str | None) -> tuple[str, str, str]:
        turns = self._first_turn(images, system)
        asked = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        _, answered = self._answered(turns, asked)
        before, found, after = asked.partition(_QUESTION)
        if not found or asked.count(self.image_token) != images:
            raise ValueError(f"the tokenizer's chat template drops the question or one {self.image_token} per image")
        return before, after, answered[len(asked) :].partition(_ANSWER)[0]

    @staticmethod
    def _first_turn(images: int, system: str | None) -> list[dict[str, Any]]:
        # Older Pixtral templates read a text part's "content", all others its "text".
        text = {"type": "text", "text": _QUESTION, "content": _QUESTION}
        turns: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}] * images + [text]}]
        return turns if system is None else [{"role": "system", "content": system}, *turns]

    def _answered(self, turns: list[dict[str, Any]], asked: str) -> tuple[dict[str, Any], str]:
        """The assistant's turn in the form that the template takes, and the conversation that ends with it."""
        replies: list[Any] = [_ANSWER, [{"type": "text", "text": _ANSWER, "content": _ANSWER}]]
        for reply in replies:  # some templates take an answer as text only, some as parts only
            turn = {"role": "assistant", "content": reply}
            try:
                answered = self.tokenizer.apply_chat_template([*turns, turn], tokenize=False)
            except Exception:  # whatever a template raises on the form it does not know
                continue
            if answered.startswith(asked) and answered.count(_ANSWER) == 1:
                return turn, str(answered)
        raise ValueError("the tokenizer's chat template does not continue a question with its answer")

    def _further_turn(self, system: str | None) -> tuple[str, str]:
        """Template text around a second question, the end token of the first answer left out."""
        if system not in self._turns:
            turns = self._first_turn(1, system)
            asked = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            reply, _ = self._answered(turns, asked)
            more = {"role": "user", "content": [{"type": "text", "text": _FURTHER, "content": _FURTHER}]}
            text = self.tokenizer.apply_chat_template([*turns, reply, more], tokenize=False, add_generation_prompt=True)
            between, _, after = text.partition(_ANSWER)[2].partition(_FURTHER)
            end = str(self.tokenizer.convert_ids_to_tokens(self.end_id))
            self._turns[system] = between.lstrip(" ").removeprefix(end), after
        return self._turns[system]

    def _token_id(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no {token} token, which family {self.family.name} needs")
        return int(index)


def collate_images(batch: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Image tensors of several conversations -> one dict; pictures of unequal size are padded with zeros."""
    out: dict[str, torch.Tensor] = {}
    for name in batch[0]:
        tensors = [item[name] for item in batch]
        if name == "pixel_values" and tensors[0].ndim == 4:
            height, width = (max(t.shape[axis] for t in tensors) for axis in (2, 3))
            tensors = [torch.nn.functional.pad(t, (0, width - t.shape[3], 0, height - t.shape[2])) for t in tensors]
        out[name] = torch.cat(tensors)
    return out
