"""What packing saves: questions per second of a training step, K questions about one image in one row or in K rows.

    python benchmarks/packing.py [--json] [--quick] [--counts 1,2,5,10,20] [--repeats 3]

The model is pinned: benchmarks/models/qwen3vl_50m.json, the Qwen3-VL architecture with random weights, 300 image tokens
(a 640x480 view). A step is collate, forward and backward; the optimizer's share does not depend on the packing and is
left out. Three ways: shared (the prefix is read once, each question sees it and itself), turns (one conversation) and
unpacked (K rows, the image in each). Ways take turns within each repeat and their fastest step counts. Two prompts: the
embedded model's short one, and the released VLM3 prompt with its long answer. Headline: questions per second of shared
rows over those of unpacked ones at K = 10, short prompt.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.models.families import FAMILIES
from depthlm.models.loading import image_processor_class
from depthlm.models.nano import SPECIAL_TOKENS
from depthlm.models.processor import ThinProcessor
from depthlm.prompts import get_prompt
from depthlm.reference import get_reference
from depthlm.tasks import Question
from depthlm.training.loss import answer_loss
from depthlm.training.rows import collate_rows, encode_row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

MODEL = Path(__file__).resolve().parent / "models" / "qwen3vl_50m.json"
PROMPTS = {"short": "nano", "vlm3": "vlm3-depth"}
WAYS = ("shared", "turns", "unpacked")
SIZE, QUICK_SIZE = (640, 480), (96, 64)  # pixels; one image token is 32 x 32
HEADLINE = 10
# As Qwen's: digits single, a space before a word belongs to the word.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when packing changes loss or gradients, or the model is not what it is said to be."""
    options = common.parser(__doc__)
    options.add_argument("--counts", default="1,2,5,10,20", help="questions per image, separated by commas")
    options.add_argument("--repeats", type=int, default=3, help="steps of each kind, the fastest counts")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All prompts, counts and ways."""
    try:
        counts = sorted({int(text) for text in arguments.counts.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1 or arguments.repeats < 1:
        raise InputError("--counts takes whole numbers of 1 or more, separated by commas; --repeats 1 or more")
    processor, model = build(arguments.quick)
    width, height = QUICK_SIZE if arguments.quick else SIZE
    levels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    rates: dict[str, dict[str, dict[str, float]]] = {}
    tokens: dict[str, int] = {}
    equal: dict[str, bool] = {}
    for name, prompt in PROMPTS.items():
        asked = questions(prompt, max(counts), width, height)
        row = encode_row(processor, [image], asked[:1])
        tokens[name] = len(row.questions[0][0])
        rates[name] = {}
        for count in counts:
            common.progress(f"{name} prompt, {count} questions")
            rates[name][str(count)] = time_ways(processor, model, image, asked[:count], arguments.repeats)
        loss, gradient = differences(processor, model, image, asked[: min(HEADLINE, max(counts))])
        equal |= {f"{name}_loss_equal": loss <= 1e-5, f"{name}_gradients_equal": gradient <= 1e-4}
    parameters = sum(p.numel() for p in model.parameters())
    vision = sum(p.numel() for p in model.model.visual.parameters()) / parameters
    speedup = {
        name: {k: ways["shared"] / ways["unpacked"] for k, ways in by_count.items()} for name, by_count in rates.items()
    }
    size = (
        {} if arguments.quick else {"about_50_million": 45e6 < parameters < 55e6, "vision_at_most_20_%": vision <= 0.2}
    )
    at = str(HEADLINE) if HEADLINE in counts else str(counts[-1])
    return {
        "headline": {"shared_over_unpacked_short": speedup["short"][at]},
        "checks": equal | size,
        "config": {
            "model": MODEL.name, "parameters": parameters, "vision_share": vision, "at": int(at),
            "image_tokens": width * height // 32**2, "tokens_per_question": tokens, "prompts": PROMPTS,
            "threads": torch.get_num_threads(), "quick": arguments.quick, "repeats": arguments.repeats,
        },
        "shared_over_unpacked": speedup,
        "questions_per_s": rates,
    }  # fmt: skip


def build(quick: bool) -> tuple[ThinProcessor, Any]:
    """The pinned model (when quick, of one narrow layer) with a byte-level BPE trained on the prompts."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [q.text + q.answer for name in PROMPTS.values() for q in questions(name, 64, *SIZE)] + ["user assistant"]
    trainer = trainers.BpeTrainer(
        vocab_size=7900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    config = json.loads(MODEL.read_text(encoding="utf-8"))
    if quick:
        config["text_config"]["num_hidden_layers"] = config["vision_config"]["depth"] = 1
    for part in ("image_pad", "video_pad", "vision_start", "vision_end"):
        config[f"{part.removesuffix('_pad')}_token_id"] = fast.convert_tokens_to_ids(f"<|{part}|>")
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config)).train()
    family = FAMILIES["qwen3_vl"]
    vision = config["vision_config"]
    images = image_processor_class(family)(
        patch_size=vision["patch_size"], merge_size=vision["spatial_merge_size"],
        size={"shortest_edge": 32 * 32, "longest_edge": SIZE[0] * SIZE[1]},
    )  # fmt: skip
    return ThinProcessor(fast, images, family), model


def questions(name: str, count: int, width: int, height: int) -> list[Question]:
    """Distance questions about `count` points, with made-up answers."""
    prompt, rng = get_prompt(name), np.random.default_rng(1)
    camera = Camera.from_focal(600.0, width, height)
    reference = get_reference("text", 100 if name == "nano" else 2000)
    made = []
    for u, v, metres in rng.uniform((0, 0, 0.3), (width - 1, height - 1, 20), (count, 3)):
        made.append(Question(prompt.question(reference, (u, v), camera), prompt.format_answer(metres), metres))
    return made


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
