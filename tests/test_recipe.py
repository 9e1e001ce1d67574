"""Recipes: read, overridden, and every mistake answered in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthlm.errors import InputError
from depthlm.training.recipe import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
MINIMAL = "name: a\nmodel: m\ndata: [{path: x}]\nstages: [{steps: 2}]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_committed_recipe_is_valid(path):
    assert isinstance(load_recipe(path), Recipe)


def test_defaults_are_the_papers(tmp_path):
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert (recipe.focal, recipe.label, recipe.coordinate_range) == (1000.0, "distance", 2000)
    assert (recipe.crop.width, recipe.crop.height) == ((1000, 1400), (700, 1200))
    assert recipe.stages[0].references == {"arrow": 1.0}
    assert recipe.stages[0].image_words == 0


@pytest.mark.parametrize(
    ("override", "get", "expected"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("focal=750", lambda r: r.focal, 750.0),
        ("stages.0.lr=1e-5", lambda r: r.stages[0].lr, 1e-5),
        ("stages.0.references={text: 2, arrow: 0.5}", lambda r: r.stages[0].references, {"text": 2.0, "arrow": 0.5}),
        ("crop.width=[100, 200]", lambda r: r.crop.width, (100, 200)),
        ("data.0.label=z", lambda r: r.data[0].label, "z"),
        ("lora.rank=8", lambda r: r.lora.rank, 8),
    ],
)
def test_overrides(tmp_path, override, get, expected):
    assert get(load_recipe(write(tmp_path, MINIMAL), [override])) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys and values"),
        ("- a\n", "expected keys and values"),
        ("name: [\n", "not valid YAML"),
        (MINIMAL + "colour: blue\n", "unknown key colour; the keys are"),
        (MINIMAL.replace("steps: 2", "steps: 2, stepz: 3"), "unknown key stepz"),
        ("name: a\nmodel: m\nstages: [{steps: 2}]\n", "missing key data"),
        (MINIMAL.replace("{path: x}", ""), "data is empty"),
        (MINIMAL.replace("steps: 2", "steps: 0"), "stages[0]: steps is 0"),
        (MINIMAL.replace("steps: 2", "steps: two"), "expected int, found 'two'"),
        (MINIMAL.replace("steps: 2", "steps: true"), "expected int, found True"),
        (MINIMAL.replace("steps: 2", "steps: 2, lr: .nan"), "expected a positive number"),
        (MINIMAL.replace("steps: 2", "steps: 2, lr: fast"), "expected a number, found 'fast'"),
        (MINIMAL + "label: both\n", "'both' is not one of distance, z"),
        (MINIMAL + "crop: {width: [1, 2, 3]}\n", "expected 2 values"),
        (MINIMAL + "crop: {width: [9, 2]}\n", "crop width is (9, 2)"),
        (MINIMAL.replace("[{steps: 2}]", "[{steps: 1}, {steps: 1}]"), "repeat"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        load_recipe(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "is not key=value"),
        ("=3", "is not key=value"),
        ("stages.5.lr=1", "no position of a list of 1"),
        ("stages.0=[", "not valid YAML"),
        ("name.x=1", "holds a plain value"),
        ("speed=3", "unknown key speed"),
        ("stages.0.marker_word=true", "needs image_words above 0"),
        ("stages.0.match_words=true", "needs image_words above 0"),
    ],
)
def test_bad_overrides_are_named(tmp_path, override, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        load_recipe(write(tmp_path, MINIMAL), [override])


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("name", "world", "batch", "samples"),
    [("paper-3b", 128, 1280, 23e6), ("paper-7b", 128, 1280, 23e6), ("paper-12b", 128, 384, 23e6),
     ("vlm3-4b", 32, 1344, 32e6)],
)  # fmt: skip
def test_published_runs_see_what_they_say(name, world, batch, samples):
    """Samples a step over all GPUs, samples in all, and the learning rate by the square-root rule."""
    recipe = load_recipe(next(path for path in RECIPES if path.stem == name))
    (stage,) = recipe.stages
    assert stage.batch * stage.accumulate * world == batch
    assert stage.steps * batch == pytest.approx(samples, rel=1e-3)
    assert stage.lr == pytest.approx(5.5e-5 * (batch / 1344) ** 0.5, rel=0.02)
