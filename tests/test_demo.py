"""The demo, run small on an untrained model: the page stands alone, and every figure on it is one that was measured."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from depthlm import pictures as draw
from depthlm.camera import Camera
from depthlm.demo import DemoConfig, format_table, run_demo
from depthlm.errors import InputError
from depthlm.metrics import best_constant, is_correct
from tiny import build_tiny


def small(model: str) -> DemoConfig:
    return DemoConfig(
        model=model, rooms=3, points=2, grid=(3, 2), lookup_rooms=4, gallery=1, workers=1, large=1, seed=5
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("demo")
    model = build_tiny("qwen3_vl", folder / "tiny-model")
    config = small(str(model))
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("not the demo's")
    seen: list[int] = []
    summary = run_demo(folder / "out", config, progress=lambda done, total: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 100
    return folder / "out", summary


def test_it_writes_what_the_page_links_to_and_leaves_other_files_alone(demo) -> None:
    out, summary = demo
    page = (out / "index.html").read_text()
    links = set(re.findall(r'href="([^"]+)"', page))
    assert {"summary.json", *summary["tables"]} <= links
    clouds = {"room.ply", "room.glb"}
    assert all((out / link).is_file() for link in links - clouds)
    assert (out / "mine.txt").read_text() == "not the demo's"
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    assert json.loads((out / "summary.json").read_text()) == summary
    assert Image.open(out / "demo.png").width > 600


def test_the_page_needs_nothing_from_outside(demo) -> None:
    page = (demo[0] / "index.html").read_text()
    assert "://" not in page
    assert not re.search(r"<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) >= 9
    assert all(source.startswith("data:image/") for source in sources)
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)  # every placeholder is filled


def test_the_figures_are_those_of_the_points(demo) -> None:
    out, summary = demo
    page = html.unescape((out / "index.html").read_text())
    assert [row["is_model"] for row in summary["table"]] == [True, True, False, False]
    assert summary["n"] == 6
    truths = []
    for row, name in zip(summary["table"], summary["tables"], strict=False):
        records = pq.read_table(out / name).to_pylist()
        value = np.array([np.nan if r["value"] is None else r["value"] for r in records])
        truths.append(np.array([r["distance"] for r in records]))
        assert row["delta1"] == is_correct(value, truths[-1]).mean()
        assert row["n_unparsed"] == np.isnan(value).sum()
        assert f"{row['delta1']:.2f}</td>" in page
    np.testing.assert_array_equal(truths[0], truths[1])  # every reference is asked about the same points
    assert summary["table"][3]["delta1"] == best_constant(truths[0])[1]
    assert summary["table"][2]["delta1"] <= 1
    text = format_table(summary)
    assert all(row["name"] in text and f"{row['delta1']:.3f}" in text for row in summary["table"])


def test_the_same_seed_gives_the_same_figures(demo, tmp_path) -> None:
    out, summary = demo
    again = run_demo(tmp_path, small(str(out.parent / summary["model"]["name"])))
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in summary.items() if k != "seconds"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rooms": 1}, "rooms is 1"),
        ({"points": 0}, "points is 0"),
        ({"grid": (1, 5)}, "grid is 1x5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 500_000}, "less than 500000"),
    ],
)
def test_bad_settings_are_input_errors(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DemoConfig(**change)


def test_unwritable_output_and_missing_model_are_input_errors(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        run_demo(tmp_path / "file" / "demo")
    with pytest.raises(InputError):
        run_demo(tmp_path / "demo", DemoConfig(model=str(tmp_path / "nothing")))
    assert list((tmp_path / "demo").iterdir()) == []


# --- pictures -------------------------------------------------------------------------------------------------------


def test_labels_do_not_cover_points_or_each_other() -> None:
    """A drawn label covers the plain colour; the pixel of every mark keeps its own dot."""
    rng = np.random.default_rng(0)
    marks = [
        draw.Mark((float(u), float(v)), 2.0, 2.1, 1.5, 2.5) for u, v in rng.uniform(10, 180, (6, 2)).clip(0, [250, 180])
    ]
    picture = np.asarray(draw.annotate(Image.new("RGB", (256, 192), (0, 0, 255)), marks, size=(256, 192), width=768))
    assert picture.shape == (576, 768, 3)
    for mark in marks:
        centre = np.rint((np.array(mark.uv) + 0.5) * 3).astype(int)
        assert picture[centre[1], centre[0]].tolist() == [255, 255, 255]
        ring = picture[centre[1], centre[0] + 3].tolist()
        assert ring == list(draw.RIGHT)


def test_a_mark_stays_on_its_pixel_when_the_picture_is_shown_larger() -> None:
    dots = []
    for k in (1, 4):
        picture = draw.annotate(
            Image.new("RGB", (64 * k, 48 * k)), [draw.Mark((60.0, 40.0), 2.0, 2.1)], size=(64, 48), width=640
        )
        dots.append(np.asarray(picture))
    np.testing.assert_array_equal(dots[0], dots[1])
    assert dots[0][405, 605].tolist() == [255, 255, 255]


@pytest.mark.parametrize("uv", [(0.0, 0.0), (31.0, 23.0), (16.0, 12.0)])
def test_the_inset_shows_the_pixel_and_leaves_it_in_place(uv: tuple[float, float]) -> None:
    image = Image.new("RGB", (32, 24), (0, 0, 255))
    image.putpixel((int(uv[0]), int(uv[1])), (255, 0, 0))
    large = np.asarray(draw.with_inset(image, np.array(uv), scale=8, reach=2))
    red = (large == [255, 0, 0]).all(axis=2)
    assert red[int(uv[1]) * 8 + 4, int(uv[0]) * 8 + 4]
    assert red.sum() > 64 + 100  # once in place, once magnified


@pytest.mark.parametrize(
    ("measured", "truth", "correct"),
    [
        (2.0, 2.0, True),
        (2.49, 2.0, True),
        (2.5, 2.0, False),
        (1.6, 2.0, False),
        (0.0, 2.0, False),
        (np.nan, 2.0, False),
    ],
)
def test_marks_know_whether_they_are_right(measured: float, truth: float, correct: bool) -> None:
    mark = draw.Mark((0, 0), measured, truth)
    assert mark.correct is correct is bool(is_correct([measured], [truth])[0])
    draw.annotate(
        Image.new("RGB", (32, 24)), [mark], size=(32, 24), width=320
    )  # a point in the corner still finds room for its label


def test_depth_colours_run_from_near_to_far_and_unknown_is_grey() -> None:
    colours = draw.colour_depth(np.array([1.0, 10.0, np.nan, np.inf, 0.5]), near=1, far=10).astype(int)
    assert colours[0].sum() > colours[1].sum()
    np.testing.assert_array_equal(colours[2:4], [draw.NOTHING] * 2)
    np.testing.assert_array_equal(colours[4], colours[0])
    picture = draw.depth_picture(np.array([[1.0, 10.0]]), (4, 2), near=1, far=10)
    assert np.asarray(picture)[:, :2].reshape(-1, 3).tolist() == [colours[0].tolist()] * 4


def test_the_grid_lies_on_cell_centres_and_its_cloud_on_the_rays() -> None:
    camera = Camera(150.0, 150.0, 127.5, 95.5, 256, 192)
    uv = draw.grid_uv(camera, 4, 3)
    np.testing.assert_allclose(uv[[0, -1]], [[31.5, 31.5], [223.5, 159.5]])
    z = np.arange(1.0, 13.0).reshape(3, 4)
    z[0, 0] = np.nan
    cloud = draw.grid_cloud(Image.new("RGB", (256, 192), (9, 8, 7)), z, camera)
    np.testing.assert_allclose(cloud.xyz, camera.unproject(uv, z.ravel())[1:])
    assert np.unique(cloud.rgb, axis=0).tolist() == [[9, 8, 7]]


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (1, 1), (2, 2), (9, 3)])
def test_spread_takes_far_points_and_no_more_than_there_are(count: int, expected: int) -> None:
    chosen = draw.spread(np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0]]), count)
    assert len(chosen) == expected
    assert chosen[:2].tolist() == [0, 2][:expected]


def test_metres_reads_well() -> None:
    assert [draw.metres(x) for x in (0.5, 9.99, 12.34, np.nan)] == ["0.50 m", "9.99 m", "12.3 m", "\u2013"]


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def test_a_mark_whose_truth_nobody_knows_has_a_colour_of_its_own_and_lengths_are_drawn_beside_it() -> None:
    plain = Image.new("RGB", (64, 48), (128, 128, 128))
    mark = draw.Mark((10.0, 10.0), 2.5, name="1")
    known = draw.Mark((10.0, 10.0), 2.5, truth=2.5)
    assert (mark.colour, known.colour) == (draw.PLAIN, draw.RIGHT)
    alone = draw.annotate(plain, [mark], size=plain.size)
    pixels = colours(alone)
    assert draw.PLAIN in pixels
    assert draw.RIGHT not in pixels
    span = (np.array([[10.0, 10.0], [50.0, 40.0]]), "3.10 m")
    assert draw.RIGHT in colours(draw.annotate(plain, [mark], size=plain.size, spans=[span]))
