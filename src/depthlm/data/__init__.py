"""Where samples come from: Parquet shards, the official jsonl, and the mixture of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from depthlm.sample import Sample

__all__ = ["Origin", "SampleSet", "open_data", "open_place", "origin_of", "place_of"]

RENDERED = "synth"  # the name of what `depthlm synth` makes, where data sets are named


class SampleSet(Protocol):
    """A sequence of samples on disk. skipped: one line for each bad row left out; points: number of labels."""

    points: int
    skipped: list[str]
    info: dict[str, Any]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    def __iter__(self) -> Iterator[Sample]: ...


def open_data(
    path: Path | str,
    *,
    images: Path | str | None = None,
    label: str | None = None,
    skip_bad: bool = False,
    check_images: bool = False,
) -> SampleSet:
    """Open a shard folder or a `.jsonl`, every row of which is validated first.

    images, label: for a jsonl only: the folder of its images and what its depths mean (None: "z"); shards hold both
    themselves. skip_bad: leave bad rows out and list them in `.skipped` instead of raising. check_images: decode every
    image now. Raises InputError for anything that cannot be read.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in (".jsonl", ".json"):
        from depthlm.data.jsonl import read_jsonl

        return read_jsonl(path, images, label or "z", "collect" if skip_bad else "raise", check_images=check_images)
    if path.is_file():
        raise InputError(f"{path}: expected a shard folder or a .jsonl file")
    if not path.is_dir():
        raise InputError(f"{path}: no such data; expected a shard folder or a .jsonl file")
    from depthlm.data.shards import ShardDataset

    shards = ShardDataset(path)
    return _checked(shards, skip_bad=skip_bad) if check_images else shards


class Origin(NamedTuple):
    """Which data set samples are of, which split, and whether their labels have the released curation's errors."""

    dataset: str | None = None
    split: str | None = None
    legacy: bool = False


def origin_of(samples: object) -> Origin:
    """Where samples come from, as the shards say; all unknown for what no command of ours wrote."""
    info: dict[str, Any] = getattr(samples, "info", {})
    if info.get("source") == "depthlm synth":
        return Origin(RENDERED)
    settings = info.get("settings", {}) if info.get("source") == "depthlm curate" else {}
    return Origin(settings.get("dataset"), settings.get("split"), bool(settings.get("legacy", False)))


def place_of(samples: object) -> dict[str, Any] | None:
    """Where samples that `open_data` opened lie, as plain values for `open_place`; None for what lies nowhere."""
    base = samples.base if isinstance(samples, _Chosen) else samples
    path = getattr(base, "path", None)
    if path is None:
        return None
    folder = getattr(base, "folder", None)
    return {
        "path": str(Path(path).absolute()),
        "images": None if folder is None else str(Path(folder).absolute()),
        "label": getattr(base, "label", None),
        "skip_bad": bool(getattr(samples, "skipped", ())),
    }


def open_place(place: dict[str, Any]) -> SampleSet:
    """The samples of a place, in the order they had. Raises InputError where they cannot be opened any more."""
    path = Path(place["path"])
    skip_bad = bool(place["skip_bad"])
    return open_data(path, images=place["images"], label=place["label"], skip_bad=skip_bad, check_images=skip_bad)


class _Chosen:
    """Some rows of a set, in order."""

    def __init__(self, base: SampleSet, rows: list[int], points: int, skipped: list[str]) -> None:
        self.base, self.rows = base, rows
        self.points, self.skipped, self.info = points, skipped, base.info

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.base[self.rows[index]]

    def __iter__(self) -> Iterator[Sample]:
        return (self.base[row] for row in self.rows)


def _checked(base: SampleSet, *, skip_bad: bool) -> SampleSet:
    """Read and decode every row once; without the bad ones when `skip_bad`."""
    rows: list[int] = []
    skipped: list[str] = []
    points = 0
    for row in range(len(base)):
        try:
            sample = base[row]
            sample.load_image()
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
            continue
        rows.append(row)
        points += len(sample)
    if not skipped:
        return base
    if not rows:
        raise InputError(f"every row is bad, the first: {skipped[0]}")
    return _Chosen(base, rows, points, skipped)
