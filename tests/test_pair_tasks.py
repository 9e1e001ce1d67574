"""Questions about two images: truth against scipy and raw poses, answers read and scored, in rows, engine, evaluation.

Real pictures come from ../shared/samples: DDAD has three key frames of six cameras, whole pairs. nuScenes has one key
frame of six cameras, which overlap too little for a pair, so that its poses alone are checked. Argoverse 2 has sweeps,
calibration and poses but no pictures: blank ones are laid beside them.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from depthlm.camera import Camera
from depthlm.covisibility import COVISIBLE, Sight, covisibility, find_partner, sight
from depthlm.data.mixture import Mixture
from depthlm.data.readers.base import get_reader
from depthlm.errors import InputError
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.report import format_summary
from depthlm.inference.engine import Engine
from depthlm.inference.request import Answer
from depthlm.models.card import ModelCard
from depthlm.models.chat import IGNORE
from depthlm.models.nano import NanoConfig, new_nano
from depthlm.prompts import get_prompt
from depthlm.reference import Text
from depthlm.sample import Sample
from depthlm.tasks import Second, Subject, get_task
from depthlm.tasks.answers import Pixel, Spot
from depthlm.training.conversations import RowConfig
from depthlm.training.dataset import TrainingRows
from depthlm.view import CropConfig, ViewConfig
from test_tasks import context

PAIR_TASKS = ("moved", "direction", "rotation", "angle", "match")
ANGLE = st.floats(-179, 179)


def motion(yaw=0.0, pitch=0.0, roll=0.0, x=0.0, y=0.0, z=0.0):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("YXZ", (yaw, pitch, roll), degrees=True).as_matrix()
    pose[:3, 3] = x, y, z
    return pose


# --- what is asked and answered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where", "text"),
    [
        ("moved", {"x": 3, "z": 4}, "<answer>5.00</answer>"),
        ("rotation", {"yaw": 89.6, "pitch": 2.6, "roll": 6.1}, "Yaw=+89.6°, Pitch=+2.6°, Roll=+6.1°"),
        ("rotation", {"yaw": -0.04}, "Yaw=+0.0°, Pitch=+0.0°, Roll=+0.0°"),
        (
            "direction",
            {"x": -6.9, "y": 0.2, "z": 7.2},
            "The camera moves left, forward, unit vector (-0.69, +0.02, +0.72).",
        ),
        ("direction", {"y": -1}, "The camera moves up, unit vector (+0.00, -1.00, +0.00)."),
        ("angle", {"roll": -120}, "Rotation angle: 120.0 degrees"),
        ("angle", {}, "Rotation angle: 0.0 degrees"),
    ],
)  # fmt: skip
def test_answers_in_english(name, where, text):
    assert get_task(name).ask(context(prompt="depthlm", motion=motion(**where))).answer == text


@pytest.mark.parametrize(
    ("name", "where", "text"),
    [
        ("moved", {"x": 3, "z": 4}, "5.1"),
        ("rotation", {"yaw": 24, "pitch": -2.4, "roll": 0.01}, "yaw right 24 pitch down 2.4 roll right 0"),
        ("direction", {"x": -6.9, "y": 0.2, "z": 7.2}, "left 0.68 down 0 forward 0.75"),
        ("angle", {"roll": -35}, "35"),
        ("angle", {}, "0"),
    ],
)
def test_answers_of_nano(name, where, text):
    assert get_task(name).ask(context(motion=motion(**where))).answer.split() == text.split()


def test_a_camera_that_stood_still_has_not_moved_anywhere():
    still = context(motion=motion(yaw=10, x=0.03))
    assert get_task("moved").ask(still) is None
    assert get_task("direction").ask(still) is None
    assert get_task("angle").ask(still).truth == pytest.approx(10)


@pytest.mark.parametrize("name", PAIR_TASKS)
def test_without_a_second_picture_nothing_is_asked(name):
    assert get_task(name).ask(context(motion=None)) is None


def test_match_is_asked_of_visible_points_and_answered_in_text_coordinates():
    question = get_task("match").ask(context(point=2, prompt="depthlm"))
    assert question.points == (0,)
    assert question.text.startswith("Points are (x, y), each normalized to [0, 100)")
    assert question.answer == "The corresponding pixel is (18, 76)"  # (20.5 / 112, 60.5 / 80) of the padded 112 x 80
    assert question.truth == Spot(20.5 / 112 * 100, 60.5 / 80 * 100, 100, 112, 80)
    by_marker = get_task("match").ask(context(prompt="depthlm", reference="arrow"))
    assert "the red arrow" in by_marker.text
    assert by_marker.text.startswith("Points are (x, y)"), "the answer has coordinates although the question has none"
    hidden = context()
    hidden.second.shown[0] = np.nan
    assert get_task("match").ask(hidden) is None
    at_border = context(reference="arrow", point=0)
    at_border.view.uv[0] = 1, 1
    assert get_task("match").ask(at_border) is None, "no marker fits there"


# --- reading and scoring ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(ANGLE, st.floats(-89, 89), ANGLE, st.sampled_from(["depthlm", "nano"]))
def test_reading_a_formatted_rotation_gives_it_back(yaw, pitch, roll, prompt):
    task, truth = get_task("rotation"), (yaw, pitch, roll)
    value = task.answer.read(task.reply(context(prompt=prompt), Subject(()), truth))
    assert value == pytest.approx(truth, **({"rel": 0.08, "abs": 0.06} if prompt == "nano" else {"abs": 0.0501}))


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1), st.sampled_from(["depthlm", "nano"])
)
def test_reading_a_formatted_direction_gives_it_back(vector, prompt):
    task = get_task("direction")
    here = context(prompt=prompt, motion=motion(x=vector[0], y=vector[1], z=vector[2]))
    truth = task.truth(here, Subject(()))
    value = task.answer.read(task.reply(here, Subject(()), truth))
    assert np.linalg.norm(value) == pytest.approx(1)
    assert task.answer.error(value, truth) < (5.5 if prompt == "nano" else 0.6)


@settings(deadline=None)
@given(st.floats(0, 180), st.sampled_from(["depthlm", "nano"]))
def test_reading_a_formatted_angle_gives_it_back(angle, prompt):
    task = get_task("angle")
    value = task.answer.read(task.reply(context(prompt=prompt), Subject(()), angle))
    assert value == pytest.approx(angle, **({"rel": 0.08, "abs": 0.06} if prompt == "nano" else {"abs": 0.0501}))


@settings(deadline=None)
@given(st.floats(-0.5, 111.4), st.floats(-0.5, 79.4), st.sampled_from(["depthlm", "nano"]))
def test_reading_a_formatted_pixel_gives_it_back(u, v, prompt):
    here = context(prompt=prompt)
    here.second.shown[0] = u, v
    task, subject = get_task("match"), Subject((0,))
    truth = task.truth(here, subject)
    value = task.answer.read(task.reply(here, subject, truth))
    assert task.answer.error(value, truth) <= math.hypot(1.12, 0.8), "half a step, a whole one at the far border"
    assert task.answer.scores([value], [truth]).tolist() == [1]


@pytest.mark.parametrize("rounding", ["nearest", "floor"])
@pytest.mark.parametrize("half_pixel", [False, True])
@settings(deadline=None)
@given(u=st.floats(0, 639), v=st.floats(0, 479))
def test_pixel_of_a_text_reference_is_the_inverse_of_place(u, v, rounding, half_pixel):
    text = Text(coordinate_range=1000, rounding=rounding, half_pixel=half_pixel)
    assert text.pixel(*text.place((u, v), 640, 480), 640, 480) == pytest.approx((u, v), abs=1e-9)
    said = np.array(text.coordinates((u, v), 640, 480))
    assert np.abs(said - text.place((u, v), 640, 480)).max() <= 0.5 + 1e-9 or 999 in said


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rotation", "yaw: 3 deg, pitch: -2 deg, roll: 0", (3, -2, 0)),
        ("rotation", "Roll=+1.0°, Yaw=\u22122.5°, Pitch=+0.5°", (-2.5, 0.5, 1)),
        ("rotation", "yaw is 10 degrees to the left, pitch 2 degrees down, roll 1 degree right", (-10, -2, 1)),
        ("rotation", "yaw=0.1 rad, pitch=0 rad, roll=0 rad", (math.degrees(0.1), 0, 0)),
        ("rotation", "<think>yaw=1, pitch=1, roll=1</think><answer>yaw=2, pitch=1, roll=1</answer>", (2, 1, 1)),
        ("rotation", "Yaw=+3.0°, Pitch=+1.0°", None),
        ("rotation", "Yaw=1, Pitch=2, Roll=3, Yaw=4", None),
        ("rotation", "yaw left -3 pitch 0 roll 0", None),
        ("rotation", "yaw about ten, pitch none, roll none", None),
        ("rotation", "yaw=1e999, pitch=0, roll=0", None),
        ("rotation", "yaw=" + "9" * 400 + ", pitch=0, roll=0", None),
        ("rotation", "3, 4, 5", None),
        ("direction", "(0, 0, 2)", (0, 0, 1)),
        ("direction", "first (1, 0, 0), rather [+0.0, \u2212 1.0, 0]", (0, -1, 0)),
        ("direction", "left 0 up 1 backward 0", (0, -1, 0)),
        ("direction", "The camera moves left, forward", None),
        ("direction", "left 1 right 1 up 0 forward 0", None),
        ("direction", "(0, 0, 0)", None),
        ("direction", "(0.1, 0.2)", None),
        ("angle", "89.7 degrees", 89.7),
        ("angle", "0.5 rad", math.degrees(0.5)),
        ("angle", "2 meters", None),
        ("angle", "ninety degrees", None),
        ("moved", "1.98 meters", 1.98),
        ("moved", "90 degrees", None),
        ("match", "The corresponding pixel is (12, 70)", (12, 70)),
        ("match", "(1, 2) -> (3, 4)", (3, 4)),
        ("match", "x18 y76", (18, 76)),
        ("match", "x=18, y=76", (18, 76)),
        ("match", "18, 76", (18, 76)),
        ("match", "(12, 70, 3)", None),
        ("match", "at 18 metres", None),
        ("match", "I cannot see it.", None),
        ("match", "(" + "9" * 400 + ", 1)", None),
    ],
)
def test_answers_are_read_by_kind(name, text, value):
    read = get_task(name).answer.read(text)
    assert read == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("seed", range(5))
def test_rotation_error_is_that_of_scipy(seed):
    kind = get_task("rotation").answer
    a, b = Rotation.random(2, rng=np.random.default_rng(seed))
    said, true = (tuple(r.as_euler("YXZ", degrees=True)) for r in (a, b))
    assert kind.error(said, true) == pytest.approx(np.degrees((a.inv() * b).magnitude()))


def test_the_mean_score_of_angles_is_the_area_under_recall():
    kind = get_task("angle").answer
    errors = np.random.default_rng(0).uniform(0, 60, 200)
    scores = kind.scores(errors.tolist(), [0.0] * 200)
    thresholds = np.linspace(0, 30, 30001)
    recall = (errors[:, None] <= thresholds).mean(axis=0)
    assert scores.mean() == pytest.approx(np.trapezoid(recall, thresholds) / 30, abs=1e-3)
    assert kind.scores([None, 0.0], [0.0, 0.0]).tolist() == [0, 1]
    assert kind.figures([None, 4.0, 8.0, 1.0], [0.0] * 4) == {"median_error_deg": 4.0}
    assert kind.figures([None], [0.0]) == {"median_error_deg": None}


def test_pixels_are_right_within_a_share_of_the_longer_side():
    kind = Pixel()
    truth = Spot(50, 50, 100, 200, 100)  # a step is 2 px across and 1 px down
    assert kind.error((53, 54), truth) == pytest.approx(math.hypot(6, 4))
    assert kind.scores([(54.9, 50), (55.1, 50), (50, 59.9), (50, 60.1), None], [truth] * 5).tolist() == [1, 0, 1, 0, 0]
    assert kind.scores([(50, 50)], [list(truth)]).tolist() == [1], "as it comes back from JSON"
    found = kind.figures([(53, 54), (50, 50), None], [truth] * 3)
    assert found == {
        "epe_px": pytest.approx(math.hypot(6, 4) / 2),
        "median_epe_px": pytest.approx(math.hypot(6, 4) / 2),
    }


def test_floors_are_the_best_constant():
    angles = [1.0, 2.0, 3.0, 50.0]
    kind = get_task("angle").answer
    best = max(np.linspace(0, 180, 18001), key=lambda c: kind.scores([c] * 4, angles).sum())
    assert kind.scores([kind.floor(angles)] * 4, angles).sum() == pytest.approx(
        kind.scores([best] * 4, angles).sum(), abs=1e-3
    )
    turns = [(0.0, 0.0, 0.0), (5.0, 0.0, 0.0), (4.0, 1.0, 0.0), (170.0, 0.0, 0.0)]
    assert get_task("rotation").answer.floor(turns) == (4.0, 1.0, 0.0)
    ways = [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.1, 0.99)]
    assert get_task("direction").answer.floor(ways) in ways[1:]
    spots = [Spot(10, 10, 100, 100, 100), Spot(18, 10, 100, 100, 100), Spot(14, 10, 100, 100, 100)]
    assert get_task("match").answer.floor(spots) == (14, 10)
    many = [float(a) for a in range(180)] * 20
    assert 0 <= kind.floor(many) < 180


# --- samples of one room ----------------------------------------------------------------------------------------------


def looking_at_a_wall(poses, scene="room", size=(112, 80), seed=0) -> list[Sample]:
    """Samples whose depth is that of the plane z = 3 m of the world, with the poses given."""
    camera = Camera(100.0, 100.0, 55.5, 39.5, *size)
    u, v = np.meshgrid(np.arange(3, size[0], 6), np.arange(3, size[1], 6))
    uv = np.stack([u.ravel(), v.ravel()], axis=1).astype(float)
    made = []
    for number, pose in enumerate(poses):
        rays = camera.rays(uv) @ pose[:3, :3].T
        z = (3.0 - pose[2, 3]) / rays[:, 2]
        buffer = io.BytesIO()
        rng = np.random.default_rng(seed + number)
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(buffer, "PNG")
        made.append(Sample(buffer.getvalue(), camera, uv, z, scene=scene, frame=str(number), pose=pose))
    return made


@pytest.fixture(scope="module")
def room() -> list[Sample]:
    return looking_at_a_wall([motion(), motion(yaw=8, x=0.3), motion(pitch=5, roll=3, y=0.2), motion(roll=10, z=0.4)])


def test_truth_is_that_of_the_poses_in_any_world(room):
    """Moving the whole world changes nothing; the order of the two pictures does."""
    world = motion(50, 20, -70, 5, -3, 2)
    moved = [replace(one, pose=world @ one.pose) for one in room]
    for (i, first), (j, other) in itertools.permutations(enumerate(moved), 2):
        relative = np.linalg.inv(room[i].pose) @ room[j].pose
        turn = Rotation.from_matrix(relative[:3, :3])
        here = pair_context(first, other)
        way = relative[:3, 3]
        expected = {
            "moved": np.linalg.norm(way),
            "direction": way / np.linalg.norm(way),
            "rotation": turn.as_euler("YXZ", degrees=True),
            "angle": np.degrees(turn.magnitude()),
        }
        for name, truth in expected.items():
            assert get_task(name).ask(here).truth == pytest.approx(truth, abs=1e-6), (name, i, j)


def engine_for(label="z", references=("text", "arrow"), focal=100.0):
    card = ModelCard(focal=focal, grid=16, references=list(references), label=label, prompt="depthlm")
    return SimpleNamespace(card=card, path="tiny", view_config=ViewConfig(focal=focal, grid=16))


def pair_context(first, other, point=0, reference="text"):
    engine = Engine(engine_for(), reference=reference)
    view = engine.views(first.load_image(), first.camera, first.uv, first.z, [()])
    view = view[0]
    return engine.context(view, point, second=engine.second(first, view, other))


def test_matches_lie_on_the_same_spot_of_the_wall(room):
    for first, other in itertools.permutations(room, 2):
        here = pair_context(first, other)
        asked = {get_task("match").ask(replace(here, point=k)).points[0] for k in range(4)}
        assert len(asked) == 4, "four questions, four points"
        for row in np.flatnonzero(np.isfinite(here.second.shown[:, 0])):
            spots = []
            for sample, uv in (
                (first, first.uv[row]),
                (other, here.second.view.transform.inverse(here.second.shown[row])[0]),
            ):
                ray = sample.pose[:3, :3] @ np.append((uv - (55.5, 39.5)) / 100, 1)
                spots.append(sample.pose[:3, 3] + ray * (3 - sample.pose[2, 3]) / ray[2])
            assert spots[0] == pytest.approx(spots[1], abs=1e-6)


# --- evaluation -------------------------------------------------------------------------------------------------------


def say_the_truth(monkeypatch, change=lambda text: text):
    """Every request is answered with what its own task would train; returns the requests."""
    seen, answers = [], {}
    for name in PAIR_TASKS:
        task = get_task(name)
        original = type(task).ask

        def ask(self, context, original=original):
            question = original(self, context)
            if question is not None:
                spot = context.view.uv[list(question.points)].tobytes()
                answers[id(context.view), id(context.second.view), spot, question.text] = question.answer
            return question

        monkeypatch.setattr(type(task), "ask", ask)

    def reply(self, requests):
        seen.extend(requests)
        texts = [change(answers[id(r.view), id(r.second), r.uv.tobytes(), r.question]) for r in requests]
        return [Answer(text, r.kind.read(text)) for text, r in zip(texts, requests, strict=True)]

    monkeypatch.setattr(Engine, "_ask_batch", reply)
    return seen


@pytest.mark.parametrize("reference", ["text", "arrow"])
@pytest.mark.parametrize("name", PAIR_TASKS)
def test_an_evaluation_asks_each_picture_with_its_partner(name, reference, room, monkeypatch, tmp_path):
    seen = say_the_truth(monkeypatch)
    lone = [replace(room[0], scene="hall"), replace(room[1], pose=None)]
    data = [*room, *lone]
    config = EvaluationConfig(task=name, reference=reference)
    summary = evaluate(engine_for(), data, config, out=tmp_path / "run")
    each = 4 if name == "match" else 1
    assert (summary["n"], summary["n_unasked"], summary["n_unparsed"]) == (4 * each, 2 * each, 0)
    assert summary["score"] > 0.97
    assert summary["floor_score"] <= summary["score"]
    assert all(len(request.images()) == 2 for request in seen)
    assert len(seen) == 4 * each
    if name == "match":
        assert summary["figures"]["epe_px"] < 1
        marked = {bool((np.asarray(r.images()[0]) != np.asarray(r.view.image)).any()) for r in seen}
        assert marked == {reference == "arrow"}
    elif name != "moved":
        assert summary["figures"]["median_error_deg"] < 0.5
    assert name in format_summary(summary)
    json.dumps(summary, allow_nan=False)
    table = pq.read_table(tmp_path / "run" / "points.parquet").to_pylist()
    for row in table:
        assert row["partner"] == find_partner(data, row["image"], 0)
        assert (row["question"] is None) == (row["partner"] is None)
        assert (row["u"] is None) == (name != "match" or row["partner"] is None)
    assert evaluate(engine_for(), data, config, out=tmp_path / "run") == summary


def test_wrong_and_unreadable_answers(room, monkeypatch):
    say_the_truth(monkeypatch, lambda text: "No idea.")
    summary = evaluate(engine_for(), room, EvaluationConfig(task="rotation"))
    assert (summary["n_unparsed"], summary["score"], summary["figures"]["median_error_deg"]) == (4, 0, None)


def test_another_pose_is_another_run(room, monkeypatch, tmp_path):
    say_the_truth(monkeypatch)
    evaluate(engine_for(), room, EvaluationConfig(task="moved"), out=tmp_path / "run")
    with pytest.raises(InputError, match="another samples"):
        evaluate(engine_for(), [*room[:-1], replace(room[-1], pose=motion(x=1))], EvaluationConfig(task="moved"),
                 out=tmp_path / "run")  # fmt: skip


@pytest.mark.parametrize("name", PAIR_TASKS)
def test_samples_without_poses_are_one_clear_error(name, room):
    bare = [replace(one, pose=None) for one in room]
    with pytest.raises(
        InputError, match=f"nothing that task {name} can ask about; it needs two pictures .* with poses"
    ):
        evaluate(engine_for(), bare, EvaluationConfig(task=name))


# --- training rows ----------------------------------------------------------------------------------------------------


def training_rows(
    samples, tasks, references=("text",), questions=4, words=False, marker_word=False, match_words=False, flip=0.0
):
    card = ModelCard(focal=100, prompt="nano", coordinate_range=100, half_pixel=True)
    nano = new_nano(NanoConfig(hidden=48, layers=1, heads=4, vision_hidden=48, vision_layers=1, vision_heads=4), card)
    return TrainingRows(
        sources=[samples], mixture=Mixture([samples]), processor=nano.processor, card=card, prompt=get_prompt("nano"),
        rows=RowConfig(references=dict.fromkeys(references, 1.0), tasks=dict(tasks), questions_per_image=questions,
                       image_words=words, marker_word=marker_word, match_words=match_words),
        view=ViewConfig(focal=100, grid=16),
        crop=CropConfig(width=(64, 112), height=(48, 80), position="jitter", flip=flip), seed=0, length=100,
    )  # fmt: skip


def said(rows, row):
    return [rows.processor.decode(ids).replace("assistant", " -> ").strip() for ids, _ in row.questions]


def test_pair_rows_show_two_pictures_and_ask_about_both(room):
    rows = training_rows(room, dict.fromkeys((*PAIR_TASKS, "distance"), 1.0), words=True, flip=1.0)
    kinds = []
    for index in range(24):
        row = rows[index]
        images = len(row.images["image_grid_thw"])
        texts = said(rows, row)
        kinds.append(images)
        assert len(row.words) == row.prefix.count(rows.processor.image_token_id)
        pair_questions = [bool(re.search("moved|turned|second", text)) for text in texts]
        assert all(pair_questions) if images == 2 else not any(pair_questions)
        assert len(set(texts)) == len(texts) or images == 1
    assert 12 < kinds.count(2) < 24, "five of six weights are of pair tasks"


def test_a_training_pair_is_not_mirrored_and_its_crops_share_enough(room, monkeypatch):
    drawn = []
    original = Second.of

    def of(first, view, second, other):
        made = original(first, view, second, other)
        drawn.append((first, second, view, made))
        return made

    monkeypatch.setattr(Second, "of", of)
    rows = training_rows(room, {"rotation": 1.0}, flip=1.0)
    for index in range(8):
        before = len(drawn)
        row = rows[index]
        assert len(drawn) > before
        first, second, view, made = drawn[-1]
        assert not view.transform.flip
        assert not made.view.transform.flip
        assert np.isfinite(made.shown[:, 0]).mean() >= COVISIBLE
        turn = Rotation.from_matrix(first.pose[:3, :3].T @ second.pose[:3, :3]).as_euler("YXZ", degrees=True)
        text = said(rows, row)[0].partition("->")[2]
        assert get_task("rotation").answer.read(text) == pytest.approx(turn, rel=0.08, abs=0.11)


def test_a_marker_of_a_pair_row_stands_on_the_first_picture_only(room):
    rows = training_rows(room, {"match": 1.0}, references=("arrow",), words=True, marker_word=True)
    token = rows.processor.tokenizer.convert_tokens_to_ids("\u2581arrow")
    for index in range(6):
        row = rows[index]
        assert len(row.questions) == 1, "one marker, one question, and no text reference for more"
        assert "arrow" in said(rows, row)[0]
        tokens = int(row.images["image_grid_thw"][0].prod())  # nano merges none
        assert token in row.words[:tokens]
        assert token not in row.words[tokens:]
    both = training_rows(room, {"match": 1.0}, references=("arrow", "text"))
    assert max(len(both[index].questions) for index in range(6)) > 1


def test_match_words_say_where_the_first_picture_shows_what_the_second_one_does(room):
    """Told by hand from the two views: every word is a place at which the first picture shows a point of that cell."""
    rows = training_rows(room, {"match": 1.0}, words=True, match_words=True)
    plain = training_rows(room, {"match": 1.0}, words=True)
    checked = 0
    for index in range(6):
        row, other = rows[index], plain[index]
        first, second = (int(grid.prod()) for grid in row.images["image_grid_thw"])
        assert row.words[:first] == other.words[:first], "the first picture keeps its distances"
        rng = np.random.default_rng([0, index])
        rows._draws_pair(rng)
        sample = room[rows.mixture.at(index)[1]]
        partner = room[find_partner(room, rows.mixture.at(index)[1], 0)]
        view, shown = rows._draw_pair(sample, partner, rows._draw_reference(rng), rng)
        columns = shown.view.image.width // 16
        for token, word in enumerate(row.words[first:]):
            inside = [
                k for k, (u, v) in enumerate(shown.shown)
                if np.isfinite(u) and ((u + 0.5) // 16, (v + 0.5) // 16) == (token % columns, token // columns)
            ]  # fmt: skip
            if word == IGNORE:
                assert not inside
                continue
            axis = (token % columns + token // columns) % 2
            side = view.image.size[axis]
            said = rows.processor.decode([word]).strip()
            assert said[0] == "xy"[axis]
            places = [min(99, round((view.uv[k][axis] + 0.5) / side * 100)) for k in inside]
            assert min(abs(int(said[1:]) - place) for place in places) <= 1
            checked += 1
        assert second == len(row.words) - first
    assert checked > 30


def test_rows_are_a_function_of_their_index(room):
    tasks = dict.fromkeys(PAIR_TASKS, 1.0)
    one, two = training_rows(room, tasks), training_rows(room, tasks)
    forward = [one[i] for i in range(5)]
    for i in reversed(range(5)):
        assert (two[i].prefix, two[i].questions) == (forward[i].prefix, forward[i].questions)


def test_samples_without_partners(room, monkeypatch):
    bare = [replace(one, pose=None) for one in room]
    single = training_rows(bare, {"moved": 1.0, "distance": 1.0})
    assert all(len(single[i].images["image_grid_thw"]) == 1 for i in range(6)), "the other tasks are asked"
    mixed = training_rows([*room, *bare], {"moved": 1.0})
    assert all(len(mixed[i].images["image_grid_thw"]) == 2 for i in range(6)), "another sample is taken"
    assert not mixed.bad
    monkeypatch.setattr("depthlm.training.conversations._MISSES", 20)
    with pytest.raises(InputError, match="tasks moved have nothing to ask in 20 samples drawn; they need two pictures"):
        training_rows(bare, {"moved": 1.0})[0]


# --- real poses -------------------------------------------------------------------------------------------------------


def as_sample(reader, root, ref, points=1500) -> Sample:
    frame = reader.read(root, ref)
    chosen = np.linspace(0, frame.labels.count - 1, min(points, frame.labels.count)).astype(int)
    uv, z = frame.labels.take(chosen, frame.camera)
    return Sample(frame.image, frame.camera, uv, z, scene=ref.scene, frame=ref.id, pose=frame.pose)


def check(first: Sample, other: Sample, raw_first: np.ndarray, raw_other: np.ndarray) -> None:
    """Truth of all tasks against 4x4 camera-to-world matrices that never went through our readers."""
    turn = Rotation.from_matrix(raw_first[:3, :3]).inv() * Rotation.from_matrix(raw_other[:3, :3])
    way = raw_first[:3, :3].T @ (raw_other[:3, 3] - raw_first[:3, 3])
    here = pair_context(first, other)
    assert get_task("rotation").ask(here).truth == pytest.approx(turn.as_euler("YXZ", degrees=True), abs=1e-3)
    assert get_task("angle").ask(here).truth == pytest.approx(np.degrees(turn.magnitude()), abs=1e-3)
    if np.linalg.norm(way) > 0.05:
        assert get_task("moved").ask(here).truth == pytest.approx(np.linalg.norm(way), rel=1e-4)
        assert get_task("direction").ask(here).truth == pytest.approx(way / np.linalg.norm(way), abs=1e-3)


def raw_pose(quaternion, translation) -> np.ndarray:
    """w x y z and metres -> [4, 4], by scipy."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()
    pose[:3, 3] = translation
    return pose


