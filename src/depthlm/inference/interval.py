"""How sure a model is of a number: the probabilities of the digits it could have written instead.

After a greedy answer the model is put back to where its number begins, and the most probable numbers are followed for
a few tokens (a beam over number tokens only, no sampling). The result is a distribution over values, piecewise uniform
where digits were not followed further. It is the model's own belief: nothing here promises that 80 % of the truths lie
between its 10 % and 90 % quantiles. That takes labelled points the model has not seen (evaluation/conformal.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.models.cache_names import cache_argument

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from depthlm.inference.numbers import NumberVocabulary

DELTA1 = 1.25  # the ratio that delta1 allows
INTERVAL = 0.8  # the share of truths that an interval promises
QUANTILES = ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)
_STEPS = 8  # point masses that stand for the uniform spread of digits that were not followed


@dataclass(frozen=True, slots=True)
class Leaf:
    """A number the model may write: its digits so far, its probability, and whether more digits may follow."""

    literal: str
    probability: float
    is_open: bool

    @property
    def span(self) -> tuple[float, float]:
        """The values this leaf covers: one when closed, else all that share its digits."""
        low = float(self.literal) if self.literal != "." else 0.0
        if not self.is_open:
            return low, low
        decimals = len(self.literal.partition(".")[2])
        return low, low + 10.0**-decimals


class Belief:
    """The distribution that leaves stand for, normalised to the mass they have; values in the answer's own unit.

    mass: probability that a number comes at all. Raises ValueError without a leaf.
    """

    def __init__(self, leaves: list[Leaf]) -> None:
        if not leaves:
            raise ValueError("no leaves, so no belief")
        values: list[float] = []
        weights: list[float] = []
        for leaf in leaves:
            low, high = leaf.span
            steps = 1 if low == high else _STEPS
            values += [low + (high - low) * (k + 0.5) / steps for k in range(steps)]
            weights += [leaf.probability / steps] * steps
        order = np.argsort(values, kind="stable")
        self.values: NDArray[np.float64] = np.asarray(values, dtype=np.float64)[order]
        self._cumulative = np.cumsum(np.asarray(weights, dtype=np.float64)[order])
        self.mass = float(self._cumulative[-1])

    def quantile(self, level: float) -> float:
        """The least value below or at which `level` of the mass lies."""
        place = int(np.searchsorted(self._cumulative, level * self.mass, side="left"))
        return float(self.values[min(place, len(self.values) - 1)])

    def mean(self) -> float:
        """The expected value: what least squares would answer."""
        return float(np.diff(self._cumulative, prepend=0.0) @ self.values / self.mass)

    def best(self, ratio: float = DELTA1) -> float:
        """The value whose neighbourhood within `ratio` either way holds most mass: the best bet for delta1."""
        ends = np.searchsorted(self.values, self.values * ratio**2 * (1 - 1e-9), side="left")
        before = np.concatenate([[0.0], self._cumulative])
        start = int(np.argmax(before[ends] - before[: len(ends)]))
        # Any answer within `ratio` of both ends wins the same mass; the middle one is within it of most else, too.
        return float(np.sqrt(self.values[start] * self.values[max(start, ends[start] - 1)]))

    def read(self, how: str) -> float:
        """median, mean or best."""
        return {"median": lambda: self.quantile(0.5), "mean": self.mean, "best": self.best}[how]()


def whole_step(model: Any) -> Callable[[torch.Tensor, torch.Tensor, Any, int], torch.Tensor]:
    """NumberBeam's step where the cache holds whole conversations, image included."""

    def step(tokens: torch.Tensor, mask: torch.Tensor, cache: Any, repeats: int) -> torch.Tensor:
        positions = mask.sum(dim=1, keepdim=True) - 1
        deltas = getattr(getattr(model, "model", None), "rope_deltas", None)
        if deltas is not None:  # M-RoPE: text after an image continues at an offset, the same on all three axes
            positions = (positions + deltas.repeat_interleave(repeats, dim=0))[None].expand(3, -1, -1)
        logits: torch.Tensor = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **cache_argument(model, cache),
        ).logits[:, -1]
        return logits

    return step


