"""Bad recipes: exit status 2, one line with the file, the key and the mend; nothing is written, no run is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from cli_runner import run
from depthlm.data.shards import write_shards
from test_training import RECIPE, sample
from tiny import build_tiny

# What is changed, what of it the line names, and what would mend it.
BAD: dict[str, tuple[list[str], str, str]] = {
    # keys
    "unknown key": (["speed=3"], "unknown key speed", "seed"),
    "unknown key of a stage": (["stages.0.stepz=3"], "stages[0]: unknown key stepz", "did you mean steps?"),
    "missing key": (["data.0={weight: 1}"], "data[0]: missing key path", "missing"),
    # types
    "text for a number": (["stages.0.steps=many"], "steps: expected int, found 'many'", "expected int"),
    "a number for text": (["name=3"], "name: expected str, found 3", "expected str"),
    "yes for a number": (["seed=true"], "seed: expected int, found True", "expected int"),
    "one for a list": (["stages=3"], "stages: expected a list", "list"),
    "three for two": (["crop.width=[1, 2, 3]"], "crop: width: expected 2 values", "2 values"),
    "neither of two": (["label=both"], "label: 'both'", "one of distance, z"),
    # values
    "no data": (["data=[]"], "data is empty", "at least one"),
    "no stages": (["stages=[]"], "stages is empty", "at least one"),
    "no steps": (["stages.0.steps=0"], "stages[0]: steps is 0", "1 or more"),
    "no tokens": (["stages.0.tokens_per_batch=0"], "stages[0]: tokens_per_batch is 0", "1 or more"),
    "negative learning rate": (["stages.1.lr=-1"], "stages[1]: lr is -1", "positive"),
    "NaN for a learning rate": (["stages.0.lr=.nan"], "stages[0]: lr is nan", "positive"),
    "no clipping": (["stages.0.clip=0"], "stages[0]: clip is 0", "positive"),
    "warm-up all the way": (["stages.0.warmup=1"], "stages[0]: warmup is 1", "below 1"),
    "final learning rate above the peak": (["stages.0.final_lr=2"], "stages[0]: final_lr is 2", "from 0 to 1"),
    "negative weight decay": (["stages.0.weight_decay=-1"], "weight_decay is -1", "0 or more"),
    "negative word weight": (["stages.0.image_words=-1"], "image_words is -1", "0 or more"),
    "no focal length": (["focal=0"], "focal is 0", "positive"),
    "infinite focal length": (["focal=.inf"], "focal is inf", "positive"),
    "one coordinate": (["coordinate_range=1"], "coordinate_range is 1", "2 or more"),
    "negative seed": (["seed=-1"], "seed is -1", "0 or more"),
    "negative workers": (["workers=-1"], "workers is -1", "0 or more"),
    "never saved": (["save_every=0"], "save_every is 0", "1 or more"),
    "a crop inside out": (["crop.width=[9, 2]"], "crop width is (9, 2)", "low <= high"),
    "no pictures": (["data.0.pictures=0"], "data[0]: pictures is 0", "1 or more"),
    "adapters of rank 0": (["lora.rank=0"], "lora: rank is 0", "1 or more"),
    "nano too narrow for its heads": (["nano.hidden=50"], "nano: hidden is 50", "multiple of"),
    "an odd nano": (["nano.heads=3"], "nano: heads is 3", "even"),
    # weights
    "mixture of nothing": (["data.0.weight=0"], "gives everything weight 0", "positive"),
    "negative mixture": (["data.0.weight=-1"], "data[0]: weight is -1", "0 or more"),
    "references of nothing": (["stages.0.references={text: 0}"], "stages[0]: references: {'text': 0.0}", "positive"),
    "tasks of nothing": (["stages.0.tasks={}"], "stages[0]: tasks: {}", "positive"),
    "negative task": (["stages.0.tasks={distance: -1}"], "weight of distance is -1", "0 or more"),
    # names
    "unknown reference": (["stages.0.references={pencil: 1}"], "stages[0]: unknown reference 'pencil'", "arrow"),
    "unknown task": (["stages.0.tasks={guess: 1}"], "stages[0]: unknown task 'guess'", "distance"),
    "unknown prompt": (["prompt=riddle"], "unknown prompt 'riddle'", "depthlm"),
    "unknown mixture": (["mixture=soup"], "mixture: 'soup'", "uniform"),
    "unknown sharding": (["sharding=some"], "sharding: 'some'", "hybrid"),
    "unknown attention": (["vision_attention=quick"], "vision_attention: 'quick'", "one of sdpa, eager"),
    "attention that is not here": (
        ["vision_attention=flash_attention_2"], "vision_attention: flash_attention_2 needs", "set it to sdpa",
    ),
    "unknown model": (["model=nowhere/at-all"], "model: nowhere/at-all", "folder"),
    "a data folder for a model": (["model=DATA"], "model: DATA", "config.json is missing"),
    # settings that contradict each other
    "sharded Muon": (["sharding=full"], "muon works on whole matrices", "adamw"),
    "marker word without words": (
        ["stages.1.marker_word=true"], "stages[1]: marker_word needs image_words", "leave marker_word out",
    ),
    "two stages in one folder": (["stages.1.name=words"], "repeat", "folder"),
    "a stage in the model's place": (["stages.1.name=model"], "stages[1]: name is 'model'", "beside model/"),
    "a stage above its run": (["stages.1.name=../other"], "stages[1]: name is '../other'", "letters"),
    "text references without words for them": (
        ["prompt=depthlm-official"], "prompt 'depthlm-official' has no question for 'text'", "leave it out",
    ),
    "several markers without words for them": (
        ["stages.1.markers_per_image=2", "stages.0.references={arrow: 1}", "prompt=depthlm-official"],
        "stages[1]: markers_per_image is 2", "set it to 1",
    ),
    "words for a tokenizer that has none": (["model=TINY", "prompt=depthlm"], "image_words", "Leave it out"),
    "more passes than there is data": (["max_passes=0.1"], "max_passes=0.1", "raise it"),
    # data
    "missing data": (["data.0.path=/nowhere"], "/nowhere", "data[0]"),
    "missing held-out data": (["eval.path=/nowhere"], "/nowhere", "eval"),
    "a picture for data": (["data.0.path=PICTURE"], "PICTURE", "data[0]"),
    "rows that are none": (["data.0.path=ROWS", "data.0.label=z"], "ROWS:1", "expected image, intrinsics"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    places = {"DATA": folder / "data", "PICTURE": folder / "a.png", "ROWS": folder / "rows.jsonl"}
    write_shards([sample(seed) for seed in range(3)], places["DATA"])
    Image.new("RGB", (64, 48)).save(places["PICTURE"])
    places["ROWS"].write_text("{}\n")
    return places | {"TINY": build_tiny("qwen3_vl", folder / "tiny")}


def filled(text: str, places: dict[str, Path]) -> str:
    for name, path in places.items():
        text = text.replace(name, str(path))
    return text


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused(
    name: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of its own nothing appears; a run that is there stays as it is, told to change or not."""
    overrides, naming, mend = BAD[name]
    recipe = tmp_path / "r.yaml"
    recipe.write_text(filled(RECIPE, places))
    there = tmp_path / "there"
    (there / "words" / "checkpoint-3").mkdir(parents=True)
    (there / "recipe.yaml").write_text("name: another run\n")
    before = tree(tmp_path)
    changes = [filled(change, places) for change in overrides]
    for out in (tmp_path / "new", there):
        status, output, error = run(capsys, "train", recipe, *changes, "--change-recipe", "--out", out)
        assert (status, output) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        for part in (str(recipe), filled(naming, places), mend):
            assert part in error
    assert not (tmp_path / "new").exists()
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "naming"),
    [
        (None, "cannot be read"),
        ("name: [\n", "not valid YAML"),
        ("- a\n", "expected keys and values"),
        ("name: a\nmodel: m\n", "missing key data"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(
    text: str | None, naming: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    if text is not None:
        recipe.write_text(text)
    status, output, error = run(capsys, "train", recipe, "--out", tmp_path / "new")
    assert (status, output) == (2, "")
    assert str(recipe) in error
    assert naming in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
