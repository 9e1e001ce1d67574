"""One evaluation run: every chosen point asked exactly once, written in parts, resumable, deterministic."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.covisibility import find_partner
from depthlm.errors import InputError, NothingToAskError
from depthlm.evaluation.points import choose_points
from depthlm.evaluation.runs import CONFIG, POINTS, SUMMARY, measure_run
from depthlm.inference.backend import Backend, convert, question_for
from depthlm.inference.engine import BATCH_MEM, Engine
from depthlm.metrics import absrel, bootstrap_interval, rmse
from depthlm.tasks import get_task
from depthlm.tasks.answers import Number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from depthlm.inference.backend import Quantity
    from depthlm.inference.request import Answer
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Sample, Samples
    from depthlm.tasks import Context, Question, Task
    from depthlm.tasks.answers import AnswerKind

    # a config, and rows [n, 2] to ask about by part -> (part, its records), in any order
    Elsewhere = Callable[["EvaluationConfig", dict[int, NDArray[np.int64]]], Iterator[tuple[int, list[dict[str, Any]]]]]

PART_POINTS = 256  # what an interruption can cost
BLOCK_IMAGES = 32  # in memory at a time
# What only a number has, so that every summary has the same keys.
_NUMBER_KEYS = (
    "delta1", "delta1_ci", "absrel", "rmse", "floor_delta1", "floor_constant", "interval_coverage", "scored", "metrics"
)  # fmt: skip
_PARTS = "parts"


@dataclass(kw_only=True)
class EvaluationConfig:
    """What an evaluation asks, and of how many points."""

    reference: str | None = None
    """How points are referred to; None takes the model's preferred reference."""
    task: str = "distance"
    """What is asked and scored: a name in tasks.TASKS. A model that was not trained to tell z has its distances turned
    into z, and the other way round."""
    answers: Quantity | None = None
    """What the model's answers mean; None takes the label of its depthlm.json."""
    label: Quantity = "z"
    """What the data file's numbers mean; recorded only, as samples always hold z."""
    points: int = 8192
    """Points chosen over all images."""
    seed: int = 0
    """Seed of the choice and of the bootstrap."""
    batch: int = 8
    """Questions per forward pass."""
    intervals: bool = True
    """Whether the 80 % interval of each answer is computed."""
    read: str | None = None
    """Which number of the model's belief is its answer; None takes what its depthlm.json says."""
    forced: bool = True
    """Whether what every answer begins with is given, and decoding ends with the number."""
    decimals: int | None = None
    """Digits after the point that are decoded then; None for as many as the prompt writes."""
    batch_mem: float = BATCH_MEM
    """MiB that questions about one picture, asked together, may take."""

    def __post_init__(self) -> None:
        get_task(self.task)
        for name, value in (("answers", self.answers), ("label", self.label)):
            if value not in ("distance", "z") and not (name == "answers" and value is None):
                raise InputError(f"--{name} is {value!r}; choose distance or z")
        if self.answers is not None and self.task not in ("distance", "z"):
            raise InputError(f"--answers says what distances mean; task {self.task} has none, leave it out")


