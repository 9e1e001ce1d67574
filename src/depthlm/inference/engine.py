"""Engine: questions about points in, numbers out. Batched greedy decoding for every model family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.errors import InputError
from depthlm.inference.interval import QUANTILES, Belief, NumberBeam, NumberVocabulary, find_number
from depthlm.models.card import READINGS
from depthlm.prompts import PROMPTS
from depthlm.reference import draw_marks, get_reference
from depthlm.tasks import Context, Subject, get_task
from depthlm.tasks.answers import METRES
from depthlm.view import View, make_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel
    from depthlm.objects import Box, LabelledObject
    from depthlm.reference import Reference
    from depthlm.tasks.answers import AnswerKind
    from depthlm.tasks.numbers import Reading

Quantity = Literal["distance", "z"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question about a view; uv: [K, 2] the pixels of the view that it is about, in the order it names them.

    boxes: the edges (u0, v0, u1, v1) of the objects, for a question about those.
    The requests about one image share their View object (but for points that needed padding), so that an engine may
    share the work on it: with text coordinates they differ in the question alone. kind: how its answer is read.
    """

    view: View
    uv: NDArray[np.float64]
    question: str
    reference: Reference
    kind: AnswerKind = METRES
    boxes: tuple[Box, ...] = ()

    def image(self) -> Image.Image:
        """What the model sees: the view with its markers drawn."""
        return draw_marks(self.reference, self.view.image, self.uv, self.boxes)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and the value it means in the terms of the request's kind (None: it states none).

    A length is metres in the meaning of the model's `depthlm.json`. low, high: 16 % and 84 % quantiles of the model's
    own, uncalibrated belief about a number; mass: its probability that a number comes at all. None when unknown.
    """

    text: str
    value: Any | None
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
        self.text = get_reference("text", card.coordinate_range, card.rounding, card.half_pixel)
        self.view_config = loaded.view_config
        self._vocabulary: NumberVocabulary | None = None

    # --- from points to questions -----------------------------------------------------------------------------------

    def requests(
        self, image: Image.Image, camera: Camera, uv: ArrayLike, *, ask: Quantity = "distance"
    ) -> list[Request]:
        """One request per point. uv: [N, 2] pixels of `image`, whose camera is given. ask: which question.

        All points share one view; a point whose marker does not fit there gets a view of its own, padded until it does.
        """
        task = get_task(ask)
        made = []
        for row, view in enumerate(self.views(image, camera, uv)):
            context, subject = self.context(view, row), Subject((row,))
            made.append(self.request(context, task.question(context, subject), subject.points, task.answer))
        return made

    def views(
        self,
        image: Image.Image,
        camera: Camera,
        uv: ArrayLike,
        z: ArrayLike | None = None,
        groups: Sequence[tuple[int, ...]] | None = None,
        objects: Sequence[LabelledObject] = (),
    ) -> list[View]:
        """For each group of rows of uv (default: each row) a view on which their markers fit; each holds all of uv.

        uv: [N, 2] pixels of `image`. z: [N] metres, or None. objects: of `image`; each view holds them all.
        """
        points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        shared = make_view(image, camera, points, z, config=self.view_config, objects=objects)
        made = []
        for group in [(row,) for row in range(len(points))] if groups is None else groups:
            rows, view = list(group), shared
            if not all(self.reference.fits(at, *shared.image.size) for at in shared.uv[rows]):
                padded = make_view(
                    image, camera, points[rows], config=self.view_config, margin=self.reference.margin, objects=objects
                )
                view = replace(padded, uv=padded.transform.forward(points), z=shared.z, index=shared.index)
            made.append(view)
        return made

    def context(
        self, view: View, point: int, *, seed: Sequence[int] = (0,), surface: tuple[str, ...] | None = None
    ) -> Context:
        """What a task asks about a row of view.uv (or view.objects), as this model is asked."""
        return Context(
            view=view, point=point, reference=self.reference, prompt=self.prompt, label=self.loaded.card.label,
            rng=np.random.default_rng(seed), text=self.text, surface=surface,
        )  # fmt: skip

    def request(
        self, context: Context, question: str, points: Sequence[int], kind: AnswerKind, objects: Sequence[int] = ()
    ) -> Request:
        """The question about these points, or these objects, of the context's view."""
        boxes = tuple(context.view.objects[row].box for row in objects)
        return Request(context.view, context.view.uv[list(points)], question, self.reference, kind, boxes)

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
        self,
        image: Image.Image,
        uv: ArrayLike,
        camera: Camera,
        *,
        answers: Quantity | None = None,
        wanted: Quantity = "distance",
    ) -> Measurement:
        """Measure points [N, 2] of an image.

        answers: what the model's numbers mean, default what its card says. wanted: which quantity matters; a model
        that was trained to tell z is asked for it then, and its z turned into a distance in place of the other way.
        """
        points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        ask = question_for(wanted, self.loaded.card, answers)
        replies = self.ask(self.requests(image, camera, points, ask=ask))
        meaning = "z" if ask == "z" else answers or self.loaded.card.label

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
            readings = [r.kind.locate(text) for r, text in zip(requests, texts, strict=True)]
            leaves: list[list[Any]] = [[] for _ in readings]
            if self.intervals or self.read != "greedy":
                leaves = self._leaves(output, inputs["attention_mask"], ids, readings)
        answers = []
        for request, text, reading, row in zip(requests, texts, readings, leaves, strict=True):
            if reading is None or not row:
                answers.append(Answer(text, request.kind.read(text)))
                continue
            belief, unit = Belief(row), reading.per_unit
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


def question_for(wanted: Quantity, card: ModelCard, answers: Quantity | None = None) -> Quantity:
    """Which question gives a quantity: z's own where the model was trained on it, else the one about distance.

    answers: what the distance question's answers mean, when the caller knows better than the card; then that is asked.
    """
    return "z" if wanted == "z" and "z" in card.tasks and answers is None else "distance"


def convert(
    values: Sequence[float | None], camera: Camera, uv: ArrayLike, *, source: Quantity, target: Quantity
) -> NDArray[np.float64]:
    """[N] metres of one quantity -> [N] of the other, at [N, 2] uv of the camera; None -> NaN."""
    metres = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if source == target:
        return metres
    factor = camera.ray_factor(uv)
    return metres * factor if target == "distance" else metres / factor
