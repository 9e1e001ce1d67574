"""The scripts in benchmarks/ keep the contract of DESIGN section 6, at sizes that take seconds."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from depthlm.data.readers.base import READERS
from depthlm.errors import InputError
from depthlm.models.chat import IGNORE
from depthlm.synth.generate import generate
from depthlm.training.dataset import WORDS_PER_DECADE
from depthlm.training.recipe import load_recipe
from depthlm.training.run import start_model
from depthlm.training.stage import open_source, stage_rows

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = [
    "focal=64", "nano.vision_layers=1", "nano.vision_hidden=48", "nano.vision_heads=2",
    "nano.hidden=48", "nano.layers=1", "nano.heads=2",
    "crop={width: [32, 64], height: [32, 48], position: jitter, flip: 0.5}",
]  # fmt: skip


@pytest.fixture
def script(monkeypatch):
    """Import a script the way Python runs it: with its own folder on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    for name, seed in (("train", 0), ("val", 7)):
        generate(folder / name, scenes=2, seed=seed, views=2, size=(64, 48), points=60, focal_range=(50, 80))
    return folder


def control_arguments(rooms, *more):
    return [
        "--json", "--quick", "--data", str(rooms / "train"), "--val", str(rooms / "val"), "--images", "48",
        "--batch", "4", "--points", "50", *more, *SMALL,
    ]  # fmt: skip


def read(capsys):
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one object and nothing else"
    result = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert {"headline", "checks", "config", "versions"} <= set(result)
    assert result["checks"]
    assert all(isinstance(value, bool) for value in result["checks"].values())
    return result


@pytest.mark.parametrize(
    ("figures", "status", "shown"),
    [
        ({"headline": {"x": np.float64(2)}, "checks": {"a": True}, "config": {}}, 0, 2.0),
        ({"headline": {"x": float("nan")}, "checks": {"a": True, "b": False}, "config": {}}, 1, None),
        ({"headline": {"x": np.float32("inf")}, "checks": {"a": np.bool_(False)}, "config": {}}, 1, None),
    ],
)
def test_the_exit_status_says_whether_every_check_holds(script, capsys, figures, status, shown):
    common = script("common")
    assert common.run(common.parser("x"), lambda arguments: dict(figures), ["--json"]) == status
    assert read(capsys)["headline"]["x"] == shown
    assert common.run(common.parser("x"), lambda arguments: dict(figures), []) == status
    table = capsys.readouterr().out
    assert "checks.a" in table
    assert ("FAILED" in table) == (status == 1)


