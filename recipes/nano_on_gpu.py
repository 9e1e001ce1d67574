"""nano on one GPU in about eleven minutes: its recipes, the dense control, and each task alone.

    PYTHONPATH=src python recipes/nano_on_gpu.py OUT --minutes 11

Renders the recipes' rooms on all cores (benchmarks/throughput.py has the GPU meanwhile), measures how fast two
trainings run beside each other, shortens the recipes alike to what fits the minutes, and runs, two at a time:
recipes/nano.yaml, benchmarks/dense_control.py, recipes/nano-joint.yaml, and for each task a run of the joint recipe's
last stage with that task alone and as many of its questions as the joint run asks. What was run stands in the run
folders' recipe.yaml; OUT/plan.json holds the rates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.models.loading import load_model, save_model
from depthlm.training.recipe import Recipe, Stage, load_recipe
from depthlm.training.run import run_recipe
from depthlm.training.stage import open_source

HERE = Path(__file__).resolve().parent
NANO, JOINT = HERE / "nano.yaml", HERE / "nano-joint.yaml"
CONTROL = HERE.parent / "benchmarks" / "dense_control.py"
ALONE = "z speed time between nearer moved rotation direction angle match width height box_distance left_right".split()
PAIRS = {"path": "out/data/nano-pairs", "synth": {"scenes": 80, "seed": 8, "views": 4, "points": 300, "pairs": True}}
SAFETY = 0.92  # rates are measured in seconds; the runs last minutes
START = time.monotonic()


def say(line: str) -> None:
    """Progress, with the seconds since the start."""
    print(f"[{time.monotonic() - START:6.1f}] {line}", flush=True)


def main() -> None:
    """Everything in order; a failure of one part leaves the others running."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("changes", nargs="*", metavar="key=value", help="to every recipe, for a try at small size")
    options.add_argument("--minutes", type=float, default=11.0)
    options.add_argument("--scenes", type=int, help="of the training set, for a try at small size")
    options.add_argument("--workers", type=int, nargs=2, default=(10, 5), help="loader processes of the two streams")
    options.add_argument("--trial", type=int, default=80, help="steps of the measurement")
    arguments = options.parse_intermixed_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    first, second = (f"workers={n}" for n in arguments.workers)
    common = ["eval=null", *arguments.changes] + (
        [f"data.0.synth.scenes={arguments.scenes}"] if arguments.scenes else []
    )
    nano, joint = load_recipe(NANO, common), load_recipe(JOINT, common)
    beside = None if arguments.scenes else call_throughput(out)
    render(nano)
    if beside is not None:
        say(f"throughput: exit {beside.wait()}")
    rates = trial(out, [*common, first], [*common, second], arguments.trial, nano.stages[0].batch)
    left = arguments.minutes * 60 - (time.monotonic() - START)
    # Two pictures and longer questions make the joint stages slower by about a fifth.
    longest = images(nano.stages[:1]) / rates[0] + images(joint.stages) / (0.8 * rates[0])
    share = min(1.0, left * SAFETY / longest)
    say(f"images/s {rates}: {share:.0%} of the recipes' steps")
    (out / "plan.json").write_text(json.dumps({"images_per_s": rates, "share": share, "left_s": left}))
    weights = joint.stages[-1].tasks
    single = {
        task: max(
            2, round(images(joint.stages) * share * weights[task] / sum(weights.values()) / joint.stages[-1].batch)
        )
        for task in ALONE
    }
    base = f"model={out}/nano/teach/model"

    def one() -> None:
        train("nano", NANO, [*common, first, *shortened(nano, share)])
        call("alone", [__file__, "--alone", str(out), json.dumps(single), *common, first, base])

    def two() -> None:
        control(out, [*common, second], round(images(nano.stages) * share))
        while not (out / "nano" / "teach" / "model").exists() and streams[0].is_alive():
            time.sleep(0.5)
        train("joint", JOINT, [*common, second, base, *shortened(joint, share)])

    def train(name: str, recipe: Path, changes: list[str]) -> None:
        call(name, ["-m", "depthlm", "train", str(recipe), *changes, "--out", str(out / name)])

    def call(name: str, command: list[str]) -> None:
        with (out / f"{name}.log").open("w") as log:
            status = subprocess.run([sys.executable, *command], stdout=log, stderr=log, check=False).returncode
        say(f"{name}: exit {status}")

    streams = [threading.Thread(target=stream) for stream in (one, two)]
    for stream in streams:
        stream.start()
    while any(stream.is_alive() for stream in streams):
        time.sleep(15)
        say(" | ".join(f"{log.stem}: {(log.read_text().splitlines() or [''])[-1][:100]}" for log in out.glob("*.log")))
    score_alone(out)
    say("done")


def images(stages: list[Stage]) -> int:
    """How many the stages see."""
    return sum(stage.steps * stage.batch for stage in stages)


