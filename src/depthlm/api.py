"""The Python interface: load a model, measure points.

model = depthlm.load("nano")
camera = depthlm.Camera.from_fov(width=640, height=480, fov_x=60)
m = model.measure(image, [(320, 240), (10, 400)], camera)  # m.distance, m.xyz, m.low, m.high, m.text
dense = model.depth_map(image, camera, budget=2000)  # dense.z, dense.confidence
for found in model.measure_many("frames/", [(320, 240)], fov=60):  # found.path, found.measurement
    ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.inference.dense import BUDGET, DenseMap, cheapest_reference, depth_map
from depthlm.inference.engine import Engine
from depthlm.inference.images import open_image
from depthlm.inference.many import WORKERS, Measured, read_each
from depthlm.inference.map_files import PhotoMap, measure_map
from depthlm.inference.request import Measurement
from depthlm.inference.sources import Job, find_pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.inference.backend import Quantity
    from depthlm.models.loading import LoadedModel

__all__ = ["Measurer", "load"]


class Measurer:
    """A loaded model that measures points in pictures."""

    def __init__(self, loaded: LoadedModel, *, batch: int = 8) -> None:
        self.loaded = loaded
        self.batch = batch
        self._engines: dict[str | None, Engine] = {}

    def measure(
        self,
        image: Image.Image | ArrayLike | Path | str,
        uv: ArrayLike,
        camera: Camera,
        *,
        reference: str | None = None,
        answers: Quantity | None = None,
    ) -> Measurement:
        """Measure points [N, 2] (u, v) of a picture taken by `camera`.

        image: PIL picture, [H, W, 3] uint8 array, or file. reference: how points are referred to, default the model's
        preferred one. answers: what the model's numbers mean when its card is wrong.
        Raises InputError for a point outside the image, or a camera of another size.
        """
        return self._engine(reference).measure(open_image(image), uv, camera, answers=answers)

    def depth_map(
        self,
        image: Image.Image | ArrayLike | Path | str,
        camera: Camera,
        *,
        budget: int = BUDGET,
        reference: str | None = None,
        answers: Quantity | None = None,
        shape: NDArray[np.floating[Any]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> DenseMap:
        """Z of every pixel of a picture taken by `camera`, from `budget` questions (inference/dense.py).

        reference: default text where the model knows it, as one reading of the picture then serves all questions.
        shape: [H, W] of a relative-depth model, which then says what lies between the answers (inference/shape.py).
        progress: called with (questions asked, budget). Raises InputError for a budget below 1 or a camera of another
        size.
        """
        engine = self._engine(reference or cheapest_reference(self.loaded.card))
        return depth_map(
            engine, open_image(image), camera, budget=budget, answers=answers, shape=shape, progress=progress
        )

    def measure_many(
        self,
        images: Path | str | Iterable[Path | str],
        uv: ArrayLike | Mapping[Any, ArrayLike],
        *,
        reference: str | None = None,
        answers: Quantity | None = None,
        workers: int = WORKERS,
        on_bad: Callable[[Path, InputError], None] | None = None,
        **camera: Any,
    ) -> Iterator[Measured]:
        """Measure points in many pictures, one after the other, while the next ones are read.

        images: files, folders, globs. uv: [N, 2] pixels of every picture, or a mapping from each file, as named in
        `images`, to its own. camera: focal, fov, file, estimator or assume_fov for all, as in
        `camera_io.resolve_camera`; without any, each picture's EXIF. workers: threads that read. on_bad: told of a
        picture that cannot be used, which is left out; None raises its InputError when its turn comes.
        """
        engine = self._engine(reference)
        for photo in read_each(_jobs(images, uv), workers=workers, on_bad=on_bad, **camera):
            image, pinhole, points = photo.straight
            found = replace(engine.measure(image, points, pinhole, answers=answers), uv=photo.uv)
            yield Measured(photo.path, photo.resolved.camera, photo.resolved.reason, found)

    def depth_maps(
        self,
        images: Path | str | Iterable[Path | str],
        *,
        budget: int = BUDGET,
        reference: str | None = None,
        answers: Quantity | None = None,
        workers: int = WORKERS,
        on_bad: Callable[[Path, InputError], None] | None = None,
        **camera: Any,
    ) -> Iterator[PhotoMap]:
        """Depth maps of many pictures, one after the other; each has photo.path, dense, z, cloud() and save(file).

        Arguments as for `measure_many` and `depth_map`.
        """
        engine = self._engine(reference or cheapest_reference(self.loaded.card))
        for photo in read_each(_jobs(images, ()), workers=workers, on_bad=on_bad, **camera):
            yield measure_map(engine, photo, budget=budget, answers=answers)

    def _engine(self, reference: str | None) -> Engine:
        if reference not in self._engines:
            self._engines[reference] = Engine(self.loaded, reference=reference, batch=self.batch)
        return self._engines[reference]


def _jobs(images: Path | str | Iterable[Path | str], uv: ArrayLike | Mapping[Any, ArrayLike]) -> list[Job]:
    """Pictures with their points. Raises InputError for points that are no [N, 2], and a picture that has none."""
    jobs, _ = find_pictures([images] if isinstance(images, (str, Path)) else images)
    if not isinstance(uv, Mapping):
        shared = _pairs(uv)
        return [replace(job, uv=shared) for job in jobs]
    points = {str(name): _pairs(of) for name, of in uv.items()}
    without = [str(job.path) for job in jobs if str(job.path) not in points]
    if without:
        raise InputError(f"{without[0]}: has no points; name every picture as it is named among the images")
    return [replace(job, uv=points[str(job.path)]) for job in jobs]


def _pairs(uv: ArrayLike) -> tuple[tuple[float, float], ...]:
    points = np.asarray(uv, dtype=np.float64)
    if points.size and (points.ndim != 2 or points.shape[1] != 2):
        raise InputError(f"points have shape {points.shape}; expected (N, 2), pixels u and v")
    return tuple((float(u), float(v)) for u, v in points.reshape(-1, 2))


def load(
    model: Path | str, *, device: str = "cpu", dtype: str | None = None, revision: str | None = None, batch: int = 8
) -> Measurer:
    """Load a model: "nano", a folder, or a hub id. Raises InputError when there is none.

    device, dtype: as torch names them. batch: questions per forward pass.
    """
    from depthlm.models.loading import load_model

    return Measurer(load_model(str(model), device=device, dtype=dtype, revision=revision), batch=batch)
