"""How close `depthlm train --plan` comes: parameters, tokens and peak memory, planned and measured.

    python benchmarks/plan.py [--json] [--quick] [--gpu-models qwen2_5vl_3b:lora,qwen3vl_4b:18]

Measured here: two full training steps (autocast to bf16 on a GPU, float32 on CPU) of the pinned 50 M-parameter model,
of 20 questions about each of two pictures, in the ways a recipe can ask for. On a GPU the peak is what torch allocated,
and published architectures are measured too (name, then `lora` or how many of its layers); on CPU it is the growth of
the resident memory of a fresh process. Recorded before: the steps of docs/results/throughput.json, whose weights were
bf16 throughout and whose AdamW took all of them at once. Headline: the largest error of a peak, in per cent; checks:
parameters within 10 %, peaks within 25 %.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import torch
from random_models import PINNED, build, noise, parameters, published, questions

from depthlm.errors import InputError
from depthlm.models.architecture import empty_model, read_architecture
from depthlm.models.families import family_of
from depthlm.models.vision_attention import pictures_together
from depthlm.training.loss import answer_loss
from depthlm.training.network import trainable
from depthlm.training.optimizer import build_optimizer
from depthlm.training.plan import Precision, count, measure_row, memory_bytes
from depthlm.training.recipe import DataSource, LoraConfig, Recipe, Stage
from depthlm.training.rows import collate_rows, encode_row
from depthlm.view import CropConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from depthlm.models.loading import LoadedModel

RECORDED = Path(__file__).resolve().parents[1] / "docs" / "results" / "throughput.json"
WAYS: dict[str, dict[str, Any]] = {
    "all": {},
    "checkpointing": {"gradient_checkpointing": True},
    "lora": {"lora": LoraConfig(), "gradient_checkpointing": True},
}
GPU_SIZE, CPU_SIZE, QUICK_SIZE = (1280, 960), (640, 480), (128, 96)
QUESTIONS, PICTURES, STEPS = 20, 2, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when a count is further off than 10 %, or a peak than 25 %."""
    options = common.parser(__doc__)
    options.add_argument("--gpu-models", default="qwen2_5vl_3b:lora,qwen3vl_4b:18", help="measured where a GPU is")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every way and size."""
    full_size = GPU_SIZE if torch.cuda.is_available() else CPU_SIZE
    size = QUICK_SIZE if arguments.quick else full_size
    extra = [_case(text) for text in arguments.gpu_models.split(",")]
    found = recorded()
    cases = [(str(PINNED), way, None) for way in (list(WAYS)[:1] if arguments.quick else WAYS)]
    if torch.cuda.is_available() and not arguments.quick:
        cases += extra
    for path, way, layers in cases:
        name = f"{Path(path).stem}_{way}"
        common.progress(name)
        if torch.cuda.is_available():  # counts its own peaks
            found[name] = steps(path, way, layers, size)
            continue
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(steps, (path, way, layers, size))
    config = {
        "size": size, "questions": QUESTIONS, "pictures": PICTURES, "quick": arguments.quick,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }  # fmt: skip
    # An allocator's own share weighs too much in a small peak.
    return judge(found, peaks=[name for name in found if not arguments.quick or name.startswith("recorded")]) | {
        "config": config
    }


def judge(found: dict[str, Any], peaks: Sequence[str]) -> dict[str, Any]:
    """How far the plans are off. peaks: rows whose peak is checked."""
    errors = {
        name: {part: abs(row["planned"][part] / row["measured"][part] - 1) for part in row["measured"]}
        for name, row in found.items()
    }
    checks = {f"{name}_parameters_within_10_%": error["parameters"] <= 0.1 for name, error in errors.items()}
    checks |= {f"{name}_peak_within_25_%": errors[name]["peak_gb"] <= 0.25 for name in peaks}
    return {
        "headline": {"largest_peak_error_%": 100 * max(errors[name]["peak_gb"] for name in peaks)},
        "checks": checks,
        "errors_%": {name: {part: 100 * e for part, e in error.items()} for name, error in errors.items()},
        **found,
    }


def _case(text: str) -> tuple[str, str, int | None]:
    """NAME:lora or NAME:LAYERS."""
    name, _, way = text.partition(":")
    if way != "lora" and not way.isdigit():
        raise InputError(f"--gpu-models: {text!r} is not a name with :lora or :LAYERS")
    return str(published(name)), "lora" if way == "lora" else "checkpointing", None if way == "lora" else int(way)


def recipe_of(model: str, way: str, size: tuple[int, int], asked: int) -> Recipe:
    """What a recipe would say of the measured steps."""
    stage = Stage(steps=STEPS, batch=PICTURES, references={"text": 1.0}, questions_per_image=asked)
    crop = CropConfig(width=(size[0], size[0]), height=(size[1], size[1]))
    return Recipe(name="plan", model=model, data=[DataSource(path="none")], stages=[stage], crop=crop, **WAYS[way])


def planned(recipe: Recipe, config: Any, at: Precision) -> dict[str, float]:
    """Parameters, tokens and peak as the plan has them."""
    family, stage = family_of(config), recipe.stages[0]
    counted = count(empty_model(config), family, recipe, stage)
    work = measure_row(recipe, stage, config, family)
    memory = memory_bytes(config, counted, work, recipe, stage, at=at)
    return {"parameters": counted.total, "tokens": work.tokens, "peak_gb": memory["peak"] / 1e9}


def recorded() -> dict[str, Any]:
    """The steps measured on an H100 by benchmarks/throughput.py."""
    throughput = json.loads(RECORDED.read_text(encoding="utf-8"))
    config, rows = throughput["config"], {}
    for name in ("qwen2_5vl_3b", "qwen3vl_4b", "pixtral_12b"):
        row = throughput[name]
        way = "lora" if row["trained"] == "lora" else "checkpointing"
        recipe = recipe_of(name, way, config["size"], config["questions_per_row"])
        rows[f"recorded_{name}"] = {
            "planned": planned(recipe, read_architecture(name), Precision(kept=2, computed=2, foreach=True)),
            "measured": {
                "parameters": row["parameters"], "tokens": row["tokens_per_row"], "peak_gb": row["train_peak_gb"],
            },
        }  # fmt: skip
    return rows


def steps(path: str, way: str, layers: int | None, size: tuple[int, int]) -> dict[str, Any]:
    """Two steps as the trainer makes them, and the plan of the same."""
    cuda = torch.cuda.is_available()
    small = build(PINNED, layers=1)  # what is imported and made once does not count
    _train(small, recipe_of(path, way, QUICK_SIZE, QUESTIONS), QUICK_SIZE)
    del small
    before = _resident()
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    loaded = build(Path(path), layers=layers, device="cuda" if cuda else "cpu")
    recipe = recipe_of(path, way, size, QUESTIONS)
    total, config = parameters(loaded.model)[0], loaded.model.config
    row = _train(loaded, recipe, size)
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else _resident(peak=True) - before
    at = Precision() if cuda else Precision(kept=4, computed=4)
    return {
        "planned": planned(recipe, config, at),
        "measured": {"parameters": total, "tokens": row, "peak_gb": peak},
    }


def _train(loaded: LoadedModel, recipe: Recipe, size: tuple[int, int]) -> int:
    """Runs the steps; returns the tokens of a row."""
    network, processor = trainable(loaded, recipe), loaded.processor
    network.train()
    optimizer = build_optimizer(network, name="adamw", lr=1e-5, weight_decay=0.0)
    image = noise(*size)
    image = image.crop((0, 0, *(side // processor.grid * processor.grid for side in image.size)))
    row = encode_row(processor, [image], questions("depthlm", QUESTIONS, *image.size))
    batch = {k: v.to(loaded.model.device) for k, v in collate_rows(processor, [row] * PICTURES).items()}
    device = loaded.model.device.type
    with pictures_together(loaded.model):
        for _ in range(STEPS):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss, _ = answer_loss(loaded.model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return row.length


def _resident(*, peak: bool = False) -> float:
    """Gigabytes of memory that this process has, or has had at most."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e9


if __name__ == "__main__":
    sys.exit(main())
