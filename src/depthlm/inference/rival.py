"""RivalBackend: a dense depth model answers questions about points; each is looked up in the map of its picture."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.inference.backend import Backend
from depthlm.inference.request import Answer
from depthlm.models.card import ModelCard
from depthlm.prompts import Prompt
from depthlm.reference import PixelText
from depthlm.rivals.file import told
from depthlm.view import ViewConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.inference.backend import Quantity
    from depthlm.inference.request import Request
    from depthlm.rivals import Rival
    from depthlm.tasks import Context, Task
    from depthlm.view import View

REFERENCE = "dense map"  # in the place of how a question points at a pixel
_WORDS = Prompt(
    name="none", questions={"text-pixels": "depth at ({x}, {y})", REFERENCE: "depth at ({x}, {y})"}, answer="{value}",
    language="nano",
)  # fmt: skip
_STRIKES = 3  # pictures in a row, from the first on, that a rival may fail before the run is given up
_KEPT = 4  # maps
_LONGEST = 1000.0  # metres; a median beyond it is another unit
_LEAST = 1e-3  # 1 / metres, of an aligned inverse depth


class RivalBackend(Backend):
    """Answers with the number that a rival's map has at the pixel.

    give_focal: hand it the true camera where it takes one. align: of a rival that tells inverse depth, fit scale and
    shift to the truths of each picture by least squares, which is a protocol of its own (`given` says so).
    A picture that the rival fails is answered by nothing, with the reason; the run goes on. Raises InputError where the
    rival cannot be asked so, and when it fails each of the first pictures.
    """

    def __init__(self, rival: Rival, *, give_focal: bool = False, align: bool = False) -> None:
        if rival.means == "inverse" and not align:
            raise InputError(
                f"{rival.name}: tells depth up to scale and shift only, not metres; take a metric checkpoint, or fit"
                " both to the truths of each picture with --align, which is another protocol"
            )
        if align and rival.means != "inverse":
            raise InputError(f"{rival.name}: tells metres; --align is for rivals that tell inverse depth, leave it out")
        if give_focal and rival.focal == "unused":
            raise InputError(f"{rival.name}: takes no focal length; leave --give-focal out")
        means: Quantity = "distance" if rival.means == "distance" else "z"
        card = ModelCard(
            geometry="native", grid=1, references=["text-pixels"], label=means, prompt="depthlm",
            tasks=["distance", "z"] if means == "z" else ["distance"], notes="a depth model; nothing is said to it",
        )  # fmt: skip
        super().__init__(card, ViewConfig(focal=card.focal, grid=1, geometry="native"), name=rival.name)
        self.prompt, self.reference = _WORDS, PixelText(name=REFERENCE)
        self.read = "none"  # there is no belief
        self.rival, self.align = rival, align
        self.give_focal = give_focal or rival.focal == "needed"
        self._worked, self._failed = False, 0
        self._known: OrderedDict[bytes, NDArray[np.float64] | str] = OrderedDict()

    @property
    def given(self) -> str:
        """The picture, its focal length, the truths of an alignment."""
        what = "the picture as it is"
        if self.give_focal:
            what += " and its true focal length"
        elif self.rival.focal == "optional":
            what += " (the focal length is its own estimate)"
        if self.align:
            what += "; scale and shift of its inverse depth are fitted to the truths of each picture (another protocol)"
        return what

    def identity(self) -> dict[str, Any]:
        """Its code, its weights, and what it is handed."""
        return {"name": "rival", **self.rival.identity, "give_focal": self.give_focal, "align": self.align}

    def request(
        self, context: Context, question: str, points: Sequence[int], task: Task, objects: Sequence[int] = ()
    ) -> Request:
        """Raises InputError for a task that is not about the depth of a point."""
        if task.name not in ("distance", "z"):
            raise InputError(f"{self.name}: a depth model is asked for distance or z, not for {task.name}")
        return super().request(context, question, points, task, objects)

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """The number at each point; none, with the reason, for the points of a picture that the rival failed."""
        answers = []
        found: dict[int, NDArray[np.float64] | str] = {}
        for request in requests:
            view = request.view
            if id(view) not in found:
                found[id(view)] = self._aligned(self._look(view.image, view.camera), view)
            answers.append(_answer(found[id(view)], request.uv[0]))
            if progress is not None:
                progress(1)
        return answers

    def depth_map(self, image: Image.Image, camera: Camera, *, budget: int) -> NDArray[np.float64]:
        """[H, W] z, NaN where it tells none; budget is not used. Raises InputError for a picture that it fails."""
        if self.align:
            raise InputError(f"{self.name}: an aligned map needs truths at points; leave --align or --maps out")
        found = self._look(image, camera)
        if isinstance(found, str):
            raise InputError(found)
        z = np.where(np.isfinite(found) & (found > 0), found, np.nan)
        if self.card.label == "z":
            return z
        v, u = np.mgrid[: image.height, : image.width]
        uv = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
        return np.asarray(z / camera.ray_factor(uv).reshape(z.shape))

    def _look(self, image: Image.Image, camera: Camera) -> NDArray[np.float64] | str:
        """The rival's map of a picture, or why there is none. Those of the last pictures are kept."""
        key = hashlib.sha256(image.tobytes() + repr(camera if self.give_focal else None).encode()).digest()
        if key not in self._known:
            self._known[key] = self._measure(image, camera)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[key]

    def _measure(self, image: Image.Image, camera: Camera) -> NDArray[np.float64] | str:
        try:
            found = check_map(self.rival.measure(image, camera if self.give_focal else None), image, self.rival.means)
        except Exception as error:  # somebody's code: whatever it raises is a picture failed
            reason = str(error) if isinstance(error, InputError) else f"raised {told(error)}"
            self._failed += 1
            if not self._worked and self._failed >= _STRIKES:
                raise InputError(f"{self.name}: failed each of the first {_STRIKES} pictures; {reason}") from error
            return reason
        self._worked = True
        return found

    def _aligned(self, found: NDArray[np.float64] | str, view: View) -> NDArray[np.float64] | str:
        if not self.align or isinstance(found, str):
            return found
        assert view.z is not None, "an evaluation knows the truths"
        return align_inverse(found, view.uv, view.z)


