"""Motion between two cameras, against scipy and matrices written out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from depthlm.motion import angle_between, relative_pose, rotation_angle, rotation_matrix, yaw_pitch_roll
from depthlm.tasks import get_task
from test_tasks import context

ANGLES = st.tuples(st.floats(-179, 179), st.floats(-89, 89), st.floats(-179, 179))


def random_pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(rng=rng).as_matrix()
    pose[:3, 3] = rng.uniform(-5, 5, 3)
    return pose


@settings(deadline=None)  # a busy machine is no failure
@given(ANGLES)
def test_yaw_pitch_roll_are_intrinsic_about_down_right_forward(angles):
    """scipy's capital letters are intrinsic; y is down, x right, z forward."""
    expected = Rotation.from_euler("YXZ", angles, degrees=True)
    np.testing.assert_allclose(rotation_matrix(*angles), expected.as_matrix(), atol=1e-12)
    assert yaw_pitch_roll(expected.as_matrix()) == pytest.approx(expected.as_euler("YXZ", degrees=True), abs=1e-6)
    assert rotation_angle(expected.as_matrix()) == pytest.approx(np.degrees(expected.magnitude()), abs=1e-6)


@pytest.mark.parametrize(
    ("angles", "axis", "points_to"),
    [
        ((30, 0, 0), 2, (0.5, 0, 0.75**0.5)),  # yaw right: forward moves to the right (+x)
        ((0, 30, 0), 2, (0, -0.5, 0.75**0.5)),  # pitch up: forward moves up (-y)
        ((0, 0, 30), 0, (0.75**0.5, 0.5, 0)),  # bank right: the right side goes down (+y)
        ((90, 30, 0), 2, (0.75**0.5, -0.5, 0)),  # intrinsic: the pitch is about the axis that the yaw has turned
        ((180, 0, 0), 0, (-1, 0, 0)),
    ],
)
def test_signs(angles, axis, points_to):
    assert rotation_matrix(*angles)[:, axis] == pytest.approx(points_to, abs=1e-12)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(40, 90, 0), (40, -90, 0), (10, 90, 25), (-170, -90, 33)])
def test_straight_up_and_down_the_turn_itself_is_kept(yaw, pitch, roll):
    turn = rotation_matrix(yaw, pitch, roll)
    angles = yaw_pitch_roll(turn)
    assert angles[1] == pytest.approx(pitch)
    np.testing.assert_allclose(rotation_matrix(*angles), turn, atol=1e-9)


@pytest.mark.parametrize("degrees", [0, 1e-7, 1e-3, 1, 90, 179.999, 180])
def test_small_and_large_angles(degrees):
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([2, -1, 2]) / 3).as_matrix()
    assert rotation_angle(turn) == pytest.approx(degrees, rel=1e-6, abs=1e-9)


def test_between_vectors():
    assert angle_between((1, 0, 0), (0, 3, 0)) == pytest.approx(90)
    assert angle_between((1, 1, 0), (2, 2, 0)) == pytest.approx(0, abs=1e-6)
    assert angle_between((0, 0, 1), (0, 0, -2)) == pytest.approx(180)


@pytest.mark.parametrize("seed", range(5))
def test_the_relative_pose_takes_points_of_the_second_camera_to_the_first(seed):
    first, second = random_pose(seed), random_pose(seed + 100)
    motion = relative_pose(first, second)
    world = np.random.default_rng(seed).uniform(-3, 3, (7, 3))
    in_first = (world - first[:3, 3]) @ first[:3, :3]
    in_second = (world - second[:3, 3]) @ second[:3, :3]
    np.testing.assert_allclose(in_second @ motion[:3, :3].T + motion[:3, 3], in_first, atol=1e-9)
    np.testing.assert_allclose(motion[:3, 3], first[:3, :3].T @ (second[:3, 3] - first[:3, 3]), atol=1e-9)


def test_the_worked_example_of_the_documentation():
    """docs/tasks.md states a pose and what it means in words; both by explicit sines and cosines here."""
    text = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = re.search(r"```\nmotion =\n(.*?)```", text, re.DOTALL)[1].strip().splitlines()
    motion = np.array([[float(number) for number in row.strip(" []").split()] for row in rows])
    assert motion.shape == (4, 4)
    y, p, r = np.radians([30, 10, -5])
    forward = (np.sin(y) * np.cos(p), -np.sin(p), np.cos(y) * np.cos(p))
    assert motion[:3, 2] == pytest.approx(forward, abs=1e-4)
    assert motion[1, :2] == pytest.approx((np.cos(p) * np.sin(r), np.cos(p) * np.cos(r)), abs=1e-4)
    assert motion[:3, 3] == pytest.approx((0.5, -0.1, 2.0))
    assert yaw_pitch_roll(motion[:3, :3]) == pytest.approx((30, 10, -5), abs=0.02)
    answers = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \|$",
        text.partition("### A worked example")[2].partition("\n### ")[0],
        re.MULTILINE,
    )
    assert [name for name, _, _ in answers] == ["moved", "rotation", "direction", "angle"]
    for name, english, nano in answers:
        assert get_task(name).ask(context(prompt="depthlm", motion=motion)).answer == english
        assert get_task(name).ask(context(prompt="nano", motion=motion)).answer == nano
    assert f"{np.linalg.norm(motion[:3, 3]):.2f}" in answers[0][1]
    unit = motion[:3, 3] / np.linalg.norm(motion[:3, 3])
    assert "({:+.2f}, {:+.2f}, {:+.2f})".format(*unit) in answers[2][1]
    assert f"{np.degrees(Rotation.from_matrix(motion[:3, :3]).magnitude()):.1f}" in answers[3][1]
