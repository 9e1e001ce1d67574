"""Real sizes on one GPU: points per second, training tokens per second, model FLOPs and memory, random weights in bf16.

    python benchmarks/throughput.py [--models qwen2_5vl_3b,qwen3vl_4b,pixtral_12b] [--points 256] [--json]
    python benchmarks/throughput.py --quick      # one layer each, on whatever is there

For each architecture (src/depthlm/models/architectures/*.json): the same text questions about one 1280x960 picture at
its own focal length asked through depthlm's engine with the picture read once, and one by one with `generate`, 8 tokens
an answer (random weights end no answer); then full training steps of ten questions in one row, gradient checkpointing
on: all weights with AdamW in bf16 up to 5 billion parameters, LoRA of rank 16 above. MFU counts 6 FLOPs per weight and
token (LoRA: 4), vision weights by patches, attention left out, against 989 TFLOP/s (dense bf16 of an H100). Headline:
points per second of shared reading over one by one, the smallest of the models.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import torch
from random_models import build, noise, parameters, published, questions

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.models.vision_attention import pictures_together
from depthlm.training.loss import answer_loss
from depthlm.training.rows import collate_rows, encode_row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from depthlm.models.loading import LoadedModel

PEAK = 989e12
LORA_ABOVE = 5e9  # parameters
SIZE, QUICK_SIZE = (1280, 960), (128, 96)
QUESTIONS, STEPS, TOKENS = 10, 3, 8


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when a model trains to a loss that is no number, or answers are lost."""
    options = common.parser(__doc__)
    options.add_argument(
        "--models", default="qwen2_5vl_3b,qwen3vl_4b,pixtral_12b", help="files of models/architectures"
    )
    options.add_argument("--points", type=int, default=256, help="asked through the engine; one in 64 also one by one")
    options.add_argument("--rows", type=int, default=2, help="pictures of a training step")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every model after the other."""
    if arguments.points < 1 or arguments.rows < 1:
        raise InputError("--points and --rows take 1 or more")
    files = {name: published(name) for name in arguments.models.split(",")}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for name, path in files.items():
        common.progress(name)
        loaded = build(
            path, layers=1 if arguments.quick else None, device=device,
            dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        )  # fmt: skip
        found[name] = ask(loaded, arguments) | train(loaded, arguments)
        del loaded
        gc.collect()
        torch.cuda.empty_cache()
    return {
        "headline": {"shared_over_one_by_one": min(row["shared_over_one_by_one"] for row in found.values())},
        "checks": {f"{name}_{key}": row.pop(key) for name, row in found.items() for key in ("answered", "finite_loss")},
        "config": {
            "points": arguments.points, "quick": arguments.quick, "rows": arguments.rows, "answer_tokens": TOKENS,
            "questions_per_row": QUESTIONS, "size": QUICK_SIZE if arguments.quick else SIZE,
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "peak_flops": PEAK,
        },
        **found,
    }  # fmt: skip


def ask(loaded: LoadedModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """Points per second, shared and one by one."""
    image = noise(*(QUICK_SIZE if arguments.quick else SIZE))
    loaded.card.max_new_tokens = TOKENS
    loaded.model.generation_config.eos_token_id = None
    camera = Camera.from_focal(loaded.card.focal, *image.size)
    uv = np.random.default_rng(1).uniform((0, 0), (image.width - 1, image.height - 1), (arguments.points, 2))
    shared = Engine(loaded, reference="text", intervals=False)
    alone = Engine(loaded, reference="text", intervals=False, batch=1, shares=False)
    requests = shared.requests(image, camera, uv)
    few = requests[: max(1, arguments.points // 64)]
    alone.ask(few[:1]), shared.ask(requests[:8])  # warm
    _reset()
    together = _timed(lambda: shared.ask(requests))
    peak = _peak()
    one = _timed(lambda: alone.ask(few))
    rates = {"points_per_s": len(requests) / together[0], "one_by_one_points_per_s": len(few) / one[0]}
    return rates | {
        "image_tokens": int(sum(t == loaded.processor.image_token_id for t in loaded.processor.encode(
            requests[0].images(), requests[0].question).input_ids.tolist())),
        "shared_over_one_by_one": rates["points_per_s"] / rates["one_by_one_points_per_s"],
        "ask_peak_gb": peak,
        "answered": len(together[1]) == len(requests),
    }  # fmt: skip


def train(loaded: LoadedModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """Full training steps."""
    model, processor = loaded.model, loaded.processor
    total, tower = parameters(model)
    lora = total > LORA_ABOVE
    if lora:
        import peft

        settings = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(model, settings)
        wrapped.enable_input_require_grads()
    model.train()
    model.gradient_checkpointing_enable()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    image = noise(*(QUICK_SIZE if arguments.quick else SIZE))
    image = image.crop((0, 0, *(side // processor.grid * processor.grid for side in image.size)))
    row = encode_row(processor, [image], questions("depthlm", QUESTIONS, *image.size))
    batch = collate_rows(processor, [row] * arguments.rows)
    batch = {key: value.to(model.device) for key, value in batch.items()}
    batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    tokens = row.length * arguments.rows
    patches = arguments.rows * (image.width // processor.patch) * (image.height // processor.patch)

    def step() -> float:
        loss, _ = answer_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    with pictures_together(model):  # as the trainer does
        step()
        _reset()
        seconds, losses = _timed(lambda: [step() for _ in range(STEPS)])
    flops = (4 if lora else 6) * ((total - tower) * tokens + tower * patches) * STEPS
    return {
        "parameters": total, "vision_parameters": tower, "trained": "lora" if lora else "all",
        "trained_parameters": sum(p.numel() for p in trained), "tokens_per_row": row.length,
        "train_tokens_per_s": tokens * STEPS / seconds, "labels_per_s": QUESTIONS * arguments.rows * STEPS / seconds,
        "mfu": flops / seconds / PEAK, "train_peak_gb": _peak(), "finite_loss": bool(np.isfinite(losses).all()),
    }  # fmt: skip


def _timed(work: Any) -> tuple[float, Any]:
    _wait()
    start = time.perf_counter()
    result = work()
    _wait()
    return time.perf_counter() - start, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> float | None:
    """Gigabytes; None where there is no GPU to ask."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


if __name__ == "__main__":
    sys.exit(main())
