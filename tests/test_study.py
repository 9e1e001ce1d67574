"""Ablation studies: the plan of the repository, what differs and by how much, parts of data sets, words read off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cli_runner import run
from depthlm.data.part import Part
from depthlm.errors import InputError
from depthlm.inference.words import read_words, sample_cells
from depthlm.models.loading import load_model
from depthlm.study.figures import study_figures
from depthlm.study.plan import digest, load_plan
from depthlm.study.run import run_study
from depthlm.synth.generate import synth_samples
from depthlm.view import ViewConfig, make_view

STUDY = Path(__file__).parents[1] / "recipes" / "study"
NANO = STUDY.with_name("study-nano")


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, "smoke"])
def test_the_repositorys_study_can_run(size: str | None) -> None:
    """Every recipe of every arm resolves; equal arms of different questions are one."""
    plan = load_plan(STUDY, size)
    assert list(plan.questions) == plan.study.questions == list("bahegif")
    keys = {letter: arms for letter, (_, arms) in plan.questions.items()}
    assert keys["b"]["f 160"] == keys["h"]["f 160"] == keys["e"]["5 questions"]
    assert keys["a"]["text"] == keys["e"]["1 question"]
    assert len({arm.key for arm in plan.arms}) == len(plan.arms)
    for arm in plan.arms:
        recipe = plan.arm_recipe(arm, 7, "base")
        assert (recipe.seed, recipe.model) == (7, "base")
        assert sum(stage.steps * stage.batch for stage in recipe.stages) == (128 * 64 if size is None else 2), arm.name


@pytest.mark.parametrize("size", [None, "smoke"])
def test_the_study_from_nano_can_run(size: str | None) -> None:
    """Arms are trained on as many pictures, but for the one that is given an eighth; the base itself is not trained."""
    plan = load_plan(NANO, size)
    assert plan.base_recipe() is None
    assert plan.base_model(Path("out")) == "nano"
    keys = {letter: arms for letter, (_, arms) in plan.questions.items()}
    assert keys["j"]["answers alone"] == keys["d"]["answers"] == keys["k"]["imitation"]
    assert (
        keys["h"]["nano"]
        == keys["g"]["nano"]
        == keys["j"]["nano"]
        == keys["c"]["untrained"]
        == keys["a"]["nano"]
        == keys["b"]["nano"]
    )
    steps = {}
    for arm in plan.arms:
        (stage,) = plan.arm_recipe(arm, 0, "nano").stages
        steps[arm.name] = stage.steps
        assert plan.seeds(arm) == (plan.study.seeds if arm.changes is not None else [0])
    assert steps.pop("reward, an eighth") * (8 if size is None else 2) == steps["reward"]
    assert len(set(steps.values())) == 1
    c, _ = plan.questions["c"]
    if size is None:
        labels = {arm["data.0.pictures"] * arm["data.0.labels_per_picture"] for arm in c.arms.values() if arm}
        assert labels == {900}


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("study.yaml", {"base": {}}, "base needs either a model or a recipe"),
        ("study.yaml", {"base": {"model": "nano", "recipe": "base.yaml"}}, "base needs either a model or a recipe"),
        ("study.yaml", {"seeds": []}, "seeds and questions need at least one entry"),
        ("study.yaml", {"colour": "red"}, "colour"),
        ("study.yaml", {"questions": ["b", "q"]}, "q.yaml: cannot be read"),
        ("b.yaml", {"arms": {}}, "arms is empty"),
        ("b.yaml", {"arms": {"one": {"fokal": 3}}}, "fokal"),
        ("b.yaml", {"tests": {"far": {"data": "moon"}}}, "held-out data 'moon' is not in study.yaml"),
        ("i.yaml", {"tests": {"asked": {"reference": "finger"}}}, "finger"),
        ("i.yaml", {"tests": {"asked": {"only": ["nobody"]}}}, "only names nobody"),
    ],
)
def test_a_plan_that_cannot_be(
    file: str, change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in STUDY.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = yaml.safe_load((tmp_path / file).read_text())
    (tmp_path / file).write_text(yaml.safe_dump(values | change))
    status, _, stderr = run(capsys, "study", tmp_path, "--out", tmp_path / "out")
    assert status == 2
    assert words in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


# --- figures ----------------------------------------------------------------------------------------------------------


def lines_of(plan: Any, arm: str, hits: list[list[int]]) -> list[dict[str, Any]]:
    """One line a seed: hits of each of ten rooms, ten points asked in each."""
    facts = {"pictures": 1, "tokens_per_picture": 2.0, "questions_per_picture": 1.0, "absrel": 0.1, "bias": 0.0}
    key = plan.questions["b"][1][arm]
    return [
        facts | {"arm": key, "test": "rooms", "seed": seed, "unread": 0, "delta1": sum(row) / 100, "hits": row,
                 "asked": [10] * 10}
        for seed, row in enumerate(hits)
    ]  # fmt: skip


def test_what_differs_by_hand() -> None:
    """One arm two hits a room above the first in every seed: an effect; one that is better and worse by turns: none."""
    plan = load_plan(STUDY)
    first = [[5] * 10, [6] * 10, [5, 6] * 5]
    better = [[hits + 2 for hits in row] for row in first]
    mixed = [[6] * 10, [5] * 10, [5, 6] * 5]
    lines = lines_of(plan, "f 160", first) + lines_of(plan, "none", better) + lines_of(plan, "f 80", mixed)
    found = study_figures(plan, [*lines, *lines_of(plan, "f 240", first[:2])])
    renamed = [line | {"arm": f"first-{digest(line['arm'])}"} for line in lines]
    assert study_figures(plan, renamed)["questions"] == study_figures(plan, lines)["questions"]
    rows = {row["arm"]: row for row in found["questions"]["b"]["rows"] if row["test"] == "rooms"}
    assert set(rows) == {"f 160", "none", "f 80"}
    assert rows["f 160"]["delta1"] == pytest.approx((50 + 60 + 55) / 300, abs=1e-4)
    assert rows["none"]["difference"] == pytest.approx(0.2)
    assert rows["none"]["difference_ci"] == pytest.approx([0.2, 0.2])
    assert rows["none"]["effect"] is True
    assert rows["f 80"]["difference"] == pytest.approx(0, abs=1e-9)
    assert rows["f 80"]["effect"] is False
    assert "b: f 240, rooms" in found["missing"]


def test_the_base_itself_is_run_once() -> None:
    """Its one run stands against every seed of a trained arm, on the same points only."""
    plan = load_plan(NANO)
    facts = {"absrel": 0.1, "bias": 0.0, "unread": 0, "asked": [10] * 10}
    found = {"answers alone": [[6] * 10, [7] * 10, [8] * 10], "nano": [[5] * 10]}
    lines = [
        facts | {"arm": plan.questions["j"][1][name], "test": test, "seed": seed, "hits": row, "delta1": sum(row) / 100}
        for name, runs in found.items()
        for seed, row in enumerate(runs)
        for test in ("streets", *(("rooms", "rooms-words") if name == "nano" else ()))
    ]
    rows = {(row["arm"], row["test"]): row for row in study_figures(plan, lines)["questions"]["j"]["rows"]}
    nano = rows["nano", "asked"]
    assert nano["against"] == ["answers alone", "asked"]
    assert nano["difference"] == pytest.approx(-0.2)
    assert nano["difference_ci"][0] < -0.2 < nano["difference_ci"][1] < 0
    assert nano["effect"] is True
    assert nano["pictures"] is None
    assert rows["nano", "rooms, read in one pass"]["against"] == ["nano", "rooms, asked"]
    assert "against" not in rows["nano", "rooms, asked"]


def test_arms_beside_the_first_stand_against_each_other() -> None:
    """Two arms that learn elsewhere and are tested there: the second against the first of them."""
    plan = load_plan(NANO)
    facts = {"absrel": 0.1, "bias": 0.0, "unread": 0, "asked": [10] * 10, "test": "rooms"}
    found = {"rooms, 1 token": [8] * 10, "rooms, two decimals": [7] * 10}
    lines = [
        facts | {"arm": plan.questions["g"][1][name], "seed": seed, "hits": hits, "delta1": sum(hits) / 100}
        for name, hits in found.items()
        for seed in range(3)
    ]
    first, second = study_figures(plan, lines)["questions"]["g"]["rows"]
    assert "against" not in first
    assert second["against"] == ["rooms, 1 token", "rooms"]
    assert second["difference"] == pytest.approx(-0.1)


def test_only_what_is_missing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that was added later is run of every arm that has it, and nothing else is.

    Nor is an arm that another question named first when it was run.
    """
    plan = load_plan(NANO, "smoke")
    wanted = {(arm.key, seed, test) for arm in plan.arms for seed in plan.seeds(arm) for test in arm.tests}
    missing = {line for line in wanted if line[2] == "rooms-native" or line[1] == 1}
    asked = []

    def run_job(job: Any, report: Any) -> list[dict[str, Any]]:
        asked.extend((job.arm.key, job.seed, test) for test in job.tests)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("depthlm.study.run.run_job", run_job)
    monkeypatch.setattr("depthlm.study.run.open_source", lambda source, report: None)
    keys = ("arm", "seed", "test")
    named_otherwise = [(f"first-{digest(arm)}", seed, test) for arm, seed, test in sorted(wanted - missing)]
    lines = [json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in named_otherwise]
    (tmp_path / "runs.jsonl").write_text("".join(lines))
    run_study(plan, tmp_path)
    assert set(asked) == missing
    assert len(asked) == len(missing)


