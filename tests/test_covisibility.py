"""Co-visibility from sparse points, against rendered depth and against scenes small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from depthlm.camera import Camera
from depthlm.covisibility import COVISIBLE, NEAR, WINDOW, Sight, covisibility, find_partner, sight
from depthlm.sample import Sample
from depthlm.synth.generate import to_sample
from depthlm.synth.render import render
from depthlm.synth.scene import build_scene, sample_camera

CAMERA = Camera(100.0, 100.0, 49.5, 39.5, 100, 80)


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def sample(uv, z, pose=None, scene="room", camera=CAMERA) -> Sample:
    return Sample(b"", camera, np.asarray(uv, float), np.asarray(z, float), scene=scene, pose=pose)


def grid(z: float, pose: np.ndarray | None, scene: str = "room") -> Sample:
    """A wall z metres before the camera, a point every 4 pixels."""
    u, v = np.meshgrid(np.arange(2, 100, 4), np.arange(2, 80, 4))
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    return sample(uv, np.full(len(uv), z), pose, scene)


@pytest.mark.parametrize(
    ("label", "state"),
    [
        (((60.0, 40.0), 2.0), Sight.VISIBLE),  # the camera moved 0.5 m to the left: 25 px to the right at 2 m
        (((60.0, 40.0), 2.1), Sight.VISIBLE),  # within 10 %
        (((60.0, 40.0), 1.5), Sight.HIDDEN),  # something stands before it
        (((60.0, 40.0), 2.5), Sight.HIDDEN),  # it is not there any more
        (((60.0, 46.0), 2.0), Sight.UNKNOWN),  # 6 px away, of 100: too far to say
        (None, Sight.UNKNOWN),
    ],
)
def test_what_the_nearest_label_says(label, state):
    first = sample([(35.0, 40.0)], [2.0], at())
    second = sample(*([[label[0]], [label[1]]] if label else [np.empty((0, 2)), []]), at(x=-0.5))
    uv, states = sight(first, second)
    assert uv[0] == pytest.approx((60, 40))
    assert states.tolist() == [state]
    assert NEAR * CAMERA.width == 5


@pytest.mark.parametrize("pose", [at(z=2.5), at(x=5.0)])
def test_behind_and_beside(pose):
    uv, states = sight(sample([(49.5, 39.5)], [2.0], at()), sample([(49.5, 39.5)], [2.0], pose))
    assert states.tolist() == [Sight.OUTSIDE]
    assert np.isnan(uv).all() == (pose[2, 3] > 0)


def test_of_a_wall_what_stays_in_the_picture_is_covisible():
    """Half a picture's width to the side at 2 m is one metre."""
    first, second = grid(2.0, at()), grid(2.0, at(x=1.0))
    assert covisibility(first, second) == pytest.approx(0.5, abs=0.05)
    assert covisibility(second, first) == pytest.approx(0.5, abs=0.05)
    near = grid(1.0, at(z=1.0))  # sees the middle quarter of the wall, which sees all of it
    assert covisibility(first, near) == pytest.approx(0.25, abs=0.06)
    assert covisibility(near, first) == 1.0


def test_empty_samples_share_nothing():
    none = sample(np.empty((0, 2)), [], at())
    assert covisibility(none, grid(2, at())) == covisibility(grid(2, at()), none) == 0


def test_partners():
    wall = [grid(2.0, at(x=0.2 * k)) for k in range(6)]
    assert find_partner(wall, 0, seed=0) == find_partner(wall, 0, seed=0)
    drawn = {find_partner(wall, 2, seed) for seed in range(40)}
    assert drawn == {0, 1, 3, 4, 5}
    # Another scene, no pose, no scene's name, too far to the side, alone.
    for other in (grid(2.0, at(), "hall"), grid(2.0, None), grid(2.0, at(x=1.8))):
        assert find_partner([wall[0], other], 0, seed=0) is None
    assert find_partner([replace(one, scene="") for one in wall], 0, seed=0) is None
    assert find_partner([grid(2.0, None), *wall], 0, seed=0) is None
    assert find_partner(wall[:1], 0, seed=0) is None
    # What lies beyond another scene, or too many rows away, is not looked at.
    assert find_partner([wall[0], grid(2.0, at(), "hall"), wall[1]], 0, seed=0) is None
    far = [wall[0], *[grid(2.0, None)] * WINDOW, wall[1]]
    assert find_partner(far, 0, seed=0) is None
    assert find_partner(far[:-2] + far[-1:], 0, seed=0) == WINDOW


@pytest.fixture(scope="module")
def rendered():
    """Rooms seen twice from places near each other: samples, and the depth of every pixel."""
    pairs = []
    for number in range(4):
        scene = build_scene(77 + number, "indoor")
        rng = np.random.default_rng(number)
        camera, pose = sample_camera(scene, rng, (256, 192), (150.0, 200.0))
        other = pose @ at(x=0.25, z=0.15)
        views = [render(scene, camera, p, frame=str(k), rng=rng) for k, p in enumerate((pose, other))]
        pairs.append([(to_sample(scene, view, 300, rng), view.z) for view in views])
    return pairs


def test_visible_points_are_where_the_rendered_depth_says(rendered):
    """By explicit matrices and the dense depth of the second view, which the sparse decision never sees."""
    called = right = missed = 0
    for (first, _), (second, dense) in rendered:
        uv, states = sight(first, second)
        for k in range(len(first)):
            u, v = first.uv[k]
            c = first.camera
            here = np.array([(u - c.cx) / c.fx * first.z[k], (v - c.cy) / c.fy * first.z[k], first.z[k], 1.0])
            x, y, z, _ = np.linalg.inv(second.pose) @ first.pose @ here
            truly = False
            if z > 0:
                c = second.camera
                place = np.array([c.fx * x / z + c.cx, c.fy * y / z + c.cy])
                assert uv[k] == pytest.approx(place, abs=1e-6) or z < 0.05
                column, row = np.round(place).astype(int)
                inside = 0 <= column < c.width and 0 <= row < c.height
                truly = bool(inside and abs(dense[row, column] / z - 1) < 0.03)
            visible = states[k] == Sight.VISIBLE
            called += visible
            right += visible and truly
            missed += truly and not visible
        assert min(covisibility(first, second), covisibility(second, first)) >= COVISIBLE
    assert called > 400
    assert right / called > 0.95
    assert missed / (right + missed) < 0.12
