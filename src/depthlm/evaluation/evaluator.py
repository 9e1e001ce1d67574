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

from depthlm.errors import InputError
from depthlm.evaluation.metrics import absrel, best_constant, bootstrap_interval, delta1, is_correct, rmse
from depthlm.evaluation.points import choose_points
from depthlm.inference.engine import Engine, convert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from depthlm.inference.engine import Quantity
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples

PART_POINTS = 256  # what an interruption can cost
_CONFIG, _POINTS, _SUMMARY, _PARTS = "config.json", "points.parquet", "summary.json", "parts"


@dataclass(kw_only=True)
class EvaluationConfig:
    """What an evaluation asks, and of how many points."""

    reference: str | None = None
    """How points are referred to; None takes the model's preferred reference."""
    task: Quantity = "distance"
    """What is scored: distance from the camera centre, or z along the principal axis."""
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
    """Whether the uncalibrated interval of each answer is computed."""

    read: str | None = None
    """Which number of the model's belief is its answer; None takes what its depthlm.json says."""

    def __post_init__(self) -> None:
        for name, value in (("task", self.task), ("answers", self.answers), ("label", self.label)):
            if value not in ("distance", "z") and not (name == "answers" and value is None):
                raise InputError(f"--{name} is {value!r}; choose distance or z")


