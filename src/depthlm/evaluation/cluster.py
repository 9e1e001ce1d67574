"""An evaluation on several machines: each worker of a Ray cluster loads the model and the data, and asks whole parts.

Parts are what a run is made of anyway (evaluator.py), and what is asked depends on the point alone, so that the records
are those of one machine; the process that started the run writes them as they come in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlm.cluster import connected
from depthlm.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from depthlm.evaluation.evaluator import EvaluationConfig


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """What every worker needs. All machines see the model and the data under the same paths.

    address: of the cluster; "local" starts one here. model, device, dtype, revision: as for `load_model`; device None
    takes a GPU where the cluster has them, one for each worker, else one core for each.
    data, images, label, skip_bad: as for `open_data`.
    """

    address: str
    model: str
    data: Path
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    images: Path | None = None
    label: Any = None
    skip_bad: bool = False

    def __call__(
        self, config: EvaluationConfig, parts: dict[int, NDArray[np.int64]]
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """(part, its records) as they come in. Raises what a worker raises, and BackendError when one dies."""
        if not parts:
            return
        with connected(self.address) as ray:
            gpus = int(ray.cluster_resources().get("GPU", 0)) if self.device is None else 0
            share = {"num_gpus": 1} if gpus else {"num_cpus": 1}
            count = min(len(parts), gpus or max(1, int(ray.cluster_resources().get("CPU", 1))))
            device = self.device or ("cuda" if gpus else "cpu")
            workers = [ray.remote(_Worker).options(**share).remote(self, config, device) for _ in range(count)]
            queue = iter(parts.items())
            waiting = {worker.ask.remote(*part): worker for worker, part in zip(workers, queue, strict=False)}
            try:
                while waiting:
                    (finished,), _ = ray.wait(list(waiting), num_returns=1)
                    worker = waiting.pop(finished)
                    result = ray.get(finished)
                    if (part := next(queue, None)) is not None:
                        waiting[worker.ask.remote(*part)] = worker
                    yield result
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayActorError as error:
                raise BackendError(
                    f"--ray {self.address}: a worker died ({_short(error)}); what was answered is kept with --out, run"
                    " the same command again to go on"
                ) from None


class _Worker:
    """One process of the cluster."""

    def __init__(self, job: OnRay, config: EvaluationConfig, device: str) -> None:
        from depthlm.data import open_data
        from depthlm.evaluation.asking import make_engine
        from depthlm.models.loading import load_model

        loaded = load_model(job.model, device=device, dtype=job.dtype, revision=job.revision)
        self.engine, self.config = make_engine(loaded, config), config
        self.data = open_data(job.data, images=job.images, label=job.label, skip_bad=job.skip_bad)

    def ask(self, number: int, rows: NDArray[np.int64]) -> tuple[int, list[dict[str, Any]]]:
        """The records of one part."""
        from depthlm.evaluation.asking import ask_parts

        return next(ask_parts(self.engine, self.data, {number: rows}, self.config))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
