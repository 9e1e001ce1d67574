"""TrainingRows: global step index -> Row, a pure function of (recipe, seed, index).

Every rank and worker asks for its own indices, and all randomness of a row comes from a generator seeded with
(seed, index): nothing is correlated between ranks, and a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from torch.utils.data import Dataset

from depthlm.covisibility import COVISIBLE, find_partner
from depthlm.errors import InputError
from depthlm.models.chat import IGNORE
from depthlm.reference import COLOURS, Text, draw_marks, get_reference
from depthlm.tasks import Context, Question, Second, Task, get_task
from depthlm.training.rows import Row, encode_row, word_token
from depthlm.view import CropConfig, View, ViewConfig, make_training_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from depthlm.data.mixture import Mixture
    from depthlm.models.card import ModelCard
    from depthlm.models.processor import ThinProcessor
    from depthlm.objects import Box
    from depthlm.prompts import Prompt
    from depthlm.reference import Reference
    from depthlm.sample import Sample, Samples

log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Image tokens speak in preferred numbers, the E12 series (1.0 1.2 1.5 1.8 ...): 21 % steps, few enough classes that
# each is seen often, as answers in full precision are not.
WORDS_PER_DECADE = 12
_PAIR_CROPS = 4  # drawn for a pair before the largest one is taken
_MISSES = 1000  # rows without a question before a run gives up: few samples having a partner is no fault of theirs


@dataclass(frozen=True, kw_only=True)
class RowConfig:
    """What is asked of each image."""

    references: dict[str, float]
    """Reference name -> weight; one is drawn per image."""
    tasks: dict[str, float]
    """Task name -> weight; one is drawn per question. A row whose first one is about two images shows two, and all of
    its questions are about both."""
    questions_per_image: int = 1
    """Questions about each image. With a marker, the first is about it and the others need a text reference. A pair
    of images is asked no question twice, so that it may be asked fewer."""
    packing: Literal["shared", "turns"] = "shared"
    """shared: each question sees the image and itself. turns: one conversation, each sees the earlier ones too."""
    image_words: bool = False
    """Also let every image token predict the word for a labelled distance in its own cell."""
    marker_word: bool = False
    """Of those words, the one where a marker points is the marker's name (of several its colour): what finding it
    needs, taught directly."""
    match_words: bool = False
    """Of a pair, the image tokens of the second picture say where the first one shows a labelled point of their own
    cell, in place of its distance: its x and its y in turn, as on a chessboard. What finding one picture in the other
    needs, taught directly."""
    markers_per_image: int = 1
    """Most markers on one picture, each with a question of its own and told apart by colour; from 1 to this, drawn for
    each picture."""


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
        self.number_ids: dict[int, int] = {}
        self.text = Text(coordinate_range=card.coordinate_range, rounding=card.rounding, half_pixel=card.half_pixel)
        self.references = [
            get_reference(name, card.coordinate_range, card.rounding, card.half_pixel) for name in rows.references
        ]
        for reference in self.references:
            if not prompt.supports(reference):
                raise InputError(f"prompt {prompt.name!r} has no question for reference {reference.name!r}")
        if rows.markers_per_image > 1 and "markers" not in prompt.questions:
            raise InputError(f"prompt {prompt.name!r} has no question about one of several markers; draw one per image")
        self.reference_shares = _shares(rows.references)
        weights = dict(zip(map(get_task, rows.tasks), _shares(rows.tasks).tolist(), strict=True))
        self.singles, self.pairs = ([t for t in weights if t.images == n and weights[t]] for n in (1, 2))
        self.pair_share = sum(weights[task] for task in self.pairs)
        # Each kind's own shares, drawn from for every question; empty where no task of the kind is asked.
        self.single_shares, self.pair_shares = (
            _shares({task.name: weights[task] for task in tasks}) if tasks else np.empty(0)
            for tasks in (self.singles, self.pairs)
        )
        self.asks_text = any(reference.name == "text" for reference in self.references)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Row:
        """The row of a global step index. Raises InputError past `max_bad` unreadable samples."""
        return self._at(index, self.build)

    def view_and_cells(self, index: int) -> tuple[View, NDArray[np.float64]]:
        """The view that the row of this index shows, unmarked, and `cell_metres` of it: for teaching without words.

        Of a row about two pictures, a view of the first as if it stood alone.
        Raises InputError past `max_bad` unreadable samples.
        """

        def make(samples: Samples, row: int, rng: np.random.Generator) -> tuple[View, NDArray[np.float64]]:
            self._draws_pair(rng)  # the row's own draw, so that what is drawn next is the row's too
            view = self._draw_view(samples[row], rng)[1]
            return view, self.cell_metres(view)

        return self._at(index, make)

    def _at(self, index: int, make: Callable[[Samples, int, np.random.Generator], _T | None]) -> _T:
        """`make` of the sample of a global step index and its generator; unreadable samples are passed over, and so are
        those of which it makes None.
        """
        rng = np.random.default_rng([self.seed, index])
        draw = index
        misses = 0
        while True:
            dataset, row = self.mixture.at(draw)
            try:
                made = make(self.sources[dataset], row, rng)
            except InputError as error:
                self.bad.append(str(error))
                log.warning("skipped a sample: %s", error)
                if len(self.bad) > self.max_bad:
                    raise InputError(
                        f"more than max_bad={self.max_bad} samples cannot be used; the last: {error}"
                    ) from error
            else:
                if made is not None:
                    return made
                misses += 1
                if misses == _MISSES:
                    needs = sorted({task.needs for task in self.pairs})
                    raise InputError(
                        f"tasks {', '.join(self.rows.tasks)} have nothing to ask in {misses} samples drawn; they need "
                        + "; ".join(needs)
                    )
            draw += len(self.mixture)  # the same place of a later pass: another row, still a function of index

    def build(self, samples: Samples, row: int, rng: np.random.Generator) -> Row | None:
        """One view of the sample with its questions, or two views of it and its partner.

        None where all tasks are about two images and these have no answer. Raises InputError for a sample without
        points.
        """
        sample = samples[row]
        if self._draws_pair(rng):
            partner = find_partner(samples, row, self.seed)
            made = None if partner is None else self._build_pair(sample, samples[partner], rng)
            if made is not None or not self.singles:
                return made
        return self._build_single(sample, rng)

    def _draws_pair(self, rng: np.random.Generator) -> bool:
        return bool(self.pairs) and (rng.random() < self.pair_share or not self.singles)

    def _build_single(self, sample: Sample, rng: np.random.Generator) -> Row:
        reference, view = self._draw_view(sample, rng)
        surface = None if sample.surface is None else tuple(sample.surface[i] for i in view.index)
        order = rng.permutation(len(view.index))
        questions: list[Question] = []
        marked: tuple[int, ...] = ()
        if reference.kind == "marker":
            apart = self._draw_apart(view, order, reference, rng)
            if len(apart) == 1:
                questions.append(self._ask(view, apart[0], reference, surface, rng))
                marked = questions[0].points
            else:
                questions += [self._ask(view, p, reference, surface, rng, mark=k) for k, p in enumerate(apart)]
                marked = tuple(apart)
        if reference.kind == "text" or self.asks_text:
            text = reference if reference.kind == "text" else self.text
            missing = max(0, self.rows.questions_per_image - len(questions))
            questions += [self._ask(view, int(p), text, surface, rng) for p in np.resize(order, missing)]
        boxes = [view.objects[row].box for row in questions[0].objects]
        return self._encode([view], questions, reference, marked, boxes, several=len(marked) > 1 and not boxes)

    def _draw_apart(
        self, view: View, order: NDArray[np.int64], reference: Reference, rng: np.random.Generator
    ) -> list[int]:
        """Rows of view.uv for as many markers as this picture gets: the first of `order` that cover no other."""
        most = self.rows.markers_per_image
        count = 1 if most == 1 else int(rng.integers(1, most + 1))
        chosen = [int(order[0])]
        for row in order[1:].tolist():
            if len(chosen) == count:
                break
            if (np.abs(view.uv[chosen] - view.uv[row]).max(axis=1) > 2 * reference.margin + 1).all():
                chosen.append(row)
        return chosen

    def _build_pair(self, first: Sample, second: Sample, rng: np.random.Generator) -> Row | None:
        """Both views with questions about the two, none twice; None where none of the tasks drawn has an answer."""
        reference = self._draw_reference(rng)
        view, other = self._draw_pair(first, second, reference, rng)
        numbers = iter(rng.permutation(len(view.index)).tolist())
        questions: list[Question] = []
        asked: set[tuple[Task, tuple[int, ...]]] = set()
        marked: tuple[int, ...] = ()
        for choice in rng.choice(len(self.pairs), size=self.rows.questions_per_image, p=self.pair_shares).tolist():
            task, pointer = self.pairs[choice], reference
            if task.points and reference.kind == "marker" and marked:
                if not self.asks_text:
                    continue  # one marker on the picture, one question about it
                pointer = self.text
            context = self._context(view, next(numbers, 0), pointer, rng, second=other)
            question = task.ask(context)
            if question is None or (task, question.points) in asked:
                continue
            asked.add((task, question.points))
            if question.points and pointer.kind == "marker":
                marked = question.points
            questions.append(question)
        return self._encode([view, other.view], questions, reference, marked, second=other) if questions else None

    def _encode(
        self,
        views: list[View],
        questions: list[Question],
        reference: Reference,
        marked: tuple[int, ...],
        boxes: Sequence[Box] = (),
        *,
        several: bool = False,
        second: Second | None = None,
    ) -> Row:
        """The row; markers stand on the first view at these rows of its uv, outlines round these boxes.

        several: each marker belongs to a question of its own. second: the second of the views, where they are a pair.
        """
        words = None
        uv = views[0].uv[list(marked)]
        if self.rows.image_words:
            matched = second if self.rows.match_words else None
            words = [word for view in (views[:1] if matched else views) for word in self._words(view)]
            if matched:
                words += self._match_words(views[0], matched)
            if self.rows.marker_word and reference.kind == "marker":
                for number, (column, row) in enumerate((uv.astype(int) // self.processor.grid).tolist()):
                    word = COLOURS[number][0] if several else reference.name
                    words[row * (views[0].image.width // self.processor.grid) + column] = self._word(word)
        images = [draw_marks(reference, views[0].image, uv, boxes), *(view.image for view in views[1:])]
        return encode_row(
            self.processor, images, questions,
            system=self.prompt.system, words=words, turns=self.rows.packing == "turns",
        )  # fmt: skip

    def _draw_pair(
        self, first: Sample, second: Sample, reference: Reference, rng: np.random.Generator
    ) -> tuple[View, Second]:
        """Crops of both that still show as much of each other as a pair must; unmirrored, as a mirror has no pose."""
        crop = replace(self.crop, flip=0.0)
        for attempt in range(_PAIR_CROPS + 1):
            if attempt == _PAIR_CROPS:
                (_, width), (_, height) = crop.width, crop.height
                crop = replace(crop, width=(width, width), height=(height, height), position="centre")
            view = make_training_view(first, config=self.view, rng=rng, crop=crop, margin=reference.margin)
            other_view = make_training_view(second, config=self.view, rng=rng, crop=crop)
            other = Second.of(first, view, second, other_view)
            if np.isfinite(other.shown[:, 0]).mean() >= COVISIBLE:
                break
        return view, other

    def _draw_reference(self, rng: np.random.Generator) -> Reference:
        return self.references[int(rng.choice(len(self.references), p=self.reference_shares))]

    def _draw_view(self, sample: Sample, rng: np.random.Generator) -> tuple[Reference, View]:
        if not len(sample):
            raise InputError(f"{sample.source or sample.frame}: no labelled points to train on")
        reference = self._draw_reference(rng)
        view = make_training_view(sample, config=self.view, rng=rng, crop=self.crop, margin=reference.margin)
        return reference, view

    def _ask(
        self,
        view: View,
        point: int,
        reference: Reference,
        surface: tuple[str, ...] | None,
        rng: np.random.Generator,
        *,
        mark: int | None = None,
    ) -> Question:
        context = self._context(view, point, reference, rng, surface=surface, mark=mark)
        for _ in range(8):
            task, here = self.singles[int(rng.choice(len(self.singles), p=self.single_shares))], context
            if mark is not None and (task.objects or task.points != 1):
                continue  # their several markers would need colours of their own
            if task.objects:
                if not view.objects:
                    continue
                here = replace(context, point=int(rng.integers(len(view.objects))))
            if (question := task.ask(here)) is not None:
                return question
        question = get_task("distance").ask(context)
        assert question is not None, "a distance can be asked of every point"
        return question

    def _context(
        self,
        view: View,
        point: int,
        reference: Reference,
        rng: np.random.Generator,
        *,
        surface: tuple[str, ...] | None = None,
        second: Second | None = None,
        mark: int | None = None,
    ) -> Context:
        return Context(
            view=view, point=point, reference=reference, prompt=self.prompt, label=self.card.label, rng=rng,
            text=self.text, surface=surface, vary=True, second=second, mark=mark,
        )  # fmt: skip

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
        words[known] = [self._number_word(step) for step in series.tolist()]
        return words.tolist()

    def _match_words(self, view: View, second: Second) -> list[int]:
        """[T] for each image token of the second view the x or y word of the place in the first view that it shows.

        Of several points in a cell, that nearest to its centre; IGNORE where the first view is known to show none.
        """
        grid, width = self.processor.grid, second.view.image.width // self.processor.grid
        words = np.full(width * (second.view.image.height // grid), IGNORE, dtype=np.int64)
        seen = np.flatnonzero(np.isfinite(second.shown).all(axis=1))
        place = (second.shown[seen] + 0.5) / grid
        cell = np.floor(place).astype(int)
        for k in np.argsort(-np.abs(place - cell - 0.5).sum(axis=1), kind="stable").tolist():  # the nearest last
            column, row = cell[k].tolist()
            axis = (column + row) % 2
            number = self.text.coordinates(view.uv[seen[k]], *view.image.size)[axis]
            words[row * width + column] = self._word("xy"[axis] + str(number))
        return words.tolist()

    def _number_word(self, step: int) -> int:
        """The word for a number of the series."""
        if step not in self.number_ids:  # a few dozen words, each asked for millions of times
            self.number_ids[step] = self._word(self.prompt.format_answer(10 ** (step / WORDS_PER_DECADE)))
        return self.number_ids[step]

    def _word(self, text: str) -> int:
        if text not in self.word_ids:
            self.word_ids[text] = word_token(self.processor, text)
        return self.word_ids[text]


def _shares(weights: dict[str, float]) -> np.ndarray:
    values = np.array(list(weights.values()), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise InputError(f"weights {weights} need at least one positive number and none negative")
    return values / values.sum()
