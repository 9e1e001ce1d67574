"""Command for other trainers: export."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import emit, progress_bar, require_writable
from depthlm.cli.options import TASK_HELP, Images, Json, Label
from depthlm.errors import InputError

if TYPE_CHECKING:
    from depthlm.training.recipe import Recipe, Stage


@app.command()
def export(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A recipe, a shard folder or a .jsonl.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    to: Annotated[Literal["ms-swift", "llama-factory"], typer.Option(help="What will train on it.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe values.")] = None,
    model: Annotated[str | None, typer.Option(help="What will be trained: a folder or a hub id.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which stage of the recipe, where it has several.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Pictures; default: as many as the stage sees.")] = None,
    epochs: Annotated[float | None, typer.Option(help="In place of samples: times that the data is seen.")] = None,
    focal: Annotated[float | None, typer.Option(help="Unified focal length, pixels.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Words of questions and answers, a name in prompts.py.")] = None,
    reference: Annotated[list[str] | None, typer.Option(help="arrow, text, ...; again for several.")] = None,
    task: Annotated[list[str] | None, typer.Option(help=f"{TASK_HELP}; again for several.")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Questions about each picture.")] = None,
    jpeg: Annotated[int | None, typer.Option(min=1, max=100, help="JPEG of this quality; default: PNG.")] = None,
    images: Images = None,
    label: Label = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default: the recipe's.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: every core.")] = None,
    as_json: Json = False,
) -> None:
    """Write what training sees, for another trainer; goes on after an interruption."""
    require_writable(out)
    from depthlm.training.export import export as run_export
    from depthlm.training.other_trainers import ExportConfig, start_command, warnings

    wanted = {"model": model, "focal": focal, "prompt": prompt, "seed": seed}
    of_stage = {"references": _even(reference), "tasks": _even(task), "questions_per_image": questions}
    recipe, chosen = _recipe(data, images, label, stage, wanted, of_stage, overrides or [])
    if epochs is not None and not epochs > 0:
        raise InputError(f"--epochs is {epochs}; expected a positive number")
    if (samples, epochs) == (None, None) and not _is_recipe(data):
        epochs = 1.0
    family, grid = _family_and_grid(recipe)
    config = ExportConfig(
        recipe=recipe, stage=chosen, trainer=to, family=family, grid=grid, samples=samples, epochs=epochs, quality=jpeg
    )
    with progress_bar("export") as progress:
        facts, skipped = run_export(
            config, out, workers=workers or os.cpu_count() or 1, progress=progress,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
    notes = warnings(config, facts)
    lines = [
        f"{out}: {facts.pictures} pictures of {facts.pixels[0]} to {facts.pixels[1]} pixels, {facts.rows} rows, "
        f"{facts.questions} questions; for {family}, sizes are multiples of {grid}",
        *(f"  note     {line}" for line in notes),
        *(f"  skipped  {line}" for line in skipped[:20]),
        *([f"  ... and {len(skipped) - 20} more, see {out / 'facts.json'}"] if len(skipped) > 20 else []),
        f"  train    cd {out} && {start_command(to)}   (see {out / 'README.md'})",
    ]
    result = {"out": str(out), "family": family, "grid": grid, **dataclasses.asdict(facts)}
    emit(result | {"notes": notes, "skipped": skipped}, as_json, "\n".join(lines))


def _is_recipe(data: Path) -> bool:
    from depthlm.training.shipped import find_recipe

    return not data.is_dir() and find_recipe(data).suffix in (".yaml", ".yml")


def _recipe(
    data: Path,
    images: Path | None,
    label: str | None,
    stage: str | None,
    wanted: dict[str, Any],
    of_stage: dict[str, Any],
    overrides: list[str],
) -> tuple[Recipe, Stage]:
    """The recipe, read or made round plain data, with the options in it, and its stage."""
    from depthlm.training.recipe import Recipe, apply, build, read_values
    from depthlm.training.shipped import find_recipe

    if _is_recipe(data):
        if images is not None or label is not None:
            raise InputError(f"--images and --label are for a .jsonl; {data} is a recipe, which says them for its data")
        values = read_values(find_recipe(data), "recipe")
    else:
        source = {"path": str(data), "images": images and str(images), "label": label}
        values = {"name": data.stem, "model": None, "data": [source], "stages": [{"steps": 1}]}
    for key, value in wanted.items():
        if value is not None:
            values[key] = value
    number = _stage_number(values, stage, data)
    for key, value in of_stage.items():
        if value is not None:
            apply(values, f"stages.{number}.{key}={json.dumps(value)}")
    for override in overrides:
        apply(values, override)
    if values.get("model") is None:
        raise InputError(
            f"{data} is data alone: which model will be trained? Its patch grid sets the sizes of the pictures; give "
            "--model, a folder or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    recipe = build(Recipe, values, str(data))
    return recipe, recipe.stages[number]


def _stage_number(values: dict[str, Any], stage: str | None, data: Path) -> int:
    """Position of the stage in the recipe."""
    found = values.get("stages")
    names = [str(one.get("name", "main")) if isinstance(one, dict) else "?" for one in found or []]
    if stage is None and len(names) > 1:
        raise InputError(f"{data} has stages {', '.join(names)}; say which by --stage")
    if stage is not None and stage not in names:
        raise InputError(f"{data} has no stage {stage!r}; its stages are {', '.join(names)}")
    return 0 if stage is None else names.index(stage)


def _even(names: list[str] | None) -> dict[str, float] | None:
    return dict.fromkeys(names, 1.0) if names else None


def _family_and_grid(recipe: Recipe) -> tuple[str, int]:
    """Family and patch grid of the recipe's model, without its weights."""
    from depthlm.models.architecture import find_config
    from depthlm.models.families import family_of, patch_grid
    from depthlm.models.locate import NANO
    from depthlm.training.recipe import NEW_NANO

    if recipe.model in (NANO, NEW_NANO):
        raise InputError(
            f"{recipe.model}: no other trainer knows nano's layout of a conversation; say what will be trained by "
            "--model, such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    config = find_config(recipe)
    family = family_of(config)
    if family.images == "full":
        raise InputError(
            f"{recipe.model}: its processor resizes every picture, so that no focal length can be kept; use a"
            " Qwen2.5-VL, Qwen3-VL or Pixtral model"
        )
    return family.name, patch_grid(family, config)
