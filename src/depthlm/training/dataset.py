"""TrainingRows: the conversations of a run as rows of tokens, and the words that image tokens learn beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from depthlm.models.chat import IGNORE
from depthlm.reference import COLOURS
from depthlm.training.conversations import Conversation, Conversations
from depthlm.training.rows import Row, encode_row, word_token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.models.processor import ThinProcessor
    from depthlm.sample import Samples
    from depthlm.tasks import Second
    from depthlm.view import View

# Image tokens speak in preferred numbers, the E12 series (1.0 1.2 1.5 1.8 ...): 21 % steps, few enough classes that
# each is seen often, as answers in full precision are not.
WORDS_PER_DECADE = 12


class TrainingRows(Conversations, Dataset[Row]):
    """Map-style data set: global step index -> Row. processor: of the model that is trained; others: Conversations."""

    def __init__(self, *, processor: ThinProcessor, **settings: Any) -> None:
        super().__init__(**settings)
        self.processor = processor
        self.word_ids: dict[str, int] = {}
        self.number_ids: dict[int, int] = {}
        if self.rows.image_words:
            self._number_word(0)  # of a tokenizer that has no such words, before anything is drawn

    def __getitem__(self, index: int) -> Row:
        """The row of a global step index. Raises InputError past `max_bad` unusable samples."""
        return self._at(index, self.build)

    def build(self, samples: Samples, row: int, rng: np.random.Generator) -> Row | None:
        """The row of one sample; None and errors as of `draw`."""
        conversation = self.draw(samples, row, rng)
        return None if conversation is None else self._encode(conversation)

    def view_and_cells(self, index: int) -> tuple[View, NDArray[np.float64]]:
        """The view that the row of this index shows, unmarked, and `cell_metres` of it: for teaching without words.

        Of a row about two pictures, a view of the first as if it stood alone.
        Raises InputError past `max_bad` unusable samples.
        """

        def make(samples: Samples, row: int, rng: np.random.Generator) -> tuple[View, NDArray[np.float64]]:
            self._draws_pair(rng)  # the row's own draw, so that what is drawn next is the row's too
            view = self._draw_view(samples[row], rng)[1]
            return view, self.cell_metres(view)

        return self._at(index, make)

    def _encode(self, conversation: Conversation) -> Row:
        return encode_row(
            self.processor, conversation.draw(), conversation.questions,
            system=self.prompt.system, words=self._all_words(conversation) if self.rows.image_words else None,
            turns=self.rows.packing == "turns", all_text=self.rows.loss == "text",
        )  # fmt: skip

    def _all_words(self, conversation: Conversation) -> list[int]:
        """[T] the word that each image token of the views learns, in reading order; IGNORE for none."""
        first, *others = conversation.views
        second = conversation.second if self.rows.match_words else None
        words = self._words(first)
        words += self._match_words(first, second) if second else [w for view in others for w in self._words(view)]
        if self.rows.marker_word and conversation.reference.kind == "marker":
            grid = self.processor.grid
            uv = first.uv[list(conversation.marked)]
            for number, (column, row) in enumerate((uv.astype(int) // grid).tolist()):
                word = COLOURS[number][0] if conversation.several else conversation.reference.name
                words[row * (first.image.width // grid) + column] = self._word(word)
        return words

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
        """[T] the word for `cell_metres` at each image token, in reading order; IGNORE for none.

        relative_words: for its ratio to their median.
        """
        metres = self.cell_metres(view).ravel()
        words = np.full(len(metres), IGNORE, dtype=np.int64)
        known = np.flatnonzero(np.isfinite(metres))
        said = metres[known] / np.median(metres[known]) if self.rows.relative_words and len(known) else metres[known]
        series = np.round(np.log10(said) * WORDS_PER_DECADE).astype(int)
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
