"""The Python interface: load a model, measure points.

model = depthlm.load("nano")
camera = depthlm.Camera.from_fov(width=640, height=480, fov_x=60)
m = model.measure(image, [(320, 240), (10, 400)], camera)  # m.distance, m.xyz, m.low, m.high, m.text
dense = model.depth_map(image, camera, budget=2000)  # dense.z, dense.confidence
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.inference.dense import BUDGET, DenseMap, cheapest_reference, depth_map
from depthlm.inference.engine import Engine
from depthlm.inference.images import open_image
from depthlm.inference.request import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
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

    def _engine(self, reference: str | None) -> Engine:
        if reference not in self._engines:
            self._engines[reference] = Engine(self.loaded, reference=reference, batch=self.batch)
        return self._engines[reference]


def load(
    model: Path | str, *, device: str = "cpu", dtype: str | None = None, revision: str | None = None, batch: int = 8
) -> Measurer:
    """Load a model: "nano", a folder, or a hub id. Raises InputError when there is none.

    device, dtype: as torch names them. batch: questions per forward pass.
    """
    from depthlm.models.loading import load_model

    return Measurer(load_model(str(model), device=device, dtype=dtype, revision=revision), batch=batch)
