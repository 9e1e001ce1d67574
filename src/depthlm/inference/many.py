"""Work on many pictures: read and prepared in threads ahead of the model, what is bad known before it is asked."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from depthlm.errors import InputError
from depthlm.inference.predict import Photo, read_again, read_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from depthlm.camera import Camera
    from depthlm.camera_io import ResolvedCamera
    from depthlm.inference.request import Measurement
    from depthlm.inference.sources import Job

WORKERS = 2  # threads; more help only where pictures take longer to decode than to measure

# A job whose picture is good, with its camera; of one alone the photo itself, so that it is read once.
Checked = tuple["Job", "Photo | ResolvedCamera"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One of many pictures, measured. camera: of its own pixels; reason: where that came from."""

    path: Path
    camera: Camera
    reason: str
    measurement: Measurement


def ahead(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """function(item) in the order of the items, computed by threads at most `workers` + 1 items ahead."""
    rest = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="depthlm-read") as pool:
        waiting: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(rest, workers + 1))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def check_jobs(
    jobs: Sequence[Job],
    *,
    workers: int = WORKERS,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **cameras: Any,
) -> tuple[list[Checked], list[str]]:
    """Read every picture once, so that nothing bad is met half-way: the good ones with their cameras, and the others.

    cameras: as for `read_photo`. Raises the first InputError, in the order of the jobs, unless skip_bad: then one line
    for each bad picture is returned.
    """
    good: list[Checked] = []
    skipped: list[str] = []

    def check(job: Job) -> Photo | ResolvedCamera | InputError:
        try:
            photo = read_photo(job.path, job.uv, **cameras)
        except InputError as error:
            return error
        return photo if len(jobs) == 1 else photo.resolved

    for number, (job, found) in enumerate(zip(jobs, ahead(check, jobs, workers), strict=True), 1):
        if not isinstance(found, InputError):
            good.append((job, found))
        elif skip_bad:
            skipped.append(str(found))
        else:
            raise found
        if progress is not None:
            progress(number, len(jobs))
    return good, skipped


def read_jobs(checked: Iterable[Checked], *, workers: int = WORKERS) -> Iterator[tuple[Job, Photo | InputError]]:
    """The pictures of checked jobs, ready to be asked about; an error for one that has changed since."""

    def read(row: Checked) -> tuple[Job, Photo | InputError]:
        job, found = row
        try:
            return job, found if isinstance(found, Photo) else read_again(job.path, job.uv, found)
        except InputError as error:
            return job, error

    return ahead(read, checked, workers)


def read_each(
    jobs: Iterable[Job],
    *,
    workers: int,
    on_bad: Callable[[Path, InputError], None] | None,
    **cameras: Any,
) -> Iterator[Photo]:
    """The pictures of jobs, each read once. on_bad: told of a bad one, which is left out; None raises its error."""

    def read(job: Job) -> Photo | tuple[Path, InputError]:
        try:
            return read_photo(job.path, job.uv, **cameras)
        except InputError as error:
            return job.path, error

    for found in ahead(read, jobs, workers):
        if isinstance(found, Photo):
            yield found
        elif on_bad is None:
            raise found[1]
        else:
            on_bad(*found)
