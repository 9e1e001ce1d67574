"""iBims-1: the real corridor_04 against the official labels, and damaged trees."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from depthlm.data.readers.base import FrameError, get_reader
from depthlm.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("ibims1")


@pytest.fixture
def root(samples_dir: Path) -> Path:
    return samples_dir / "ibims1" / "derived_core_raw"


def test_real_labels_are_the_official_ones_within_half_a_step(root: Path) -> None:
    (ref,) = READER.index(root, "test")
    frame = READER.read(root, ref)
    row = json.loads((root.parent / "corridor_04_depthlm_official_row.json").read_text())
    u, v = np.array(row["pixel_coords"]).T
    valid = frame.labels.valid[v, u]
    assert valid.sum() == 94
    assert np.abs(frame.labels.z[v, u] - row["depth"])[valid].max() < 4e-4
    assert (frame.camera.fx, frame.camera.cy) == (559.62, 241.99)
    assert abs(np.median(frame.labels.depths()) - 5.175) < 1e-3


def test_legacy_labels_are_unmasked(root: Path) -> None:
    (ref,) = READER.index(root, "test")
    assert READER.read_legacy(root, ref).labels.count >= READER.read(root, ref).labels.count


def test_mat_files_hold_the_same(root: Path, tmp_path: Path) -> None:
    (ref,) = READER.index(root, "test")
    png = READER.read(root, ref)
    keep = png.labels.valid.astype(np.uint8)
    k = [[559.62, 0, 361.87], [0, 558.14, 241.99], [0, 0, 1]]
    z = np.where(png.labels.valid, png.labels.z, 0)
    scene = {"rgb": np.asarray(Image.open(root / "rgb" / "corridor_04.png")), "depth": z, "calib": np.array(k)}
    savemat(tmp_path / "corridor_04.mat", {"data": scene | {"mask_invalid": keep, "mask_transp": keep}})
    (ref,) = READER.index(tmp_path, "test")
    mat = READER.read(tmp_path, ref)
    assert mat.camera == png.camera
    np.testing.assert_array_equal(mat.labels.depths(), png.labels.depths())
    (tmp_path / "corridor_04.mat").write_bytes((tmp_path / "corridor_04.mat").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"corridor_04\.mat"):
        READER.read(tmp_path, ref)


def test_a_damaged_file_is_named(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "tree")
    broken = tmp_path / "tree" / "mask_transp" / "corridor_04.png"
    broken.write_bytes(b"")
    (ref,) = READER.index(tmp_path / "tree", "test")
    with pytest.raises(FrameError, match="mask_transp.*empty"):
        READER.read(tmp_path / "tree", ref)


def test_another_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not look like iBims-1"):
        list(READER.index(tmp_path, "test"))
    with pytest.raises(InputError, match="no split 'train'"):
        list(READER.index(tmp_path, "train"))