def test_real_ddad_pairs(samples_dir):
    """Three moments of six cameras: consecutive pictures of one camera are pairs, and points move as the poses say."""
    root, reader = samples_dir / "ddad", get_reader("ddad")
    refs = list(reader.index(root, "val"))[:3]
    scene = json.loads(next((root / "scene_02").glob("scene_*.json")).read_text())
    raw = {}
    for datum in scene["data"]:
        if "image" in datum["datum"]:
            pose = datum["datum"]["image"]["pose"]
            q, t = pose["rotation"], pose["translation"]
            raw[datum["datum"]["image"]["filename"]] = raw_pose(
                [q["qw"], q["qx"], q["qy"], q["qz"]], [t["x"], t["y"], t["z"]]
            )
    data = [as_sample(reader, root, ref) for ref in refs]
    poses = [raw[ref.id.partition("/")[2]] for ref in refs]
    for i, j in itertools.permutations(range(3), 2):
        check(data[i], data[j], poses[i], poses[j])
        assert covisibility(data[i], data[j]) > COVISIBLE
        uv, state = sight(data[i], data[j])
        row = int(np.flatnonzero(state == Sight.VISIBLE)[0])
        xyz = np.append(data[i].camera.unproject(data[i].uv[row], data[i].z[row])[0], 1)
        x, y, z, _ = np.linalg.inv(poses[j]) @ poses[i] @ xyz
        camera = data[j].camera
        assert uv[row] == pytest.approx((camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy), abs=0.05)
    assert {find_partner(data, 0, seed) for seed in range(20)} == {1, 2}
    way = get_task("direction").ask(pair_context(data[0], data[2])).truth
    assert way[2] > 0.99, "the front camera of a car moves forward"


