"""What ms-swift and LLaMA-Factory are told so that they train on an export as `depthlm train` does on the same recipe.

Facts of both were read from their released code (ms-swift 4.6, LLaMA-Factory 0.9.5): both read rows of `messages` and
`images`, put each picture where `<image>` stands, and by default let the answers of every turn carry loss. Both also
resize pictures beyond limits of their own, which would change the focal length: hence the limits in what is written.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from depthlm.claim import write_json, write_text
from depthlm.models.families import get_family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthlm.models.card import ModelCard
    from depthlm.training.recipe import Recipe, Stage

ROWS_FILE = "train.jsonl"
TRAINERS = ("ms-swift", "llama-factory")
TrainerName = Literal["ms-swift", "llama-factory"]
_DATASET = "depthlm"  # the export's name in dataset_info.json
_ROUND_TOKENS = 256
# LLaMA-Factory's name of a family's conversation layout. Its qwen3_vl adds an empty thought to every answer.
_LAYOUTS = {"qwen2_5_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl_nothink", "pixtral": "pixtral"}
# What the preprocessor_config.json of published bases allows: fewest and most pixels; of Pixtral, the longer side.
_PIXELS_OF_BASES = {"qwen2_5_vl": (3_136, 12_845_056), "qwen3_vl": (65_536, 16_777_216)}
_LONGEST_OF_PIXTRAL = 1024


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported, and for what."""

    recipe: Recipe
    """Data, crops, references, prompt, seed."""
    stage: Stage
    """One of the recipe's: what is asked."""
    trainer: TrainerName
    """What will read it."""
    family: str
    """Name in families.FAMILIES: how many tokens a picture takes."""
    grid: int
    """Patch grid of the model that will be trained, pixels: sizes of pictures are multiples of it."""
    samples: int | None = None
    """Rows of `TrainingRows`, each one picture or pair; None for as many as the stage draws."""
    epochs: float | None = None
    """In place of samples: times that the data is seen."""
    quality: int | None = None
    """Quality of JPEG files; None for PNG, which loses nothing."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an export holds.

    pixels: of the smallest and of the largest picture. longest: the longest side, pixels. tokens: at least as many as
    any row takes.
    """

    samples: int
    pictures: int
    rows: int
    questions: int
    pixels: tuple[int, int]
    longest: int
    tokens: int

    @classmethod
    def of(cls, parts: Sequence[dict[str, Any]]) -> Facts:
        """Of all parts together, from their records."""
        sizes = [size for part in parts for size in part["pictures"]]
        pixels = [width * height for width, height in sizes]
        return cls(
            samples=sum(part["samples"] for part in parts),
            pictures=len(sizes),
            rows=sum(part["rows"] for part in parts),
            questions=sum(part["questions"] for part in parts),
            pixels=(min(pixels), max(pixels)),
            longest=max(max(size) for size in sizes),
            tokens=max(part["tokens"] for part in parts),
        )

    @property
    def records_per_sample(self) -> int:
        """How many rows of the export one row of `depthlm train` becomes, rounded."""
        return max(1, round(self.rows / self.samples))


def write_companions(config: ExportConfig, card: ModelCard, facts: Facts, out: Path) -> None:
    """Write what stands beside the rows: README.md, depthlm.json, and what the trainer is started with."""
    if config.trainer == "ms-swift":
        write_text(out / "train.sh", _swift_script(config, facts))
    else:
        write_json(out / "dataset_info.json", {_DATASET: _DATASET_INFO})
        write_text(out / "train.yaml", yaml.safe_dump(_factory_settings(config, facts), sort_keys=False))
    card.save(out)
    write_text(out / "README.md", _readme(config, facts))


def start_command(trainer: TrainerName) -> str:
    """How training is started inside an export's folder."""
    return "bash train.sh" if trainer == "ms-swift" else "llamafactory-cli train train.yaml"


