"""Whole pictures mapped by whoever answers, and several runs on one page: nano's place is taken by made-up models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_runner import run
from depthlm.camera import Camera
from depthlm.data.shards import write_shards
from depthlm.errors import InputError
from depthlm.evaluation.compare_tables import dense_section
from depthlm.evaluation.dense import MapConfig, failed_maps, map_pictures, planar_regions, read_cases, truths
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.maps import MAP_FIGURES, measure_maps
from depthlm.inference.bounds import ConstantBackend
from depthlm.inference.rival import RivalBackend
from depthlm.rivals.file import open_file
from test_rivals import made_up, samples

SOURCE = "synth:9300600"
CONFIG = MapConfig(source=SOURCE, pictures=2, budget=20)
RIVAL = """
import numpy as np
def load(model, device):
    return float(model)
def infer(factor, image, camera):
    v, u = np.mgrid[: image.height, : image.width]
    return factor * (2 + u / (image.width / 2) + v / (image.height / 2))
"""


def knows(factor: float = 1.0, lacks: tuple[int, ...] = ()) -> RivalBackend:
    """The truth of the rendered pictures, times a factor."""
    known = {case.image.tobytes(): case.truth for k, case in enumerate(truths(CONFIG)) if k not in lacks}
    return RivalBackend(made_up(lambda image, camera: factor * known[image.tobytes()]))


def test_maps_are_measured_against_their_truth(tmp_path):
    assert map_pictures(knows(), CONFIG, tmp_path) == []
    cases = read_cases(tmp_path)
    assert [case.name for case in cases] == [case.name for case in truths(CONFIG)]
    found = measure_maps(cases)["figures"]
    assert (found["flying_rate"]["value"], found["boundary_f1"]["value"]) == (0.0, 1.0)
    assert found["orientation_deg"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["accuracy_m"]["value"] < 0.02  # of each cloud, other points are drawn
    map_pictures(knows(1.5), CONFIG, tmp_path / "far")
    assert measure_maps(read_cases(tmp_path / "far"))["scalars"]["scale"]["value"] == pytest.approx(1.5, rel=1e-3)


def test_who_is_asked_point_by_point_is_mapped_too(tmp_path):
    map_pictures(ConstantBackend("2.5"), CONFIG, tmp_path)
    for case in read_cases(tmp_path):  # a distance of 2.5 everywhere is a sphere
        assert case.predicted.max() == pytest.approx(2.5, abs=0.15)
        assert case.predicted.min() < 2.3  # at the corners


def test_a_map_that_fails_leaves_the_others_and_they_are_not_made_again(tmp_path):
    (line,) = map_pictures(knows(lacks=(0,)), CONFIG, tmp_path)
    assert "raised KeyError" in line
    assert failed_maps(tmp_path) == [line]
    assert failed_maps(tmp_path / "maps") == []
    assert len(read_cases(tmp_path)) == 1
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert map_pictures(knows(), CONFIG, tmp_path) == []
    assert len(read_cases(tmp_path)) == 2
    assert all(path.stat().st_mtime_ns == at for path, at in made.items())
    with pytest.raises(InputError, match="holds maps with another budget; give another --out"):
        map_pictures(knows(), MapConfig(source=SOURCE, pictures=2, budget=30), tmp_path)
    with pytest.raises(InputError, match="holds maps with another backend, given"):
        map_pictures(ConstantBackend("2.5"), CONFIG, tmp_path)
    with pytest.raises(InputError, match="no picture was mapped .*raised KeyError"):
        map_pictures(knows(lacks=(0, 1)), CONFIG, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    next(iter(made)).write_bytes(b"no maps")
    with pytest.raises(InputError, match="cannot be read"):
        read_cases(tmp_path)


def test_maps_of_a_folder_with_a_coarser_truth(tmp_path):
    """The map is taken to the truth's grid."""
    root = tmp_path / "mine"
    for name in ("images", "depth"):
        (root / name).mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(root / "images/a.png")
    np.save(root / "depth" / "a.npy", np.full((40, 50), 3.0))
    (root / "camera.json").write_text(json.dumps(Camera(90.0, 90.0, 49.5, 39.5, 100, 80).to_dict()))
    flat = RivalBackend(made_up(lambda image, camera: np.full((80, 100), 3.0)))
    map_pictures(flat, MapConfig(source=f"folder:{root}"), tmp_path / "run")
    (case,) = read_cases(tmp_path / "run")
    assert case.truth.shape == case.predicted.shape == (40, 50)
    assert (case.camera.fx, case.image.size) == (45.0, (50, 40))
    assert measure_maps([case])["figures"]["planarity_m"]["value"] == pytest.approx(0, abs=1e-6)


