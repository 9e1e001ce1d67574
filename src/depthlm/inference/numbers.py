"""Which tokens write numbers, and where a number that is being written ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MOST_TOKENS = 8  # of a number; one that is longer is cut

_FIRST = re.compile(r"[ \u2581\u0120]?(\d+\.?\d*|\.\d+)")  # with the space marks of SentencePiece and byte-level BPE
_NEXT = re.compile(r"\d*\.?\d*")


class NumberVocabulary:
    """Which tokens of a tokenizer write numbers; found by their strings, so any tokenizer will do."""

    def __init__(self, tokenizer: Any) -> None:
        first, following = {}, {}
        for token, index in tokenizer.get_vocab().items():
            if match := _FIRST.fullmatch(token):
                first[index] = match[1]
            if token and _NEXT.fullmatch(token):
                following[index] = token
        self.first: dict[int, str] = dict(sorted(first.items()))
        self.following: dict[int, str] = dict(sorted(following.items()))
        self.first_ids: NDArray[np.int64] = np.fromiter(self.first, np.int64, len(self.first))
        self.following_ids: NDArray[np.int64] = np.fromiter(self.following, np.int64, len(self.following))

    def number(self, ids: Sequence[int], complete: Callable[[str], bool]) -> tuple[int, bool]:
        """How many of the leading ids write one number, and whether it ends there.

        complete: whether a number written so far has all its digits, so that no token more is needed to see its end.
        """
        text = ""
        for count, index in enumerate(ids):
            more = self.following.get(index) if text else self.first.get(index)
            if more is None or ("." in text and "." in more):
                return count, True
            text += more
            if complete(text):
                return count + 1, True
        return len(ids), False


class NumberEnds(StoppingCriteria):
    """For `generate`: a row stops where its number has ended. start: where in the sequences the answers begin."""

    def __init__(self, vocabulary: NumberVocabulary, start: int, complete: Callable[[str], bool]) -> None:
        self.vocabulary, self.start, self.complete = vocabulary, start, complete

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[B] whether each row is done."""
        rows = input_ids[:, self.start :].tolist()
        ended = [self.vocabulary.number(row, self.complete)[1] for row in rows]
        return torch.tensor(ended, device=input_ids.device)


def find_number(tokenizer: Any, ids: list[int], literal: str, vocabulary: NumberVocabulary) -> int | None:
    """Index of the token that begins the first occurrence of the number `literal` in the decoded ids, or None."""
    lengths = [len(tokenizer.decode(ids[:i], skip_special_tokens=True)) for i in range(len(ids) + 1)]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    match = re.search(r"(?<![\d.])" + re.escape(literal) + r"(?!\d)", text)
    if match is None:
        return None
    start = next((i for i in range(len(ids)) if lengths[i + 1] > match.start()), None)
    if start is None or not literal.startswith(vocabulary.first.get(ids[start], "?")):
        return None
    return start
