"""nano: its tokenizer holds numbers and coordinates in one token each, and its start is ordered and whitened."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from depthlm.models.card import ModelCard
from depthlm.models.nano import (
    COORDINATE_RANGE,
    NanoConfig,
    build_network,
    build_tokenizer,
    new_nano,
    number_words,
    whiten_patches,
)

SMALL = NanoConfig(hidden=48, layers=1, heads=4, vision_hidden=48, vision_layers=1, vision_heads=4)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def nano():
    return new_nano(SMALL, ModelCard(focal=160, prompt="nano", coordinate_range=100))


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def test_every_number_and_coordinate_is_one_token(tokenizer):
    words = [*number_words(), *(f"{axis}{k}" for axis in "xy" for k in range(COORDINATE_RANGE))]
    assert {len(ids(tokenizer, f" {word}")) for word in words} == {1}
    assert len({ids(tokenizer, f" {word}")[0] for word in words}) == len(words)


@pytest.mark.parametrize("text", [" distance at x43 y7", " 2.34", " zebra café", " 日本", " a\tb"])
def test_any_text_survives(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)).replace(" ", "") == text.replace(" ", "")


def test_conversation_in_golden_tokens(nano):
    encoded = nano.processor.encode([Image.new("RGB", (32, 16))], "distance at x43 y57", "2.3")
    tokens = nano.processor.tokenizer.convert_ids_to_tokens(encoded.input_ids)
    assert tokens == [
        "<|im_start|>", "user", "<|vision_start|>", "<|image_pad|>", "<|image_pad|>", "<|vision_end|>",
        "▁distance", "▁at", "▁x43", "▁y57", "<|im_start|>", "assistant", "▁2.3", "<|im_end|>",
    ]  # fmt: skip
    assert (encoded.labels != -100).tolist() == [False] * 12 + [True] * 2


def test_the_network_follows_from_its_seed(tokenizer):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_network(tokenizer, SMALL, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator is left alone"
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_neighbouring_numbers_start_alike(tokenizer, nano):
    weight = nano.model.lm_head.weight

    def angle(a: str, b: str) -> float:
        rows = [weight[ids(tokenizer, f" {word}")[0]] for word in (a, b)]
        return torch.cosine_similarity(*rows, dim=0).item()

    assert angle("2.3", "2.4") > 0.95
    assert angle("2.3", "2.4") > angle("2.3", "3.5") > angle("2.3", "30")


def test_whitened_patches_have_unit_variance_in_every_direction(nano):
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(12, 12, 3)).repeat(16, axis=0).repeat(16, axis=1) * 50 + 128
    noisy = (smooth + rng.normal(size=smooth.shape) * 10).clip(0, 255).astype(np.uint8)
    pixels = nano.processor.encode_images([Image.fromarray(noisy)])["pixel_values"]
    whiten_patches(nano.model, pixels, floor=1e-6)
    out = nano.model.model.visual.patch_embed(pixels)
    covariance = torch.cov(out.T).diagonal()
    assert covariance[:40].min() > 0.8
    assert covariance.max() < 1.2
