"""Engine: questions about points in, numbers out. Greedy decoding for every model family, shared where it can be."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.errors import InputError
from depthlm.inference.interval import QUANTILES, Belief, NumberBeam, whole_step
from depthlm.inference.numbers import MOST_TOKENS, NumberEnds, NumberVocabulary, find_number
from depthlm.inference.request import Answer, Measurement, Request
from depthlm.models.card import READINGS
from depthlm.models.processor import ThinProcessor
from depthlm.prompts import PROMPTS
from depthlm.reference import COLOURS, Text, get_reference, group_apart
from depthlm.tasks import Context, Second, Subject, get_task
from depthlm.tasks.answers import METRES
from depthlm.view import View, make_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel
    from depthlm.objects import LabelledObject
    from depthlm.reference import Reference
    from depthlm.sample import Sample
    from depthlm.tasks import Task

Quantity = Literal["distance", "z"]
BATCH_MEM = 512.0  # MiB
BATCH_PATCHES = 4096  # of the pictures of one batch, where their attention is one


class Engine:
    """Asks one loaded model.

    batch: questions per forward pass. intervals: also report the 80 % interval, for a few more tokens. read:
    which number of the model's belief is the answer (card.READINGS), default what its card says; all but greedy
    cost the same few tokens, and fall back to the text where the belief is unknown.
    reference: name of the reference, default the model's preferred one. shares: whether questions about one picture
    share its reading; the answers are the same. forced: where a task's answers all begin alike, that beginning is given
    and decoding ends with the number; the number is the same wherever the model would have begun so by itself.
    decimals: digits after the point that are decoded when forced, default as many as the prompt writes. batch_mem: MiB
    that the questions about one picture, asked together, may take beside the picture. markers: most markers drawn on
    one view, each with its own question, default as many as the card says it was trained with.
    Raises InputError for a reference its prompt has no words for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        reference: str | None = None,
        batch: int = 8,
        intervals: bool = True,
        read: str | None = None,
        shares: bool = True,
        forced: bool = True,
        decimals: int | None = None,
        batch_mem: float = BATCH_MEM,
        markers: int | None = None,
    ) -> None:
        if batch < 1:
            raise InputError(f"batch is {batch}; expected at least 1")
        if decimals is not None and decimals < 0:
            raise InputError(f"--decimals is {decimals}; expected 0 or more")
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
        self.text = Text(coordinate_range=card.coordinate_range, rounding=card.rounding, half_pixel=card.half_pixel)
        self.view_config = loaded.view_config
        self.markers = loaded.card.markers_per_image if markers is None else markers
        if not 1 <= self.markers <= len(COLOURS):
            raise InputError(f"--markers is {self.markers}; expected 1 to {len(COLOURS)}, as many as there are colours")
        self.shares = shares and isinstance(getattr(loaded, "processor", None), ThinProcessor)
        if not batch_mem > 0:
            raise InputError(f"--batch-mem is {batch_mem}; expected a positive number of MiB")
        self.forced, self.decimals, self.batch_mem = forced, decimals, batch_mem

    # --- from points to questions -----------------------------------------------------------------------------------

    def requests(
        self, image: Image.Image, camera: Camera, uv: ArrayLike, *, ask: Quantity = "distance"
    ) -> list[Request]:
        """One request per point. uv: [N, 2] pixels of `image`, whose camera is given. ask: which question.

        All points share one view; a point whose marker does not fit there gets a view of its own, padded until it does.
        Of a model that was trained so, several markers stand on one copy of the view.
        """
        task = get_task(ask)
        if self.reference.kind == "marker" and self.markers > 1 and self.shares:
            return self._marked_together(image, camera, np.asarray(uv, dtype=np.float64).reshape(-1, 2), task)
        made = []
        for row, view in enumerate(self.views(image, camera, uv)):
            context, subject = self.context(view, row), Subject((row,))
            made.append(self.request(context, task.question(context, subject), subject.points, task))
        return made

    def _marked_together(
        self, image: Image.Image, camera: Camera, uv: NDArray[np.float64], task: Task
    ) -> list[Request]:
        """The same with several markers on a view; those that would cover each other stand on different copies."""
        views = self.views(image, camera, uv)
        shared = next(
            (view for row, view in enumerate(views) if self.reference.fits(view.uv[row], *view.image.size)), None
        )
        made: list[Request | None] = [None] * len(uv)
        together = [row for row, view in enumerate(views) if shared is not None and view.image is shared.image]
        groups = [] if shared is None else group_apart(shared.uv[together], self.markers, 2 * self.reference.margin + 1)
        alone = [[row] for row in range(len(uv)) if row not in set(together)]
        for group in [[together[k] for k in group] for group in groups] + alone:
            for mark, row in enumerate(group):
                context = self.context(views[row], row)
                if len(group) > 1:
                    context = replace(context, mark=mark)
                asked = self.request(context, task.question(context, Subject((row,))), group, task)
                made[row] = replace(asked, shares_markers=len(group) > 1)
        return [request for request in made if request is not None]

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
            if not self.reference.which_fit(shared.uv[rows], *shared.image.size).all():
                padded = make_view(
                    image, camera, points[rows], config=self.view_config, margin=self.reference.margin, objects=objects
                )
                view = replace(padded, uv=padded.transform.forward(points), z=shared.z, index=shared.index)
            made.append(view)
        return made

    def second(self, first: Sample, first_view: View, sample: Sample) -> Second:
        """The second picture of a pair of samples, as this model sees it."""
        return Second.of(first, first_view, sample, self.whole_view(sample.load_image(), sample.camera))

    def whole_view(self, image: Image.Image, camera: Camera) -> View:
        """A view of a picture of which no point is asked."""
        return make_view(image, camera, np.empty((0, 2)), config=self.view_config)

    def context(
        self,
        view: View,
        point: int,
        *,
        seed: Sequence[int] = (0,),
        surface: tuple[str, ...] | None = None,
        second: Second | None = None,
    ) -> Context:
        """What a task asks about a row of view.uv (or view.objects), as this model is asked."""
        return Context(
            view=view, point=point, reference=self.reference, prompt=self.prompt, label=self.loaded.card.label,
            rng=np.random.default_rng(seed), text=self.text, surface=surface, second=second,
        )  # fmt: skip

    def request(
        self, context: Context, question: str, points: Sequence[int], task: Task, objects: Sequence[int] = ()
    ) -> Request:
        """A task's question about these points, or these objects, of the context's view, or about its two views."""
        second = None if context.second is None else context.second.view
        boxes = tuple(context.view.objects[row].box for row in objects)
        uv, lead = context.view.uv[list(points)], task.lead(context) if self.forced else None
        return Request(context.view, uv, question, self.reference, task.answer, second, boxes, lead)

    # --- from questions to answers ----------------------------------------------------------------------------------

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests. progress: called with the number of answers that have come in.

        Requests that show the same picture share its reading (inference/prefix.py); the others go through the model
        whole, `batch` at a time.
        """
        together: dict[Any, list[int]] = {}
        for number, request in enumerate(requests):
            together.setdefault(self._alike(request), []).append(number)
        answers: dict[int, Answer] = {}
        for (picture, _), numbers in together.items():
            size = len(numbers) if picture is not None and len(numbers) > 1 else self._batch_size(requests[numbers[0]])
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                asked = [requests[number] for number in part]
                shared = self._ask_shared(asked) if picture is not None and len(asked) > 1 else None
                answers |= zip(part, self._ask_batch(asked) if shared is None else shared, strict=True)
                if progress is not None:
                    progress(len(part))
        return [answers[number] for number in range(len(requests))]

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

    def _batch_size(self, request: Request) -> int:
        """Questions of their own picture each that go through the model together.

        Pixtral's vision tower attends over all pictures of a batch at once, masked: its cost grows with the square of
        their patches together, so that large pictures go alone.
        """
        processor = getattr(self.loaded, "processor", None)
        if not isinstance(processor, ThinProcessor) or processor.family.images != "planes":
            return self.batch
        patches = sum(image.width * image.height for image in request.images()) // processor.patch**2
        return max(1, min(self.batch, BATCH_PATCHES // max(1, patches)))

    def _alike(self, request: Request) -> tuple[Any, str | None]:
        """What requests that are asked together have in common: the picture (None: it shows one of its own), and what
        their answers begin with.
        """
        alone = request.second is not None or not self.shares
        if alone or not (request.reference.kind == "text" or request.shares_markers):
            return None, request.lead
        return (id(request.view.image), request.uv.tobytes() if request.shares_markers else None), request.lead

    @property
    def widen(self) -> float:
        """What the model's own intervals for points are widened by at either end; 1 where it is not calibrated."""
        return math.exp(self.loaded.card.calibration.get(self.reference.name, 0.0))

    @property
    def calibrated(self) -> bool:
        """Whether intervals for points keep their promise on points like those it was calibrated on."""
        return self.reference.name in self.loaded.card.calibration

    @cached_property
    def vocabulary(self) -> NumberVocabulary:
        """The tokens that write numbers."""
        return NumberVocabulary(self.loaded.processor.tokenizer)

    def _complete(self, number: str) -> bool:
        """Whether a number has all the digits that are decoded."""
        _, point, digits = number.partition(".")
        enough = bool(point) and self.decimals is not None and len(digits) >= self.decimals
        return enough or self.prompt.complete(number)

    def _ask_shared(self, requests: Sequence[Request]) -> list[Answer] | None:
        """Requests that show one picture; None when their texts differ before the picture is complete."""
        from depthlm.inference.prefix import PrefixReader, common_length

        model, processor = self.loaded.model, self.loaded.processor
        assert isinstance(processor, ThinProcessor), "others share nothing"
        first = processor.encode(requests[0].images(), requests[0].question, None, self.prompt.system)
        lead = requests[0].lead
        given = [] if lead is None else processor.lead_tokens(lead, self.prompt.system)
        rows = [
            processor.encode_ids(first.images, request.question, self.prompt.system) + given for request in requests
        ]
        length = common_length(rows)
        if processor.image_token_id in rows[0][length:]:
            return None
        reader = PrefixReader(model, mrope=processor.family.mrope, batch_mem=self.batch_mem)
        prefix = reader.read(first, length)
        own = [row[length:] for row in rows]
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [processor.end_id if ends is None else ends]
        answers: list[Answer] = []
        size = reader.chunk(prefix, max(map(len, own)))
        for start in range(0, len(own), size):
            part = own[start : start + size]
            decoded = reader.decode(
                prefix, part, pad=processor.pad_id, ends=ends,
                most=self.loaded.card.max_new_tokens if lead is None else MOST_TOKENS,
                number=None if lead is None else (self.vocabulary, self._complete),
            )  # fmt: skip
            answers += self._read(
                requests[start : start + size], decoded.sequences, decoded.mask, decoded.cache,
                lambda tokens, mask, cache, repeats: reader.step(prefix, tokens, mask, cache),
            )  # fmt: skip
        return answers

    def _ask_batch(self, requests: Sequence[Request]) -> list[Answer]:
        """One padded batch through `generate`; padding is on the left and masked, so the others do not matter."""
        import torch

        model, processor = self.loaded.model, self.loaded.processor
        lead = requests[0].lead
        encoded = [
            processor.encode(r.images(), r.question, None, self.prompt.system, prefill=lead or "") for r in requests
        ]
        inputs = processor.collate(encoded, pad="left")
        inputs.pop("labels", None)
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        limits: dict[str, Any] = {"max_new_tokens": self.loaded.card.max_new_tokens}
        if lead is not None:
            ends = NumberEnds(self.vocabulary, inputs["input_ids"].shape[1], self._complete)
            limits = {"max_new_tokens": MOST_TOKENS, "stopping_criteria": [ends]}
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                **limits,
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=True,
            )
        return self._read(
            requests, output.sequences, inputs["attention_mask"], output.past_key_values, whole_step(model)
        )

    def _read(
        self, requests: Sequence[Request], sequences: torch.Tensor, prompt_mask: torch.Tensor, cache: Any, step: Any
    ) -> list[Answer]:
        """Texts and beliefs. sequences: [B, P + T], prompt_mask: [B, P], cache of the first P + T - 1 tokens."""
        import torch

        tokenizer = self.loaded.processor.tokenizer
        ids: list[list[int]] = sequences[:, prompt_mask.shape[1] :].tolist()
        lead = requests[0].lead
        if lead is not None:  # what follows the number is no part of the answer
            ids = [row[: self.vocabulary.number(row, self._complete)[0] or len(row)] for row in ids]
        texts = [(lead or "") + tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        readings = [r.kind.locate(text) for r, text in zip(requests, texts, strict=True)]
        leaves: list[list[Any]] = [[] for _ in readings]
        if self.intervals or self.read != "greedy":
            starts = [
                None if reading is None else find_number(tokenizer, row, reading.literal, self.vocabulary)
                for row, reading in zip(ids, readings, strict=True)
            ]
            with torch.inference_mode():
                leaves = NumberBeam(step, self.vocabulary).leaves(sequences, prompt_mask, cache, starts)
        answers = []
        for request, text, reading, row in zip(requests, texts, readings, leaves, strict=True):
            if reading is None or not row:
                answers.append(Answer(text, request.kind.read(text)))
                continue
            belief, unit = Belief(row), reading.per_unit
            value = reading.value if self.read == "greedy" else belief.read(self.read) * unit
            about_point = request.kind is METRES and (len(request.uv) == 1 or request.shares_markers)
            wider = self.widen if about_point and request.second is None else 1.0
            low, high = (belief.quantile(level) * unit for level in QUANTILES)
            answers.append(Answer(text, value, low / wider, high * wider, belief.mass))
        return answers


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
