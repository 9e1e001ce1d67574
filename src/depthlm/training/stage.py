"""What a stage of a recipe trains on: its data opened, weighted, drawn as conversations, with or without tokens."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.training.conversations import Conversations, RowConfig
from depthlm.training.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthlm.models.card import ModelCard
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples
    from depthlm.training.bad_samples import BadSamples
    from depthlm.training.dataset import TrainingRows
    from depthlm.training.recipe import DataSource, Recipe, Stage


def stage_rows(
    recipe: Recipe, stage: Stage, loaded: LoadedModel, sources: Sequence[Samples], bad: BadSamples | None = None
) -> TrainingRows:
    """What a stage of the recipe trains on, for all ranks together."""
    from depthlm.models.processor import ThinProcessor
    from depthlm.training.dataset import TrainingRows

    processor = loaded.processor
    assert isinstance(processor, ThinProcessor), "start_model takes no other"
    settings = _settings(recipe, stage, loaded.card, processor.grid, sources, bad)
    return TrainingRows(processor=processor, **settings)


def stage_conversations(
    recipe: Recipe,
    stage: Stage,
    card: ModelCard,
    grid: int,
    sources: Sequence[Samples],
    bad: BadSamples | None = None,
) -> Conversations:
    """The same before it becomes tokens: what a stage shows and asks. card, grid: of the model that is trained."""
    return Conversations(**_settings(recipe, stage, card, grid, sources, bad))


def _settings(
    recipe: Recipe, stage: Stage, card: ModelCard, grid: int, sources: Sequence[Samples], bad: BadSamples | None
) -> dict[str, Any]:
    from depthlm.data.mixture import Mixture
    from depthlm.prompts import get_prompt
    from depthlm.view import ViewConfig

    world = Ranks().world
    return {
        "sources": sources,
        "mixture": Mixture(sources, data_weights(recipe, sources, world), recipe.seed),
        "card": card,
        "prompt": get_prompt(recipe.prompt),
        "rows": RowConfig(
            references=stage.references,
            tasks=stage.tasks,
            questions_per_image=stage.questions_per_image,
            markers_per_image=stage.markers_per_image,
            packing=stage.packing,
            image_words=stage.image_words > 0,
            marker_word=stage.marker_word,
            relative_words=stage.relative_words,
            match_words=stage.match_words,
            text_beside_markers=stage.text_beside_markers,
            loss="text" if stage.loss == "text" else "answers",
        ),
        "view": ViewConfig(focal=recipe.focal, grid=grid, geometry=recipe.geometry),
        "crop": recipe.crop,
        "seed": recipe.seed + 1_000_003 * recipe.stages.index(stage),  # stages draw different crops of the same images
        "length": stage.steps * stage.batch * stage.accumulate * world,
        "bad": bad,
    }


def data_weights(recipe: Recipe, sources: Sequence[Samples], world: int = 1) -> list[float]:
    """The weight of each data set: the recipe's mixture under its cap on passes, for `world` processes."""
    from depthlm.data.mixture import cap_passes, mixture_weights

    sizes = [len(source) for source in sources]
    names = [
        entry.name or getattr(source, "info", {}).get("settings", {}).get("dataset")
        for entry, source in zip(recipe.data, sources, strict=True)
    ]
    weights = mixture_weights(recipe.mixture, [entry.weight for entry in recipe.data], sizes, names)
    if recipe.max_passes is None:
        return weights
    draws = world * sum(stage.steps * stage.batch * stage.accumulate for stage in recipe.stages)
    return cap_passes(weights, sizes, draws, recipe.max_passes)


def open_source(source: DataSource, report: Callable[[str], None], *, skip_bad: bool = False) -> Samples:
    """Open a data source, rendering it first when it is synthetic and missing.

    skip_bad: leave bad rows of a .jsonl out and list them in `.skipped`, instead of raising.
    """
    from depthlm.data import open_data
    from depthlm.data.part import Part

    path = Path(source.path)
    if source.synth is not None and not path.exists():
        from depthlm.synth.generate import generate

        synth = source.synth
        report(f"rendering {synth.scenes} {synth.kind} scenes into {path}")
        generate(
            path,
            scenes=synth.scenes,
            seed=synth.seed,
            kind=synth.kind,
            views=synth.views,
            focal_range=synth.focal_range,
            points=synth.points,
            pairs=synth.pairs,
            size=synth.size,
            workers=os.cpu_count() or 1,
        )
    samples = open_data(path, images=source.images, label=source.label, skip_bad=skip_bad)
    if source.pictures is None and source.labels_per_picture is None and not source.in_memory:
        return samples
    return Part(
        samples, pictures=source.pictures, labels=source.labels_per_picture, in_memory=source.in_memory,
        name=source.path,
    )  # fmt: skip


def recipe_card(recipe: Recipe, sources: Sequence[Samples]) -> ModelCard:
    """What the first stage of a recipe makes of any model."""
    from depthlm.models.card import ModelCard

    return ModelCard(
        focal=recipe.focal,
        geometry=recipe.geometry,
        references=list(recipe.stages[0].references),
        coordinate_range=recipe.coordinate_range,
        half_pixel=recipe.half_pixel,
        label=recipe.label,
        prompt=recipe.prompt,
        read=recipe.read,
        trained_on=_trained_on(recipe, sources),
        notes=recipe.notes or f"trained by depthlm, recipe {recipe.name}",
    )


def stage_card(card: ModelCard, stage: Stage) -> ModelCard:
    """The card of a model after this stage."""
    return replace(
        card,
        references=list(stage.references),
        tasks=list(stage.tasks),
        markers_per_image=stage.markers_per_image,
    )


def _trained_on(recipe: Recipe, sources: Sequence[Samples]) -> list[str] | None:
    """The data sets of the sources, for a card; None where one of them is not known."""
    from depthlm.data import origin_of
    from depthlm.data.readers.base import READERS

    names = [
        origin_of(source).dataset or (entry.name if entry.name in READERS else None)
        for entry, source in zip(recipe.data, sources, strict=True)
    ]
    known = [name for name in dict.fromkeys(names) if name is not None]
    return None if None in names else known