def warnings(config: ExportConfig, facts: Facts) -> list[str]:
    """What the other trainer does otherwise than `depthlm train` with this recipe, and what must be changed by hand."""
    stage, lines = config.stage, []
    if stage.image_words > 0:
        lines.append("image_words: words at image tokens are not exported; only questions and answers are")
    if stage.optimizer != "adamw":
        lines.append(f"optimizer {stage.optimizer} becomes AdamW; its learning rate may not suit")
    if stage.final_lr > 0:
        lines.append("final_lr: the cosine ends at 0")
    if stage.packing == "shared" and facts.rows > facts.samples:
        lines.append(
            "packing shared: each question is a row of its own with the picture again, as these trainers have no mask"
            " for several; the losses are the same, the picture's reading is not shared (stages.N.packing=turns packs)"
        )
    if stage.loss == "text" and config.trainer == "llama-factory":
        lines.append("loss text: LLaMA-Factory counts placeholders of pictures too")
    if config.quality is not None:
        lines.append(f"JPEG of quality {config.quality}: pictures are not exactly those of `depthlm train`")
    return [*lines, *_limits_of_bases(config, facts)]


def _limits_of_bases(config: ExportConfig, facts: Facts) -> list[str]:
    """Pictures that the base's own image processor would resize; ms-swift calls that of Qwen without a resize."""
    edit = "would be resized by the base's own image processor; change {} in its preprocessor_config.json, or the crop"
    if config.family == "pixtral" and facts.longest > _LONGEST_OF_PIXTRAL:
        size = f'size to {{"longest_edge": {facts.longest}}}'
        return [f"pictures with a side above {_LONGEST_OF_PIXTRAL} pixels {edit.format(size)}"]
    low, high = _PIXELS_OF_BASES.get(config.family, (0, math.inf))
    if config.trainer == "llama-factory" and (facts.pixels[0] < low or facts.pixels[1] > high):
        size = f'size to {{"shortest_edge": {facts.pixels[0]}, "longest_edge": {facts.pixels[1]}}}'
        return [f"pictures of fewer than {low:,} or more than {high:,} pixels {edit.format(size)}"]
    return []


# --- ms-swift ---------------------------------------------------------------------------------------------------------


def _swift_script(config: ExportConfig, facts: Facts) -> str:
    recipe, stage = config.recipe, config.stage
    options: dict[str, Any] = {
        "model": _model(recipe),
        "model_type": config.family,
        "template": config.family,
        "use_hf": True,
        "dataset": ROWS_FILE,
        "split_dataset_ratio": 0,
        "output_dir": "model",
        "tuner_type": "full" if recipe.lora is None else "lora",
    }
    if recipe.lora is not None:
        options |= {"lora_rank": recipe.lora.rank, "lora_alpha": recipe.lora.alpha, "lora_dropout": 0}
        options["target_modules"] = recipe.lora.targets
        if recipe.lora.quantize is not None:
            options |= {"quant_method": "bnb", "quant_bits": 4}
    tower, projector = _frozen(config)
    options |= {"freeze_vit": tower, "freeze_aligner": projector, "adam_beta2": 0.999}
    if stage.loss == "text":
        options["loss_scale"] = "all"
    options |= _shared_settings(config, facts) | {"torch_dtype": "bfloat16"}
    # A yes or no as these parsers read it, everything else as it is.
    said = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
    lines = ["swift sft", *(f"  --{name} {shlex.quote(value)}" for name, value in said.items())]
    low, high = facts.pixels
    return (
        "#!/bin/bash\n"
        "# ms-swift on this export. MAX_PIXELS and MIN_PIXELS keep it from resizing, which changes the focal length.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        f'export ROOT_IMAGE_DIR="$PWD" MAX_PIXELS={high} MIN_PIXELS={low}\n' + " \\\n".join(lines) + "\n"
    )


# --- LLaMA-Factory ----------------------------------------------------------------------------------------------------

