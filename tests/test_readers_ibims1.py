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
from depthlm.evaluation.dense import MapConfig, truths

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


def marked(mask: np.ndarray, *planes: list[float]) -> dict[str, np.ndarray]:
    """A table with nothing on it, and walls: numbers in a mask, a row of parameters for each."""
    empty = np.zeros((0, 0))
    return {"mask_wall": mask, "mask_wall_paras": np.array(planes), "mask_table": np.zeros_like(mask),
            "mask_table_paras": empty, "mask_floor": np.where(mask == 0, 1, 0), "mask_floor_paras": empty}  # fmt: skip


def test_planes_as_the_mat_file_marks_them(tmp_path: Path) -> None:
    """Parameters: columns 4 to 6 are the normal with x right, y forward, z up."""
    mask = np.zeros((480, 640), dtype=np.uint8)
    mask[:, :200], mask[:, 300:] = 1, 2
    walls = [[0, 0, 0, 0, 0, -2.0, 0, 3], [0, 0, 0, 0, 1.0, 0, 0, 3]]  # one that faces the camera, one at its side
    scene = {"rgb": np.zeros((480, 640, 3), np.uint8), "depth": np.full((480, 640), 3.0), "calib": np.eye(3)}
    keep = {"mask_invalid": np.ones_like(mask), "mask_transp": np.ones_like(mask)}
    savemat(tmp_path / "hall_1.mat", {"data": scene | keep | marked(mask, *walls)})
    savemat(tmp_path / "hall_2.mat", {"data": scene | keep | marked(np.minimum(mask, 1), walls[0])})
    savemat(tmp_path / "hall_3.mat", {"data": scene | keep})
    one, two, three = (READER.planes(tmp_path, ref) for ref in READER.index(tmp_path, "test"))
    assert one is not None
    assert two is not None
    assert three is None
    assert [one.regions[0, u] for u in (0, 250, 300)] == [1, 3, 2]
    np.testing.assert_array_equal(one.normals, [[0, 0, -1], [1, 0, 0], [np.nan] * 3])
    assert len(two.normals) == 2  # one row of parameters is one plane
    case = next(truths(MapConfig(source=f"ibims1:{tmp_path}")))
    assert case.marked
    np.testing.assert_array_equal(case.regions, one.regions)
    bad = scene | keep | marked(mask[:4], *walls)
    savemat(tmp_path / "hall_0.mat", {"data": bad})
    lines: list[str] = []
    assert next(truths(MapConfig(source=f"ibims1:{tmp_path}"), lines)).name == "hall_1"
    assert "hall_0: planes are marked on (4, 640) pixels, not (480, 640)" in lines[0]


def test_planes_of_png_masks(root: Path, tmp_path: Path) -> None:
    (ref,) = READER.index(root, "test")
    assert READER.planes(root, ref) is None  # the sample has no such masks
    shutil.copytree(root, tmp_path / "tree")
    mask = np.zeros((480, 640), dtype=np.uint8)
    mask[:, 400:] = 1
    for name, one in (("wall", mask), ("floor", 2 * (1 - mask))):
        (tmp_path / "tree" / f"mask_{name}").mkdir()
        Image.fromarray(one).save(tmp_path / "tree" / f"mask_{name}" / "corridor_04.png")
    planes = READER.planes(tmp_path / "tree", ref)
    assert planes is not None
    assert (planes.regions[0, 500], planes.regions[0, 0]) == (1, 2)
    assert np.isnan(planes.normals).all()
    (tmp_path / "tree" / "mask_floor" / "corridor_04.png").write_bytes(b"junk")
    with pytest.raises(FrameError, match="mask_floor.*not a readable image"):
        READER.planes(tmp_path / "tree", ref)


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
