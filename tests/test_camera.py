"""Camera: the pixel-centre rule, and a 3D point that stays on its pixel through every image operation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthlm.camera import Camera, resize_uv
from depthlm.errors import InputError

CAMERA = Camera(559.62, 558.14, 361.87, 241.99, 640, 480)

steps = st.one_of(
    st.tuples(st.just("resize"), st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.just("crop"), st.integers(-50, 500), st.integers(-50, 500), st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.just("pad"), *(st.integers(0, 60) for _ in range(4))),
    st.tuples(st.just("unify_focal"), st.floats(50, 2000)),
)


@settings(max_examples=200, deadline=None)
@given(chain=st.lists(steps, max_size=6), u=st.floats(-0.5, 639.4), v=st.floats(-0.5, 479.4), z=st.floats(0.05, 300))
def test_any_chain_keeps_a_point_on_its_pixel(chain: list, u: float, v: float, z: float) -> None:
    camera, uv = CAMERA, np.array([[u, v]])
    xyz = camera.unproject(uv, [z])
    for name, *arguments in chain:
        moved = getattr(camera, name)(*arguments)
        # The pixel is moved by what the operation does to pictures, written out here once more on its own.
        if name in ("resize", "unify_focal"):
            uv = (uv + 0.5) * np.array([moved.width / camera.width, moved.height / camera.height]) - 0.5
        else:
            uv = uv + (1 if name == "pad" else -1) * np.array(arguments[:2])
        camera = moved
    np.testing.assert_allclose(camera.project(xyz), uv, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(camera.unproject(uv, [z]), xyz, rtol=1e-7, atol=1e-7)


@settings(max_examples=300, deadline=None)
@given(
    st.floats(60, 5000),
    st.floats(0.8, 1.25),
    st.integers(8, 6000),
    st.integers(8, 6000),
    st.sampled_from([180, 750, 1000]),
)
def test_unified_focal_holds_to_half_a_pixel_of_the_size(fx: float, ratio: float, w: int, h: int, focal: int) -> None:
    camera = Camera(fx, fx * ratio, w / 2, h / 2, w, h)
    unified = camera.unify_focal(focal)
    if w * focal / fx >= 1:
        assert abs(unified.fx / focal - 1) <= 0.5 / unified.width + 1e-12
    if h * focal / (fx * ratio) >= 1:
        assert abs(unified.fy / focal - 1) <= 0.5 / unified.height + 1e-12


def test_plain_rounding_would_miss_the_bound() -> None:
    camera = Camera(2.0, 2.0, 0, 0, 23, 23)  # 11.5 columns: 12 is off by 0.5/11.5 > 0.5/12
    assert camera.unified_size(1.0) == (11, 11)


@pytest.mark.parametrize(
    ("uv", "to", "expected"),
    [
        ((0, 0), (2, 2), (0.5 * 2 / 4 - 0.5, 0.5 * 2 / 4 - 0.5)),
        ((-0.5, -0.5), (9, 7), (-0.5, -0.5)),  # the image's corner stays its corner
        ((3.5, 3.5), (8, 1), (7.5, 0.5)),
        ((1.5, 1.5), (4, 4), (1.5, 1.5)),
    ],
)
def test_resize_uv(uv: tuple[float, float], to: tuple[int, int], expected: tuple[float, float]) -> None:
    np.testing.assert_allclose(resize_uv([uv], (4, 4), to), [expected])


def test_resize_by_hand() -> None:
    assert Camera(100, 200, 49.5, 24.5, 100, 50).resize(200, 25) == Camera(200, 100, 99.5, 12.0, 200, 25)


def test_crop_and_pad_are_inverse() -> None:
    assert CAMERA.pad(3, 5, 7, 11).crop(3, 5, 640, 480) == CAMERA
    assert CAMERA.pad(3, 5, 7, 11).width == 650
    assert CAMERA.crop(10, 20, 30, 40) == Camera(559.62, 558.14, 351.87, 221.99, 30, 40)


def test_fov_and_35mm() -> None:
    camera = Camera.from_fov(640, 480, 90)
    assert camera.fx == pytest.approx(320) == camera.fy
    assert (camera.cx, camera.cy) == (319.5, 239.5)
    assert camera.fov_x == pytest.approx(90)
    assert Camera.from_35mm(math.hypot(36, 24), 3000, 4000).fx == pytest.approx(5000)


def test_distance_is_z_times_ray_factor() -> None:
    uv, z = np.array([[0.0, 0.0], [361.87, 241.99], [639.4, 479.4]]), np.array([1.0, 2.0, 30.0])
    np.testing.assert_allclose(np.linalg.norm(CAMERA.unproject(uv, z), axis=1), z * CAMERA.ray_factor(uv))
    assert CAMERA.ray_factor([[361.87, 241.99]])[0] == 1


def test_contains_pixel_areas_of_a_one_pixel_image() -> None:
    uv = [(-0.5, -0.5), (0, 0), (0.49, 0.49), (0.5, 0), (0, 0.5), (-0.51, 0)]
    assert Camera(1, 1, 0, 0, 1, 1).contains(uv).tolist() == [True, True, True, False, False, False]
    assert Camera(1, 1, 0, 0, 1, 1).contains(np.empty((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": 0.0}, "camera fx is 0"),
        ({"fy": math.nan}, "camera fy is nan"),
        ({"fx": -3.0}, "camera fx is -3"),
        ({"cx": math.inf}, "camera cx is inf"),
        ({"width": 0}, "camera width is 0"),
    ],
)
def test_bad_cameras_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Camera(**{**CAMERA.to_dict(), **change})


@pytest.mark.parametrize("fov", [0, 180, -5, math.nan])
def test_bad_fov_is_refused(fov: float) -> None:
    with pytest.raises(InputError, match="field of view"):
        Camera.from_fov(640, 480, fov)


def test_project_needs_points_in_front() -> None:
    with pytest.raises(ValueError, match="in front"):
        CAMERA.project([[0, 0, -1]])
