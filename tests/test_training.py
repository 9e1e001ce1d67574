"""A run from recipe to model folder: resumes bit for bit, learns, learns to stop, survives and counts bad samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from depthlm.camera import Camera
from depthlm.data import open_data
from depthlm.data.mixture import Mixture
from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.models.card import ModelCard
from depthlm.models.chat import IGNORE
from depthlm.models.loading import load_model
from depthlm.models.nano import NanoConfig, new_nano
from depthlm.prompts import get_prompt
from depthlm.sample import Sample
from depthlm.synth.generate import encode
from depthlm.training.bad_samples import BadSamples
from depthlm.training.conversations import RowConfig
from depthlm.training.dataset import TrainingRows
from depthlm.training.recipe import Recipe, load_recipe
from depthlm.training.run import run_recipe, start_model
from depthlm.training.stage import data_weights
from depthlm.view import CropConfig, ViewConfig
from tiny import build_tiny

SMALL = "{hidden: 48, layers: 1, heads: 4, vision_hidden: 48, vision_layers: 1, vision_heads: 4}"
RECIPE = f"""
name: small
model: new-nano
nano: {SMALL}
prompt: nano
focal: 100
coordinate_range: 100
half_pixel: true
crop: {{width: [48, 64], height: [48, 48], position: jitter, flip: 0.5}}
log_every: 1
save_every: 3
data: [{{path: DATA}}]
stages:
  - name: words
    steps: 6
    batch: 2
    lr: 2.0e-3
    optimizer: muon
    references: {{text: 1, arrow: 1}}
    tasks: {{distance: 2, surface: 1, colour: 1, nearer: 1, where: 1}}
    questions_per_image: 3
    image_words: 1.0
  - {{name: distance, steps: 2, batch: 2, accumulate: 2, lr: 1.0e-3, references: {{arrow: 1}}}}
