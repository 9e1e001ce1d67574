"""Results of many pictures: on the disk as they come, so that an interrupted run goes on; written whole at the end."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError
from depthlm.inference.cache import AnswerCache, read_records
from depthlm.inference.sources import POINT_COLUMNS, output_paths
from depthlm.pointcloud import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from depthlm.inference.sources import Job

TABLES = (".csv", ".parquet", ".jsonl")
_SETTINGS = "settings"


class Record:
    """What is known about the pictures of a run, in a file beside its output that only grows.

    path: None keeps it in memory. A run over the same pictures with the same settings finds what was answered before;
    a picture whose file or points have changed is new.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known = {} if path is None else read_records(path)
        self._cache: AnswerCache | None = None

    def get(self, job: Job) -> dict[str, Any] | None:
        """What was kept for a job, or None."""
        return self._known.get(_key(job))

    def begin(self, settings: dict[str, Any]) -> None:
        """Open for writing. Raises InputError when it was begun with other settings or another run is at it."""
        self._cache = AnswerCache(self.path, option="--out")
        self._known = self._cache.records
        plain = json.loads(json.dumps(settings, default=str))
        before = self._known.get(_SETTINGS)
        if before is None:
            self._cache.put(_SETTINGS, plain)
        elif before != plain:
            self.close()
            other = [name for name in plain | before if plain.get(name) != before.get(name)]
            said = ", ".join(f"{name} {before.get(name)}, now {plain.get(name)}" for name in other)
            raise InputError(f"{self.path}: was begun with other settings ({said}); give another --out or remove it")

    def keep(self, job: Job, result: dict[str, Any]) -> None:
        """Keep what was found out about a job; it is on the disk when this returns."""
        assert self._cache is not None, "begin first"
        self._cache.put(_key(job), result)

    def close(self) -> None:
        """Let others write to the file."""
        if self._cache is not None:
            self._cache.close()


def _key(job: Job) -> str:
    """A job by name, points, and size and time of its file; one without a file has none of the latter."""
    try:
        status = job.path.stat()
        file = (status.st_size, status.st_mtime_ns)
    except OSError:
        file = (0, 0)
    return hashlib.sha256(json.dumps([job.name, *file, job.uv]).encode()).hexdigest()[:32]


def record_path(out: Path) -> Path:
    """The record of an output: inside a folder, beside a file."""
    return out.with_name(f"{out.name}.record.jsonl") if is_table(out) else out / "record.jsonl"


def is_table(out: Path) -> bool:
    """Whether an output is one file for all pictures. Raises InputError for a suffix that nothing can be written to."""
    if out.is_dir() or not out.suffix:
        return False
    if out.suffix.lower() not in TABLES:
        raise InputError(f"{out}: cannot write results as {out.suffix!r}; use {', '.join(TABLES)}, or a folder")
    return True


def check_columns(jobs: Iterable[Job]) -> None:
    """Raise InputError for columns of a points file that results write themselves."""
    taken = {name for job in jobs for extra in job.extra for name in extra} & set(_COLUMNS)
    if taken:
        raise InputError(f"the points have a column {sorted(taken)[0]!r}, which results write themselves; rename it")


_COLUMNS = (
    *POINT_COLUMNS, "u2", "v2", "task", "value", "unit", "low", "high", "distance", "x", "y", "z", "given", "text",
    "width", "height", "fx", "fy", "cx", "cy", "camera",
)  # fmt: skip


def write_results(out: Path, rows: Sequence[tuple[Job, dict[str, Any]]]) -> int:
    """Predictions -> one table in the order of the points (TABLES), or a JSON file for each picture; rows written.

    rows: jobs with what `predict_image` said. A table has a row for each answer. Lengths in metres.
    """
    table = [row for job, result in rows for row in _flat(job, result)]
    table.sort(key=lambda row: row[0])
    flat = [row for _, row in table]
    if not is_table(out):
        paths = output_paths([job for job, _ in rows], out, [".json"])
        for job, result in rows:
            write_whole(paths[job.name][0], (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
        return len(flat)
    writers = {".csv": _csv_bytes, ".parquet": _parquet_bytes, ".jsonl": _jsonl_bytes}
    write_whole(out, writers[out.suffix.lower()](flat))
    return len(flat)


def _flat(job: Job, result: dict[str, Any]) -> list[tuple[tuple[int, int], dict[str, Any]]]:
    """(place, row) for each answer about a picture."""
    camera = result["camera"]
    about = {name: camera[name] for name in ("width", "height", "fx", "fy", "cx", "cy")} | {"camera": camera["reason"]}
    found = []
    for number, point in enumerate(result.get("points", ())):
        x, y, z = point["xyz"] or (None, None, None)
        said = {
            "task": result["task"],
            "value": point["value"],
            "unit": "m",
            "low": point["low"],
            "high": point["high"],
        }
        said |= {"distance": point["distance"], "x": x, "y": y, "z": z, "text": point["text"]}
        row = {"image": job.name, "u": point["u"], "v": point["v"], **said, **about, **job.extra[number]}
        found.append(((job.rows[number], number), row))
    for number, asked in enumerate(result.get("questions", ())):
        names = (("u", "v"), ("u2", "v2"))
        places = {n: x for pair, uv in zip(names, asked["points"], strict=False) for n, x in zip(pair, uv, strict=True)}
        first = number * len(asked["points"])
        said = {"task": result["task"], "given": asked["given"], "value": asked["value"], "unit": asked["unit"]}
        said |= {"low": asked["low"], "high": asked["high"], "text": asked["text"]}
        extra = job.extra[first] if job.extra else {}
        found.append(
            ((job.rows[first] if job.rows else 0, first), {"image": job.name, **places, **said, **about, **extra})
        )
    return found


def _csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    table = csv.DictWriter(file, list(rows[0]) if rows else list(POINT_COLUMNS), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return file.getvalue().encode()


def _jsonl_bytes(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def _parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return bytes(buffer.getvalue())
