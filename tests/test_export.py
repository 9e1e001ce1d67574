"""`depthlm export`: the rows of `depthlm train`, read back from its files; resumed, refused, told to the trainers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cli_runner import run
from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.models.card import ModelCard
from depthlm.models.loading import load_model
from depthlm.synth.generate import synth_samples
from depthlm.tasks import Question
from depthlm.training import export as export_module
from depthlm.training.export import IMAGE, export, image_tokens, messages
from depthlm.training.other_trainers import ExportConfig
from depthlm.training.recipe import DataSource, Recipe, Stage
from depthlm.training.rows import encode_row
from depthlm.training.run import start_model
from depthlm.training.stage import open_source, stage_rows
from depthlm.view import CropConfig
from tiny import build_tiny

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral")
SMALL = ("--focal", 200, "crop.width=[96,160]", "crop.height=[96,128]", "--workers", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "rooms"
    write_shards(synth_samples(4, seed=5, views=2, points=150, pairs=True), folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: build_tiny(family, folder / family) for family in (*FAMILIES, "llava")}


def recipe_of(data: Path, base: Path, **stage) -> Recipe:
    asked = {"steps": 3, "batch": 2, "references": {"text": 1.0, "arrow": 1.0}, "questions_per_image": 3, **stage}
    return Recipe(
        name="small", model=str(base), data=[DataSource(path=str(data))], stages=[Stage(**asked)], focal=200, seed=4,
        crop=CropConfig(width=(96, 160), height=(96, 128), position="jitter", flip=0.5),
    )  # fmt: skip


def config_of(recipe: Recipe, family: str = "qwen3_vl", **more) -> ExportConfig:
    grid = {"qwen2_5_vl": 28, "qwen3_vl": 32, "pixtral": 16}[family]
    options = {"trainer": "ms-swift", "family": family, "grid": grid, **more}
    return ExportConfig(recipe=recipe, stage=recipe.stages[0], **options)


def read_back(out: Path) -> list[tuple[list[str], list[Question], list[Image.Image]]]:
    """(names of pictures, questions, pictures) of each row, by nothing but the two trainers' format."""
    found = []
    for line in (out / "train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert set(row) == {"messages", "images"}
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        texts = [message["content"] for message in row["messages"]]
        assert texts[0].startswith(IMAGE * len(row["images"]))
        texts[0] = texts[0].removeprefix(IMAGE * len(row["images"]))
        assert not any(IMAGE in text for text in texts)
        questions = [Question(q, a, None) for q, a in zip(texts[::2], texts[1::2], strict=True)]
        found.append((row["images"], questions, [Image.open(out / name) for name in row["images"]]))
    return found


@pytest.mark.parametrize("packing", ["shared", "turns"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_hold_the_rows_that_train_sees(data, bases, tmp_path, family, packing):
    tasks = {"distance": 1.0, "between": 1.0, "moved": 2.0}
    recipe = recipe_of(data, bases[family], steps=6, packing=packing, tasks=tasks)
    config = config_of(recipe, family)
    facts, skipped = export(config, tmp_path / "out")
    sources = [open_source(recipe.data[0], print)]
    loaded = start_model(recipe, sources)
    rows = stage_rows(recipe, recipe.stages[0], loaded, sources)
    written = iter(read_back(tmp_path / "out"))
    assert (skipped, facts.samples, len(rows)) == ([], 12, 12)
    tokens = pairs = 0
    for index in range(len(rows)):
        row = rows[index]
        names, questions, pictures = next(written)
        if packing == "shared":  # the same picture again for each
            for _ in row.questions[1:]:
                more = next(written)
                assert more[0] == names
                questions += more[1]
        again = encode_row(loaded.processor, pictures, questions, turns=packing == "turns")
        assert (again.prefix, again.questions) == (row.prefix, row.questions)
        for name, tensor in row.images.items():
            assert torch.equal(again.images[name], tensor), "PNG loses nothing"
        tokens = max(tokens, row.length)
        pairs += len(names) == 2
    assert next(written, None) is None
    assert 0 < pairs < 12
    assert tokens <= facts.tokens, "no row is longer than what is written as cutoff_len"


def test_more_samples_than_a_stage_has_and_whole_epochs(data, bases, tmp_path):
    recipe = recipe_of(data, bases["qwen3_vl"], questions_per_image=1)
    facts, _ = export(config_of(recipe, epochs=2), tmp_path / "epochs")
    assert (facts.samples, facts.rows) == (16, 16), "8 pictures, twice"
    facts, _ = export(config_of(recipe, samples=5), tmp_path / "five")
    lines = (tmp_path / "epochs" / "train.jsonl").read_text().splitlines()
    assert (tmp_path / "five" / "train.jsonl").read_text().splitlines() == lines[:5]
    with pytest.raises(InputError, match="give one of them"):
        export(config_of(recipe, samples=5, epochs=1), tmp_path / "both")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_any_number_of_processes_writes_the_same_bytes(data, bases, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_SAMPLES_PER_PART", 2)
    config = config_of(recipe_of(data, bases["qwen3_vl"]))
    one = export(config, tmp_path / "one", workers=1)
    assert export(config, tmp_path / "two", workers=2) == one
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_an_interrupted_export_goes_on_and_another_does_not_mix_in(data, bases, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_SAMPLES_PER_PART", 2)
    config = config_of(recipe_of(data, bases["qwen3_vl"]))
    whole = export(config, tmp_path / "whole")
    out, made = tmp_path / "out", []
    original = export_module._Part._write

    def write(part, index, *rest):
        if index == 3 and len(made) == 3:
            raise KeyboardInterrupt
        made.append(index)
        original(part, index, *rest)

    monkeypatch.setattr(export_module._Part, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        export(config, out)
    assert not (out / "train.jsonl").exists(), "no trainer takes what is not finished"
    with pytest.raises(InputError, match="holds an export that differs in quality"):
        export(replace(config, quality=90), out)
    assert export(config, out) == whole
    assert made == [0, 1, 2, 2, 3, 4, 5], "the first part was kept"
    assert files(out) == files(tmp_path / "whole")
    made.clear()
    assert export(config, out) == whole
    assert made == [], "a finished one is only read"
    (out / "facts.json").write_text("{}")
    with pytest.raises(InputError, match=r"facts.json is damaged .* export again"):
        export(config, out)


def test_a_folder_with_something_else_is_left_alone(data, bases, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is no export"):
        export(config_of(recipe_of(data, bases["qwen3_vl"])), tmp_path / "out")
    assert files(tmp_path / "out") == {"thesis.txt": b"years of work"}


def test_a_full_disk_stops_it_with_one_line(data, bases, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match=r"^cannot write .*out: No space left on device; make room .* is kept$"):
        export(config_of(recipe_of(data, bases["qwen3_vl"])), tmp_path / "out")
    monkeypatch.undo()
    export(config_of(recipe_of(data, bases["qwen3_vl"])), tmp_path / "out")


def test_bad_samples_are_counted_once_and_bounded(bases, tmp_path):
    rooms = list(synth_samples(3, seed=5, views=2, points=50))
    rooms[1] = replace(rooms[1], image=rooms[1].image[:300], frame="torn")
    write_shards(rooms, tmp_path / "rooms")
    recipe = recipe_of(tmp_path / "rooms", bases["qwen3_vl"], steps=20)
    facts, skipped = export(config_of(recipe), tmp_path / "out")
    assert (facts.samples, len(skipped)) == (40, 1)
    with pytest.raises(InputError, match="more than max_bad=0 samples cannot be used"):
        export(config_of(replace(recipe, max_bad=0)), tmp_path / "strict")
    assert not (tmp_path / "strict" / "train.jsonl").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_picture(bases, family):
    processor = load_model(bases[family]).processor
    grid = processor.grid
    for columns, rows in ((3, 4), (5, 1)):
        pixels = processor.encode_images([Image.new("RGB", (columns * grid, rows * grid))])
        sizes = pixels.get("image_grid_thw", pixels.get("image_sizes"))
        assert image_tokens(family, grid, columns * grid, rows * grid) == len(processor.image_placeholder_ids(sizes[0]))


def test_words_that_a_trainer_takes_for_a_picture():
    with pytest.raises(InputError, match="holds <video>, which other trainers take for a picture"):
        messages([Question("what is at x1 y2", "<video> wall", None)], 1, None)
    assert messages([Question("q", "a", None)], 2, "s")[:2] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "<image><image>q"},
    ]


# --- what the trainers are told ---------------------------------------------------------------------------------------


def pixels_of(out: Path) -> list[int]:
    return [image.width * image.height for _, _, images in read_back(out) for image in images]


def test_ms_swift_is_started_with_the_recipe(data, bases, tmp_path, capsys):
    out = tmp_path / "out"
    status, text, _ = run(
        capsys, "export", "--to", "ms-swift", data, out, "--model", bases["qwen2_5_vl"], *SMALL,
        "--questions", 2, "stages.0.lr=3e-5", "stages.0.loss=text", "stages.0.packing=turns",
        "lora={rank: 4, quantize: 4bit}", "freeze_vision=true", "--reference", "text",
    )  # fmt: skip
    assert status == 0
    assert "8 rows, 16 questions; for qwen2_5_vl, sizes are multiples of 28" in text
    stub = tmp_path / "bin" / "swift"
    stub.parent.mkdir()
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$PWD" "$ROOT_IMAGE_DIR" "$MAX_PIXELS" "$MIN_PIXELS" "$@"\n')
    stub.chmod(0o755)
    path = f"{stub.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(out / "train.sh")], env={**os.environ, "PATH": path}, cwd="/", text=True, capture_output=True
    )
    here, root, most, least, *said = done.stdout.splitlines()
    assert here == root == str(out)
    assert (int(most), int(least)) == (max(pixels_of(out)), min(pixels_of(out)))
    assert said[0] == "sft"
    options = dict(zip(said[1::2], said[2::2], strict=True))
    assert options["--model"] == str(bases["qwen2_5_vl"])
    assert options["--model_type"] == options["--template"] == "qwen2_5_vl"
    assert (options["--tuner_type"], options["--lora_rank"], options["--quant_bits"]) == ("lora", "4", "4")
    assert options["--quant_method"] == "bnb"
    assert (options["--freeze_vit"], options["--freeze_aligner"]) == ("true", "true"), "the merger is of the tower"
    assert (options["--loss_scale"], float(options["--learning_rate"])) == ("all", 3e-5)
    assert options["--dataset"] == "train.jsonl"


def test_llama_factory_is_told_where_what_is(data, bases, tmp_path, capsys):
    out = tmp_path / "out"
    status, text, _ = run(
        capsys, "export", "--to", "llama-factory", data, out, "--model", bases["qwen3_vl"], *SMALL, "--json",
        "--questions", 4, "--reference", "arrow", "--reference", "text", "stages.0.accumulate=2",
    )  # fmt: skip
    assert status == 0
    found = json.loads(text)
    assert (found["samples"], found["rows"], found["family"], found["grid"]) == (8, 32, "qwen3_vl", 32)
    assert any("fewer than 65,536" in note and str(min(pixels_of(out))) in note for note in found["notes"])
    info = json.loads((out / "dataset_info.json").read_text())
    settings = yaml.safe_load((out / "train.yaml").read_text())
    assert info[settings["dataset"]]["file_name"] == "train.jsonl"
    assert settings["image_max_pixels"] == max(pixels_of(out))
    assert settings["image_min_pixels"] == min(pixels_of(out))
    assert settings["template"] == "qwen3_vl_nothink", "the other one adds thoughts to answers"
    assert settings["gradient_accumulation_steps"] == 2 * 4, "as many questions a step as `depthlm train` has"
    assert settings["cutoff_len"] >= found["tokens"]
    assert (settings["finetuning_type"], settings["freeze_vision_tower"]) == ("full", False)
    assert "quantization_bit" not in settings
    card = ModelCard.load(out)
    assert (card.focal, card.family, card.references) == (200.0, "qwen3_vl", ["arrow", "text"])
    assert str(min(pixels_of(out))) in (out / "README.md").read_text()


def test_notes_say_what_is_not_carried(data, bases, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: two\nmodel: new-nano\nprompt: nano\nfocal: 160\ncoordinate_range: 100\ndata: [{{path: {data}}}]\n"
        "crop: {width: [96, 160], height: [96, 128]}\nstages:\n"
        "  - {name: a, steps: 2, batch: 2, optimizer: muon, image_words: 1.0, final_lr: 0.1}\n"
        "  - {name: b, steps: 1, batch: 3}\n"
    )
    arguments = ("export", "--to", "ms-swift", recipe, tmp_path / "out", "--model", bases["pixtral"], "--workers", 1)
    status, text, _ = run(capsys, *arguments, "--stage", "a", "--jpeg", 90, "--seed", 9)
    assert status == 0
    for words in ("image_words", "optimizer muon", "final_lr", "JPEG of quality 90"):
        assert words in text
    assert sorted(path.suffix for path in (tmp_path / "out").rglob("*-0.*")) == [".jpg"] * 4
    exact = np.asarray(next(iter(read_back(tmp_path / "out")))[2][0])
    assert exact.ndim == 3
    assert json.loads((tmp_path / "out" / "export.json").read_text())["recipe"]["seed"] == 9
    shutil.rmtree(tmp_path / "out")
    assert run(capsys, *arguments, "--stage", "b", "--json")[0] == 0
    assert len(read_back(tmp_path / "out")) == 3


# --- bad input --------------------------------------------------------------------------------------------------------

GOOD = ("export", "--to", "ms-swift", "DATA", "OUT", "--model", "BASE")
BAD = {
    "no trainer": (("export", "DATA", "OUT", "--model", "BASE"), "--to"),
    "unknown trainer": (("export", "--to", "axolotl", "DATA", "OUT", "--model", "BASE"), "axolotl"),
    "data alone": (("export", "--to", "ms-swift", "DATA", "OUT"), "which model will be trained"),
    "no data": (("export", "--to", "ms-swift", "nowhere", "OUT", "--model", "BASE"), "nowhere: no such data"),
    "no recipe": (("export", "--to", "ms-swift", "nowhere.yaml", "OUT"), "nowhere.yaml: cannot be read"),
    "nano": (("export", "--to", "ms-swift", "DATA", "OUT", "--model", "nano"), "nano's layout"),
    "clip": (("export", "--to", "ms-swift", "DATA", "OUT", "--model", "LLAVA"), "its processor resizes every picture"),
    "unknown hub id": (("export", "--to", "ms-swift", "DATA", "OUT", "--model", "me/mine"), "me/mine"),
    "stages": (("export", "--to", "ms-swift", "nano-joint", "OUT", "--model", "BASE"), "say which by --stage"),
    "stage": ((*GOOD, "--stage", "x"), "has no stage 'x'"),
    "both": (
        (*GOOD, "--samples", 3, "--epochs", 2),
        "give one of them",
    ),
    "epochs": ((*GOOD, "--epochs", "nan"), "positive number"),
    "jpeg": ((*GOOD, "--jpeg", 0), "--jpeg"),
    "prompt": ((*GOOD, "--prompt", "p"), "unknown prompt 'p'; choose one of"),
    "words": (
        (
            "export",
            "--to",
            "ms-swift",
            "DATA",
            "OUT",
            "--model",
            "BASE",
            "--prompt",
            "vlm3-depth",
            "--reference",
            "arrow",
        ),
        "has no question for 'arrow'",
    ),
    "reference": (
        (*GOOD, "--reference", "dot"),
        "unknown reference 'dot'; choose one of",
    ),
    "task": ((*GOOD, "--task", "age"), "'age'"),
    "focal": ((*GOOD, "--focal", -1), "focal"),
    "override": ((*GOOD, "crops=1"), "crops"),
    "label of a recipe": (("export", "--to", "ms-swift", "nano", "OUT", "--label", "z"), "nano is a recipe"),
    "a file in the way": (("export", "--to", "ms-swift", "DATA", "FILE/x", "--model", "BASE"), "is not a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(data, bases, tmp_path, capsys, case):
    (tmp_path / "file").write_text("")
    places = {
        "DATA": data, "OUT": tmp_path / "out", "BASE": bases["qwen3_vl"], "LLAVA": bases["llava"],
        "FILE/x": tmp_path / "file" / "x",
    }  # fmt: skip
    arguments, message = BAD[case]
    status, out, err = run(capsys, *(places.get(a, a) for a in arguments))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert not (tmp_path / "out").exists()
