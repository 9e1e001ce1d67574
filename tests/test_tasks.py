"""Tasks: questions and answers computed from stored labels, checked by hand.

After a deliberate change: `PYTHONPATH=src:tests python tests/test_tasks.py` writes the golden file anew.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depthlm.camera import Camera
from depthlm.data import open_data
from depthlm.errors import InputError
from depthlm.motion import rotation_matrix
from depthlm.objects import LabelledObject
from depthlm.prompts import get_prompt
from depthlm.reference import get_reference
from depthlm.tasks import TASKS, Context, Second, Subject, get_task
from depthlm.view import ViewConfig, make_view

GOLDEN_FILE = Path(__file__).parent / "golden" / "tasks.json"
CAMERA = Camera(100.0, 100.0, 50.0, 40.0, 112, 80)
UV = np.array([[50.0, 40.0], [110.0, 40.0], [50.0, 39.0]])
Z = np.array([2.0, 4.0, 2.05])
MOTION = np.eye(4)  # of the second camera; tests/test_pair_tasks.py has more of them
MOTION[:3, :3] = rotation_matrix(89.64, 2.58, -6.13)
MOTION[:3, 3] = -1.37, 0.04, 1.43
SQUARE_ON = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
OBJECTS = (
    LabelledObject("chair", (9.5, 29.5, 29.5, 69.5), (0.45, 0.9, 0.45), (-1.0, 0.2, 3.0), SQUARE_ON),
    LabelledObject("shelf", (59.5, 9.5, 99.5, 69.5), (0.8, 2.0, 0.3), (1.0, -0.3, 4.0), SQUARE_ON),
)


def context(
    point=0, reference="text", label="distance", prompt="nano", surface=("floor", "wall", ""), seed=0, motion=MOTION
):
    image = Image.new("RGB", (112, 80), (190, 40, 40))
    view = make_view(image, CAMERA, UV, Z, config=ViewConfig(focal=100, grid=16), objects=OBJECTS)
    shown = np.array([[20.0, 60.0], [np.nan, np.nan], [np.nan, np.nan]])
    return Context(
        view=view,
        point=point,
        reference=get_reference(reference, 100, half_pixel=True),
        prompt=get_prompt(prompt),
        label=label,
        rng=np.random.default_rng(seed),
        text=get_reference("text", 100, half_pixel=True),
        surface=surface,
        second=None if motion is None else Second(view, np.asarray(motion), shown),
    )


def ask(name, *args, **options):
    """(question, answer) or None."""
    question = get_task(name).ask(context(*args, **options))
    return None if question is None else (question.text, question.answer)


@pytest.mark.parametrize(
    ("options", "text", "answer", "metres"),
    [
        ({}, "distance at x45 y51", "2.0", 2.0),
        ({"point": 1}, "distance at x99 y51", "4.6", 4 * 1.36**0.5),  # 4 m on a ray of factor sqrt(1 + 0.6^2)
        ({"point": 1, "label": "z"}, "distance at x99 y51", "3.8", 4.0),
        ({"reference": "arrow"}, "distance at the arrow", "2.0", 2.0),
        (
            {"prompt": "depthlm", "reference": "square"},
            "How many meters is the point marked by the red square from the camera?",
            "<answer>2.00</answer>",
            2.0,
        ),
    ],
)
def test_distance(options, text, answer, metres):
    question = get_task("distance").ask(context(**options))
    assert (question.text, question.answer) == (text, answer)
    assert question.truth == pytest.approx(metres)
    assert question.points == (options.get("point", 0),)


def test_z_is_z_whatever_the_label():
    for label in ("distance", "z"):
        question = get_task("z").ask(context(1, label=label))
        assert (question.text, question.answer, question.truth) == ("depth at x99 y51", "3.8", 4.0)


@pytest.mark.parametrize(("name", "unit"), [("speed", "m/s"), ("time", "s")])
def test_travel_divides_the_distance_by_what_the_question_states(name, unit):
    distance = 4 * 1.36**0.5
    given = set()
    for seed in range(40):
        question = get_task(name).ask(context(1, prompt="depthlm", seed=seed))
        stated = float(re.search(r"([0-9.]+) ?(?:seconds|m/s)", question.text)[1])
        given.add(stated)
        assert question.truth == pytest.approx(distance / stated)
        assert f"{distance:.2f} / {stated:.1f} = {distance / stated:.2f}{unit}" in question.answer
        assert get_task(name).answer.read(question.answer) == pytest.approx(question.truth, abs=0.005)
    assert min(given) >= 1
    assert max(given) <= 10
    assert len(given) > 20


def test_between_is_the_length_between_the_back_projected_points():
    found = {}
    for seed in range(20):
        question = get_task("between").ask(context(0, prompt="depthlm", reference="arrow", seed=seed))
        assert question.points[0] == 0
        found[question.points[1]] = question.truth
        assert "the red arrow and the blue arrow" in question.text
    # The far point is too near to the border for an arrow; (50, 39) at 2.05 m is 0.05 m behind and 0.0205 m above.
    assert found == {2: pytest.approx((0.05**2 + (2.05 / 100) ** 2) ** 0.5)}
    texts = {ask("between", 0, prompt="depthlm", seed=seed)[0].partition("Points: ")[2] for seed in range(20)}
    assert texts == {"(45, 51) and (99, 51)", "(45, 51) and (45, 49)"}
    far = next(q for s in range(20) if "(99" in (q := get_task("between").ask(context(prompt="depthlm", seed=s))).text)
    assert far.truth == pytest.approx((2.4**2 + 2**2) ** 0.5)  # (0, 0, 2) to (2.4, 0, 4)


def test_surface_needs_a_label():
    assert ask("surface", 1) == ("what is at x99 y51", "wall")
    assert ask("surface", 2) is None
    assert ask("surface", surface=None) is None


def test_colour_is_the_nearest_basic_word():
    assert ask("colour") == ("what colour is at x45 y51", "red")


@pytest.mark.parametrize("seed", range(8))
def test_nearer_compares_distances_and_skips_ties(seed):
    for point in range(3):
        asked = ask("nearer", point, seed=seed)
        if asked is None:
            continue
        places = [word for word in asked[0].split() if word.startswith("x")]
        assert places.count("x99") == 1, "only the far point differs clearly from the others"
        assert asked[1] == ("second" if places[0] == "x99" else "first")


def test_where_is_asked_of_markers_only():
    assert ask("where", reference="arrow") == ("where is the arrow", "x45 y51")
    assert ask("where") is None


def test_pixel_coordinates_are_introduced_as_such():
    here = replace(context(prompt="depthlm"), reference=get_reference("text-pixels"))
    assert get_task("z").ask(here).text.startswith("Points are (x, y) in pixels. How far")
    boxes = get_task("wider").question(here, Subject((), objects=(0, 1)))
    assert boxes.startswith("Boxes are (x1, y1, x2, y2) in pixels. ")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "distance"])
def test_prompts_of_released_checkpoints_ask_for_distances_alone(name):
    options = {"reference": "arrow", "prompt": "depthlm-official"} if name == "where" else {"prompt": "vlm3-depth"}
    here = context(**options)
    subject = subject_of(get_task(name))
    with pytest.raises(InputError, match=f"has no words for task '{name}'"):
        get_task(name).question(here, subject)


class Pick:
    """A generator that always draws the same wording."""

    def __init__(self, number):
        self.number = number

    def integers(self, most):
        return self.number


def subject_of(task):
    return Subject((0, 1)[: task.points], 4.0 if task.given else None, (0, 1)[: task.objects])


def conversations():
    """Every wording of every task: {task: {prompt and reference: [question -> answer]}}."""
    made = {}
    for name, task in TASKS.items():
        for prompt, reference in itertools.product(("depthlm", "nano"), ("arrow", "text")):
            here = replace(context(0, reference, prompt=prompt), vary=True)
            if name == "where" and reference == "text":
                continue
            subject = subject_of(task)
            answer = task.reply(here, subject, task.truth(here, subject))
            wordings = task.wordings.get(get_prompt(prompt).language, ("the prompt's own",))
            made.setdefault(name, {})[f"{prompt}, {reference}"] = [
                f"{task.question(replace(here, rng=Pick(number)), subject)} -> {answer}"
                for number in range(len(wordings))
            ]
    return made


@pytest.mark.parametrize("name", TASKS)
def test_every_wording_is_as_it_was(name):
    """A template that changes is another prompt, and a model trained with the old one answers it worse."""
    assert json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))[name] == conversations()[name]


def test_two_points_of_real_photographs(samples_dir):
    """Truths computed on the model's view equal those from the file's own numbers: K^-1 (u, v, 1) z, in plain numpy."""
    rows = [json.loads(line) for line in (samples_dir / "ibims1_official" / "ibims1_val.jsonl").open()]
    samples = open_data(samples_dir / "ibims1_official" / "ibims1_val.jsonl", label="z")
    asked = {"between": 0, "nearer": 0}
    for row, sample in zip(rows[:6], (samples[i] for i in range(6)), strict=True):
        fx, fy, cx, cy = row["intrinsics"][:4]
        rays = np.array([[(u - cx) / fx, (v - cy) / fy, 1.0] for u, v in row["pixel_coords"]])
        places = rays * np.array(row["depth"])[:, None]
        view = make_view(sample.load_image(), sample.camera, sample.uv, sample.z, config=ViewConfig(focal=300, grid=32))
        for point in range(0, len(places), 9):
            here = replace(context(point, prompt="depthlm", seed=point), view=view, surface=None)
            for name in asked:
                if (question := get_task(name).ask(here)) is None:
                    continue
                asked[name] += 1
                first, second = places[list(question.points)]
                if name == "between":
                    assert question.truth == pytest.approx(np.linalg.norm(first - second), rel=1e-6)
                else:
                    near = np.linalg.norm(first) < np.linalg.norm(second)
                    assert question.truth == ("first" if near else "second")
    assert min(asked.values()) > 40


# --- answers: format and read -----------------------------------------------------------------------------------------

NUMBERS = ["distance", "z", "between", "width", "height", "box_distance"]


@pytest.mark.parametrize("prompt", ["depthlm", "nano"])
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if getattr(task.answer, "choices", ())])
def test_reading_a_formatted_word_gives_it_back(name, prompt):
    task = get_task(name)
    for word in task.answer.choices:
        assert task.answer.read(task.reply(context(prompt=prompt), subject_of(task), word)) == word


@given(st.floats(0.1, 95), st.sampled_from(NUMBERS), st.sampled_from(["depthlm", "nano"]))
def test_reading_a_formatted_number_gives_it_back(value, name, prompt):
    task = get_task(name)
    text = task.reply(context(prompt=prompt), Subject((0,)), value)
    assert task.answer.read(text) == pytest.approx(value, rel=0.08 if prompt == "nano" else 0, abs=0.0051)
    assert task.answer.scores([task.answer.read(text)], [value]).tolist() == [1.0]


@given(st.floats(1, 10).map(lambda x: round(x, 1)), st.sampled_from(["speed", "time"]), st.sampled_from([0, 1]))
def test_reading_a_formatted_division_gives_its_result(given_, name, point):
    task = get_task(name)
    here = context(prompt="depthlm")
    subject = Subject((point,), given_)
    truth = task.truth(here, subject)
    assert task.answer.read(task.reply(here, subject, truth)) == pytest.approx(truth, abs=0.0051)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("speed", "1.81m/s", 1.81),
        ("speed", "about 36 km/h", 10.0),
        ("speed", "7.23 meters in 4.0 seconds", None),  # other quantities
        ("time", "we need 2 minutes", 120.0),
        ("time", "48.28 / 6.0 = 8.05s", 8.05),
        ("time", "8.05", 8.05),
        ("time", "6.0m/s", None),
        ("distance", "3 seconds", None),
        ("distance", "two meters", None),
        ("distance", "I'm sorry, I cannot measure that.", None),
        ("distance", "between 2 and 3 meters", 3.0),
        ("nearer", "The first point.", "first"),
        ("nearer", "<answer>Second</answer>", "second"),
        ("nearer", "The first is nearer than the second", None),
        ("nearer", "The first is nearer. <answer>first</answer>", "first"),
        ("nearer", "1", None),
        ("nearer", "firstly", None),
        ("width", "about 45 cm", 0.45),
        ("box_distance", "two meters", None),
        ("left_right", "It is to the left.", "left"),
        ("left_right", "left or right, I cannot say", None),
        ("behind_front", "The first is in front of the second.", "front"),
        ("above_below", "<answer>Above</answer>", "above"),
        ("colour", "dark red", "red"),
        ("surface", "<answer> Wall. </answer>", "wall"),
        ("surface", "", None),
    ],
)
def test_answers_are_read_by_kind(name, text, value):
    read = get_task(name).answer.read(text)
    assert read == (pytest.approx(value) if isinstance(value, float) else value)


def test_floors_and_scores():
    words = get_task("nearer").answer
    assert words.floor(["first", "second", "second"]) == "second"
    assert words.scores(["second", None, "first"], ["second", "second", "second"]).tolist() == [1, 0, 0]
    numbers = get_task("speed").answer
    assert numbers.scores([1.24, 1.26, None, 0.0], [1.0] * 4).tolist() == [1, 0, 0, 0]
    assert 0.8 < numbers.floor([1.0, 1.1, 5.0]) < 1.25


def test_unknown_task():
    with pytest.raises(InputError, match="unknown task 'taste'; choose one of distance"):
        get_task("taste")


def test_numbers_of_a_series_are_even_in_ratio_and_distinct():
    said = [float(get_prompt("nano").format_answer(10 ** (step / 24))) for step in range(-18, 37)]
    ratios = np.array(said[1:]) / said[:-1]
    assert ratios.min() > 1.05
    assert ratios.max() < 1.16


if __name__ == "__main__":
    GOLDEN_FILE.write_text(json.dumps(conversations(), indent=1) + "\n", encoding="utf-8")
