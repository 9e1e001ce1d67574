"""kill -9 and SIGTERM at ten moments of one run, and a disk that fills: it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from depthlm.data.shards import write_shards
from depthlm.models.loading import load_model
from test_safety import RECIPE
from test_training import sample

STEPS = {"one": 40, "two": 12}
# The command itself, which also notes in a file when it listens to signals and, of every batch, what is in it.
NOTING = """
import hashlib, os, sys
import depthlm.training.run as run
from depthlm.cli import main
from depthlm.training.stopping import StopOnSignal

file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
note = lambda *words: os.write(file, (" ".join(map(str, words)) + "\\n").encode())
enter, train_stage = StopOnSignal.__enter__, run.train_stage

def listening(self):
    note("listening")
    return enter(self)

def noting(recipe, stage, *rest):
    from depthlm.training.trainer import DepthTrainer

    step = DepthTrainer.training_step

    def training_step(self, model, inputs, *more):
        digest = hashlib.sha256()
        for name in sorted(inputs):
            digest.update(inputs[name].numpy().tobytes())
        note("step", stage.name, self.state.global_step + 1, digest.hexdigest())
        return step(self, model, inputs, *more)

    DepthTrainer.training_step = training_step
    try:
        return train_stage(recipe, stage, *rest)
    finally:
        DepthTrainer.training_step = step

