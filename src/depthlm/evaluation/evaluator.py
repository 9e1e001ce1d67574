"""One evaluation run: every chosen point asked exactly once, written in parts, resumable, deterministic."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.claim import write_text
from depthlm.errors import InputError, NothingToAskError
from depthlm.evaluation.asking import Plan, ask_parts, make_engine
from depthlm.evaluation.domains import provenance
from depthlm.evaluation.points import choose_points
from depthlm.evaluation.record import record_command
from depthlm.evaluation.runs import CONFIG, POINTS, SUMMARY, measure_run
from depthlm.inference.backend import Backend
from depthlm.inference.engine import BATCH_MEM
from depthlm.metrics import absrel, bootstrap_interval, rmse
from depthlm.tasks import get_task
from depthlm.tasks.answers import Number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from depthlm.inference.backend import Quantity
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples
    from depthlm.tasks import Task
    from depthlm.tasks.answers import AnswerKind

    # a config, and rows [n, 2] to ask about by part -> (part, its records), in any order
    Elsewhere = Callable[["EvaluationConfig", dict[int, NDArray[np.int64]]], Iterator[tuple[int, list[dict[str, Any]]]]]

PART_POINTS = 256  # what an interruption can cost
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
    suite: str | None = None
    """Benchmark suite that the points follow (evaluation/suites.py); recorded only."""
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
    plan = Plan.of(config, backend.card)
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
        "given": backend.given,
        "card": dataclasses.asdict(backend.card),
        "data": data_name,
        "samples": digest,
        "reference": backend.reference.name,
        "read": backend.read,
        "task": config.task,
        "asked": plan.task.name,
        "answers": plan.answers,
        "label": config.label,
        "suite": config.suite,
        "points": config.points,
        "seed": config.seed,
    }
    folder = None if out is None else _open_folder(Path(out), settings)
    if folder is not None and (folder / SUMMARY).is_file() and (folder / POINTS).is_file():
        done: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return done
    started, known = time.monotonic(), list[int]()

    def told(done: int, total: int) -> None:
        known.append(done)  # the first time what earlier processes have left
        if progress is not None:
            progress(done, total)

    table = _gather(backend, data, chosen, config, folder, elsewhere, told)
    summary = summarise(table, config, plan.task.answer, bare=counts.count(0)) | {
        "n_skipped": len(getattr(data, "skipped", [])),
        "asked": plan.task.name,
        "trained": plan.task.name in backend.card.tasks,
        "answers": plan.answers,
        "reference": backend.reference.name,
        "read": backend.read,
        "calibrated": backend.calibrated and plan.target is not None,
        "model": settings["model"],
        "given": backend.given,
        "data": data_name,
        "suite": config.suite,
        **provenance(data, backend.card),
    }
    if folder is not None:
        record_command(folder, data, seconds=time.monotonic() - started, asked=len(chosen) - known[0])
        _write_table(table, folder / POINTS)
        write_text(folder / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
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
        # What failed is asked again by whoever runs the same command after an interruption.
        if (path := paths[number]) is not None and not any(record["failed"] for record in records):
            _write_table(records, path)
    return [record for _, records in sorted(found.items()) for record in records or []]


def summarise(table: list[dict[str, Any]], config: EvaluationConfig, kind: AnswerKind, bare: int = 0) -> dict[str, Any]:
    """Per-question records -> figures. The score counts every question; absrel and rmse the answered ones.

    bare: samples that hold nothing to ask about; they count as unasked.
    """
    asked = [r for r in table if r["question"] is not None]
    if not asked:
        raise _nothing_to_ask(config.task)
    truth = [json.loads(r["truth"]) for r in asked]
    failed = [r for r in asked if r["failed"]]
    if len(failed) == len(asked):
        raise InputError(f"every picture failed; {failed[0]['failed']}")
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
        "n_failed": len(failed),
        "failed": list(dict.fromkeys(f"{r['frame'] or 'image'} ({r['image']}): {r['failed']}" for r in failed)),
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


def _nothing_to_ask(task: str) -> NothingToAskError:
    return NothingToAskError(f"the data holds nothing that task {task} can ask about; it needs {get_task(task).needs}")


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
            write_text(path, json.dumps(settings, indent=2) + "\n")
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
        **dict.fromkeys(("frame", "surface", "question", "truth", "text", "failed", "answer"), pa.string()),
        "near_edge": pa.bool_(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in records[0]])
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(records, schema), temporary)
    temporary.replace(path)