def test_real_nuscenes_poses(samples_dir):
    """One key frame: its six cameras look away from each other, so that no two of them are a pair."""
    root, reader = samples_dir / "nuscenes", get_reader("nuscenes")
    refs = list(reader.index(root, "mini"))
    tables = {name: json.loads((root / "v1.0-mini" / f"{name}.json").read_text())
              for name in ("sample_data", "ego_pose", "calibrated_sensor")}  # fmt: skip
    ego = {row["token"]: row for row in tables["ego_pose"]}
    mount = {row["token"]: row for row in tables["calibrated_sensor"]}
    raw = {}
    for row in tables["sample_data"]:
        if row["filename"] in {ref.id for ref in refs}:
            steps = (ego[row["ego_pose_token"]], mount[row["calibrated_sensor_token"]])
            vehicle, camera = (raw_pose(step["rotation"], step["translation"]) for step in steps)
            raw[row["filename"]] = vehicle @ camera
    data = [as_sample(reader, root, ref) for ref in refs]
    for i, j in [(0, 1), (1, 0), (0, 3), (4, 5)]:
        check(data[i], data[j], raw[refs[i].id], raw[refs[j].id])
    right = get_task("rotation").ask(pair_context(data[0], data[1])).truth
    assert 45 < right[0] < 65, "CAM_FRONT_RIGHT looks to the right of CAM_FRONT"
    assert find_partner(data, 0, seed=0) is None


