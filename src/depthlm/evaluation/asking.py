"""Asking an evaluation's questions: a sample's points or objects -> what backends are asked -> one record for each."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.covisibility import find_partner
from depthlm.inference.backend import convert, question_for
from depthlm.inference.engine import Engine
from depthlm.metrics import plain
from depthlm.tasks import get_task
from depthlm.tasks.answers import Number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from depthlm.evaluation.evaluator import EvaluationConfig
    from depthlm.inference.backend import Backend, Quantity
    from depthlm.inference.request import Answer
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Sample, Samples
    from depthlm.tasks import Context, Question, Task

BLOCK_IMAGES = 32  # in memory at a time


def ask_parts(
    backend: Backend,
    data: Samples,
    parts: dict[int, NDArray[np.int64]],
    config: EvaluationConfig,
    progress: Callable[[int], None] = lambda more: None,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The records of each part's rows [n, 2] (image, point or object). progress: rows of the current part done."""
    plan = Plan.of(config, backend.card)
    for number, rows in parts.items():
        records: list[dict[str, Any]] = []
        for block in _blocks(rows):
            records += _ask_block(backend, data, block, plan, config.seed)
            progress(len(records))
        yield number, records


def make_engine(loaded: LoadedModel, config: EvaluationConfig) -> Engine:
    """The engine that asks a loaded model as the config says."""
    return Engine(
        loaded, reference=config.reference, batch=config.batch, intervals=config.intervals, read=config.read,
        forced=config.forced, decimals=config.decimals, batch_mem=config.batch_mem,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for a task. answers, target: what distances mean and what they are turned into, or None."""

    task: Task
    answers: Quantity | None = None
    target: Quantity | None = None

    @classmethod
    def of(cls, config: EvaluationConfig, card: ModelCard) -> Plan:
        """What the config's task comes to for a model of this card."""
        if config.task not in ("distance", "z"):
            return cls(get_task(config.task))
        wanted: Quantity = "z" if config.task == "z" else "distance"
        if question_for(wanted, card, config.answers) == "z":
            return cls(get_task("z"))
        return cls(get_task("distance"), config.answers or card.label, wanted)


def _ask_block(backend: Backend, data: Samples, rows: NDArray[np.int64], plan: Plan, seed: int) -> list[dict[str, Any]]:
    """Records of the questions rows [n, 2] (image, point or object), in that order."""
    requests, asked = [], []
    for image in np.unique(rows[:, 0]):
        sample = data[int(image)]
        points = rows[rows[:, 0] == image, 1].tolist()
        partner = find_partner(data, int(image), seed) if plan.task.images == 2 else None
        contexts: list[Context | None] = [None] * len(points)
        if plan.task.images == 1 or partner is not None:
            contexts = list(
                _contexts(
                    backend, sample, points, int(image), None if partner is None else data[partner], plan.task, seed
                )
            )
        for point, context in zip(points, contexts, strict=True):
            question = None if context is None else plan.task.ask(context)
            if context is not None and question is not None:
                request = backend.request(context, question.text, question.points, plan.task, question.objects)
                requests.append(dataclasses.replace(request, expected=question.answer))
            about = point if plan.task.images == 1 else question.points[0] if question and question.points else None
            asked.append((int(image), sample, partner, about, question))
    replies = iter(backend.ask(requests))
    return [
        _record(image, sample, partner, about, question, None if question is None else next(replies), plan)
        for image, sample, partner, about, question in asked
    ]


def _contexts(
    backend: Backend, sample: Sample, points: list[int], image: int, partner: Sample | None, task: Task, seed: int
) -> Iterator[Context]:
    """What is known for each question of one sample; of pairs and objects no view is padded round a point."""
    groups: list[tuple[int, ...]] = [() if partner is not None or task.objects else (point,) for point in points]
    views = backend.views(sample.load_image(), sample.camera, sample.uv, sample.z, groups, sample.objects)
    second = None if partner is None else backend.second(sample, views[0], partner)
    for point, view in zip(points, views, strict=True):
        yield backend.context(view, point, seed=(seed, image, point), surface=sample.surface, second=second)


def _record(
    image: int,
    sample: Sample,
    partner: int | None,
    point: int | None,
    question: Question | None,
    reply: Answer | None,
    plan: Plan,
) -> dict[str, Any]:
    """One row of points.parquet; `question` is None where the sample or the point lacks what the task needs.

    surface, near_edge, incidence: Sample's, None where the source does not say. partner: row of the second picture.
    point: None for a question about no point, as for one that could not be asked.
    """
    record: dict[str, Any] = {
        "image": image,
        "partner": partner,
        "frame": sample.frame,
        **(dict.fromkeys("u v z distance".split()) if point is None else _place(sample, point, plan.task)),
        **_labels(sample, None if plan.task.objects else point),
    } | dict.fromkeys(("question", "truth", "text", "failed", "answer", "value", "low", "high", "score"))
    if question is None or reply is None:
        return record
    numbers = [reply.value if isinstance(reply.value, float) else None, reply.low, reply.high]
    truth = question.truth
    if point is not None and plan.answers is not None and plan.target is not None:
        numbers = [
            plain(n)
            for n in convert(numbers, sample.camera, sample.uv[[point] * 3], source=plan.answers, target=plan.target)
        ]
        truth = record[plan.target]
    said = numbers[0] if isinstance(plan.task.answer, Number) else reply.value
    return record | {
        "question": question.text,
        "truth": json.dumps(truth),
        "text": reply.text,
        "failed": reply.failed,
        "answer": json.dumps(reply.value),
        "value": numbers[0],
        "low": numbers[1],
        "high": numbers[2],
        "score": float(plan.task.answer.scores([said], [truth])[0]),
    }


def _blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Few enough images at a time that they fit in memory; the questions about one image stay together."""
    images = np.unique(rows[:, 0])
    for start in range(0, len(images), BLOCK_IMAGES):
        yield rows[np.isin(rows[:, 0], images[start : start + BLOCK_IMAGES])]


def _place(sample: Sample, number: int, task: Task) -> dict[str, float]:
    """Pixel and metres of what a question is about: a point, or an object (the middle of its box, in both)."""
    if task.objects:
        thing = sample.objects[number]
        u0, v0, u1, v1 = thing.box
        u, v, z, distance = (u0 + u1) / 2, (v0 + v1) / 2, thing.center[2], float(np.linalg.norm(thing.center))
    else:
        (u, v), z, distance = sample.uv[number].tolist(), float(sample.z[number]), float(sample.distance[number])
    return {"u": u, "v": v, "z": z, "distance": distance}


def _labels(sample: Sample, point: int | None) -> dict[str, Any]:
    """What the source says of a point beside its depth, None for what it does not say."""
    found: dict[str, Any] = {}
    for name in ("surface", "near_edge", "incidence"):
        labels = getattr(sample, name)
        found[name] = None if point is None or labels is None else labels[point]
    angle = found["incidence"]
    return found | {"incidence": None if angle is None or np.isnan(angle) else float(angle)}
