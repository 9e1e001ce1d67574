"""Several processes that train one model (torchrun, accelerate launch): one writes, the others wait for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Ranks:
    """The processes of this run; alone without WORLD_SIZE in the environment.

    world: how many. main: whether this is the one that writes.
    """

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self._state: Any = None
        if self.world > 1:
            import torch
            from accelerate import PartialState

            self._state = PartialState(cpu=not torch.cuda.is_available())  # as TrainingArguments will ask for it

    @property
    def main(self) -> bool:
        """True in exactly one process."""
        return self._state is None or bool(self._state.is_main_process)

    def any(self, flag: bool) -> bool:
        """Whether it is true in at least one process; all must ask."""
        return bool(self.most(int(flag)))

    def most(self, number: int) -> int:
        """The largest of the processes' numbers; all must ask."""
        if self._state is None:
            return number
        import torch
        from torch.distributed import ReduceOp, all_reduce

        all_reduce(there := torch.tensor(number, device=self._state.device), ReduceOp.MAX)
        return int(there.item())

    def first(self, work: Callable[[], Any]) -> None:
        """Let the main process do something while the others wait."""
        if self.main:
            work()
        if self._state is not None:
            self._state.wait_for_everyone()
