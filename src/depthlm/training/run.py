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
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from depthlm.claim import write_text
from depthlm.errors import InputError
from depthlm.training.bad_samples import BadSamples
from depthlm.training.ranks import Ranks
from depthlm.training.recipe import NEW_NANO, DataSource, Recipe, Stage
from depthlm.training.stage import open_source, recipe_card, stage_card, stage_rows
from depthlm.training.stopping import StopOnSignal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
MANIFEST_FILE = "manifest.json"  # of a folder of shards
SKIPPED_FILE = "skipped.txt"  # of a stage: samples that it could not use


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    report: Callable[[str], None] = lambda line: None,
    change_recipe: bool = False,
    opened: Callable[[DataSource], Samples] | None = None,
) -> Path:
    """Train all stages, resuming what is there. Returns the model folder.

    report: receives one line of progress now and then. change_recipe: go on from checkpoints of another recipe; the old
    one is kept as recipe.1.yaml, recipe.2.yaml, ... opened: how training data is opened, for a caller that keeps it
    open between runs. Raises InputError when `out` belongs to another recipe or cannot
    be written, when data cannot be read, when more than max_bad samples are unusable and when a loss is no number;
    StoppedError after a SIGTERM, with everything saved.
    """
    with StopOnSignal() as stop:
        from depthlm.training.network import check_attention
        from depthlm.training.safety import full_disk

        ranks = Ranks()
        if not ranks.main:
            report = lambda line: None  # noqa: E731
        final = out / "model"
        text = _check_folder(recipe, out, change_recipe=change_recipe)
        if final.exists():
            report(f"already trained: {final}")
            return final
        # Everything that can be wrong with the input is opened before the run folder appears.
        opened = opened or partial(open_source, report=report, skip_bad=True)
        sources, held_out = _open_data(recipe, opened, report, ranks)
        first = out / recipe.stages[0].name / "model"
        with recipe.naming("vision_attention"):
            check_attention(recipe)
        start = None if first.exists() else start_model(recipe, sources)
        if start is not None:
            _check_stages(recipe, start, sources)
        stop.between_stages(ranks, out)
        ranks.first(lambda: _claim(out, text))
        with full_disk(out):
            _train_stages(recipe, start, sources, held_out, out, report, stop)
    return final


def _open_data(
    recipe: Recipe, opened: Callable[[DataSource], Samples], report: Callable[[str], None], ranks: Ranks
) -> tuple[list[Samples], Samples | None]:
    """What the recipe trains on, and what is held out; one process renders what is missing."""
    keys = [f"data[{number}]" for number in range(len(recipe.data))]

    def open_all() -> list[Samples]:
        found = []
        for key, source in zip(keys, recipe.data, strict=True):
            with recipe.naming(key):
                found.append(opened(source))
        return found

    def open_held_out() -> Samples | None:
        with recipe.naming("eval"):
            return None if recipe.eval is None else open_source(recipe.eval, report)

    ranks.first(lambda: (open_all(), open_held_out()))
    sources = open_all()
    left_out = BadSamples(recipe.max_bad)
    for line in chain.from_iterable(getattr(source, "skipped", ()) for source in sources):
        left_out.add(line)
    return sources, open_held_out()


def _check_stages(recipe: Recipe, start: LoadedModel, sources: Sequence[Samples]) -> None:
    """That every stage has something to train on."""
    for number, stage in enumerate(recipe.stages):
        with recipe.naming(f"stages[{number}]"):
            stage_rows(recipe, stage, start, sources)


def _train_stages(
    recipe: Recipe,
    start: LoadedModel | None,
    sources: Sequence[Samples],
    held_out: Samples | None,
    out: Path,
    report: Callable[[str], None],
    stop: StopOnSignal,
) -> None:
    """Train the stages that have no model yet, and publish the last one's. start: None where the first one has."""
    ranks = Ranks()
    done: Path | None = None
    for stage in recipe.stages:
        previous, done = done, out / stage.name / "model"
        if not done.exists():
            stop.between_stages(ranks, out)
            loaded = start if previous is None else _load(recipe, previous)
            assert loaded is not None
            report(f"stage {stage.name}: {stage.steps} steps")
            trained = train_stage(recipe, stage, loaded, sources, held_out, out / stage.name, report, stop)
            ranks.first(partial(_save, trained, done))
    assert done is not None, "a recipe has stages"
    ranks.first(partial(_publish, done, out / "model"))


def _save(trained: LoadedModel | None, folder: Path) -> None:
    from depthlm.models.loading import save_model

    assert trained is not None, "this process writes"
    for half in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed while it saved
        shutil.rmtree(half, ignore_errors=True)
    save_model(trained.model, trained.processor, trained.card, folder)