def test_smooth_surfaces_are_told_apart():
    camera = Camera(100.0, 100.0, 49.5, 39.5, 100, 80)
    z = np.full((80, 100), 4.0)
    z[:, 50:] = 2.0  # a step between two walls that face the camera
    regions = planar_regions(z, camera)
    assert regions[40, 20] != regions[40, 80]
    assert 0 not in (regions[40, 20], regions[40, 80])
    v = np.mgrid[:80, :100][0]
    floor = np.where(v > 50, 1.0 * 100 / (v - 39.5).clip(1), 9.0)  # a floor 1 m below, a wall behind
    regions = planar_regions(floor, camera)
    assert regions[70, 50] != regions[20, 50]
    assert 0 not in (regions[70, 50], regions[20, 50])
    assert not planar_regions(np.random.default_rng(0).uniform(1, 9, (80, 100)), camera).any()


def test_a_picture_that_one_model_lacks_is_left_out_for_all():
    cases = list(truths(CONFIG))

    def said(factor: float, lacks: int = -1) -> list[Any]:
        none = np.full_like(cases[0].truth, np.nan)
        return [replace(c, predicted=none if k == lacks else factor * c.truth) for k, c in enumerate(cases)]

    (section,), found = dense_section(["a", "b", "c"], [said(1), said(1.1, lacks=0), []])
    assert [len(one["cases"]) for one in found["maps"].values()] == [1, 1]
    assert found["maps"]["a"]["cases"][0]["name"] == cases[1].name
    told = [part for part in section.parts if isinstance(part, str)]
    assert told[0].startswith(f"Left out for all, as b has: {cases[0].name}: the predicted map holds no depth")
    assert told[1] == "c mapped nothing."
    (section,), found = dense_section(["a", "b"], [said(1, lacks=1), said(1, lacks=0)])
    assert found == {}
    assert section.parts[-1] == "No picture can be measured for all of the models."
    none = [replace(c, predicted=np.full_like(c.truth, np.nan)) for c in cases]
    (section,), found = dense_section(["a", "b"], [said(1), none])
    assert list(found["maps"]) == ["a"]
    assert found["map_pairs"] == []
    assert any(isinstance(part, str) and part.startswith("b is left out: no depth map") for part in section.parts)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--maps", "ibims1"], "is not SET:FOLDER"),
        (["--maps", "synth:x"], "the seed of rendered rooms is a whole number"),
        (["--maps", "nowhere:/tmp/absent-xyz"], "data set 'nowhere' is unknown"),
        (["--maps", "ibims1:/tmp/absent-xyz"], "no folder /tmp/absent-xyz"),
        (["--maps", "synth:1", "--map-pictures", "0"], "expected 1 or more"),
        (["--maps", "synth:1", "--no-out"], "--maps keeps its maps in --out DIR"),
    ],
)
def test_maps_that_cannot_be(options, told, tmp_path, capsys):
    write_shards(samples(1), tmp_path / "data", info={})
    where = ["--out", tmp_path / "run"] if "--no-out" not in options else []
    options = [option for option in options if option != "--no-out"]
    status, out, err = run(capsys, "eval", "2.5", tmp_path / "data", "--backend", "constant", *options, *where)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert not (tmp_path / "run").exists()


