"""Commands that change a model: train, calibrate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import emit, load, progress_bar, require_writable
from depthlm.cli.options import Device, Dtype, Images, Json, Label, ModelName, Reference, Revision, Seed
from depthlm.errors import InputError, StoppedError


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, or a shipped recipe by name: nano, ...")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values to change.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: out/ and the recipe's name.")] = None,
    change_recipe: Annotated[
        bool, typer.Option("--change-recipe", help="Go on in a folder that holds a run of another recipe.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what the run needs (memory, hours) and stop; nothing is loaded.")
    ] = False,
    gpus: Annotated[int, typer.Option(help="Of --plan: how many cards.")] = 1,
    gpu: Annotated[str, typer.Option(help="Of --plan: h200, h100, a100, a100-40, l40s, rtx4090, rtx3090.")] = "h100",
    as_json: Json = False,
) -> None:
    """Train by a recipe; a run that was interrupted goes on from its folder."""
    from depthlm.training.recipe import load_recipe
    from depthlm.training.shipped import find_recipe

    file = find_recipe(recipe)
    if file != recipe:
        print(f"recipe: {file}, shipped with depthlm", file=sys.stderr)
    resolved = load_recipe(file, overrides)
    if plan:
        from depthlm.training.plan import format_plan, plan_run

        planned = plan_run(resolved, gpus=gpus, kind=gpu)
        emit(planned, as_json, format_plan(planned))
        return
    folder = out or Path("out") / resolved.name
    require_writable(folder)
    from depthlm.training.run import run_recipe

    try:
        model = run_recipe(
            resolved,
            folder,
            report=lambda line: print(line, file=sys.stderr, flush=True),
            change_recipe=change_recipe,
        )
    except StoppedError as stopped:
        emit({"run": str(folder), "model": None, "stopped": str(stopped)}, as_json, str(stopped))
        return
    emit({"run": str(folder), "model": str(model)}, as_json, f"model: {model}")


@app.command()
def calibrate(
    model: ModelName,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled pictures it was not trained on.")],
    images: Images = None,
    label: Label = None,
    reference: Reference = None,
    points: Annotated[int, typer.Option(min=1, help="Points asked with each reference.")] = 1024,
    out: Annotated[Path | None, typer.Option(help="Folder for depthlm.json; default: the model's own.")] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Widen a model's 80 % intervals until they hold 80 % of the truths; stored in its depthlm.json."""
    folder = out or Path(model)
    if out is None and not folder.is_dir():
        raise InputError(f"{model} is no folder whose depthlm.json could be changed; give --out FOLDER")
    require_writable(folder)
    from depthlm.data import open_data
    from depthlm.evaluation.conformal import calibrate as fit
    from depthlm.evaluation.conformal import write_card

    loaded, samples = load(model, device, dtype, revision), open_data(data, images=images, label=label)
    with progress_bar("calibrate") as progress:
        references = [reference] if reference else None
        card, found = fit(loaded, samples, references=references, points=points, seed=seed, progress=progress)
    write_card(card, folder)
    lines = [
        f"{row['reference']}: {row['coverage_before']:.1%} of {row['points']} truths lay inside; widened by a factor "
        f"of {row['widened_by']:.3f} at either end"
        for row in found
    ]
    emit({"out": str(folder), "references": found}, as_json, "\n".join(lines))
