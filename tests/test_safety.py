"""A run that is killed, told to stop, out of disk or out of its mind loses nothing that it had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.models.loading import load_model
from depthlm.training.recipe import load_recipe
from depthlm.training.run import run_recipe
from depthlm.training.safety import SAVING, publish_checkpoint
from test_training import sample

RECIPE = """
name: short
model: new-nano
nano: {hidden: 32, layers: 1, heads: 2, vision_hidden: 32, vision_layers: 1, vision_heads: 2}
prompt: nano
focal: 100
coordinate_range: 100
half_pixel: true
crop: {width: [48, 64], height: [48, 48], position: jitter, flip: 0.5}
log_every: 1
save_every: 2
data: [{path: DATA}]
stages:
  - {name: one, steps: 24, batch: 2, lr: 1.0e-3, optimizer: muon, references: {text: 1, arrow: 1}}
  - {name: two, steps: 6, batch: 2, lr: 1.0e-3, references: {text: 1}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safety")
    write_shards([sample(k) for k in range(12)], folder / "data")
    (folder / "short.yaml").write_text(RECIPE.replace("DATA", str(folder / "data")))
    return folder / "short.yaml"


@pytest.fixture(scope="module")
def weights(recipe_file, tmp_path_factory):
    """What a run that nobody disturbs ends with."""
    return load_model(run_recipe(load_recipe(recipe_file), tmp_path_factory.mktemp("whole") / "run")).model.state_dict()


def start(recipe_file: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "depthlm", "train", str(recipe_file), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def interrupt(recipe_file: Path, out: Path, how: int, steps: int, delay: float) -> tuple[int, str]:
    """Start or resume, wait for so many lines of progress and a moment more, send the signal. Status and stdout."""
    process = start(recipe_file, out)
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += line.startswith("step ")
        if seen >= steps:
            break
    time.sleep(delay)
    process.send_signal(how)
    output, error = process.communicate(timeout=120)
    if how == signal.SIGTERM and process.returncode == -signal.SIGTERM and not (out / "model").exists():
        raise AssertionError(f"SIGTERM was not caught: {error}")
    return process.returncode, output


def finish(recipe_file: Path, out: Path, weights: dict[str, torch.Tensor]) -> None:
    process = start(recipe_file, out)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    ended = load_model(out / "model").model.state_dict()
    assert all(torch.equal(ended[key], weights[key]) for key in weights), "bit for bit"
    for stage, steps in (("one", 24), ("two", 6)):
        lines = [json.loads(line) for line in (out / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, steps + 1)), "each step once"


def test_killed_and_stopped_runs_end_as_undisturbed_ones(recipe_file, tmp_path, weights):
    out = tmp_path / "run"
    interrupt(recipe_file, out, signal.SIGKILL, 5, 0.02)
    status, output = interrupt(recipe_file, out, signal.SIGTERM, 3, 0.0)
    assert status == 0
    assert "stopped by SIGTERM after step" in output
    assert "run the same again to go on" in output
    finish(recipe_file, out, weights)


def test_half_a_checkpoint_is_none(tmp_path):
    for step in (2, 4):
        (tmp_path / SAVING / f"checkpoint-{step}").mkdir(parents=True)
        publish_checkpoint(tmp_path, f"checkpoint-{step}")
    (tmp_path / SAVING / "checkpoint-6").mkdir(parents=True)  # killed here
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    (tmp_path / SAVING / "checkpoint-10").mkdir()
    publish_checkpoint(tmp_path, "checkpoint-10")
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-4"]
    assert not (tmp_path / SAVING).exists()


def test_a_full_disk_keeps_the_last_good_checkpoint(recipe_file, tmp_path, weights, monkeypatch):
    whole = Trainer._save_checkpoint

    def full(self, model, trial):
        whole(self, model, trial)
        if self.state.global_step == 6:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_checkpoint", full)
        with pytest.raises(InputError, match=r"No space left.*the last good one is .*checkpoint-4; make room"):
            run_recipe(load_recipe(recipe_file), tmp_path / "run")
    assert not (tmp_path / "run" / "one" / SAVING).exists()
    ended = load_model(run_recipe(load_recipe(recipe_file), tmp_path / "run")).model.state_dict()
    assert all(torch.equal(ended[key], weights[key]) for key in weights)


def test_a_loss_that_is_no_number_stops_with_its_batch(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["stages.0.optimizer=adamw", "stages.0.lr=1e30", "stages.0.clip=1e30"])
    with pytest.raises(InputError, match=r"loss is (nan|inf) in step \d+; its batch is saved in"):
        run_recipe(recipe, tmp_path / "run")
    (batch,) = (tmp_path / "run" / "one").glob("bad-batch-*.pt")
    assert {"input_ids", "labels", "pixel_values"} <= set(torch.load(batch, weights_only=True))


def test_a_line_of_metrics_cut_short_is_dropped(recipe_file, tmp_path, weights):
    out = tmp_path / "run"
    run_recipe(load_recipe(recipe_file), out)
    path = out / "two" / "metrics.jsonl"
    for name in ("model", "two/model", "two/checkpoint-6"):
        subprocess.run(["rm", "-r", str(out / name)], check=True)
    path.write_text(path.read_text() + '{"step": 5, "lo')
    finish(recipe_file, out, weights)
