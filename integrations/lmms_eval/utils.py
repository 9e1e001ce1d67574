"""What depthlm.yaml calls: our points, our views and questions, our reading and scoring of answers.

Nothing is measured here in a second way: a question is what `depthlm eval` would ask, seen by a backend that asks
nobody, and a score is the record it would keep. Settings come from the environment (README.md), as lmms-eval gives its
own to none but the question.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from depthlm.cli.backends import ask_in, load_card
from depthlm.data.shards import sample_from_table
from depthlm.errors import InputError
from depthlm.evaluation.asking import ask_parts
from depthlm.evaluation.evaluator import EvaluationConfig, summarise
from depthlm.evaluation.points import choose_points
from depthlm.inference.backend import Backend, view_config_of
from depthlm.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from datasets import Dataset
    from PIL import Image

    from depthlm.inference.request import Answer, Request
    from depthlm.models.card import ModelCard
    from depthlm.sample import Sample


class Rows:
    """What HF `datasets` made of a shard folder, as a sequence of samples. files: its Arrow files, memory-mapped."""

    def __init__(self, files: Sequence[str]) -> None:
        from datasets import Dataset, concatenate_datasets

        self.dataset = concatenate_datasets([Dataset.from_file(file) for file in files]).with_format("arrow")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`. Raises IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return sample_from_table(self.dataset[index : index + 1], 0, f"row {index}")

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


@cache
def open_rows(files: tuple[str, ...]) -> Rows:
    """The rows of these files. lmms-eval loads this module once for each function that a yaml names: none can leave
    something in memory for another, so documents carry where their rows are.
    """
    return Rows(files)


class Through(Backend):
    """Keeps what would be asked, and answers with `text`, which came from elsewhere."""

    def __init__(self, card: ModelCard, *, reference: str | None, text: str = "") -> None:
        super().__init__(card, view_config_of(card), name="lmms-eval", reference=reference, read="greedy", forced=False)
        self.text = text
        self.kept: list[Request] = []

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """`text`, read as an answer to each."""
        self.kept += requests
        return [self.answer(request, self.text, request.kind.locate(self.text), []) for request in requests]

    def identity(self) -> dict[str, Any]:
        """Its name: the model is lmms-eval's."""
        return {"name": self.name}


# --- settings -------------------------------------------------------------------------------------------------------


def settings() -> tuple[ModelCard, EvaluationConfig]:
    """How the model is asked, and what: DEPTHLM_CARD or DEPTHLM_PROMPT, _REFERENCE, _TASK, _ANSWERS, _POINTS, _SEED.

    Raises InputError for a value that `depthlm eval` would refuse.
    """
    given = {name: os.environ.get(f"DEPTHLM_{name}") or None for name in ("CARD", "PROMPT", "REFERENCE", "TASK")}
    card = None if given["CARD"] is None else load_card(given["CARD"])
    if card is None or given["PROMPT"] is not None:
        card = ask_in(card, given["PROMPT"] or "general")  # most models of lmms-eval were never trained to measure
    answers: Any = os.environ.get("DEPTHLM_ANSWERS") or None
    config = EvaluationConfig(
        reference=given["REFERENCE"], task=given["TASK"] or "distance", answers=answers,
        points=_number("DEPTHLM_POINTS", 8192), seed=_number("DEPTHLM_SEED", 0),
    )  # fmt: skip
    if config.task not in ("distance", "z"):
        raise InputError(f"DEPTHLM_TASK is {config.task!r}; expected distance or z")
    return card, config


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r}; expected a whole number")
    return int(text)


# --- what the yaml names --------------------------------------------------------------------------------------------


def points(dataset: Dataset) -> Dataset:
    """One document for each point that `depthlm eval` would ask about: {files, image, point}."""
    from datasets import Dataset as Documents

    _, config = settings()
    missing = {"image", "camera", "u", "v", "z"} - set(dataset.column_names)
    if missing:
        raise InputError(f"the parquet files have no column {', '.join(sorted(missing))}; expected a shard folder")
    files = [file["filename"] for file in dataset.cache_files]
    rows = open_rows(tuple(files))
    task = get_task(config.task)
    chosen = choose_points([task.count(sample) for sample in rows], config.points, config.seed)
    return Documents.from_list([{"files": files, "image": int(image), "point": int(point)} for image, point in chosen])


def messages(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """The conversation of a document: system words where the prompt has them, then picture and question."""
    backend, request = _request(doc)
    content: list[dict[str, Any]] = [{"type": "image", "url": image} for image in request.images()]
    content.append({"type": "text", "text": request.question})
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if backend.prompt.system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": backend.prompt.system}]})
    return turns


def visual(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[Image.Image]:
    """The picture alone, for models that take no conversation."""
    return _request(doc)[1].images()


def question(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """The question alone, for models that take no conversation."""
    return _request(doc)[1].question


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """The record that `depthlm eval` keeps of this answer, under the name of each metric that is made of records."""
    record = _ask(doc, results[0])[1]
    return dict.fromkeys(("delta1", "absrel", "rmse", "floor_delta1", "unparsed"), record)


def delta1(records: list[dict[str, Any]]) -> float:
    """Share of answers within a factor of 1.25; one without a number is wrong."""
    return _figure(records, "delta1")


def absrel(records: list[dict[str, Any]]) -> float:
    """Mean relative error of the answers that hold a number."""
    return _figure(records, "absrel")


def rmse(records: list[dict[str, Any]]) -> float:
    """Root mean square error of the answers that hold a number, metres."""
    return _figure(records, "rmse")


def floor_delta1(records: list[dict[str, Any]]) -> float:
    """The best constant answer's delta1 on the same points: what a model has to beat."""
    return _figure(records, "floor_delta1")


def unparsed(records: list[dict[str, Any]]) -> float:
    """Share of answers without a number."""
    return _figure(records, "n_unparsed") / len(records)


def _figure(records: list[dict[str, Any]], name: str) -> float:
    """A figure of `depthlm eval`'s summary; NaN where it does not exist."""
    _, config = settings()
    value = summarise(records, config, get_task(config.task).answer)[name]
    return float("nan") if value is None else float(value)


def _request(doc: dict[str, Any]) -> tuple[Through, Request]:
    backend, _ = _ask(doc, "")
    (request,) = backend.kept
    return backend, request


def _ask(doc: dict[str, Any], text: str) -> tuple[Through, dict[str, Any]]:
    """The document's question through `depthlm eval`'s own code, answered with `text`: the backend, and the record."""
    import numpy as np

    card, config = settings()
    backend = Through(card, reference=config.reference, text=text)
    rows = np.array([[doc["image"], doc["point"]]], dtype=np.int64)
    ((_, records),) = ask_parts(backend, open_rows(tuple(doc["files"])), {0: rows}, config)
    return backend, records[0]
