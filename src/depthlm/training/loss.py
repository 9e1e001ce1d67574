"""The loss of text SFT: cross-entropy at answer positions, and optionally at image tokens.

Only the hidden states at positions that carry a label go through the language-model head: answers are a few per cent of
the tokens, so the [L, vocabulary] logits that dominate memory at real vocabularies never exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from depthlm.models.chat import IGNORE

if TYPE_CHECKING:
    from collections.abc import Mapping


def answer_loss(
    model: Any, batch: Mapping[str, torch.Tensor], *, word_weight: float = 0.0, items: torch.Tensor | int | None = None
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one micro-batch of `collate_rows`, and its parts for the log.

    Answers: labels[:, t] is predicted from the hidden state at t - 1. Words: word_labels[:, t] from that at t itself.
    items: answer tokens of the whole optimizer step; the sum is divided by it, so that accumulation over micro-batches
    of unequal size equals one large batch. None divides by this batch's own count.
    """
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "word_labels")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state  # [B, L, D]
    labels = batch["labels"][:, 1:]
    here = labels != IGNORE
    target = labels[here]
    total = cross_entropy(model.lm_head(hidden[:, :-1][here]).float(), target, reduction="sum")
    loss = total / (len(target) if items is None else items)
    parts = {"answer_loss": total.item() / max(1, len(target)), "labels": float(len(target))}
    if word_weight > 0 and "word_labels" in batch:
        there = batch["word_labels"] != IGNORE
        words = cross_entropy(model.lm_head(hidden[there]).float(), batch["word_labels"][there])
        loss = loss + word_weight * words * (1.0 if items is None else len(target) / float(items))
        parts["word_loss"] = words.item()
        parts["labels"] += float(there.sum())
    return loss, parts
