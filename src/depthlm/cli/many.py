"""What `predict` and `map` share when they are given many pictures: gathered, checked, asked, kept."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.cli.helpers import progress_bar
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthlm.inference.engine import Engine
    from depthlm.inference.many import Checked
    from depthlm.inference.predict import Photo
    from depthlm.inference.results import Record
    from depthlm.inference.sources import Job

_LISTED = 20


@dataclass
class Left:
    """What is left out: a line for each bad row or picture, and what a folder held besides pictures."""

    skipped: list[str]
    others: str = ""

    def tell(self) -> None:
        """The first lines, and how many there are, on stderr."""
        if self.others:
            print(f"left out: {self.others}", file=sys.stderr)
        for line in self.skipped[:_LISTED]:
            print(f"skipped: {line}", file=sys.stderr)
        if len(self.skipped) > _LISTED:
            print(f"skipped: {len(self.skipped) - _LISTED} more", file=sys.stderr)


def gather(
    given: Sequence[str] | None,
    uv: Sequence[tuple[float, float]] = (),
    *,
    points: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
) -> tuple[list[Job], Left]:
    """The jobs that the arguments name, and what is left out."""
    from depthlm.inference.sources import find_pictures, read_points

    if points is not None:
        if given or uv:
            raise InputError(f"--points names its own pictures and points; leave {'IMAGE' if given else '--point'} out")
        jobs, bad = read_points(points, images, skip_bad=skip_bad)
        return jobs, Left(bad)
    if images is not None:
        raise InputError("--images is where the pictures of --points are; leave it out")
    if not given:
        raise InputError("no picture given; name files, folders or globs, or a table of points with --points")
    jobs, others = find_pictures(given, uv)
    counts = ", ".join(f"{number} {suffix}" for suffix, number in sorted(others.items()))
    return jobs, Left([], f"files that are no pictures: {counts}" if others else "")


def check(
    jobs: Sequence[Job], known: Callable[[Job], bool], cameras: dict[str, Any], *, workers: int, skip_bad: bool
) -> tuple[list[Checked], list[str]]:
    """The jobs that are not known yet, checked, and a line for each bad one. Raises InputError when all are bad."""
    from depthlm.inference.many import check_jobs

    new = [job for job in jobs if not known(job)]
    with progress_bar("check") as progress:
        good, bad = check_jobs(new, workers=workers, skip_bad=skip_bad, progress=progress, **cameras)
    if bad and not good and len(new) == len(jobs):
        raise InputError(f"no picture can be used; the first: {bad[0]}")
    return good, bad


def ask_all(
    title: str,
    checked: Sequence[Checked],
    record: Record,
    ask: Callable[[Job, Photo, Callable[[float], None]], dict[str, Any]],
    *,
    workers: int,
    skip_bad: bool,
) -> list[str]:
    """Ask about each picture and keep what is said; a line for each that has become bad since it was checked.

    ask: told how to report the share of a picture that is done.
    """
    from depthlm.inference.many import read_jobs

    bad: list[str] = []
    with progress_bar(title) as progress:
        for number, (job, photo) in enumerate(read_jobs(checked, workers=workers)):
            if isinstance(photo, InputError):
                if not skip_bad:
                    raise photo
                bad.append(str(photo))
                continue
            record.keep(job, ask(job, photo, partial(_told, progress, number, len(checked))))
            progress(number + 1, len(checked))
    return bad


def _told(progress: Callable[[float, int], None], number: int, total: int, share: float) -> None:
    progress(number + share, total)


def settings(engine: Engine, model: str, cameras: dict[str, Any], **others: Any) -> dict[str, Any]:
    """What answers depend on, beside pictures and points: a run goes on only where all of it is the same."""
    file = cameras.get("file")
    digest = None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return {
        "model": model,
        "weights": engine.identity()["weights"],
        "reference": engine.reference.name,
        "read": engine.read,
        **cameras,
        "file": digest,
        **others,
    }
