"""Reinforcement in place of imitation: GRPO (Shao et al. 2024) on answers that are one token, rewarded by -L1.

Of each question `group` answers are drawn from the model's own belief. An answer's advantage is its reward, minus the
mean of its group, over the group's standard deviation; the loss raises the log-probability of answers in proportion.
Each draw is used for one step, so that GRPO's ratio to the policy that drew it is 1 and its clipping idle; there is no
penalty for leaving the first model. An answer that is one token needs no generation: all draws of all questions come
from the forward pass that is differentiated, and a step costs what a step of imitation costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy, pad

from depthlm.models.chat import IGNORE
from depthlm.tasks.numbers import parse_answer
from depthlm.training.rows import word_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthlm.models.processor import ThinProcessor
    from depthlm.prompts import Prompt

_SAMPLE_METRES = (0.5, 2.0, 36.0)  # answers that must be one token each


def token_metres(processor: ThinProcessor, prompt: Prompt) -> torch.Tensor:
    """[T] metres that each token of the tokenizer says as an answer; 0 for one that says no number.

    Raises InputError for a tokenizer that needs several tokens for an answer.
    """
    for metres in _SAMPLE_METRES:
        word_token(processor, prompt.format_answer(metres), needed_by="loss: reward")
    words = processor.tokenizer.batch_decode([[token] for token in range(len(processor.tokenizer))])
    return torch.tensor([parse_answer(word.strip()) or 0.0 for word in words])


def reward_loss(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    *,
    metres: torch.Tensor,
    group: int,
    items: torch.Tensor | int | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one micro-batch of `collate_rows`, and its parts for the log (answer_loss: of the true answers).

    metres: of `token_metres`; the truth is the metres of the answer that imitation would learn, and a drawn token
    without a number counts as 0 metres. items: as of `answer_loss`.
    """
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "word_labels")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state  # [B, L, D]
    labels = batch["labels"][:, 1:]
    metres = metres.to(labels.device)
    said = metres[labels.clamp_min(0)].where(labels != IGNORE, 0.0)
    here = said > 0  # [B, L - 1] before each answer's number
    truth = said[here]
    scores = model.lm_head(hidden[:, :-1][here]).float()  # [N, V]
    metres = pad(metres, (0, scores.shape[1] - len(metres)))  # heads are wider than tokenizers
    log_likely = scores.log_softmax(dim=-1)
    drawn = torch.multinomial(log_likely.detach().exp(), group, replacement=True)  # [N, G]
    reward = -(metres[drawn] - truth[:, None]).abs()
    spread = reward.std(dim=1, keepdim=True, correction=0)
    advantage = (reward - reward.mean(dim=1, keepdim=True)) / (spread + 1e-6)
    loss = -(advantage * log_likely.gather(1, drawn)).mean()
    with torch.no_grad():
        likely = cross_entropy(scores, labels[here])
    parts = {"answer_loss": likely.item(), "labels": float(len(truth))}
    asked = float((labels != IGNORE).sum())
    return loss * (1.0 if items is None else asked / float(items)), parts
