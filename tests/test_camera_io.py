"""Camera files, EXIF, precedence, and lens distortion there and back."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from depthlm import camera_io
from depthlm.camera import Camera
from depthlm.camera_io import LensCamera, camera_from_exif, read_camera, resolve_camera
from depthlm.errors import InputError
from depthlm.sample import decode_image, upright_size

OWN = {"fx": 500.0, "fy": 510.0, "cx": 320.5, "cy": 239.0, "width": 640, "height": 480}
CAMERA = Camera(**OWN)
ROS = """
image_width: 640
image_height: 480
camera_name: left
camera_matrix:
  rows: 3
  cols: 3
  data: [500.0, 0., 320.5, 0., 510.0, 239.0, 0., 0., 1.]
distortion_model: {model}
distortion_coefficients:
  rows: 1
  cols: 5
  data: {data}
projection_matrix:
  rows: 3
  cols: 4
  data: [1., 0., 0., 0., 0., 1., 0., 0., 0., 0., 1., 0.]
"""


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "lens"),
    [
        ("c.json", OWN, LensCamera(CAMERA)),
        ("c.yaml", "fx: 500\nfy: 510\ncx: 320.5\ncy: 239\nwidth: 640\nheight: 480\n", LensCamera(CAMERA)),
        (
            "c.json",
            {**OWN, "model": "opencv", "distortion": [0.1, -0.2]},
            LensCamera(CAMERA, "opencv", (0.1, -0.2, 0, 0)),
        ),
        (
            "c.json",
            {**OWN, "model": "fisheye", "distortion": [0.1, 0.2, 0.3, 0.4]},
            LensCamera(CAMERA, "fisheye", (0.1, 0.2, 0.3, 0.4)),
        ),
        (
            "c.yaml",
            ROS.format(model="plumb_bob", data="[-0.3, 0.1, 0.001, 0.002, 0.01]"),
            LensCamera(CAMERA, "opencv", (-0.3, 0.1, 0.001, 0.002, 0.01)),
        ),
        (
            "c.yaml",
            ROS.format(model="rational_polynomial", data="[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]"),
            LensCamera(CAMERA, "opencv", (1, 2, 3, 4, 5, 6, 7, 8)),
        ),
        (
            "c.yaml",
            ROS.format(model="equidistant", data="[0.1, 0.2, 0.3, 0.4]"),
            LensCamera(CAMERA, "fisheye", (0.1, 0.2, 0.3, 0.4)),
        ),
        (
            "c.yaml",
            ROS.format(model="plumb_bob", data="[0.1, 0, 0, 0, 0]").replace(
                "camera_matrix:", "camera_matrix: !!opencv-matrix"
            ),
            LensCamera(CAMERA, "opencv", (0.1, 0, 0, 0, 0)),
        ),
        (
            "c.yaml",
            "width: 640\nheight: 480\nk: [500, 0, 320.5, 0, 510, 239, 0, 0, 1]\nd: []\ndistortion_model: plumb_bob\n",
            LensCamera(CAMERA),
        ),
        (
            "c.json",
            {"width": 640, "height": 480, "intrinsic_matrix": [500, 0, 0, 0, 510, 0, 320.5, 239, 1]},
            LensCamera(CAMERA),
        ),
    ],
)
def test_files(tmp_path: Path, name: str, content: object, lens: LensCamera) -> None:
    read = read_camera(write(tmp_path, name, content), (640, 480))
    assert (read.camera, read.model, read.distortion) == (lens.camera, lens.model, lens.distortion)
    assert name in read.reason


@pytest.mark.parametrize(
    ("line", "focals", "model", "distortion"),
    [
        ("1 SIMPLE_PINHOLE 640 480 500 321 240", (500, 500), "opencv", ()),
        ("1 PINHOLE 640 480 500 510 321 240", (500, 510), "opencv", ()),
        ("1 SIMPLE_RADIAL 640 480 500 321 240 0.1", (500, 500), "opencv", (0.1, 0, 0, 0)),
        ("1 RADIAL 640 480 500 321 240 0.1 0.2", (500, 500), "opencv", (0.1, 0.2, 0, 0)),
        ("1 OPENCV 640 480 500 510 321 240 1 2 3 4", (500, 510), "opencv", (1, 2, 3, 4)),
        ("1 OPENCV_FISHEYE 640 480 500 510 321 240 1 2 3 4", (500, 510), "fisheye", (1, 2, 3, 4)),
        ("1 FULL_OPENCV 640 480 500 510 321 240 1 2 3 4 5 6 7 8", (500, 510), "opencv", (1, 2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_colmap(tmp_path: Path, line: str, focals: tuple, model: str, distortion: tuple) -> None:
    path = write(tmp_path, "cameras.txt", f"# Camera list\n# Number of cameras: 1\n{line}\n")
    lens = read_camera(path, (640, 480))
    # COLMAP counts from the corner of the top-left pixel, we from its centre.
    assert lens.camera == Camera(*focals, 320.5, 239.5, 640, 480)
    assert (lens.model, lens.distortion) == (model, distortion)


def test_colmap_file_with_several_cameras(tmp_path: Path) -> None:
    text = "1 SIMPLE_PINHOLE 640 480 500 320 240\n2 SIMPLE_PINHOLE 800 600 700 400 300\n"
    path = write(tmp_path, "cameras.txt", text)
    assert read_camera(path, (800, 600)).camera.fx == 700
    assert "camera 2" in read_camera(path, (800, 600)).reason
    with pytest.raises(InputError, match="none of its 2 cameras .*640x480, 800x600.* 320x240"):
        read_camera(path, (320, 240))
    path = write(tmp_path, "cameras.txt", text + "3 SIMPLE_PINHOLE 800 600 701 400 300\n")
    with pytest.raises(InputError, match="2 different cameras of 800x600"):
        read_camera(path, (800, 600))


def test_a_camera_of_another_resolution_is_scaled_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "c.json", {**OWN, "model": "opencv", "distortion": [0.1, 0, 0, 0]})
    lens = read_camera(path, (320, 240))
    assert lens.camera == CAMERA.resize(320, 240)
    assert lens.distortion == (0.1, 0, 0, 0)
    assert "scaled from 640x480 to 320x240" in lens.reason
    assert read_camera(path, (333, 250)).camera == CAMERA.resize(333, 250)  # a size is whole: 333.3 x 250
    with pytest.raises(InputError, match="another shape"):
        read_camera(path, (480, 640))
    with pytest.raises(InputError, match="another shape"):
        read_camera(path, (640, 470))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", {**OWN, "fx": 0}, "fx is 0"),
        ("c.json", {**OWN, "fx": float("nan")}, "fx is nan"),
        ("c.json", {**OWN, "fy": "wide"}, "fy is .*expected numbers"),
        ("c.json", {k: v for k, v in OWN.items() if k != "cx"}, "cx missing"),
        ("c.json", {**OWN, "width": 640.5}, "width is 640.5"),
        ("c.json", {**OWN, "model": "magic"}, "'magic' is not known"),
        ("c.json", {**OWN, "model": "pinhole", "distortion": [0.1]}, "pinhole has distortion"),
        ("c.json", {**OWN, "model": "fisheye", "distortion": [0.1]}, "1 coefficients; expected 0, 4"),
        ("c.json", {**OWN, "distortion": [float("inf"), 0, 0, 0]}, "not a finite"),
        ("c.json", "{", "not valid JSON"),
        ("c.json", "[1, 2]", "expected named values"),
        ("c.yaml", "a: [", "not valid YAML"),
        ("c.yaml", "", "expected named values"),
        ("c.yaml", ROS.format(model="plumb_bob", data="[0]").replace("1.]", "]", 1), "camera_matrix has 8 values"),
        ("cameras.txt", "", "no camera in it"),
        ("cameras.txt", "500 0 320\n0 500 240\n0 0 1\n", "line 1 is no COLMAP camera"),
        ("cameras.txt", "1 PINHOLE 640 480 500 320 240", "has 3 values; expected 4"),
        ("cameras.txt", "1 PINHOLE 640 480 500 500 x 240", "expected numbers"),
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_camera(write(tmp_path, name, content), (640, 480))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_camera(tmp_path / "none.json", (1, 1))
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_camera(tmp_path / "c.json", (1, 1))


def test_real_files(samples_dir: Path) -> None:
    redwood = read_camera(samples_dir / "redwood/camera_primesense.json", (640, 480))
    assert redwood.camera == Camera(525, 525, 319.5, 239.5, 640, 480)
    eth3d = read_camera(samples_dir / "eth3d/cameras_excerpt.txt", (6048, 4032))
    assert eth3d.camera == Camera(3411.42, 3410.02, 3041.29 - 0.5, 2014.07 - 0.5, 6048, 4032)
    assert eth3d.model == "thin_prism_fisheye"


# --- distortion -------------------------------------------------------------------------------------------------------

LENSES = [
    LensCamera(CAMERA, "opencv", (-0.28, 0.07, 0.001, -0.0008)),
    LensCamera(CAMERA, "opencv", (0.12, -0.05, 0.0005, 0.001, 0.02)),
    LensCamera(CAMERA, "opencv", (0.5, 0.1, 0.0002, -0.0001, 0.01, 0.75, 0.2, 0.03)),
    LensCamera(CAMERA, "opencv", (-0.2, 0.05, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0, 0.01, -0.002, 0.003, 0.001)),
    LensCamera(CAMERA, "fisheye", (-0.02, 0.005, -0.003, 0.0006)),
    LensCamera(Camera(420, 421, 319, 241, 640, 480), "fisheye", (-0.007, 0.04, -0.035, 0.005)),
    LensCamera(CAMERA, "thin_prism_fisheye", (0.21, 0.211, -5e-6, 5e-4, -0.158, 0.407, -8e-5, 8.6e-4)),
]


def inner_points(camera: Camera, n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    corners = [(0, 0), (camera.width - 1, 0), (0, camera.height - 1), (camera.width - 1, camera.height - 1)]
    random = rng.uniform(0, 1, (n, 2)) * (camera.width - 1, camera.height - 1)
    return np.concatenate([random, corners, [(camera.cx, camera.cy)]])


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}-{len(lens.distortion)}-{lens.camera.fx:g}")
def test_there_and_back(lens: LensCamera) -> None:
    uv = inner_points(lens.camera)
    straight = lens.to_undistorted(uv)
    assert np.abs(lens.to_original(straight) - uv).max() < 1e-4
    assert lens.undistorted.contains(straight).all()
    assert np.abs(straight - uv).max() > 1  # it does bend
    assert lens.undistorted.fx == lens.camera.fx
    np.testing.assert_allclose(lens.undistorted.rays(straight[-1:]), [[0, 0, 1]], atol=1e-9)


@pytest.mark.parametrize("lens", LENSES[:6], ids=lambda lens: f"{lens.model}-{len(lens.distortion)}-{lens.camera.fx:g}")
def test_projection_agrees_with_opencv(lens: LensCamera) -> None:
    """A 3D point that OpenCV draws at pixel p must be seen by the undistorted camera along its true ray."""
    xyz = np.column_stack([np.random.default_rng(1).uniform(-0.4, 0.4, (100, 2)), np.ones(100)])
    project = cv2.fisheye.projectPoints if lens.model == "fisheye" else cv2.projectPoints
    drawn = project(xyz[:, None], np.zeros(3), np.zeros(3), lens.camera.matrix, np.array(lens.distortion))[0]
    straight = lens.to_undistorted(drawn.reshape(-1, 2))
    np.testing.assert_allclose(straight, lens.undistorted.project(xyz), atol=1e-4)


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}-{len(lens.distortion)}-{lens.camera.fx:g}")
@pytest.mark.parametrize("uv", [(60.3, 50.8), (330.2, 240.6), (580.5, 425.1)])
def test_a_rendered_dot_moves_to_where_the_lens_says(lens: LensCamera, uv: tuple[float, float]) -> None:
    """The dot is drawn in the straight world, bent pixel by pixel, and straightened by the real picture operation."""
    target = lens.to_undistorted([uv])[0]
    left, top = int(uv[0]) - 45, int(uv[1]) - 45
    v, u = np.mgrid[top : top + 91, left : left + 91]
    offset = lens.to_undistorted(np.column_stack([u.ravel(), v.ravel()])) - target
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[v, u] = np.rint(200 * np.exp(-(offset**2).sum(axis=1) / (2 * 4.0**2))).reshape(*u.shape, 1)
    image = Image.fromarray(pixels)
    straight, camera = lens.undistort(image)
    assert straight.size == (camera.width, camera.height)
    seen = np.asarray(straight)[..., 0].astype(float)
    v, u = np.mgrid[: camera.height, : camera.width]
    centre = np.array([(seen * u).sum(), (seen * v).sum()]) / seen.sum()
    np.testing.assert_allclose(centre, target, atol=0.05)


def test_no_ghosts_beyond_the_picture() -> None:
    lens = LENSES[0]
    white = Image.new("RGB", (640, 480), (255, 255, 255))
    image, camera = lens.undistort(white)
    v, u = np.nonzero(np.asarray(image)[..., 0] > 128)
    assert len(u) > 640 * 480 / 2
    assert lens.camera.contains(lens.to_original(np.column_stack([u, v]))).all()
    assert camera.width > 640  # barrel distortion: the corners need room


def test_wide_fisheye_has_points_without_a_pinhole_pixel() -> None:
    lens = LensCamera(Camera(150, 150, 319.5, 239.5, 640, 480), "fisheye", (0.0, 0.0, 0.0, 0.0))
    assert lens.undistorted.width <= 2 * 640 + 2
    assert np.abs(lens.to_original(lens.to_undistorted([(319.5, 300)])) - [(319.5, 300)]).max() < 1e-4
    with pytest.raises(InputError, match=r"point \(2, 240\) looks too far sideways"):
        lens.to_undistorted([(2, 240)])


def test_no_distortion_is_a_pinhole() -> None:
    for lens in (LensCamera(CAMERA), LensCamera(CAMERA, "opencv", (0.0,) * 5)):
        image = Image.new("RGB", (640, 480))
        assert lens.is_pinhole
        assert lens.undistort(image) == (image, CAMERA)
        np.testing.assert_array_equal(lens.to_original([(1.5, 2.5)]), [(1.5, 2.5)])
    assert not LensCamera(CAMERA, "fisheye", (0.0,) * 4).is_pinhole  # an ideal fisheye still bends
    assert LENSES[0].to_undistorted([]).shape == (0, 2)


# --- EXIF and precedence ----------------------------------------------------------------------------------------------


def photo(size: tuple[int, int] = (400, 300), orientation: int = 1, make: str = "", **tags: float) -> Image.Image:
    """A JPEG with EXIF, opened from its bytes."""
    codes = {"mm": 0x920A, "mm35": 0xA405, "zoom": 0xA404, "wide": 0xA002, "res": 0xA20E, "unit": 0xA210}
    exif = Image.Exif()
    exif[0x0112] = orientation
    if make:
        exif[0x010F] = make
    exif.get_ifd(0x8769).update({codes[name]: value for name, value in tags.items()})
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JPEG", exif=exif)
    return Image.open(io.BytesIO(file.getvalue()))


DIAGONAL = math.hypot(36, 24)


@pytest.mark.parametrize(
    ("image", "focal", "size", "says"),
    [
        (photo(mm35=26), 26 * 500 / DIAGONAL, (400, 300), "26 mm"),
        (photo(mm35=26, orientation=6), 26 * 500 / DIAGONAL, (300, 400), "26 mm"),
        (photo(mm35=26, orientation=3), 26 * 500 / DIAGONAL, (400, 300), "26 mm"),
        (photo(mm35=26, zoom=2.0), 2 * 26 * 500 / DIAGONAL, (400, 300), "digital zoom 2"),
        (photo(mm35=26, zoom=0.0), 26 * 500 / DIAGONAL, (400, 300), "26 mm"),
        (photo(mm35=44, zoom=1.5, make="Apple"), 44 * 500 / DIAGONAL, (400, 300), "already"),
        # 5 mm, 1000 px per cm: 100 px per mm
        (photo(mm=5.0, res=1000.0, unit=3), 500, (400, 300), "5 mm"),
        (photo(mm=5.0, res=2540.0), 500, (400, 300), "5 mm"),
        (photo(mm=5.0, res=1000.0, unit=3, wide=800), 250, (400, 300), "5 mm"),
        (photo(mm35=0, mm=5.0, res=1000.0, unit=3), 500, (400, 300), "5 mm"),
    ],
)
def test_exif(image: Image.Image, focal: float, size: tuple[int, int], says: str) -> None:
    found = camera_from_exif(image)
    assert found is not None
    camera, reason = found
    assert camera.fx == pytest.approx(focal, rel=1e-6)
    assert camera.fy == camera.fx
    assert (camera.width, camera.height) == size == upright_size(image)
    assert reason.startswith("EXIF")
    assert says in reason


def test_the_camera_of_a_turned_photo_fits_what_is_decoded() -> None:
    file = io.BytesIO()
    photo(mm35=26, orientation=6).save(file, "JPEG", exif=photo(mm35=26, orientation=6).getexif())
    found = camera_from_exif(Image.open(file))
    assert found is not None
    decoded = decode_image(file.getvalue(), "x", size=(found[0].width, found[0].height))
    again = camera_from_exif(decoded)  # an upright copy keeps the rest of its EXIF
    assert again is not None
    assert again[0] == found[0]


def test_a_truncated_png_is_not_decoded_for_its_exif(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-500])
    with Image.open(tmp_path / "a.png") as image:
        assert camera_from_exif(image) is None


@pytest.mark.parametrize(
    "image", [photo(), photo(mm35=0), photo(mm=5.0), photo(mm=5.0, res=0.0), Image.new("L", (3, 2))]
)
def test_exif_that_does_not_say(image: Image.Image) -> None:
    assert camera_from_exif(image) is None


class Plugin:
    """An installed entry point."""

    def __init__(self, name: str, function: object) -> None:
        self.name, self.function = name, function

    def load(self) -> object:
        return self.function


def test_an_installed_estimator_is_asked_when_exif_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def wide(image: Image.Image) -> Camera:
        assert image.mode == "RGB"
        return Camera.from_fov(image.width, image.height, 90)

    def broken(image: Image.Image) -> Camera:
        raise RuntimeError("no weights")

    plugins = [Plugin("wide", wide), Plugin("broken", broken), Plugin("small", lambda image: Camera.from_fov(9, 9, 60))]
    monkeypatch.setattr(camera_io, "entry_points", lambda group: plugins if group == camera_io.ESTIMATORS else [])
    found = resolve_camera(photo(), estimator="wide", assume_fov=60)
    assert found.camera == Camera.from_fov(400, 300, 90)
    assert "estimated by wide" in found.reason
    assert resolve_camera(photo(orientation=8), estimator="wide").camera.width == 300
    assert "EXIF" in resolve_camera(photo(mm35=26), estimator="wide").reason
    for name, message in (
        ("other", "no camera estimator 'other' is installed \\(installed: broken, small, wide\\)"),
        ("broken", "'broken' failed \\(no weights\\)"),
        ("small", "did not return a Camera of 400x300"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_camera(photo(), estimator=name)


def test_precedence(tmp_path: Path) -> None:
    file = write(tmp_path, "c.json", {**OWN, "width": 400, "height": 300})
    with_exif, without = photo(mm35=26), photo()
    assert resolve_camera(with_exif, focal=123).camera.fx == 123
    assert resolve_camera(with_exif, fov=90).camera.fx == pytest.approx(200)
    assert resolve_camera(with_exif, file=file).camera.fx == 500
    assert "EXIF" in resolve_camera(with_exif, assume_fov=60).reason
    assumed = resolve_camera(without, assume_fov=60)
    assert assumed.camera == Camera.from_fov(400, 300, 60)
    assert "assumed" in assumed.reason
    assert resolve_camera(photo(orientation=8), focal=90).camera.width == 300
    with pytest.raises(InputError, match="--assume-fov 60.*--camera-from"):
        resolve_camera(without)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal": 1, "fov": 60}, "--focal and --fov exclude each other"),
        ({"focal": 0}, "--focal is 0"),
        ({"focal": float("nan")}, "--focal is nan"),
        ({"fov": 180}, "--fov is 180"),
        ({"fov": float("nan")}, "--fov is nan"),
        ({"assume_fov": -1}, "--assume-fov is -1"),
        ({"file": "none.json"}, "none.json"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_camera(photo(), **options)


def test_straighten_takes_original_pixels(tmp_path: Path) -> None:
    path = write(tmp_path, "c.json", {**OWN, "model": "opencv", "distortion": [-0.28, 0.07]})
    image = Image.new("RGB", (640, 480))
    resolved = resolve_camera(image, file=path)
    assert resolved.lens is not None
    straight, camera, uv = resolved.straighten(image, [(5, 5)])
    assert straight.size == (camera.width, camera.height)
    np.testing.assert_allclose(resolved.lens.to_original(uv), [(5, 5)], atol=1e-4)
    with pytest.raises(InputError, match=r"\(640, 5\) lies outside the 640x480"):
        resolved.straighten(image, [(640, 5)])
    plain = resolve_camera(image, focal=100)
    assert plain.lens is None
    assert plain.straighten(image, [(5, 5)])[0] is image
