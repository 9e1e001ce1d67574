"""Backend: the questions that a model was trained to be asked, made from points; whoever answers them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from depthlm.errors import InputError
from depthlm.inference.interval import QUANTILES, Belief
from depthlm.inference.request import Answer, Measurement, Request
from depthlm.models.card import READINGS
from depthlm.prompts import PROMPTS
from depthlm.reference import COLOURS, Text, get_reference, group_apart
from depthlm.tasks import Context, Second, Subject, get_task
from depthlm.tasks.answers import METRES
from depthlm.view import View, ViewConfig, make_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.inference.interval import Leaf
    from depthlm.models.card import ModelCard
    from depthlm.objects import LabelledObject
    from depthlm.reference import Reference
    from depthlm.sample import Sample
    from depthlm.tasks import Task
    from depthlm.tasks.numbers import Reading

Quantity = Literal["distance", "z"]


class Backend(ABC):
    """Asks by a model's card. Subclasses answer: a model in this process, a server, a constant, the truth.

    name: whose words they are, for messages. view_config: how images are shown. reference: name of the reference,
    default the card's preferred one. read: which number of a belief is the answer (card.READINGS), default what the
    card says. forced: where a task's answers all begin alike, requests carry that beginning. markers: most markers
    drawn on one view, each with its own question. Raises InputError for what the card's prompt has no words for.
    """

    def __init__(
        self,
        card: ModelCard,
        view_config: ViewConfig,
        *,
        name: str,
        reference: str | None = None,
        read: str | None = None,
        forced: bool = True,
        markers: int = 1,
    ) -> None:
        self.card, self.view_config, self.name, self.forced = card, view_config, name, forced
        self.read = read or card.read
        if self.read not in READINGS:
            raise InputError(f"--read is {self.read!r}; expected one of {', '.join(READINGS)}")
        self.prompt = PROMPTS[card.prompt]
        self.reference: Reference = get_reference(
            reference or card.references[0], card.coordinate_range, card.rounding, card.half_pixel
        )
        if not self.prompt.supports(self.reference):
            raise InputError(
                f"{name}: prompt {self.prompt.name!r} has no question for reference {self.reference.name!r}; "
                f"this model was trained with {', '.join(card.references)}"
            )
        self.text = Text(coordinate_range=card.coordinate_range, rounding=card.rounding, half_pixel=card.half_pixel)
        if not 1 <= markers <= len(COLOURS):
            raise InputError(f"--markers is {markers}; expected 1 to {len(COLOURS)}, as many as there are colours")
        self.markers = markers

    @abstractmethod
    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests. progress: called with the number of answers that have come in."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its answers depend on, beside the card and the reference: plain values that name a run's backend."""

    @property
    def given(self) -> str:
        """What it knows of a picture, in words; decides with what it may be compared."""
        if self.view_config.geometry == "native":
            words = " ".join(self.prompt.questions.values())
            return f"the picture as it is{', and its true focal length in words' if '{fx' in words else ''}"
        return f"the picture, resampled by its true focal length to {self.view_config.focal:g} px"

    def usage(self) -> dict[str, int] | None:
        """What this process has asked and paid for so far; None where nothing is counted."""
        return None

    def requests(
        self,
        image: Image.Image,
        camera: Camera,
        uv: ArrayLike,
        *,
        ask: Quantity = "distance",
        like: View | None = None,
    ) -> list[Request]:
        """One request per point. uv: [N, 2] pixels of `image`, whose camera is given. ask: which question. like: the
        `whole_view` of this image, for who asks about it more than once.

        All points share one view; a point whose marker does not fit there gets a view of its own, padded until it does.
        Of a model that was trained so, several markers stand on one copy of the view.
        """
        task = get_task(ask)
        views = self.views(image, camera, uv, like=like)
        if self.reference.kind == "marker" and self.markers > 1:
            return self._marked_together(views, task)
        made = []
        for row, view in enumerate(views):
            context, subject = self.context(view, row), Subject((row,))
            made.append(self.request(context, task.question(context, subject), subject.points, task))
        return made

    def _marked_together(self, views: Sequence[View], task: Task) -> list[Request]:
        """The same with several markers on a view; those that would cover each other stand on different copies."""
        shared = next(
            (view for row, view in enumerate(views) if self.reference.fits(view.uv[row], *view.image.size)), None
        )
        made: list[Request | None] = [None] * len(views)
        together = [row for row, view in enumerate(views) if shared is not None and view.image is shared.image]
        groups = [] if shared is None else group_apart(shared.uv[together], self.markers, 2 * self.reference.margin + 1)
        alone = [[row] for row in range(len(views)) if row not in set(together)]
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
        like: View | None = None,
    ) -> list[View]:
        """For each group of rows of uv (default: each row) a view on which their markers fit; each holds all of uv.

        uv: [N, 2] pixels of `image`. z: [N] metres, or None. objects: of `image`; each view holds them all. like: the
        `whole_view` of this image.
        """
        points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        shared = make_view(image, camera, points, z, config=self.view_config, objects=objects, like=like)
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
            view=view, point=point, reference=self.reference, prompt=self.prompt, label=self.card.label,
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

    def measure(
        self,
        image: Image.Image,
        uv: ArrayLike,
        camera: Camera,
        *,
        answers: Quantity | None = None,
        wanted: Quantity = "distance",
        like: View | None = None,
    ) -> Measurement:
        """Measure points [N, 2] of an image.

        like: the `whole_view` of this image: for as long as somebody holds it, an engine that shares a picture's
        reading reads it once, call after call. answers: what the model's numbers mean, default what its card says.
        wanted: which quantity matters; a model that was trained to tell z is asked for it then, and its z turned into a
        distance in place of the other way.
        """
        points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        ask = question_for(wanted, self.card, answers)
        replies = self.ask(self.requests(image, camera, points, ask=ask, like=like))
        meaning = "z" if ask == "z" else answers or self.card.label

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

    def depth_map(self, image: Image.Image, camera: Camera, *, budget: int) -> NDArray[np.floating[Any]]:
        """[H, W] z of a picture from `budget` questions (dense.py), metres; NaN where there is none."""
        from depthlm.inference.dense import depth_map

        return depth_map(self, image, camera, budget=budget).z

    def answer(self, request: Request, text: str, reading: Reading | None, leaves: list[Leaf]) -> Answer:
        """A text as an answer, with the belief behind its number.

        reading: where the text is a number, else None. leaves: the numbers it could have been; none where unknown.
        """
        if reading is None or not leaves:
            return Answer(text, request.kind.read(text))
        belief, unit = Belief(leaves), reading.per_unit
        value = reading.value if self.read == "greedy" else belief.read(self.read) * unit
        about_point = request.kind is METRES and (len(request.uv) == 1 or request.shares_markers)
        wider = self.widen if about_point and request.second is None else 1.0
        low, high = (belief.quantile(level) * unit for level in QUANTILES)
        return Answer(text, value, low / wider, high * wider, belief.mass)

    @property
    def widen(self) -> float:
        """What the model's own intervals for points are widened by at either end; 1 where it is not calibrated."""
        return math.exp(self.card.calibration.get(self.reference.name, 0.0))

    @property
    def calibrated(self) -> bool:
        """Whether intervals for points keep their promise on points like those it was calibrated on."""
        return self.reference.name in self.card.calibration


def view_config_of(card: ModelCard) -> ViewConfig:
    """How pictures are shown to a model of which its card is all that is known here."""
    return ViewConfig(
        focal=card.focal, grid=card.grid or 1, geometry=card.geometry,
        max_size=None if card.geometry == "official" else card.max_pixels,
    )  # fmt: skip


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
