"""Taskonomy and HM3D: two real views against the figures that their own files state, and damaged trees."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from depthlm.data.readers.base import FrameError, get_reader
from depthlm.errors import InputError
from layouts import lay_out

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def taskonomy(samples_dir: Path, tmp_path: Path) -> Path:
    return lay_out("taskonomy", samples_dir, tmp_path)


@pytest.fixture
def hm3d(samples_dir: Path, tmp_path: Path) -> Path:
    return lay_out("hm3d", samples_dir, tmp_path)


def one(name: str, root: Path, split: str = "all"):
    reader = get_reader(name)
    (ref,) = reader.index(root, split)
    return ref, reader.read(root, ref)


def fixated_point(frame, info: Path) -> tuple[np.ndarray, float]:
    """Where the point that the camera was aimed at lands, and its z."""
    values = json.loads(info.read_text())
    camera_point = np.linalg.inv(frame.pose) @ [*values["point_location"], 1]
    return frame.camera.project(camera_point[None, :3])[0], float(camera_point[2])


def test_real_taskonomy_view(taskonomy: Path, samples_dir: Path) -> None:
    ref, frame = one("taskonomy", taskonomy)
    assert (ref.id, ref.scene) == ("hanson/point_202_view_5", "hanson")
    z, valid = frame.labels.z, frame.labels.valid
    assert abs(np.median(frame.labels.depths()) - 3.010) < 5e-4
    assert abs(1 - valid.mean() - 0.0774) < 1e-4
    assert abs(frame.camera.fx - 382.131) < 1e-3
    assert (frame.camera.cx, frame.camera.cy) == (255.5, 255.5)
    euclid = cv2.imread(
        str(samples_dir / "taskonomy" / "point_202_view_5_domain_depth_euclidean.png"), cv2.IMREAD_UNCHANGED
    )
    uv, labels = frame.labels.take(np.arange(frame.labels.count), frame.camera)
    ratio = labels * frame.camera.ray_factor(uv) / (euclid[valid].astype(float) / 512)
    assert abs(np.median(ratio) - 1) < 1e-5
    assert np.abs(np.percentile(ratio, [5, 95]) - 1).max() < 1e-3
    assert abs(np.median(labels * frame.camera.ray_factor(uv)) - 3.541) < 1e-3
    assert abs(z[255:257, 255:257].mean() / 7.579880 - 1) < 3e-3
    uv, depth = fixated_point(frame, next(taskonomy.glob("point_info/*/*/*.json")))
    assert np.abs(uv - 255.5).max() < 1e-3
    assert abs(depth - 7.579880) < 1e-4


def test_real_replica_view_in_hm3d_naming(hm3d: Path) -> None:
    ref, frame = one("hm3d", hm3d)
    assert ref.id == "00000-kfPV7w3FaU5/point_47_view_25"
    assert abs(np.median(frame.labels.depths()) - 3.541) < 5e-4
    assert abs(frame.labels.z[255:257, 255:257].mean() - 3.902) < 2e-3
    uv, depth = fixated_point(frame, next(hm3d.glob("point_info/*/*/*.json")))
    assert np.abs(uv - 255.5).max() < 1e-3
    assert abs(depth - 3.9015608) < 1e-4


@pytest.mark.parametrize(("name", "limit"), [("taskonomy", 65534), ("hm3d", 60000)])
def test_values_that_say_nothing(name: str, limit: int, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(name)
    path = next((root / "depth_zbuffer").rglob("*.png"))
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    raw[0, :4] = limit, limit + 1, 65535, 0
    cv2.imwrite(str(path), raw)
    _, frame = one(name, root)
    assert frame.labels.valid[0, :4].tolist() == [True, False, False, False]


def test_another_unit_is_refused(hm3d: Path) -> None:
    path = next((hm3d / "depth_zbuffer").rglob("*.png"))
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), raw * np.uint16(16))  # 1/8192 m, as the annotator writes for a range of 8 m
    with pytest.raises(FrameError, match="depth_zbuffer.png.*not 1/512 m"):
        one("hm3d", hm3d)
    raw[255:257, 255:257] = 65535
    cv2.imwrite(str(path), raw)
    one("hm3d", hm3d)  # nothing at the centre: nothing to check


def test_a_larger_picture_scales_the_focal_length(taskonomy: Path) -> None:
    path = next((taskonomy / "rgb").rglob("*.png"))
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (1024, 1024)))
    _, frame = one("taskonomy", taskonomy)
    assert abs(frame.camera.fx - 2 * 382.131) < 2e-3
    assert frame.camera.cx == 511.5
    uv, _ = frame.labels.take([0], frame.camera)
    v, u = np.argwhere(frame.labels.valid)[0]
    assert uv[0].tolist() == [2 * u + 0.5, 2 * v + 0.5]


def test_splits_come_from_the_list(taskonomy: Path) -> None:
    with pytest.raises(InputError, match="train_val_test_tiny.csv.*only the split 'all'"):
        one("taskonomy", taskonomy, "train")
    listing = taskonomy / "train_val_test_tiny.csv"
    listing.write_bytes(b"id,train,val,test\rmerom,1,0,0\rhanson,0,1,0\r")  # a lone CR, as released
    (taskonomy / "train_val_test_hm3d.csv").write_bytes(b"id,train,val,test\nhanson,0,0,1\n")  # not its own
    reader = get_reader("taskonomy")
    assert [len(list(reader.index(taskonomy, split))) for split in ("train", "val", "test", "all")] == [0, 1, 0, 1]
    shutil.copyfile(listing, taskonomy / "train_val_test_full.csv")
    with pytest.raises(InputError, match="several split lists"):
        one("taskonomy", taskonomy, "val")


@pytest.mark.parametrize("domain", ["rgb", "depth_zbuffer", "point_info"])
def test_damaged_files_are_named(taskonomy: Path, domain: str) -> None:
    reader = get_reader("taskonomy")
    (ref,) = reader.index(taskonomy, "all")
    path = next(p for p in (taskonomy / domain).rglob("*") if p.is_file())
    path.write_bytes(b"")
    with pytest.raises(FrameError, match=f"{path.name}.*empty"):
        reader.read(taskonomy, ref)
    path.unlink()
    with pytest.raises(FrameError, match=f"{path.name}.*cannot be read"):
        reader.read(taskonomy, ref)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("field_of_view_rads", None, "no 'field_of_view_rads'"),
        ("field_of_view_rads", 0.0, "field of view is 0"),
        ("camera_location", [float("nan"), 0, 0], "not finite"),
        ("camera_rotation_final", [0.0], "."),
    ],
)
def test_damaged_cameras_are_named(taskonomy: Path, key: str, value: object, message: str) -> None:
    path = next((taskonomy / "point_info").rglob("*.json"))
    values = json.loads(path.read_text())
    values[key] = value
    if value is None:
        del values[key]
    path.write_text(json.dumps(values))
    with pytest.raises(FrameError, match=f"{path.name}.*{message}"):
        one("taskonomy", taskonomy)


@pytest.mark.parametrize("name", ["taskonomy", "hm3d"])
def test_another_tree_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not look like .* \(Omnidata\)"):
        list(get_reader(name).index(tmp_path, "all"))
    with pytest.raises(InputError, match="no split 'testing'"):
        list(get_reader(name).index(tmp_path, "testing"))
