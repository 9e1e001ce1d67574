"""What packing saves: questions per second of a training step, K questions about one image in one row or in K rows.

    python benchmarks/packing.py [--json] [--quick] [--counts 1,2,5,10,20] [--repeats 3]

The model is pinned: benchmarks/models/qwen3vl_50m.json, the Qwen3-VL architecture with random weights, 300 image tokens
(a 640x480 view). A step is collate, forward and backward; the optimizer's share does not depend on the packing and is
left out. Three ways: shared (the prefix is read once, each question sees it and itself), turns (one conversation) and
unpacked (K rows, the image in each). Ways take turns within each repeat and their fastest step counts. Two prompts: the
embedded model's short one, and the released VLM3 prompt with its long answer. Operations: those of the matrix products
of a step (attention, on a CPU a kernel of its own, is not counted), unpacked over shared: what packing saves where time
goes with them. Headline: questions per second of shared rows over those of unpacked ones at K = 10, short prompt.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import common
import torch
from random_models import PINNED, build, noise, parameters, questions
from torch.utils.flop_counter import FlopCounterMode

from depthlm.errors import InputError
from depthlm.training.loss import answer_loss
from depthlm.training.rows import collate_rows, encode_row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from PIL import Image

    from depthlm.models.processor import ThinProcessor
    from depthlm.tasks import Question

PROMPTS = {"short": "nano", "vlm3": "vlm3-depth"}
WAYS = ("shared", "turns", "unpacked")
SIZE, QUICK_SIZE = (640, 480), (96, 64)  # pixels; one image token is 32 x 32
HEADLINE = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when packing changes loss or gradients, or the model is not what it is said to be."""
    options = common.parser(__doc__)
    options.add_argument("--counts", default="1,2,5,10,20", help="questions per image, separated by commas")
    options.add_argument("--repeats", type=int, default=3, help="steps of each kind, the fastest counts")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All prompts, counts and ways."""
    counts = common.counts(arguments.counts, "--counts")
    if arguments.repeats < 1:
        raise InputError("--repeats takes 1 or more")
    loaded = build(PINNED, tuple(PROMPTS.values()), layers=1 if arguments.quick else None)
    processor, model = loaded.processor, loaded.model.train()
    width, height = QUICK_SIZE if arguments.quick else SIZE
    image = noise(width, height)
    rates: dict[str, dict[str, dict[str, float]]] = {}
    saved: dict[str, dict[str, float]] = {}
    tokens: dict[str, int] = {}
    equal: dict[str, bool] = {}
    for name, prompt in PROMPTS.items():
        asked = questions(prompt, max(counts), width, height)
        row = encode_row(processor, [image], asked[:1])
        tokens[name] = len(row.questions[0][0])
        rates[name], saved[name] = {}, {}
        for count in counts:
            common.progress(f"{name} prompt, {count} questions")
            rates[name][str(count)] = time_ways(processor, model, image, asked[:count], arguments.repeats)
            shared, unpacked = (
                operations(processor, model, image, asked[:count], way) for way in ("shared", "unpacked")
            )
            saved[name][str(count)] = unpacked / shared
        loss, gradient = differences(processor, model, image, asked[: min(HEADLINE, max(counts))])
        equal |= {f"{name}_loss_equal": loss <= 1e-5, f"{name}_gradients_equal": gradient <= 1e-4}
    total, tower = parameters(model)
    vision = tower / total
    speedup = {
        name: {k: ways["shared"] / ways["unpacked"] for k, ways in by_count.items()} for name, by_count in rates.items()
    }
    size = {} if arguments.quick else {"about_50_million": 45e6 < total < 55e6, "vision_at_most_20_%": vision <= 0.2}
    at = str(HEADLINE) if HEADLINE in counts else str(counts[-1])
    return {
        "headline": {"shared_over_unpacked_short": speedup["short"][at]},
        "checks": equal | size,
        "config": {
            "model": PINNED.name, "parameters": total, "vision_share": vision, "at": int(at),
            "image_tokens": width * height // 32**2, "tokens_per_question": tokens, "prompts": PROMPTS,
            "threads": torch.get_num_threads(), "quick": arguments.quick, "repeats": arguments.repeats,
        },
        "shared_over_unpacked": speedup,
        "operations_unpacked_over_shared": saved,
        "questions_per_s": rates,
    }  # fmt: skip


def batch_of(processor: ThinProcessor, image: Image.Image, asked: Sequence[Question], way: str) -> dict[str, Any]:
    """One row for all questions, or one for each."""
    groups = [[question] for question in asked] if way == "unpacked" else [asked]
    return collate_rows(processor, [encode_row(processor, [image], group, turns=way == "turns") for group in groups])


def step(processor: ThinProcessor, model: Any, image: Image.Image, asked: Sequence[Question], way: str) -> float:
    """Collate, forward, backward; the loss. Gradients are left on the model."""
    model.zero_grad(set_to_none=True)
    loss, _ = answer_loss(model, batch_of(processor, image, asked, way))
    loss.backward()
    return loss.item()


def operations(processor: ThinProcessor, model: Any, image: Image.Image, asked: Sequence[Question], way: str) -> int:
    """Multiplications and additions of a step's matrix products."""
    with FlopCounterMode(display=False) as counter:
        step(processor, model, image, asked, way)
    return counter.get_total_flops()


def time_ways(
    processor: ThinProcessor, model: Any, image: Image.Image, asked: Sequence[Question], repeats: int
) -> dict[str, float]:
    """Questions per second of each way."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(repeats):
        for way in WAYS:
            start = time.perf_counter()
            step(processor, model, image, asked, way)
            best[way] = min(best[way], time.perf_counter() - start)
    return {way: len(asked) / seconds for way, seconds in best.items()}


def differences(
    processor: ThinProcessor, model: Any, image: Image.Image, asked: Sequence[Question]
) -> tuple[float, float]:
    """Shared against unpacked: relative difference of the loss, and of the gradients (largest over largest)."""
    shared = step(processor, model, image, asked, "shared")
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    unpacked = step(processor, model, image, asked, "unpacked")
    apart = max((p.grad - gradients[n]).abs().max().item() for n, p in model.named_parameters() if p.grad is not None)
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    return abs(shared - unpacked) / abs(unpacked), apart / largest


if __name__ == "__main__":
    sys.exit(main())
