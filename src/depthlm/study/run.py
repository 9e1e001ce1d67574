"""Run a study: render, train the base, then every arm with every seed, scored as soon as it is trained.

OUT/runs.jsonl gets one line for each arm, seed and test, in the order of importance; what is there is not done again.
Several arms train beside each other in processes of their own: a small model keeps neither a GPU nor a core busy.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.data.part import Part
from depthlm.errors import InputError
from depthlm.study.plan import Arm, Plan, digest
from depthlm.training.recipe import DataSource, Recipe
from depthlm.training.run import run_recipe
from depthlm.training.stage import open_source, stage_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples

    Report = Callable[[str], None]

RUNS = "runs.jsonl"
_LOOKED_AT = 64  # rows of an arm whose tokens and questions are counted
_KEPT = 8  # data sets a process keeps open
_open: OrderedDict[str, Samples] = OrderedDict()  # of this process


@dataclass(frozen=True)
class Job:
    """One arm with one seed, and those of its tests that are not done yet."""

    plan: Plan
    arm: Arm
    seed: int
    tests: list[str]
    out: Path
    until: float | None  # time.time() after which it is not begun


def run_study(
    plan: Plan, out: Path, *, streams: int = 1, minutes: float | None = None, report: Report = lambda line: None
) -> Path:
    """Do what of the study is not done yet; returns OUT/runs.jsonl.

    streams: arms trained beside each other. minutes: no arm is begun later than this. report: a line now and then.
    Raises InputError for recipes and data that cannot be used; what ends an arm is raised when the others beside it are
    done.
    """
    start = time.time()
    out.mkdir(parents=True, exist_ok=True)
    base = plan.base_recipe()
    wanted = [*plan.study.held_out.values(), *([] if base is None else base.data)]
    for arm in plan.arms:
        wanted += plan.arm_recipe(arm, 0, "base").data
    for path, source in {source.path: source for source in wanted}.items():
        if not Path(path).exists():
            open_source(replace(source, in_memory=False), report)
            report(f"{path} is there after {time.time() - start:.0f} s")
    results = out / RUNS
    done = {(digest(line["arm"]), line["seed"], line["test"]) for line in read_runs(results)}
    until = None if minutes is None else start + 60 * minutes
    # Seeds inside arms: what is cut off leaves whole arms.
    jobs = []
    for arm in plan.arms:
        for seed in plan.seeds(arm):
            if tests := [test for test in arm.tests if (digest(arm.key), seed, test) not in done]:
                jobs.append(Job(plan, arm, seed, tests, out, until))
    if streams == 1:
        train_base(plan, out, report)
        for job in jobs:
            _write(results, run_job(job, report), report)
        return results
    # spawn: a forked child would inherit torch's threads without what runs in them.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(streams, mp_context=spawn, initializer=_fork_loaders) as pool:
        if base is not None:
            pool.submit(train_base, plan, out).result()
            report(f"the base is there after {time.time() - start:.0f} s")
        failed: list[Exception] = []
        for number, future in enumerate(as_completed([pool.submit(run_job, job) for job in jobs]), 1):
            try:
                _write(results, future.result(), report)
            except Exception as error:  # whatever ends one arm, the others go on
                report(f"an arm failed: {error}")
                failed.append(error)
            report(f"{number} of {len(jobs)} after {time.time() - start:.0f} s")
    if failed:
        raise failed[0]
    return results


def _fork_loaders() -> None:
    """A spawned process would spawn its loaders too; forked ones share the sets that it holds in memory."""
    if "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The lines of a runs.jsonl; none where there is no file yet. Raises InputError for one that is damaged."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: a line is no JSON ({error}); remove that line") from error


def train_base(plan: Plan, out: Path, report: Report = lambda line: None) -> None:
    """Stage one, where the base is not there yet."""
    recipe = plan.base_recipe()
    if recipe is not None:
        run_recipe(recipe, out / "base", report=report, opened=_opened)


def run_job(job: Job, report: Report = lambda line: None) -> list[dict[str, Any]]:
    """Train one arm with one seed and score it: a line for each test of the job; none when it is too late to begin."""
    import torch

    from depthlm.models.loading import load_model
    from depthlm.study.score import score_arm

    if job.until is not None and time.time() > job.until:
        return []
    torch.set_num_threads(1)
    begun = time.time()
    folder = job.out / "arms" / f"{job.arm.key}-seed{job.seed}"
    model = job.plan.base_model(job.out)
    recipe = job.plan.arm_recipe(job.arm, job.seed, model)
    trains = job.arm.changes is not None
    if trains:
        model = str(run_recipe(recipe, folder, report=report, opened=_opened))
    loaded = load_model(model, device="cuda" if torch.cuda.is_available() else "cpu", dtype="float32")
    trained = time.time()
    facts = {
        "arm": job.arm.key,
        "name": job.arm.name,
        "seed": job.seed,
        "pictures": sum(stage.steps * stage.batch * stage.accumulate for stage in recipe.stages) if trains else 0,
        **(_count(recipe, loaded) if trains else {}),
        "train_s": round(trained - begun, 1),
    }
    lines = []
    for key in job.tests:
        test = job.arm.tests[key]
        held_out = job.plan.study.held_out[test.data]
        found = score_arm(loaded, _opened(held_out), test, job.plan.study.points, folder / "test")
        lines.append(facts | {"test": key} | found)
    shutil.rmtree(folder, ignore_errors=True)
    return [line | {"test_s": round(time.time() - trained, 1)} for line in lines]


def _count(recipe: Recipe, loaded: LoadedModel) -> dict[str, float]:
    """Tokens and questions of a picture, on average over the first rows; the same for every seed to within the draw."""
    sources = [_opened(source) for source in recipe.data]
    rows = stage_rows(recipe, recipe.stages[0], loaded, sources)
    seen = [rows[i] for i in range(min(len(rows), _LOOKED_AT))]
    return {
        "tokens_per_picture": round(float(np.mean([row.length for row in seen])), 1),
        "questions_per_picture": round(float(np.mean([len(row.questions) for row in seen])), 2),
    }


def _opened(source: DataSource) -> Samples:
    """As open_source, but a set that a recipe wants in memory is read once in each process, whatever part is wanted."""
    whole = replace(source, pictures=None, labels_per_picture=None)
    key = repr(whole)
    if key not in _open:
        _open[key] = open_source(whole, lambda line: None)
        while len(_open) > _KEPT:
            _open.popitem(last=False)
    samples = _open[key]
    if source.pictures is None and source.labels_per_picture is None:
        return samples
    return Part(samples, pictures=source.pictures, labels=source.labels_per_picture, name=source.path)


def _write(path: Path, lines: list[dict[str, Any]], report: Report) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    for line in lines:
        report(f"{line['name']}, seed {line['seed']}, {line['test']}: delta1 {line['delta1']:.3f}")
