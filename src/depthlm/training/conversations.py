"""Conversations: global step index -> what is shown and asked there, a pure function of (recipe, seed, index).

Every rank and worker asks for its own indices, and all randomness of a conversation comes from a generator seeded with
(seed, index): nothing is correlated between ranks, and a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from depthlm.covisibility import COVISIBLE, find_partner
from depthlm.errors import InputError
from depthlm.reference import Text, draw_marks, get_reference
from depthlm.tasks import Context, Question, Second, Task, get_task
from depthlm.training.bad_samples import BadSamples
from depthlm.view import CropConfig, View, ViewConfig, make_training_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.data.mixture import Mixture
    from depthlm.models.card import ModelCard
    from depthlm.objects import Box
    from depthlm.prompts import Prompt
    from depthlm.reference import Reference
    from depthlm.sample import Sample, Samples

_T = TypeVar("_T")

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
    relative_words: bool = False
    """Those words say how many times the picture's median depth, in place of metres."""
    match_words: bool = False
    """Of a pair, the image tokens of the second picture say where the first one shows a labelled point of their own
    cell, in place of its distance: its x and its y in turn, as on a chessboard. What finding one picture in the other
    needs, taught directly."""
    text_beside_markers: bool = True
    """Whether a marked picture's remaining questions are asked by text, where text is among the references."""
    loss: Literal["answers", "text"] = "answers"
    """Which tokens of a row carry loss; text: those of the questions too."""
    markers_per_image: int = 1
    """Most markers on one picture, each with a question of its own and told apart by colour; from 1 to this, drawn for
    each picture."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversation:
    """One view, or two, and the questions about them with their answers.

    reference: what points at the views. marked: rows of the first view's uv that carry its markers. boxes: edges of the
    objects that it outlines. several: each marker belongs to a question of its own. second: the second of the views,
    where they are a pair.
    """

    views: list[View]
    questions: list[Question]
    reference: Reference
    marked: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    several: bool = False
    second: Second | None = None

    def draw(self) -> list[Image.Image]:
        """The views as pictures, with the markers and outlines that the questions speak of."""
        first, *others = self.views
        marked = draw_marks(self.reference, first.image, first.uv[list(self.marked)], self.boxes)
        return [marked, *(view.image for view in others)]


class Conversations:
    """`length` conversations drawn from a mixture of sample sequences.

    A sample that cannot be used is logged, noted in `bad` and replaced by the next one of the same mixture; more than
    `max_bad` different ones stop the run with InputError.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Samples],
        mixture: Mixture,
        card: ModelCard,
        prompt: Prompt,
        rows: RowConfig,
        view: ViewConfig,
        crop: CropConfig,
        seed: int,
        length: int,
        bad: BadSamples | None = None,
    ) -> None:
        self.sources, self.mixture = sources, mixture
        self.card, self.prompt = card, prompt
        self.rows, self.view, self.crop = rows, view, crop
        self.seed, self.length = seed, length
        self.bad = BadSamples() if bad is None else bad
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

    def conversation(self, index: int) -> Conversation:
        """What is shown and asked at a global step index. Raises InputError past `max_bad` unusable samples."""
        return self._at(index, self.draw)

    def _at(self, index: int, make: Callable[[Samples, int, np.random.Generator], _T | None]) -> _T:
        """`make` of the sample of a global step index and its generator; unreadable samples are passed over, and so are
        those of which it makes None.
        """
        rng = np.random.default_rng([self.seed, index])
        draw = index
        misses = failures = 0
        while True:
            dataset, row = self.mixture.at(draw)
            try:
                made = make(self.sources[dataset], row, rng)
            except InputError as error:
                self.bad.add(str(error))
                failures += 1
                if failures == _MISSES:
                    raise InputError(f"{failures} samples drawn in a row cannot be used; the last: {error}") from error
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

    def draw(self, samples: Samples, row: int, rng: np.random.Generator) -> Conversation | None:
        """One view of the sample with its questions, or two views of it and its partner.

        None where all tasks are about two images and these have no answer. Raises InputError for a sample without
        points.
        """
        sample = samples[row]
        if self._draws_pair(rng):
            partner = find_partner(samples, row, self.seed)
            made = None if partner is None else self._draw_about_two(sample, samples[partner], rng)
            if made is not None or not self.singles:
                return made
        return self._draw_single(sample, rng)

    def _draws_pair(self, rng: np.random.Generator) -> bool:
        return bool(self.pairs) and (rng.random() < self.pair_share or not self.singles)

    def _draw_single(self, sample: Sample, rng: np.random.Generator) -> Conversation:
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
        if reference.kind == "text" or (self.asks_text and self.rows.text_beside_markers):
            text = reference if reference.kind == "text" else self.text
            missing = max(0, self.rows.questions_per_image - len(questions))
            questions += [self._ask(view, int(p), text, surface, rng) for p in np.resize(order, missing)]
        boxes = tuple(view.objects[row].box for row in questions[0].objects)
        return Conversation(
            views=[view], questions=questions, reference=reference, marked=marked, boxes=boxes,
            several=len(marked) > 1 and not boxes,
        )  # fmt: skip

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

    def _draw_about_two(self, first: Sample, second: Sample, rng: np.random.Generator) -> Conversation | None:
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
        if not questions:
            return None
        return Conversation(
            views=[view, other.view], questions=questions, reference=reference, marked=marked, second=other
        )

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


def _shares(weights: dict[str, float]) -> np.ndarray:
    values = np.array(list(weights.values()), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise InputError(f"weights {weights} need at least one positive number and none negative")
    return values / values.sum()
