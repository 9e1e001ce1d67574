"""Recipes: everything a training run depends on, read from YAML, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from depthlm.data.mixture import MixtureName
from depthlm.errors import InputError
from depthlm.models.card import ReadingName
from depthlm.models.nano import NanoConfig
from depthlm.reference import COLOURS
from depthlm.view import CropConfig


@dataclass(kw_only=True)
class SynthSource:
    """Procedural scenes rendered into the source's `path` when it is not there yet."""

    scenes: int
    """Number of scenes."""
    seed: int = 0
    """First scene seed."""
    kind: Literal["indoor", "outdoor"] = "indoor"
    """Rooms or streets."""
    views: int = 4
    """Pictures of each scene."""
    points: int = 300
    """Labelled points per picture."""
    size: tuple[int, int] = (256, 192)
    """Picture width and height, pixels."""
    focal_range: tuple[float, float] = (150.0, 260.0)
    """Focal lengths are drawn from here, pixels."""
    pairs: bool = False
    """Every second picture is a step and a turn from the one before it: for questions about two pictures."""


@dataclass(kw_only=True)
class DataSource:
    """One data set of the mixture."""

    path: str
    """Shard folder or official .jsonl; relative to the working directory."""
    weight: float = 1.0
    """Share in the mixture (any scale)."""
    name: str | None = None
    """Which set it is, for a published mixture; default: what its shards were curated from."""
    images: str | None = None
    """Folder of a .jsonl's images."""
    label: Literal["z", "distance"] | None = None
    """What a .jsonl's depths mean."""
    synth: SynthSource | None = None
    """Render `path` from procedural scenes when it is missing."""


@dataclass(kw_only=True)
class LoraConfig:
    """Train low-rank adapters instead of all weights; merged into the model that is saved."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Scale of the adapters."""
    targets: str = "all-linear"
    """Modules that get one (peft's target_modules)."""


@dataclass(kw_only=True)
class Stage:
    """One pass of training: what is asked and for how long."""

    name: str = "main"
    """Folder of the stage below the run's folder."""
    steps: int
    """Optimizer steps."""
    batch: int = 8
    """Images per device and micro-step."""
    accumulate: int = 1
    """Micro-steps per optimizer step."""
    lr: float = 1e-5
    """Peak learning rate."""
    warmup: float = 0.1
    """Share of the steps with a rising learning rate."""
    final_lr: float = 0.0
    """Share of the peak learning rate at the end of the cosine."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: torch.optim.Muon for matrices, AdamW for the rest."""
    weight_decay: float = 0.0
    """Decay of matrices."""
    clip: float = 1.0
    """Largest gradient norm."""
    references: dict[str, float] = field(default_factory=lambda: {"arrow": 1.0})
    """Reference -> weight."""
    tasks: dict[str, float] = field(default_factory=lambda: {"distance": 1.0})
    """Task -> weight."""
    questions_per_image: int = 1
    """Questions that share one image."""
    markers_per_image: int = 1
    """Most markers on one image, told apart by colour, each with a question of its own (from 1 to this, drawn)."""
    packing: Literal["shared", "turns"] = "shared"
    """How they share it. shared: each sees the image and itself, as if asked alone. turns: one conversation."""
    image_words: float = 0.0
    """Weight of the loss on words at image tokens; 0 for none (plain DepthLM)."""
    marker_word: bool = False
    """With image_words: the image token whose cell a marker points at says the marker's name instead."""
    match_words: bool = False
    """With image_words: image tokens of a pair's second picture say where the first one shows what they show."""


