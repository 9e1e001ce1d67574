"""ETH3D: the real calibration lines, and a room drawn through their lens."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.data.readers.eth3d import camera_to_world, parse_cameras, parse_images, thin_prism
from depthlm.errors import InputError
from depthlm.lens import LensCamera
from trees import Known, check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("eth3d")
BEND = (0.21047, 0.21102, -5.36231e-06, 0.00051541, -0.158023, 0.406856, -8.46499e-05, 0.000861313)
SMALL = (72, 48, 40.6, 40.5, 36.4, 24.1)  # width, height, fx, fy, cx, cy as COLMAP counts them
NAME = "dslr_images/DSC_0307.JPG"


def draw(xy: np.ndarray, fx: float, fy: float, cx: float, cy: float, bend: tuple[float, ...]) -> np.ndarray:
    """COLMAP's THIN_PRISM_FISHEYE, written out: [N, 2] pinhole rays -> COLMAP pixels."""
    k1, k2, p1, p2, k3, k4, sx1, sy1 = bend
    r = np.hypot(*xy.T)
    a, b = xy.T * np.arctan(r) / r
    r2 = a * a + b * b
    d = k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    da = d * a + 2 * p1 * a * b + p2 * (r2 + 2 * a * a) + sx1 * r2
    db = d * b + 2 * p2 * a * b + p1 * (r2 + 2 * b * b) + sy1 * r2
    return np.column_stack([fx * (a + da) + cx, fy * (b + db) + cy])


def test_real_lines_and_their_exact_model(samples_dir: Path) -> None:
    cameras = parse_cameras(samples_dir / "eth3d" / "cameras_excerpt.txt")
    assert list(cameras) == ["0"]
    lens = thin_prism(cameras["0"])
    assert (lens.camera.width, lens.camera.height) == (6048, 4032)
    assert (lens.camera.cx, lens.camera.cy) == (3040.79, 2013.57)
    images = parse_images(samples_dir / "eth3d" / "images_excerpt.txt")
    assert list(images) == [NAME]
    assert images[NAME][0] == "1"  # not the first camera
    u, v = np.meshgrid(np.linspace(0, 6047, 25), np.linspace(0, 4031, 17))
    uv = np.column_stack([u.ravel(), v.ravel()])
    straight = lens.to_undistorted(uv)
    rays = lens.undistorted.rays(straight)[:, :2]
    again = draw(rays, 3411.42, 3410.02, 3041.29, 2014.07, BEND) - 0.5
    assert np.abs(again - uv).max() < 0.01
    assert np.abs(straight - uv).max() > 50  # the lens is not nothing


def test_real_pose_is_inverted(samples_dir: Path) -> None:
    values = parse_images(samples_dir / "eth3d" / "images_excerpt.txt")[NAME][1]
    pose = camera_to_world(values)
    from scipy.spatial.transform import Rotation

    w, *xyz = values[:4]
    turn = Rotation.from_quat([*xyz, w]).as_matrix()
    assert np.allclose(turn @ pose[:3, 3] + values[4:], 0, atol=1e-9)
    assert np.allclose(turn @ pose[:3, :3], np.eye(3), atol=1e-9)


def build(root: Path) -> Known:
    """One picture by camera 1, whose lens bends it; camera 0 is another one."""
    width, height, fx, fy, cx, cy = SMALL
    lens = LensCamera(Camera(fx, fy, cx - 0.5, cy - 0.5, width, height), "thin_prism_fisheye", BEND)
    known = known_view(seed=3, camera=lens.undistorted)
    v, u = np.mgrid[:height, :width]
    column, row = np.round(lens.to_undistorted(np.column_stack([u.ravel(), v.ravel()]))).astype(int).T
    z = known.z[row, column].reshape(height, width).astype("<f4")
    z[0, 0] = np.inf
    scene = root / "courtyard"
    for path in (scene / "images" / NAME, scene / "ground_truth_depth" / NAME, scene / "dslr_calibration_jpg" / "x"):
        path.parent.mkdir(parents=True)
    (scene / "ground_truth_depth" / NAME).write_bytes(z.tobytes())
    buffer = io.BytesIO()
    Image.fromarray(known.rgb[row, column].reshape(height, width, 3)).save(buffer, "JPEG", quality=95)
    (scene / "images" / NAME).write_bytes(buffer.getvalue())
    bend = " ".join(map(str, BEND))
    (scene / "dslr_calibration_jpg" / "cameras.txt").write_text(
        f"# comment\n0 THIN_PRISM_FISHEYE 72 48 60 60 30 20 {bend}\n"
        f"1 THIN_PRISM_FISHEYE 72 48 {fx} {fy} {cx} {cy} {bend}\n"
    )
    from scipy.spatial.transform import Rotation

    inverse = np.linalg.inv(known.pose)
    x, y, zq, w = Rotation.from_matrix(inverse[:3, :3]).as_quat()
    numbers = " ".join(f"{value:.12g}" for value in (w, x, y, zq, *inverse[:3, 3]))
    (scene / "dslr_calibration_jpg" / "images.txt").write_text(
        f"# comment\n22 {numbers} 1 {NAME}\n10.5 20.5 7 1 2 -1\n"
    )
    return known


