"""TrainingRows: global step index -> Row, a pure function of (recipe, seed, index).

Every rank and worker asks for its own indices, and all randomness of a row comes from a generator seeded with
(seed, index): nothing is correlated between ranks, and a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch.utils.data import Dataset

from depthlm.errors import InputError
from depthlm.models.chat import IGNORE
from depthlm.reference import draw_marks, get_reference
from depthlm.tasks import Context, Question, Task, get_task
from depthlm.training.rows import Row, encode_row, word_token
from depthlm.view import CropConfig, View, ViewConfig, make_training_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from depthlm.data.mixture import Mixture
    from depthlm.models.card import ModelCard
    from depthlm.models.processor import ThinProcessor
    from depthlm.prompts import Prompt
    from depthlm.reference import Reference
    from depthlm.sample import Sample, Samples

log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Image tokens speak in preferred numbers, the E12 series (1.0 1.2 1.5 1.8 ...): 21 % steps, few enough classes that
# each is seen often, as answers in full precision are not.
WORDS_PER_DECADE = 12


@dataclass(frozen=True, kw_only=True)
class RowConfig:
    """What is asked of each image."""

    references: dict[str, float]
    """Reference name -> weight; one is drawn per image."""
    tasks: dict[str, float]
    """Task name -> weight; one is drawn per question."""
    questions_per_image: int = 1
    """Questions about each image. With a marker, the first is about it and the others need a text reference."""
    image_words: bool = False
    """Also let every image token predict the word for a labelled distance in its own cell."""
    marker_word: bool = False
    """Of those words, the one where a marker points is the marker's name: what finding it needs, taught directly."""


