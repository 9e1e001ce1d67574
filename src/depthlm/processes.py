"""Work spread over processes of this machine, in whatever order it is done."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def spread(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    workers: int,
    *,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[_Result]:
    """`work` of every item, as each is finished; in this process when one worker is enough.

    start, arguments: called once in every process before its first item. Raises what `work` raises, and InputError when
    a process dies.
    """
    if workers <= 1 or len(items) <= 1:
        if start is not None:
            start(*arguments)
        yield from map(work, items)
        return
    # spawn: a forked child would inherit Arrow's thread pools without their threads.
    pool = ProcessPoolExecutor(
        min(workers, len(items)), multiprocessing.get_context("spawn"), initializer=start, initargs=arguments
    )
    try:
        waiting: set[Future[_Result]] = set()
        queue = iter(items)
        while True:
            # Few items ahead: they are pickled when submitted.
            while len(waiting) < 2 * workers and (item := next(queue, None)) is not None:
                waiting.add(pool.submit(work, item))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died (out of memory?); run again, what is finished is kept, perhaps with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
