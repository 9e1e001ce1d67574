"""Labelled points per second of full training steps: ten questions in one row against one question in each of ten.

    python benchmarks/training.py [--json] [--quick] [--questions 10] [--repeats 2] [--prompts short,vlm3]

The model is pinned: benchmarks/models/qwen3vl_50m.json, the Qwen3-VL architecture with random weights, one picture of
640x480 (300 image tokens). A step is collate, forward, loss, backward, clipping and AdamW. Ours: all questions share a
row (the picture is read once) and only positions that predict an answer meet the language-model head. Plain: a row for
each question, the picture in each, logits of every position. Both see the same questions, take turns, and the fastest
step of each counts, in processor time of one thread: other work on the machine counts for neither. Headline: labelled
points per second of ours over plain, short prompt. Loss and gradients must be equal. Real sizes on a GPU:
benchmarks/throughput.py, docs/gpu.md.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import common
import torch
from packing import PROMPTS, QUICK_SIZE, SIZE, batch_of
from random_models import PINNED, build, noise, parameters, questions
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from depthlm.errors import InputError
from depthlm.models.chat import IGNORE
from depthlm.models.vision_attention import pictures_together
from depthlm.training.loss import answer_loss
from depthlm.training.optimizer import build_optimizer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from depthlm.models.loading import LoadedModel

LR, CLIP = 1e-5, 1.0
WAYS = {"ours": "shared", "plain": "unpacked"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when both ways differ in loss or gradients, or the model is not what it is said to be."""
    options = common.parser(__doc__)
    options.add_argument("--questions", type=int, default=10, help="about the picture")
    options.add_argument("--repeats", type=int, default=2, help="steps of each way, the fastest counts")
    options.add_argument("--prompts", default=",".join(PROMPTS), help=f"of {', '.join(PROMPTS)}")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both ways, for every prompt."""
    if min(arguments.questions, arguments.repeats) < 1:
        raise InputError("--questions and --repeats take 1 or more")
    names = arguments.prompts.split(",")
    if unknown := [name for name in names if name not in PROMPTS]:
        raise InputError(f"--prompts: {unknown[0]!r} is not one of {', '.join(PROMPTS)}")
    loaded = build(PINNED, tuple(PROMPTS.values()), layers=1 if arguments.quick else None)
    total, tower = parameters(loaded.model)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {name: one_prompt(loaded, PROMPTS[name], arguments) for name in names}
    finally:
        torch.set_num_threads(threads)
    checks = {f"{name}_{key}": row.pop(key) for name, row in found.items() for key in ("loss_equal", "gradients_equal")}
    size = {} if arguments.quick else {"about_50_million": 45e6 < total < 55e6}
    return {
        "headline": {f"points_over_plain_{names[0]}": found[names[0]]["points_over_plain"]},
        "checks": checks | size,
        "config": {
            "model": PINNED.name, "parameters": total, "vision_share": tower / total,
            "questions": arguments.questions, "repeats": arguments.repeats, "quick": arguments.quick,
            "size": QUICK_SIZE if arguments.quick else SIZE, "threads": 1,
            "optimizer": "adamw", "vocabulary": loaded.model.config.text_config.vocab_size,
        },
        **found,
    }  # fmt: skip


def one_prompt(loaded: LoadedModel, prompt: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rates of both ways, and how far their losses and gradients are apart."""
    model = loaded.model.train()
    image = noise(*(QUICK_SIZE if arguments.quick else SIZE))
    asked = questions(prompt, arguments.questions, *image.size)

    def backward(way: str) -> float:
        batch = batch_of(loaded.processor, image, asked, WAYS[way])
        loss = answer_loss(model, batch)[0] if way == "ours" else whole_loss(model, batch)
        loss.backward()
        return loss.item()

    with pictures_together(model):  # as the trainer does
        losses, gradient = differences(model, backward)
        seconds = time_steps(model, backward, arguments.repeats)
    rates = {way: len(asked) / best for way, best in seconds.items()}
    return {
        "points_over_plain": rates["ours"] / rates["plain"],
        "points_per_s": rates,
        "seconds_per_step": seconds,
        "losses": losses,
        "loss_equal": abs(losses["ours"] - losses["plain"]) <= 1e-5 * losses["plain"],
        "gradients_equal": gradient <= 1e-4,
    }


def whole_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy over the logits of every position, the usual way."""
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits  # [B, L, vocabulary]
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE)


def differences(model: Any, backward: Callable[[str], float]) -> tuple[dict[str, float], float]:
    """Losses of both ways, and their gradients' largest difference over the largest gradient."""
    losses, gradients = {}, {}
    for way in WAYS:
        model.zero_grad(set_to_none=True)
        losses[way] = backward(way)
        gradients[way] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    largest = max(gradient.abs().max().item() for gradient in gradients["plain"].values())
    apart = max((gradients["ours"][n] - gradient).abs().max().item() for n, gradient in gradients["plain"].items())
    return losses, apart / largest


def time_steps(model: Any, backward: Callable[[str], float], repeats: int) -> dict[str, float]:
    """Processor seconds of the fastest full step of each way."""
    optimizer = build_optimizer(model, name="adamw", lr=LR, weight_decay=0.0)
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(repeats):
        for way in WAYS:
            start = time.process_time()
            optimizer.zero_grad(set_to_none=True)
            backward(way)
            clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            best[way] = min(best[way], time.process_time() - start)
    return best


if __name__ == "__main__":
    sys.exit(main())
