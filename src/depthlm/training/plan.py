"""What a training run needs, before it is begun: parameters, tokens, memory by part, operations, hours.

Nothing is loaded: parameters are counted on a model without memory, tokens on the recipe's crops (work: of the middle
size, memory: of the largest) and words. Memory is the largest of three moments: the end of the forward pass, the
backward pass, when activations stand beside weights, gradients and the optimizer's state, and the optimizer's step. How
close this comes is measured by benchmarks/plan.py.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.models.architecture import empty_model, find_config
from depthlm.models.families import family_of, patch_grid
from depthlm.prompts import get_prompt
from depthlm.reference import get_reference

if TYPE_CHECKING:
    from depthlm.models.families import Family
    from depthlm.training.recipe import Recipe, Stage

# Memory, bytes, and bf16 operations a second (dense), from the makers' data sheets.
GPUS = {
    "h200": (141e9, 989e12), "h100": (80e9, 989e12), "a100": (80e9, 312e12), "a100-40": (40e9, 312e12),
    "l40s": (48e9, 362e12), "rtx4090": (24e9, 165e12), "rtx3090": (24e9, 71e12),
}  # fmt: skip
MFU = 0.15  # two pictures a step on an H100: 0.14 to 0.17 (docs/gpu.md); published runs: 0.05 and 0.26
SPARE = 0.95  # share of a card that a process can have
_NO_CROP = 10_000  # a range that ends above this is clipped to the picture
_WHOLE = (1216, 928)  # pixels of a picture that is not cropped: a driving picture at 1000 px (vlm3.md 1.2)
_FOUR_BITS = 0.5 + 4 / 64  # bytes of a weight with its share of a float32 scale (bitsandbytes: 64 weights have one)
_TURN = 8  # tokens that frame a question and an answer


@dataclass(frozen=True)
class Size:
    """Parameters: all, of the vision tower, trained, trained in matrices that Muon takes, of the largest block, kept in
    4 bits.
    """

    total: int
    vision: int
    trained: int
    matrices: int
    block: int
    quantized: int = 0


@dataclass(frozen=True)
class Work:
    """Of one picture with its questions: text and image tokens, patches, tokens that carry loss."""

    text: int
    image: int
    patches: int
    labelled: int

    @property
    def tokens(self) -> int:
        """In the language model."""
        return self.text + self.image


@dataclass(frozen=True)
class Precision:
    """Bytes of a weight as it is kept and as layers compute with it. foreach: the optimizer takes all weights at once,
    as torch's does by itself; ours is fused.
    """

    kept: int = 4
    computed: int = 2
    foreach: bool = False


def plan_run(recipe: Recipe, *, gpus: int = 1, kind: str = "h100") -> dict[str, Any]:
    """Every stage of a recipe on `gpus` cards of a kind, as plain numbers; memory in GB for each card.

    {model, parameters {total, vision, trained}, stages [{name, steps, samples, tokens_per_sample {text, image, total},
    memory_gb {weights, gradients, optimizer, ..., peak}, flops, hours}], gpus, gpu, gpu_memory_gb, hours}.
    Raises InputError for an unknown kind, a model that cannot be found, and a plan that does not fit, naming the
    setting that would make it fit.
    """
    if kind not in GPUS:
        raise InputError(f"--gpu is {kind!r}; expected one of {', '.join(GPUS)}")
    if gpus < 1:
        raise InputError(f"--gpus is {gpus}; expected 1 or more")
    config = find_config(recipe)
    family = family_of(config)
    if family.images == "full":
        raise InputError(f"{recipe.model}: only Qwen2.5-VL, Qwen3-VL and Pixtral models can be trained")
    network = empty_model(config)
    capacity, speed = GPUS[kind]
    stages = []
    for stage in recipe.stages:
        size, work = count(network, family, recipe, stage), measure_row(recipe, stage, config, family)
        largest = measure_row(recipe, stage, config, family, share=1.0)
        memory = memory_bytes(config, size, largest, recipe, stage, gpus=gpus)
        if memory["peak"] > SPARE * capacity:
            raise _too_much(config, network, family, recipe, stage, gpus, kind, memory)
        samples = stage.steps * stage.batch * stage.accumulate * gpus
        flops = samples * operations(size, work, recipe)
        stages.append({
            "name": stage.name, "steps": stage.steps, "samples": samples,
            "tokens_per_sample": {"text": work.text, "image": work.image, "total": work.tokens},
            "memory_gb": {part: value / 1e9 for part, value in memory.items()},
            "flops": flops, "hours": flops / (gpus * speed * MFU) / 3600,
        })  # fmt: skip
    size = count(network, family, recipe, recipe.stages[0])
    return {
        "model": recipe.model,
        "parameters": {"total": size.total, "vision": size.vision, "trained": size.trained},
        "stages": stages,
        "gpus": gpus, "gpu": kind, "gpu_memory_gb": capacity / 1e9, "mfu": MFU,
        "hours": sum(stage["hours"] for stage in stages),
    }  # fmt: skip


def count(network: Any, family: Family, recipe: Recipe, stage: Stage) -> Size:
    """Parameters of a model without memory, and those that the recipe trains."""
    body = network.model
    total = sum(p.numel() for p in network.parameters())
    vision = sum(p.numel() for p in body.get_submodule(family.tower).parameters())
    blocks = [
        sum(p.numel() for p in block.parameters()) for path in family.blocks for block in body.get_submodule(path)
    ]
    if recipe.lora is not None:
        adapters = sum(
            recipe.lora.rank * sum(module.weight.shape)
            for name, module in network.named_modules()
            if type(module).__name__ == "Linear"
            and _is_adapted(name, recipe.lora.targets)
            and not _is_frozen(name, family, recipe)
        )
        quantized = 0
        if recipe.lora.quantize is not None:  # all but what makes the logits
            quantized = sum(
                module.weight.numel()
                for name, module in network.named_modules()
                if type(module).__name__ == "Linear" and "lm_head" not in name
            )
        return Size(total, vision, adapters, 0, max(blocks), quantized)
    tables = ("embed_tokens", "pos_embed", "lm_head")  # as in optimizer.build_optimizer
    trained = {name: p for name, p in network.named_parameters() if not _is_frozen(name, family, recipe)}
    matrices = sum(p.numel() for name, p in trained.items() if p.ndim >= 2 and not any(part in name for part in tables))
    return Size(
        total,
        vision,
        sum(p.numel() for p in trained.values()),
        matrices if stage.optimizer == "muon" else 0,
        max(blocks),
    )


def _is_frozen(name: str, family: Family, recipe: Recipe) -> bool:
    return recipe.freeze_vision and name.startswith(f"model.{family.tower}.")


def _is_adapted(name: str, targets: str) -> bool:
    """Whether peft puts an adapter there: every linear layer but the head, or names that match a pattern."""
    return "lm_head" not in name if targets == "all-linear" else re.fullmatch(targets, name) is not None


def measure_row(recipe: Recipe, stage: Stage, config: Any, family: Family, *, share: float = 0.5) -> Work:
    """One picture at a share of the way from the smallest to the largest crop, and its questions in the prompt's words.

    Of several references the words are averaged by weight; words that all questions begin with stand in a row once.
    """
    grid = patch_grid(family, config)
    ranges = zip((recipe.crop.width, recipe.crop.height), _WHOLE, strict=True)
    sides = [low + share * (high - low) if high < _NO_CROP else whole for (low, high), whole in ranges]
    columns, rows = (max(1, round(side / grid)) for side in sides)
    merged = config.vision_config.spatial_merge_size**2 if family.images == "patches" else 1
    prompt = get_prompt(recipe.prompt)
    number = stage.questions_per_image
    answer = len(_words(prompt.format_answer(12.34))) + 2
    text = 0.0
    for name, weight in stage.references.items():
        asked, shared = _question_words(recipe, name, (columns * grid, rows * grid))
        once = shared if number > 1 and stage.packing == "shared" else 0
        text += weight / sum(stage.references.values()) * (once + number * (asked - once + answer + _TURN))
    text = round(text) + len(_words(prompt.system or ""))
    image = columns * rows + (rows if family.break_token else 0)
    labelled = text if stage.loss == "text" else number * answer
    return Work(text, image, columns * rows * merged, labelled + (columns * rows if stage.image_words else 0))


def _question_words(recipe: Recipe, reference: str, size: tuple[int, int]) -> tuple[int, int]:
    """Words of one question, and how many of them two questions about one picture begin with."""
    prompt, camera = get_prompt(recipe.prompt), Camera.from_focal(recipe.focal, *size)
    first, second = (
        _words(prompt.question(get_reference(reference, recipe.coordinate_range), (size[0] * at, size[1] * at), camera))
        for at in (0.31, 0.62)
    )
    return len(first), sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _words(text: str) -> list[str]:
    """About the tokens that a general tokenizer makes of plain English with numbers: digits are single."""
    return re.findall(r"\d|[^\W\d_]+|[^\w\s]", text)


def operations(size: Size, work: Work, recipe: Recipe) -> float:
    """Floating-point operations of forward and backward for one sample; recomputation and attention are left out.

    6 for each weight and token, 4 where weights are frozen under adapters, 2 in a frozen vision tower, which has no
    backward pass. Source: Kaplan et al., arXiv 2001.08361.
    """
    each = 6.0 if recipe.lora is None else 4.0
    tower = 2.0 if recipe.freeze_vision else each
    return each * (size.total - size.vision) * work.tokens + tower * size.vision * work.patches


def memory_bytes(
    config: Any, size: Size, work: Work, recipe: Recipe, stage: Stage, *, gpus: int = 1, at: Precision | None = None
) -> dict[str, float]:
    """Bytes on one card by part, and at the peak.

    weights, gradients, optimizer: kept in float32 and, sharded, in equal parts; under quantized weights the others are
    kept as layers compute, and adapters in float32. copies: the weights in bfloat16 that
    autocast makes, or the blocks that sharding gathers. buckets: of DDP. activations, logits: of one micro-step.
    step: what the optimizer needs in passing.
    """
    at = at or Precision()
    parts = gpus if recipe.sharding != "none" else 1
    is_sharded = parts > 1
    copied = 0.0 if at.computed == at.kept else float(at.computed * size.total)
    if is_sharded or (copied and recipe.lora is not None and recipe.gradient_checkpointing):
        copied = float(at.computed * 4 * size.block)  # a few blocks at a time: gathered, or frozen and cast in passing
    weights = at.kept * size.total / parts
    if size.quantized:
        weights = _FOUR_BITS * size.quantized + at.computed * (size.total - size.quantized) + at.kept * size.trained
        copied = float(at.computed * size.block)
    rows = stage.batch
    if stage.tokens_per_batch is not None:
        rows = min(rows, max(1, stage.tokens_per_batch // work.tokens))
    found = {
        "weights": weights,
        "gradients": at.kept * size.trained / parts,
        "optimizer": at.kept * (2 * size.trained - size.matrices) / parts,
        "copies": copied,
        "buckets": float(at.kept * size.trained) if gpus > 1 and not is_sharded else 0.0,
        "activations": activation_bytes(config, work, rows, at.computed, recipe),
        "logits": 3.0 * 4 * rows * work.labelled * config.get_text_config().vocab_size,
        "step": at.kept * size.trained / parts if at.foreach else 0.0,
    }
    held = found["weights"] + found["optimizer"] + found["buckets"]
    passing = found["activations"] + found["logits"]
    # Copies live as long as what needs them: to the end of the forward pass where blocks are computed again.
    forward = held + copied + passing
    backward = (
        held + found["gradients"] + passing + (0.0 if recipe.gradient_checkpointing and not is_sharded else copied)
    )
    step = held + found["gradients"] + found["step"]
    return found | {"peak": max(forward, backward, step)}


def activation_bytes(config: Any, work: Work, batch: int, width: int, recipe: Recipe) -> float:
    """Bytes that the backward pass finds of a micro-batch. width: bytes of a number.

    Of a frozen tower nothing. Of each other block its input, and of one block (of every block, without recomputation)
    what its parts keep: about ten vectors of the hidden size, queries, keys, values and their rotated copies, four
    vectors of the inner size.
    """
    text, vision = config.get_text_config(), config.vision_config

    def parts(layers: int, tokens: int, hidden: int, heads: float, inner: int) -> tuple[float, float]:
        one = float(batch * tokens * width)
        return layers * one * hidden, one * (10 * hidden + 2 * heads + 4 * inner)

    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layers = {
        "text": (text.num_hidden_layers, work.tokens, text.hidden_size,
                 head * (text.num_attention_heads + 2 * text.num_key_value_heads), text.intermediate_size),
        "vision": (getattr(vision, "depth", None) or vision.num_hidden_layers, work.patches, vision.hidden_size,
                   3.0 * vision.hidden_size, vision.intermediate_size),
    }  # fmt: skip
    if recipe.freeze_vision:
        del layers["vision"]
    inputs, inside = zip(*(parts(*given) for given in layers.values()), strict=True)
    mask = float(batch * work.tokens**2 * width)
    if recipe.gradient_checkpointing:
        return sum(inputs) + max(inside) + mask
    return sum(given[0] * one for given, one in zip(layers.values(), inside, strict=True)) + mask


def _too_much(
    config: Any, network: Any, family: Family, recipe: Recipe, stage: Stage, gpus: int, kind: str,
    memory: dict[str, float],
) -> InputError:  # fmt: skip
    """What to raise for a plan that does not fit: how much it needs, and the first setting that would do."""
    from depthlm.training.recipe import LoraConfig

    capacity = GPUS[kind][0]
    stages = {part: value for part, value in memory.items() if part != "peak"}
    largest = max(stages, key=lambda part: stages[part])
    changes: list[tuple[str, Recipe, Stage]] = []
    if not recipe.gradient_checkpointing:
        changes.append(("gradient_checkpointing=true", replace(recipe, gradient_checkpointing=True), stage))
    if recipe.sharding == "none" and gpus > 1 and stage.optimizer == "adamw":
        changes.append(("sharding=full", replace(recipe, sharding="full"), stage))
    if stage.batch > 1:
        number = recipe.stages.index(stage)
        changes.append((
            f"stages.{number}.batch=1 and stages.{number}.accumulate={stage.accumulate * stage.batch}", recipe,
            replace(stage, batch=1),
        ))  # fmt: skip
    if recipe.lora is None:
        changes.append(("lora={rank: 16}", replace(recipe, lora=LoraConfig()), stage))
    if recipe.sharding == "none" and gpus == 1 and (recipe.lora is None or recipe.lora.quantize is None):
        lora = replace(recipe.lora or LoraConfig(), quantize="4bit")
        changes.append(("lora.quantize=4bit", replace(recipe, lora=lora), stage))
    changed, small, names = recipe, stage, []
    for name, with_change, with_stage in changes:  # one after the other, until it fits
        changed = _merge(recipe, changed, with_change)
        small = with_stage if with_stage is not stage else small
        names.append(name)
        size, work = count(network, family, changed, small), measure_row(changed, small, config, family, share=1.0)
        if memory_bytes(config, size, work, changed, small, gpus=gpus)["peak"] <= SPARE * capacity:
            way_out = f"{', '.join(names)} would make it fit"
            break
    else:
        way_out = "no setting of this recipe would make it fit: take more or larger cards, or a smaller model"
    return InputError(
        f"stage {stage.name} needs {memory['peak'] / 1e9:.0f} GB on each card, most of it {largest} "
        f"({stages[largest] / 1e9:.0f} GB); {kind} has {capacity / 1e9:.0f} GB; {way_out}"
    )


def _merge(original: Recipe, changed: Recipe, more: Recipe) -> Recipe:
    """`changed` with what `more` changes of the original."""
    before, after = asdict(original), asdict(more)
    keys = [key for key in ("gradient_checkpointing", "sharding", "lora") if after[key] != before[key]]
    return replace(changed, **{key: getattr(more, key) for key in keys})


def format_plan(plan: dict[str, Any]) -> str:
    """The plan as a few lines."""
    p = plan["parameters"]
    lines = [
        f"model       {plan['model']}: {p['total'] / 1e9:.3g} billion parameters, "
        f"{p['vision'] / 1e9:.3g} of them vision, {p['trained'] / 1e9:.3g} trained"
    ]
    for stage in plan["stages"]:
        tokens, memory = stage["tokens_per_sample"], stage["memory_gb"]
        parts = ", ".join(f"{part} {value:.3g}" for part, value in memory.items() if part != "peak" and value > 0)
        lines += [
            f"stage       {stage['name']}: {stage['steps']} steps, {stage['samples']} samples",
            f"  tokens    about {tokens['total']} a sample ({tokens['image']} image, {tokens['text']} text)",
            f"  memory    {memory['peak']:.3g} GB of {plan['gpu_memory_gb']:.0f} at the peak on each card ({parts})",
            f"  work      {stage['flops']:.2g} FLOPs, about {stage['hours']:.3g} hours",
        ]
    lines.append(
        f"total       about {plan['hours']:.3g} hours on {plan['gpus']} {plan['gpu']} "
        f"at {plan['mfu']:.0%} of their speed"
    )
    return "\n".join(lines)
