"""Recipes: everything a training run depends on, read from YAML, checked before anything is loaded."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from depthlm.data.mixture import MixtureName
from depthlm.errors import InputError
from depthlm.models.card import ReadingName
from depthlm.models.nano import NanoConfig
from depthlm.prompts import get_prompt
from depthlm.reference import COLOURS, get_reference
from depthlm.tasks import get_task
from depthlm.training.shipped import find_recipe, shipped_recipes
from depthlm.training.values import apply, build, check_numbers, check_shares, read_values
from depthlm.view import CropConfig, Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW_NANO = "new-nano"  # a model that is made, not loaded


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

    def __post_init__(self) -> None:
        check_numbers(self, "1 or more", lambda n: n >= 1, "scenes", "views", "points")
        if min(self.size) < 1:
            raise InputError(f"size is {self.size}; expected a width and a height of 1 or more pixels")
        if not 0 < self.focal_range[0] <= self.focal_range[1] < math.inf:
            raise InputError(f"focal_range is {self.focal_range}; expected 0 < low <= high pixels")


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
    pictures: int | None = None
    """Only this many of its pictures, spread evenly over the set; None for all."""
    labels_per_picture: int | None = None
    """Only this many of each picture's labels, drawn once for all; None for all."""
    in_memory: bool = False
    """Hold the whole set, decoded from its shards, in memory: small sets are read faster so."""
    synth: SynthSource | None = None
    """Render `path` from procedural scenes when it is missing."""

    def __post_init__(self) -> None:
        check_numbers(self, "0 or more", lambda n: n >= 0, "weight")
        check_numbers(self, "1 or more", lambda n: n >= 1, "pictures", "labels_per_picture")


