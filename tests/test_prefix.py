"""Questions that share the reading of their image are answered as each alone would be."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DynamicCache

from depthlm import view
from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inference import prefix as prefix_module
from depthlm.inference.dense import depth_map
from depthlm.inference.engine import Engine
from depthlm.inference.prefix import PrefixReader, SharedPrefix, common_length
from depthlm.inference.request import Answer
from depthlm.models.loading import load_model
from tiny import build_tiny

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral")
POINTS = np.array([[3.0, 4.0], [120.0, 71.0], [64.0, 8.0], [0.0, 95.0], [77.0, 50.0], [111.0, 2.0], [9.0, 9.0]])


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    model = load_model(build_tiny(request.param, tmp_path_factory.mktemp("prefix") / request.param))
    model.card.focal = 100.0
    return model


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (96, 128, 3), dtype=np.uint8))


def requests(loaded, seed=0, points=POINTS, **options):
    engine = Engine(loaded, reference="text", **options)
    return engine, engine.requests(picture(seed), Camera.from_focal(100.0, 128, 96), points)


def conversations(loaded):
    """(first conversation encoded, token ids of all)."""
    engine, asked = requests(loaded)
    processor, system = loaded.processor, engine.prompt.system
    encoded = [processor.encode(r.images(), r.question, None, system) for r in asked]
    return encoded[0], [item.input_ids.tolist() for item in encoded]


def test_logits_equal_those_of_whole_conversations(loaded):
    first, rows = conversations(loaded)
    length = common_length(rows)
    assert first.mm_token_type_ids[:length].sum() == first.mm_token_type_ids.sum() or not loaded.processor.family.mrope
    reader = PrefixReader(loaded.model, mrope=loaded.processor.family.mrope, batch_mem=64)
    prefix = reader.read(rows[0][:length], first.images)
    own = max(len(row) for row in rows) - length
    ids = torch.zeros(len(rows), own, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, own - len(row) + length :] = torch.tensor(row[length:])
        mask[i, own - len(row) + length :] = 1
    cache = DynamicCache(config=loaded.model.config.get_text_config())
    shared = reader.step(prefix, ids, mask, cache)
    assert cache.get_seq_length() == own
    further = torch.arange(len(rows))[:, None] + 5  # and one more token each
    grown = reader.step(prefix, further, torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1), cache)
    processor = loaded.processor
    for i, row in enumerate(rows):
        ids = torch.tensor([[*row, int(further[i, 0])]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **first.images}
        if processor.needs_token_types:
            inputs["mm_token_type_ids"] = (ids == processor.image_token_id).long()
        with torch.no_grad():
            whole = loaded.model(**inputs, use_cache=False).logits[0].float()
        limit = 1e-5 * whole.abs().max()
        assert (shared[i] - whole[-2]).abs().max() <= limit
        assert (grown[i] - whole[-1]).abs().max() <= limit
    assert loaded.model.config.get_text_config()._attn_implementation != "depthlm_shared_prefix"


@pytest.mark.parametrize(("groups", "per_group", "length"), [(1, 1, 1), (2, 3, 1), (3, 2, 4), (4, 1, 5)])
def test_attention_over_two_parts_is_attention_over_their_sum(groups, per_group, length):
    """By one softmax over everything, head by head; the tiny checkpoints have one key-value head only."""
    generator = torch.Generator().manual_seed(0)
    rows, own, shared, width, heads = 3, length + 2, 7, 8, groups * per_group

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    query, key, value = draw(rows, heads, length, width), draw(rows, groups, own, width), draw(rows, groups, own, width)
    prefix = SharedPrefix(torch.arange(shared), [draw(groups, shared, width)], [draw(groups, shared, width)], shared)
    mask = torch.ones(length, own, dtype=torch.bool).tril(own - length)[None].repeat(rows, 1, 1)
    mask[0, :, :2] = False  # padding
    prefix_module._ACTIVE.append(prefix)
    try:
        found, _ = prefix_module._shared_attention(SimpleNamespace(layer_idx=0), query, key, value, mask[:, None], 0.3)
    finally:
        prefix_module._ACTIVE.pop()
    for row in range(rows):
        for head in range(heads):
            group = head // per_group
            keys = torch.cat([prefix.keys[0][group], key[row, group]])
            values = torch.cat([prefix.values[0][group], value[row, group]])
            scores = query[row, head] @ keys.T * 0.3
            scores[:, shared:][~mask[row]] = float("-inf")
            assert torch.allclose(found[row, :, head], scores.softmax(-1) @ values, atol=1e-5)


@pytest.mark.parametrize("read", ["greedy", "median"])
def test_answers_equal_those_asked_alone(loaded, read, monkeypatch):
    shared, asked = requests(loaded, read=read)
    alone = Engine(loaded, reference="text", read=read, shares=False, batch=3)
    expected = alone.ask(asked)
    monkeypatch.setattr(Engine, "_ask_batch", lambda *_: pytest.fail("asked alone"))
    compare(shared.ask(asked), expected)


def compare(found, expected):
    assert [a.text for a in found] == [b.text for b in expected]
    for a, b in zip(found, expected, strict=True):
        for name in ("value", "low", "high", "mass"):
            assert getattr(a, name) == (None if getattr(b, name) is None else pytest.approx(getattr(b, name), rel=1e-4))


def test_chunks_and_order_do_not_matter(loaded, monkeypatch):
    engine, asked = requests(loaded)
    whole = engine.ask(asked)
    monkeypatch.setattr(PrefixReader, "chunk", lambda *_: 2)
    compare(engine.ask(asked), whole)
    compare(engine.ask(asked[::-1]), whole[::-1])


def test_several_images_and_single_questions(loaded):
    engine, asked = requests(loaded)
    _, other = requests(loaded, seed=1, points=POINTS[:1])
    _, third = requests(loaded, seed=2, points=POINTS[2:5])
    mixed = [*asked[:3], *other, *third]
    compare(engine.ask(mixed), Engine(loaded, reference="text", shares=False).ask(mixed))


@pytest.fixture
def readings(loaded, monkeypatch):
    """How often a picture was read."""
    seen = []
    read = PrefixReader.read
    monkeypatch.setattr(PrefixReader, "read", lambda self, *given: (seen.append(1), read(self, *given))[1])
    return seen


def test_a_picture_that_somebody_holds_is_read_once(loaded, readings):
    expected = Engine(loaded, reference="text", shares=False).ask(requests(loaded)[1])
    engine, asked = requests(loaded)
    found = engine.ask(asked[1:3]) + engine.ask(asked[3:4]) + engine.ask(asked[4:]) + engine.ask(asked[:1])
    compare(found, [*expected[1:], expected[0]])
    assert len(readings) == 1


def test_another_picture_in_between_is_read_too(loaded, readings):
    engine, asked = requests(loaded)
    _, other = requests(loaded, seed=1)
    found = engine.ask(asked[:2]) + engine.ask(other[:3]) + engine.ask(asked[2:])
    alone = Engine(loaded, reference="text", shares=False)
    compare(found, alone.ask([*asked[:2], *other[:3], *asked[2:]]))
    assert len(readings) == 3


def test_what_was_read_goes_with_the_picture(loaded):
    engine, asked = requests(loaded)
    engine.ask(asked)
    assert engine._last is not None
    del asked
    gc.collect()
    assert engine._last is None


def test_views_like_an_earlier_one_share_its_picture_and_nothing_else(loaded):
    engine, camera = Engine(loaded, reference="text"), Camera.from_focal(80.0, 128, 96)
    image = picture()
    whole = engine.whole_view(image, camera)
    for points in (POINTS, POINTS[:0]):
        plain, like = (engine.requests(image, camera, points, like=view) for view in (None, whole))
        assert [request.question for request in like] == [request.question for request in plain]
        assert all(request.view.image is whole.image for request in like)
    marked = Engine(loaded, reference="arrow")
    corner = marked.requests(image, camera, POINTS[:1], like=whole)[0]
    assert corner.view.image is not whole.image, "its marker needs more room"
    assert corner.view.transform == marked.requests(image, camera, POINTS[:1])[0].view.transform
    with pytest.raises(InputError, match="lies outside"):
        engine.requests(image, camera, [[500, 3]], like=whole)


def test_a_map_reads_its_picture_once(loaded, readings, monkeypatch):
    resampled = []
    honest = view._resample
    monkeypatch.setattr(view, "_resample", lambda *given: (resampled.append(1), honest(*given))[1])
    monkeypatch.setattr(Engine, "answer", lambda self, request, *_: Answer("", 1.0 + request.uv[0, 0] / 50, 1.0, 2.0))
    found = depth_map(Engine(loaded, reference="text"), picture(), Camera.from_focal(80.0, 128, 96), budget=60)
    assert len(found.uv) == 60
    assert len(readings) == len(resampled) == 1


def test_markers_show_each_a_picture_of_its_own(loaded, monkeypatch):
    engine = Engine(loaded, reference="arrow")
    asked = engine.requests(picture(), Camera.from_focal(100.0, 128, 96), POINTS[[4, 2]])
    monkeypatch.setattr(Engine, "_ask_shared", lambda *_: pytest.fail("shared"))
    assert len(engine.ask(asked)) == 2


def test_a_repetition_penalty_is_applied_as_generate_does(loaded, monkeypatch):
    monkeypatch.setattr(loaded.model.generation_config, "repetition_penalty", 1.4)
    engine, asked = requests(loaded, intervals=False)
    penalised = engine.ask(asked)
    compare(penalised, Engine(loaded, reference="text", intervals=False, shares=False).ask(asked))


def test_the_memory_budget_bounds_a_chunk(loaded):
    first, rows = conversations(loaded)
    reader = PrefixReader(loaded.model, mrope=loaded.processor.family.mrope, batch_mem=4)
    prefix = reader.read(rows[0][: common_length(rows)], first.images)
    some, more = reader.chunk(prefix, 7), reader.chunk(prefix, 14)
    assert some > more > 1, "longer questions, fewer of them"
    reader.batch_mem = 8
    assert reader.chunk(prefix, 7) in (2 * some, 2 * some + 1)
    assert PrefixReader(loaded.model, mrope=False, batch_mem=1e-6).chunk(prefix, 7) == 1


@pytest.mark.parametrize(
    ("rows", "length"),
    [([[1, 2, 3]], 2), ([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 3]], 1), ([[1], [2]], 0), ([[5, 1], [6, 1]], 0)],
)
def test_common_length_leaves_each_row_a_token(rows, length):
    assert common_length(rows) == length
