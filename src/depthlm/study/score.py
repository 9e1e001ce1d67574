"""One test of one trained arm: how many points of each room were answered within the factor of delta1."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.points import choose_points
from depthlm.evaluation.runs import POINTS
from depthlm.inference.words import read_words, sample_cells
from depthlm.metrics import is_correct
from depthlm.view import make_view

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Sample, Samples
    from depthlm.study.plan import Test

_BATCH = 64


@dataclass(frozen=True)
class Miscalibrated:
    """The samples with cameras whose focal lengths are wrong by a share; z stays true, it needs none."""

    samples: Samples
    error: float

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, its camera off."""
        sample = self.samples[index]
        camera = sample.camera
        wrong = replace(camera, fx=camera.fx * (1 + self.error), fy=camera.fy * (1 + self.error))
        return replace(sample, camera=wrong, objects=())


def score_arm(loaded: LoadedModel, samples: Samples, test: Test, points: int, folder: Path) -> dict[str, Any]:
    """delta1, AbsRel, the median of log(answer / truth), and hits and points of each room, in order.

    folder: where `depthlm eval`'s own evaluator leaves its files meanwhile.
    """
    data = Miscalibrated(samples, test.focal_error) if test.focal_error else samples
    if test.native:
        loaded = replace(loaded, card=replace(loaded.card, geometry="native"))
    if test.words:
        image, value, truth = _read_all(loaded, data, points)
    else:
        config = EvaluationConfig(
            task="z", points=points, reference=test.reference or loaded.card.references[0], read=test.read,
            intervals=False, batch=_BATCH,
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        evaluate(loaded, data, config, out=folder)
        image, value, truth = _read_points(folder / POINTS)
    correct = is_correct(value, truth)
    scenes = [samples[i].scene for i in range(len(samples))]
    rooms, room = np.unique(np.array(scenes)[image], return_inverse=True)
    known = np.isfinite(value) & (value > 0)
    return {
        "delta1": round(float(correct.mean()), 4),
        "absrel": round(float(np.mean(np.abs(value[known] - truth[known]) / truth[known])), 4) if known.any() else None,
        "bias": round(float(np.median(np.log(value[known] / truth[known]))), 4) if known.any() else None,
        "unread": int((~np.isfinite(value)).sum()),
        "hits": np.bincount(room, weights=correct, minlength=len(rooms)).astype(int).tolist(),
        "asked": np.bincount(room, minlength=len(rooms)).tolist(),
    }


def _read_points(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """[N] image, answer (NaN for none) and truth of an evaluation."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["image", "value", "truth"]).to_pydict()
    value = np.array([np.nan if v is None else v for v in table["value"]], dtype=np.float64)
    return np.array(table["image"]), value, np.array([json.loads(t) for t in table["truth"]], dtype=np.float64)


def _read_all(
    loaded: LoadedModel, samples: Samples, points: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The same points, read off the image tokens."""
    chosen = choose_points([len(samples[i]) for i in range(len(samples))], points, 0)
    values, truths = [], []
    for index in np.unique(chosen[:, 0]).tolist():
        rows = chosen[chosen[:, 0] == index, 1]
        sample = samples[index]
        view = make_view(sample.load_image(), sample.camera, sample.uv[rows], config=loaded.view_config)
        metres = sample_cells(read_words(loaded, view), view.uv, loaded.view_config.grid)
        values.append(metres / view.camera.ray_factor(view.uv) if loaded.card.label == "distance" else metres)
        truths.append(sample.z[rows])
    return chosen[:, 0], np.concatenate(values), np.concatenate(truths)
