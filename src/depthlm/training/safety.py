"""A run that is stopped loses nothing: whole checkpoints or none, a signal that saves, a loss that must be a number."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from depthlm.errors import InputError, StoppedError

if TYPE_CHECKING:
    from types import FrameType

    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

SAVING = ".saving"  # where a checkpoint is written before it gets its name
KEPT = 2  # checkpoints


class StopOnSignal(TrainerCallback):
    """While it is entered, SIGTERM ends training after the running step, with a checkpoint of it.

    A signal that comes between two steps' work (a model is being saved, the next stage begins) counts for the next one.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():  # only that one can listen
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when asked to."""
        if self.received:
            control.should_save = control.should_training_stop = True

    def check(self, step: int, folder: Path) -> None:
        """Raises StoppedError when the training that has ended was told to."""
        if self.received:
            raise StoppedError(f"stopped by SIGTERM after step {step}, saved in {folder}; run the same again to go on")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True


def publish_checkpoint(folder: Path, name: str) -> None:
    """Give a checkpoint written below folder/SAVING its name, then remove all but the newest KEPT.

    A process that is killed while it writes leaves SAVING behind, which nothing resumes from.
    """
    written, final = folder / SAVING / name, folder / name
    shutil.rmtree(final, ignore_errors=True)  # a rerun of the same step
    written.rename(final)
    shutil.rmtree(folder / SAVING, ignore_errors=True)
    steps = sorted((int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*"))
    for _, path in steps[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def refuse_checkpoint(folder: Path, error: Exception) -> InputError:
    """What to raise when one cannot be written; nothing of it is left."""
    shutil.rmtree(folder / SAVING, ignore_errors=True)
    kept = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    last = f"the last good one is {kept[-1]}" if kept else "there was none before it"
    return InputError(f"cannot write a checkpoint into {folder} ({error}); {last}; make room and run the same again")


def refuse_loss(folder: Path, step: int, loss: float, inputs: dict[str, torch.Tensor]) -> InputError:
    """What to raise when the loss is no number; the batch that did it is saved for a look."""
    import torch

    path = folder / f"bad-batch-{step}.pt"
    torch.save({name: value.detach().cpu() for name, value in inputs.items()}, path)
    return InputError(
        f"loss is {loss} in step {step + 1}; its batch is saved in {path}: look at its labels, or lower the learning"
        " rate and run into another --out"
    )