# --- parts, words -----------------------------------------------------------------------------------------------------


def test_a_part_is_the_same_every_time() -> None:
    rooms = list(synth_samples(6, seed=9_200_002, views=1, points=60))
    part, held = (Part(rooms, pictures=3, labels=5, in_memory=held) for held in (False, True))
    assert len(part) == 3
    assert part.rows == [0, 2, 4]
    for number in range(3):
        whole, sample = rooms[part.rows[number]], part[number]
        assert len(sample) == 5
        np.testing.assert_array_equal(sample.uv, held[number].uv)
        rows = [int(np.flatnonzero((whole.uv == uv).all(axis=1))[0]) for uv in sample.uv]
        np.testing.assert_array_equal(sample.z, whole.z[rows])
        assert sample.surface == tuple(whole.surface[row] for row in rows)
        np.testing.assert_array_equal(sample.near_edge, whole.near_edge[rows])
        np.testing.assert_array_equal(sample.incidence, whole.incidence[rows])
    with pytest.raises(InputError, match="holds 6 pictures, fewer than the 7"):
        Part(rooms, pictures=7)


def test_cells_between_their_centres() -> None:
    """Two cells side by side, 1 and 4 m: their geometric mean half-way, constant beyond the centres."""
    cells = np.array([[1.0, 4.0]])
    value = sample_cells(cells, [[7.5, 3.0], [15.5, 15.0], [23.5, 0.0], [0.0, 0.0], [31.0, 9.0]], 16)
    assert value == pytest.approx([1, 2, 4, 1, 4])


