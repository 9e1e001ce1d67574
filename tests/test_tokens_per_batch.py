"""A cap on tokens: it is never exceeded, every row is seen once, and the gradients are those of the whole batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from depthlm.camera import Camera
from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.models.chat import IGNORE
from depthlm.models.loading import load_model
from depthlm.sample import Sample
from depthlm.synth.generate import encode
from depthlm.training.recipe import load_recipe
from depthlm.training.rows import Row, collate_parts, cut_by_tokens
from depthlm.training.run import run_recipe
from processes import launch
from test_sharding import START
from test_training import rows
from tiny import build_tiny

RECIPE = """
name: capped
model: MODEL
prompt: depthlm
focal: 100
crop: {width: [32, 160], height: [32, 96], position: jitter}
log_every: 1
save_every: 2
data: [{path: DATA}]
stages:
  - {steps: 4, batch: 6, accumulate: 2, lr: 1.0e-3, references: {text: 1}, questions_per_image: 2}
"""


def picture(seed: int) -> Sample:
    """Larger than the largest crop, so that crops have many sizes."""
    rng = np.random.default_rng(seed)
    uv = np.stack([rng.uniform(8, 150, 200), rng.uniform(8, 88, 200)], axis=1)
    pixels = rng.integers(0, 200, (96, 160, 3), dtype=np.uint8)
    return Sample(encode(pixels), Camera.from_focal(100.0, 160, 96), uv, rng.uniform(0.5, 8, 200), frame=f"f{seed}")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capped")
    write_shards([picture(seed) for seed in range(9)], folder / "data")
    model = build_tiny("qwen3_vl", folder / "tiny")
    (folder / "r.yaml").write_text(RECIPE.replace("DATA", str(folder / "data")).replace("MODEL", str(model)))
    return folder / "r.yaml"


def row(length: int) -> Row:
    return Row([0] * (length - 2), [([1, 2], 1)], None, {})


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([10], [[10]]),
        ([3, 9, 4, 8], [[9], [8], [4, 3]]),  # 2 x 8 is more than 10; 2 x 4 is not
        ([5, 5, 5], [[5, 5], [5]]),
        ([4, 3, 3], [[4, 3], [3]]),  # 3 x 4 with padding
        ([2] * 5, [[2] * 5]),
    ],
)
def test_parts_are_of_like_length_and_never_above_the_cap(lengths: list[int], expected: list[list[int]]) -> None:
    given = [row(length) for length in lengths]
    parts = cut_by_tokens(given, 10)
    assert [[r.length for r in part] for part in parts] == expected
    assert sorted(id(r) for part in parts for r in part) == sorted(map(id, given)), "each row once"
    assert all(len(part) * max(r.length for r in part) <= 10 for part in parts)


def test_a_row_above_the_cap_is_named() -> None:
    with pytest.raises(InputError, match=r"takes 11 tokens, more than tokens_per_batch=10; raise it, crop smaller"):
        cut_by_tokens([row(3), row(11)], 10)


def test_parts_hold_the_labels_of_the_batch() -> None:
    from depthlm.view import CropConfig

    dataset = rows([picture(seed) for seed in range(5)], references={"text": 1.0},
                   crop=CropConfig(width=(32, 160), height=(32, 96), position="jitter"))  # fmt: skip
    drawn = [dataset[index] for index in range(12)]
    assert len({r.length for r in drawn}) > 4
    cap = max(r.length for r in drawn) + 5
    batch = collate_parts(dataset.processor, drawn, cap)
    assert len(batch["parts"]) > 2
    assert all(part["input_ids"].numel() <= cap for part in batch["parts"])
    assert sum(len(part["input_ids"]) for part in batch["parts"]) == 12
    counted = sum(int((part["labels"][:, 1:] != IGNORE).sum()) for part in batch["parts"])
    assert int((batch["labels"][:, 1:] != IGNORE).sum()) == counted > 0


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([value.ravel() for value in load_model(folder).model.state_dict().values()])


def losses(run: Path) -> list[float]:
    from test_training import losses

    return losses(run, "main")


def test_a_capped_run_learns_the_same_and_resumes_bit_for_bit(recipe_file: Path, tmp_path: Path) -> None:
    whole = run_recipe(load_recipe(recipe_file), tmp_path / "whole")
    capped = load_recipe(recipe_file, ["stages.0.tokens_per_batch=200"])
    cut = run_recipe(capped, tmp_path / "cut")
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-4)
    before = weights(recipe_file.parent / "tiny")
    assert (weights(cut) - weights(whole)).norm() < 0.05 * (weights(whole) - before).norm()
    # Back to step 2, as if it had been killed; and with loader processes.
    shutil.copytree(tmp_path / "cut", tmp_path / "again")
    for name in ("model", "main/model", "main/checkpoint-4"):
        shutil.rmtree(tmp_path / "again" / name)
    again = run_recipe(load_recipe(recipe_file, ["stages.0.tokens_per_batch=200", "workers=2"]), tmp_path / "again",
                       change_recipe=True)  # fmt: skip
    assert torch.equal(weights(again), weights(cut))
    assert losses(tmp_path / "again") == losses(tmp_path / "cut")


def test_a_cap_below_one_picture_stops_the_run_with_one_line(recipe_file: Path, tmp_path: Path) -> None:
    small = load_recipe(recipe_file, ["stages.0.tokens_per_batch=20", "workers=1"])
    with pytest.raises(InputError, match=r"^a picture with its questions takes \d+ tokens, more than tokens_per_batch"):
        run_recipe(small, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_cut_unequally_and_train_as_one(recipe_file: Path, tmp_path: Path) -> None:
    """Each sees its own rows, of other lengths, so that one has more parts than the other in some steps."""
    cap = ["stages.0.tokens_per_batch=200", "stages.0.accumulate=1"]
    ran = launch(tmp_path, START, 2, recipe_file, tmp_path / "ddp", *cap, "+",
                 recipe_file, tmp_path / "fsdp", "sharding=full", *cap, "+")  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    run_recipe(load_recipe(recipe_file), tmp_path / "one")
    for kind in ("ddp", "fsdp"):
        np.testing.assert_allclose(losses(tmp_path / kind), losses(tmp_path / "one"), rtol=1e-4)
