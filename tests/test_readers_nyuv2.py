"""NYU Depth v2: real dumps and splits, and the three forms of the set."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from depthlm.camera import Camera
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.errors import InputError
from depthlm.sample import decode_image
from test_readers_sunrgbd import write_capture
from trees import check_labels, known_view

READER = get_reader("nyuv2")
CAMERA = Camera(518.857901, 519.469611, 325.582449, 253.736166, 640, 480)
MAT = "nyu_depth_v2_labeled.mat"


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    """labeled.mat with 1449 pictures, of which number 2 (from 0) is filled in; the others take no room."""
    known = known_view(5, camera=CAMERA)
    with h5py.File(tmp_path / MAT, "w") as file:
        images = file.create_dataset("images", (1449, 3, 640, 480), "u1", chunks=(1, 3, 640, 480), compression=1)
        depths = file.create_dataset("rawDepths", (1449, 640, 480), "f4", chunks=(1, 640, 480), compression=1)
        images[2] = known.rgb.transpose(2, 1, 0)
        z = known.z.copy()
        z[100:110, 100:200], z[200:210, 100:200] = 0, 10.0
        depths[2] = z.T
        names = [
            file.create_dataset(f"#refs#/{i}", data=np.array([[ord(c)] for c in f"office_{i:04d}"], "u2"))
            for i in range(4)
        ]
        file["scenes"] = np.array([[names[i % 4].ref for i in range(1449)]], dtype=h5py.ref_dtype)
    return tmp_path


def test_real_dumps(samples_dir: Path) -> None:
    root = samples_dir / "nyuv2" / "sync"
    refs = list(READER.index(root, "all"))
    assert [ref.id for ref in refs] == ["rgb_00000", "rgb_00050"]
    frames = [READER.read(root, ref) for ref in refs]
    assert [round(float(np.median(frame.labels.depths())), 3) for frame in frames] == [3.258, 3.208]
    assert frames[0].camera == CAMERA


def test_real_splits_are_one_based(samples_dir: Path, mat: Path) -> None:
    shutil.copy(samples_dir / "nyuv2" / "splits.mat", mat)
    train, test = ([ref.id for ref in READER.index(mat, split)] for split in ("train", "test"))
    assert (len(train), len(test)) == (795, 654)
    listed = (samples_dir / "nyuv2" / "nyudepthv2_test_files_with_gt.txt").read_text().splitlines()
    assert sorted(test) == sorted(Path(line.split()[0]).stem for line in listed)
    assert len({*train, *test}) == 1449


def test_labeled_mat(mat: Path) -> None:
    refs = list(READER.index(mat, "all"))
    assert (len(refs), refs[2].id, refs[2].scene, refs[7].scene) == (1449, "rgb_00002", "office_0002", "office_0003")
    frame = READER.read(mat, refs[2])
    known = known_view(5, camera=CAMERA)
    check_labels(frame, known, z_tolerance=1e-5)
    assert np.array_equal(np.asarray(decode_image(frame.image, "")), known.rgb)
    expected = np.zeros((480, 640), bool)
    expected[45:471, 41:601] = True
    expected[100:110, 100:200] = expected[200:210, 100:200] = False
    expected &= known.z < 9.999
    assert np.array_equal(frame.labels.valid, expected)
    assert READER.read(mat, refs[0]).labels.count == 0


def test_copy_in_sun_rgbd(tmp_path: Path) -> None:
    for i in (1, 2, 3):
        write_capture(tmp_path / "SUNRGBD" / "kv1" / "NYUdata" / f"NYU{i:04d}")
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1], [3]], "testNdxs": [[2]]})
    assert [ref.id[-7:] for ref in READER.index(tmp_path, "all")] == ["NYU0001", "NYU0002", "NYU0003"]
    assert [ref.id[-7:] for ref in READER.index(tmp_path, "train")] == ["NYU0001", "NYU0003"]
    (ref,) = READER.index(tmp_path, "test")
    frame = READER.read(tmp_path, ref)
    assert not frame.labels.valid[:5, :5].any()  # the sensor's depth/, not depth_bfx/
    check_labels(frame, known_view(3), z_tolerance=0.0006)
    ratio = READER.read_legacy(tmp_path, ref).labels.depths() / frame.labels.depths()
    assert abs(np.median(ratio) - 0.8) < 1e-4


def test_dumps_by_folder(tmp_path: Path) -> None:
    known = known_view(5, camera=CAMERA)
    for folder in ("test/kitchen", "sync/kitchen_0028a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "rgb_00007.jpg").write_bytes(known.encoded())
        z = np.round(known.z * 1000)
        z[0, 0] = 10000
        Image.fromarray(z.astype(np.uint16)).save(tmp_path / folder / "sync_depth_00007.png")
    (test,), (train,) = (list(READER.index(tmp_path, split)) for split in ("test", "train"))
    assert (test.id, test.sequence) == ("test/kitchen/rgb_00007", "")
    assert (train.id, train.sequence) == ("sync/kitchen_0028a/rgb_00007", "sync/kitchen_0028a")
    frame = READER.read(tmp_path, test)
    check_labels(frame, known, z_tolerance=0.0006)
    assert not frame.labels.valid[0, 0]  # "farther than 10 m"


def test_damage(mat: Path, tmp_path: Path) -> None:
    refs = list(READER.index(mat, "all"))
    with pytest.raises(InputError, match="splits.mat: no such file"):
        list(READER.index(mat, "train"))
    (mat / "splits.mat").write_bytes(b"none")
    with pytest.raises(InputError, match="splits.mat: cannot read the variable trainNdxs"):
        list(READER.index(mat, "train"))
    with pytest.raises(InputError, match="give a root with kv1/NYUdata"):
        READER.read_legacy(mat, refs[2])
    (mat / MAT).write_bytes(b"")
    with pytest.raises(FrameError, match="labeled.mat: cannot read picture 2"):
        READER.read(mat, refs[2])
    with pytest.raises(InputError, match="labeled.mat: not nyu_depth"):
        list(READER.index(mat, "all"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="does not look like NYU Depth v2"):
        list(READER.index(empty, "all"))
    with pytest.raises(InputError, match="no split 'val'"):
        list(READER.index(empty, "val"))
    (empty / "rgb_00001.jpg").write_bytes(known_view(5, camera=CAMERA).encoded())
    (ref,) = READER.index(empty, "all")
    with pytest.raises(FrameError, match="sync_depth_00001.png: cannot be read"):
        READER.read(empty, ref)
    (empty / "sync_depth_00001.png").write_bytes(b"")
    with pytest.raises(FrameError, match="sync_depth_00001.png: the file is empty"):
        READER.read(empty, ref)
