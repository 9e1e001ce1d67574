"""A run that is stopped loses nothing: whole checkpoints or none, the last step saved, a loss that must be a number."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from depthlm.errors import InputError
from depthlm.training.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from depthlm.training.stopping import StopOnSignal

SAVING = ".saving"  # where a checkpoint is written before it gets its name
KEPT = 2  # checkpoints
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StopAfterStep(TrainerCallback):
    """Ends training after the running step, with a checkpoint of it, when `stop` was told to."""

    def __init__(self, stop: StopOnSignal) -> None:
        self.stop, self.ranks = stop, Ranks()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when asked to."""
        if self.stop.asked(self.ranks):
            control.should_save = control.should_training_stop = True


def publish_checkpoint(folder: Path, name: str) -> None:
    """Give a checkpoint written below folder/SAVING its name, then remove all but the newest KEPT.

    A process that is killed while it writes or removes leaves SAVING behind, which nothing resumes from.
    """
    saving, final = folder / SAVING, folder / name
    if final.exists():  # a rerun of the same step
        final.rename(saving / f"old-{name}")
    (saving / name).rename(final)
    steps = sorted((int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*"))
    for _, path in steps[:-KEPT]:
        path.rename(saving / path.name)  # half a checkpoint has no checkpoint's name
    shutil.rmtree(saving, ignore_errors=True)


def refuse_checkpoint(folder: Path, error: Exception) -> InputError:
    """What to raise when one cannot be written into a stage's folder; nothing of it is left."""
    free = shutil.disk_usage(folder).free / 2**20  # torch does not say that the disk is full
    shutil.rmtree(folder / SAVING, ignore_errors=True)
    return InputError(
        f"cannot write a checkpoint into {folder} ({error}; {free:.1f} MiB free); {_last_good(folder.parent)}"
    )


def _last_good(out: Path) -> str:
    kept = sorted(out.glob("*/checkpoint-*"), key=lambda path: path.stat().st_mtime)
    last = f"the last good one is {kept[-1]}" if kept else "there was no checkpoint before it"
    return f"{last}; make room and run the same again"


@contextmanager
def full_disk(out: Path) -> Iterator[None]:
    """A disk that is full, whatever of the run in `out` was being written: InputError naming the last checkpoint."""
    hook = threading.excepthook
    # TensorBoard writes in a thread; what fails there is raised again in this one at its next line.
    threading.excepthook = lambda args: None if _is_full(args.exc_value) else hook(args)
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise
        reason = error.strerror or os.strerror(errno.ENOSPC)
        raise InputError(f"cannot write into {out} ({reason}); {_last_good(out)}") from error
    finally:
        for thread in threading.enumerate():
            if getattr(thread, "exception", None) is not None:  # TensorBoard's, on its way to its hook
                thread.join(1)
        threading.excepthook = hook


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, shutil.Error):  # of a folder's copy; holds a line for each file
        return any(os.strerror(number) in str(error) for number in _FULL)
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """An InputError from a loader process comes wrapped in its traceback: raise it as the one line that it was."""
    try:
        yield
    except InputError as error:
        lines = error.whole.splitlines()
        if len(lines) < 2:
            raise
        raise InputError(lines[-1].partition(": ")[2]) from error


def refuse_loss(folder: Path, step: int, loss: float, inputs: dict[str, torch.Tensor]) -> InputError:
    """What to raise when the loss is no number; the batch that did it is saved for a look."""
    import torch

    path = folder / f"bad-batch-{step}.pt"
    try:
        torch.save({name: value.detach().cpu() for name, value in inputs.items()}, path)
        where = f"is saved in {path}"
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        where = f"cannot be saved in {path} ({error})"
    return InputError(
        f"loss is {loss} in step {step + 1}; its batch {where}: look at its labels, or lower the learning rate and run"
        " into another --out"
    )
