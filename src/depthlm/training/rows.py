"""Rows: one image (or two) and its questions, packed so that training on K questions equals asking each of them alone.

A row is [prefix | question 1 | question 2 | ...]. The prefix (turn header and images) is read once; every question sees
the prefix and itself, never another question, and its positions continue from the prefix as if it stood there alone.
What all questions begin with (a prompt's instructions) belongs to the prefix too, and is read once.
With one question a row is an ordinary causal conversation. The plain alternative is one conversation of many turns, in
which each question sees the earlier ones and their answers too (what VLM3's packing seems to be, vlm3.md 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from depthlm.errors import InputError
from depthlm.models.chat import IGNORE, collate_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from depthlm.models.processor import ThinProcessor
    from depthlm.tasks import Question


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One encoded image, or several, with the questions about them all.

    prefix: [P] token ids. questions: for each, its token ids and how many of them belong to the answer (the last ones,
    end token included). words: [T] for every token of every image the id of the word it should predict (IGNORE for
    none), or None. images: pixel_values with image_grid_thw or image_sizes. turns: the questions
    are turns of one conversation. all_text: every text token carries loss, not the answers alone.
    """

    prefix: list[int]
    questions: list[tuple[list[int], int]]
    words: list[int] | None
    images: dict[str, torch.Tensor]
    turns: bool = False
    all_text: bool = False

    @property
    def length(self) -> int:
        """Tokens in the row."""
        return len(self.prefix) + sum(len(ids) for ids, _ in self.questions)


def encode_row(
    processor: ThinProcessor,
    images: Sequence[Image.Image],
    questions: Sequence[Question],
    *,
    system: str | None = None,
    words: list[int] | None = None,
    turns: bool = False,
    all_text: bool = False,
) -> Row:
    """Encode the views and the questions about them.

    words: ids for the image tokens in reading order. turns: pack the questions as turns of one conversation.
    all_text: every text token carries loss.
    """
    pixels = processor.encode_images(images)
    grids = pixels.get("image_grid_thw", pixels.get("image_sizes"))
    assert grids is not None
    token = processor.family.image_token
    prefix: list[int] = []
    encoded: list[tuple[list[int], int]] = []
    for question in questions:
        if turns and encoded:
            tail = processor.render_turn(question.text, system)
        else:
            head, _, tail = processor.render(len(images), question.text, system).rpartition(token)
            end_token = processor.family.end_token
            if end_token and tail.startswith(end_token):  # Qwen: part of the placeholders
                tail = tail.removeprefix(end_token)
                head = head.removesuffix(processor.family.start_token or "")
            if not prefix:
                before = processor.expand(processor.tokenize(head), grids[:-1])
                prefix = before + processor.image_placeholder_ids(grids[-1])
        answer = [*processor.tokenize(processor.render_answer(question.answer, system)), processor.end_id]
        encoded.append((processor.tokenize(tail) + answer, len(answer)))
    if not turns:
        common = _common_beginning(encoded)
        prefix += encoded[0][0][:common]
        encoded = [(ids[common:], answer) for ids, answer in encoded]
    return Row(prefix, encoded, words, pixels, turns, all_text)


