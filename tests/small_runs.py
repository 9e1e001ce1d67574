"""A short run on every family's tiny checkpoint, for tests that change one thing about it."""

from __future__ import annotations

from pathlib import Path

from depthlm.data.shards import write_shards
from depthlm.training.recipe import Recipe, load_recipe
from test_training import sample
from tiny import build_tiny

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "pixtral")
_RECIPE = """
name: small
model: MODEL
prompt: depthlm
focal: 100
crop: {width: [64, 64], height: [48, 48]}
log_every: 1
save_every: 2
data: [{path: DATA}]
stages: [{steps: 3, batch: 2, lr: 1.0e-2, references: {arrow: 1, text: 1}, questions_per_image: 2}]
"""


def make_places(folder: Path) -> dict[str, Path]:
    """Five labelled pictures ("data") and a checkpoint of each family, by its name."""
    write_shards([sample(seed) for seed in range(5)], folder / "data")
    return {"data": folder / "data"} | {family: build_tiny(family, folder / family) for family in FAMILIES}


def small_recipe(places: dict[str, Path], family: str, folder: Path, *overrides: str) -> Recipe:
    """Three steps of two pictures; the file is written into `folder`."""
    (folder / "r.yaml").write_text(_RECIPE.replace("DATA", str(places["data"])).replace("MODEL", str(places[family])))
    return load_recipe(folder / "r.yaml", list(overrides))
