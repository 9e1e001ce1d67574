"""Two processes train one model: the same weights in both, and those of one process with twice the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from depthlm.data.shards import write_shards
from depthlm.models.loading import load_model
from depthlm.training.recipe import load_recipe
from depthlm.training.run import run_recipe
from processes import launch
from test_safety import RECIPE, sample

START = """
import sys
from pathlib import Path
import torch
import depthlm.training.trainer as trainer
from depthlm.training.recipe import load_recipe
from depthlm.training.run import run_recipe

whole = trainer.DepthTrainer.train

def train(self, *arguments, **options):
    result = whole(self, *arguments, **options)
    weights = torch.cat([p.detach().ravel() for p in self.accelerator.unwrap_model(self.model).parameters()])
    everyone = [torch.empty_like(weights) for _ in range(2)]
    torch.distributed.all_gather(everyone, weights)
    assert torch.equal(*everyone), "the processes have drifted apart"
    return result

trainer.DepthTrainer.train = train
run_recipe(load_recipe(Path(sys.argv[1]), sys.argv[3:]), Path(sys.argv[2]), report=print)
"""


@pytest.mark.timeout(300)
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    write_shards([sample(k) for k in range(12)], tmp_path / "data")
    (tmp_path / "short.yaml").write_text(RECIPE.replace("DATA", str(tmp_path / "data")))
    steps = ["stages.0.steps=4", "stages.1.steps=2", "stages.0.lr=1e-4"]
    ran = launch(tmp_path, START, 2, tmp_path / "short.yaml", tmp_path / "two", *steps)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("stage one: 4 steps") == 1, "one process reports"
    doubled = load_recipe(tmp_path / "short.yaml", [*steps, "stages.0.batch=4", "stages.1.batch=4"])
    run_recipe(doubled, tmp_path / "one")
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "one" / "metrics.jsonl").read_text().splitlines()]
        for run in ("two", "one")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    # AdamW turns noise in a vanishing gradient into whole steps, so that weights are compared all together.
    one, two, between = (
        torch.cat([value.ravel() for value in load_model(folder).model.state_dict().values()])
        for folder in (tmp_path / "one" / "model", tmp_path / "two" / "model", tmp_path / "one" / "one" / "model")
    )
    assert (two - one).norm() < 0.05 * (one - between).norm()