@dataclass(kw_only=True)
class LoraConfig:
    """Train low-rank adapters instead of all weights; merged into the model that is saved."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Scale of the adapters."""
    targets: str = "all-linear"
    """Modules that get one (peft's target_modules)."""
    quantize: Literal["4bit"] | None = None
    """Hold the weights beneath the adapters in 4 bits (QLoRA; needs bitsandbytes). What is saved computes what was
    trained: those weights, made whole again, with the adapters in them."""

    def __post_init__(self) -> None:
        check_numbers(self, "1 or more", lambda n: n >= 1, "rank", "alpha")


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
    tokens_per_batch: int | None = None
    """Most tokens that go through the model at once, padding included: a batch is sorted by length and cut into parts,
    so that memory is bounded by tokens and `batch` says only how many images are sorted together. None for no limit."""
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
    text_beside_markers: bool = True
    """Whether a marked picture's remaining questions are asked by text (where the stage has text references at all)."""
    loss: Literal["answers", "text", "reward"] = "answers"
    """Which tokens carry loss: the answers, or all text, the questions too (as the official trainer does). reward: none
    does; answers are drawn and rewarded by -L1 (GRPO; training/reward.py)."""
    group: int = 8
    """With loss reward: answers drawn of each question."""
    packing: Literal["shared", "turns"] = "shared"
    """How they share it. shared: each sees the image and itself, as if asked alone. turns: one conversation."""
    image_words: float = 0.0
    """Weight of the loss on words at image tokens; 0 for none (plain DepthLM)."""
    marker_word: bool = False
    """With image_words: the image token whose cell a marker points at says the marker's name instead."""
    relative_words: bool = False
    """With image_words: the words say how many times the median depth of the picture, not metres: depth without scale,
    which a single picture shows whatever its focal length."""
    match_words: bool = False
    """With image_words: image tokens of a pair's second picture say where the first one shows what they show."""

    def __post_init__(self) -> None:
        if self.name == "model" or not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise InputError(
                f"name is {self.name!r}; it becomes a folder beside model/: use letters, digits, dots and dashes"
            )
        counts = ("steps", "batch", "accumulate", "questions_per_image", "markers_per_image", "tokens_per_batch")
        check_numbers(self, "1 or more", lambda n: n >= 1, *counts)
        check_numbers(self, "a positive number", lambda n: n > 0, "lr", "clip")
        check_numbers(self, "0 or more", lambda n: n >= 0, "weight_decay", "image_words")
        check_numbers(self, "a share, at least 0 and below 1", lambda n: 0 <= n < 1, "warmup")
        check_numbers(self, "a share from 0 to 1", lambda n: 0 <= n <= 1, "final_lr")
        for name in self.references:
            get_reference(name)
        check_shares(self.references, "references")
        for name in self.tasks:
            get_task(name)
        check_shares(self.tasks, "tasks")
        if self.markers_per_image > len(COLOURS):
            raise InputError(
                f"markers_per_image is {self.markers_per_image}; expected at most {len(COLOURS)}, as many as there are "
                "colours"
            )
        for key in ("marker_word", "match_words", "relative_words"):
            if getattr(self, key) and not self.image_words > 0:
                raise InputError(f"{key} needs image_words above 0; set it, or leave {key} out")
        if self.loss == "reward":
            self._check_reward()

    def _check_reward(self) -> None:
        if self.group < 2:
            raise InputError(f"group is {self.group}; answers are compared, expected 2 or more")
        if others := sorted(set(self.tasks) - {"distance", "z"}):
            raise InputError(f"loss reward knows lengths of single points; take {', '.join(others)} out of tasks")
        if self.tokens_per_batch is not None:
            raise InputError("loss reward draws its answers for a whole batch; leave tokens_per_batch out")
        if self.image_words > 0:
            raise InputError("loss reward has no words; set image_words to 0")


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
    geometry: Geometry = "exact"
    """Geometry of the views; native leaves every picture at its own focal length."""
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
    freeze_vision: bool = False
    """Leave the vision tower as it is, adapters included: it runs without a graph, once a picture."""
    vision_attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """How the vision tower attends. The language model always uses sdpa: packed questions need a mask of their own,
    which FlashAttention does not take."""
    gradient_checkpointing: bool = False
    """Trade compute for memory."""
    sharding: Literal["none", "full", "hybrid"] = "none"
    """Of several processes (FSDP2): none: each holds everything. full: each holds a part of weights, gradients and
    optimizer. hybrid: those of one node share a copy, and nodes average gradients."""
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
        self.file = "recipe"  # where it was read; for messages, no part of it
        if not self.data:
            raise InputError("data is empty; name at least one data set")
        if not self.stages:
            raise InputError("stages is empty; describe at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise InputError(f"stage names {names} repeat; each names a folder of the run")
        if self.mixture == "weights":
            check_shares({source.path: source.weight for source in self.data}, "data")
        check_numbers(self, "a positive number", lambda n: n > 0, "max_passes", "focal")
        check_numbers(self, "1 or more", lambda n: n >= 1, "eval_points", "log_every", "save_every")
        check_numbers(self, "2 or more", lambda n: n >= 2, "coordinate_range")
        check_numbers(self, "0 or more", lambda n: n >= 0, "eval_every", "seed", "workers", "max_bad")
        self._check_sharding()
        self._check_quantized()
        for number, stage in enumerate(self.stages):
            try:
                self._check_questions(stage)
            except InputError as error:
                raise InputError(f"stages[{number}]: {error}") from error

    @contextmanager
    def naming(self, key: str) -> Iterator[None]:
        """What is wrong with the things that the recipe names under a key, said with the file and the key."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.file}: {key}: {error}") from error

    def _check_sharding(self) -> None:
        if self.sharding != "none" and any(stage.optimizer == "muon" for stage in self.stages):
            raise InputError(
                f"optimizer muon works on whole matrices, which sharding {self.sharding!r} does not keep; "
                "set optimizer to adamw or sharding to none"
            )

    def _check_quantized(self) -> None:
        if self.lora is None or self.lora.quantize is None:
            return
        if self.model == NEW_NANO:
            raise InputError(f"lora.quantize takes a model that is there; set model to one, not {NEW_NANO}")
        if self.sharding != "none":
            raise InputError(
                f"lora.quantize keeps all weights in each process; set sharding to none, not {self.sharding}"
            )

    def _check_questions(self, stage: Stage) -> None:
        """That the prompt has words for what the stage asks."""
        prompt = get_prompt(self.prompt)
        for name in stage.references:
            if not prompt.supports(get_reference(name, self.coordinate_range)):
                raise InputError(f"references: prompt {self.prompt!r} has no question for {name!r}; leave it out")
        if stage.markers_per_image > 1 and "markers" not in prompt.questions:
            raise InputError(
                f"markers_per_image is {stage.markers_per_image}, but prompt {self.prompt!r} has no question about one "
                "of several markers; set it to 1"
            )


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; each override is `key=value` with dots for nested keys and list positions, the value in YAML.

    path: a file, or the name of a shipped one (`find_recipe`). Raises InputError for a missing or malformed file, an
    unknown key and a value of the wrong type.
    """
    values = read_values(find_recipe(path), "recipe", f"; give a file or one of {', '.join(shipped_recipes())}")
    for override in overrides or []:
        apply(values, override)
    recipe = build(Recipe, values, str(path))
    assert isinstance(recipe, Recipe)
    recipe.file = str(path)
    return recipe
