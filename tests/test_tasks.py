"""Tasks: questions and answers computed from stored labels, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.prompts import get_prompt
from depthlm.reference import get_reference
from depthlm.tasks import QA, PointContext, get_task
from depthlm.view import ViewConfig, make_view

CAMERA = Camera(100.0, 100.0, 50.0, 40.0, 112, 80)
UV = np.array([[50.0, 40.0], [110.0, 40.0], [50.0, 39.0]])
Z = np.array([2.0, 4.0, 2.05])


def context(point=0, reference="text", label="distance", prompt="nano", surface=("floor", "wall", ""), seed=0):
    image = Image.new("RGB", (112, 80), (190, 40, 40))
    view = make_view(image, CAMERA, UV, Z, config=ViewConfig(focal=100, grid=16))
    return PointContext(
        view=view,
        point=point,
        reference=get_reference(reference, 100, half_pixel=True),
        prompt=get_prompt(prompt),
        label=label,
        rng=np.random.default_rng(seed),
        text=get_reference("text", 100, half_pixel=True),
        surface=surface,
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, QA("distance at x45 y51", "2.0")),
        ({"point": 1}, QA("distance at x99 y51", "4.6")),  # 4 m on a ray of factor sqrt(1 + 0.6^2)
        ({"point": 1, "label": "z"}, QA("distance at x99 y51", "3.8")),
        ({"reference": "arrow"}, QA("distance at the arrow", "2.0")),
        (
            {"prompt": "depthlm", "reference": "square"},
            QA("How many meters is the point marked by the red square from the camera?", "<answer>2.00</answer>"),
        ),
    ],
)
def test_distance(options, expected):
    assert get_task("distance").ask(context(**options)) == expected


def test_surface_needs_a_label():
    assert get_task("surface").ask(context(1)) == QA("what is at x99 y51", "wall")
    assert get_task("surface").ask(context(2)) is None
    assert get_task("surface").ask(context(surface=None)) is None


def test_colour_is_the_nearest_basic_word():
    assert get_task("colour").ask(context()) == QA("what colour is at x45 y51", "red")


@pytest.mark.parametrize("seed", range(8))
def test_nearer_compares_distances_and_skips_ties(seed):
    for point in range(3):
        qa = get_task("nearer").ask(context(point, seed=seed))
        if qa is None:
            continue
        places = [word for word in qa.question.split() if word.startswith("x")]
        assert places.count("x99") == 1, "only the far point differs clearly from the others"
        assert qa.answer == ("second" if places[0] == "x99" else "first")


def test_where_is_asked_of_markers_only():
    assert get_task("where").ask(context(reference="arrow")) == QA("where is the arrow", "x45 y51")
    assert get_task("where").ask(context()) is None


def test_unknown_task():
    with pytest.raises(InputError, match="unknown task 'taste'; choose one of distance"):
        get_task("taste")


def test_numbers_of_a_series_are_even_in_ratio_and_distinct():
    said = [float(get_prompt("nano").format_answer(10 ** (step / 24))) for step in range(-18, 37)]
    ratios = np.array(said[1:]) / said[:-1]
    assert ratios.min() > 1.05
    assert ratios.max() < 1.16
