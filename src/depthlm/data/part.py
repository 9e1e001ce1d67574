"""Part: fewer pictures of a data set, or fewer labels of each; the same ones every time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError

if TYPE_CHECKING:
    from depthlm.sample import Sample, Samples


class Part:
    """A sequence of samples made from another.

    pictures: how many are kept, spread evenly from the first to the last. labels: most labelled points of each; which
    ones follows from the picture's number alone, so that every run sees the same. in_memory: read all at once, so that
    processes that fork later share them. name: for messages. Raises InputError where fewer pictures are there.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        pictures: int | None = None,
        labels: int | None = None,
        in_memory: bool = False,
        name: str = "data",
    ) -> None:
        total = len(samples)
        if pictures is not None and pictures > total:
            raise InputError(f"{name} holds {total} pictures, fewer than the {pictures} asked for; lower pictures")
        self.rows: list[int] = np.linspace(0, total, pictures or total, endpoint=False).astype(int).tolist()
        self.samples, self.labels = samples, labels
        self.info: dict[str, Any] = getattr(samples, "info", {})
        self.skipped: list[str] = getattr(samples, "skipped", [])
        self._held = [self._make(row) for row in self.rows] if in_memory else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`. Raises what the other sequence raises."""
        return self._make(self.rows[index]) if self._held is None else self._held[index]

    def _make(self, row: int) -> Sample:
        sample = self.samples[row]
        if self.labels is None or len(sample) <= self.labels:
            return sample
        kept = np.sort(np.random.default_rng([row, 0x6C]).permutation(len(sample))[: self.labels])
        return replace(
            sample,
            uv=sample.uv[kept],
            z=sample.z[kept],
            surface=None if sample.surface is None else tuple(sample.surface[k] for k in kept),
            near_edge=None if sample.near_edge is None else sample.near_edge[kept],
            incidence=None if sample.incidence is None else sample.incidence[kept],
        )
