"""Curation: the raw tree of a data set -> shards of labelled samples, the same bytes however the work was spread.

The frames that `choose.py` keeps are cut into parts of a fixed number of frames. A part is a pure function of
(settings, tree, its frames): it becomes one shard file (more when the pictures are large) and one small record beside
it. Any process can do any part; a run that was killed finds the records and does the rest; the manifest comes last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.claim import RECORDS, claim, same_settings, write_json
from depthlm.cluster import connected, import_ray
from depthlm.data.choose import choose_frames, read_sample
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.data.shards import build_manifest, write_shard
from depthlm.errors import InputError
from depthlm.processes import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from depthlm.data.choose import Choice, CurateConfig
    from depthlm.sample import Sample

MANIFEST = "manifest.json"
SETTINGS = "curation.json"
ROWS_PER_GROUP = 16


def curate(
    config: CurateConfig,
    root: Path | str,
    out: Path | str,
    *,
    workers: int = 1,
    ray: str | None = None,
    strict: bool = False,
    choices: list[Choice] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the shards of a data set to `out`, going on from what is there; returns the manifest.

    root: the raw tree. workers: processes. ray: address of a Ray cluster ("local" starts one here) that sees root and
    out under the same paths; takes the place of workers. strict: raise at the first frame that cannot be used, which is
    otherwise skipped and listed. choices: the frames and their numbers of points, in place of thinning and
    `config.points`. progress: told (frames done, frames in all).
    Raises InputError for a root that is not the set, an `out` that holds something else or was begun with other
    settings, a full disk, and when no frame at all could be used. What is finished stays.
    """
    root, out = Path(root), Path(out)
    if ray is not None:
        import_ray()  # before anything is written
    reader = get_reader(config.dataset)
    if choices is None:
        indexed, choices = choose_frames(config, root)
        frames = digest_lines(choice.ref.id for choice in choices)
    else:
        indexed = len(choices)
        frames = digest_lines(f"{choice.ref.id} {choice.points}" for choice in choices)
    if not choices:
        raise InputError(f"{root}: no frame of split {config.split!r}; expected {reader.layout}")
    settings = dataclasses.asdict(config) | {"reader_version": reader.version, "frames": frames}
    if (out / MANIFEST).exists() and same_settings(out / SETTINGS, settings, "curation"):
        shutil.rmtree(out / RECORDS, ignore_errors=True)
        manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        return manifest
    claim(out / SETTINGS, settings, "curation")
    size = config.frames_per_part
    parts = [
        _Part(config, root, out, number, choices[first : first + size], strict)
        for number, first in enumerate(range(0, len(choices), size))
    ]
    records: list[dict[str, Any]] = [{}] * len(parts)
    done = 0
    progress(0, len(choices))
    runner = _with_ray(parts, ray) if ray is not None else spread(_run_part, parts, workers)
    for record in runner:
        records[record["part"]] = record
        done += record["frames"]
        progress(done, len(choices))
    return _finish(config, out, records, indexed)


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """Everything a process needs to make one part."""

    config: CurateConfig
    root: Path
    out: Path
    number: int
    choices: list[Choice]
    strict: bool

    def run(self) -> dict[str, Any]:
        """The record of the part: found, or made now."""
        path = self.out / RECORDS / f"part-{self.number:05d}.json"
        if (record := self._read_record(path)) is not None:
            if self.strict and record["skipped"]:
                raise FrameError(f"{record['skipped'][0]} (--strict)")
            return record
        skipped: list[str] = []
        facts = _Facts()
        shards: list[dict[str, Any]] = []
        remaining = _Limited(self._samples(skipped, facts), self.config.max_bytes)
        while not remaining.empty:
            name = f"shard-{self.number:05d}{f'-{len(shards)}' if shards else ''}.parquet"
            temporary = self.out / f".{name}.writing-{os.getpid()}"
            try:
                shard = write_shard(remaining.next_file(), temporary, ROWS_PER_GROUP)
                if shard is not None:
                    temporary.replace(self.out / name)
                    shards.append(shard | {"file": name})
            finally:
                temporary.unlink(missing_ok=True)
        record = {
            "part": self.number,
            "frames": len(self.choices),
            "shards": shards,
            "skipped": skipped,
            "facts": facts.to_dict(),
        }
        write_json(path, record)
        return record

    def _read_record(self, path: Path) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            whole = all((self.out / s["file"]).stat().st_size == s["bytes"] for s in record["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None

    def _samples(self, skipped: list[str], facts: _Facts) -> Iterator[Sample]:
        for choice in self.choices:
            try:
                sample = read_sample(self.config, self.root, choice)
            except FrameError as error:
                if self.strict:
                    raise FrameError(f"{error} (--strict)") from error
                skipped.append(str(error))
                continue
            facts.add(sample)
            yield sample


class _Limited:
    """Hands out an iterator in pieces whose pictures stay below a number of bytes."""

    def __init__(self, samples: Iterator[Sample], max_bytes: int) -> None:
        self.samples, self.max_bytes = samples, max_bytes
        self.waiting = next(samples, None)

    @property
    def empty(self) -> bool:
        return self.waiting is None

    def next_file(self) -> Iterator[Sample]:
        size = 0
        while self.waiting is not None and (size == 0 or size + len(self.waiting.image) <= self.max_bytes):
            size += len(self.waiting.image)
            sample, self.waiting = self.waiting, None
            yield sample
            self.waiting = next(self.samples, None)


class _Facts:
    """Ranges over the samples of a part."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[float]] = {}

    def add(self, sample: Sample) -> None:
        camera = sample.camera
        for key, low, high in (
            ("z_m", float(sample.z.min()), float(sample.z.max())),
            ("focal_px", min(camera.fx, camera.fy), max(camera.fx, camera.fy)),
            ("width_px", camera.width, camera.width),
            ("height_px", camera.height, camera.height),
            ("points", len(sample), len(sample)),
        ):
            self._widen(key, low, high)

    def _widen(self, key: str, low: float, high: float) -> None:
        known = self.ranges.setdefault(key, [low, high])
        known[0], known[1] = min(known[0], low), max(known[1], high)

    def merge(self, other: dict[str, list[float]]) -> None:
        for key, (low, high) in other.items():
            self._widen(key, low, high)

    def to_dict(self) -> dict[str, list[float]]:
        return dict(self.ranges)


def _run_part(part: _Part) -> dict[str, Any]:
    try:
        return part.run()
    except OSError as error:
        raise InputError(
            f"cannot write {part.out}: {error.strerror or error}; make room or mend it and run again, "
            "finished shards are kept"
        ) from error


def _with_ray(parts: list[_Part], address: str) -> Iterator[dict[str, Any]]:
    with connected(address) as ray:
        task = ray.remote(_run_part)
        limit = max(4, 2 * int(ray.cluster_resources().get("CPU", 1)))
        queue = iter(parts)
        waiting: list[Any] = []
        while True:
            while len(waiting) < limit and (part := next(queue, None)) is not None:
                waiting.append(task.remote(part))
            if not waiting:
                return
            (finished,), waiting = ray.wait(waiting, num_returns=1)
            try:
                yield ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None


# --- the output folder -----------------------------------------------------------------------------------------------


def digest_lines(lines: Iterable[str]) -> str:
    """SHA-256 of lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _finish(config: CurateConfig, out: Path, records: list[dict[str, Any]], indexed: int) -> dict[str, Any]:
    reader = get_reader(config.dataset)
    skipped = [line for record in records for line in record["skipped"]]
    shards = [shard for record in records for shard in record["shards"]]
    if not shards:
        raise InputError(f"no frame of {reader.title} could be used; the first: {skipped[0]}")
    facts = _Facts()
    for record in records:
        facts.merge(record["facts"])
    frames = sum(record["frames"] for record in records)
    manifest = build_manifest(shards, ROWS_PER_GROUP)
    manifest["info"] = {
        "source": "depthlm curate",
        "title": reader.title,
        "licence": reader.licence,
        "reader_version": reader.version,
        "frames": {"indexed": indexed, "chosen": frames, "skipped": len(skipped)},
        "ranges": facts.to_dict(),
        "labels": f"z, metres; published as {reader.legacy_label}; {reader.legacy_line}"
        if config.legacy
        else "z, metres",
        "settings": dataclasses.asdict(config),
        "skipped": skipped,
    }
    try:
        write_json(out / MANIFEST, manifest)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; make room and run again") from error
    shutil.rmtree(out / RECORDS, ignore_errors=True)
    return manifest