def test_bad_input_is_one_line_and_status_2(script, capsys):
    common = script("common")

    def refuse(arguments):
        raise InputError("no such thing; mend it")

    assert common.run(common.parser("x"), refuse, ["--json"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1


def test_raycaster(script, capsys):
    status = script("raycaster").main(["--json", "--size", "32", "24", "--repeats", "1", "--rtree-rays", "5"])
    result = read(capsys)
    assert status == 0, result["checks"]
    assert result["headline"]["embreex_over_trimesh_wrapper"] > 0
    assert result["config"]["rays"] == 32 * 24


def test_raycasters_that_disagree_fail(script, capsys, monkeypatch):
    raycaster = script("raycaster")
    honest = raycaster.casters

    def skewed(scene, pose):
        direct, wrapper, rtree = honest(scene, pose)
        return direct, lambda origins, directions: wrapper(origins, directions) * 1.0005, rtree

    monkeypatch.setattr(raycaster, "casters", skewed)
    assert raycaster.main(["--json", "--size", "32", "24", "--repeats", "1", "--rtree-rays", "5"]) == 1
    assert read(capsys)["checks"]["wrapper_gives_the_same_z"] is False


def test_dense_control_goes_on_from_its_checkpoint(script, capsys, monkeypatch, rooms, tmp_path):
    control = script("dense_control")
    status = control.main(control_arguments(rooms))
    whole = read(capsys)
    assert status == int(not all(whole["checks"].values()))
    assert whole["n"] == 50
    assert whole["config"]["images"] == 48
    assert 0 <= whole["floor_delta1"] <= 1

    save, saves = control.Run._save, []

    def interrupt(self, *given):
        save(self, *given)
        saves.append(self.images)
        if len(saves) == 2:
            raise RuntimeError("stop")

    resumed = control_arguments(rooms, "--checkpoint", str(tmp_path / "control.pt"))
    with monkeypatch.context() as patch:
        patch.setattr(control, "SAVE_SECONDS", 0.0)
        patch.setattr(control.Run, "_save", interrupt)
        with pytest.raises(RuntimeError, match="stop"):
            control.main(resumed)
    assert saves == [4, 8], "interrupted within the first stage"
    control.main(resumed)
    again = read(capsys)
    assert again["train_loss"] == pytest.approx(whole["train_loss"], abs=1e-6)
    assert again["delta1"] == whole["delta1"]
    assert control.main([*resumed, "seed=1"]) == 2, "a checkpoint of another recipe is refused"


def test_control_sees_the_views_and_labels_of_the_words(script, rooms):
    control = script("dense_control")
    recipe = load_recipe(control.RECIPE, SMALL)
    recipe.data[0].path, recipe.data[0].synth = str(rooms / "train"), None
    sources = [open_source(source, print) for source in recipe.data]
    loaded = start_model(recipe, sources)
    recipe.stages = [control.replace(recipe.stages[0], references={"text": 1.0})]  # no marker: the view as it is
    rows = stage_rows(recipe, recipe.stages[0], loaded, sources)
    compared = 0
    for index in range(8):
        row, (view, cells) = rows[index], rows.view_and_cells(index)
        pixels = loaded.processor.encode_images([view.image])["pixel_values"]
        if len(row.images["image_grid_thw"]) == 2:
            continue  # about two pictures: the control sees the first of them, cropped as if it stood alone
        compared += 1
        assert (row.images["pixel_values"] == pixels).all()
        known = np.isfinite(cells.ravel())
        assert known.any()
        assert (np.array(row.words) != IGNORE).tolist() == known.tolist()
        said = [float(loaded.processor.tokenizer.decode([word])) for word in np.array(row.words)[known]]
        # A word is the nearest of WORDS_PER_DECADE numbers a decade, itself written with two digits.
        assert np.abs(np.log10(said / cells.ravel()[known])).max() < 0.5 / WORDS_PER_DECADE + 0.02
    assert compared >= 4


def test_index_scale(script, capsys):
    status = script("index_scale").main(["--json", "--quick", "--draws", "5"])
    result = read(capsys)
    assert result["checks"]["every_row_has_its_labels"]
    assert status == int(not all(result["checks"].values()))
    assert result["sizes"]["250000"]["rows"] == 250_000


def test_a_loader_that_keeps_everything_fails_the_check(script, capsys, monkeypatch):
    index_scale = script("index_scale")
    worker = index_scale.WORKER.replace("labels = 0", "labels = 0; kept = bytearray(300 * len(data))")
    monkeypatch.setattr(index_scale, "WORKER", worker)
    assert index_scale.main(["--json", "--quick", "--draws", "1"]) == 1
    assert read(capsys)["checks"]["growth_at_most_32_mb"] is False


def test_curation(script, capsys, tmp_path):
    status = script("curation").main(["--json", "--quick", "--no-ray", "--frames", "4", "--samples", str(tmp_path)])
    result = read(capsys)
    assert status == 0, result["checks"]
    assert result["headline"]["two_processes_against_one"] > 0
    assert result["readers_frames_per_s_per_core"] == {}
    assert result["readers_not_timed"] == dict.fromkeys(READERS, "no sample")


def test_every_reader_with_a_whole_frame_is_timed(script, samples_dir):
    timed, untimed = script("curation").time_readers(samples_dir, 0.01)
    assert sorted([*timed, *untimed]) == sorted(READERS)
    assert min(timed.values()) > 0
    lacking = {
        "argoverse2": "no picture", "diode": "no train or val/", "eth3d": "no <scene>/dslr_calibration_jpg",
        "hypersim": "color.hdf5: cannot read", "matterport3d": "no <scene>/undistorted_camera_parameters",
        "stray": "no sample", "waymo": "the sample/lidar/",
    }  # fmt: skip
    assert untimed.keys() == lacking.keys()
    for name, words in lacking.items():
        assert words in untimed[name]


def test_nano_starts(script, capsys, tmp_path):
    arguments = ["--json", "--quick", "--ways", "recipe,questions-only", "--points", "20", "--out", str(tmp_path)]
    assert script("nano_starts").main(arguments) == 0
    result = read(capsys)
    ways = result["ways"]
    assert "word_loss" in ways["recipe"]["curve"][0]
    assert "word_loss" not in ways["questions-only"]["curve"][0]
    assert set(result["headline"]) == {"gain_over_questions_only"}
    assert (tmp_path / "nano-starts.png").stat().st_size > 5000
    assert script("nano_starts").main(["--ways", "luck"]) == 2


def test_packing(script, capsys):
    assert script("packing").main(["--json", "--quick", "--counts", "1,2", "--repeats", "1"]) == 0
    result = read(capsys)
    assert result["headline"]["shared_over_unpacked_short"] > 0
    assert all(result["checks"].values())
    assert set(result["questions_per_s"]["vlm3"]["2"]) == {"shared", "turns", "unpacked"}
    saved = result["operations_unpacked_over_shared"]
    assert saved["short"]["1"] == saved["vlm3"]["1"] == 1
    assert 1 < saved["vlm3"]["2"] < saved["short"]["2"] < 2
    assert script("packing").main(["--quick", "--counts", "two"]) == 2


def test_training(script, capsys):
    assert script("training").main(["--json", "--quick", "--questions", "3", "--repeats", "1"]) == 0
    result = read(capsys)
    assert result["headline"]["points_over_plain_short"] > 0
    assert result["checks"]["vlm3_gradients_equal"]
    assert script("training").main(["--quick", "--prompts", "long"]) == 2


def test_plan(script, capsys):
    plan = script("plan")
    assert plan.main(["--json", "--quick"]) == 0
    result = read(capsys)
    assert {"recorded_pixtral_12b", "qwen3vl_50m_all"} <= set(result)
    assert result["qwen3vl_50m_all"]["measured"]["peak_gb"] > 0
    far = {"planned": {"parameters": 100, "peak_gb": 1.0}, "measured": {"parameters": 105, "peak_gb": 1.4}}
    assert plan.judge({"a": far}, ["a"])["checks"] == {"a_parameters_within_10_%": True, "a_peak_within_25_%": False}
    assert plan.main(["--quick", "--gpu-models", "qwen9"]) == 2


def test_training_by_another_loss_fails(script, capsys, monkeypatch):
    training = script("training")
    honest = training.answer_loss

    def lower(model, batch):
        loss, parts = honest(model, batch)
        return 0.99 * loss, parts

    monkeypatch.setattr(training, "answer_loss", lower)
    arguments = ["--json", "--quick", "--questions", "2", "--repeats", "1", "--prompts", "short"]
    assert training.main(arguments) == 1
    assert read(capsys)["checks"]["short_loss_equal"] is False


def test_patches(script, capsys):
    assert script("patches").main(["--json", "--quick", "--repeats", "1"]) == 0
    result = read(capsys)
    assert result["headline"]["nano_forward_over_ours"] > 0
    assert result["checks"] == {"nano_equal": True, "pinned_equal": True}
    assert script("patches").main(["--quick", "--repeats", "0"]) == 2


def test_patches_embedded_otherwise_fail(script, capsys, monkeypatch):
    patches = script("patches")
    honest = patches.PatchEmbedding.forward
    monkeypatch.setattr(patches.PatchEmbedding, "forward", lambda self, given: 1.001 * honest(self, given))
    assert patches.main(["--json", "--quick", "--repeats", "1"]) == 1
    assert read(capsys)["checks"] == {"nano_equal": False, "pinned_equal": False}


def test_maps(script, capsys):
    assert script("maps").main(["--json", "--quick", "--repeats", "1", "--budget", "30"]) == 0
    result = read(capsys)
    assert result["headline"]["pinned_anew_over_once"] > 0
    assert 0 < result["headline"]["share_that_is_not_asking"] < 1
    assert result["checks"] == {"nano_answers_equal": True, "pinned_answers_equal": True}
    assert script("maps").main(["--quick", "--budget", "0"]) == 2


def test_maps_whose_answers_depend_on_it_fail(script, capsys, monkeypatch):
    maps = script("maps")
    honest = maps.Engine.measure

    def forgetful(self, *given, like=None, **options):
        found = honest(self, *given, like=like, **options)
        return found if like is None else replace(found, text=["?"] * len(found.text))

    monkeypatch.setattr(maps.Engine, "measure", forgetful)
    assert maps.main(["--json", "--quick", "--repeats", "1", "--budget", "30"]) == 1
    assert read(capsys)["checks"] == {"nano_answers_equal": False, "pinned_answers_equal": False}


def test_metrics(script, capsys, tmp_path):
    arguments = ["--json", "--quick", "--points", "20000", "--draws", "50", "--samples", str(tmp_path)]
    status = script("metrics").main(arguments)
    result = read(capsys)
    assert status == 0, result["checks"]
    assert result["headline"]["faster_than_plain_loop"] > 1
    assert result["blur"]["corridor_04"] == "no sample"


def test_metrics_that_differ_from_the_loop_fail(script, capsys, monkeypatch, tmp_path):
    metrics = script("metrics")
    honest = metrics.plain_figures
    monkeypatch.setattr(metrics, "plain_figures", lambda p, g: honest(p, g) | {"rmse": honest(p, g)["rmse"] * 1.001})
    arguments = ["--json", "--quick", "--points", "20000", "--draws", "10", "--samples", str(tmp_path)]
    assert metrics.main(arguments) == 1
    assert read(capsys)["checks"]["equal_to_plain_loop"] is False


def test_markers(script, capsys):
    assert script("markers").main(["--json", "--quick", "--counts", "1,3", "--points", "6"]) == 0
    result = read(capsys)
    assert set(result["markers"]) == {"1", "3"}
    assert result["markers"]["3"]["n"] == 12
    assert script("markers").main(["--quick", "--counts", "none"]) == 2


def test_points(script, capsys):
    assert script("points").main(["--json", "--quick", "--points", "6", "--plain", "1", "--growth", "1,4"]) == 0
    result = read(capsys)
    assert result["headline"]["forced_over_plain"] > 1
    assert result["checks"]["qwen3vl_50m_free_is_plain"]
    assert script("points").main(["--quick", "--growth", "few"]) == 2


def test_flying(script, capsys):
    flying = script("flying")
    assert flying.main(["--json", "--quick", "--references", "text"]) == 0
    found = json.loads(capsys.readouterr().out)["references"]["text"]
    assert found["counts"]["edge"] + found["counts"]["away"] + 24 * found["counts"]["planes"] == found["points"]["n"]
    assert found["flying"]["at_edges_between"]["value"] <= found["flying"]["at_edges"]["value"]
    assert [row["place"] for row in found["points"]["by_edge"]] == ["interior", "boundary"]
    assert flying.main(["--quick", "--references", "pencil"]) == 2
    capsys.readouterr()
    (room,) = flying.synth_rendered(1, seed=flying.SEED + 1, views=1)
    uv, kind = flying.choose_pixels(room, 12, np.random.default_rng(0))
    sample = flying.to_sample(room, uv)
    true = flying.flights(room, sample, kind, list(enumerate(sample.z)))
    assert true["planes"] == 1
    assert (true["edge_flies"], true["away_flies"], round(true["rough"], 3), round(true["turned"])) == (0, 0, 0, 0)
    double = flying.flights(room, sample, kind, list(enumerate(1000 * sample.z)))
    assert (double["edge_flies"], double["edge_between"]) == (double["edge"], 0)
    assert double["away_flies"] == double["away"] > 0


def test_readings(script, capsys):
    readings = script("readings")
    assert readings.main(["--json", "--quick"]) == 0
    result = read(capsys)
    assert set(result["readings"]) == {"greedy", "median", "mean", "best"}
    assert result["readings"]["greedy"]["n"] == 120
    assert 0 < result["coverage"]["own"] <= 1
    assert readings.main(["--quick", "--reference", "pencil"]) == 2
    assert readings.distinct(np.repeat([1.0, 2.0, 3.001, 3.0], 50)) == 3


def test_workers(script, capsys):
    assert script("workers").main(["--json", "--quick", "--workers", "1,2"]) == 0
    result = read(capsys)
    assert set(result["images_per_s"]["0.3"]) == {"in_turn", "1", "2"}
    assert script("workers").main(["--quick", "--megapixels", "large"]) == 2


def test_loader(script, capsys, tmp_path):
    assert script("loader").main(["--json", "--quick", "--rounds", "1", "--samples", str(tmp_path)]) == 0
    result = read(capsys)
    assert not result["config"]["photographs"]
    assert result["headline"]["samples_over_plain"] > 0
    assert set(result["labelled_points_per_s"]["shards"]) == {"1", "10"}
    assert script("loader").main(["--quick", "--rounds", "0"]) == 2


def test_a_loader_with_other_pixels_fails(script, capsys, monkeypatch, tmp_path):
    loader = script("loader")
    honest = loader.make_training_view

    def brighter(*given, **options):
        view = honest(*given, **options)
        return replace(view, image=view.image.point(lambda level: min(255, level + 2)))

    monkeypatch.setattr(loader, "make_training_view", brighter)
    assert loader.main(["--json", "--quick", "--rounds", "1", "--samples", str(tmp_path)]) == 1
    checks = read(capsys)["checks"]
    assert checks["jsonl_pixels_within_one_grey_level"] is False


@pytest.mark.slow
def test_page_load(script, capsys, monkeypatch):
    page_load = script("page_load")
    status = page_load.main(["--json", "--quick"])
    result = read(capsys)
    assert (status, result["checks"]) == (0, dict.fromkeys(result["checks"], True)), result
    assert result["headline"]["median_s"] > 0
    assert result["burst"]["refused"] > 0
    assert page_load.main(["--quick", "--clients", "0"]) == 2


def test_a_page_that_grows_or_errs_fails_the_check(script, capsys, monkeypatch):
    page_load = script("page_load")

    def grows(self, warm_up, seconds):
        self.took, self.memory, self.errors = [0.1, 0.2], (100.0, 111.0), ["no figure"]

    monkeypatch.setattr(page_load.Load, "run", grows)
    monkeypatch.setattr(page_load, "app_python", lambda folder: folder)
    monkeypatch.setattr(page_load, "serving", lambda *given: contextlib.nullcontext(("", 0)))
    monkeypatch.setattr(page_load, "all_at_once", lambda url, clicks: {
        "clicks": clicks, "answered": clicks, "refused": 0, "words": [], "answers_afterwards": True,
    })  # fmt: skip
    assert page_load.main(["--json", "--quick"]) == 1
    failed = {name for name, held in read(capsys)["checks"].items() if not held}
    assert failed == {"no_error", "memory_grew_by_at_most_a_tenth", "beyond_the_queue_refused_in_words"}