def test_several_models_on_several_sets_are_one_page(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(RIVAL)
    sets = {"00-a": samples(4), "01-b": samples(3)}
    for name, rows in sets.items():
        write_shards(rows, tmp_path / name[3:], info={})
    mapping = ("--maps", SOURCE, "--map-pictures", 2, "--budget", 20)
    right = tmp_path / "right"
    status, _, err = run(
        capsys, "eval", "1.0", tmp_path / "a", tmp_path / "b", "--task", "z", "--rival", tmp_path / "mine.py", *mapping,
        "--out", right,
    )  # fmt: skip
    assert status == 0, err
    assert "Depth maps" in (right / "report.md").read_text()

    def evaluated(name: str, backend: Any) -> Path:
        for number, (folder, rows) in enumerate(sets.items()):
            out, data = tmp_path / name / folder, str(tmp_path / "ab"[number])
            evaluate(backend, rows, EvaluationConfig(task="z"), out=out, data_name=data)
        return tmp_path / name

    too_far = RivalBackend(open_file(tmp_path / "mine.py", "1.4"))
    wrong, floor = evaluated("wrong", too_far), evaluated("floor", ConstantBackend("2.5"))
    map_pictures(too_far, CONFIG, wrong)
    status, out, err = run(capsys, "compare", right, wrong, floor, "--out", tmp_path / "page", "--json")
    assert status == 0
    assert f"report: {tmp_path / 'page' / 'report.html'}" in err
    results = json.loads(out)["sets"]
    assert [found["n"] for found in results] == [48, 36]
    assert [row["figures"]["delta1"]["value"] for row in results[0]["runs"][:2]] == [1.0, 0.0]
    assert results[0]["runs"][1]["figures"]["scale"]["value"] == pytest.approx(1.4, rel=1e-3)
    assert len(results[0]["pairs"]) == 3
    summary = json.loads((tmp_path / "page" / "summary.json").read_text())
    first, second = (found["scalars"]["scale"]["value"] for found in summary["maps"].values())
    assert second / first == pytest.approx(1.4, rel=1e-3)
    (pair,) = summary["map_pairs"]
    assert (pair["first"], pair["second"]) == ("1.0", "1.4")
    values = {name: [one["figures"][name]["value"] for one in summary["maps"].values()] for name in MAP_FIGURES}
    for name, (a, b) in values.items():
        difference = pair["differences"][name]["value"]
        assert difference is None if None in (a, b) else difference == pytest.approx(b - a), name
    text = (tmp_path / "page" / "report.md").read_text()
    for words in (
        "constant 2.5 was given nothing",
        "1.0 was given the picture as it is",
        "Paired differences",
        "constant 2.5 mapped nothing.",
        "By true depth",
        "Where they disagree most",
        "| wrong order, 50 % and more |",
        "| different numbers among 100 |",
        "1.4: worst answers",
        "s for 48 questions on",
        "| flying points |",
        "What was run",
    ):
        assert words in text, words
    page = (tmp_path / "page" / "report.html").read_text()
    # By set a scatter for each model, a disagreement in each picture, three worst and three best answers of each model;
    # of two maps the picture, its truth (depth and points), and five of each of two models.
    assert page.count("<figure>") == 2 * 3 + (4 + 3) + 2 * 3 * (3 + 3) + 2 * (3 + 2 * 5)
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    run(capsys, "compare", right, wrong, "--out", tmp_path / "far")
    text = (tmp_path / "far" / "report.md").read_text()
    assert "no picture: " in text
    assert "a: no such data" in text
    # Other points, other sets, other maps.
    shutil.rmtree(floor / "01-b")
    status, out, err = run(capsys, "compare", right, floor)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "hold runs of different sets (00-a, 01-b and 00-a)" in err
    assert "(00-a, 01-b and one run)" in run(capsys, "compare", right, floor / "00-a")[2]
    shutil.rmtree(wrong / "maps")
    map_pictures(too_far, MapConfig(source="synth:9300700", pictures=1), wrong)
    run(capsys, "compare", right, wrong, "--out", tmp_path / "apart")
    assert "The models mapped different pictures" in (tmp_path / "apart" / "report.md").read_text()
