"""What ms-swift and LLaMA-Factory make of an export: their own loaders and templates, each in its own environment.

They must come to the token ids, labels and pixel values that `depthlm train` has for the same recipe.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from depthlm.data.shards import write_shards
from depthlm.synth.generate import synth_samples
from depthlm.training.export import export
from depthlm.training.other_trainers import ExportConfig
from depthlm.training.recipe import DataSource, Recipe, Stage
from depthlm.training.run import start_model
from depthlm.training.stage import open_source, stage_rows
from depthlm.view import CropConfig
from environments import make_environment
from tiny import build_tiny
from torchvision_env import DECLARE, TORCHVISION

GRIDS = {"qwen2_5_vl": 28, "qwen3_vl": 32, "pixtral": 16}
# Without what they only use elsewhere: torchaudio (of CUDA here), gradio.
PACKAGES = {
    "ms-swift": (
        ["--no-deps", "ms-swift==4.6.0", TORCHVISION, "trl==0.29.1", "transformers==5.19.0"],
        "addict aiohttp attrdict binpacking dacite datasets<4.8.5 einops fastapi json-repair modelscope nltk openai "
        "pandas qwen-vl-utils requests rouge sentencepiece simplejson sortedcontainers tiktoken uvicorn zstandard",
    ),
    "llama-factory": (
        ["--no-deps", "llamafactory==0.9.5", TORCHVISION, "trl==0.24.0", "transformers==5.6.0", "peft==0.18.1",
         "accelerate==1.11.0", "tokenizers==0.22.2", "huggingface-hub==1.5.0"],
        "av<=16.0.0 datasets<=4.0.0 einops fastapi fire hf-transfer modelscope omegaconf pandas protobuf pydantic "
        "sentencepiece sse-starlette tiktoken torchdata==0.11.0 tyro<0.9.0 uvicorn",
    ),
}  # fmt: skip
# Each saves ids, labels and pixel values of every row of the export it stands in.
ASK = {
    "ms-swift": """
import json, os, shlex, sys
family, base, out = sys.argv[1:]
for setting in next(l for l in open("train.sh") if l.startswith("export ")).split()[1:]:
    name, value = setting.split("=", 1)
    os.environ[name] = os.path.expandvars(value.strip('"')) if "$" in value else value
from swift import get_processor, get_template
from swift.dataset import load_dataset
processor = get_processor(base, model_type=family)
template = get_template(processor, template_type=family)
template.set_mode("train")
if family == "pixtral":  # ids of published tokenizers stand in its code
    import swift.template.templates.pixtral as module
    find, token = module.findall, processor.tokenizer.convert_tokens_to_ids("[IMG]")
    module.findall = lambda ids, _: find(ids, token)
else:
    template.image_token_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
rows, _ = load_dataset(["train.jsonl"], split_dataset_ratio=0, shuffle=False)
found = [template.encode(dict(row)) for row in rows]
torch.save([{"ids": list(r["input_ids"]), "labels": list(r["labels"]), "pixels": r["pixel_values"].float()}
            for r in found], out)
""",
    "llama-factory": """
import importlib.machinery, os, sys, types
audio = types.ModuleType("torchaudio")
audio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = audio
import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
family, base, out = sys.argv[1:]
settings = yaml.safe_load(open("train.yaml")) | {"bf16": False, "use_cpu": True}
model, data, training, _, _ = get_train_args(settings)
module = load_tokenizer(model)
template = get_template_and_fix_tokenizer(module["tokenizer"], data)
rows = get_dataset(template, model, data, training, stage="sft", **module)["train_dataset"]
found = []
for row in rows:
    pictures = template.mm_plugin.get_mm_inputs(
        row["images"], [], [], [len(row["images"])], [0], [0], [row["input_ids"]], module["processor"])
    found.append({"ids": row["input_ids"], "labels": row["labels"], "pixels": pictures["pixel_values"].float()})
torch.save(found, out)
""",
}


@pytest.fixture(scope="module", params=PACKAGES)
def trainer(request, tmp_path_factory):
    first, others = PACKAGES[request.param]
    return request.param, make_environment(tmp_path_factory.mktemp("trainer") / "venv", first, others.split())


def ours(recipe: Recipe) -> list[tuple[list[int], list[int], torch.Tensor]]:
    """(ids, labels, pixel values) of each row that the export has."""
    sources = [open_source(recipe.data[0], print)]
    rows, found = stage_rows(recipe, recipe.stages[0], start_model(recipe, sources), sources), []
    for index in range(len(rows)):
        row = rows[index]
        groups = [row.questions] if row.turns else [[question] for question in row.questions]
        for group in groups:
            ids, labels = list(row.prefix), [-100] * len(row.prefix)
            for question, answer in group:
                ids += question
                labels += [-100] * (len(question) - answer) + question[-answer:]
            found.append((ids, labels, row.images["pixel_values"]))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_trainer_sees_what_train_sees(trainer, tmp_path):
    name, python = trainer
    write_shards(synth_samples(2, seed=5, views=2, points=150, pairs=True), tmp_path / "rooms")
    for (family, grid), packing in zip(GRIDS.items(), ("shared", "turns", "turns"), strict=True):
        base = build_tiny(family, tmp_path / family)
        recipe = Recipe(
            name="t", model=str(base), data=[DataSource(path=str(tmp_path / "rooms"))], focal=400,
            crop=CropConfig(width=(100, 300), height=(100, 300)),
            stages=[Stage(steps=2, batch=2, packing=packing, questions_per_image=3,
                          references={"text": 1, "arrow": 1}, tasks={"distance": 1, "between": 1, "moved": 2})],
        )  # fmt: skip
        out = tmp_path / f"export-{family}"
        export(ExportConfig(recipe=recipe, stage=recipe.stages[0], trainer=name, family=family, grid=grid), out)
        compare(ours(recipe), ask(name, python, out, family, base), family)


def ask(name: str, python: Path, out: Path, family: str, base: Path) -> list[dict]:
    """What the trainer makes of each row."""
    command = [str(python), "-c", DECLARE + ASK[name], family, str(base), str(out / "seen.pt")]
    settings = {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "PWD": str(out), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=out, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "seen.pt")


def compare(wanted, found, family):
    assert len(found) == len(wanted)
    for row, (ids, labels, pixels) in zip(found, wanted, strict=True):
        assert row["ids"][: len(ids)] == ids
        # Qwen's layouts end a turn, and so the row, with a line's end; both trainers count it as part of the answer.
        line_end = set(row["ids"][len(ids) :])
        assert len(line_end) == (family != "pixtral")
        counted = [-100 if label in line_end else label for label in row["labels"]]
        assert counted[: len(ids)] == labels
        assert (row["pixels"] - pixels).abs().max() < 1e-6
