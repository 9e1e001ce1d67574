"""KITTI depth: the real crops, both layouts, damaged trees."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from depthlm.data.readers.base import DenseLabels, FrameError, get_reader
from depthlm.errors import InputError
from layouts import FOLDERS, kitti
from layouts import KITTI_DRIVE as DRIVE
from trees import check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("kitti")
KNOWN = known_view(5)


def depth_png(z: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.round(np.nan_to_num(z, nan=0.0) * 256).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def calibration(camera: str, **changes: float) -> str:
    c = {name: getattr(KNOWN.camera, name) for name in ("fx", "fy", "cx", "cy")} | changes
    rows = [c["fx"], 0, c["cx"], 44.9, 0, c["fy"], c["cy"], 0.2, 0, 0, 1, 0.003]
    lines = {
        "calib_time": "09-Jan-2012 13:57:47",
        f"S_{camera}": "1.392000e+03 5.120000e+02",
        f"K_{camera}": "9.5e+02 0 6.9e+02 0 9.5e+02 2.4e+02 0 0 1",
        f"S_rect_{camera}": f"{KNOWN.camera.width:e} {KNOWN.camera.height:e}",
        f"P_rect_{camera}": " ".join(f"{value:.12e}" for value in rows),
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """Two frames of camera 03 in val; pictures in raw/."""
    for frame in ("0000000005", "0000000006"):
        ground = tmp_path / f"val/{DRIVE}/proj_depth/groundtruth/image_03/{frame}.png"
        write(ground, depth_png(KNOWN.z))
        write(tmp_path / f"raw/2011_09_26/{DRIVE}/image_03/data/{frame}.png", KNOWN.encoded("PNG"))
    write(tmp_path / "raw/2011_09_26/calib_cam_to_cam.txt", calibration("03").encode())
    return tmp_path


def test_annotated_drives(drives: Path) -> None:
    refs = list(READER.index(drives, "val"))
    assert [ref.id for ref in refs] == [f"{DRIVE}/image_03/000000000{n}" for n in (5, 6)]
    assert {(ref.scene, ref.sequence) for ref in refs} == {(DRIVE, f"{DRIVE}/image_03")}
    assert refs == list(READER.index(drives, "all"))
    frame = READER.read(drives, refs[0])
    check_labels(frame, KNOWN, z_tolerance=1 / 512 + 1e-6)
    for name in ("fx", "fy", "cx", "cy"):
        assert abs(getattr(frame.camera, name) - getattr(KNOWN.camera, name)) < 1e-6
    assert frame.image == KNOWN.encoded("PNG")
    with pytest.raises(InputError, match="no train/<drive>/proj_depth"):
        list(READER.index(drives, "train"))


def test_pictures_beside_the_depth(drives: Path) -> None:
    (drives / "data_depth_annotated").mkdir()
    shutil.move(drives / "val", drives / "data_depth_annotated/val")
    shutil.move(drives / "raw/2011_09_26", drives / "2011_09_26")
    ref = next(iter(READER.index(drives, "val")))
    check_labels(READER.read(drives, ref), KNOWN, z_tolerance=1 / 512 + 1e-6)


def test_depth_without_raw_drives_is_refused(drives: Path) -> None:
    shutil.rmtree(drives / "raw")
    with pytest.raises(InputError, match="no raw drive"):
        list(READER.index(drives, "val"))


def test_damage_is_named(drives: Path) -> None:
    first, second = READER.index(drives, "val")
    calib = drives / "raw/2011_09_26/calib_cam_to_cam.txt"
    for text, message in (
        (calibration("02"), "no line P_rect_03"),
        (calibration("03", fx=float("nan")), "camera fx is nan"),
        (calibration("03").replace("P_rect_03: ", "P_rect_03: x "), "P_rect_03 or S_rect_03"),
        ("", "the file is empty"),
    ):
        calib.write_text(text)
        with pytest.raises(FrameError, match=f"calib_cam_to_cam.txt: {message}"):
            READER.read(drives, first)
    calib.write_text(calibration("03"))
    depth = drives / f"val/{DRIVE}/proj_depth/groundtruth/image_03/0000000005.png"
    depth.write_bytes(b"")
    with pytest.raises(FrameError, match="groundtruth/image_03/0000000005.png: the file is empty"):
        READER.read(drives, first)
    depth.write_bytes(depth_png(KNOWN.z[:, 1:]))
    with pytest.raises(FrameError, match="0000000005.png: depth is 63x48 for a 64x48 picture"):
        READER.read(drives, first)
    picture = drives / f"raw/2011_09_26/{DRIVE}/image_03/data/0000000006.png"
    picture.write_bytes(picture.read_bytes()[:20])
    with pytest.raises(FrameError, match="data/0000000006.png: not a readable image"):
        READER.read(drives, second)
    picture.unlink()
    with pytest.raises(FrameError, match="data/0000000006.png: cannot be read"):
        READER.read(drives, second)


def test_another_tree_or_split_is_refused(tmp_path: Path) -> None:
    for split in ("train", "selection", "all"):
        with pytest.raises(InputError, match="does not look like KITTI depth"):
            list(READER.index(tmp_path, split))
    with pytest.raises(InputError, match="no split 'test'"):
        list(READER.index(tmp_path, "test"))


@pytest.mark.parametrize("above", ["", "val_selection_cropped/", "depth_selection/val_selection_cropped/"])
def test_real_crops(samples_dir: Path, tmp_path: Path, above: str) -> None:
    kitti(samples_dir / FOLDERS["kitti"], tmp_path / above)
    medians = {"0000000005": 13.84, "0000000050": 13.44}  # of the three figures; 0000000100 is not stored
    refs = list(READER.index(tmp_path, "selection"))
    assert [ref.id for ref in refs] == [f"{DRIVE}_image_{stem}_image_02" for stem in medians]
    for ref, median in zip(refs, medians.values(), strict=True):
        frame = READER.read(tmp_path, ref)
        assert (frame.camera.fx, frame.camera.cx, frame.camera.cy) == (707.0493, 604.0814, 180.5066)
        assert (frame.camera.width, frame.camera.height) == (1242, 375)
        assert isinstance(frame.labels, DenseLabels)
        assert abs(np.median(frame.labels.depths()) - median) < 6e-3
        assert abs(frame.labels.valid.mean() - 0.19) < 0.02
    (tmp_path / f"{above}intrinsics/{refs[0].id}.txt").write_text("1 2 3")
    with pytest.raises(FrameError, match=f"intrinsics/{refs[0].id}.txt: expected 9 finite numbers"):
        READER.read(tmp_path, refs[0])
