"""The models behind the page: one question at a time to each, whoever asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlm.inference.backend import Backend
from depthlm.inference.dense import cheapest_reference
from depthlm.inference.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthlm.inference.backend import Quantity
    from depthlm.inference.request import Answer, Request
    from depthlm.models.loading import LoadedModel

_TOGETHER = 64  # questions after which another visitor has a turn
_KEPT = 20_000  # answers of a server that are kept: a page runs for weeks


class InTurn(Backend):
    """A backend that several threads may ask: they wait for each other, and a long list lets others in between.

    Models keep state between tokens, and a server's client between questions, so that two askers would disturb each
    other. turn: shared by the backends that ask one model.
    """

    def __init__(self, inner: Backend, turn: threading.Lock) -> None:
        vars(self).update(vars(inner))  # card, reference, ...: asked as the inner one asks
        self.inner, self.turn = inner, turn

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests."""
        answers: list[Answer] = []
        for start in range(0, len(requests), _TOGETHER):
            with self.turn:
                answers += self.inner.ask(requests[start : start + _TOGETHER], progress)
                cache = getattr(self.inner, "cache", None)
                if cache is not None and cache.path is None and len(cache) > _KEPT:
                    cache.records.clear()
        return answers

    @property
    def given(self) -> str:
        """What the one behind it is told besides the question."""
        return self.inner.given

    def identity(self) -> dict[str, Any]:
        """That of the backend behind it."""
        return self.inner.identity()


@dataclass(frozen=True, slots=True, eq=False)
class PageModel:
    """A model that visitors ask. clicks: asked about points; maps: asked about whole pictures.

    name: for people. note: what they should know before they believe it, or "".
    """

    name: str
    clicks: Backend
    maps: Backend
    note: str = ""
    photo_note: str = ""
    answers: Quantity | None = None

    @property
    def says_lengths(self) -> bool:
        """Whether it can be asked for the length between two points directly."""
        return "between" in self.clicks.card.tasks and self.clicks.reference.kind == "text"


def page_model(
    name: str,
    answering: LoadedModel | Backend,
    *,
    reference: str | None = None,
    read: str | None = None,
    answers: Quantity | None = None,
) -> PageModel:
    """A loaded model or a server, made ready for many visitors. answers: what its numbers mean if not as its card says.

    Raises InputError for a reference or a reading that it does not have.
    """
    turn = threading.Lock()
    short = name.rstrip("/").rsplit("/", 1)[-1] or name
    if isinstance(answering, Backend):
        shared = InTurn(answering, turn)
        return PageModel(short, shared, shared, answers=answers)
    card = answering.card
    clicks = InTurn(Engine(answering, reference=reference, read=read), turn)
    dense = Engine(answering, reference=reference or cheapest_reference(card), read=read, batch=32)
    note = ""
    if answering.card_source == "assumed":
        note = "It has no depthlm.json: what its answers mean is assumed, its figures mean little."
    photo_note = ""
    if card.prompt == "nano":
        photo_note = "nano has only ever seen rendered rooms. What it says about a photograph is no measurement."
    return PageModel(short, clicks, InTurn(dense, turn), note, photo_note, answers)
