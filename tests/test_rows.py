"""Packed rows: training on K questions equals asking each alone, and only answers carry loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from depthlm.errors import InputError
from depthlm.models.chat import IGNORE
from depthlm.models.loading import load_model
from depthlm.tasks import Question
from depthlm.training.loss import answer_loss
from depthlm.training.rows import collate_rows, encode_row, prefix_positions, word_token
from tiny import build_tiny

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral")
QUESTIONS = [
    Question("How far is (1, 2)?", "1.23", 1.23),
    Question("How far is the point at (12, 700)?", "45.60", 45.6),
    Question("far?", "0.07", 0.07),
]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    return load_model(build_tiny(request.param, tmp_path_factory.mktemp("rows") / request.param))


def picture(columns: int, rows: int, grid: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (rows * grid, columns * grid, 3), dtype=np.uint8))


def logits_at_answers(loaded, rows):
    batch = collate_rows(loaded.processor, rows)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = loaded.model(**batch, use_cache=False).logits
    here = labels[:, 1:] != IGNORE
    return logits[:, :-1][here], labels[:, 1:][here]


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 2)])
def test_packed_questions_give_the_logits_of_each_asked_alone(tiny, size):
    image = picture(*size, tiny.processor.grid)
    packed, labels = logits_at_answers(tiny, [encode_row(tiny.processor, [image], QUESTIONS)])
    alone = [logits_at_answers(tiny, [encode_row(tiny.processor, [image], [qa])]) for qa in QUESTIONS]
    expected = torch.cat([logits for logits, _ in alone])
    assert torch.equal(labels, torch.cat([target for _, target in alone]))
    assert (packed - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_rows_of_unequal_size_do_not_disturb_each_other(tiny):
    rows = [
        encode_row(tiny.processor, [picture(3, 2, tiny.processor.grid, 1)], QUESTIONS),
        encode_row(tiny.processor, [picture(1, 1, tiny.processor.grid, 2)], QUESTIONS[:1]),
    ]
    together, _ = logits_at_answers(tiny, rows)
    alone = torch.cat([logits_at_answers(tiny, [row])[0] for row in rows])
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_one_question_is_the_conversation_the_processor_encodes(tiny):
    image = picture(2, 3, tiny.processor.grid)
    row = encode_row(tiny.processor, [image], QUESTIONS[:1])
    encoded = tiny.processor.encode([image], QUESTIONS[0].text, QUESTIONS[0].answer)
    batch = collate_rows(tiny.processor, [row])
    assert torch.equal(batch["input_ids"][0], encoded.input_ids)
    assert torch.equal(batch["labels"][0], encoded.labels)


def test_positions_are_those_of_transformers(tiny):
    row = encode_row(tiny.processor, [picture(4, 2, tiny.processor.grid)], QUESTIONS[:1])
    batch = collate_rows(tiny.processor, [row])
    if not tiny.processor.family.mrope:
        assert torch.equal(batch["position_ids"][0], torch.arange(row.length)), "1-D: they count on"
        return
    expected, _ = tiny.model.model.get_rope_index(
        batch["input_ids"], batch["mm_token_type_ids"], image_grid_thw=batch["image_grid_thw"]
    )
    assert torch.equal(batch["position_ids"][:, 0], expected[:, 0].to(torch.int64))
    positions = prefix_positions(tiny.processor, row)
    assert (positions[1] != positions[2]).any(), "rows and columns of the image differ"


def test_turns_are_one_conversation_of_the_template(tiny):
    processor = tiny.processor
    row = encode_row(processor, [picture(3, 2, processor.grid)], QUESTIONS, turns=True)
    batch = collate_rows(processor, [row])
    messages = []
    for number, question in enumerate(QUESTIONS):
        text = {"type": "text", "text": question.text}
        content = [{"type": "image"}, text] if number == 0 else [text]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": question.answer}]
    whole = processor.tokenizer.apply_chat_template(messages, tokenize=False)
    grids = batch.get("image_grid_thw", batch.get("image_sizes"))
    expected = processor.expand(processor.tokenize(whole), grids)
    ids = batch["input_ids"][0].tolist()
    assert processor.tokenizer.decode(ids) == processor.tokenizer.decode(expected[: len(ids)])
    assert not processor.tokenizer.decode(expected[len(ids) :]).strip(), "nothing but the template's last line break"
    assert batch["labels"][0][batch["labels"][0] != IGNORE].tolist() == [
        token
        for question in QUESTIONS
        for token in [*processor.tokenize(processor.render_answer(question.answer)), processor.end_id]
    ]


def test_turns_see_all_that_came_before(tiny):
    rows = [
        encode_row(tiny.processor, [picture(2, size, tiny.processor.grid)], QUESTIONS[: size + 1], turns=True)
        for size in (1, 2)
    ]
    batch = collate_rows(tiny.processor, rows)
    for b, row in enumerate(rows):
        n = row.length
        assert torch.equal(batch["attention_mask"][b, 0, :n, :n], torch.ones(n, n, dtype=torch.bool).tril())
    if tiny.processor.family.mrope:
        n = rows[1].length
        expected, _ = tiny.model.model.get_rope_index(
            batch["input_ids"][1:], batch["mm_token_type_ids"][1:], image_grid_thw=batch["image_grid_thw"][1:]
        )
        assert torch.equal(batch["position_ids"][:, 1, :n], expected[:, 0, :n].to(torch.int64))
    else:
        assert torch.equal(batch["position_ids"][1], torch.arange(rows[1].length))


def test_one_turn_is_one_question(tiny):
    image = picture(2, 2, tiny.processor.grid)
    one, other = (collate_rows(tiny.processor, [encode_row(tiny.processor, [image], QUESTIONS[:1], turns=turns)])
                  for turns in (False, True))  # fmt: skip
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_all_questions_begin_with_is_in_the_row_once(tiny):
    image = picture(2, 2, tiny.processor.grid)
    asked = [
        QUESTIONS[0]._replace(text="How far is the point " + place) for place in ("(1, 2)?", "(1, 30)?", "(4, 5)?")
    ]
    alone = [encode_row(tiny.processor, [image], [question]) for question in asked]
    row = encode_row(tiny.processor, [image], asked)
    assert row.length < sum(one.length for one in alone) - 2 * len(alone[0].prefix) - 6
    for one, (ids, answer) in zip(alone, row.questions, strict=True):
        assert row.prefix + ids == one.prefix + one.questions[0][0]
        assert 0 < answer == one.questions[0][1] < len(ids), "the token before an answer predicts it"
    same = encode_row(tiny.processor, [image], asked[:1] * 2)
    assert [len(ids) - answer for ids, answer in same.questions] == [1, 1]


TWO = [(1, 3), (4, 2)]  # columns and rows of two unequal pictures


@pytest.mark.parametrize("sizes", [TWO, TWO[::-1], [(1, 1), (1, 1)]])
def test_packed_questions_about_two_pictures_give_the_logits_of_each_asked_alone(tiny, sizes):
    images = [picture(*size, tiny.processor.grid, seed) for seed, size in enumerate(sizes)]
    packed, labels = logits_at_answers(tiny, [encode_row(tiny.processor, images, QUESTIONS)])
    alone = [logits_at_answers(tiny, [encode_row(tiny.processor, images, [qa])]) for qa in QUESTIONS]
    expected = torch.cat([logits for logits, _ in alone])
    assert torch.equal(labels, torch.cat([target for _, target in alone]))
    assert (packed - expected).abs().max() <= 1e-5 * expected.abs().max()
    swapped, _ = logits_at_answers(tiny, [encode_row(tiny.processor, images[::-1], QUESTIONS)])
    assert (packed - swapped).abs().max() > 1e-4 * expected.abs().max(), "which picture is first matters"


def test_two_pictures_come_first_and_are_the_conversation_the_processor_encodes(tiny):
    images = [picture(*size, tiny.processor.grid, seed) for seed, size in enumerate(TWO)]
    row = encode_row(tiny.processor, images, QUESTIONS[:1])
    encoded = tiny.processor.encode(images, QUESTIONS[0].text, QUESTIONS[0].answer)
    batch = collate_rows(tiny.processor, [row])
    assert torch.equal(batch["input_ids"][0], encoded.input_ids)
    assert torch.equal(batch["labels"][0], encoded.labels)
    for name, tensor in encoded.images.items():
        assert torch.equal(batch[name], tensor)
    assert tiny.processor.image_token_id not in row.questions[0][0]


@pytest.mark.parametrize("sizes", [TWO, TWO[::-1], [(2, 2), (2, 2), (5, 1)]])
def test_positions_of_several_pictures_are_those_of_transformers(tiny, sizes):
    """Rows of one, two and three pictures in one batch."""
    images = [picture(*size, tiny.processor.grid, seed) for seed, size in enumerate(sizes)]
    rows = [encode_row(tiny.processor, images[:count], QUESTIONS[:1]) for count in range(1, len(images) + 1)]
    batch = collate_rows(tiny.processor, rows)
    if not tiny.processor.family.mrope:
        for b, row in enumerate(rows):
            assert torch.equal(batch["position_ids"][b, : row.length], torch.arange(row.length))
        return
    mask = torch.arange(batch["input_ids"].shape[1]) < torch.tensor([row.length for row in rows])[:, None]
    expected, _ = tiny.model.model.get_rope_index(
        batch["input_ids"],
        batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=mask.to(torch.int64),
    )
    for b, row in enumerate(rows):
        assert torch.equal(batch["position_ids"][:, b, : row.length], expected[:, b, : row.length].to(torch.int64))


def test_words_are_learned_at_the_image_tokens_of_both_pictures(tiny):
    words = [7, IGNORE, 9, 11, 8, IGNORE, 5, 6, 7, 8, 9]
    images = [picture(*size, tiny.processor.grid) for size in TWO]
    batch = collate_rows(tiny.processor, [encode_row(tiny.processor, images, QUESTIONS[:1], words=words)])
    assert batch["word_labels"][batch["input_ids"] == tiny.processor.image_token_id].tolist() == words


def test_only_answers_and_the_end_token_carry_loss(tiny):
    row = encode_row(tiny.processor, [picture(2, 2, tiny.processor.grid)], QUESTIONS)
    batch = collate_rows(tiny.processor, [row])
    labelled = batch["labels"][0][batch["labels"][0] != IGNORE].tolist()
    expected = []
    for qa in QUESTIONS:
        expected += [*tiny.processor.tokenize(tiny.processor.render_answer(qa.answer)), tiny.processor.end_id]
    assert labelled == expected


def test_the_loss_ignores_what_the_question_would_be_labelled(tiny):
    """Another token where nothing is labelled changes the labels of the question only: the loss must not move."""
    batch = collate_rows(tiny.processor, [encode_row(tiny.processor, [picture(2, 2, tiny.processor.grid)], QUESTIONS)])
    loss, parts = answer_loss(tiny.model, batch)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = tiny.model(**inputs, use_cache=False).logits[:, :-1]
    here = batch["labels"][:, 1:] != IGNORE
    by_hand = -logits.log_softmax(-1)[here].gather(1, batch["labels"][:, 1:][here][:, None]).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert parts["labels"] == here.sum()
    labelled_too = batch | {"labels": torch.where(batch["labels"] == IGNORE, batch["input_ids"], batch["labels"])}
    assert answer_loss(tiny.model, labelled_too)[0].item() != pytest.approx(loss.item(), rel=1e-5)


def test_accumulated_micro_batches_sum_to_one_large_batch(tiny):
    grid = tiny.processor.grid
    rows = [encode_row(tiny.processor, [picture(2, 1, grid, i)], QUESTIONS[: i + 1]) for i in range(3)]
    whole = collate_rows(tiny.processor, rows)
    items = int((whole["labels"] != IGNORE).sum())
    parts = [answer_loss(tiny.model, collate_rows(tiny.processor, [row]), items=items)[0].item() for row in rows]
    assert sum(parts) == pytest.approx(answer_loss(tiny.model, whole)[0].item(), rel=1e-5)


def test_words_are_learned_at_the_image_tokens_themselves(tiny):
    grid = tiny.processor.grid
    words = [7, IGNORE, 9, 11, 8, IGNORE]
    row = encode_row(tiny.processor, [picture(3, 2, grid)], QUESTIONS[:1], words=words)
    batch = collate_rows(tiny.processor, [row])
    at_image = batch["input_ids"] == tiny.processor.image_token_id
    assert batch["word_labels"][at_image].tolist() == words
    assert (batch["word_labels"][~at_image] == IGNORE).all()
    plain, _ = answer_loss(tiny.model, batch)
    with_words, parts = answer_loss(tiny.model, batch, word_weight=0.5)
    assert with_words.item() == pytest.approx(plain.item() + 0.5 * parts["word_loss"], rel=1e-5)


def test_a_word_that_needs_several_tokens_is_refused(tiny):
    with pytest.raises(InputError, match="one token"):
        word_token(tiny.processor, "1.23")


@pytest.mark.parametrize("turns", [False, True])
def test_loss_on_the_whole_text(tiny, turns):
    """all_text: questions carry loss too, images never, nor the first token of a packed question."""
    image = picture(2, 2, tiny.processor.grid)
    rows = [encode_row(tiny.processor, [image], QUESTIONS[:2], turns=turns, all_text=text) for text in (False, True)]
    answers, text = (collate_rows(tiny.processor, [row]) for row in rows)
    ids = text["input_ids"][0]
    assert torch.equal(ids, answers["input_ids"][0])
    said = answers["labels"][0] != IGNORE
    all_text = text["labels"][0] != IGNORE
    assert (all_text | ~said).all()
    assert torch.equal(text["labels"][0][all_text], ids[all_text])
    images = text["mm_token_type_ids"][0] != 0 if "mm_token_type_ids" in text else ids == tiny.processor.image_token_id
    assert not (all_text & images).any()
    assert all_text.sum() > said.sum() + 10
    starts = 0 if turns else len(rows[1].questions)  # packed ones follow from no token of their own row
    assert int((~all_text & ~images).sum()) <= starts + 4  # and what frames an image
