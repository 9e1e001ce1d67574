"""Patches by a matrix product: what a Conv3d makes of them, with its gradients, under its names."""

import copy

import pytest
import torch

from depthlm.models.loading import load_model
from depthlm.models.nano import NanoConfig, build_network, build_tokenizer
from depthlm.models.patch_embedding import PatchEmbedding, embed_by_matrix_product
from tiny import build_tiny


def both(convolution: torch.nn.Conv3d, given: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(what it makes, gradients of weight, bias and input), as it is and as a PatchEmbedding."""
    found = []
    product = copy.deepcopy(convolution)
    embed_by_matrix_product(product)
    assert type(product) is PatchEmbedding
    for layer in (convolution, product):
        x = given.clone().requires_grad_()
        out = layer(x)
        (out * torch.arange(out.numel()).view_as(out).sin()).sum().backward()
        found.append([out, *[p.grad for p in layer.parameters()], x.grad])
    return found[0], found[1]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (2, 4, 4)),
        ({"stride": (2, 4, 4)}, (2, 4, 4)),
        ({}, (2, 4, 8)),
        ({"stride": (2, 4, 4)}, (4, 8, 8)),
    ],
)
def test_equal_to_the_convolution(bias, options, size):
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(3, 6, (2, 4, 4), bias=bias, **options)
    for one, other in zip(*both(layer, torch.randn(5, 3, *size)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"padding": 1}, {"dilation": 2}, {"groups": 3}])
def test_other_convolutions_are_left_alone(options):
    layer = torch.nn.Conv3d(3, 6, (2, 4, 4), **options)
    embed_by_matrix_product(layer)
    assert type(layer) is torch.nn.Conv3d


def test_patches_meet_no_convolution(monkeypatch):
    layer = torch.nn.Conv3d(3, 6, (2, 4, 4), stride=(2, 4, 4))
    embed_by_matrix_product(layer)
    monkeypatch.setattr(torch.nn.Conv3d, "forward", lambda *_: pytest.fail("a convolution"))
    assert layer(torch.randn(5, 3, 2, 4, 4)).shape == (5, 6, 1, 1, 1)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_loaded_towers_have_it(family, tmp_path):
    loaded = load_model(build_tiny(family, tmp_path / "m"))
    assert isinstance(loaded.model.model.visual.patch_embed.proj, PatchEmbedding)


def test_a_new_nano_has_it():
    small = NanoConfig(hidden=48, layers=1, heads=4, vision_hidden=48, vision_layers=1, vision_heads=4)
    assert isinstance(build_network(build_tokenizer(), small).model.visual.patch_embed.proj, PatchEmbedding)
