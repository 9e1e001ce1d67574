"""Engine: questions about points in, numbers out. Batched greedy decoding for every model family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.errors import InputError
from depthlm.inference.interval import QUANTILES, Belief, NumberBeam, NumberVocabulary, find_number
from depthlm.inference.numbers import Reading, read_answer
from depthlm.models.card import READINGS
from depthlm.prompts import PROMPTS
from depthlm.reference import get_reference
from depthlm.view import View, make_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.models.loading import LoadedModel
    from depthlm.reference import Reference

Quantity = Literal["distance", "z"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question about one point of a view; uv: [2] pixels of the view.

    The requests about one image share their View object (but for points that needed padding), so that an engine may
    share the work on it: with text coordinates they differ in the question alone.
    """

    view: View
    uv: NDArray[np.float64]
    question: str
    reference: Reference

    def image(self) -> Image.Image:
        """What the model sees: the view, with the marker drawn when the reference is one."""
        return self.reference.draw(self.view.image, self.uv)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and the number it means, metres in the meaning of its `depthlm.json` (None: no number).

    low, high: 16 % and 84 % quantiles of the model's own, uncalibrated belief; mass: its probability that a number
    comes at all. All three None when unknown.
    """

    text: str
    value: float | None
    low: float | None = None
    high: float | None = None
    mass: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """Measured points: everything [N], lengths in metres, NaN where the answer holds no number.

    uv: [N, 2] original pixels. distance from the camera centre; z along the principal axis; xyz: [N, 3] camera frame.
    low, high: uncalibrated interval of `distance`. text: the raw answers.
    """

    uv: NDArray[np.float64]
    distance: NDArray[np.float64]
    z: NDArray[np.float64]
    xyz: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    text: list[str]


class Engine:
    """Asks one loaded model.

    batch: questions per forward pass. intervals: also report the uncalibrated interval, for a few more tokens. read:
    which number of the model's belief is the answer (card.READINGS), default what its card says; all but greedy
    cost the same few tokens, and fall back to the text where the belief is unknown.
    reference: name of the reference, default the model's preferred one. Raises InputError for one its prompt has no
    words for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        reference: str | None = None,
        batch: int = 8,
        intervals: bool = True,
        read: str | None = None,
    ) -> None:
        if batch < 1:
            raise InputError(f"batch is {batch}; expected at least 1")
        self.read = read or loaded.card.read
        if self.read not in READINGS:
            raise InputError(f"--read is {self.read!r}; expected one of {', '.join(READINGS)}")
        self.loaded, self.batch, self.intervals = loaded, batch, intervals
        card = loaded.card
        self.prompt = PROMPTS[card.prompt]
        self.reference: Reference = get_reference(
            reference or card.references[0], card.coordinate_range, card.rounding, card.half_pixel
        )
        if not self.prompt.supports(self.reference):
            raise InputError(
                f"{loaded.path}: prompt {self.prompt.name!r} has no question for reference {self.reference.name!r}; "
                f"this model was trained with {', '.join(card.references)}"
            )
        self.view_config = loaded.view_config
        self._vocabulary: NumberVocabulary | None = None

    # --- from points to questions -----------------------------------------------------------------------------------

    def requests(self, image: Image.Image, camera: Camera, uv: ArrayLike) -> list[Request]:
        """One request per point. uv: [N, 2] pixels of `image`, whose camera is given.

        All points share one view; a point whose marker does not fit there gets a view of its own, padded until it does.
        """
        points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        shared = make_view(image, camera, points, config=self.view_config)
        made = []
        for i in range(len(points)):
            view, at = shared, shared.uv[i]
            if not self.reference.fits(at, view.image.width, view.image.height):
                view = make_view(image, camera, points[i], config=self.view_config, margin=self.reference.margin)
                at = view.uv[0]
            made.append(Request(view, at, self.prompt.question(self.reference, at, view.camera), self.reference))
        return made

    # --- from questions to answers ----------------------------------------------------------------------------------

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests. progress: called with the number of answers that have come in."""
        answers: list[Answer] = []
        for start in range(0, len(requests), self.batch):
            part = requests[start : start + self.batch]
            answers += self._ask_batch(part)
            if progress is not None:
                progress(len(part))
        return answers

    def measure(
        self, image: Image.Image, uv: ArrayLike, camera: Camera, *, answers: Quantity | None = None
    ) -> Measurement:
        """Measure points [N, 2] of an image. answers: what the model's numbers mean, default what its card says."""
        points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        replies = self.ask(self.requests(image, camera, points))
        meaning = answers or self.loaded.card.label

        def column(name: str, quantity: Quantity) -> NDArray[np.float64]:
            raw = [getattr(reply, name) for reply in replies]
            return convert(raw, camera, points, source=meaning, target=quantity)

        z = column("value", "z")
        return Measurement(
            uv=points,
            distance=column("value", "distance"),
            z=z,
            xyz=camera.unproject(points, z),
            low=column("low", "distance"),
            high=column("high", "distance"),
            text=[reply.text for reply in replies],
        )

    def _ask_batch(self, requests: Sequence[Request]) -> list[Answer]:
        """One padded batch through `generate`; padding is on the left and masked, so the others do not matter."""
        import torch

        model, processor = self.loaded.model, self.loaded.processor
        encoded = [processor.encode([r.image()], r.question, None, self.prompt.system) for r in requests]
        inputs = processor.collate(encoded, pad="left")
        inputs.pop("labels", None)
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=self.loaded.card.max_new_tokens,
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=True,
            )
            ids = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
            texts = [processor.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
            readings = [read_answer(text) for text in texts]
            leaves: list[list[Any]] = [[] for _ in readings]
            if self.intervals or self.read != "greedy":
                leaves = self._leaves(output, inputs["attention_mask"], ids, readings)
        answers = []
        for text, reading, row in zip(texts, readings, leaves, strict=True):
            if reading is None or not row:
                answers.append(Answer(text, None if reading is None else reading.value))
                continue
            belief, unit = Belief(row), reading.metres_per_unit
            value = reading.value if self.read == "greedy" else belief.read(self.read) * unit
            low, high = (belief.quantile(level) * unit for level in QUANTILES)
            answers.append(Answer(text, value, low, high, belief.mass))
        return answers

    def _leaves(
        self, output: Any, prompt_mask: Any, ids: list[list[int]], readings: list[Reading | None]
    ) -> list[list[Any]]:
        tokenizer = self.loaded.processor.tokenizer
        if self._vocabulary is None:
            self._vocabulary = NumberVocabulary(tokenizer)
        starts = [
            None if reading is None else find_number(tokenizer, row, reading.literal, self._vocabulary)
            for row, reading in zip(ids, readings, strict=True)
        ]
        beam = NumberBeam(self.loaded.model, self._vocabulary)
        return beam.leaves(output.sequences, prompt_mask, output.past_key_values, starts)


def convert(
    values: Sequence[float | None], camera: Camera, uv: ArrayLike, *, source: Quantity, target: Quantity
) -> NDArray[np.float64]:
    """[N] metres of one quantity -> [N] of the other, at [N, 2] uv of the camera; None -> NaN."""
    metres = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if source == target:
        return metres
    factor = camera.ray_factor(uv)
    return metres * factor if target == "distance" else metres / factor
