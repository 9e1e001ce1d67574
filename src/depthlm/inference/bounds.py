"""Floors and ceilings: a backend that says one thing, and one that knows the truth. Neither looks at the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError
from depthlm.inference.backend import Backend
from depthlm.inference.request import Answer
from depthlm.models.card import ModelCard
from depthlm.view import ViewConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthlm.inference.request import Request

_ANY_GRID = 1  # nothing reads the views


class ConstantBackend(Backend):
    """Says the same to every question, which every task reads in its own terms: "2.5", "first", "0.1, 0, 0.9"."""

    def __init__(self, text: str, card: ModelCard | None = None, *, reference: str | None = None) -> None:
        card = card or ModelCard()
        super().__init__(card, ViewConfig(focal=card.focal, grid=_ANY_GRID), name=text, reference=reference)
        self.says = text

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """The constant, read as an answer to each."""
        answers = [Answer(self.says, request.kind.read(self.says)) for request in requests]
        if progress is not None:
            progress(len(answers))
        return answers

    @property
    def given(self) -> str:
        """Nothing."""
        return "nothing"

    def identity(self) -> dict[str, Any]:
        """Its words."""
        return {"name": "constant", "says": self.says}


class OracleBackend(Backend):
    """Says what a trained model should: the score that the form of the answers (decimals, words) still allows.

    Only questions whose truth is known can be asked of it. Raises InputError for others.
    """

    def __init__(self, card: ModelCard | None = None, *, reference: str | None = None) -> None:
        card = card or ModelCard()
        super().__init__(card, ViewConfig(focal=card.focal, grid=_ANY_GRID), name="oracle", reference=reference)

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """What each request expects."""
        answers = []
        for request in requests:
            if request.expected is None:
                raise InputError(
                    "the oracle answers questions about labelled points only; evaluate it on labelled data"
                )
            answers.append(Answer(request.expected, request.kind.read(request.expected)))
        if progress is not None:
            progress(len(answers))
        return answers

    @property
    def given(self) -> str:
        """The truth."""
        return "the truth"

    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"name": "oracle"}
