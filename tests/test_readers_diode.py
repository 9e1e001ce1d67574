"""DIODE: the official camera, a tree in its layout, damaged files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from depthlm.camera import Camera
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.errors import InputError
from trees import check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("diode")
CAMERA = Camera(886.81, 927.06, 512, 384, 1024, 768)
NAMES = (
    "train/outdoor/scene_00002/scan_00011/00002_00011_outdoor_000_000",
    "val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010",
    "val/outdoor/scene_00022/scan_00193/00022_00193_outdoor_060_020",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    known = known_view(6, camera=CAMERA)
    mask = np.ones((768, 1024), np.float32)
    mask[:, :100] = 0
    picture = known.encoded("PNG")
    for name in NAMES:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture)
        np.save(tmp_path / f"{name}_depth.npy", known.z[:, :, None])
        np.save(tmp_path / f"{name}_depth_mask.npy", mask)
    return tmp_path


def test_the_real_camera(samples_dir: Path, root: Path) -> None:
    text = (samples_dir / "diode" / "intrinsics.txt").read_text()
    found = re.search(r"= \[(.*?)\]", text)
    assert found
    camera = READER.read(root, next(READER.index(root, "val"))).camera
    assert [camera.fx, camera.fy, camera.cx, camera.cy] == [float(n) for n in found[1].split(",")]


def test_labels(root: Path) -> None:
    assert [ref.id for ref in READER.index(root, "all")] == list(NAMES)
    (_, ref) = READER.index(root, "val")
    assert (ref.id, ref.scene) == (NAMES[2], "outdoor/scene_00022")
    frame = READER.read(root, ref)
    check_labels(frame, known_view(6, camera=CAMERA), z_tolerance=1e-5)
    assert not frame.labels.valid[:, :100].any()
    assert frame.labels.valid[:, 100:].all()


@pytest.mark.parametrize(
    ("suffix", "content", "match"),
    [
        ("_depth.npy", b"", r"_depth\.npy: the file is empty"),
        ("_depth.npy", b"\x93NUMPY", r"_depth\.npy: not a NumPy file"),
        ("_depth_mask.npy", None, r"_depth_mask\.npy: cannot be read"),
        (".png", None, r"000_000\.png: cannot be read"),
        (".png", b"", r"000_000\.png: the file is empty"),
    ],
)
def test_damage(root: Path, suffix: str, content: bytes | None, match: str) -> None:
    (ref,) = READER.index(root, "train")
    path = root / f"{ref.id}{suffix}"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(FrameError, match=match):
        READER.read(root, ref)


def test_wrong_shape(root: Path) -> None:
    (ref,) = READER.index(root, "train")
    np.save(root / f"{ref.id}_depth.npy", np.ones((4, 5, 1), np.float32))
    with pytest.raises(FrameError, match=r"_depth\.npy: float32 of shape \(4, 5\)"):
        READER.read(root, ref)


def test_another_tree_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not look like DIODE"):
        list(READER.index(root / "val", "val"))
    with pytest.raises(InputError, match="no split 'test'"):
        list(READER.index(root, "test"))
    with pytest.raises(InputError, match="no such folder"):
        list(READER.index(root / "gone", "all"))
