"""DDP and FSDP in several processes: the loss curve of one with the whole batch, and folders that load anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.models.loading import load_model
from depthlm.training.recipe import load_recipe
from depthlm.training.run import run_recipe
from processes import launch
from test_training import RECIPE, losses, sample
from tiny import build_tiny

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral")
LORA = ["lora.rank=2", "gradient_checkpointing=true"]
# Runs one recipe after the other, RECIPE OUT [stop] key=value ... + RECIPE OUT ..., and looks at every network trained.
# stop: the last process hears a SIGTERM in step 3; then the same is run again.
START = """
import os, signal, sys
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from depthlm.errors import StoppedError
from depthlm.training.recipe import load_recipe
from depthlm.training.run import run_recipe
from depthlm.training.trainer import DepthTrainer

whole, one_step = DepthTrainer.train, DepthTrainer.training_step

def train(self, *arguments, **options):
    parameters = list(self.model.parameters())
    if SHARDING == "none":
        assert not any(isinstance(p, DTensor) for p in parameters)
    else:
        assert all(isinstance(p, DTensor) for p in parameters), "a parameter is not sharded"
        here = sum(p.to_local().numel() * p.element_size() for p in parameters)
        everywhere = sum(p.numel() * p.element_size() for p in parameters)
        assert here <= 0.6 * everywhere, (here, everywhere)
        groups = [type(m).__name__ for m in self.model.modules() if isinstance(m, FSDPModule)]
        assert len(groups) == 5, ("two decoder layers, two vision blocks and the rest", groups)
    result = whole(self, *arguments, **options)
    if SHARDING != "none":
        assert all(isinstance(p, DTensor) for p in self.model.parameters())
        states = list(self._plain_optimizer().state.values())
        assert states and all(isinstance(s["exp_avg"], DTensor) for s in states), "optimizer state is whole"
    return result

def training_step(self, *arguments, **options):
    if STOP and self.state.global_step == 2 and self.args.process_index == self.args.world_size - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return one_step(self, *arguments, **options)

DepthTrainer.train, DepthTrainer.training_step = train, training_step
if "--nodes-of-two" in sys.argv:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
rest = [a for a in sys.argv[1:] if a != "--nodes-of-two"]
while rest:
    end = rest.index("+")
    (path, out, *overrides), rest = rest[:end], rest[end + 1:]
    STOP = "stop" in overrides
    recipe = load_recipe(Path(path), [o for o in overrides if o != "stop"])
    SHARDING = recipe.sharding
    if STOP:
        try:
            run_recipe(recipe, Path(out))
            raise SystemExit("nobody heard it")
        except StoppedError as stopped:
            assert "after step 3" in str(stopped), stopped
        STOP = False
    run_recipe(recipe, Path(out), report=print)
