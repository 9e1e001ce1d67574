"""Curation: the raw tree of a data set -> shards of labelled samples, the same bytes however the work was spread.

The frames that a reader lists are thinned (video), then cut into parts of a fixed number of frames. A part is a pure
function of (settings, tree, its frames): it becomes one shard file (more when the pictures are large) and one small
record beside it. Any process can do any part; a run that was killed finds the records and does the rest; the manifest
is written last. Which pixels are chosen follows from the seed and the frame's id alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.data.readers.base import FrameError, FrameRef, get_reader
from depthlm.data.shards import build_manifest, write_shard
from depthlm.errors import InputError
from depthlm.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from depthlm.data.readers.base import Frame, Labels

MANIFEST = "manifest.json"
SETTINGS = "curation.json"
RECORDS = ".parts"
ROWS_PER_GROUP = 16
_BINS = 16  # of log z, when points are chosen by depth


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """What decides the output, to the last bit. Workers, clusters and interruptions do not."""

    dataset: str
    """Name of a reader."""
    split: str = ""
    """Official split, or "all"; empty for the reader's first."""
    points: int = 100
    """Labelled points per frame; all of them where a frame has fewer."""
    choose: Literal["uniform", "stratified"] = "uniform"
    """uniform: every valid pixel equally likely. stratified: every range of log z equally likely."""
    seed: int = 0
    """Of the choice of pixels."""
    near: float | None = None
    """Least z, metres; None for the reader's."""
    far: float | None = None
    """Largest z, metres; None for the reader's."""
    min_points: int = 10
    """Frames with fewer valid labels are skipped."""
    every: int | None = None
    """Of each video one frame in so many; None for the reader's."""
    moved: float = 0.05
    """A video frame is kept when the camera moved this far from the last one kept, metres ..."""
    turned: float = 2.0
    """... or turned so much, degrees (where the set has poses)."""
    frames_per_part: int = 256
    """Frames that are worked on, written and recorded together."""
    max_bytes: int = 1 << 29
    """A part's shard is closed, and another begun, when its pictures exceed this."""
    legacy: bool = False
    """The errors of the released curation (`Reader.read_legacy`)."""

    def __post_init__(self) -> None:
        reader = get_reader(self.dataset)
        object.__setattr__(self, "split", self.split or reader.splits[0])
        reader.check_split(self.split)
        for name in ("near", "far", "every"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(reader, name))
        for name in ("points", "min_points", "every", "frames_per_part", "max_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.choose not in ("uniform", "stratified"):
            raise InputError(f"choose is {self.choose!r}; expected 'uniform' or 'stratified'")
        if not (0 <= self.near_m < self.far_m):
            raise InputError(f"near is {self.near} and far is {self.far} metres; expected 0 <= near < far")
        if not (self.moved >= 0 and self.turned >= 0):
            raise InputError(f"moved is {self.moved} and turned is {self.turned}; expected 0 or more")

    @property
    def near_m(self) -> float:
        """Least z, metres."""
        assert self.near is not None
        return self.near

    @property
    def far_m(self) -> float:
        """Largest z, metres."""
        assert self.far is not None
        return self.far


@dataclass(frozen=True, slots=True)
class Choice:
    """A frame and how many of its points are wanted."""

    ref: FrameRef
    points: int


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
        _import_ray()  # before anything is written
    reader = get_reader(config.dataset)
    if choices is None:
        indexed, choices = _choose_frames(config, root)
        frames = digest_lines(choice.ref.id for choice in choices)
    else:
        indexed = len(choices)
        frames = digest_lines(f"{choice.ref.id} {choice.points}" for choice in choices)
    if not choices:
        raise InputError(f"{root}: no frame of split {config.split!r}; expected {reader.layout}")
    settings = dataclasses.asdict(config) | {"reader_version": reader.version, "frames": frames}
    if (out / MANIFEST).exists() and _same_settings(out, settings):
        shutil.rmtree(out / RECORDS, ignore_errors=True)
        manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        return manifest
    _claim(out, settings)
    size = config.frames_per_part
    parts = [
        _Part(config, root, out, number, choices[first : first + size], strict)
        for number, first in enumerate(range(0, len(choices), size))
    ]
    records: list[dict[str, Any]] = [{}] * len(parts)
    done = 0
    progress(0, len(choices))
    runner = _with_ray(parts, ray) if ray is not None else _with_processes(parts, workers)
    for record in runner:
        records[record["part"]] = record
        done += record["frames"]
        progress(done, len(choices))
    return _finish(config, out, records, indexed)


def _choose_frames(config: CurateConfig, root: Path) -> tuple[int, list[Choice]]:
    """How many frames the split has, and those that are kept."""
    assert config.every is not None
    indexed = 0

    def counted(refs: Iterable[FrameRef]) -> Iterator[FrameRef]:
        nonlocal indexed
        for ref in refs:
            indexed += 1
            yield ref

    refs = counted(get_reader(config.dataset).index(root, config.split))
    kept = [Choice(ref, config.points) for ref in thin(refs, config.every, config.moved, config.turned)]
    return indexed, kept


# --- which frames, which pixels --------------------------------------------------------------------------------------


def thin(refs: Iterable[FrameRef], every: int, moved: float, turned: float) -> Iterator[FrameRef]:
    """Leave out near-identical frames of videos; frames without a sequence all stay.

    Of a sequence, every `every`-th frame is looked at, and kept when the camera moved by `moved` metres or turned by
    `turned` degrees since the last one kept (or the set has no poses).
    """
    seen: dict[str, int] = {}
    last: dict[str, NDArray[np.float64]] = {}
    for ref in refs:
        if not ref.sequence:
            yield ref
            continue
        place = seen.get(ref.sequence, 0)
        seen[ref.sequence] = place + 1
        if place % every:
            continue
        if ref.pose is not None:
            pose = np.asarray(ref.pose, dtype=np.float64).reshape(4, 4)
            before = last.get(ref.sequence)
            # A pose that is not finite is the reader's to report when the frame is read.
            if before is not None and np.isfinite(pose).all() and not _changed(before, pose, moved, turned):
                continue
            if np.isfinite(pose).all():
                last[ref.sequence] = pose
        yield ref


def _changed(before: NDArray[np.float64], pose: NDArray[np.float64], moved: float, turned: float) -> bool:
    step = float(np.linalg.norm(pose[:3, 3] - before[:3, 3]))
    cosine = (np.trace(before[:3, :3].T @ pose[:3, :3]) - 1) / 2
    return step >= moved or float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) >= turned