@dataclass(kw_only=True)
class Recipe:
    """A training run. Every value can be set on the command line as key=value, nested keys with dots."""

    name: str
    """Name of the run."""
    model: str
    """Folder or hub id to start from; "new-nano" for random weights of the embedded architecture."""
    data: list[DataSource]
    """The data sets."""
    stages: list[Stage]
    """Passes, one after the other; each starts from the last one's model."""
    mixture: MixtureName = "weights"
    """weights: of each data entry. uniform, size: equal, or by number of images. Else a published mixture."""
    max_passes: float | None = None
    """No data set is seen more often than this over all stages; the others take its place. None for no limit."""
    read: ReadingName = "greedy"
    """Which number of the trained model's belief is its answer (goes into its card)."""
    notes: str = ""
    """One line for the model card: what the model is good for."""
    eval: DataSource | None = None
    """Held-out data scored during training."""
    eval_every: int = 0
    """Steps between evaluations; 0 for the end of each stage only."""
    eval_points: int = 256
    """Points of each evaluation during training."""
    nano: NanoConfig = field(default_factory=NanoConfig)
    """Size of a new nano."""
    focal: float = 1000.0
    """Unified focal length, pixels."""
    geometry: Literal["exact", "official"] = "exact"
    """Geometry of the views."""
    crop: CropConfig = field(default_factory=CropConfig)
    """Random crops."""
    label: Literal["distance", "z"] = "distance"
    """What the answers mean."""
    prompt: str = "depthlm"
    """Name in prompts.PROMPTS."""
    coordinate_range: int = 2000
    """R of text coordinates."""
    half_pixel: bool = False
    """Whether u + 0.5 enters text coordinates."""
    lora: LoraConfig | None = None
    """Adapters instead of full fine-tuning."""
    gradient_checkpointing: bool = False
    """Trade compute for memory."""
    seed: int = 0
    """Seed of everything."""
    workers: int = 0
    """Loader processes."""
    max_bad: int = 100
    """Unreadable samples that are skipped before the run stops."""
    log_every: int = 20
    """Steps between log lines."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if not self.data:
            raise InputError("recipe: data is empty; name at least one data set")
        if not self.stages:
            raise InputError("recipe: stages is empty; describe at least one stage")
        if self.max_passes is not None and not self.max_passes > 0:
            raise InputError(f"recipe: max_passes is {self.max_passes}; expected a positive number")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise InputError(f"recipe: stage names {names} repeat; each names a folder of the run")
        for stage in self.stages:
            for key in ("steps", "batch", "accumulate", "questions_per_image"):
                if getattr(stage, key) < 1:
                    raise InputError(
                        f"recipe: {key} of stage {stage.name!r} is {getattr(stage, key)}; expected 1 or more"
                    )
            if not 1 <= stage.markers_per_image <= len(COLOURS):
                raise InputError(
                    f"recipe: markers_per_image of stage {stage.name!r} is {stage.markers_per_image}; "
                    f"expected 1 to {len(COLOURS)}, as many as there are colours"
                )
            if not (math.isfinite(stage.lr) and stage.lr > 0):
                raise InputError(f"recipe: lr of stage {stage.name!r} is {stage.lr}; expected a positive number")
            for key in ("marker_word", "match_words"):
                if getattr(stage, key) and not stage.image_words > 0:
                    raise InputError(f"recipe: {key} of stage {stage.name!r} needs image_words above 0")
            if not 0 <= stage.warmup < 1:
                raise InputError(
                    f"recipe: warmup of stage {stage.name!r} is {stage.warmup}; expected a share from 0 to 1"
                )


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; each override is `key=value` with dots for nested keys and list positions, the value in YAML.

    Raises InputError for a missing or malformed file, an unknown key and a value of the wrong type.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"recipe {path}: expected keys and values, found {type(values).__name__}")
    for override in overrides or []:
        _apply(values, override)
    recipe = _build(Recipe, values, str(path))
    assert isinstance(recipe, Recipe)
    return recipe


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r} is not key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not valid YAML ({error})") from error
    *parents, last = key.split(".")
    target: Any = values
    for part in parents:
        if isinstance(target, list):
            if not part.isdigit() or int(part) >= len(target):
                raise InputError(f"override {override!r}: {part!r} is no position of a list of {len(target)}")
            target = target[int(part)]
        else:
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        if not isinstance(target, (dict, list)):
            raise InputError(f"override {override!r}: {part!r} holds a plain value, nothing lies below it")
    if isinstance(target, list):
        if not last.isdigit() or int(last) >= len(target):
            raise InputError(f"override {override!r}: {last!r} is no position of a list of {len(target)}")
        target[int(last)] = value
    else:
        target[last] = value


def _build(kind: Any, value: Any, where: str) -> Any:
    """Plain YAML values -> the type `kind`, with one-line errors that name the place."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _build(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is list:
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, found {value!r}")
        return [_build(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(args):
            raise InputError(f"{where}: expected {len(args)} values, found {value!r}")
        return tuple(_build(a, item, where) for a, item in zip(args, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected keys and values, found {value!r}")
        return {_build(args[0], k, where): _build(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"{where}: expected a number, found {value!r}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected keys and values, found {value!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise InputError(
            f"{where}: unknown key {', '.join(map(str, unknown))}; the keys are {', '.join(sorted(fields))}"
        )
    missing = [
        name
        for name, f in fields.items()
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: missing key {', '.join(missing)}")
    hints = get_type_hints(kind)
    return kind(**{name: _build(hints[name], item, f"{where}: {name}") for name, item in value.items()})