"""


def prepare(folder: Path, data: Path, family: str) -> Path:
    """A recipe that fine-tunes a tiny checkpoint of the family."""
    start = build_tiny(family, folder / f"tiny-{family}")
    text = RECIPE[: RECIPE.index("stages:")]
    for old, new in (("DATA", str(data)), ("model: new-nano", f"model: {start}"), ("prompt: nano", "prompt: depthlm"),
                     ("coordinate_range: 100", "coordinate_range: 2000")):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{family}.yaml"
    stage = "{steps: 4, batch: 2, lr: 1e-3, references: {arrow: 1, text: 1}, questions_per_image: 2}"
    path.write_text(f"{text}stages: [{stage}]\n")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharding") / "data"
    write_shards((sample(seed) for seed in range(7)), folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, data) -> Path:
    """What two processes made, each folder named by recipe and kind: one start for all."""
    folder = tmp_path_factory.mktemp("two")
    arguments: list[object] = []
    for family in FAMILIES:
        path = prepare(folder, data, family)
        scored = [f"eval.path={data}", "eval_points=2", "eval_every=2"] if family == "qwen3_vl" else []
        arguments += [path, folder / f"{family}-ddp", "+"]
        arguments += [path, folder / f"{family}-fsdp", "sharding=full", *scored, "+"]
    arguments += [path, folder / "stopped", "stop", "sharding=full", "+"]
    arguments += [path, folder / "lora", "sharding=full", *LORA, "+"]
    ran = launch(folder, START, 2, *arguments)
    assert ran.returncode == 0, ran.stderr
    return folder


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([value.ravel() for value in load_model(folder).model.state_dict().values()])


def assert_alike(found: Path, alone: Path, before: Path) -> None:
    """The same losses; and weights together, as AdamW turns noise in a vanishing gradient into whole steps."""
    np.testing.assert_allclose(losses(found, "main"), losses(alone, "main"), rtol=1e-4)
    apart, moved = weights(found / "model") - weights(alone / "model"), weights(alone / "model") - weights(before)
    assert apart.norm() < 0.05 * moved.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_in_two_processes_as_in_one(two, tmp_path, family):
    run_recipe(load_recipe(two / f"{family}.yaml", ["stages.0.batch=4"]), tmp_path / "one")
    for kind in ("ddp", "fsdp"):
        assert_alike(two / f"{family}-{kind}", tmp_path / "one", two / f"tiny-{family}")


def test_adapters_and_recomputation_are_sharded_too(two, tmp_path):
    run_recipe(load_recipe(two / "pixtral.yaml", ["stages.0.batch=4", *LORA]), tmp_path / "one")
    assert_alike(two / "lora", tmp_path / "one", two / "tiny-pixtral")
    names = load_model(two / "lora" / "model").model.state_dict().keys()
    assert names == load_model(two / "tiny-pixtral").model.state_dict().keys(), "adapters are merged"


def test_a_gathered_copy_is_scored_while_training_goes_on(two):
    lines = map(json.loads, (two / "qwen3_vl-fsdp" / "main" / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "delta1_text" in line] == [2, 4]


def assert_same(found: Path, whole: Path) -> None:
    assert losses(found, "main") == losses(whole, "main")
    assert torch.equal(weights(found / "model"), weights(whole / "model"))


def test_processes_that_one_signal_stopped_resume_bit_for_bit(two):
    assert_same(two / "stopped", two / "pixtral-fsdp")


@pytest.mark.slow
def test_so_do_adapters_and_unsharded_processes(two, tmp_path):
    path = two / "pixtral.yaml"
    lora = ["sharding=full", *LORA]
    ran = launch(tmp_path, START, 2, path, tmp_path / "ddp", "stop", "+", path, tmp_path / "lora", "stop", *lora, "+")
    assert ran.returncode == 0, ran.stderr
    assert_same(tmp_path / "ddp", two / "pixtral-ddp")
    assert_same(tmp_path / "lora", two / "lora")


def test_a_checkpoint_of_shards_is_each_process_s_part(two):
    folder = two / "stopped" / "main" / "checkpoint-4"
    parts = sorted((folder / "sharded").glob("*.distcp"))
    assert len(parts) == 2
    assert {"scheduler.pt", "rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert not list(folder.glob("*.safetensors")), "nothing is written twice"


def test_other_numbers_of_processes_do_not_go_on(two):
    with pytest.raises(InputError, match=r"begun by 2 processes, these are 1: .* start 2"):
        run_recipe(load_recipe(two / "pixtral.yaml", ["sharding=full"]), two / "pixtral-fsdp")


@pytest.mark.slow
def test_nodes_of_two_hold_one_copy_each(tmp_path, data):
    path = prepare(tmp_path, data, "qwen3_vl")
    ran = launch(
        tmp_path, START, 4, "--nodes-of-two", path, tmp_path / "four", "sharding=hybrid", "stages.0.batch=1", "+"
    )
    assert ran.returncode == 0, ran.stderr
    run_recipe(load_recipe(path, ["stages.0.batch=4"]), tmp_path / "one")
    assert_alike(tmp_path / "four", tmp_path / "one", tmp_path / "tiny-qwen3_vl")


def test_bad_sharding_is_refused(tmp_path, data, monkeypatch):
    path = prepare(tmp_path, data, "qwen3_vl")
    with pytest.raises(InputError, match=r"'some' is not one of none, full, hybrid"):
        load_recipe(path, ["sharding=some"])
    with pytest.raises(InputError, match=r"muon works on whole matrices.*set optimizer to adamw"):
        load_recipe(path, ["sharding=full", "stages.0.optimizer=muon"])