def test_words_are_read_in_one_pass() -> None:
    """nano says a number word at every image token; it was trained to, so the words are right more often than not."""
    loaded = load_model("nano")
    (room,) = synth_samples(1, seed=9_200_003, views=1, points=200)
    config: ViewConfig = loaded.view_config
    view = make_view(room.load_image(), room.camera, room.uv, config=config)
    cells = read_words(loaded, view)
    assert cells.shape == (view.image.height // config.grid, view.image.width // config.grid)
    ratio = sample_cells(cells, view.uv, config.grid) / room.distance
    assert float((np.maximum(ratio, 1 / ratio) < 1.25).mean()) > 0.5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("folder", [STUDY, NANO])
def test_the_whole_study_at_a_small_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `make study STUDY=smoke` does, and again: nothing is trained twice."""
    monkeypatch.chdir(tmp_path)
    status, out, errors = run(capsys, "study", folder, "--size", "smoke", "--out", tmp_path / "out", "--json")
    assert status == 0, errors
    found = json.loads(out)
    assert found["missing"] == []
    for question in found["questions"].values():
        for row in question["rows"]:
            assert len(row["by_seed"]) == (1 if question["arms"][row["arm"]] is None else 2)
    for letter in found["questions"]:
        assert (tmp_path / "out" / f"{letter}.json").is_file()
        assert (tmp_path / "out" / f"study-{letter}.png").is_file()
    before = (tmp_path / "out" / "runs.jsonl").read_bytes()
    status, _, errors = run(capsys, "study", folder, "--size", "smoke", "--out", tmp_path / "out", "--json")
    assert (status, (tmp_path / "out" / "runs.jsonl").read_bytes()) == (0, before), errors
    assert "stage" not in errors


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_arm_that_fails_does_not_end_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "study"
    folder.mkdir()
    for path in NANO.glob("*.yaml"):
        (folder / path.name).write_bytes(path.read_bytes())
    values = yaml.safe_load((folder / "smoke.yaml").read_text())
    (folder / "smoke.yaml").write_text(yaml.safe_dump(values | {"seeds": [0], "questions": ["d"], "arms": {}}))
    arms = {"too fast": {"stages.0.lr": 1e30, "stages.0.warmup": 0.0}, "answers": {}}
    (folder / "d.yaml").write_text(yaml.safe_dump({"question": "?", "says": "", "arms": arms}))
    status, _, errors = run(capsys, "study", folder, "--size", "smoke", "--out", tmp_path / "out", "--streams", 2)
    assert status == 2
    assert "loss" in errors.strip().splitlines()[-1]
    (line,) = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "answers"