StopOnSignal.__enter__, run.train_stage = listening, noting
main(sys.argv[2:])
"""


class Run:
    """`depthlm train` in a process group of its own, begun or resumed."""

    def __init__(self, folder: Path, out: Path, *overrides: str) -> None:
        self.out, self.notes, self.errors = out, out.with_suffix(".notes"), out.with_suffix(".errors")
        self.before = len(self.noted())
        (folder / "noting.py").write_text(NOTING)
        command = [
            sys.executable,
            folder / "noting.py",
            self.notes,
            "train",
            folder / "r.yaml",
            *overrides,
            "--out",
            out,
        ]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def noted(self) -> list[list[str]]:
        return [line.split() for line in self.notes.read_text().splitlines()] if self.notes.exists() else []

    def steps(self) -> list[list[str]]:
        """Those of this process: stage, step, digest."""
        return [words[1:] for words in self.noted()[self.before :] if words[0] == "step"]

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.process.poll() is None, f"it ended: {self.errors.read_text()}"
            time.sleep(0.0005)

    def freeze_inside(self, pattern: str, delay: float) -> None:
        """Stop the process at a moment at which a path like this is there."""
        while True:
            self.wait(lambda: any(self.out.glob(pattern)))
            time.sleep(delay)
            self.process.send_signal(signal.SIGSTOP)
            os.waitpid(self.process.pid, os.WUNTRACED)
            if any(self.out.glob(pattern)):
                return
            self.process.send_signal(signal.SIGCONT)
            delay = 0

    def send(self, how: signal.Signals) -> tuple[int, str]:
        """Status and stdout. SIGTERM goes to the whole group, loaders too, as `timeout` and Slurm send it."""
        if how == signal.SIGTERM:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)
        return self.end()

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interruptions")
    write_shards([sample(k) for k in range(12)], folder / "data")
    text = (
        RECIPE.replace("DATA", str(folder / "data")).replace("steps: 24", "steps: 40").replace("steps: 6", "steps: 12")
    )
    (folder / "r.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Run:
    """What nobody disturbs, without loader processes."""
    run = Run(folder, folder / "whole")
    status, _ = run.end()
    assert status == 0, run.errors.read_text()
    return run


def losses(out: Path, stage: str) -> list[tuple[int, float]]:
    lines = map(json.loads, (out / stage / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def assert_same(run: Run, whole: Run) -> None:
    one, other = (load_model(r.out / "model").model.state_dict() for r in (run, whole))
    assert all(torch.equal(one[key], other[key]) for key in other), "weights, bit for bit"
    for stage, steps in STEPS.items():
        assert [step for step, _ in losses(run.out, stage)] == list(range(1, steps + 1)), "each step once"
        assert losses(run.out, stage) == losses(whole.out, stage)
    seen, expected = ({tuple(words[1:]) for words in r.noted() if words[0] == "step"} for r in (run, whole))
    assert seen == expected, "every batch, redone ones too, held the same samples"
    assert not [*run.out.rglob(".saving"), *run.out.rglob(".model*")], "nothing half-written stays"


MOMENTS = [
    (signal.SIGTERM, "loading"), (signal.SIGKILL, "step"), (signal.SIGKILL, "checkpoint"), (signal.SIGTERM, "step"),
    (signal.SIGTERM, "checkpoint"), (signal.SIGKILL, "loading"), (signal.SIGKILL, "checkpoint"),
    (signal.SIGTERM, "step"), (signal.SIGKILL, "model"), (signal.SIGTERM, "step"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_interruptions_change_nothing(folder: Path, whole: Run) -> None:
    rng = random.Random(7)
    for how, moment in MOMENTS:
        run = Run(folder, folder / "run", "workers=2")
        run.wait(lambda run=run: len(run.noted()) > run.before)  # it listens
        if moment == "loading":
            time.sleep(rng.uniform(0, 3))
        elif moment == "model":
            run.freeze_inside("one/.model-*", rng.uniform(0, 0.01))
        else:
            steps = rng.randint(1, 4)
            run.wait(lambda run=run, steps=steps: len(run.steps()) >= steps)
            if moment == "checkpoint":
                run.freeze_inside("*/.saving/checkpoint-*/*", rng.uniform(0, 0.01))
            else:
                time.sleep(rng.uniform(0, 0.1))
        status, output = run.send(how)
        assert not (folder / "run" / "model").exists(), "it was interrupted"
        if how == signal.SIGKILL:
            assert status == -signal.SIGKILL
            continue
        assert status == 0, run.errors.read_text()
        assert "Traceback" not in run.errors.read_text()
        assert "stopped by SIGTERM" in output
        assert "run the same again to go on" in output
        if run.steps():
            stage, step, _ = run.steps()[-1]
            assert (run.out / stage / f"checkpoint-{step}").is_dir(), "the last step is saved"
    run = Run(folder, folder / "run", "workers=2")
    assert run.end()[0] == 0, run.errors.read_text()
    assert_same(run, whole)


# A disk of its own in a name space of its own: so many KiB, then more of them and the same again.
DISK = """
disk=$1 python=$2 recipe=$3 kept=$4
train() { "$python" -m depthlm train "$recipe" stages.0.steps=6 stages.1.steps=4 --out "$disk/run"; }
mount -t tmpfs -o size=$5k none "$disk" || exit 77
train; echo "status $?"
cd "$disk/run" && ls -d */checkpoint-*; cd - > /dev/null
mount -o remount,size=64m "$disk"
train && cp -r "$disk/run/model" "$kept"
"""


@pytest.fixture(scope="module")
def short(folder: Path) -> dict[str, torch.Tensor]:
    run = Run(folder, folder / "short", "stages.0.steps=6", "stages.1.steps=4")
    assert run.end()[0] == 0, run.errors.read_text()
    return load_model(run.out / "model").model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size_kib", "at", "kept"),
    [
        (8, "cannot write into", []),  # TensorBoard's file
        (700, "cannot write a checkpoint into", []),
        (4500, "cannot write a checkpoint into", ["one/checkpoint-2", "one/checkpoint-4"]),
        (  # the finished model
            8500,
            "cannot write into",
            ["one/checkpoint-4", "one/checkpoint-6", "two/checkpoint-2", "two/checkpoint-4"],
        ),
    ],
)
def test_a_disk_that_fills_keeps_the_last_good_checkpoint(
    folder: Path, short: dict[str, torch.Tensor], tmp_path: Path, size_kib: int, at: str, kept: list[str]
) -> None:
    (tmp_path / "disk").mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) to mount a small disk with")
    arguments = [tmp_path / "disk", sys.executable, folder / "r.yaml", tmp_path / "model", str(size_kib)]
    ran = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", DISK, "sh", *arguments],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=280,
    )  # fmt: skip
    if ran.returncode == 77 or "unshare:" in ran.stderr:
        pytest.skip("not allowed to mount a small disk")
    said = [line for line in ran.stderr.splitlines() if line.startswith("error") or not line.startswith(("st", "ls"))]
    assert len(said) == 1, said
    assert said[0].startswith(f"error: {at}")
    assert said[0].endswith("make room and run the same again")
    first, *listed = ran.stdout.splitlines()[:-1]
    assert (first, listed) == ("status 2", kept)
    ended = load_model(tmp_path / "model").model.state_dict()
    assert all(torch.equal(ended[key], short[key]) for key in short)
