"""ModelCard: `depthlm.json` beside the weights, what a checkpoint was trained with."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from depthlm.errors import InputError
from depthlm.prompts import PROMPTS, Prompt
from depthlm.reference import COLOURS, REFERENCE_NAMES, get_reference
from depthlm.tasks import TASKS
from depthlm.view import Geometry

CARD_FILE = "depthlm.json"
ReadingName = Literal["greedy", "median", "mean", "best"]  # which number of a belief is the answer
READINGS: tuple[str, ...] = get_args(ReadingName)


@dataclass(kw_only=True)
class ModelCard:
    """What a checkpoint was trained with. Raises InputError for a value it cannot have."""

    family: str = "auto"
    """Name in `families.FAMILIES`; "auto" reads it from the model's config."""
    focal: float = 1000.0
    """Unified focal length of every view, pixels."""
    geometry: Geometry = "exact"
    """exact: views land on the patch grid. official: the released protocol, whose processor resizes once more. native:
    pictures keep their own focal length, for models that were not trained on a unified one; `focal` is not used."""
    grid: int | None = None
    """Patch grid in pixels; None reads it from the model's config."""
    references: list[str] = field(default_factory=lambda: ["arrow", "text"])
    """References it was trained with, the preferred one first."""
    coordinate_range: int = 2000
    """R of text coordinates in [0, R)."""
    rounding: Literal["nearest", "floor"] = "nearest"
    """How text coordinates become integers."""
    half_pixel: bool = False
    """Whether u + 0.5 enters text coordinates in the place of u."""
    label: Literal["distance", "z"] = "distance"
    """What its answers to the distance question mean."""
    tasks: list[str] = field(default_factory=lambda: ["distance"])
    """Tasks it was trained on (tasks.TASKS)."""
    markers_per_image: int = 1
    """Most markers that one view carried in training, each with a question of its own and told apart by colour."""
    prompt: str = "depthlm"
    """Name in `prompts.PROMPTS`."""
    read: str = "greedy"
    """Which number of its belief is its answer: greedy (the text), median, mean, or best (for delta1)."""
    calibration: dict[str, float] = field(default_factory=dict)
    """Reference -> what the 80 % interval of a point is widened by at either end, a logarithm (`depthlm calibrate`)."""
    max_new_tokens: int = 48
    """Tokens after which an answer is cut."""
    max_pixels: int | None = None
    """Largest view it was trained on, pixels; None for no cap of its own."""
    trained_on: list[str] | None = None
    """Data sets it learned depth from, named as their readers are ("synth" for rendered ones); None: not stated."""
    notes: str = ""
    """Free text: training data, recipe, caveats."""

    def __post_init__(self) -> None:
        for name in ("references", "tasks"):
            if not isinstance(getattr(self, name), list):
                raise InputError(f"{CARD_FILE}: {name} is {getattr(self, name)!r}; expected a list")
        if self.trained_on is not None and not (
            isinstance(self.trained_on, list) and all(isinstance(name, str) for name in self.trained_on)
        ):
            raise InputError(f"{CARD_FILE}: trained_on is {self.trained_on!r}; expected a list of data sets, or null")
        choices: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "geometry": (self.geometry, get_args(Geometry)),
            "rounding": (self.rounding, ("nearest", "floor")),
            "label": (self.label, ("distance", "z")),
            "read": (self.read, READINGS),
            "prompt": (self.prompt, tuple(PROMPTS)),
            **{f"references[{i}]": (name, REFERENCE_NAMES) for i, name in enumerate(self.references)},
            **{f"tasks[{i}]": (name, tuple(TASKS)) for i, name in enumerate(self.tasks)},
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise InputError(f"{CARD_FILE}: {name} is {value!r}; choose one of {', '.join(allowed)}")
        if not self.references:
            raise InputError(f"{CARD_FILE}: references is empty; name at least one of {', '.join(REFERENCE_NAMES)}")
        if not (_is_number(self.focal) and math.isfinite(self.focal) and self.focal > 0):
            raise InputError(f"{CARD_FILE}: focal is {self.focal!r}; expected a positive number of pixels")
        wider = self.calibration if isinstance(self.calibration, dict) else {"": self.calibration}
        for name, value in wider.items():
            if name not in REFERENCE_NAMES or not (_is_number(value) and math.isfinite(value)):
                raise InputError(f"{CARD_FILE}: calibration {name!r} is {value!r}; expected a reference and a number")
        if not (isinstance(self.markers_per_image, int) and 1 <= self.markers_per_image <= len(COLOURS)):
            raise InputError(
                f"{CARD_FILE}: markers_per_image is {self.markers_per_image!r}; expected 1 to {len(COLOURS)}, as many"
                " as there are colours"
            )
        for name in ("coordinate_range", "max_new_tokens", "grid", "max_pixels"):
            value = getattr(self, name)
            if value is None and name in ("grid", "max_pixels"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{CARD_FILE}: {name} is {value!r}; expected a positive whole number")

    def save(self, folder: Path | str) -> None:
        """Write `depthlm.json` into the folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        (Path(folder) / CARD_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> ModelCard:
        """Read `depthlm.json` from the folder. Raises InputError for bad JSON, unknown keys and bad values."""
        path = Path(folder) / CARD_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: not a readable model card ({error})") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a JSON object, found {type(values).__name__}")
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"{path}: unknown key {', '.join(unknown)}; the keys are {', '.join(sorted(known))}")
        return cls(**cast("dict[str, Any]", values))


def general_card(prompt: Prompt) -> ModelCard:
    """How a model is asked that nobody trained to measure: in the prompt's words, of pictures as they are."""
    names = [name for name in REFERENCE_NAMES if prompt.supports(get_reference(name, prompt.coordinate_range or 1))]
    return ModelCard(
        geometry="native",
        references=sorted(names, key=lambda name: name != "text"),
        coordinate_range=prompt.coordinate_range or 1,
        prompt=prompt.name,
        max_new_tokens=512,
        notes="never trained to measure, as far as is known here",
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# paper.md 1.6, vlm3.md 1.6 (VLM3 adds pictures of its own, of no set that is evaluated).
_RELEASED_SETS = ["argoverse2", "waymo", "nuscenes", "scannetpp", "taskonomy", "hm3d", "matterport3d"]
# Released checkpoints ship no depthlm.json: what they were trained with, by hub id (paper.md 1, vlm3.md 1).
RELEASED: dict[str, ModelCard] = {
    "facebook/DepthLM": ModelCard(
        family="pixtral",
        focal=750.0,
        geometry="official",
        grid=16,
        references=["arrow"],
        label="distance",
        prompt="depthlm-official",
        max_new_tokens=128,
        trained_on=_RELEASED_SETS,
        notes="Trained on mixed labels: answers are z-like on nuScenes, DDAD and iBims-1, distance-like elsewhere.",
    ),
    "facebook/VLM3-depth": ModelCard(
        family="qwen3_vl",
        focal=1000.0,
        geometry="official",
        grid=32,
        references=["text"],
        coordinate_range=2000,
        label="distance",
        prompt="vlm3-depth",
        max_new_tokens=256,
        trained_on=_RELEASED_SETS,
        notes="Follows DepthLM's mixed label definitions.",
    ),
}


def released_card(*names: str) -> ModelCard | None:
    """The card of a released checkpoint, recognised by hub id, by `config._name_or_path` or by a path that ends in it.

    A hub cache path (`models--facebook--DepthLM/snapshots/...`) counts; a folder merely called "DepthLM" does not.
    """
    for name in names:
        parts = name.replace("\\", "/").rstrip("/").split("/")
        candidates = {"/".join(parts[-2:]).lower()}
        candidates |= {p.removeprefix("models--").replace("--", "/").lower() for p in parts if p.startswith("models--")}
        for hub_id, card in RELEASED.items():
            if hub_id.lower() in candidates:
                return dataclasses.replace(card, references=list(card.references))
    return None
