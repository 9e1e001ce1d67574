"""Several markers on one picture, each with a question of its own and told apart by colour."""

from __future__ import annotations

import numpy as np
import pytest

from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.models.card import ModelCard
from depthlm.models.loading import load_model
from depthlm.models.nano import NanoConfig
from depthlm.prompts import PROMPTS
from depthlm.reference import COLOURS, group_apart
from depthlm.reference.marker import MARKERS
from depthlm.synth.generate import synth_samples
from depthlm.tasks import get_task
from depthlm.training.recipe import DataSource, Recipe, Stage
from depthlm.training.run import start_model
from depthlm.training.stage import stage_rows
from depthlm.view import CropConfig

CROP = CropConfig(width=(128, 192), height=(96, 144))
TINY = NanoConfig(hidden=32, layers=1, heads=2, vision_hidden=32, vision_layers=1, vision_heads=2)


@pytest.fixture(scope="module")
def rooms():
    return list(synth_samples(3, seed=11, views=2, points=300))


def rows_of(rooms, **stage):
    settings = {"references": {"arrow": 1.0}, "tasks": {"distance": 1.0}, "questions_per_image": 4, **stage}
    recipe = Recipe(
        name="t", model="new-nano", data=[DataSource(path="-")], stages=[Stage(steps=4, **settings)], nano=TINY,
        prompt="nano", focal=160, coordinate_range=100, half_pixel=True, crop=CROP,
    )  # fmt: skip
    loaded = start_model(recipe, [rooms])
    return stage_rows(recipe, recipe.stages[0], loaded, [rooms]), loaded.processor


def texts(processor, row):
    """What each question says after the picture."""
    image_end = len(row.prefix) - row.prefix[::-1].index(processor.tokenizer.convert_tokens_to_ids("<|vision_end|>"))
    begin = row.prefix[image_end:]
    return [processor.tokenizer.decode(begin + ids).strip() for ids, _ in row.questions]


def painted(processor, row, colour):
    """How many pixels of the row's picture have exactly that colour."""
    grid = processor.grid
    _, height, width = (int(n) for n in row.images["image_grid_thw"][0])
    patches = row.images["pixel_values"].reshape(height, width, 3, 2, grid, grid)[:, :, :, 0]
    picture = patches.permute(0, 3, 1, 4, 2).reshape(height * grid, width * grid, 3).numpy()
    levels = np.array([processor._levels[c][colour[c]] for c in range(3)])
    return int((np.abs(picture - levels) < 1e-6).all(axis=2).sum())


def test_each_marker_has_its_colour_and_its_question(rooms):
    rows, processor = rows_of(rooms, markers_per_image=4)
    seen = set()
    for index in range(40):
        row = rows[index]
        asked = texts(processor, row)
        colours = [name for name, _ in COLOURS if any(f"the {name} arrow" in text for text in asked)]
        count = max(1, len(colours))
        seen.add(count)
        assert len(asked) == count, "without text references nothing else is asked"
        if count == 1:
            assert "at the arrow" in asked[0], "a marker that is alone needs no colour"
        else:
            assert colours == [name for name, _ in COLOURS[:count]]
        for number, (_, colour) in enumerate(COLOURS):
            assert painted(processor, row, colour) == (len(MARKERS["arrow"].offsets) if number < count else 0)
    assert seen == {1, 2, 3, 4}


def test_answers_are_of_the_points_the_markers_stand_at(rooms):
    rows, processor = rows_of(rooms, markers_per_image=3, tasks={"where": 1.0, "distance": 1.0}, image_words=1.0,
                              marker_word=True)  # fmt: skip
    checked = 0
    for index in range(60):
        row = rows[index]
        _, height, width = (int(n) for n in row.images["image_grid_thw"][0])
        words = [processor.tokenizer.decode([word]).strip() if word >= 0 else "" for word in row.words]
        for text in texts(processor, row):
            question, _, answer = text.partition("<|im_start|>assistant ")
            if not question.startswith("where is the ") or question.endswith("the arrow"):
                continue
            colour = question.removeprefix("where is the ").removesuffix(" arrow")
            x, y = (int(part[1:]) for part in answer.removesuffix("<|im_end|>").split())
            column, line = divmod(words.index(colour), width)[::-1]
            assert abs(x / 100 * width - (column + 0.5)) <= 0.6, "half a cell and half a coordinate step"
            assert abs(y / 100 * height - (line + 0.5)) <= 0.6
            checked += 1
    assert checked > 10