def test_real_argoverse2_pairs(samples_dir, tmp_path):
    """Blank pictures at real moments of the front camera, 0.1 s apart."""
    name, reader = "7fab2350-7eaf-3b7e-a39d-6937a4c1bede", get_reader("argoverse2")
    log = tmp_path / "val" / name
    shutil.copytree(samples_dir / "argoverse2/val" / name, log)
    poses = feather.read_table(log / "city_SE3_egovehicle.feather").to_pylist()
    sweeps = sorted(int(path.stem) for path in (log / "sensors/lidar").iterdir())
    city = {row["timestamp_ns"]: row for row in poses}
    times = [min(city, key=lambda t, s=sweep: abs(t - s) if t != s else math.inf) for sweep in sweeps]
    for time in times:
        file = log / f"sensors/cameras/ring_front_center/{time}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1550, 2048)).save(file)
    mounts = feather.read_table(log / "calibration/egovehicle_SE3_sensor.feather").to_pylist()
    mount = next(row for row in mounts if row["sensor_name"] == "ring_front_center")

    def pose(row):
        return raw_pose([row[k] for k in ("qw", "qx", "qy", "qz")], [row[k] for k in ("tx_m", "ty_m", "tz_m")])

    data = [as_sample(reader, tmp_path, ref) for ref in reader.index(tmp_path, "val")]
    assert len(data) == 2
    raw = [pose(city[time]) @ pose(mount) for time in times]
    check(data[0], data[1], *raw)
    check(data[1], data[0], *raw[::-1])
    assert (find_partner(data, 0, seed=0), find_partner(data, 1, seed=0)) == (1, 0)
