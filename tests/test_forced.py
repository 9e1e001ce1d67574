"""Begun answers: the number is what `generate` writes after the same beginning, however many are asked at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.inference.numbers import NumberEnds, NumberVocabulary
from depthlm.inference.prefix import _attend, _attend_to_all
from depthlm.models.loading import load_model
from depthlm.prompts import PROMPTS
from depthlm.synth.generate import synth_samples
from depthlm.tasks import get_task
from tiny import build_tiny

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral")
UV = [(20.0, 30.0), (70.0, 12.5), (33.0, 60.0), (90.0, 88.0), (45.0, 45.0)]


def bias_to_numbers(loaded):
    """Random weights write anything: raise the digits and the point so that numbers of several lengths come out."""
    vocabulary = NumberVocabulary(loaded.processor.tokenizer)
    head = loaded.model.lm_head
    bias = torch.full((head.weight.shape[0],), -30.0)
    bias[list(vocabulary.following)] = 0.0
    bias[loaded.processor.tokenizer.convert_tokens_to_ids(".")] = 0.15
    head.register_forward_hook(lambda module, args, out: out + bias)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    loaded = load_model(build_tiny(request.param, tmp_path_factory.mktemp("forced") / request.param))
    loaded.card.focal = 100.0
    loaded.card.references = ["text", "arrow"]
    bias_to_numbers(loaded)
    return loaded


def ask(engine):
    picture = np.random.default_rng(0).integers(0, 255, (96, 112, 3), dtype=np.uint8)
    asked = engine.requests(Image.fromarray(picture), Camera.from_focal(100.0, 112, 96), UV)
    return asked, engine.ask(asked)


def continued(engine, request):
    """The begun answer, continued by `generate` alone for eight tokens, up to the end of its number."""
    processor = engine.loaded.processor
    encoded = processor.encode(
        request.images(), request.question, None, engine.prompt.system, prefill=request.lead or ""
    )
    inputs = processor.collate([encoded], pad="left")
    inputs.pop("labels")
    with torch.inference_mode():
        ids = engine.loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, len(encoded) :].tolist()
    count, _ = engine.vocabulary.number(ids, engine.prompt.complete)
    return (request.lead or "") + processor.tokenizer.decode(ids[: count or len(ids)], skip_special_tokens=True)


@pytest.mark.parametrize("reference", ["text", "arrow"])
def test_begun_answers_go_on_as_generate_does(loaded, reference):
    engine = Engine(loaded, reference=reference, intervals=False, batch=3)
    asked, answers = ask(engine)
    assert asked[0].lead == "<answer>"
    expected = [continued(engine, request) for request in asked]
    assert [answer.text for answer in answers] == expected
    assert all(answer.text[len("<answer>") :][:1].isdigit() for answer in answers), "numbers come out at all"


def test_shared_and_whole_readings_begin_alike(loaded):
    shared, whole = (Engine(loaded, reference="text", shares=shares) for shares in (True, False))
    for one, other in zip(ask(shared)[1], ask(whole)[1], strict=True):
        assert one.text == other.text
        assert one.low == other.low or one.low == pytest.approx(other.low, rel=1e-4)


def test_fewer_decimals_are_the_same_number_cut(loaded):
    full, cut = (Engine(loaded, reference="text", intervals=False, decimals=n) for n in (None, 1))
    for one, other in zip(ask(full)[1], ask(cut)[1], strict=True):
        assert one.text.startswith(other.text)
        assert len(other.text.rpartition(".")[2]) <= 1 or "." not in other.text
    with pytest.raises(InputError, match="--decimals is -1"):
        Engine(loaded, decimals=-1)
    with pytest.raises(InputError, match="--batch-mem is 0"):
        Engine(loaded, batch_mem=0)


def test_nano_says_the_same_begun_or_free():
    """It always answers with its number, so that beginning the answer for it changes nothing."""
    nano = load_model("nano")
    for reference in ("text", "arrow"):
        begun, free = (Engine(nano, reference=reference, forced=forced) for forced in (True, False))
        for sample in synth_samples(2, seed=31, views=1, points=12):
            replies = [
                engine.ask(engine.requests(sample.load_image(), sample.camera, sample.uv)) for engine in (begun, free)
            ]
            for one, other in zip(*replies, strict=True):
                assert one.value == other.value
                assert (one.low, one.high) == (other.low, other.high)


@pytest.mark.parametrize(
    ("task", "lead"),
    [("distance", "<answer>"), ("z", "<answer>"), ("speed", None), ("nearer", None), ("surface", None)],
)
def test_only_a_constant_beginning_before_one_number_is_begun(loaded, task, lead):
    sample = next(iter(synth_samples(1, seed=3, views=1, points=20)))
    engine = Engine(loaded, reference="text")
    view = engine.views(sample.load_image(), sample.camera, sample.uv, sample.z)[0]
    assert get_task(task).lead(engine.context(view, 0)) == lead


@pytest.mark.parametrize(
    ("ids", "kept"),
    [("1.23", 4), ("1.234", 4), ("12.3x", 4), ("x1", 0), (".5", 0), ("1.2.3", 3), ("7", 1), ("", 0)],
)
def test_where_a_number_ends(tmp_path, ids, kept):
    tokenizer = load_model(build_tiny("qwen3_vl", tmp_path / "m")).processor.tokenizer
    vocabulary = NumberVocabulary(tokenizer)
    tokens = [tokenizer.convert_tokens_to_ids(character) for character in ids]
    complete = PROMPTS["depthlm"].complete
    count, ended = vocabulary.number(tokens, complete)
    assert (count, ended) == (kept, kept < len(ids) or ids in ("1.23",))
    rows = torch.tensor([[0, *tokens]])
    assert NumberEnds(vocabulary, 1, complete)(rows, None).tolist() == [ended]


@pytest.mark.parametrize(
    ("prompt", "number", "whole"),
    [
        *(("depthlm", "1.2", False), ("depthlm", "12", False), ("depthlm", "0.05", True)),
        *(("nano", "0.4", False), ("nano", "0.47", True), ("nano", "2.3", True)),
        *(("nano", "12", True), ("nano", "2", False), ("nano", "0.050", True)),
    ],
)
def test_when_a_prompt_has_all_digits(prompt, number, whole):
    assert PROMPTS[prompt].complete(number) is whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_kernel_is_attention_written_out(dtype):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 70, 16), torch.randn(2, 33, 16), torch.randn(2, 33, 16)
    out, mass = _attend_to_all(query.to(dtype), key.to(dtype), value.to(dtype))
    expected, total = _attend(query, key, value, None)
    close = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    assert torch.allclose(out.float(), expected, atol=close, rtol=close)
    assert torch.allclose(mass, total, atol=close, rtol=close)