class TrainingRows(Dataset[Row]):
    """Map-style data set of `length` rows drawn from a mixture of sample sequences.

    A sample that cannot be read is counted, logged and replaced by the next one of the same mixture; more than
    `max_bad` of them stop the run with InputError.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Samples],
        mixture: Mixture,
        processor: ThinProcessor,
        card: ModelCard,
        prompt: Prompt,
        rows: RowConfig,
        view: ViewConfig,
        crop: CropConfig,
        seed: int,
        length: int,
        max_bad: int = 100,
    ) -> None:
        self.sources, self.mixture = sources, mixture
        self.processor, self.card, self.prompt = processor, card, prompt
        self.rows, self.view, self.crop = rows, view, crop
        self.seed, self.length, self.max_bad = seed, length, max_bad
        self.bad: list[str] = []
        self.word_ids: dict[str, int] = {}
        self.text = get_reference("text", card.coordinate_range, card.rounding, card.half_pixel)
        self.references = [
            get_reference(name, card.coordinate_range, card.rounding, card.half_pixel) for name in rows.references
        ]
        for reference in self.references:
            if not prompt.supports(reference):
                raise InputError(f"prompt {prompt.name!r} has no question for reference {reference.name!r}")
        self.reference_shares = _shares(rows.references)
        self.tasks = [get_task(name) for name in rows.tasks]
        self.task_shares = _shares(rows.tasks)
        self.asks_text = any(reference.name == "text" for reference in self.references)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Row:
        """The row of a global step index. Raises InputError past `max_bad` unreadable samples."""
        return self._at(index, self.build)

    def view_and_cells(self, index: int) -> tuple[View, NDArray[np.float64]]:
        """The view that the row of this index shows, unmarked, and `cell_metres` of it: for teaching without words.

        Raises InputError past `max_bad` unreadable samples.
        """

        def make(sample: Sample, rng: np.random.Generator) -> tuple[View, NDArray[np.float64]]:
            view = self._draw_view(sample, rng)[1]
            return view, self.cell_metres(view)

        return self._at(index, make)

    def _at(self, index: int, make: Callable[[Sample, np.random.Generator], _T]) -> _T:
        """`make` of the sample of a global step index and its generator; unreadable samples are passed over."""
        rng = np.random.default_rng([self.seed, index])
        draw = index
        while True:
            dataset, row = self.mixture.at(draw)
            try:
                return make(self.sources[dataset][row], rng)
            except InputError as error:
                self.bad.append(str(error))
                log.warning("skipped a sample: %s", error)
                if len(self.bad) > self.max_bad:
                    raise InputError(
                        f"more than max_bad={self.max_bad} samples cannot be used; the last: {error}"
                    ) from error
                draw += len(self.mixture)  # the same place of a later pass: another row, still a function of index

    def build(self, sample: Sample, rng: np.random.Generator) -> Row:
        """One view of the sample with its questions. Raises InputError for a sample without points."""
        reference, view = self._draw_view(sample, rng)
        surface = None if sample.surface is None else tuple(sample.surface[i] for i in view.index)
        order = rng.permutation(len(view.index))
        questions: list[Question] = []
        if reference.kind == "marker":
            questions.append(self._ask(view, int(order[0]), reference, surface, rng))
        if reference.kind == "text" or self.asks_text:
            text = reference if reference.kind == "text" else self.text
            missing = self.rows.questions_per_image - len(questions)
            questions += [self._ask(view, int(p), text, surface, rng) for p in np.resize(order, missing)]
        marked = view.uv[list(questions[0].points)]
        boxes = [view.objects[row].box for row in questions[0].objects]
        words = self._words(view) if self.rows.image_words else None
        if words is not None and self.rows.marker_word and reference.kind == "marker":
            for column, row in (marked.astype(int) // self.processor.grid).tolist():
                words[row * (view.image.width // self.processor.grid) + column] = self._word(reference.name)
        image = draw_marks(reference, view.image, marked, boxes)
        return encode_row(self.processor, image, questions, system=self.prompt.system, words=words)

    def _draw_view(self, sample: Sample, rng: np.random.Generator) -> tuple[Reference, View]:
        if not len(sample):
            raise InputError(f"{sample.source or sample.frame}: no labelled points to train on")
        reference = self.references[int(rng.choice(len(self.references), p=self.reference_shares))]
        view = make_training_view(sample, config=self.view, rng=rng, crop=self.crop, margin=reference.margin)
        return reference, view

    def _ask(
        self,
        view: View,
        point: int,
        reference: Reference,
        surface: tuple[str, ...] | None,
        rng: np.random.Generator,
    ) -> Question:
        context = Context(
            view=view, point=point, reference=reference, prompt=self.prompt, label=self.card.label, rng=rng,
            text=self.text, surface=surface, vary=True,
        )  # fmt: skip
        for _ in range(8):
            task: Task = self.tasks[int(rng.choice(len(self.tasks), p=self.task_shares))]
            here = context
            if task.objects:
                if not view.objects:
                    continue
                here = replace(context, point=int(rng.integers(len(view.objects))))
            if (question := task.ask(here)) is not None:
                return question
        question = get_task("distance").ask(context)
        assert question is not None, "a distance can be asked of every point"
        return question

    def cell_metres(self, view: View) -> NDArray[np.float64]:
        """[rows, columns] what the labelled point nearest to the centre of each image token's cell measures, metres.

        A distance or z, as the card's label says; NaN where a cell has no labelled point.
        """
        grid = self.processor.grid
        cells = np.full((view.image.height // grid, view.image.width // grid), np.nan)
        assert view.z is not None
        metres = view.z * (view.camera.ray_factor(view.uv) if self.card.label == "distance" else 1.0)
        place = (view.uv + 0.5) / grid
        cell = np.floor(place).astype(int)
        order = np.argsort(-np.abs(place - cell - 0.5).sum(axis=1), kind="stable")  # the nearest to the centre last
        cells[cell[order, 1], cell[order, 0]] = metres[order]
        return cells

    def _words(self, view: View) -> list[int]:
        """[T] the word for `cell_metres` at each image token, in reading order; IGNORE for none."""
        metres = self.cell_metres(view).ravel()
        words = np.full(len(metres), IGNORE, dtype=np.int64)
        known = np.flatnonzero(np.isfinite(metres))
        series = np.round(np.log10(metres[known]) * WORDS_PER_DECADE).astype(int)
        values = [10 ** (int(step) / WORDS_PER_DECADE) for step in series]
        words[known] = [self._word(self.prompt.format_answer(value)) for value in values]
        return [int(word) for word in words]

    def _word(self, text: str) -> int:
        if text not in self.word_ids:  # a few dozen words, each asked for millions of times
            self.word_ids[text] = word_token(self.processor, text)
        return self.word_ids[text]


def _shares(weights: dict[str, float]) -> np.ndarray:
    values = np.array(list(weights.values()), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise InputError(f"weights {weights} need at least one positive number and none negative")
    return values / values.sum()