def test_tasks_with_markers_of_their_own_are_asked_of_one_picture_alone(rooms):
    rows, processor = rows_of(rooms, markers_per_image=4, tasks={"between": 1.0})
    for index in range(20):
        asked = texts(processor, rows[index])
        pairs = [text for text in asked if text.startswith("distance between the red arrow and the blue arrow")]
        assert len(pairs) == (1 if len(asked) == 1 else 0)


def test_one_marker_per_picture_draws_what_it_always_drew(rooms):
    one, processor = rows_of(rooms)
    again, _ = rows_of(rooms, markers_per_image=1)
    for index in range(5):
        assert texts(processor, one[index]) == texts(processor, again[index])
        assert len(one[index].questions) == 1


def test_what_cannot_be(rooms):
    with pytest.raises(InputError, match="markers_per_image is 6; expected at most 5"):
        rows_of(rooms, markers_per_image=6)
    arrow = MARKERS["arrow"]
    with pytest.raises(InputError, match="'depthlm-official' has no question about one of several markers"):
        PROMPTS["depthlm-official"].question(arrow, (50, 50), rooms[0].camera, 1)


def test_prompts_name_the_colour(rooms):
    arrow, camera = MARKERS["arrow"], rooms[0].camera
    assert PROMPTS["nano"].question(arrow, (50, 50), camera, 1) == "distance at the blue arrow"
    assert PROMPTS["depthlm"].question(arrow, (50, 50), camera, 0) == PROMPTS["depthlm"].question(
        arrow, (50, 50), camera
    )
    assert get_task("z").wordings["nano"][0].format(point=PROMPTS["nano"].pointer(arrow, (9, 9), camera, 2)) == (
        "depth at the green arrow"
    )


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano():
    return load_model("nano")


def test_engine_draws_several_and_names_each(nano, rooms):
    engine = Engine(nano, reference="arrow", markers=4)
    sample = rooms[0]
    uv = np.concatenate(
        [sample.uv[5:120:12], sample.uv[5:6] + 2, [[0.0, 0.0]]]
    )  # two cover each other, one in a corner
    asked = engine.requests(sample.load_image(), sample.camera, uv)
    several = [request for request in asked if request.shares_markers]
    assert len(asked) == len(uv)
    assert len(several) >= 8
    for request in asked:
        assert 1 <= len(request.uv) <= 4
        apart = np.abs(request.uv[:, None] - request.uv).max(axis=2) + np.eye(len(request.uv)) * 99
        assert (apart > 2 * engine.reference.margin).all()
    for point, request in zip(uv, asked, strict=True):
        place = request.view.transform.forward(point[None])[0]
        mark = int(np.abs(request.uv - place).max(axis=1).argmin())
        assert np.allclose(request.uv[mark], place), "its own marker is on the picture"
        name = f"the {COLOURS[mark][0]} arrow" if len(request.uv) > 1 else "the arrow"
        assert request.question == f"distance at {name}"


def test_shared_reading_of_marked_pictures_is_asking_each_alone(nano, rooms):
    engine = Engine(nano, reference="arrow", markers=3)
    asked = engine.requests(rooms[1].load_image(), rooms[1].camera, rooms[1].uv[3:200:25])
    together = engine.ask(asked)
    for request, answer in zip(asked, together, strict=True):
        (alone,) = engine._ask_batch([request])
        assert answer.text == alone.text
        assert answer.low == pytest.approx(alone.low, rel=1e-4)


def test_one_marker_each_is_what_it_always_was(nano, rooms):
    uv = rooms[2].uv[3:200:40]
    one = Engine(nano, reference="arrow", markers=1).requests(rooms[2].load_image(), rooms[2].camera, uv)
    assert all(len(request.uv) == 1 and request.question == "distance at the arrow" for request in one)


@pytest.mark.parametrize("markers", [0, 6])
def test_no_more_markers_than_colours(nano, markers):
    with pytest.raises(InputError, match=f"--markers is {markers}; expected 1 to 5"):
        Engine(nano, reference="arrow", markers=markers)
    with pytest.raises(InputError, match=f"markers_per_image is {markers}; expected 1 to 5"):
        ModelCard(markers_per_image=markers)


def test_groups_hold_what_lies_apart():
    uv = np.array([[0, 0], [5, 5], [30, 0], [31, 1], [60, 0], [90, 0]], dtype=float)
    assert group_apart(uv, 3, 11) == [[0, 2, 4], [1, 3, 5]]
    assert group_apart(uv[:0], 3, 11) == []
    assert group_apart(uv, 1, 11) == [[k] for k in range(6)]
