"""What makes a start from nothing faster: ways to begin nano's training, each given the same time, with their curves.

    python benchmarks/nano_starts.py [--data DIR] [--val DIR] [--seconds 900] [--ways A,B] [--out DIR] [--json]
    python benchmarks/nano_starts.py --quick

Every way is the first stage of recipes/nano.yaml with a few keys changed (WAYS below), trained by the same trainer
from the same random weights and data order, for as many steps as fit the seconds at the speed measured on its own first
steps; its learning rate runs through the whole schedule. Headline: delta1 on held-out rooms of the recipe's own way
minus that of questions and answers alone. With --out, a comparison that was interrupted goes on. Seconds are processor
time, so that a busy machine slows all ways alike.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

from depthlm.data import open_data
from depthlm.errors import InputError
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.models.loading import load_model
from depthlm.models.nano import NanoConfig
from depthlm.synth.generate import generate
from depthlm.training.recipe import DataSource, Recipe, load_recipe
from depthlm.training.run import run_recipe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "nano.yaml"
WAYS: dict[str, list[str]] = {
    "recipe": [],
    "questions-only": ["stages.0.image_words=0", "stages.0.marker_word=false", "stages.0.questions_per_image=8"],
    "one-marker": ["stages.0.markers_per_image=1"],
    "one-question": ["stages.0.questions_per_image=1"],
    "adamw": ["stages.0.optimizer=adamw"],
    "rate-x3": ["stages.0.lr=6e-3"],
}
SPEED_STEPS = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when a run is incomplete."""
    options = common.parser(__doc__)
    options.add_argument("--data", help="shards to train on (default: the recipe's)")
    options.add_argument("--val", help="held-out shards (default: the recipe's)")
    options.add_argument("--seconds", type=float, help="processor seconds for each way (900)")
    options.add_argument("--batch", type=int, default=16, help="pictures a step; the recipe's suit a GPU")
    options.add_argument("--ways", default=",".join(WAYS), help="which, separated by commas")
    options.add_argument("--points", type=int, default=2048, help="held-out points for each reference")
    options.add_argument("--out", type=Path, help="keep the runs and the curve here (default: nothing is kept)")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run for each way."""
    names = arguments.ways.split(",")
    if unknown := [name for name in names if name not in WAYS]:
        raise InputError(f"--ways: unknown {', '.join(unknown)}; expected some of {', '.join(WAYS)}")
    seconds = arguments.seconds if arguments.seconds is not None else 900.0
    if not seconds > 0 or arguments.points < 1:
        raise InputError(f"--seconds is {seconds} and --points is {arguments.points}; expected positive numbers")
    if arguments.batch < 1:
        raise InputError(f"--batch is {arguments.batch}; expected at least 1")
    out = arguments.out or Path(tempfile.mkdtemp(prefix="nano-starts-"))
    try:
        found = {name: train(name, seconds, arguments, out) for name in names}
        if arguments.out is not None:
            draw(found, out / "nano-starts.png")
    finally:
        if arguments.out is None:
            shutil.rmtree(out, ignore_errors=True)
    headline = {}
    if {"recipe", "questions-only"} <= set(found):
        headline = {"gain_over_questions_only": found["recipe"]["delta1"] - found["questions-only"]["delta1"]}
    return {
        "headline": headline,
        "checks": {
            f"{name}_trained_to_the_end": run["curve"][-1]["step"] == run["steps"] for name, run in found.items()
        },
        "config": {"seconds": seconds, "points": arguments.points, "quick": arguments.quick, "ways": WAYS},
        "ways": found,
    }


def train(name: str, seconds: float, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Train one way and score it with both references."""
    recipe = first_stage(name, arguments, out)
    folder = out / name
    if arguments.quick:
        steps = 3
    elif (folder / "recipe.yaml").exists():
        steps = load_recipe(folder / "recipe.yaml").stages[0].steps
    else:
        steps = max(1, round(seconds / step_seconds(recipe, out / f"{name}.speed")))
        steps = max(1, steps // recipe.log_every) * recipe.log_every  # so that the curve shows the last one
    common.progress(f"{name}: {steps} steps")
    recipe.stages = [replace(recipe.stages[0], steps=steps)]
    model = run_recipe(recipe, folder, report=common.progress)
    assert recipe.eval is not None
    loaded, held_out = load_model(model), open_data(recipe.eval.path)
    scores = {}
    for reference in recipe.stages[0].references:
        config = EvaluationConfig(reference=reference, points=arguments.points, batch=32, intervals=False)
        scores[reference] = evaluate(loaded, held_out, config)
    lines = (folder / recipe.stages[0].name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "steps": steps,
        "images": steps * recipe.stages[0].batch,
        "delta1": sum(score["delta1"] for score in scores.values()) / len(scores),
        **{f"delta1_{reference}": score["delta1"] for reference, score in scores.items()},
        "floor_delta1": next(iter(scores.values()))["floor_delta1"],
        "curve": [
            {key: line[key] for key in ("step", "answer_loss", "word_loss") if key in line}
            for line in map(json.loads, lines)
            if "loss" in line
        ],
    }


def first_stage(name: str, arguments: argparse.Namespace, out: Path) -> Recipe:
    """The recipe with the way's changes, its first stage alone, on the data given."""
    recipe = load_recipe(RECIPE, WAYS[name])
    recipe.name, recipe.stages, recipe.eval_every = f"nano-starts-{name}", recipe.stages[:1], 0
    recipe.log_every = 1 if arguments.quick else recipe.log_every
    recipe.stages[0].batch = arguments.batch
    if arguments.quick:
        for folder, seed in (("train", 0), ("val", 7)):
            if not (out / folder).exists():
                generate(out / folder, scenes=2, seed=seed, views=2, points=60, size=(96, 64), focal_range=(70, 90))
        recipe.focal, recipe.crop.width, recipe.crop.height = 64.0, (48, 80), (32, 64)
        recipe.stages[0].batch = 2
        recipe.nano = NanoConfig(hidden=48, layers=1, heads=2, vision_hidden=48, vision_layers=1, vision_heads=2)
        recipe.data, recipe.eval = [DataSource(path=str(out / "train"))], DataSource(path=str(out / "val"))
    if arguments.data is not None:
        recipe.data = [DataSource(path=arguments.data)]
    if arguments.val is not None:
        recipe.eval = DataSource(path=arguments.val)
    return recipe


def step_seconds(recipe: Recipe, scratch: Path) -> float:
    """Processor seconds of a step, from a short run that is thrown away."""
    short = replace(recipe, stages=[replace(recipe.stages[0], steps=1)], eval=None)
    longer = replace(recipe, stages=[replace(recipe.stages[0], steps=1 + SPEED_STEPS)], eval=None)
    spent = []
    for number, trial in enumerate((short, longer)):
        start = time.process_time()
        run_recipe(trial, scratch.with_suffix(f".{number}"))
        spent.append(time.process_time() - start)
        shutil.rmtree(scratch.with_suffix(f".{number}"))
    return max(1e-3, (spent[1] - spent[0]) / SPEED_STEPS)


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Answer loss over images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, run in found.items():
        images = [point["step"] * run["images"] / run["steps"] for point in run["curve"]]
        label = f"{name}: delta1 {run['delta1']:.3f}"
        axes.plot(images, [point["answer_loss"] for point in run["curve"]], label=label)
    axes.set_xlabel("images, equal processor time for each way")
    axes.set_ylabel("loss of the answers, nats per token")
    axes.set_ylim(0.8, 3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