"""


def sample(seed: int, z: float | None = None) -> Sample:
    rng = np.random.default_rng(seed)
    uv = np.stack([rng.uniform(8, 56, 12), rng.uniform(8, 40, 12)], axis=1)
    depth = rng.uniform(0.5, 8, 12) if z is None else np.full(12, z)
    picture = rng.integers(0, 200, (48, 64, 3), dtype=np.uint8)
    return Sample(
        encode(picture), Camera.from_focal(100.0, 64, 48), uv, depth, frame=f"f{seed}", surface=("floor", "wall") * 6
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "shards"
    write_shards((sample(seed) for seed in range(7)), folder)
    return folder


def recipe(folder: Path, data: Path, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("DATA", str(data)))
    return load_recipe(path, list(overrides))


def losses(run: Path, stage: str) -> list[float]:
    lines = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_recipe(recipe(folder, data, f"eval.path={data}", "eval_points=4", "eval_every=4"), folder / "a")
    return folder / "a"


def test_the_run_folder_holds_the_whole_story(finished):
    assert load_model(finished / "model").card.references == ["arrow"]
    resolved = load_recipe(finished / "recipe.yaml")
    assert resolved.stages[0].optimizer == "muon"
    assert {"git", "torch", "transformers", "device"} <= set(json.loads((finished / "run.json").read_text()))
    for stage, steps in (("words", 6), ("distance", 2)):
        assert (finished / stage / "loss.png").stat().st_size > 1000
        assert len(losses(finished, stage)) == steps
        assert list((finished / stage).glob("runs/*/events*")), "TensorBoard events"
    scored = [json.loads(line) for line in (finished / "words" / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in scored if "delta1" in line]
    assert [line["step"] for line in scored] == [4, 6]
    assert all(0 <= line["delta1_text"] <= 1 and 0 <= line["delta1_arrow"] <= 1 for line in scored)


def test_a_resumed_run_has_the_same_losses_and_weights(tmp_path, data, finished):
    run = tmp_path / "b"
    options = (f"eval.path={data}", "eval_points=4", "eval_every=4")
    run_recipe(recipe(tmp_path, data, *options), run)
    assert losses(run, "words") == losses(finished, "words"), "two runs of one recipe agree"
    # Go back to the checkpoint of step 3, as if the run had been killed after it.
    for path in (run / "model", run / "words" / "model", run / "words" / "checkpoint-6", run / "distance"):
        shutil.rmtree(path)
    run_recipe(recipe(tmp_path, data, *options), run)
    assert losses(run, "words") == losses(finished, "words")
    first, second = (load_model(folder / "model").model.state_dict() for folder in (finished, run))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_finished_run_is_left_alone_and_another_recipe_refused(tmp_path, data, finished):
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    options = (f"eval.path={data}", "eval_points=4", "eval_every=4")
    assert run_recipe(recipe(tmp_path, data, *options), finished) == finished / "model"
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds the finished model of another recipe"):
        run_recipe(recipe(tmp_path, data, "seed=9"), finished, change_recipe=True)


def test_an_unfinished_run_goes_on_under_another_recipe_only_when_told_to(tmp_path, data, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for path in (run / "model", run / "words" / "model", run / "words" / "checkpoint-6", run / "distance"):
        shutil.rmtree(path)
    other = recipe(tmp_path, data, "stages.0.lr=1e-3", "log_every=1")
    with pytest.raises(InputError, match="holds a run of another recipe.*--change-recipe"):
        run_recipe(other, run)
    run_recipe(other, run, change_recipe=True)
    assert len(losses(run, "words")) == 6
    assert losses(run, "words")[:3] == losses(finished, "words")[:3], "it went on from step 3"
    assert load_recipe(run / "recipe.yaml").stages[0].lr == 1e-3
    assert load_recipe(run / "recipe.1.yaml").stages[0].lr == 2e-3


def test_a_run_is_not_mixed_with_data(tmp_path, data):
    before = sorted(data.iterdir())
    with pytest.raises(InputError, match=r"shards holds data \(manifest.json\), which a run must not be mixed with"):
        run_recipe(recipe(tmp_path, data), data)
    assert sorted(data.iterdir()) == before


def test_missing_data_leaves_no_run_folder(tmp_path, data):
    with pytest.raises(InputError, match="nowhere"):
        run_recipe(recipe(tmp_path, data, "data.0.path=/nowhere"), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_card_says_how_to_read_and_what_it_is_good_for(tmp_path, data):
    chosen = recipe(tmp_path, data, "read=median", "notes=measures small squares")
    card = start_model(chosen, [open_data(data)]).card
    assert (card.read, card.notes) == ("median", "measures small squares")
    assert card.trained_on is None  # nothing says what these shards are
    named = recipe(tmp_path, data, "data.0.name=nuscenes")
    assert start_model(named, [open_data(data)]).card.trained_on == ["nuscenes"]
    assert "recipe small" in start_model(recipe(tmp_path, data), [open_data(data)]).card.notes


@pytest.mark.parametrize(
    ("overrides", "weights"),
    [
        ((), [1, 3]),
        (("mixture=size",), [8, 8]),
        (("max_passes=1.25",), [0.5, 0.5]),  # of 20 draws at most 10 from each 8 rows
    ],
)
def test_the_recipe_weighs_its_data(tmp_path, data, overrides, weights):
    two = ["data=[{path: A}, {path: B, weight: 3}]", "stages.0.steps=6", *overrides]
    found = data_weights(recipe(tmp_path, data, *two), [range(8), range(8)])
    assert found == pytest.approx(weights)


def test_curated_shards_know_which_set_they_are(tmp_path, data):
    curated = open_data(data)
    curated.info = {"settings": {"dataset": "waymo"}}
    with pytest.raises(InputError, match="also needs argoverse2"):
        data_weights(recipe(tmp_path, data, "mixture=vlm3-public"), [curated])


def test_it_learns_an_answer_and_to_stop(tmp_path):
    """One picture, one distance: after a few steps greedy decoding says it and nothing more."""
    write_shards([sample(0, z=2.4)], tmp_path / "one")
    small = recipe(
        tmp_path, tmp_path / "one", "stages.0.steps=30", "stages.0.references={arrow: 1}", "stages.0.image_words=0",
        "stages.0.tasks={distance: 1}", "stages.0.lr=5e-3", "label=z", "save_every=100",
    )  # fmt: skip
    loaded = load_model(run_recipe(small, tmp_path / "run") / ".." / "words" / "model")
    loaded.card.max_new_tokens = 6
    one = open_data(tmp_path / "one")[0]
    engine = Engine(loaded, reference="arrow")
    answers = engine.ask(engine.requests(one.load_image(), one.camera, one.uv[:3]))
    assert [answer.text.strip() for answer in answers] == ["2.4"] * 3


def rows(samples, *, max_bad=100, words=False, marker_word=False, references=None, **options) -> TrainingRows:
    card = ModelCard(focal=100, prompt="nano", coordinate_range=100, half_pixel=True)
    nano = new_nano(NanoConfig(hidden=48, layers=1, heads=4, vision_hidden=48, vision_layers=1, vision_heads=4), card)
    settings = {
        "sources": [samples],
        "mixture": Mixture([samples]),
        "processor": nano.processor,
        "card": card,
        "prompt": get_prompt("nano"),
        "rows": RowConfig(
            references=references or {"arrow": 1.0},
            tasks={"distance": 1.0},
            questions_per_image=2,
            image_words=words,
            marker_word=marker_word,
        ),
        "view": ViewConfig(focal=100, grid=16),
        "crop": CropConfig(width=(64, 64), height=(48, 48)),
        "seed": 0,
        "length": 100,
        "bad": BadSamples(max_bad),
    }
    return TrainingRows(**(settings | options))


def broken(seed: int) -> Sample:
    good = sample(seed)
    return Sample(good.image[:200], good.camera, good.uv, good.z, frame=f"broken{seed}")


def test_unreadable_samples_are_skipped_counted_and_bounded():
    dataset = rows([sample(0), broken(1), sample(2)])
    for index in range(6):
        assert dataset[index].questions
    assert len(dataset.bad) == 1, "one sample, however often it is met"
    assert "broken1" in dataset.bad.lines[0]
    with pytest.raises(InputError, match="more than max_bad=1"):
        rows([broken(0), broken(1)], max_bad=1)[0]
    with pytest.raises(InputError, match="1000 samples drawn in a row cannot be used"):
        rows([broken(0)], max_bad=1)[0]
    empty = sample(0)
    with pytest.raises(InputError, match="no labelled points"):
        rows([Sample(empty.image, empty.camera, np.empty((0, 2)), np.empty(0))], max_bad=0)[0]


def test_a_row_is_a_function_of_its_index_alone():
    one, two = rows([sample(i) for i in range(4)]), rows([sample(i) for i in range(4)])
    forward = [one[i] for i in range(6)]
    backward = [two[i] for i in reversed(range(6))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert (a.prefix, a.questions) == (b.prefix, b.questions)
        assert torch.equal(a.images["pixel_values"], b.images["pixel_values"])


def test_image_words_are_the_distances_of_their_cells():
    """Labels made so that each 16-pixel cell has its own distance; the word is the nearest of the E12 series."""
    picture = sample(0)
    centres = np.array([[16 * c + 7.5, 16 * r + 7.5] for r in range(3) for c in range(4)])
    z = np.geomspace(0.5, 9, 12)
    labelled = Sample(picture.image, picture.camera, centres, z)
    row = rows([labelled], words=True, references={"text": 1.0})[0]
    tokenizer = rows([labelled]).processor.tokenizer
    said = [float(tokenizer.decode([word])) for word in row.words]
    assert IGNORE not in row.words
    assert np.abs(np.log10(np.array(said) / labelled.distance)).max() < 1 / 24 + 0.02  # half a step, and two digits


def test_the_cell_a_marker_points_at_says_its_name():
    grey = replace(sample(0), image=encode(np.full((48, 64, 3), 90, np.uint8)))
    plain, named = (rows([grey], words=True, marker_word=named) for named in (False, True))
    token = plain.processor.tokenizer.convert_tokens_to_ids("\u2581arrow")
    width = 64 // 16
    for index in range(8):
        before, after = plain[index].words, named[index].words
        here = after.index(token)
        assert token not in before
        assert before[:here] + before[here + 1 :] == after[:here] + after[here + 1 :]
        # Every patch is an image token of nano's; red is (1, -1, -1) after normalisation. The shaft ends one pixel left
        # of the query, so that the rightmost red pixel of the middle row tells where the query is.
        patches = named[index].images["pixel_values"].reshape(-1, width, 3, 2, 16, 16)[:, :, :, 0]
        picture = patches.permute(2, 0, 3, 1, 4).reshape(3, -1, 64)
        v, u = torch.nonzero((picture[0] > 0.99) & (picture[1:] < -0.99).all(dim=0)).unbind(dim=1)
        middle = (int(v.min()) + int(v.max())) // 2
        assert here == middle // 16 * width + (int(u.max()) + 1) // 16


def test_packing_by_turns():
    settings = RowConfig(references={"text": 1.0}, tasks={"distance": 1.0}, questions_per_image=3, packing="turns")
    by_turns = rows([sample(0)], rows=settings)[0]
    shared = rows([sample(0)], rows=replace(settings, packing="shared"))[0]
    assert by_turns.turns
    assert not shared.turns
    assert shared.prefix[: len(by_turns.prefix)] == by_turns.prefix  # what the questions begin with follows
    assert [answer for _, answer in by_turns.questions] == [answer for _, answer in shared.questions]


def test_text_rows_have_no_marker_word():
    token = rows([sample(0)]).processor.tokenizer.convert_tokens_to_ids("\u2581arrow")
    row = rows([sample(0)], words=True, references={"text": 1.0}, marker_word=True)[0]
    assert token not in row.words


def test_marker_rows_without_a_text_reference_ask_once():
    assert len(rows([sample(0)])[0].questions) == 1
    assert len(rows([sample(0)], references={"arrow": 1.0, "text": 1.0})[0].questions) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": {"text": 1.0}, "prompt": get_prompt("depthlm-official")}, "has no question for reference"),
        ({"references": {"arrow": -1.0}}, "none negative"),
        ({"references": {"arrow": 0.0}}, "at least one positive"),
    ],
)
def test_row_settings_that_cannot_work(options, message):
    with pytest.raises(InputError, match=message):
        rows([sample(0)], **options)


def test_the_picture_of_a_marker_row_is_marked():
    row = rows([sample(0)])[0]
    plain = rows([sample(0)], references={"text": 1.0})[0]
    changed = (row.images["pixel_values"] != plain.images["pixel_values"]).any(dim=1).sum()
    assert 1 <= changed <= 4, "the arrow touches a few patches and nothing else"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "pixtral"])
@pytest.mark.parametrize("lora", [False, True])
def test_every_family_trains_whole_or_by_adapters(tmp_path, data, family, lora):
    start = build_tiny(family, tmp_path / family)
    options = [
        f"model={start}", "prompt=depthlm", "coordinate_range=2000", "crop={width: [64, 64], height: [48, 48]}",
        "stages=[{steps: 2, batch: 2, lr: 1e-2, references: {arrow: 1, text: 1}, questions_per_image: 2}]",
    ]  # fmt: skip
    if lora:
        options += ["lora.rank=2", "gradient_checkpointing=true"]
    run = tmp_path / "run"
    trained = load_model(run_recipe(recipe(tmp_path, data, *options), run)).model.state_dict()
    before = load_model(start).model.state_dict()
    assert trained.keys() == before.keys(), "adapters are merged: the folder has the standard layout"
    changed = [key for key in before if not torch.equal(before[key], trained[key])]
    assert any("language_model" in key for key in changed)
    assert np.isfinite(losses(run, "main")).all()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "pixtral"])
@pytest.mark.parametrize("lora", [[], ["lora.rank=2"]])
def test_families_whose_hub_names_differ_resume_too(tmp_path, data, family, lora):
    start = build_tiny(family, tmp_path / family)
    options = [
        f"model={start}", "prompt=depthlm", "coordinate_range=2000", "crop={width: [64, 64], height: [48, 48]}",
        "stages=[{steps: 4, batch: 1, lr: 1e-2, references: {arrow: 1}}]", *lora,
    ]  # fmt: skip
    run = tmp_path / "run"
    run_recipe(recipe(tmp_path, data, *options), run)
    ended, curve = load_model(run / "model").model.state_dict(), losses(run, "main")
    for name in ("model", "main/model", "main/checkpoint-4"):
        shutil.rmtree(run / name)
    run_recipe(recipe(tmp_path, data, *options), run)
    assert losses(run, "main") == curve
    again = load_model(run / "model").model.state_dict()
    assert all(torch.equal(ended[key], again[key]) for key in ended)


def test_a_checkpoint_of_other_names_is_refused(tmp_path, data):
    start = build_tiny("pixtral", tmp_path / "pixtral")
    options = [
        f"model={start}", "prompt=depthlm", "coordinate_range=2000", "crop={width: [64, 64], height: [48, 48]}",
        "stages=[{steps: 4, batch: 1, lr: 1e-2, references: {arrow: 1}}]",
    ]  # fmt: skip
    run = tmp_path / "run"
    run_recipe(recipe(tmp_path, data, *options), run)
    for name in ("model", "main/model", "main/checkpoint-4"):
        shutil.rmtree(run / name)
    shutil.copy(start / "model.safetensors", run / "main" / "checkpoint-3" / "model.safetensors")
    with pytest.raises(InputError, match="does not fit its model.*remove it"):
        run_recipe(recipe(tmp_path, data, *options), run)


def test_bfloat16_reaches_the_loss(tmp_path, data, monkeypatch):
    import depthlm.training.trainer as trainer

    plain, arguments, seen = trainer.answer_loss, trainer.training_arguments, set()

    def look(*args, **options):
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return plain(*args, **options)

    def in_bf16(*args):
        made = arguments(*args)
        return replace(made, bf16=True)

    monkeypatch.setattr(trainer, "answer_loss", look)
    monkeypatch.setattr(trainer, "training_arguments", in_bf16)
    run_recipe(recipe(tmp_path, data, "stages=[{steps: 1, batch: 1}]"), tmp_path / "run")
    assert seen == {torch.bfloat16}
