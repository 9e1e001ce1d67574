"""SIGTERM ends a run with everything saved. Nothing heavy is imported here: a run listens from its first moment."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from depthlm.errors import StoppedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from depthlm.training.ranks import Ranks


class StopOnSignal:
    """While it is entered, SIGTERM is noted; who trains asks for it where a run can stop with everything saved.

    Of several processes one that hears it is enough: they agree whenever they ask, so that all stop at the same place.
    """

    def __init__(self) -> None:
        self.received = False  # in this process
        self.agreed = False  # by all
        self._before: Any = None

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():  # only that one can listen
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def asked(self, ranks: Ranks) -> bool:
        """Whether any process of the run was told to stop; all must ask."""
        self.agreed = ranks.any(self.received)
        return self.agreed

    def between_stages(self, ranks: Ranks, out: Path) -> None:
        """Raises StoppedError when told to stop while nothing trains: what is in the run folder is whole."""
        if self.asked(ranks):
            raise StoppedError(f"stopped by SIGTERM between two steps of {out}; run the same again to go on")

    def after_step(self, step: int, folder: Path) -> None:
        """Raises StoppedError when the training that has ended was told to, with a checkpoint of its last step."""
        if self.agreed:
            raise StoppedError(f"stopped by SIGTERM after step {step}, saved in {folder}; run the same again to go on")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True


@contextmanager
def children_ignore_sigterm() -> Iterator[None]:
    """Processes that are started in this block never hear SIGTERM, and this one hears it when the block ends.

    A signal to the whole process group (Slurm, `timeout`) is for the process that saves: it would end the loaders
    first, and their end would end the run unsaved.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
