"""Evaluation folders read back: config.json, points.parquet, summary.json -> points that metrics can take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation.measure import Points, measure_points
from depthlm.tasks.numbers import answer_part, read_answer

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIG, POINTS, SUMMARY = "config.json", "points.parquet", "summary.json"
METRIC_TASKS = ("z", "distance")
_NEEDED = ("image", "u", "v", "z", "distance", "question", "truth", "answer", "value", "score")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished evaluation. table: the rows of points.parquet that were asked."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    table: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The model, with the reference where one was used; floors and ceilings by what they are."""
        backend, model = self.config.get("backend", {}).get("name"), self.summary["model"]
        if backend == "constant":
            return f"constant {model}"
        return str(model) if backend in ("rival", "oracle") else f"{model} ({self.summary['reference']})"


def find_runs(folder: Path | str) -> list[Path]:
    """The evaluation folders in a folder: itself, or those below it. Raises InputError when there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the --out of a `depthlm eval`")
    if (folder / POINTS).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.rglob(POINTS))
    if not found:
        what = "an unfinished evaluation" if (folder / CONFIG).is_file() else "no evaluation"
        raise InputError(f"{folder} holds {what} (no {POINTS}); finish it with `depthlm eval ... --out {folder}`")
    return found


def read_run(folder: Path | str) -> Run:
    """A finished evaluation. Raises InputError when a file is missing, broken or of something else."""
    folder = Path(folder)
    config, summary = (_read_json(folder / name) for name in (CONFIG, SUMMARY))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table: list[dict[str, Any]] = pq.read_table(folder / POINTS).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / POINTS} cannot be read ({reason}); delete {folder} and evaluate again") from error
    missing = [name for name in _NEEDED if table and name not in table[0]]
    lacks = [name for name in ("model", "task", "label", "reference", "data") if name not in summary]
    if not table or missing or lacks:
        what = f"{POINTS} lacks {', '.join(missing)}" if missing else f"{SUMMARY} lacks {', '.join(lacks)}"
        raise InputError(
            f"{folder}: {what if table else POINTS + ' is empty'}; it is not the folder of a `depthlm eval`"
        )
    return Run(
        folder=folder, config=config, summary=summary, table=[row for row in table if row["question"] is not None]
    )


def to_points(table: list[dict[str, Any]], quantity: str) -> tuple[Points | None, list[str]]:
    """Asked rows of points.parquet -> points in `quantity` ("z" or "distance"), and a line for what was left out.

    A row whose truth is missing, not finite or not positive is left out and counted: the rest of the run is kept. None
    when nothing is left.
    """
    truth = _column(table, quantity)
    good = np.isfinite(truth) & (truth > 0)
    notes = []
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        notes.append(
            f"{int((~good).sum())} of {len(table)} points have no usable {quantity} (the first: row {first}, image "
            f"{table[first]['image']}, {quantity} {truth[first]}); they are left out"
        )
    rows = [row for row, kept in zip(table, good, strict=True) if kept]
    if not rows:
        return None, notes
    said, digit = _said(rows)
    z, distance = _column(rows, "z"), _column(rows, "distance")
    return Points(
        image=np.array([row["image"] for row in rows], dtype=np.int64),
        truth=truth[good],
        predicted=_column(rows, "value"),
        quantity="z" if quantity == "z" else "distance",
        factor=np.maximum(distance / z, 1.0) if np.isfinite(distance / z).all() else None,
        low=_column(rows, "low"),
        high=_column(rows, "high"),
        said=said,
        digit=digit,
        surface=np.array([row.get("surface") or "" for row in rows], dtype=np.str_),
        near_edge=_flags(rows),
        incidence=_column(rows, "incidence") if any(row.get("incidence") is not None for row in rows) else None,
    ), notes


def measure_run(table: list[dict[str, Any]], task: str, *, seed: int = 0) -> dict[str, Any] | None:
    """Every figure of asked rows (measure.measure_points), or None for a task whose answers are not depths.

    n_out_of_range also counts answers that hold a number which is no possible length; left_out: rows without a truth.
    """
    points, left_out = to_points(table, task) if task in METRIC_TASKS else (None, [])
    if points is None:
        return None
    found = measure_points(points, seed=seed)
    stated = sum(row["value"] is None and _states_a_number(row.get("text")) for row in table)
    return found | {"n_out_of_range": found["n_out_of_range"] + stated, "left_out": left_out}


def _states_a_number(text: str | None) -> bool:
    """Whether an answer that could not be read holds a number all the same: one that is no possible length."""
    return text is not None and any(c.isdigit() for c in answer_part(text))


def _said(rows: list[dict[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The numbers as said, and their last digits as written in the text."""
    said, digit = np.full(len(rows), np.nan), np.full(len(rows), -1)
    for k, row in enumerate(rows):
        answer = json.loads(row["answer"]) if row["answer"] else None
        if not isinstance(answer, float | int):
            continue
        said[k] = answer
        reading = read_answer(row.get("text") or "")
        if reading is not None:
            digit[k] = int(next(c for c in reversed(reading.literal) if c.isdigit()))
    return said, digit


def _column(rows: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([np.nan if (value := row.get(name)) is None else value for row in rows], dtype=np.float64)


def _flags(rows: list[dict[str, Any]]) -> NDArray[np.bool_] | None:
    values = [row.get("near_edge") for row in rows]
    return None if any(value is None for value in values) else np.array(values, dtype=np.bool_)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} lacks {path.name}; it is not the folder of a finished `depthlm eval`"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); evaluate again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; expected an object. Evaluate again")
    return content
