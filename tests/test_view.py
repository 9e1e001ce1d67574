"""View: what the picture shows and what its camera says are one thing, measured on rendered dots."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.sample import Sample
from depthlm.view import CropConfig, PixelMap, ViewConfig, make_training_view, make_view

CAMERA = Camera(559.62, 538.14, 361.87, 241.99, 640, 480)
SMALL = CropConfig(width=(300, 500), height=(250, 400), position="jitter")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def grey(width: int = 640, height: int = 480) -> Image.Image:
    return Image.new("RGB", (width, height), (60, 60, 60))


def sample_with(uv: list[tuple[float, float]], camera: Camera = CAMERA) -> Sample:
    return Sample(png(grey(camera.width, camera.height)), camera, np.array(uv).reshape(-1, 2), np.full(len(uv), 2.0))


def with_dot(image: Image.Image, uv: tuple[float, float], sigma: float) -> Image.Image:
    """A Gaussian dot at a sub-pixel place, added to the picture."""
    v, u = np.mgrid[: image.height, : image.width]
    dot = 140 * np.exp(-((u - uv[0]) ** 2 + (v - uv[1]) ** 2) / (2 * sigma**2))
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + dot[..., None]), 0, 255).astype(np.uint8))


def centroid(image: Image.Image, without: Image.Image, near: np.ndarray, reach: float) -> np.ndarray:
    """Where the added light is: its mean position within `reach` pixels of `near`."""
    light = (np.asarray(image).astype(float) - np.asarray(without)).sum(axis=2)
    v, u = np.mgrid[: image.height, : image.width]
    light *= np.hypot(u - near[0], v - near[1]) < reach
    return np.array([(light * u).sum(), (light * v).sum()]) / light.sum()


CONFIGS = [
    ViewConfig(focal=1000, grid=28),
    ViewConfig(focal=750, grid=16),
    ViewConfig(focal=333.3, grid=32),
    ViewConfig(focal=750, grid=16, geometry="official"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.geometry}-{c.focal:g}")
@pytest.mark.parametrize("uv", [(200.3, 150.8), (33.25, 440.5), (610.0, 25.7)])
@pytest.mark.parametrize("margin", [0, 60])
def test_a_rendered_dot_is_where_the_camera_says(config: ViewConfig, uv: tuple[float, float], margin: int) -> None:
    check_dot(grey(), uv, lambda image: make_view(image, CAMERA, [uv], [3.0], config=config, margin=margin))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.geometry}-{c.focal:g}")
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("aspect", [None, (1.2, 1.2)])
def test_a_rendered_dot_in_a_training_crop(config: ViewConfig, flip: float, aspect: tuple[float, float] | None) -> None:
    uv, scale = (320.4, 230.7), config.focal / 560
    crop = CropConfig(
        width=(int(400 * scale), int(500 * scale)),
        height=(int(200 * scale), int(300 * scale)),
        position="jitter",
        flip=flip,
        aspect_jitter=aspect,
    )

    def view(image: Image.Image):
        sample = Sample(png(image), CAMERA, np.array([uv]), np.array([3.0]))
        return make_training_view(sample, config=config, rng=np.random.default_rng(5), crop=crop, margin=40)

    check_dot(grey(), uv, view)


def test_a_rendered_dot_on_a_photograph(samples_dir: Path) -> None:
    photo = Image.open(samples_dir / "ibims1_official/rgb/corridor_10.png").convert("RGB").point(lambda p: p // 3)
    uv = (411.6, 222.2)
    for config in CONFIGS:
        check_dot(photo, uv, lambda image, config=config: make_view(image, CAMERA, [uv], [3.0], config=config))


def check_dot(plain: Image.Image, uv: tuple[float, float], view) -> None:
    sigma = 4.0
    marked, without = view(with_dot(plain, uv, sigma)), view(plain)
    predicted = marked.camera.project(CAMERA.unproject([uv], [3.0]))
    reach = 6 * sigma * marked.camera.fx / CAMERA.fx
    if marked.transform.flip:  # the mirrored world: x -> -x
        predicted = marked.camera.project(CAMERA.unproject([uv], [3.0]) * (-1, 1, 1))
    seen = centroid(marked.image, without.image, predicted[0], reach)
    np.testing.assert_allclose(seen, predicted[0], atol=0.05)
    if marked.transform.official is None:
        np.testing.assert_allclose(marked.uv, predicted, atol=1e-9)


# --- exact geometry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [14, 16, 28, 32])
def test_evaluation_view_lands_on_the_grid_by_padding(grid: int) -> None:
    view = make_view(grey(), CAMERA, [(0, 0), (639, 479)], config=ViewConfig(focal=1000, grid=grid))
    assert view.image.size == (view.camera.width, view.camera.height)
    assert view.image.width % grid == view.image.height % grid == 0
    width, height = view.transform.resized
    assert view.image.width - width < grid
    assert view.image.height - height < grid
    pixels = np.asarray(view.image)
    assert (pixels[:height, :width] == 60).all()
    assert (pixels[height:] == 0).all()
    assert (pixels[:, width:] == 0).all()
    assert view.z is None
    assert view.index.tolist() == [0, 1]


def test_the_picture_is_pil_bicubic_resampled_once(samples_dir: Path) -> None:
    photo = Image.open(samples_dir / "ibims1_official/rgb/corridor_10.png").convert("RGB")
    view = make_view(photo, CAMERA, [], config=ViewConfig(focal=1000, grid=28))
    width, height = view.transform.resized
    expected = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(view.image)[:height, :width], expected)


@pytest.mark.parametrize("geometry", ["exact", "official"])
@pytest.mark.parametrize("uv", [(0.0, 0.0), (-0.5, -0.5), (639.49, 479.49), (0.0, 479.0), (320.0, 240.0)])
def test_margin_pads_until_a_marker_fits(uv: tuple[float, float], geometry: str) -> None:
    config = ViewConfig(focal=400, grid=28, geometry=geometry)  # type: ignore[arg-type]
    view = make_view(grey(), CAMERA, [uv], config=config, margin=5)
    (u, v), (width, height) = view.uv[0], view.image.size
    for pixel in (np.floor(u), np.ceil(u)):
        assert 5 <= pixel < width - 5
    for pixel in (np.floor(v), np.ceil(v)):
        assert 5 <= pixel < height - 5
    if geometry == "exact":
        np.testing.assert_allclose(view.transform.inverse(view.uv), [uv], atol=1e-9)
    if uv == (320.0, 240.0):
        assert (view.transform.left, view.transform.top) == (0, 0)


def test_points_that_fit_cause_no_padding_before_them() -> None:
    view = make_view(grey(), CAMERA, [(5, 5)], config=ViewConfig(focal=1000, grid=28), margin=5)
    assert (view.transform.left, view.transform.top) == (0, 0)


def test_one_pixel_image() -> None:
    view = make_view(
        grey(1, 1), Camera(1000, 1000, 0, 0, 1, 1), [(0, 0)], [1.0], config=ViewConfig(focal=1000, grid=28)
    )
    assert view.image.size == (28, 28)
    assert view.uv.tolist() == [[0, 0]]


def test_no_points() -> None:
    view = make_view(grey(), CAMERA, [], config=ViewConfig(focal=300, grid=28), margin=5)
    assert view.uv.shape == (0, 2)


def test_pixel_caps() -> None:
    large = make_view(grey(), CAMERA, [(3, 4)], config=ViewConfig(focal=1000, grid=28, max_size=300_000))
    assert 270_000 < large.image.width * large.image.height <= 300_000
    assert large.camera.fx < 1000
    np.testing.assert_allclose(large.camera.project(CAMERA.unproject([(3, 4)], [2.0])), large.uv, atol=1e-9)
    small = make_view(grey(), CAMERA, [(3, 4)], config=ViewConfig(focal=10, grid=28, min_size=5000))
    assert small.image.width * small.image.height >= 5000
    assert small.image.width % 28 == small.image.height % 28 == 0
    with pytest.raises(InputError, match="less than one"):
        make_view(grey(), CAMERA, [], config=ViewConfig(focal=1000, grid=28, max_size=100))


@settings(max_examples=100, deadline=None)
@given(
    source=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    resized=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    left=st.integers(-100, 2000),
    top=st.integers(-100, 2000),
    flip=st.booleans(),
    uv=st.tuples(st.floats(-1, 5000), st.floats(-1, 5000)),
)
def test_pixel_map_inverse_is_exact(source, resized, left, top, flip, uv) -> None:
    pixels = PixelMap(source, resized, left, top, flip)
    tolerance = 1e-9 * max(1, *(s / r for s, r in zip(source, resized, strict=True))) * 1000
    np.testing.assert_allclose(pixels.inverse(pixels.forward([uv])), [uv], atol=tolerance)


@pytest.mark.parametrize(
    ("uv", "message"),
    [((640, 0), "outside the 640x480"), ((0, -0.6), "outside"), ((np.nan, 0), "outside")],
)
def test_points_outside_are_refused(uv: tuple[float, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_view(grey(), CAMERA, [uv], config=ViewConfig(focal=1000, grid=28))


def test_another_picture_than_the_cameras_is_refused() -> None:
    with pytest.raises(InputError, match="320x240 but its camera says 640x480"):
        make_view(grey(320, 240), CAMERA, [], config=ViewConfig(focal=1000, grid=28))


def test_native_keeps_the_picture_s_own_focal_length() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    camera = Camera(50.0, 52.0, 30.0, 25.0, 64, 48)
    view = make_view(photo, camera, [(10.25, 20.5)], [1.0], config=ViewConfig(focal=999, grid=1, geometry="native"))
    assert view.image.tobytes() == photo.tobytes()
    assert view.camera == camera
    assert view.uv.tolist() == [[10.25, 20.5]]
    padded = make_view(photo, camera, [(10, 20)], config=ViewConfig(focal=999, grid=28, geometry="native"))
    assert (padded.image.size, padded.camera.fx, padded.camera.fy) == ((84, 56), 50.0, 52.0)
    small = make_view(photo, camera, [], config=ViewConfig(focal=999, grid=1, geometry="native", max_size=800))
    assert small.image.width * small.image.height <= 800
    assert small.camera.fx == pytest.approx(50 * small.image.width / 64)
    with pytest.raises(InputError, match="expected one of exact, official, native"):
        ViewConfig(focal=1, grid=1, geometry="raw")  # type: ignore[arg-type]


# --- official geometry ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fx", "focal", "uv", "size", "expected"),
    [
        # 750/559.62 = 1.340195...: 640 -> 857.7 -> 857, 480 -> 643.3 -> 643 (the 857x643 of paper.md 6.1, defect 4)
        (559.62, 750, (297, 95), (857, 643), (398, 127)),
        (559.62, 750, (0, 479), (857, 643), (0, 641)),
        # 0.75: 480x360; 101 * .75 = 75.75 -> 75
        (1000.0, 750, (101, 33), (480, 360), (75, 24)),
        (1000.0, 1000, (639, 479), (640, 480), (639, 479)),
        # y is scaled by f/fx although fy differs
        (500.0, 1000, (10.9, 20.4), (1280, 960), (21, 40)),
    ],
)
def test_official_geometry_by_hand(fx, focal, uv, size, expected) -> None:
    camera = Camera(fx, 538.14, 320, 240, 640, 480)
    view = make_view(grey(), camera, [uv], [1.0], config=ViewConfig(focal=focal, grid=16, geometry="official"))
    assert view.image.size == size
    assert view.uv.tolist() == [list(expected)]
    assert view.camera == camera.resize(*size)  # the true camera, which the released code does not know


def test_official_resample_is_pils_default(samples_dir: Path) -> None:
    photo = Image.open(samples_dir / "ibims1_official/rgb/corridor_02.png").convert("RGB")
    view = make_view(photo, CAMERA, [], config=ViewConfig(focal=750, grid=16, geometry="official"))
    np.testing.assert_array_equal(np.asarray(view.image), np.asarray(photo.resize((857, 643))))


# --- training crops ---------------------------------------------------------------------------------------------------


def test_crop_sizes_and_positions() -> None:
    sample = sample_with([(320, 240)])
    rng, config = np.random.default_rng(0), ViewConfig(focal=560, grid=28)
    sizes, lefts = set(), set()
    for _ in range(60):
        view = make_training_view(sample, config=config, rng=rng, crop=SMALL)
        assert view.image.size == (view.camera.width, view.camera.height)
        assert view.image.width % 28 == view.image.height % 28 == 0
        assert 280 <= view.image.width <= 500
        assert 224 <= view.image.height <= 400
        assert (np.asarray(view.image) == 60).all()  # inside the image: no black
        sizes.add(view.image.size)
        lefts.add(view.transform.left)
    assert len(sizes) > 10
    assert len(lefts) > 20


def test_default_crop_is_the_papers_centred_one() -> None:
    camera = Camera(1000, 1000, 1000, 800, 2000, 1600)
    sample = sample_with([(1000, 800)], camera)
    for seed in range(5):
        view = make_training_view(sample, config=ViewConfig(focal=1000, grid=28), rng=np.random.default_rng(seed))
        assert 1000 - 27 <= view.image.width <= 1400
        assert 700 - 27 <= view.image.height <= 1200
        assert view.transform.left == (2000 - view.image.width) // 2
        assert view.transform.top == (1600 - view.image.height) // 2


def test_same_seed_same_crop() -> None:
    sample, config = sample_with([(320, 240), (10, 10)]), ViewConfig(focal=560, grid=28)
    first, second = (
        make_training_view(sample, config=config, rng=np.random.default_rng(7), crop=SMALL) for _ in range(2)
    )
    assert first.transform == second.transform
    np.testing.assert_array_equal(first.image, second.image)


def test_image_smaller_than_the_crop_and_than_a_patch() -> None:
    tiny = sample_with([(2, 2)], Camera(100, 100, 4.5, 4.5, 10, 10))
    view = make_training_view(tiny, config=ViewConfig(focal=100, grid=28), rng=np.random.default_rng(0), margin=2)
    assert view.image.size == (28, 28)
    assert view.index.tolist() == [0]
    clipped = make_training_view(
        sample_with([(320, 240)]), config=ViewConfig(focal=560, grid=28), rng=np.random.default_rng(0)
    )
    assert clipped.image.size == (640 // 28 * 28, 476)


def test_points_that_do_not_fit_are_left_out() -> None:
    grid = [(float(u), float(v)) for u in range(0, 640, 16) for v in range(0, 480, 16)]
    sample, config = sample_with(grid), ViewConfig(focal=560, grid=28)
    for seed in range(10):
        view = make_training_view(sample, config=config, rng=np.random.default_rng(seed), crop=SMALL, margin=5)
        assert 0 < len(view.index) < len(grid)
        assert (view.uv >= 5).all()
        assert (view.uv <= np.array(view.image.size) - 6).all()
        np.testing.assert_allclose(view.transform.inverse(view.uv), sample.uv[view.index], atol=1e-9)
        left_out = np.setdiff1d(np.arange(len(grid)), view.index)
        moved = view.transform.forward(sample.uv[left_out])
        assert ((moved < 5) | (moved > np.array(view.image.size) - 6)).any(axis=1).all()


@pytest.mark.parametrize("uv", [(0.0, 0.0), (639.4, 479.4), (-0.5, 479.0), (600.0, 10.0)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_lone_border_point_is_never_lost_nor_replaced(uv: tuple[float, float], flip: float) -> None:
    sample, config = sample_with([uv]), ViewConfig(focal=560, grid=28)
    for position in ("centre", "jitter"):
        crop = CropConfig(width=(100, 150), height=(100, 150), position=position, flip=flip)  # type: ignore[arg-type]
        view = make_training_view(sample, config=config, rng=np.random.default_rng(1), crop=crop, margin=5)
        assert view.index.tolist() == [0]
        assert (view.uv >= 5).all()
        assert (view.uv <= np.array(view.image.size) - 6).all()
        np.testing.assert_allclose(view.transform.inverse(view.uv), [uv], atol=1e-9)


def test_sample_without_points_and_marker_larger_than_the_crop() -> None:
    config, rng = ViewConfig(focal=560, grid=28), np.random.default_rng(0)
    assert len(make_training_view(sample_with([]), config=config, rng=rng, crop=SMALL, margin=5).index) == 0
    tiny = CropConfig(width=(28, 28), height=(28, 28))
    with pytest.raises(InputError, match="does not fit"):
        make_training_view(sample_with([(3, 3)]), config=config, rng=rng, crop=tiny, margin=20)


def test_aspect_jitter_changes_fy_alone() -> None:
    crop = CropConfig(width=(900, 900), height=(900, 900), aspect_jitter=(1.25, 1.25))
    config = ViewConfig(focal=560, grid=28)
    view = make_training_view(sample_with([(320, 240)]), config=config, rng=np.random.default_rng(0), crop=crop)
    assert view.camera.fx == pytest.approx(560, rel=1e-3)
    assert view.camera.fy == pytest.approx(560 / 1.25, rel=2e-3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ViewConfig(focal=0, grid=28), "focal"),
        (lambda: ViewConfig(focal=1000, grid=0), "grid"),
        (lambda: ViewConfig(focal=1000, grid=28, geometry="other"), "geometry"),  # type: ignore[arg-type]
        (lambda: CropConfig(width=(10, 5)), "crop width"),
        (lambda: CropConfig(position="left"), "position"),  # type: ignore[arg-type]
        (lambda: CropConfig(aspect_jitter=(0, 1)), "aspect"),
        (lambda: CropConfig(flip=2), "flip"),
    ],
)
def test_bad_configurations_are_refused(build, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
