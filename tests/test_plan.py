"""`depthlm train --plan`: counted as built, measured as collated, refused with a way out that holds."""

from __future__ import annotations

import json
import re

import pytest

from cli_runner import run
from depthlm.models.architecture import empty_model, find_config, read_architecture
from depthlm.models.families import family_of
from depthlm.synth.generate import generate
from depthlm.training.network import trainable
from depthlm.training.plan import count, measure_row, plan_run
from depthlm.training.recipe import load_recipe
from depthlm.training.run import open_source, stage_rows, start_model
from depthlm.training.shipped import find_recipe
from test_recipe import MINIMAL, write

LARGE = MINIMAL.replace("model: m", "model: Qwen/Qwen2.5-VL-7B-Instruct")
MEDIUM = MINIMAL.replace("model: m", "model: Qwen/Qwen2.5-VL-3B-Instruct")


def plan(path, *overrides, **options):
    return plan_run(load_recipe(path, list(overrides)), **options)


@pytest.mark.parametrize(
    ("name", "total"),  # model.safetensors.index.json of the published checkpoints, tied heads counted once
    [("qwen2_5vl_3b", 3_754_622_976), ("qwen2_5vl_7b", 8_292_166_656), ("qwen3vl_4b", 4_437_815_808)],
)
def test_published_sizes(name, total):
    assert sum(p.numel() for p in empty_model(read_architecture(name)).parameters()) == total


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A new nano on two rooms: (recipe, loaded, sources)."""
    folder = tmp_path_factory.mktemp("plan")
    generate(folder / "rooms", scenes=2, seed=0, views=2, points=40)
    recipe = load_recipe(find_recipe("nano"), [f"data=[{{path: {folder / 'rooms'}}}]", "eval=null", "workers=0"])
    sources = [open_source(source, print) for source in recipe.data]
    return recipe, start_model(recipe, sources), sources


def test_parameters_are_those_of_the_model_that_is_trained(started):
    recipe, loaded, _ = started
    config = find_config(recipe)
    size = count(empty_model(config), family_of(config), recipe, recipe.stages[0])
    assert size.total == sum(p.numel() for p in loaded.model.parameters())
    assert size.trained == size.total
    assert size.vision == sum(p.numel() for p in loaded.model.model.visual.parameters())


def test_adapters_are_those_that_peft_makes(tmp_path, tiny_model):
    from depthlm.models.loading import load_model

    text = MINIMAL.replace("model: m", f"model: {tiny_model}") + "lora: {rank: 4}\n"
    recipe = load_recipe(write(tmp_path, text))
    config = find_config(recipe)
    size = count(empty_model(config), family_of(config), recipe, recipe.stages[0])
    network = trainable(load_model(tiny_model), recipe)
    assert size.trained == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_four_bits_are_counted_as_bitsandbytes_holds_them(tmp_path, tiny_model):
    from depthlm.models.loading import load_model

    bitsandbytes = pytest.importorskip("bitsandbytes")
    text = MINIMAL.replace("model: m", f"model: {tiny_model}") + "lora: {rank: 4, quantize: 4bit}\n"
    recipe = load_recipe(write(tmp_path, text))
    config = find_config(recipe)
    size = count(empty_model(config), family_of(config), recipe, recipe.stages[0])
    network = trainable(load_model(tiny_model, quantize="4bit"), recipe)
    assert size.trained == sum(p.numel() for p in network.parameters() if p.requires_grad)
    held = [module.weight for module in network.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert size.quantized == sum(2 * weight.numel() for weight in held)
    packed = sum(weight.numel() + 4 * weight.quant_state.absmax.numel() for weight in held)
    assert packed == pytest.approx(size.quantized * (0.5 + 4 / 64), rel=0.02)


def test_tokens_are_about_those_of_rows(started):
    recipe, loaded, sources = started
    stage = recipe.stages[0]
    config = find_config(recipe)
    rows = stage_rows(recipe, stage, loaded, sources)
    made = [rows[index].length for index in range(40)]
    work = measure_row(recipe, stage, config, family_of(config))
    assert work.tokens == pytest.approx(sum(made) / len(made), rel=0.35)
    assert measure_row(recipe, stage, config, family_of(config), share=1.0).tokens >= 0.9 * max(made)


def test_sharding_divides_and_checkpointing_spares(tmp_path):
    path = write(tmp_path, MEDIUM)
    options = ["gradient_checkpointing=true", "stages.0.batch=1"]
    whole = plan(path, *options, gpus=8, kind="h200")["stages"][0]["memory_gb"]
    parts = plan(path, *options, "sharding=full", gpus=8, kind="h200")["stages"][0]["memory_gb"]
    for part in ("weights", "gradients", "optimizer"):
        assert parts[part] == pytest.approx(whole[part] / 8)
    assert parts["buckets"] == 0 < whole["buckets"]
    kept = plan(path, "stages.0.batch=1", "sharding=full", gpus=8, kind="h200")["stages"][0]["memory_gb"]
    assert kept["activations"] > 3 * parts["activations"]
    assert kept["weights"] == parts["weights"]


def test_a_cap_on_tokens_bounds_what_a_micro_step_holds(tmp_path):
    path = write(tmp_path, MEDIUM)
    options = ["gradient_checkpointing=true", "sharding=full", "stages.0.batch=16"]
    tokens = 2500  # one of the largest crops, of 1400 x 1200
    alone = plan(path, *options[:2], "stages.0.batch=1", gpus=8)["stages"][0]
    capped = plan(path, *options, f"stages.0.tokens_per_batch={tokens}", gpus=8)["stages"][0]
    whole = plan(path, *options, gpus=8, kind="h200")["stages"][0]
    assert capped["memory_gb"] == alone["memory_gb"]
    assert whole["memory_gb"]["activations"] == pytest.approx(16 * alone["memory_gb"]["activations"], rel=0.05)
    assert capped["samples"] == whole["samples"] == 16 * alone["samples"]


def test_a_frozen_tower_is_not_trained(tmp_path, tiny_model):
    from depthlm.models.loading import load_model

    for lora in ("null", "{rank: 4}"):
        text = MINIMAL.replace("model: m", f"model: {tiny_model}") + f"lora: {lora}\nfreeze_vision: true\n"
        recipe = load_recipe(write(tmp_path, text))
        config = find_config(recipe)
        size = count(empty_model(config), family_of(config), recipe, recipe.stages[0])
        network = trainable(load_model(tiny_model), recipe)
        assert size.trained == sum(p.numel() for p in network.parameters() if p.requires_grad)
    path = write(tmp_path, MEDIUM)
    free, frozen = (
        plan(path, "stages.0.batch=1", f"freeze_vision={said}", kind="h200")["stages"][0] for said in ("false", "true")
    )
    assert frozen["flops"] < free["flops"]
    assert frozen["memory_gb"]["activations"] < free["memory_gb"]["activations"]


def test_loss_on_all_text_needs_more_logits(tmp_path):
    path = write(tmp_path, MINIMAL.replace("model: m", "model: nano"))
    answers, text = (
        plan(path, f"stages.0.loss={loss}")["stages"][0]["memory_gb"]["logits"] for loss in ("answers", "text")
    )
    assert text > 2 * answers


def test_hours_and_samples_follow_from_the_recipe(tmp_path):
    path = write(tmp_path, MINIMAL.replace("model: m", "model: nano"))
    one, two = plan(path), plan(path, gpus=2)
    assert one["stages"][0]["samples"] == 2 * 8
    assert two["stages"][0]["samples"] == 2 * two["stages"][0]["steps"] * 8
    assert two["hours"] == pytest.approx(one["hours"])  # twice the samples on twice the cards
    assert plan(path, "stages.0.steps=4")["hours"] == pytest.approx(2 * one["hours"])


def test_what_does_not_fit_is_refused_with_settings_that_do(capsys, tmp_path):
    path = write(tmp_path, LARGE)
    status, out, err = run(capsys, "train", path, "--plan", "--gpus", 4)
    assert (status, out) == (2, "")
    message = err.splitlines()[-1]
    assert re.search(r"stage main needs \d+ GB on each card, most of it \w+ \(\d+ GB\); h100 has 80 GB", message)
    settings = message.rpartition("; ")[2].removesuffix(" would make it fit").replace(" and ", ", ").split(", ")
    assert "gradient_checkpointing=true" in settings
    assert "sharding=full" in settings
    assert run(capsys, "train", path, "--plan", "--gpus", 4, *settings)[0] == 0


def test_four_bits_are_the_last_way_out_and_beyond_them_there_is_none(capsys, tmp_path):
    text = LARGE.replace("steps: 2", "steps: 2, batch: 1") + "gradient_checkpointing: true\nlora: {rank: 8}\n"
    arguments = ["train", write(tmp_path, text), "--plan", "--gpu", "rtx4090"]
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.endswith("; lora.quantize=4bit would make it fit\n")
    assert run(capsys, *arguments, "lora.quantize=4bit")[0] == 0
    status, _, err = run(capsys, *arguments, "lora={rank: 2048, quantize: 4bit}")
    assert status == 2
    assert "no setting of this recipe would make it fit: take more or larger cards, or a smaller model" in err


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("nano", ["--gpu", "abacus"], "--gpu is 'abacus'; expected one of h200, h100"),
        ("nano", ["--gpus", 0], "--gpus is 0; expected 1 or more"),
        ("someone/unheard-of", [], "someone/unheard-of is no folder, not in the hub's cache and none of the bases"),
    ],
)
def test_bad_options(capsys, tmp_path, model, options, message):
    path = write(tmp_path, MINIMAL.replace("model: m", f"model: {model}"))
    status, out, err = run(capsys, "train", path, "--plan", *options)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_a_plan_writes_nothing_and_reads_no_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "train", "vlm3-4b", "--plan", "--gpus", 32, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["parameters"]["total"] == 4_437_815_808
    assert not list(tmp_path.iterdir())
    status, out, _ = run(capsys, "train", "vlm3-4b", "--plan", "--gpus", 32)
    assert "4.44 billion parameters" in out
    assert f"about {found['hours']:.3g} hours on 32 h100" in out
