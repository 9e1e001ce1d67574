"""What shared reading and forced answers save: points per second about one picture against one `generate` per point.

    python benchmarks/points.py [--points 256] [--plain 8] [--growth 1,16,256,4096] [--json] [--quick]

The model is pinned: benchmarks/models/qwen3vl_50m.json, random weights, a 960x960 view (900 image tokens). Plain: each
question alone through `generate`, VLM3's prompt, as many tokens as the released answer template has (random weights end
no answer by themselves). Ways, all through depthlm's engine: `forced` (our prompt, coordinates last, answer begun for
the model, number tokens only), `vlm3` (the released prompt and its order, answer begun), `free` (released prompt, every
token of the answer decoded: must give the very tokens of plain). Random weights write no numbers, so any five tokens
count as one here: as many as 12.34 has. Headline: `forced` over plain. Also Qwen2.5-VL with the same text side, Pixtral
with markers (forced against plain, decode steps), growth over the number of points, and the memory that asking takes
against its budget.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import torch
from PIL import Image
from random_models import MODELS, PINNED, build, parameters

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.inference.numbers import NumberVocabulary
from depthlm.prompts import PROMPTS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from depthlm.inference.request import Request
    from depthlm.models.loading import LoadedModel

SIDE, QUICK_SIDE = 960, 128
PROMPTS_USED = ("vlm3-depth", "depthlm-official", "depthlm")
NUMBER_TOKENS = 5
MARKERS = 4
BUDGET = 512.0  # MiB, of asking many points at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when a way does not say what it must, or takes more memory than it may."""
    options = common.parser(__doc__)
    options.add_argument("--points", type=int, help="asked through the engine (256)")
    options.add_argument("--plain", type=int, help="asked one by one (8)")
    options.add_argument("--growth", default="1,16,256,4096", help="numbers of points, separated by commas")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every family and way."""
    points = arguments.points or (16 if arguments.quick else 256)
    few = arguments.plain or (2 if arguments.quick else 8)
    if min(points, few) < 1:
        raise InputError("--points and --plain take 1 or more")
    layers, side = (1, QUICK_SIDE) if arguments.quick else (None, SIDE)
    checks: dict[str, bool] = {}
    found: dict[str, Any] = {}
    for name in ("qwen3vl_50m", "qwen2_5vl_50m"):
        loaded = build(MODELS / f"{name}.json", PROMPTS_USED, layers=layers)
        common.progress(name)
        found[name] = text_ways(loaded, side, points, few, checks, name)
        if name == PINNED.stem:
            total, tower = parameters(loaded.model)
            found["growth"] = growth(loaded, side, arguments, checks)
            if not arguments.quick:
                checks |= {"about_50_million": 45e6 < total < 55e6, "vision_at_most_20_%": tower <= 0.2 * total}
    common.progress("pixtral_50m")
    found["pixtral_50m"] = markers(build(MODELS / "pixtral_50m.json", PROMPTS_USED, layers=layers), side, few, checks)
    pinned = found[PINNED.stem]
    return {
        "headline": {"forced_over_plain": pinned["forced_over_plain"]},
        "checks": checks,
        "config": {
            "points": points, "plain": few, "side": side, "budget_mib": BUDGET, "threads": torch.get_num_threads(),
            "quick": arguments.quick, "model": PINNED.name,
        },
        **found,
    }  # fmt: skip


def text_ways(
    loaded: LoadedModel, side: int, points: int, few: int, checks: dict[str, bool], name: str
) -> dict[str, Any]:
    """Points per second of plain and of each way, and over plain."""
    vlm3, ours = (ask_in(loaded, prompt) for prompt in ("vlm3-depth", "depthlm"))
    plain = engine(vlm3, shares=False, forced=False, batch=1)
    ways = {"forced": engine(ours), "vlm3": engine(vlm3), "free": engine(vlm3, forced=False)}
    asked = requests(plain, side, points)
    rates: dict[str, float] = {}
    alone, seconds = timed(lambda: plain.ask(asked[:few]))
    rates["plain"] = few / seconds
    for way, asker in ways.items():
        mine = requests(asker, side, points)
        asker.ask(mine[:2])
        answers, seconds = timed(lambda asker=asker, mine=mine: asker.ask(mine))
        rates[way] = points / seconds
        if way == "free":
            checks[f"{name}_free_is_plain"] = [a.text for a in answers[:few]] == [a.text for a in alone]
        else:
            checks[f"{name}_{way}_is_generate"] = continues(asker, mine[:few], [a.text for a in answers[:few]])
    first = plain.loaded.processor.encode(asked[0].images(), asked[0].question)
    tokens = int((first.input_ids == plain.loaded.processor.image_token_id).sum())
    return {
        "points_per_s": rates, "image_tokens": tokens, "plain_answer_tokens": plain.loaded.card.max_new_tokens,
        **{f"{way}_over_plain": rates[way] / rates["plain"] for way in ways},
    }  # fmt: skip


def growth(loaded: LoadedModel, side: int, arguments: argparse.Namespace, checks: dict[str, bool]) -> dict[str, Any]:
    """Seconds for so many points, and the memory that asking takes at most."""
    counts = common.counts(arguments.growth, "--growth")
    counts = counts[:2] if arguments.quick else counts
    asker = engine(ask_in(loaded, "depthlm"), batch_mem=BUDGET)
    asker.ask(requests(asker, side, 2))
    seconds, peak = {}, {}
    for count in counts:
        mine = requests(asker, side, count)
        before = reset_peak()
        _, seconds[str(count)] = timed(lambda mine=mine: asker.ask(mine))
        peak[str(count)] = (peak_bytes() - before) / 2**20
    few, many = str(counts[0]), str(counts[-1])
    # What one question takes (reading the picture) is no part of the budget of many.
    checks["memory_within_budget"] = peak[many] - peak[few] <= BUDGET
    return {"seconds": seconds, "peak_mib": peak}


def markers(loaded: LoadedModel, side: int, few: int, checks: dict[str, bool]) -> dict[str, Any]:
    """Arrows, one picture each: whole answers one by one, and forced in batches; then four on a picture against one."""
    official = ask_in(loaded, "depthlm-official", "arrow")
    plain, forced = (
        engine(official, shares=False, forced=False, batch=1, reference="arrow"),
        engine(official, batch=4, reference="arrow"),
    )
    asked, mine = requests(plain, side, few), requests(forced, side, few)
    _, slow = timed(lambda: plain.ask(asked))
    answers, fast = timed(lambda: forced.ask(mine))
    steps = {"plain": decode_steps(plain, asked[0]), "forced": decode_steps(forced, mine[0])}
    ours = ask_in(loaded, "depthlm", "arrow")
    one, several = (engine(ours, batch=4, reference="arrow", markers=count) for count in (1, MARKERS))
    rates = {}
    for name, asker in (("one", one), ("several", several)):
        these = requests(asker, side, few)
        rates[name] = few / timed(lambda asker=asker, these=these: asker.ask(these))[1]
    checks["pixtral_forced_is_generate"] = continues(forced, mine, [a.text for a in answers])
    checks["pixtral_at_most_5_steps"] = steps["forced"] <= 5
    return {
        "points_per_s": {"plain": few / slow, "forced": few / fast},
        "decode_steps": steps,
        "forced_over_plain": slow / fast,
        f"{MARKERS}_markers_points_per_s": rates,
        f"{MARKERS}_markers_over_one": rates["several"] / rates["one"],
    }


def ask_in(loaded: LoadedModel, prompt: str, reference: str = "text") -> LoadedModel:
    """The model asked in another prompt, whose whole answers take as many tokens as the trained one."""
    ids = loaded.processor.tokenize(loaded.processor.render_answer(PROMPTS[prompt].format_answer(2.34)))
    card = replace(loaded.card, prompt=prompt, references=[reference], max_new_tokens=len(ids) + 1)
    return replace(loaded, card=card)


class FiveTokens(NumberVocabulary):
    """Any five tokens are a number: random weights would otherwise end theirs at once, and cost too little."""

    def number(self, ids: Sequence[int], complete: Callable[[str], bool]) -> tuple[int, bool]:
        """How many ids, and whether that is all."""
        return min(len(ids), NUMBER_TOKENS), len(ids) >= NUMBER_TOKENS


def engine(loaded: LoadedModel, *, reference: str = "text", **settings: Any) -> Engine:
    """Greedy answers, no intervals: what plain `generate` gives."""
    loaded.model.generation_config.eos_token_id = None  # random weights must not end an answer early
    made = Engine(loaded, reference=reference, intervals=False, read="greedy", **settings)
    made.vocabulary = FiveTokens(loaded.processor.tokenizer)
    return made


def requests(asker: Engine, side: int, count: int) -> list[Request]:
    """Questions about points spread over one picture of noise; any picture will do for random weights."""
    grid = asker.loaded.processor.grid
    side = side // grid * grid
    levels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    camera = Camera.from_focal(asker.loaded.card.focal, side, side)
    uv = np.random.default_rng(1).uniform(6, side - 7, (count, 2))
    return asker.requests(Image.fromarray(levels), camera, uv)


def continues(asker: Engine, asked: Sequence[Request], texts: Sequence[str]) -> bool:
    """Whether the texts are the begun answers that `generate` continues, up to where the number ends."""
    return [begun(asker, request) for request in asked] == list(texts)


def begun(asker: Engine, request: Request) -> str:
    """A begun answer continued by `generate` alone: its text up to the end of its number."""
    processor, lead = asker.loaded.processor, request.lead or ""
    encoded = processor.encode(request.images(), request.question, None, asker.prompt.system, prefill=lead)
    inputs = processor.collate([encoded], pad="left")
    inputs.pop("labels")
    with torch.inference_mode():
        ids = asker.loaded.model.generate(**inputs, max_new_tokens=NUMBER_TOKENS, do_sample=False)
    answer = ids[0, len(encoded) :].tolist()
    return lead + processor.tokenizer.decode(answer, skip_special_tokens=True)


def decode_steps(asker: Engine, request: Request) -> int:
    """Tokens that an answer takes: all of the trained answer, or a number of two decimals when it is begun."""
    if request.lead is None:
        return asker.loaded.card.max_new_tokens
    processor = asker.loaded.processor
    whole = processor.tokenize(processor.render_answer(request.lead + "12.34"))
    return len(whole) - len(processor.lead_tokens(request.lead))


def timed(work: Any) -> tuple[Any, float]:
    """The result and the seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def reset_peak() -> int:
    """Bytes resident now, from which the peak is counted (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")
    return status_bytes("VmRSS")


def peak_bytes() -> int:
    """Most bytes resident since."""
    return status_bytes("VmHWM")


def status_bytes(key: str) -> int:
    """A line of /proc/self/status."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