def _common_beginning(questions: Sequence[tuple[list[int], int]]) -> int:
    """How many tokens all of several questions begin with; the last one before an answer, which predicts it, stays."""
    if len(questions) < 2:
        return 0
    most = min(len(ids) - answer for ids, answer in questions) - 1
    columns = zip(*(ids[:most] for ids, _ in questions), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def collate_rows(processor: ThinProcessor, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Rows -> model inputs, padded on the right.

    input_ids, mm_token_type_ids: [B, L]. labels: [B, L], IGNORE but for answers and end tokens (of an all_text
    row but for images, and for the first token of each packed question, which follows from none). word_labels: [B, L],
    the word that each image token itself should predict (absent when no row has words). attention_mask: [B, 1, L, L]
    bool. position_ids: [3, B, L] for M-RoPE families, else [B, L].
    """
    length = max(row.length for row in rows)
    ids = torch.full((len(rows), length), processor.pad_id, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORE)
    word_labels = torch.full_like(ids, IGNORE)
    segments = torch.full_like(ids, -1)  # -1 padding, 0 prefix, k question k
    positions = torch.zeros(3, len(rows), length, dtype=torch.int64)
    for b, row in enumerate(rows):
        end = len(row.prefix)
        ids[b, :end] = torch.tensor(row.prefix)
        segments[b, :end] = 0
        positions[:, b, :end] = prefix_positions(processor, row)
        start = int(positions[:, b, :end].max()) + 1
        if row.all_text:
            labels[b, :end] = torch.where(_is_text(processor, ids[b, :end]), ids[b, :end], IGNORE)
        if row.words is not None:
            word_labels[b, :end][ids[b, :end] == processor.image_token_id] = torch.tensor(row.words)
        for k, (tokens, answer) in enumerate(row.questions, start=1):
            here, end = end, end + len(tokens)
            ids[b, here:end] = torch.tensor(tokens)
            first = end - answer
            if row.all_text:
                first = here if row.turns or len(row.questions) == 1 else here + 1
            labels[b, first:end] = ids[b, first:end]
            segments[b, here:end] = 0 if row.turns else k  # a turn is part of what later ones see
            positions[:, b, here:end] = torch.arange(start, start + len(tokens))
            start += len(tokens) if row.turns else 0
    batch = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": _mask(segments),
        "position_ids": positions if processor.family.mrope else positions[0],
    }
    if any(row.words is not None for row in rows):
        batch["word_labels"] = word_labels
    if processor.family.mrope:
        batch["mm_token_type_ids"] = (ids == processor.image_token_id).to(torch.int64)
    return batch | collate_images([row.images for row in rows])


def cut_by_tokens(rows: Sequence[Row], most: int) -> list[list[Row]]:
    """The rows in parts of like length, the longest first; padded to its longest row a part has at most `most` tokens.

    Raises InputError for a row that is longer than that by itself.
    """
    parts: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        if row.length > most:
            raise InputError(
                f"a picture with its questions takes {row.length} tokens, more than tokens_per_batch={most}; raise it, "
                "crop smaller or ask fewer questions of a picture"
            )
        if parts and (len(parts[-1]) + 1) * parts[-1][0].length <= most:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def collate_parts(processor: ThinProcessor, rows: Sequence[Row], most: int) -> dict[str, Any]:
    """parts: `collate_rows` of each part of `cut_by_tokens`. labels: [1, N] all that carry loss, for counting."""
    parts = [collate_rows(processor, part) for part in cut_by_tokens(rows, most)]
    first = torch.tensor([IGNORE])  # Trainer leaves out the first label, which nothing predicts
    labels = torch.cat([first, *(part["labels"][:, 1:].flatten() for part in parts)])
    return {"parts": parts, "labels": labels[None]}


def without_loss(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same model inputs with no label left."""
    rest = {key: value for key, value in batch.items() if key != "word_labels"}
    return rest | {"labels": torch.full_like(batch["labels"], IGNORE)}


def prefix_positions(processor: ThinProcessor, row: Row) -> torch.Tensor:
    """[3, P] positions (time, row, column) of the prefix; the same number three times where they are 1-D.

    M-RoPE: text counts on, an image's tokens share one time step and carry their row and column from there, and the
    text after it continues from the larger of its sides (equal to transformers' get_rope_index; tests/test_rows.py).
    """
    ids = torch.tensor(row.prefix)
    out = torch.arange(len(ids)).repeat(3, 1)
    if not processor.family.mrope:
        return out
    is_image = ids == processor.image_token_id
    at = 0  # where the next image's tokens are looked for
    for _, rows, columns in row.images["image_grid_thw"].tolist():
        rows, columns = rows // processor.merge, columns // processor.merge
        start = at + int(torch.nonzero(is_image[at:])[0])
        at = start + rows * columns
        assert is_image[start:at].all(), f"fewer image tokens than a {rows}x{columns} grid has"
        first = int(out[0, start])
        out[0, start:at] = first
        out[1, start:at] = first + torch.arange(rows).repeat_interleave(columns)
        out[2, start:at] = first + torch.arange(columns).repeat(rows)
        out[:, at:] = first + max(rows, columns) + torch.arange(len(ids) - at)
    assert not is_image[at:].any(), "more image tokens than the images have"
    return out


def _is_text(processor: ThinProcessor, ids: torch.Tensor) -> torch.Tensor:
    """[N] which tokens are no part of an image."""
    p = processor
    marks = [p.image_token_id, p.image_start_id, p.image_end_id, p.image_break_id]
    return ~torch.isin(ids, torch.tensor([token for token in marks if token is not None]))


def _mask(segments: torch.Tensor) -> torch.Tensor:
    """[B, L] segments -> [B, 1, L, L] bool: causal, and a token sees the prefix and its own question only.

    Padding sees itself, so that no row of the softmax is empty.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    allowed = causal & ((key == 0) | (key == query)) & (key >= 0)
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]


def word_token(processor: ThinProcessor, text: str, needed_by: str = "image_words") -> int:
    """The single token that an answer text is. Raises InputError when the tokenizer needs several.

    needed_by: the recipe key, for the message.
    """
    ids = processor.tokenize(processor.render_answer(text))
    if len(ids) != 1:
        raise InputError(
            f"{needed_by} needs a tokenizer that holds an answer in one token; {text!r} takes {len(ids)}. "
            "Leave it out or train nano"
        )
    return ids[0]