def shortened(recipe: Recipe, share: float) -> list[str]:
    """The changes that cut every stage of the recipe to that share of its steps."""
    return [f"stages.{k}.steps={max(2, round(stage.steps * share))}" for k, stage in enumerate(recipe.stages)]


def call_throughput(out: Path) -> subprocess.Popen[bytes]:
    """benchmarks/throughput.py, which needs the GPU while rendering needs the cores; ended after 150 seconds."""
    command = ["timeout", "150", sys.executable, str(CONTROL.with_name("throughput.py")), "--json"]
    with (out / "throughput.json").open("w") as file, (out / "throughput.log").open("w") as log:
        return subprocess.Popen(command, stdout=file, stderr=log)


def render(recipe: Recipe) -> None:
    """The recipe's rooms and both held-out sets, by all cores."""
    for source in (load_recipe(NANO).eval, load_recipe(NANO, [f"eval={json.dumps(PAIRS)}"]).eval, recipe.data[0]):
        assert source is not None
        open_source(source, say)
        say(f"have {source.path}")


def trial(out: Path, first: list[str], second: list[str], steps: int, batch: int) -> tuple[float, float]:
    """Images per second of the first stage and of the control, beside each other."""
    folder, every = out / "trial", f"log_every={max(1, steps // 4)}"
    (folder / "control").mkdir(parents=True, exist_ok=True)
    command = ["-m", "depthlm", "train", str(NANO), *first, every, f"stages.0.steps={steps}", "--out", str(folder)]
    with (folder.with_suffix(".log")).open("w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
    seen = control(folder / "control", second, steps * batch)
    metrics = folder / "teach" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and f'"step": {steps // 4 * 3}' in metrics.read_text()):
        time.sleep(0.5)
    process.terminate()
    trained = json.loads(metrics.read_text().splitlines()[-1])
    return trained["images_per_s"], seen


def control(out: Path, changes: list[str], images: int) -> float:
    """The dense control for so many images; how many it saw a second."""
    val = load_recipe(NANO).eval
    assert val is not None
    command = [sys.executable, str(CONTROL), *changes, "--images", str(images), "--points", "2048", "--json",
               "--val", val.path]  # fmt: skip
    with (out / "control.json").open("w") as file, (out / "control.log").open("w") as log:
        status = subprocess.run(command, stdout=file, stderr=log, check=False).returncode
    say(f"control: exit {status}")
    return float(json.loads((out / "control.json").read_text())["train_images_per_s"])


def train_alone(out: Path, single: dict[str, int], changes: list[str]) -> None:
    """The joint recipe with one task after the other, as many of its questions as the joint run asks."""
    for task, steps in single.items():
        recipe = load_recipe(JOINT, changes)
        recipe.stages = [replace(recipe.stages[-1], steps=steps, tasks={task: 1.0})]
        run_recipe(recipe, out / f"alone-{task}", report=say)


def score_alone(out: Path) -> None:
    """Each lone task's model on held-out pairs of pictures, one process each."""
    jobs = [
        subprocess.Popen(
            [sys.executable, __file__, "--score", str(out), task], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        for task in ALONE
        if (out / f"alone-{task}" / "model").exists()
    ]
    for job in jobs:
        job.wait()


def score(out: Path, task: str) -> None:
    """One of them; OUT/alone.jsonl gets its line."""
    from depthlm.data import open_data

    loaded = load_model(out / f"alone-{task}" / "model")
    result: dict[str, Any] = {}
    for reference in ("text", "arrow"):
        config = EvaluationConfig(task=task, points=384, reference=reference, intervals=False, batch=32)
        result[reference] = evaluate(loaded, open_data(Path(PAIRS["path"])), config)
    steps = load_recipe(out / f"alone-{task}" / "recipe.yaml").stages[0].steps
    with (out / "alone.jsonl").open("a") as file:
        file.write(json.dumps({"task": task, "steps": steps, **result}) + "\n")


def pack(out: Path, names: list[str], where: Path) -> None:
    """Models as bfloat16 files in pieces below 16 MiB, for a machine that gives back no larger ones."""
    for name in names:
        loaded = load_model(out / name)
        folder = where.parent / "packed" / name.replace("/", "-")
        save_model(loaded.model, loaded.processor, loaded.card, folder, dtype="bfloat16")
        tar = folder.with_suffix(".tar")
        subprocess.run(["tar", "cf", str(tar), "-C", str(folder), "."], check=True)
        subprocess.run(["split", "-b", "15m", "-d", str(tar), str(where / f"{folder.name}.tar.")], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "--score":
        torch.set_num_threads(1)
        score(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "--alone":
        train_alone(Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4:])
    elif sys.argv[1] == "--pack":
        pack(Path(sys.argv[2]), sys.argv[4:], Path(sys.argv[3]))
    else:
        main()
