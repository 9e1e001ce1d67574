"""What a study consists of, read from its folder: study.yaml, one file for each question, recipes they change.

study.yaml   base (a recipe, or a model that is there) and arm recipe, seeds, held-out data, the questions in order
a.yaml ...   one question: its arms (names and the recipe keys they change) and how they are tested
smoke.yaml   optional: changes to study.yaml, for a study at another size
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthlm.errors import InputError
from depthlm.models.card import ReadingName
from depthlm.reference import get_reference
from depthlm.training.recipe import DataSource, Recipe, apply, build, load_recipe, read_values

Changes = dict[str, Any]  # recipe key with dots -> value


@dataclass(frozen=True, kw_only=True)
class Start:
    """A recipe, and what the study changes in it."""

    recipe: str
    """File beside study.yaml."""
    set: Changes = field(default_factory=dict)
    """Keys changed."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Where every arm starts: a model that is there, or one that a recipe trains first."""

    model: str | None = None
    """Folder, hub id or `nano`."""
    recipe: str | None = None
    """File beside study.yaml."""
    set: Changes = field(default_factory=dict)
    """Keys of the recipe changed."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.recipe is None):
            raise InputError("study: base needs either a model or a recipe")


@dataclass(frozen=True, kw_only=True)
class Test:
    """One way to score a trained arm; all scores are delta1 of z."""

    data: str = "rooms"
    """Which of the held-out sets."""
    read: ReadingName = "greedy"
    """Which number of the belief is the answer."""
    focal_error: float = 0.0
    """The model is told a focal length that is wrong by this share; the truth stays."""
    words: bool = False
    """Read off the image tokens in one pass, without a question."""
    reference: str | None = None
    """How points are pointed at; None for what the arm was trained with first."""
    native: bool = False
    """Pictures are shown as they are, at focal lengths of their own, to a model that was trained at one."""
    only: list[str] | None = None
    """The arms that are tested so; None for all."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the method. The first arm is what the others are compared with."""

    question: str
    """In one line."""
    says: str
    """What the papers say."""
    arms: dict[str, Changes | None]
    """Name -> recipe keys changed; none at all (null) for the base itself, which is not trained."""
    tests: dict[str, Test] = field(default_factory=lambda: {"rooms": Test()})
    """Name -> how arms are scored. Of a question with one arm the first test is what the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """study.yaml."""

    base: Base
    """Its model is where every arm starts."""
    arm: Start
    """The recipe that arms change."""
    seeds: list[int]
    """Of the arms."""
    points: int
    """Points asked in each test."""
    held_out: dict[str, DataSource]
    """Name -> data for tests."""
    questions: list[str]
    """Files without their ending, the most important first."""
    arms: dict[str, dict[str, Changes | None]] = field(default_factory=dict)
    """Question -> arm -> changes in the place of those in its file."""

    def __post_init__(self) -> None:
        if not self.seeds or not self.questions:
            raise InputError("study: seeds and questions need at least one entry each")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One training, whichever questions it answers. key: from what it changes, so that equal arms are one.

    changes: None for the base as it is.
    """

    key: str
    name: str
    changes: Changes | None
    tests: dict[str, Test]


@dataclass(frozen=True)
class Plan:
    """A study ready to run. arms: in order of importance; questions: letter -> (question, its arms' keys by name)."""

    study: Study
    folder: Path
    arms: list[Arm]
    questions: dict[str, tuple[Question, dict[str, str]]]

    def seeds(self, arm: Arm) -> list[int]:
        """What an arm is run with: the study's, and the first of them alone where nothing is trained."""
        return self.study.seeds if arm.changes is not None else self.study.seeds[:1]

    def base_recipe(self) -> Recipe | None:
        """Stage one; None where the base is there."""
        base = self.study.base
        return None if base.recipe is None else load_recipe(self.folder / base.recipe, _overrides(base.set))

    def base_model(self, out: Path) -> str:
        """The base: a name, or the folder below `out` that its recipe's run leaves."""
        return self.study.base.model or str(out / "base" / "model")

    def arm_recipe(self, arm: Arm, seed: int, base: str) -> Recipe:
        """One training of an arm from the model `base`; of the base itself the recipe that its arms change."""
        own = {"name": f"study-{arm.key}", "seed": seed, "model": base}
        overrides = _overrides(self.study.arm.set) + _overrides(arm.changes or {}) + _overrides(own)
        return load_recipe(self.folder / self.study.arm.recipe, overrides)


def load_plan(folder: Path, size: str | None = None) -> Plan:
    """Read and check a study's folder. size: name of the file with changes to study.yaml.

    Raises InputError for what is missing, malformed, unknown or refers to nothing; every recipe is resolved once.
    """
    values = read_values(folder / "study.yaml", "study")
    if size:
        for override in _overrides(read_values(folder / f"{size}.yaml", "study")):
            apply(values, override)
    study: Study = build(Study, values, f"study {folder}")
    arms: dict[str, Arm] = {}
    questions = {}
    for letter in study.questions:
        where = f"question {folder / letter}.yaml"
        asked = read_values(folder / f"{letter}.yaml", "question")
        if not isinstance(asked.get("arms"), dict) or not asked["arms"]:
            raise InputError(f"{where}: arms is empty; name at least one arm and the keys it changes")
        asked["arms"] |= study.arms.get(letter, {})
        question: Question = build(Question, asked, where)
        questions[letter] = (question, _collect(question, study, arms, where))
    plan = Plan(study, folder, list(arms.values()), questions)
    plan.base_recipe()
    for arm in plan.arms:
        plan.arm_recipe(arm, study.seeds[0], "base")
    return plan


def _collect(question: Question, study: Study, arms: dict[str, Arm], where: str) -> dict[str, str]:
    """Add a question's arms, or its tests to equal arms that are there already; name -> key."""
    keys = {}
    for test in question.tests.values():
        if test.data not in study.held_out:
            raise InputError(f"{where}: held-out data {test.data!r} is not in study.yaml ({', '.join(study.held_out)})")
        if test.reference is not None:
            get_reference(test.reference)
        if unknown := sorted(set(test.only or []) - set(question.arms)):
            raise InputError(f"{where}: only names {', '.join(unknown)}; the arms are {', '.join(question.arms)}")
    for name, changes in question.arms.items():
        tests = {test_key(test): test for test in question.tests.values() if test.only is None or name in test.only}
        key = keys[name] = _key(name, changes)
        same = next((arm for arm in arms.values() if arm.changes == changes), None)
        if same is None:
            arms[key] = Arm(key=key, name=name, changes=changes, tests=tests)
        else:
            keys[name] = same.key
            same.tests.update(tests)
    return keys


def test_key(test: Test) -> str:
    """A name for a test that says what it does, the same wherever it is asked for."""
    parts = [test.data]
    parts += [test.read] if test.read != "greedy" else []
    parts += [f"focal{test.focal_error:+g}"] if test.focal_error else []
    parts += ["words"] if test.words else []
    parts += [test.reference] if test.reference else []
    parts += ["native"] if test.native else []
    return "-".join(parts)


def digest(key: str) -> str:
    """What tells an arm from others: what it changes, whichever question named it first when it was run."""
    return key.rpartition("-")[2]


def _key(name: str, changes: Changes | None) -> str:
    short = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:6]
    return "".join(c if c.isalnum() else "-" for c in name) + "-" + short


def _overrides(changes: Changes) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]  # JSON is YAML
