"""Where samples come from: Parquet shards, the official jsonl, and the mixture of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from depthlm.sample import Sample

__all__ = ["SampleSet", "open_data"]


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
