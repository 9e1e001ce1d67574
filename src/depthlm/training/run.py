"""run_recipe: from a recipe to a model folder that `depthlm eval` takes as it is.

The run folder holds recipe.yaml (resolved), run.json (versions, git revision), one folder per stage with its
checkpoints, metrics.jsonl, TensorBoard events and loss.png, and model/. Running it again resumes from where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from depthlm.errors import InputError
from depthlm.training.ranks import Ranks
from depthlm.training.recipe import DataSource, Recipe, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples
    from depthlm.training.dataset import TrainingRows
    from depthlm.training.safety import StopOnSignal

RECIPE_FILE = "recipe.yaml"
NEW_NANO = "new-nano"


def run_recipe(recipe: Recipe, out: Path, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """Train all stages, resuming what is there. Returns the model folder.

    report: receives one line of progress now and then. Raises InputError when `out` belongs to another recipe or cannot
    be written, when data cannot be read, when more than max_bad samples are unusable and when a loss is no number;
    StoppedError after a SIGTERM, with everything saved.
    """
    from depthlm.models.loading import load_model, save_model
    from depthlm.training.safety import StopOnSignal

    ranks = Ranks()
    if not ranks.main:
        report = lambda line: None  # noqa: E731
    final = out / "model"
    text = _check_folder(recipe, out)
    if final.exists():
        report(f"already trained: {final}")
        return final
    # Everything that can be wrong with the input is opened before the run folder appears. One process renders.
    wanted = [*recipe.data, *([] if recipe.eval is None else [recipe.eval])]
    ranks.first(lambda: [open_source(source, report) for source in wanted])
    sources = [open_source(source, report) for source in recipe.data]
    held_out = None if recipe.eval is None else open_source(recipe.eval, report)
    first = out / recipe.stages[0].name / "model"
    start = None if first.exists() else start_model(recipe, sources)
    ranks.first(lambda: _claim(out, text))
    done: Path | None = None
    with StopOnSignal() as stop:
        for stage in recipe.stages:
            previous, done = done, out / stage.name / "model"
            if not done.exists():
                loaded = start if previous is None else load_model(previous)
                assert loaded is not None
                report(f"stage {stage.name}: {stage.steps} steps")
                loaded = train_stage(recipe, stage, loaded, sources, held_out, out / stage.name, report, stop)
                ranks.first(partial(save_model, loaded.model, loaded.processor, loaded.card, done))
        assert done is not None, "a recipe has stages"
        ranks.first(partial(_publish, done, final))
    return final


def _publish(done: Path, final: Path) -> None:
    """The last stage's model as the run's; appears by rename."""
    shutil.copytree(done, temporary := final.with_name(".model.partial"), dirs_exist_ok=True)
    temporary.rename(final)


def train_stage(
    recipe: Recipe,
    stage: Stage,
    loaded: LoadedModel,
    sources: Sequence[Samples],
    held_out: Samples | None,
    folder: Path,
    report: Callable[[str], None],
    stop: StopOnSignal,
) -> LoadedModel:
    """Train a model (its weights in place), resuming from the newest checkpoint in `folder`; returns it scored."""
    from transformers.trainer_utils import get_last_checkpoint
    from transformers.utils.logging import disable_progress_bar

    from depthlm.models.processor import ThinProcessor
    from depthlm.models.vision_attention import pictures_together
    from depthlm.training.curve import draw_loss_curve
    from depthlm.training.trainer import DepthTrainer, RunLog, training_arguments

    processor = loaded.processor
    assert isinstance(processor, ThinProcessor), "start_model takes no other"
    disable_progress_bar()  # one bar per saved checkpoint says nothing; `report` does
    folder.mkdir(parents=True, exist_ok=True)
    card = replace(
        loaded.card,
        references=list(stage.references),
        tasks=list(stage.tasks),
        markers_per_image=stage.markers_per_image,
    )
    loaded = replace(loaded, card=card)
    rows = stage_rows(recipe, stage, loaded, sources)
    network = loaded.model if recipe.lora is None else _with_lora(loaded.model, recipe)
    if recipe.gradient_checkpointing:  # here and not in TrainingArguments, where the name changes between versions
        network.gradient_checkpointing_enable()
    main = Ranks().main
    log = RunLog(folder, report)
    callbacks: list[Any] = [log, stop] if main else [stop]
    if main and held_out is not None and recipe.eval_every:
        from depthlm.training.scoring import EvaluateEvery

        callbacks.append(EvaluateEvery(loaded, held_out, recipe, folder, report))
    trainer = DepthTrainer(
        stage=stage,
        processor=processor,
        rows=rows,
        model=network,
        args=training_arguments(recipe, stage, folder),
        callbacks=callbacks,
    )
    log.trainer = trainer
    with pictures_together(loaded.model):
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    stop.check(trainer.state.global_step, folder)
    if recipe.lora is not None:
        loaded = replace(loaded, model=network.merge_and_unload())
    if main and held_out is not None:
        from depthlm.training.scoring import score_and_log

        score_and_log(loaded, held_out, recipe, folder, stage.steps, report)
    if main:
        draw_loss_curve(folder)
    return loaded


def stage_rows(recipe: Recipe, stage: Stage, loaded: LoadedModel, sources: Sequence[Samples]) -> TrainingRows:
    """What a stage of the recipe trains on, for all ranks together."""
    from depthlm.data.mixture import Mixture
    from depthlm.models.processor import ThinProcessor
    from depthlm.prompts import get_prompt
    from depthlm.training.dataset import RowConfig, TrainingRows
    from depthlm.view import ViewConfig

    processor = loaded.processor
    assert isinstance(processor, ThinProcessor), "start_model takes no other"
    world = Ranks().world
    return TrainingRows(
        sources=sources,
        mixture=Mixture(sources, data_weights(recipe, sources, world), recipe.seed),
        processor=processor,
        card=loaded.card,
        prompt=get_prompt(recipe.prompt),
        rows=RowConfig(
            references=stage.references,
            tasks=stage.tasks,
            questions_per_image=stage.questions_per_image,
            markers_per_image=stage.markers_per_image,
            packing=stage.packing,
            image_words=stage.image_words > 0,
            marker_word=stage.marker_word,
            match_words=stage.match_words,
        ),
        view=ViewConfig(focal=recipe.focal, grid=processor.grid, geometry=recipe.geometry),
        crop=recipe.crop,
        seed=recipe.seed + 1_000_003 * recipe.stages.index(stage),  # stages draw different crops of the same images
        length=stage.steps * stage.batch * stage.accumulate * world,
        max_bad=recipe.max_bad,
    )


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


def open_source(source: DataSource, report: Callable[[str], None]) -> Samples:
    """Open a data source, rendering it first when it is synthetic and missing."""
    from depthlm.data import open_data

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
    return open_data(path, images=source.images, label=source.label)


def start_model(recipe: Recipe, sources: Sequence[Samples]) -> LoadedModel:
    """The model the first stage starts from, with the card that the recipe describes."""
    from depthlm.models.card import ModelCard
    from depthlm.models.loading import load_model
    from depthlm.models.processor import ThinProcessor

    card = ModelCard(
        focal=recipe.focal,
        geometry=recipe.geometry,
        references=list(recipe.stages[0].references),
        coordinate_range=recipe.coordinate_range,
        half_pixel=recipe.half_pixel,
        label=recipe.label,
        prompt=recipe.prompt,
        read=recipe.read,
        notes=recipe.notes or f"trained by depthlm, recipe {recipe.name}",
    )
    if recipe.model == NEW_NANO:
        from depthlm.models.nano import new_nano, whiten_patches

        nano = new_nano(recipe.nano, card, seed=recipe.seed)
        whiten_patches(nano.model, _some_patches(nano, sources[0]))
        return nano
    loaded = load_model(recipe.model)
    if not isinstance(loaded.processor, ThinProcessor):
        raise InputError(
            f"{recipe.model}: family {loaded.card.family!r} cannot be trained yet; use Qwen2.5-VL, Qwen3-VL or Pixtral"
        )
    return replace(loaded, card=replace(card, family=loaded.card.family, grid=loaded.card.grid))


def _some_patches(loaded: LoadedModel, samples: Samples, images: int = 200) -> torch.Tensor:
    """[P, values] patches of views spread evenly over the samples."""
    import torch

    from depthlm.models.processor import ThinProcessor
    from depthlm.view import make_view

    processor = loaded.processor
    assert isinstance(processor, ThinProcessor), "nano's own"
    rows = range(0, len(samples), max(1, len(samples) // images))
    pictures = []
    for row in rows[:images]:
        sample = samples[row]
        view = make_view(sample.load_image(), sample.camera, sample.uv, config=loaded.view_config)
        pictures.append(processor.encode_images([view.image])["pixel_values"])
    return torch.cat(pictures)


def _check_folder(recipe: Recipe, out: Path) -> str:
    """The resolved recipe as YAML. Raises InputError when `out` holds a run of another one."""
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))  # tuples become lists
    text = yaml.safe_dump(plain, sort_keys=False)
    path = out / RECIPE_FILE
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{out} holds a run of another recipe (see {path}); choose another --out or remove it")
    return text


def _claim(out: Path, text: str) -> None:
    """Make the run folder this recipe's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.json").write_text(json.dumps(_provenance(), indent=2) + "\n", encoding="utf-8")
        temporary = out / f"{RECIPE_FILE}.tmp{os.getpid()}"  # half a recipe would be another one
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out / RECIPE_FILE)
    except OSError as error:
        raise InputError(f"cannot write the run folder {out} ({error}); choose another --out") from error


def _provenance() -> dict[str, Any]:
    """Versions and git revision, for the record."""
    import torch
    import transformers

    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return {
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _with_lora(model: Any, recipe: Recipe) -> Any:
    try:
        import peft
    except ImportError:
        raise InputError("lora needs the package peft; install depthlm[train]") from None
    assert recipe.lora is not None
    config = peft.LoraConfig(
        r=recipe.lora.rank, lora_alpha=recipe.lora.alpha, target_modules=recipe.lora.targets, task_type="CAUSAL_LM"
    )
    return peft.get_peft_model(model, config)
