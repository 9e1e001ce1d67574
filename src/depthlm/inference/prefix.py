"""Many questions about one image for the price of one: what they begin with is read once.

With text coordinates, the conversations about an image differ in their last tokens only. The common beginning (turn
header, image, words up to the first coordinate) goes through the model once; its keys and values are shared by every
question, never copied: attention over the shared part and over a question's own tokens are computed apart and merged
by their log-sum-exp, which is exact. Each question then costs its own few tokens and its number.

The language model runs unchanged (transformers' attention interface); the result equals `generate` on each whole
conversation (tests/test_prefix.py).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.generation import RepetitionPenaltyLogitsProcessor

from depthlm.inference.numbers import MOST_TOKENS, NumberEnds
from depthlm.models.cache_names import cache_argument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from depthlm.inference.numbers import NumberVocabulary

ATTENTION = "depthlm_shared_prefix"


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """What several conversations begin with, read by the model.

    keys, values: per layer [Hkv, P, D], rotated. length: P tokens. next_position: rotary position of the next token.
    """

    ids: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    next_position: int

    @property
    def length(self) -> int:
        """P."""
        return len(self.ids)

    def beginning(self, ids: Sequence[int]) -> SharedPrefix:
        """What it has in common with `ids`: itself, or a view of its first tokens."""
        own: list[int] = self.ids.tolist()
        same = next((i for i, (a, b) in enumerate(zip(own, ids, strict=False)) if a != b), min(len(own), len(ids)))
        cut = self.length - same
        return SharedPrefix(
            self.ids[:same], [k[:, :same] for k in self.keys], [v[:, :same] for v in self.values],
            self.next_position - cut,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Greedy answers of one chunk. sequences: [N, S + T] own ids of each question (left padded), then its answer.

    mask: [N, S] which of the first S are no padding. cache: keys and values of the first S + T - 1.
    """

    sequences: torch.Tensor
    mask: torch.Tensor
    cache: DynamicCache

    @property
    def answers(self) -> list[list[int]]:
        """[N] token ids of the answers, padding after the end included."""
        answers: list[list[int]] = self.sequences[:, self.mask.shape[1] :].tolist()
        return answers


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share, at least one of each row's left over."""
    shortest = min(len(row) for row in rows) - 1
    first = rows[0]
    for i in range(shortest):
        if any(row[i] != first[i] for row in rows):
            return i
    return shortest


class PrefixReader:
    """Asks one model questions that share a beginning. batch_mem: MiB that those of one chunk may take beside it."""

    def __init__(self, model: Any, *, mrope: bool, batch_mem: float) -> None:
        self.model, self.mrope, self.batch_mem = model, mrope, batch_mem
        self.text_config = model.config.get_text_config()

    @torch.inference_mode()
    def read(self, beginning: Sequence[int], images: dict[str, torch.Tensor]) -> SharedPrefix:
        """Read the token ids that conversations begin with, all of `images` (`encode_images`) among them."""
        device, dtype, length = self.model.device, self.model.dtype, len(beginning)
        ids = torch.tensor(list(beginning), device=device)
        inputs = {name: value.to(device) for name, value in images.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        if self.mrope:
            inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).long()[None]
        cache = DynamicCache(config=self.text_config)
        self.model.model(
            input_ids=ids[None],
            attention_mask=torch.ones(1, length, dtype=torch.long, device=device),
            use_cache=True,
            **cache_argument(self.model.model, cache),
            **inputs,
        )
        delta = int(self.model.model.rope_deltas[0, 0]) if self.mrope else 0
        keys, values = ([getattr(layer, name)[0] for layer in cache.layers] for name in ("keys", "values"))
        return SharedPrefix(ids, keys, values, length + delta)

    def chunk(self, prefix: SharedPrefix, tokens: int) -> int:
        """Questions of so many own tokens that fit the budget; at least one.

        Counted for each: attention scores of one layer among its own tokens (float32, twice: before and after the
        exponential; over the shared part they are never written down), its keys and values in all layers (twice: they
        are copied when they grow), the activations of one layer, and its logits.
        """
        config, size = self.text_config, self.model.dtype.itemsize
        heads = config.num_attention_heads
        groups, width = prefix.keys[0].shape[0], prefix.keys[0].shape[2]
        scores = 2 * 4 * heads * tokens * tokens
        own = 2 * 2 * len(prefix.keys) * groups * width * (tokens + MOST_TOKENS) * size
        activations = tokens * (6 * config.hidden_size + 3 * config.intermediate_size + 4 * heads * width) * size
        return max(1, int(self.batch_mem * 2**20 / (scores + own + activations + 3 * 4 * config.vocab_size)))

    @torch.inference_mode()
    def decode(
        self,
        prefix: SharedPrefix,
        rows: Sequence[Sequence[int]],
        *,
        pad: int,
        ends: Sequence[int],
        most: int,
        number: tuple[NumberVocabulary, Callable[[str], bool]] | None = None,
    ) -> Decoded:
        """Continue each row of own token ids greedily until an end token, at most `most` tokens.

        number: the answers are numbers and end with them: their vocabulary, and when they have all their digits.
        """
        device = self.model.device
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), pad, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, length - len(row) :] = torch.tensor(row)
            mask[i, length - len(row) :] = 1
        sequences, mask = ids.to(device), mask.to(device)
        cache, seen, fed = DynamicCache(config=self.text_config), mask, sequences
        finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
        stop = torch.tensor(list(ends), device=device)
        written = None if number is None else NumberEnds(number[0], length, number[1])
        for _ in range(most):
            logits = self._penalise(self.step(prefix, fed, seen, cache), prefix, sequences, mask)
            token = logits.argmax(dim=-1).masked_fill(finished, pad)
            finished |= torch.isin(token, stop)
            sequences = torch.cat([sequences, token[:, None]], dim=1)
            if written is not None:
                finished |= written(sequences, logits)
            if finished.all():
                break
            fed, seen = token[:, None], torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
        return Decoded(sequences, mask, cache)

    @torch.inference_mode()
    def step(self, prefix: SharedPrefix, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Feed ids [N, L] whose rows continue the prefix and the cache -> [N, V] float32 logits of the next token.

        mask: [N, C + L] which of the C cached own tokens and of the ids count.
        """
        rows, length = ids.shape
        columns = mask.shape[1]
        causal = torch.ones(length, columns, dtype=torch.bool, device=ids.device).tril(columns - length)
        allowed = causal & mask.bool()[:, None]
        positions = (mask.cumsum(dim=1)[:, -length:] - 1 + prefix.next_position).clamp_min(0)
        with _attention_over(prefix, self.model):
            hidden = self.model.model(
                input_ids=ids,
                attention_mask=allowed[:, None],
                position_ids=positions.expand(3, rows, length) if self.mrope else positions,
                use_cache=True,
                **cache_argument(self.model.model, cache),
            ).last_hidden_state
        logits: torch.Tensor = self.model.lm_head(hidden[:, -1]).float()
        return logits

    def _penalise(
        self, logits: torch.Tensor, prefix: SharedPrefix, sequences: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """What `generate` does to greedy decoding when a checkpoint's generation config asks for it."""
        penalty = getattr(self.model.generation_config, "repetition_penalty", None)
        if penalty in (None, 1.0):
            return logits
        own = sequences.clone()
        own[:, : mask.shape[1]] = torch.where(mask.bool(), own[:, : mask.shape[1]], prefix.ids[0])
        seen = torch.cat([prefix.ids.expand(len(own), -1), own], dim=1)
        penalised: torch.Tensor = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits)
        return penalised


