"""QLoRA: adapters over weights of 4 bits. bitsandbytes computes on the CPU too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from depthlm.errors import InputError
from depthlm.models.loading import load_model
from depthlm.training.loss import answer_loss
from depthlm.training.network import trainable, whole_model
from depthlm.training.recipe import Recipe
from depthlm.training.rows import collate_rows, encode_row
from depthlm.training.run import run_recipe
from small_runs import FAMILIES, make_places, small_recipe
from test_rows import QUESTIONS, picture
from test_training import losses

QUANTIZED = ["lora={rank: 4, quantize: 4bit}", "gradient_checkpointing=true", "stages.0.steps=4"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("bitsandbytes")
    return make_places(tmp_path_factory.mktemp("quantized"))


def recipe(places: dict[str, Path], family: str, folder: Path, *overrides: str) -> Recipe:
    return small_recipe(places, family, folder, *QUANTIZED, *overrides)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("freeze", [False, True])
def test_what_is_saved_computes_what_was_trained(
    places: dict[str, Path], tmp_path: Path, family: str, freeze: bool
) -> None:
    from bitsandbytes.nn import Linear4bit

    config = recipe(places, family, tmp_path, f"freeze_vision={str(freeze).lower()}")
    loaded = load_model(places[family], quantize="4bit")
    before = load_model(places[family]).model
    torch.manual_seed(0)
    network = trainable(loaded, config)
    for model in (loaded.model, before):  # a random head says nearly the same whatever it sees
        model.get_output_embeddings().weight.data.mul_(50)
    quantized = [module for module in network.modules() if isinstance(module, Linear4bit)]
    assert len(quantized) > 8
    assert {module.weight.dtype for module in quantized} == {torch.uint8}
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    image = picture(2, 3, loaded.processor.grid)
    batch = collate_rows(loaded.processor, [encode_row(loaded.processor, [image], QUESTIONS)])
    with torch.no_grad():
        trained = answer_loss(network.get_base_model(), dict(batch))[0]
        untouched = answer_loss(before, dict(batch))[0]
    whole = whole_model(loaded, network, config, merge=True)
    assert whole is not None
    assert not hasattr(whole.model.config, "quantization_config")
    assert whole.model.state_dict().keys() == before.state_dict().keys()
    with torch.no_grad():
        saved = answer_loss(whole.model, dict(batch))[0]
    torch.testing.assert_close(saved, trained, rtol=1e-4, atol=1e-4)
    assert abs(float(untouched - trained)) > 0.1, "the adapters matter, so that the line above can fail"


def test_a_run_learns_resumes_and_leaves_an_ordinary_folder(places: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    scored = [f"eval.path={places['data']}", "eval_points=2", "eval_every=2"]
    run_recipe(recipe(places, "qwen3_vl", tmp_path, *scored), run)
    ended, curve = load_model(run / "model").model.state_dict(), losses(run, "main")
    before = load_model(places["qwen3_vl"]).model.state_dict()
    assert ended.keys() == before.keys()
    assert {tensor.dtype for tensor in ended.values()} == {torch.float32}
    assert curve[-1] < curve[0]
    for name in ("model", "main/model", "main/checkpoint-4"):
        shutil.rmtree(run / name)
    run_recipe(recipe(places, "qwen3_vl", tmp_path, *scored), run)
    assert losses(run, "main") == curve
    again = load_model(run / "model").model.state_dict()
    assert all(torch.equal(ended[key], again[key]) for key in ended)


def test_the_next_stage_begins_with_what_the_last_one_saved(places: dict[str, Path], tmp_path: Path) -> None:
    short = "steps: 1, batch: 1, references: {text: 1}"
    stages = f"stages=[{{name: a, {short}}}, {{name: b, {short}}}]"
    run_recipe(recipe(places, "qwen2_5_vl", tmp_path, stages), tmp_path / "run")
    assert load_model(tmp_path / "run" / "model").card.references == ["text"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=new-nano", "lora.quantize takes a model that is there"),
        ("sharding=full", "set sharding to none, not full"),
        ("lora.quantize=2bit", "4bit"),
    ],
)
def test_settings_that_cannot_work(places: dict[str, Path], tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(places, "qwen3_vl", tmp_path, override)