_DATASET_INFO = {
    "file_name": ROWS_FILE,
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def _factory_settings(config: ExportConfig, facts: Facts) -> dict[str, Any]:
    recipe, stage = config.recipe, config.stage
    low, high = facts.pixels
    settings: dict[str, Any] = {
        "model_name_or_path": _model(recipe),
        "image_max_pixels": high,
        "image_min_pixels": low,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full" if recipe.lora is None else "lora",
    }
    if recipe.lora is not None:
        targets = "all" if recipe.lora.targets == "all-linear" else recipe.lora.targets
        settings |= {"lora_rank": recipe.lora.rank, "lora_alpha": recipe.lora.alpha, "lora_target": targets}
        if recipe.lora.quantize is not None:
            settings |= {"quantization_method": "bnb", "quantization_bit": 4}
    tower, projector = _frozen(config)
    settings |= {
        "freeze_vision_tower": tower,
        "freeze_multi_modal_projector": projector,
        "dataset_dir": ".",
        "media_dir": ".",
        "dataset": _DATASET,
        "template": _LAYOUTS[config.family],
        "cutoff_len": math.ceil(facts.tokens / _ROUND_TOKENS) * _ROUND_TOKENS,
        "train_on_prompt": stage.loss == "text",
        "output_dir": "model",
        "bf16": True,
    }
    return settings | _shared_settings(config, facts)


# --- both -------------------------------------------------------------------------------------------------------------


def _frozen(config: ExportConfig) -> tuple[bool, bool]:
    """Whether the vision tower stays as it is, and its projector, which is part of it in the Qwen families."""
    frozen = config.recipe.freeze_vision
    return frozen, frozen and get_family(config.family).images == "patches"


def _shared_settings(config: ExportConfig, facts: Facts) -> dict[str, Any]:
    """What both call the same: transformers' training arguments. A step sees as many questions as the recipe's."""
    recipe, stage = config.recipe, config.stage
    return {
        "num_train_epochs": 1,
        "per_device_train_batch_size": stage.batch,
        "gradient_accumulation_steps": stage.accumulate * facts.records_per_sample,
        "learning_rate": stage.lr,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": stage.warmup,
        "weight_decay": stage.weight_decay,
        "max_grad_norm": stage.clip,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "seed": recipe.seed,
        "logging_steps": recipe.log_every,
        "save_steps": recipe.save_every,
        "dataloader_num_workers": recipe.workers,
    }


def _model(recipe: Recipe) -> str:
    """The base as it is found from the export's folder."""
    return str(Path(recipe.model).resolve()) if Path(recipe.model).is_dir() else recipe.model


def _readme(config: ExportConfig, facts: Facts) -> str:
    low, high = facts.pixels
    title = {"ms-swift": "ms-swift", "llama-factory": "LLaMA-Factory"}[config.trainer]
    kept = (
        f"`train.sh` sets `MAX_PIXELS={high}` and `MIN_PIXELS={low}`"
        if config.trainer == "ms-swift"
        else f"`train.yaml` sets `image_max_pixels: {high}` and `image_min_pixels: {low}`, and a `cutoff_len` that no"
        " row reaches (a longer row would be cut off without a word)"
    )
    per_row = facts.questions / facts.rows
    size = f"{facts.pictures:,} pictures, {facts.rows:,} rows of {per_row:.3g} question{'' if per_row == 1 else 's'}"
    return "\n".join(
        [
            f"# Export of {config.recipe.name} for {title}",
            "",
            f"{facts.samples:,} samples of stage `{config.stage.name}`, {size}, seed {config.recipe.seed}; written by"
            " `depthlm export`. They are what `depthlm train` sees for the same recipe: pictures at a focal length of"
            f" {config.recipe.focal:g} pixels, cropped, markers drawn.",
            "",
            "```sh",
            start_command(config.trainer),
            "```",
            "",
            f"- **Nothing may resize the pictures**, as that changes their focal length. {kept}. All sizes are"
            f" multiples of {config.grid}, the patch grid of {config.family}; another family needs another export.",
            _loss_line(config),
            "- `depthlm.json` says what the numbers mean. Copy it into the folder of the trained model (LoRA: of the"
            " merged one), then `depthlm eval FOLDER ...` asks it rightly.",
            "- The files can be moved together: paths are relative to this folder.",
            *(f"- {line}." for line in warnings(config, facts)),
            "",
        ]
    )


def _loss_line(config: ExportConfig) -> str:
    if config.stage.loss == "text":
        return "- Loss is on all text."
    line = "- Loss is on the answers alone, of every turn: both trainers do so by default."
    if config.family == "pixtral":
        return line
    return line + " Their layouts for Qwen count the line's end after an answer too, which `depthlm train` does not."
