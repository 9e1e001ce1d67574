"""Vision features are computed once a picture, however many questions; a frozen tower keeps nothing for gradients."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from depthlm.models.loading import LoadedModel, load_model
from depthlm.training.loss import answer_loss
from depthlm.training.network import trainable
from depthlm.training.recipe import Recipe
from depthlm.training.rows import collate_rows, encode_row
from depthlm.training.run import run_recipe
from processes import launch
from small_runs import FAMILIES, make_places, small_recipe
from test_rows import QUESTIONS, picture
from test_sharding import START, assert_alike
from test_training import losses

LORA = ["lora.rank=2", "gradient_checkpointing=true"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_places(tmp_path_factory.mktemp("frozen"))


def recipe(places: dict[str, Path], family: str, folder: Path, *overrides: str) -> Recipe:
    return small_recipe(places, family, folder, "freeze_vision=true", *overrides)


def tower_of(loaded: LoadedModel) -> torch.nn.Module:
    tower: torch.nn.Module = loaded.model.model.get_submodule(loaded.processor.family.tower)
    return tower


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("questions", [1, 3])
def test_one_picture_goes_through_the_tower_once(places: dict[str, Path], family: str, questions: int) -> None:
    loaded = load_model(places[family])
    seen = []
    tower_of(loaded).register_forward_pre_hook(lambda module, args, kwargs: seen.append(args), with_kwargs=True)
    image = picture(2, 3, loaded.processor.grid)
    batch = collate_rows(loaded.processor, [encode_row(loaded.processor, [image], QUESTIONS[:questions])] * 2)
    one = loaded.processor.encode_images([image])["pixel_values"]
    assert batch["pixel_values"].numel() == 2 * one.numel(), "two rows, two pictures"
    answer_loss(loaded.model, batch)
    assert len(seen) == 1


def kept_in_tower(loaded: LoadedModel, network: torch.nn.Module) -> list[torch.Size]:
    """What a forward pass of the tower keeps for the backward pass, which is done too."""
    tower, inside, kept = tower_of(loaded), [False], []

    def entering(module: object, args: object) -> None:
        inside[0] = True

    def leaving(module: object, args: object, out: object) -> None:
        inside[0] = False

    tower.register_forward_pre_hook(entering)
    tower.register_forward_hook(leaving)
    row = encode_row(loaded.processor, [picture(2, 3, loaded.processor.grid)], QUESTIONS[:2])
    inner = network.get_base_model() if hasattr(network, "get_base_model") else network

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if inside[0]:
            kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = answer_loss(inner, collate_rows(loaded.processor, [row]))
    loss.backward()
    return kept


def test_an_ordinary_tower_keeps_activations(places: dict[str, Path], tmp_path: Path) -> None:
    loaded = load_model(places["qwen3_vl"])
    network = trainable(loaded, recipe(places, "qwen3_vl", tmp_path, "freeze_vision=false")).train()
    assert kept_in_tower(loaded, network)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("overrides", [[], LORA])
def test_a_frozen_tower_has_no_graph(
    places: dict[str, Path], family: str, overrides: list[str], tmp_path: Path
) -> None:
    loaded = load_model(places[family])
    network = trainable(loaded, recipe(places, family, tmp_path, *overrides)).train()
    assert not kept_in_tower(loaded, network), "activations are kept for a gradient that nobody wants"
    tower = tower_of(loaded)
    assert not any(p.requires_grad or p.grad is not None for p in tower.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("overrides", [[], LORA])
def test_the_rest_is_trained_and_resumes(
    places: dict[str, Path], family: str, overrides: list[str], tmp_path: Path
) -> None:
    chosen = recipe(places, family, tmp_path, *overrides)
    out = run_recipe(chosen, tmp_path / "run")
    before, after = (load_model(folder).model.state_dict() for folder in (places[family], out))
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    tower = load_model(places[family]).processor.family.tower
    assert changed
    assert not [key for key in changed if f"{tower}." in key]
    for name in ("model", "main/model", "main/checkpoint-3"):
        shutil.rmtree(tmp_path / "run" / name)
    again = load_model(run_recipe(chosen, tmp_path / "run")).model.state_dict()
    assert all(torch.equal(after[key], again[key]) for key in after)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_may_attend_in_another_way(places: dict[str, Path], family: str, tmp_path: Path) -> None:
    run_recipe(recipe(places, family, tmp_path, "freeze_vision=false"), tmp_path / "sdpa")
    eager = recipe(places, family, tmp_path, "freeze_vision=false", "vision_attention=eager")
    run_recipe(eager, tmp_path / "eager")
    np.testing.assert_allclose(losses(tmp_path / "eager", "main"), losses(tmp_path / "sdpa", "main"), rtol=1e-4)
    configs = [(tmp_path / run / "model" / "config.json").read_text() for run in ("sdpa", "eager")]
    assert configs[0] == configs[1], "how it attended is no part of the model"


@pytest.mark.slow
def test_it_is_frozen_in_shards_too(places: dict[str, Path], tmp_path: Path) -> None:
    run_recipe(recipe(places, "qwen3_vl", tmp_path, "stages.0.lr=1e-3"), tmp_path / "one")
    same = ["freeze_vision=true", "stages.0.lr=1e-3"]  # r.yaml holds no override
    two = [tmp_path / "r.yaml", tmp_path / "two", *same, "sharding=full", "stages.0.batch=1", "+"]
    ran = launch(tmp_path, START, 2, *two)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert_alike(tmp_path / "two", tmp_path / "one", places["qwen3_vl"])
