"""Which frames of a set are curated, and which of their pixels: the settings, and the sample that follows from them.

The frames that a reader lists are thinned (video). Which pixels of a frame are chosen follows from the seed and the
frame's official name alone, not from the order of the tree or the process that reads it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from depthlm.data.readers.base import FrameError, FrameRef, get_reader
from depthlm.errors import InputError
from depthlm.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.data.readers.base import Frame, Labels

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


# --- frames ----------------------------------------------------------------------------------------------------------


def choose_frames(config: CurateConfig, root: Path) -> tuple[int, list[Choice]]:
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


# --- pixels ----------------------------------------------------------------------------------------------------------


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
    """The sample of a frame.

    Raises FrameError when it has too few labels, when none lies on its picture, and when its picture does not decode.
    """
    labels = frame.labels.within(config.near_m, config.far_m)
    if labels.count < config.min_points:
        raise FrameError(
            f"{ref.id}: {labels.count} valid labels from {config.near_m:g} to {config.far_m:g} m; "
            f"at least {config.min_points} are needed"
        )
    rng = frame_generator(config.seed, config.dataset, ref.id)
    chosen = choose_labels(labels, points, config.choose, rng)
    uv, z = labels.take(chosen, frame.camera)
    near_edge, incidence = labels.facts(chosen, frame.camera)
    on = frame.camera.contains(uv)  # the outermost pixels of a distorted picture may lie off the straightened one
    if not on.any():
        raise FrameError(f"{ref.id}: none of its {len(uv)} chosen labels lies on the straightened picture")
    sample = Sample(
        image=frame.image, camera=frame.camera, uv=uv[on], z=z[on], scene=ref.scene, frame=ref.id, pose=frame.pose,
        near_edge=None if near_edge is None else near_edge[on],
        incidence=None if incidence is None else incidence[on],
        source=ref.id,
    )  # fmt: skip
    sample.load_image()
    return sample