# --- attention --------------------------------------------------------------------------------------------------------

_ACTIVE: list[SharedPrefix] = []


@contextmanager
def _attention_over(prefix: SharedPrefix, model: Any) -> Iterator[None]:
    """While it lasts, the language model's attention also covers the shared keys and values."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    _ACTIVE.append(prefix)
    try:
        yield
    finally:
        _ACTIVE.pop()
        config._attn_implementation = before


def _shared_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Query [N, H, L, D], own key and value [N, Hkv, C, D], mask [N, 1, L, C] bool -> [N, L, H, D].

    Softmax over the shared and the own keys together: each part's own softmax, weighted by the share of its mass.
    """
    prefix = _ACTIVE[-1]
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    query = query.reshape(rows, groups, heads // groups * length, width) * scaling  # [N, G, hL, D]
    shared_key, shared_value = prefix.keys[module.layer_idx], prefix.values[module.layer_idx]  # [G, P, D]
    flat = query.transpose(0, 1).reshape(groups, -1, width)  # [G, N h L, D]
    over_shared, mass_shared = _attend_to_all(flat, shared_key, shared_value)
    over_shared = over_shared.reshape(groups, rows, -1, width).transpose(0, 1)
    mass_shared = mass_shared.reshape(groups, rows, -1).transpose(0, 1)
    mask = attention_mask.expand(rows, heads // groups, length, -1).reshape(rows, 1, -1, key.shape[2])
    over_own, mass_own = _attend(query, key, value, mask)
    share = torch.sigmoid(mass_shared - mass_own)[..., None].to(query.dtype)
    merged = over_shared * share + over_own * (1 - share)  # [N, G, hL, D]
    merged = merged.reshape(rows, heads, length, width).transpose(1, 2)
    return merged.contiguous(), None


def _attend_to_all(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`_attend` without a mask, [G, M, D] over [G, P, D], by torch's fused kernels: no scores are written down."""
    if query.device.type == "cpu":
        out, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[None], key[None], value[None], 0.0, False, scale=1.0
        )
        return out[0], mass[0].float()
    if query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16):
        out, mass, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query[None], key[None], value[None], 0.0, False, False, scale=1.0
        )
        return out[0], mass[0, :, : query.shape[1]]
    return _attend(query, key, value, None)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention [..., L, D] and the logarithm of its mass [..., L]; rows that see nothing have mass -inf."""
    scores = (query @ key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    mass = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - mass.clamp_min(torch.finfo(torch.float32).min)[..., None])
    return weights.to(value.dtype) @ value, mass


AttentionInterface.register(ATTENTION, _shared_attention)