def _publish(done: Path, final: Path) -> None:
    """The last stage's model as the run's; appears by rename."""
    temporary = final.with_name(".model.partial")
    try:
        shutil.copytree(done, temporary, dirs_exist_ok=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def train_stage(
    recipe: Recipe,
    stage: Stage,
    loaded: LoadedModel,
    sources: Sequence[Samples],
    held_out: Samples | None,
    folder: Path,
    report: Callable[[str], None],
    stop: StopOnSignal,
) -> LoadedModel | None:
    """Train a model (its weights in place), resuming from the newest checkpoint in `folder`; returns it scored.

    In the process that writes; None in the others.
    """
    from transformers.trainer_utils import get_last_checkpoint
    from transformers.utils.logging import disable_progress_bar

    from depthlm.models.processor import ThinProcessor
    from depthlm.models.vision_attention import pictures_together
    from depthlm.training.curve import draw_loss_curve
    from depthlm.training.network import trainable, whole_model
    from depthlm.training.safety import StopAfterStep, errors_of_workers
    from depthlm.training.trainer import DepthTrainer, RunLog, training_arguments

    processor = loaded.processor
    assert isinstance(processor, ThinProcessor), "start_model takes no other"
    disable_progress_bar()  # one bar per saved checkpoint says nothing; `report` does
    folder.mkdir(parents=True, exist_ok=True)
    loaded = replace(loaded, card=stage_card(loaded.card, stage))
    rows = stage_rows(recipe, stage, loaded, sources, BadSamples(recipe.max_bad, folder / SKIPPED_FILE))
    network = trainable(loaded, recipe)
    whole = partial(whole_model, loaded, network, recipe)
    main = Ranks().main
    log = RunLog(folder, report)
    callbacks: list[Any] = [*([log] if main else []), StopAfterStep(stop)]
    if held_out is not None and recipe.eval_every:
        from depthlm.training.scoring import EvaluateEvery

        callbacks.append(EvaluateEvery(whole, held_out, recipe, folder, report))
    trainer = DepthTrainer(
        stage=stage,
        processor=processor,
        rows=rows,
        model=network,
        args=training_arguments(recipe, stage, folder),
        callbacks=callbacks,
    )
    log.trainer = trainer
    with pictures_together(loaded.model), errors_of_workers():
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    stop.after_step(trainer.state.global_step, folder)
    trained = whole(merge=True)
    if trained is not None and held_out is not None:
        from depthlm.training.scoring import score_and_log

        score_and_log(trained, held_out, recipe, folder, stage.steps, report)
    if main:
        draw_loss_curve(folder)
    return trained


def start_model(recipe: Recipe, sources: Sequence[Samples]) -> LoadedModel:
    """The model the first stage starts from, with the card that the recipe describes."""
    from depthlm.models.processor import ThinProcessor

    card = recipe_card(recipe, sources)
    if recipe.model == NEW_NANO:
        from depthlm.models.nano import new_nano, whiten_patches

        nano = new_nano(recipe.nano, card, seed=recipe.seed)
        whiten_patches(nano.model, _some_patches(nano, sources[0]))
        return nano
    with recipe.naming("model"):
        loaded = _load(recipe, recipe.model)
    if not isinstance(loaded.processor, ThinProcessor):
        raise InputError(
            f"{recipe.model}: family {loaded.card.family!r} cannot be trained yet; use Qwen2.5-VL, Qwen3-VL or Pixtral"
        )
    if card.trained_on is not None and loaded.card.trained_on is not None:  # what it learned before counts too
        card = replace(card, trained_on=list(dict.fromkeys([*loaded.card.trained_on, *card.trained_on])))
    return replace(loaded, card=replace(card, family=loaded.card.family, grid=loaded.card.grid))


def _load(recipe: Recipe, model: str | Path) -> LoadedModel:
    """To be trained; weights that adapters keep in 4 bits go where they will stay."""
    import torch

    from depthlm.models.loading import load_model

    if recipe.lora is None or recipe.lora.quantize is None:
        return load_model(model)
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    return load_model(model, quantize=recipe.lora.quantize, device=device)


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
        try:
            sample = samples[row]
            view = make_view(sample.load_image(), sample.camera, sample.uv, config=loaded.view_config)
        except InputError:
            continue  # counted when training meets it
        pictures.append(processor.encode_images([view.image])["pixel_values"])
    if not pictures:
        raise InputError("none of the first data set's pictures that were looked at can be used; see `depthlm inspect`")
    return torch.cat(pictures)


def _check_folder(recipe: Recipe, out: Path, *, change_recipe: bool) -> str:
    """The resolved recipe as YAML.

    Raises InputError when `out` holds data, a run of another one, or of another number of processes: batches would
    differ.
    """
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))  # tuples become lists
    text = yaml.safe_dump(plain, sort_keys=False)
    path = out / RECIPE_FILE
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        if (out / "model").exists():
            raise InputError(f"{out} holds the finished model of another recipe (see {path}); choose another --out")
        if not change_recipe:
            raise InputError(
                f"{out} holds a run of another recipe (see {path}); choose another --out, or go on with --change-recipe"
            )
    if (out / MANIFEST_FILE).exists():
        raise InputError(
            f"{out} holds data ({MANIFEST_FILE}), which a run must not be mixed with; choose another --out"
        )
    begun, now = _processes(out / RUN_FILE), Ranks().world
    if begun not in (None, now):
        raise InputError(
            f"{out} was begun by {begun} processes, these are {now}: every step would see another batch; start {begun},"
            " or choose another --out"
        )
    return text


def _processes(path: Path) -> int | None:
    """How many began the run; None when nobody did or its record is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("processes")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, int) else None


def _claim(out: Path, text: str) -> None:
    """Make the run folder this recipe's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RUN_FILE, json.dumps(_provenance(), indent=2) + "\n")
        path = out / RECIPE_FILE
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            number = next(n for n in count(1) if not (out / f"recipe.{n}.yaml").exists())
            shutil.copyfile(path, out / f"recipe.{number}.yaml")
        write_text(path, text)  # half a recipe would be another one
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
        "processes": Ranks().world,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