def test_labels_follow_the_straightened_picture(tmp_path: Path) -> None:
    known = build(tmp_path)
    (ref,) = READER.index(tmp_path, "training")
    assert (ref.id, ref.scene) == ("courtyard/DSC_0307", "courtyard")
    frame = READER.read(tmp_path, ref)
    assert frame.camera == known.camera
    assert frame.labels.count == 72 * 48 - 1
    check_labels(frame, known, z_tolerance=1e-6)
    assert np.abs(frame.pose - known.pose).max() < 1e-6
    assert np.abs(np.reshape(ref.pose, (4, 4)) - known.pose).max() < 1e-6
    picture = np.asarray(Image.open(io.BytesIO(frame.image))).astype(float)
    assert picture.shape == known.rgb.shape
    uv, _ = frame.labels.take(np.arange(frame.labels.count), frame.camera)
    column, row = np.round(uv).astype(int).T
    inside = (np.abs(uv - frame.labels.lens.to_undistorted(np.array([[35.5, 23.5]]))) < 15).all(axis=1)
    off = np.abs(picture - known.rgb)[row[inside], column[inside]].mean()
    shifted = np.abs(picture - np.roll(known.rgb, 2, axis=1))[row[inside], column[inside]].mean()
    assert off < shifted / 2


def test_another_camera_misses(tmp_path: Path) -> None:
    known = build(tmp_path)
    table = tmp_path / "courtyard" / "dslr_calibration_jpg" / "images.txt"
    table.write_text(table.read_text().replace(f" 1 {NAME}", f" 0 {NAME}"))
    frame = READER.read(tmp_path, next(READER.index(tmp_path, "all")))
    assert frame.camera != known.camera


@pytest.mark.parametrize("folder", ["images", "ground_truth_depth"])
def test_damaged_files_are_named(tmp_path: Path, folder: str) -> None:
    build(tmp_path)
    (ref,) = READER.index(tmp_path, "all")
    path = tmp_path / "courtyard" / folder / NAME
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FrameError, match=f"{folder}/{NAME}.*(200 bytes|truncated)"):
        READER.read(tmp_path, ref)
    path.write_bytes(b"")
    with pytest.raises(FrameError, match=f"{folder}/{NAME}.*empty"):
        READER.read(tmp_path, ref)
    path.unlink()
    with pytest.raises(FrameError, match=f"{folder}/{NAME}.*cannot be read"):
        READER.read(tmp_path, ref)


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("cameras.txt", "1 THIN", "5 THIN", "cameras.txt.*no THIN_PRISM_FISHEYE camera 1.*DSC_0307"),
        ("cameras.txt", "40.6", "-40.6", "cameras.txt.*fx is -40.6"),
        ("cameras.txt", "40.6", "wide", "cameras.txt.*wide"),
        ("images.txt", "22 ", "22 nan ", "images.txt"),
    ],
)
def test_damaged_calibration_is_named(tmp_path: Path, table: str, old: str, new: str, message: str) -> None:
    build(tmp_path)
    path = tmp_path / "courtyard" / "dslr_calibration_jpg" / table
    text = path.read_text().replace(old, new)
    if table == "images.txt":  # the first number of the quaternion
        words = text.splitlines()[1].split()
        text = " ".join([*words[:2], *words[3:]]) + "\n"
    path.write_text(text)
    (ref,) = READER.index(tmp_path, "all")
    assert ref.pose is None or table == "cameras.txt"
    with pytest.raises(FrameError, match=message):
        READER.read(tmp_path, ref)


def test_another_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not look like ETH3D"):
        list(READER.index(tmp_path, "all"))
    with pytest.raises(InputError, match="no split 'test'"):
        list(READER.index(tmp_path, "test"))
