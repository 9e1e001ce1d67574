"""Matterport3D: the real .conf excerpt, and a rendered building in the official layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from depthlm.data.readers.base import FrameError, get_reader
from depthlm.data.readers.matterport3d import parse_conf
from depthlm.errors import InputError
from trees import Known, check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("matterport3d")
PANO = "03a8325e3b054e3fad7e1e7091f9d283"
SCENE = "17DRP5sb8fy"
CONF = f"{SCENE}/undistorted_camera_parameters/{SCENE}.conf"


def test_real_excerpt(samples_dir: Path) -> None:
    rows = list(parse_conf((samples_dir / "matterport3d" / "excerpt.conf").read_text().splitlines()))
    assert [row[1] for row in rows] == [f"undistorted_color_images/{PANO}_{n}.jpg" for n in ("i0_0", "i0_1", "i1_0")]
    assert [row[0] for row in rows] == [f"undistorted_depth_images/{PANO}_{n}.png" for n in ("d0_0", "d0_1", "d1_0")]
    assert [row[2][0] for row in rows] == [1076.45, 1076.45, 1076.01]  # each camera its own block
    assert rows[0][3][:4] == (0.90525, 0.275848, 0.323155, -2.99825)


def build(root: Path, *, nested: bool = False) -> list[Known]:
    """Two views by two cameras; depth files sort in the other order than the pictures."""
    base = root / SCENE / SCENE if nested else root / SCENE
    for name in ("undistorted_color_images", "undistorted_depth_images", "undistorted_camera_parameters"):
        (base / name).mkdir(parents=True)
    lines = ["dataset matterport", "n_images 2", "depth_directory undistorted_depth_images",
             "color_directory undistorted_color_images", ""]  # fmt: skip
    views = []
    for camera in (1, 0):
        known = known_view(seed=camera)
        views.append(known)
        (base / "undistorted_color_images" / f"{PANO}_i{camera}_0.jpg").write_bytes(known.encoded())
        depth = np.nan_to_num(known.z * 4000, posinf=0).round().clip(0, 65535).astype(np.uint16)
        cv2.imwrite(str(base / "undistorted_depth_images" / f"{PANO}_d{camera}_0.png"), depth)
        c = known.camera
        # The set's frame: x right, y up, z backward; rows counted from the lowest one.
        turn = np.column_stack([known.pose[:3, 0], -known.pose[:3, 1], -known.pose[:3, 2], known.pose[:3, 3]])
        lines.append(f"intrinsics_matrix {c.fx} 0 {c.cx}  0 {c.fy} {47 - (c.cy + camera)}  0 0 1")
        numbers = " ".join(f"{value:.9g}" for value in [*turn.ravel(), 0, 0, 0, 1])
        lines += [f"scan {PANO}_d{camera}_0.png {PANO}_i{camera}_0.jpg {numbers}", ""]
    (base / "undistorted_camera_parameters" / f"{SCENE}.conf").write_text("\n".join(lines))
    return views


@pytest.mark.parametrize("nested", [False, True])
def test_labels_camera_and_pose(tmp_path: Path, nested: bool) -> None:
    views = build(tmp_path, nested=nested)
    refs = list(READER.index(tmp_path, "all"))
    assert [ref.id for ref in refs] == [f"{SCENE}/{PANO}_i1_0", f"{SCENE}/{PANO}_i0_0"]
    for ref, known, number in zip(refs, views, (1, 0), strict=True):
        frame = READER.read(tmp_path, ref)
        check_labels(frame, known, z_tolerance=1.3e-4)
        assert abs(frame.camera.cy - (known.camera.cy + number)) < 1e-6  # off the middle, so that the flip shows
        assert (frame.camera.fx, frame.camera.cx) == (known.camera.fx, known.camera.cx)
        assert np.abs(frame.pose - known.pose).max() < 1e-6
        assert np.abs(np.reshape(ref.pose, (4, 4)) - known.pose).max() < 1e-6


def test_no_reading_is_no_label(tmp_path: Path) -> None:
    build(tmp_path)
    path = tmp_path / SCENE / "undistorted_depth_images" / f"{PANO}_d1_0.png"
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    depth[:10] = 0
    cv2.imwrite(str(path), depth)
    frame = READER.read(tmp_path, next(READER.index(tmp_path, "all")))
    assert not frame.labels.valid[:10].any()


def test_splits(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(InputError, match="scenes_val.txt"):
        list(READER.index(tmp_path, "val"))
    (tmp_path / "scenes_train.txt").write_text(f"{SCENE}\n")
    (tmp_path / "scenes_val.txt").write_text("2azQ1b91cZZ\n")
    assert len(list(READER.index(tmp_path, "train"))) == 2
    assert not list(READER.index(tmp_path, "val"))


@pytest.mark.parametrize("name", ["undistorted_color_images/{}_i1_0.jpg", "undistorted_depth_images/{}_d1_0.png"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    build(tmp_path)
    ref = next(READER.index(tmp_path, "all"))
    path = tmp_path / SCENE / name.format(PANO)
    path.write_bytes(b"")
    with pytest.raises(FrameError, match=f"{path.name}.*empty"):
        READER.read(tmp_path, ref)
    path.unlink()
    with pytest.raises(FrameError, match=f"{path.name}.*cannot be read"):
        READER.read(tmp_path, ref)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("intrinsics_matrix", "intrinsics", 1), "no intrinsics_matrix.*i1_0"),
        (lambda text: text.replace("i1_0.jpg 0.", "i1_0.jpg nan0.").replace("i1_0.jpg -0.", "i1_0.jpg x"), "0 numbers"),
        (lambda text: text.replace(" 0 0 0 1", " 0 0 0 nan"), "not finite"),
        (lambda text: "", "empty"),
    ],
)
def test_damaged_calibration_is_named(tmp_path: Path, damage, message: str) -> None:
    build(tmp_path)
    path = tmp_path / CONF
    path.write_text(damage(path.read_text()))
    ref = next(READER.index(tmp_path, "all"))
    with pytest.raises(FrameError, match=f"{SCENE}.conf.*{message}"):
        READER.read(tmp_path, ref)


def test_another_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not look like Matterport3D"):
        list(READER.index(tmp_path, "all"))
    with pytest.raises(InputError, match="no split 'testing'"):
        list(READER.index(tmp_path, "testing"))