def evaluate(
    loaded: LoadedModel,
    data: Samples,
    config: EvaluationConfig | None = None,
    *,
    model_name: str | None = None,
    data_name: str = "",
    out: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model and return the summary (keys of DESIGN section 6; None where a figure does not exist).

    out: folder for points.parquet and summary.json; an interrupted run goes on from its last finished part, a finished
    one is only read again. progress: called with (points done, points in all).
    Raises InputError when `out` holds another run or cannot be written, and for data that cannot be evaluated.
    """
    config = config or EvaluationConfig()
    engine = Engine(
        loaded, reference=config.reference, batch=config.batch, intervals=config.intervals, read=config.read
    )
    answers: Quantity = config.answers or loaded.card.label
    counts, digest = _survey(data)
    chosen = choose_points(counts, config.points, config.seed)
    settings = {
        "model": model_name or str(loaded.path),
        "weights": _weights_digest(Path(loaded.path)),
        "card": dataclasses.asdict(loaded.card),
        "data": data_name,
        "samples": digest,
        "reference": engine.reference.name,
        "read": engine.read,
        "task": config.task,
        "answers": answers,
        "label": config.label,
        "points": config.points,
        "seed": config.seed,
        "intervals": config.intervals,
    }
    folder = None if out is None else _open_folder(Path(out), settings)
    if folder is not None and (folder / _SUMMARY).is_file() and (folder / _POINTS).is_file():
        done: dict[str, Any] = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        return done
    table: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(chosen), PART_POINTS)):
        rows = chosen[start : start + PART_POINTS]
        part = None if folder is None else folder / _PARTS / f"part-{number:05d}.parquet"
        records = _read_part(part, len(rows))
        if records is None:
            records = []
            for block in _blocks(rows, max(4 * config.batch, 32)):
                records += _ask_block(engine, data, block, answers, config.task)
                if progress is not None:
                    progress(start + len(records), len(chosen))
            if part is not None:
                _write_table(records, part)
        elif progress is not None:
            progress(start + len(records), len(chosen))
        table += records
    summary = summarise(table, config) | {
        "n_skipped": len(getattr(data, "skipped", [])),
        "answers": answers,
        "reference": engine.reference.name,
        "read": engine.read,
        "model": settings["model"],
        "data": data_name,
    }
    if folder is not None:
        _write_table(table, folder / _POINTS)
        _write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", folder / _SUMMARY)
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return summary


def summarise(table: list[dict[str, Any]], config: EvaluationConfig) -> dict[str, Any]:
    """Per-point records -> figures. delta1 counts every point asked; absrel and rmse the answered ones."""
    value = np.array([np.nan if r["value"] is None else r["value"] for r in table])
    truth = np.array([r[config.task] for r in table])
    image = np.array([r["image"] for r in table])
    constant, floor = best_constant(truth)
    low, high = bootstrap_interval(is_correct(value, truth), image, seed=config.seed)
    covered = [r["low"] <= g <= r["high"] for r, g in zip(table, truth, strict=True) if r["low"] is not None]
    return {
        "n": len(table),
        "n_unparsed": int(np.isnan(value).sum()),
        "images": len(np.unique(image)),
        "delta1": delta1(value, truth),
        "delta1_ci": [low, high],
        "absrel": absrel(value, truth),
        "rmse": rmse(value, truth),
        "floor_delta1": floor,
        "floor_constant": constant,
        "interval_coverage": float(np.mean(covered)) if covered else None,
        "label": config.label,
        "scored": config.task,
        "task": config.task,
        "points": config.points,
        "seed": config.seed,
    }


# --- asking ---------------------------------------------------------------------------------------------------------


def _ask_block(
    engine: Engine, data: Samples, rows: NDArray[np.int64], answers: Quantity, task: Quantity
) -> list[dict[str, Any]]:
    """Records of the points in rows [n, 2] (image, point), in that order."""
    requests, groups = [], []
    for image in np.unique(rows[:, 0]):
        sample = data[int(image)]
        points = rows[rows[:, 0] == image, 1]
        requests += engine.requests(sample.load_image(), sample.camera, sample.uv[points])
        groups.append((int(image), sample, points))
    replies = iter(engine.ask(requests))
    records: list[dict[str, Any]] = []
    for image, sample, points in groups:
        said = [next(replies) for _ in points]
        uv, z, distance = sample.uv[points], sample.z[points], sample.distance[points]
        value, low, high = (
            convert([getattr(a, name) for a in said], sample.camera, uv, source=answers, target=task)
            for name in ("value", "low", "high")
        )
        correct = is_correct(value, distance if task == "distance" else z)
        records += [
            {
                "image": image,
                "frame": sample.frame,
                "u": float(uv[i, 0]),
                "v": float(uv[i, 1]),
                "z": float(z[i]),
                "distance": float(distance[i]),
                "text": said[i].text,
                "answer": said[i].value,
                "value": _number(value[i]),
                "low": _number(low[i]),
                "high": _number(high[i]),
                "correct": bool(correct[i]),
            }
            for i in range(len(points))
        ]
    return records


def _blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Few enough points at a time that their images fit in memory, even at one point per image."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# --- identity of a run ----------------------------------------------------------------------------------------------


def _survey(data: Samples) -> tuple[list[int], str]:
    """Labelled points per image, and a digest of images, cameras and labels."""
    counts, digest = [], hashlib.sha256()
    for i in range(len(data)):
        sample = data[i]
        counts.append(len(sample))
        digest.update(json.dumps(sample.camera.to_dict()).encode())
        digest.update(sample.uv.tobytes() + sample.z.tobytes() + hashlib.sha256(sample.image).digest())
    return counts, digest.hexdigest()[:16]


def _weights_digest(path: Path) -> str:
    """Which weights these are: names, sizes and times of the files, as reading many gigabytes would take minutes."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


def _open_folder(folder: Path, settings: dict[str, Any]) -> Path:
    """The run's folder with its config in it. Raises InputError when it holds a run of another config."""
    settings = json.loads(json.dumps(settings))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _CONFIG
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
        raise InputError(f"{folder / _CONFIG} is not readable ({error}); give another --out or delete it") from error
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

    kinds = {"image": pa.int64(), "frame": pa.string(), "text": pa.string(), "correct": pa.bool_()}
    names = ("image", "frame", "u", "v", "z", "distance", "text", "answer", "value", "low", "high", "correct")
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(records, schema), temporary)
    temporary.replace(path)


def _write_text(text: str, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