class NumberBeam:
    """Follows the numbers a model could have written, on the key-value cache its greedy answer left behind.

    Tokens the greedy answer wrote after the branching point stay in the cache but are masked out, so rows may branch
    at different places and no cache is ever cut.

    step: feeds tokens [B, 1] after the cache, with the mask [B, C + 1] of what counts -> [B, V] logits of the next; it
    is told how many neighbouring rows come from one question. width: numbers followed at a time. levels: tokens looked
    at. negligible: probability below which none is followed.
    """

    def __init__(
        self,
        step: Callable[[torch.Tensor, torch.Tensor, Any, int], torch.Tensor],
        vocabulary: NumberVocabulary,
        *,
        width: int = 8,
        levels: int = 3,
        negligible: float = 1e-3,
    ) -> None:
        self.step, self.vocabulary = step, vocabulary
        self.width, self.levels, self.negligible = width, levels, negligible

    def leaves(
        self, sequences: torch.Tensor, prompt_mask: torch.Tensor, cache: Any, starts: list[int | None]
    ) -> list[list[Leaf]]:
        """sequences: [B, P + T] prompt and answer ids; prompt_mask: [B, P]; cache: that of the first P + T - 1 tokens.

        starts: for each row which answer token begins its number; rows with None get no leaves. The cache is used up.
        """
        import torch

        if all(start is None for start in starts) or not len(self.vocabulary.first_ids):
            return [[] for _ in starts]
        device, rows, prompt = sequences.device, len(starts), prompt_mask.shape[1]
        cached = cache.get_seq_length()
        # The token before the number is fed once more, so it and all after it are hidden from the cache.
        keep = torch.tensor([prompt + (start or 0) - 1 for start in starts], device=device)
        columns = torch.arange(cached, device=device)
        mask = torch.ones(rows, cached, dtype=torch.long, device=device)
        mask[:, :prompt] = prompt_mask.to(mask)
        mask = mask * (columns[None] < keep[:, None])
        logits, mask = self._grow(sequences.gather(1, keep[:, None]), mask, cache, repeats=1)
        found: list[list[Leaf]] = [[] for _ in starts]
        beams = [self._begin(row, found[i]) if starts[i] is not None else [] for i, row in enumerate(logits)]
        for level in range(1, self.levels):
            if not any(beams):
                break
            tokens = torch.tensor([[self._slot(beam, k)[1] for k in range(self.width)] for beam in beams]).view(-1, 1)
            parents = [[self._slot(beam, k)[0] for k in range(self.width)] for beam in beams]
            repeats = 1 if level == 1 else self.width
            # Slot k of a row continues slot `parents[row][k]` of the level before (level 1: the row itself).
            source = torch.tensor([row * repeats + p for row, slots in enumerate(parents) for p in slots]).to(device)
            cache.reorder_cache(source)
            logits, mask = self._grow(tokens.to(device), mask[source], cache, repeats=self.width)
            beams = [
                self._continue(logits[i * self.width : (i + 1) * self.width], beam, found[i])
                for i, beam in enumerate(beams)
            ]
        for i, beam in enumerate(beams):
            found[i] += [Leaf(literal, mass, True) for _, _, literal, mass in beam]
        return found

    def _grow(
        self, tokens: torch.Tensor, mask: torch.Tensor, cache: Any, repeats: int
    ) -> tuple[NDArray[np.float32], torch.Tensor]:
        """One token per row -> probabilities [B, V] of the next, and the mask grown by that token."""
        import torch

        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        logits = self.step(tokens, mask, cache, repeats)
        return torch.softmax(logits.float(), dim=-1).cpu().numpy(), mask

    def _begin(self, probabilities: NDArray[np.float32], leaves: list[Leaf]) -> list[tuple[int, int, str, float]]:
        ids = self.vocabulary.first_ids
        return self._select(
            [
                (0, int(i), self.vocabulary.first[int(i)], float(p))
                for i, p in zip(ids, probabilities[ids], strict=True)
            ],
            leaves,
        )

    def _continue(
        self,
        probabilities: NDArray[np.float32],
        beam: list[tuple[int, int, str, float]],
        leaves: list[Leaf],
    ) -> list[tuple[int, int, str, float]]:
        ids, strings = self.vocabulary.following_ids, self.vocabulary.following
        candidates = []
        for slot, (_, _, literal, mass) in enumerate(beam):
            further = 0.0
            for i, p in zip(ids, probabilities[slot][ids], strict=True):
                if "." in literal and "." in strings[int(i)]:
                    continue  # a full stop after a decimal number ends it
                further += float(p)
                candidates.append((slot, int(i), literal + strings[int(i)], mass * float(p)))
            leaves.append(Leaf(literal, mass * max(0.0, 1 - further), False))
        return self._select(candidates, leaves)

    def _select(
        self, candidates: list[tuple[int, int, str, float]], leaves: list[Leaf]
    ) -> list[tuple[int, int, str, float]]:
        """The `width` most probable candidates are followed; the others become leaves as they are."""
        candidates.sort(key=lambda candidate: -candidate[3])
        beam = [c for c in candidates[: self.width] if c[3] > self.negligible]
        leaves += [Leaf(c[2], c[3], True) for c in candidates[len(beam) :] if c[3] > self.negligible / 1000]
        return beam

    @staticmethod
    def _slot(beam: list[tuple[int, int, str, float]], k: int) -> tuple[int, int]:
        """(parent slot, token) of slot k; unused slots repeat something harmless."""
        return beam[k][:2] if k < len(beam) else (0, 0)