def evaluate(
    model: LoadedModel | Backend,
    data: Samples,
    config: EvaluationConfig | None = None,
    *,
    model_name: str | None = None,
    data_name: str = "",
    out: Path | str | None = None,
    elsewhere: Elsewhere | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate whatever answers, and return the summary (keys of DESIGN section 6; None where a figure does not exist).

    model: a loaded model, asked as the config says; or a backend, made with a reference of its own.
    out: folder for points.parquet and summary.json; an interrupted run goes on from its last finished part, a finished
    one is only read again. elsewhere: who asks in place of this process (evaluation/cluster.py); the same questions.
    progress: called with (points done, points in all).
    Raises InputError when `out` holds another run or cannot be written, and for data that cannot be evaluated.
    """
    config = config or EvaluationConfig()
    backend = model if isinstance(model, Backend) else make_engine(model, config)
    plan = _Plan.of(config, backend.card)
    if backend.reference.kind not in plan.task.references:
        raise InputError(
            f"task {plan.task.name} is asked by {' or '.join(plan.task.references)} only; give another --reference"
        )
    counts, digest = _survey(data, plan.task)
    if plan.task.objects and not any(counts):
        raise _nothing_to_ask(config.task)
    chosen = choose_points(counts, config.points, config.seed)
    settings = {
        "model": model_name or backend.name,
        "backend": backend.identity(),
        "card": dataclasses.asdict(backend.card),
        "data": data_name,
        "samples": digest,
        "reference": backend.reference.name,
        "read": backend.read,
        "task": config.task,
        "asked": plan.task.name,
        "answers": plan.answers,
        "label": config.label,
        "points": config.points,
        "seed": config.seed,
    }
    folder = None if out is None else _open_folder(Path(out), settings)
    if folder is not None and (folder / SUMMARY).is_file() and (folder / POINTS).is_file():
        done: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return done
    table = _gather(backend, data, chosen, config, folder, elsewhere, progress or (lambda done, total: None))
    summary = summarise(table, config, plan.task.answer, bare=counts.count(0)) | {
        "n_skipped": len(getattr(data, "skipped", [])),
        "asked": plan.task.name,
        "trained": plan.task.name in backend.card.tasks,
        "answers": plan.answers,
        "reference": backend.reference.name,
        "read": backend.read,
        "calibrated": backend.calibrated and plan.target is not None,
        "model": settings["model"],
        "data": data_name,
    }
    if folder is not None:
        _write_table(table, folder / POINTS)
        _write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", folder / SUMMARY)
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return summary


def _gather(
    backend: Backend,
    data: Samples,
    chosen: NDArray[np.int64],
    config: EvaluationConfig,
    folder: Path | None,
    elsewhere: Elsewhere | None,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The records of all chosen rows [N, 2], in order: parts that are in the folder are read, the others asked."""
    parts = [chosen[start : start + PART_POINTS] for start in range(0, len(chosen), PART_POINTS)]
    paths = [None if folder is None else folder / _PARTS / f"part-{k:05d}.parquet" for k in range(len(parts))]
    found = {k: _read_part(path, len(rows)) for k, (path, rows) in enumerate(zip(paths, parts, strict=True))}
    done = sum(len(records) for records in found.values() if records is not None)
    progress(done, len(chosen))
    missing = {k: parts[k] for k, records in found.items() if records is None}
    answered = ask_parts(backend, data, missing, config, progress=lambda more: progress(done + more, len(chosen)))
    for number, records in answered if elsewhere is None else elsewhere(config, missing):
        found[number] = records
        done += len(records)
        progress(done, len(chosen))
        if (path := paths[number]) is not None:
            _write_table(records, path)
    return [record for _, records in sorted(found.items()) for record in records or []]


def ask_parts(
    backend: Backend,
    data: Samples,
    parts: dict[int, NDArray[np.int64]],
    config: EvaluationConfig,
    progress: Callable[[int], None] = lambda more: None,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The records of each part's rows [n, 2] (image, point or object). progress: rows of the current part done."""
    plan = _Plan.of(config, backend.card)
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
class _Plan:
    """What is asked for a task. answers, target: what distances mean and what they are turned into, or None."""

    task: Task
    answers: Quantity | None = None
    target: Quantity | None = None

    @classmethod
    def of(cls, config: EvaluationConfig, card: ModelCard) -> _Plan:
        if config.task not in ("distance", "z"):
            return cls(get_task(config.task))
        wanted: Quantity = "z" if config.task == "z" else "distance"
        if question_for(wanted, card, config.answers) == "z":
            return cls(get_task("z"))
        return cls(get_task("distance"), config.answers or card.label, wanted)


def summarise(table: list[dict[str, Any]], config: EvaluationConfig, kind: AnswerKind, bare: int = 0) -> dict[str, Any]:
    """Per-question records -> figures. The score counts every question; absrel and rmse the answered ones.

    bare: samples that hold nothing to ask about; they count as unasked.
    """
    asked = [r for r in table if r["question"] is not None]
    if not asked:
        raise _nothing_to_ask(config.task)
    truth = [json.loads(r["truth"]) for r in asked]
    is_number = isinstance(kind, Number)
    value = [r["value"] if is_number else json.loads(r["answer"]) for r in asked]
    image = np.array([r["image"] for r in asked])
    floor = kind.floor(truth)
    score = kind.scores(value, truth)
    low, high = bootstrap_interval(score, image, seed=config.seed)
    floor_score = float(kind.scores([floor] * len(truth), truth).mean())
    summary: dict[str, Any] = {
        "n": len(asked),
        "n_unparsed": sum(v is None for v in value),
        "n_unasked": len(table) - len(asked) + bare,
        "images": len(np.unique(image)),
        "task": config.task,
        "metric": kind.metric,
        "unit": kind.unit,
        "score": float(score.mean()),
        "score_ci": [low, high],
        "floor_score": floor_score,
        "floor_answer": list(floor) if isinstance(floor, tuple) else floor,
        "figures": kind.figures(value, truth),
        "label": config.label,
        "points": config.points,
        "seed": config.seed,
    }
    if not is_number:
        return summary | dict.fromkeys(_NUMBER_KEYS)
    said = np.array([np.nan if v is None else v for v in value])
    covered = [r["low"] <= g <= r["high"] for r, g in zip(asked, truth, strict=True) if r["low"] is not None]
    return summary | {
        "delta1": summary["score"],
        "delta1_ci": [low, high],
        "absrel": absrel(said, truth),
        "rmse": rmse(said, truth),
        "floor_delta1": floor_score,
        "floor_constant": floor,
        "interval_coverage": float(np.mean(covered)) if covered else None,
        "scored": config.task,
        "metrics": measure_run(asked, config.task, seed=config.seed),
    }


# --- asking ---------------------------------------------------------------------------------------------------------


def _ask_block(
    backend: Backend, data: Samples, rows: NDArray[np.int64], plan: _Plan, seed: int
) -> list[dict[str, Any]]:
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
    plan: _Plan,
) -> dict[str, Any]:
    """One row of points.parquet; `question` is None where the sample or the point lacks what the task needs.

    surface: what the point shows, None where the source does not say. partner: row of the second picture.
    point: None for a question about no point, as for one that could not be asked.
    """
    record: dict[str, Any] = {
        "image": image,
        "partner": partner,
        "frame": sample.frame,
        **(dict.fromkeys("u v z distance".split()) if point is None else _place(sample, point, plan.task)),
        "surface": None if point is None or sample.surface is None or plan.task.objects else sample.surface[point],
    } | dict.fromkeys(("question", "truth", "text", "answer", "value", "low", "high", "score"))
    if question is None or reply is None:
        return record
    numbers = [reply.value if isinstance(reply.value, float) else None, reply.low, reply.high]
    truth = question.truth
    if point is not None and plan.answers is not None and plan.target is not None:
        numbers = [
            _number(n)
            for n in convert(numbers, sample.camera, sample.uv[[point] * 3], source=plan.answers, target=plan.target)
        ]
        truth = record[plan.target]
    said = numbers[0] if isinstance(plan.task.answer, Number) else reply.value
    return record | {
        "question": question.text,
        "truth": json.dumps(truth),
        "text": reply.text,
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


def _nothing_to_ask(task: str) -> NothingToAskError:
    return NothingToAskError(f"the data holds nothing that task {task} can ask about; it needs {get_task(task).needs}")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# --- identity of a run ----------------------------------------------------------------------------------------------


def _survey(data: Samples, task: Task) -> tuple[list[int], str]:
    """Questions per image, and a digest of images, cameras, labels, and what makes pairs where the task needs them."""
    counts, digest = [], hashlib.sha256()
    for i in range(len(data)):
        sample = data[i]
        counts.append(task.count(sample))
        digest.update(json.dumps(sample.camera.to_dict()).encode())
        digest.update(sample.uv.tobytes() + sample.z.tobytes() + hashlib.sha256(sample.image).digest())
        if task.images == 2:
            digest.update(sample.scene.encode() + (b"" if sample.pose is None else sample.pose.tobytes()))
        digest.update(repr(sample.objects).encode() if sample.objects else b"")
    return counts, digest.hexdigest()[:16]


def _open_folder(folder: Path, settings: dict[str, Any]) -> Path:
    """The run's folder with its config in it. Raises InputError when it holds a run of another config."""
    settings = json.loads(json.dumps(settings))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CONFIG
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
            if changed:
                raise InputError(
                    f"{folder} holds an evaluation with another {', '.join(changed)}; give another --out or delete it"
                )
        elif any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and holds no evaluation; give another --out")
        else:
            _write_text(json.dumps(settings, indent=2) + "\n", path)
        (folder / _PARTS).mkdir(exist_ok=True)
    except json.JSONDecodeError as error:
        raise InputError(f"{folder / CONFIG} is not readable ({error}); give another --out or delete it") from error
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror or error}); give another --out") from error
    return folder


# --- files ----------------------------------------------------------------------------------------------------------


def _read_part(path: Path | None, expected: int) -> list[dict[str, Any]] | None:
    """The records of a finished part, or None when it has still to be asked."""
    if path is None or not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException):
        return None
    return records if len(records) == expected else None


def _write_table(records: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "image": pa.int64(),
        "partner": pa.int64(),
        **dict.fromkeys(("frame", "surface", "question", "truth", "text", "answer"), pa.string()),
    }
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in records[0]])
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(records, schema), temporary)
    temporary.replace(path)


def _write_text(text: str, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
