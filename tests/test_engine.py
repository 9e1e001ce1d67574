"""The engine on a tiny checkpoint of each family: batching, intervals against a slow computation, measuring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inference.backend import convert
from depthlm.inference.engine import Engine
from depthlm.inference.interval import Belief, Leaf, NumberBeam, whole_step
from depthlm.inference.numbers import NumberVocabulary, find_number
from depthlm.inference.request import Answer, Request
from depthlm.models.loading import LoadedModel, load_model
from tiny import build_tiny

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral")
POINTS = [(5.0, 4.0), (30.0, 20.0), (63.0, 47.0), (0.0, 0.0)]


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    model = load_model(build_tiny(request.param, tmp_path_factory.mktemp(request.param) / "tiny"))
    model.card.max_new_tokens = 6
    return model


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def camera_for(loaded: LoadedModel, width: int = 64, height: int = 48) -> Camera:
    """One that is not resampled much: tiny views keep the tests quick."""
    return Camera.from_focal(loaded.card.focal, width, height)


@pytest.mark.parametrize("reference", ["arrow", "text"])
def test_batch_of_one_equals_batch_of_many(loaded: LoadedModel, reference: str) -> None:
    """Different image sizes and question lengths in one padded batch: same text, same interval."""
    requests = []
    for seed, (width, height) in enumerate([(64, 48), (97, 30), (33, 80)]):
        engine = Engine(loaded, reference=reference)
        points = [(3.0, 4.0), (25.0, 29.0)]
        requests += engine.requests(picture(width, height, seed), camera_for(loaded, width, height), points)
    alone = Engine(loaded, reference=reference, batch=1).ask(requests)
    together = Engine(loaded, reference=reference, batch=len(requests)).ask(requests)
    for a, b in zip(alone, together, strict=True):
        assert a.text == b.text
        assert a.value == b.value
        if a.mass is not None and b.mass is not None:
            assert a.mass == pytest.approx(b.mass, abs=1e-4)


def test_two_pictures_are_asked_about_as_one(loaded: LoadedModel) -> None:
    """Alone and in a batch with one-picture questions; the second picture and the order of the two matter."""
    engine = Engine(loaded, reference="text")
    pictures = [(picture(*size, seed), camera_for(loaded, *size)) for seed, size in enumerate([(64, 48), (97, 30)])]
    views = [engine.whole_view(image, camera) for image, camera in pictures]
    question = "How many meters has the camera moved between these 2 images?"
    pairs = [
        Request(first, np.empty((0, 2)), question, engine.reference, second=second)
        for first, second in (views, views[::-1], (views[0], views[0]))
    ]
    singles = engine.requests(*pictures[0], [(3.0, 4.0)])
    together = Engine(loaded, reference="text", batch=4).ask([*pairs, *singles])
    alone = Engine(loaded, reference="text", batch=1).ask([*pairs, *singles])
    assert [a.text for a in together] == [a.text for a in alone]
    assert [len(request.images()) for request in [*pairs, *singles]] == [2, 2, 2, 1]
    logits = []
    for request in pairs:
        inputs = loaded.processor.collate([loaded.processor.encode(request.images(), question)])
        inputs.pop("labels")
        with torch.inference_mode():
            logits.append(loaded.model(**inputs).logits[0, -1])
    for a, b in ((0, 1), (0, 2)):
        assert (logits[a] - logits[b]).abs().max() > 1e-5 * logits[a].abs().max()


def test_logits_do_not_depend_on_the_batch(loaded: LoadedModel) -> None:
    """The same at the level of numbers: left padding and other rows change the next-token logits by < 1e-4."""
    processor, model = loaded.processor, loaded.model
    encoded = [
        processor.encode([picture(columns * processor.grid, 2 * processor.grid)], question)
        for columns, question in [(2, "How far?"), (4, "How far is the point at (3, 4)?"), (3, "?")]
    ]

    def last_logits(items: list[Any]) -> torch.Tensor:
        batch = processor.collate(items, pad="left")
        batch.pop("labels")
        with torch.inference_mode():
            output = loaded.model.generate(
                **batch, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
        return output.logits[0]

    together = last_logits(encoded)
    for row, item in enumerate(encoded):
        torch.testing.assert_close(last_logits([item])[0], together[row], atol=1e-4, rtol=0)
    assert model.training is False


def test_beam_equals_full_forward_passes(loaded: LoadedModel) -> None:
    """Probabilities on the shared, masked cache are those of a plain forward pass over each number."""
    processor, tokenizer = loaded.processor, loaded.processor.tokenizer
    vocabulary = NumberVocabulary(tokenizer)
    items = [
        processor.encode([picture(c * processor.grid, 2 * processor.grid, c)], question)
        for c, question in [(2, "How far?"), (3, "How far is it now?")]
    ]
    answers = [processor.tokenize(text) for text in ("<answer>1.25</answer>", "around 3.50 meters, yes")]
    length = max(len(a) for a in answers)
    answers = [a + [processor.pad_id] * (length - len(a)) for a in answers]
    starts = [find_number(tokenizer, a, n, vocabulary) for a, n in zip(answers, ("1.25", "3.50"), strict=True)]
    assert None not in starts
    assert starts[0] != starts[1]  # rows that branch at different places
    batch = processor.collate(items, pad="left")
    batch.pop("labels")
    prompt_mask = batch["attention_mask"]
    sequences = torch.cat([batch["input_ids"], torch.tensor(answers)], dim=1)
    with torch.inference_mode():
        cache = _cache_of(loaded, batch, torch.tensor(answers)[:, :-1])
        beam = NumberBeam(whole_step(loaded.model), vocabulary, width=3, levels=3, negligible=0)
        found = beam.leaves(sequences, prompt_mask, cache, starts)
    for row, leaves in enumerate(found):
        assert {len(leaf.literal) for leaf in leaves} == {1, 2, 3}
        for leaf in sorted(leaves, key=lambda leaf: -leaf.probability)[:6]:
            slow = _slow_probability(loaded, items[row], answers[row][: starts[row]], leaf, vocabulary)
            assert leaf.probability == pytest.approx(slow, rel=1e-3, abs=1e-7)


def _cache_of(loaded: LoadedModel, batch: dict[str, Any], answers: torch.Tensor) -> Any:
    """The cache `generate` would leave behind had it written these answers: prompt first, then token by token."""
    cache = loaded.model.generate(**batch, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    beam = NumberBeam(whole_step(loaded.model), NumberVocabulary(loaded.processor.tokenizer))
    mask = batch["attention_mask"]
    for column in answers.T:
        _, mask = beam._grow(column[:, None], mask, cache.past_key_values, repeats=1)
    return cache.past_key_values


def _slow_probability(
    loaded: LoadedModel, item: Any, before: list[int], leaf: Leaf, vocabulary: NumberVocabulary
) -> float:
    """P(leaf), digit by digit, each by a forward pass without any cache. Tiny tokenizers write single digits."""
    tokenizer, total, written = loaded.processor.tokenizer, 1.0, list(before)
    for number, character in enumerate(leaf.literal):
        ids = [i for i, s in (vocabulary.first if number == 0 else vocabulary.following).items() if s == character]
        chosen = [i for i in ids if tokenizer.convert_ids_to_tokens(i) == character]
        total *= float(_next(loaded, item, written)[chosen].sum())
        written += chosen
    if not leaf.is_open:
        further = [i for i, s in vocabulary.following.items() if not ("." in leaf.literal and "." in s)]
        total *= 1 - float(_next(loaded, item, written)[further].sum())
    return total


def _next(loaded: LoadedModel, item: Any, written: list[int]) -> torch.Tensor:
    batch = loaded.processor.collate([item], pad="left")
    batch.pop("labels")
    extra = torch.tensor([written], dtype=torch.int64)
    batch["input_ids"] = torch.cat([batch["input_ids"], extra], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if "mm_token_type_ids" in batch:
        batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(extra)], dim=1)
    with torch.inference_mode():
        return torch.softmax(loaded.model(**batch).logits[0, -1].float(), dim=-1)


def test_measure(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([Answer("2", 2.0, 1.5, 2.5), Answer("?", None), Answer("3", 3.0), Answer("4", 4.0)])
    monkeypatch.setattr(Engine, "_ask_batch", lambda self, requests: [next(said) for _ in requests])
    camera = camera_for(loaded)
    m = Engine(loaded).measure(picture(), POINTS, camera)
    factor = camera.ray_factor(POINTS)
    np.testing.assert_allclose(m.distance, [2, np.nan, 3, 4])
    np.testing.assert_allclose(m.z, m.distance / factor)
    np.testing.assert_allclose(np.linalg.norm(m.xyz, axis=1), m.distance)
    np.testing.assert_allclose((m.low[0], m.high[0]), (1.5, 2.5))
    assert np.isnan(m.low[1:]).all()
    assert m.text == ["2", "?", "3", "4"]


def test_nothing_asked(loaded: LoadedModel) -> None:
    m = Engine(loaded).measure(picture(), np.empty((0, 2)), camera_for(loaded))
    assert m.distance.shape == (0,)
    assert m.xyz.shape == (0, 3)


@pytest.mark.parametrize("uv", [(64.0, 5.0), (-1.0, 5.0), (5.0, 48.0), (float("nan"), 5.0)])
def test_point_outside(loaded: LoadedModel, uv: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="outside"):
        Engine(loaded).measure(picture(), [uv], camera_for(loaded))


def test_one_pixel_image(loaded: LoadedModel) -> None:
    m = Engine(loaded).measure(picture(1, 1), [(0, 0)], camera_for(loaded, 1, 1))
    assert len(m.text) == 1


def test_marker_at_the_border_is_padded_into_view(loaded: LoadedModel) -> None:
    engine = Engine(loaded, reference="arrow")
    for request in engine.requests(picture(), camera_for(loaded), POINTS):
        assert engine.reference.fits(request.uv[0], request.view.image.width, request.view.image.height)
        assert np.abs(np.asarray(request.images()[0], int) - np.asarray(request.view.image, int)).max() > 0


def test_text_requests_share_their_view(loaded: LoadedModel) -> None:
    requests = Engine(loaded, reference="text").requests(picture(), camera_for(loaded), POINTS)
    assert len({id(request.view) for request in requests}) == 1
    assert len({request.question for request in requests}) == len(POINTS)


def test_unsupported_reference(loaded: LoadedModel) -> None:
    loaded.card.prompt = "depthlm-official"
    try:
        with pytest.raises(InputError, match="no question for reference 'text'"):
            Engine(loaded, reference="text")
    finally:
        loaded.card.prompt = "depthlm"


# --- without a model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "span"),
    [
        (Leaf("2.3", 1, False), (2.3, 2.3)),
        (Leaf("2.", 1, True), (2.0, 3.0)),
        (Leaf("2.3", 1, True), (2.3, 2.4)),
        (Leaf("12", 1, True), (12, 13)),
        (Leaf(".", 1, True), (0, 1)),
        (Leaf("5.", 1, False), (5, 5)),
    ],
)
def test_leaf_span(leaf: Leaf, span: tuple[float, float]) -> None:
    assert leaf.span == pytest.approx(span)


def leaf(literal: str, probability: float) -> Leaf:
    return Leaf(literal, probability, False)


def test_quantiles() -> None:
    assert Belief([leaf("2.3", 0.5)]).quantile(0.16) == 2.3
    three = Belief([leaf("3", 0.1), leaf("1", 0.1), leaf("2", 0.8)])
    assert [three.quantile(level) for level in (0.16, 0.84)] == [2, 2]
    assert [three.quantile(level) for level in (0.05, 0.95)] == [1, 3]
    assert three.mass == pytest.approx(1)
    spread = Belief([Leaf("7.", 1.0, True)])
    assert [spread.quantile(level) for level in (0.16, 0.84)] == pytest.approx([7.1875, 7.8125])
    with pytest.raises(ValueError, match="no leaves"):
        Belief([])


def test_readings_of_a_belief() -> None:
    """Likeliest single number 5, but most mass lies together near 2."""
    belief = Belief([leaf("5.0", 0.3), leaf("1.8", 0.2), leaf("2.0", 0.2), leaf("2.4", 0.2), leaf("9.0", 0.1)])
    assert belief.read("median") == 2.4
    assert belief.read("mean") == pytest.approx(0.3 * 5 + 0.2 * (1.8 + 2.0 + 2.4) + 0.9)
    best = belief.read("best")
    assert best == pytest.approx((1.8 * 2.4) ** 0.5)
    assert all(max(best / v, v / best) < 1.25 for v in (1.8, 2.0, 2.4))


@pytest.mark.parametrize("seed", range(20))
def test_best_is_the_best_bet_of_all_numbers(seed: int) -> None:
    """Against trying every number of a fine grid."""
    rng = np.random.default_rng(seed)
    values = rng.choice([f"{v:.2f}" for v in np.geomspace(0.4, 30, 60)], 12, replace=False)
    belief = Belief([leaf(str(v), float(p)) for v, p in zip(values, rng.dirichlet(np.ones(12)), strict=True)])
    mass = np.diff(belief._cumulative, prepend=0)

    def won(answer: float) -> float:
        return float(mass[np.maximum(answer / belief.values, belief.values / answer) < 1.25].sum())

    assert won(belief.best()) == pytest.approx(max(won(g) for g in np.geomspace(0.3, 40, 4000)), abs=1e-9)


def test_the_engine_answers_as_it_is_told(loaded: LoadedModel) -> None:
    requests = Engine(loaded).requests(picture(), camera_for(loaded), POINTS)
    said = {how: Engine(loaded, read=how, intervals=False).ask(requests) for how in ("greedy", "median", "best")}
    with_number = [i for i, answer in enumerate(said["greedy"]) if answer.value is not None]
    for i in with_number:
        assert said["greedy"][i].text == said["median"][i].text
        assert said["greedy"][i].low is None
        belief = said["median"][i]
        assert belief.low is None or belief.low <= belief.value <= belief.high
    with pytest.raises(InputError, match="--read is 'luck'"):
        Engine(loaded, read="luck")


def test_convert() -> None:
    camera = Camera(100, 100, 50, 50, 101, 101)
    uv = [(50.0, 50.0), (50.0, 100.0)]
    factor = np.array([1, np.sqrt(1.25)])
    np.testing.assert_allclose(convert([2, 2], camera, uv, source="z", target="distance"), 2 * factor)
    np.testing.assert_allclose(convert([2, 2], camera, uv, source="distance", target="z"), 2 / factor)
    np.testing.assert_allclose(convert([2, None], camera, uv, source="z", target="z"), [2, np.nan])


def test_a_model_that_tells_z_is_asked_for_it(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(self: Engine, requests: list[Request]) -> list[Answer]:
        asked.extend(request.question for request in requests)
        return [Answer("2 m", 2.0, 1.0, 3.0)] * len(requests)

    monkeypatch.setattr(Engine, "_ask_batch", ask)
    monkeypatch.setattr(loaded.card, "tasks", ["distance", "z"])
    engine, camera = Engine(loaded), camera_for(loaded)
    z = engine.measure(picture(), POINTS, camera, wanted="z")
    assert z.z.tolist() == [2.0] * len(POINTS)
    assert np.allclose(z.distance, 2 * camera.ray_factor(POINTS))
    assert np.allclose(z.low, camera.ray_factor(POINTS))
    assert all("forward backward" in question for question in asked)
    asked.clear()
    distance = engine.measure(picture(), POINTS, camera)
    assert distance.distance.tolist() == [2.0] * len(POINTS)
    engine.measure(picture(), POINTS, camera, wanted="z", answers="distance")
    assert not any("forward backward" in question for question in asked)