def check_map(found: Any, image: Image.Image, means: str) -> NDArray[np.float64]:
    """[H, W] as floats. Raises InputError for what is no map of the picture in metres (or inverse depth)."""
    import torch

    if isinstance(found, torch.Tensor):
        found = found.detach().float().cpu().numpy()
    expected = f"expected ({image.height}, {image.width}) numbers"
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        kind = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        raise InputError(f"returned {kind}; {expected}")
    if found.shape != (image.height, image.width):
        raise InputError(f"returned shape {found.shape} for a picture of {image.width}x{image.height}; {expected}")
    depth = found.astype(np.float64)
    known = depth[np.isfinite(depth)]
    if means == "inverse":
        if not len(known):
            raise InputError("returned no finite number")
        return depth
    if not (known > 0).any():
        raise InputError("returned no positive finite number; expected metres")
    if (middle := float(np.median(known[known > 0]))) > _LONGEST:
        raise InputError(f"returned {middle:.0f} in the middle; expected metres, are these millimetres?")
    return depth


def align_inverse(inverse: NDArray[np.float64], uv: NDArray[np.float64], z: NDArray[np.float64]) -> Any:
    """[H, W] inverse depth up to scale and shift -> z, by least squares of 1 / z at points; a reason if they are few.

    uv: [N, 2] pixels, z: [N] their true depths, metres. Source: MiDaS, arXiv 1907.01341, section 5.
    """
    x, y = _at(inverse, uv), 1 / z
    known = np.isfinite(x)
    if known.sum() < 2 or np.ptp(x[known]) == 0:
        return "scale and shift cannot be fitted: fewer than two different numbers at labelled points"
    design = np.stack([x[known], np.ones(int(known.sum()))], axis=1)
    scale, shift = np.linalg.lstsq(design, y[known], rcond=None)[0]
    return 1 / np.maximum(scale * inverse + shift, _LEAST)


def _at(depth: NDArray[np.float64], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] the numbers of the pixels that points [N, 2] lie on; none is mixed with its neighbours."""
    u, v = np.floor(uv + 0.5).astype(np.int64).T
    return depth[v.clip(0, depth.shape[0] - 1), u.clip(0, depth.shape[1] - 1)]


def _answer(found: NDArray[np.float64] | str, uv: NDArray[np.float64]) -> Answer:
    if isinstance(found, str):
        return Answer("", None, failed=found)
    number = float(_at(found, uv[None])[0])
    # Nothing was said; a number that is no length stands as text, where it is counted.
    return Answer("", number) if np.isfinite(number) and number > 0 else Answer(f"{number:g}", None)