def frame_hash(dataset: str, frame: str) -> bytes:
    """32 bytes that stand for a frame, whatever tree it lies in: SHA-256 of "<set>/<official name>"."""
    return hashlib.sha256(f"{dataset}/{frame}".encode()).digest()


def frame_generator(seed: int, dataset: str, frame: str) -> np.random.Generator:
    """The generator of one frame: depends on nothing but the seed and the official name of the frame."""
    return np.random.default_rng([seed, *np.frombuffer(frame_hash(dataset, frame), dtype="<u4").tolist()])


def choose_labels(labels: Labels, points: int, how: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """[min(points, count)] places among the valid labels, sorted, without repetition."""
    count = labels.count
    if points >= count:
        return np.arange(count)
    if how == "uniform":
        return np.sort(rng.choice(count, size=points, replace=False))
    logs = np.log(labels.depths())
    low, high = float(logs.min()), float(logs.max())
    width = max((high - low) / _BINS, 1e-12)
    bins = np.minimum(((logs - low) / width).astype(np.int64), _BINS - 1)
    order = rng.permutation(count)
    order = order[np.argsort(bins[order], kind="stable")]
    starts = np.searchsorted(bins[order], np.arange(_BINS))
    rank = np.arange(count) - starts[bins[order]]  # the how-manieth of its bin
    # One of each bin, then a second of each, ...; which bin comes first in the last, incomplete round is drawn too.
    turn = rng.permutation(_BINS)[bins[order]]
    return np.sort(order[np.lexsort((turn, rank))[:points]])


def read_sample(config: CurateConfig, root: Path, choice: Choice) -> Sample:
    """The sample of a choice, from its files. Raises FrameError, one line that begins with or names the frame."""
    reader = get_reader(config.dataset)
    read = reader.read_legacy if config.legacy else reader.read
    try:
        return make_sample(read(root, choice.ref), choice.ref, choice.points, config)
    except (InputError, OSError, ValueError, KeyError, IndexError) as error:
        # InputError says what is wrong; the others come from files that are damaged in ways no reader foresaw.
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise FrameError(reason if choice.ref.id in reason else f"{choice.ref.id}: {reason}") from error


def make_sample(frame: Frame, ref: FrameRef, points: int, config: CurateConfig) -> Sample:
    """The sample of a frame. Raises FrameError when it has too few labels or its picture does not decode."""
    labels = frame.labels.within(config.near_m, config.far_m)
    if labels.count < config.min_points:
        raise FrameError(
            f"{ref.id}: {labels.count} valid labels from {config.near_m:g} to {config.far_m:g} m; "
            f"at least {config.min_points} are needed"
        )
    rng = frame_generator(config.seed, config.dataset, ref.id)
    uv, z = labels.take(choose_labels(labels, points, config.choose, rng), frame.camera)
    on = frame.camera.contains(uv)  # the outermost pixels of a distorted picture may lie off the straightened one
    sample = Sample(
        image=frame.image, camera=frame.camera, uv=uv[on], z=z[on], scene=ref.scene, frame=ref.id, pose=frame.pose,
        source=ref.id,
    )  # fmt: skip
    sample.load_image()
    return sample


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


def _with_processes(parts: list[_Part], workers: int) -> Iterator[dict[str, Any]]:
    if workers <= 1 or len(parts) == 1:
        yield from map(_run_part, parts)
        return
    import multiprocessing

    # spawn: a forked child would inherit Arrow's thread pools without their threads.
    pool = ProcessPoolExecutor(min(workers, len(parts)), mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting: set[Future[dict[str, Any]]] = set()
        queue = iter(parts)
        while True:
            # Few parts ahead: they are pickled when submitted.
            while len(waiting) < 2 * workers and (part := next(queue, None)) is not None:
                waiting.add(pool.submit(_run_part, part))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died (out of memory?); run again, finished shards are kept, perhaps with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs the package ray; pip install depthlm[ray]") from None
    return ray


def _with_ray(parts: list[_Part], address: str) -> Iterator[dict[str, Any]]:
    ray = _import_ray()
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no cluster there ({error}); give its address or 'local'") from error
    try:
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
    finally:
        ray.shutdown()


# --- the output folder -----------------------------------------------------------------------------------------------


def digest_lines(lines: Iterable[str]) -> str:
    """SHA-256 of lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write by rename: the file is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _same_settings(out: Path, settings: dict[str, Any]) -> bool:
    try:
        found = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{out} exists and is no curation ({error}); choose another folder or remove it") from error
    if found == settings:
        return True
    different = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
    raise InputError(
        f"{out} holds a curation that differs in {', '.join(different)} (see {out / SETTINGS}); "
        "choose another folder or remove it"
    )


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make `out` this curation's; drop what a killed run left half-written."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            _same_settings(out, settings)
            for leftover in [*out.glob(".*.writing-*"), *(out / RECORDS).glob(".*.writing-*")]:
                leftover.unlink(missing_ok=True)
        (out / RECORDS).mkdir(parents=True, exist_ok=True)
        write_json(out / SETTINGS, settings)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; choose another folder") from error


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
