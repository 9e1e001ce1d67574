"""SUN RGB-D: the real rotated picture, a tree of four nestings, splits, and damaged captures."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from depthlm.data.readers.base import FrameError, get_reader
from depthlm.errors import InputError
from layouts import lay_out
from trees import check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("sunrgbd")
CAPTURES = (
    "kv1/NYUdata/NYU0001",
    "kv1/b3dodata/img_0063",
    "kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize",
    "realsense/lg/2014_10_21-18_16_30-1311000073",
    "xtion/sun3ddata/brown_bm_1/brown_bm_1/0000103-000003429736",
)


def rotate(millimetres: np.ndarray) -> np.ndarray:
    """The set's own encoding: 16 bits turned left by three."""
    bits = [int(f"{mm:016b}"[3:] + f"{mm:016b}"[:3], 2) for mm in millimetres.ravel().tolist()]
    return np.array(bits, dtype=np.uint16).reshape(millimetres.shape)


def write_capture(folder: Path, depth: tuple[str, ...] = ("depth", "depth_bfx")) -> None:
    known = known_view(3)
    for name in ("image", *depth):
        (folder / name).mkdir(parents=True)
    (folder / "image" / "0001.jpg").write_bytes(known.encoded())
    for name in depth:
        # The sensor's own map has a hole.
        millimetres = np.round(np.nan_to_num(known.z, posinf=0) * 1000).astype(int)
        millimetres[:5, :5] = 0 if name == "depth" else millimetres[:5, :5]
        Image.fromarray(rotate(millimetres)).save(folder / name / "0001.png")
    (folder / "intrinsics.txt").write_text("\n".join(" ".join(map(repr, row)) for row in known.camera.matrix.tolist()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for capture in CAPTURES:
        write_capture(tmp_path / "SUNRGBD" / capture)
    toolbox = tmp_path / "SUNRGBDtoolbox" / "traintestSUNRGBD"
    toolbox.mkdir(parents=True)
    names = np.array([f"/n/fs/sun3d/data/SUNRGBD/{c}/" for c in CAPTURES], dtype=object)
    savemat(toolbox / "allsplit.mat", {"alltrain": names[:3], "alltest": names[3:]})
    return tmp_path


def ids(root: Path, split: str) -> list[str]:
    return [ref.id for ref in READER.index(root, split)]


def test_the_real_picture(samples_dir: Path, tmp_path: Path) -> None:
    root = lay_out("sunrgbd", samples_dir, tmp_path)
    (ref,) = READER.index(root, "all")
    z = READER.read(root, ref).labels
    assert abs(np.median(z.depths()) - 2.723) < 5e-4
    assert abs(z.depths().max() - 9.870) < 5e-4
    raw = np.asarray(Image.open(samples_dir / "sunrgbd" / "SUN_depth.png")).astype(float)
    assert abs(np.mean(np.abs(z.z - raw / 8000) > 1e-3) - 0.023) < 5e-4
    legacy = READER.read_legacy(root, ref).labels
    assert abs(np.median(legacy.depths()) - 2.127) < 2e-3  # PROVENANCE.md: 0.78 of it
    assert np.allclose(legacy.z[legacy.valid], raw[raw > 0] / 10000)


def test_labels_are_right_in_every_nesting(root: Path) -> None:
    refs = list(READER.index(root, "all"))
    assert [ref.id for ref in refs] == list(CAPTURES[1:])  # NYU's belong to nyuv2
    assert refs[-1].scene == "xtion/sun3ddata/brown_bm_1"
    for ref in refs:
        check_labels(READER.read(root, ref), known_view(3), z_tolerance=0.0006)
    assert [ref.id for ref in READER.index(root / "SUNRGBD", "all")] == list(CAPTURES[1:])


def test_depth_bfx_is_preferred(root: Path) -> None:
    ref = next(READER.index(root, "all"))
    assert READER.read(root, ref).labels.valid[:5, :5].all()
    shutil.rmtree(root / "SUNRGBD" / ref.id / "depth_bfx")
    assert not READER.read(root, ref).labels.valid[:5, :5].any()


def test_splits(root: Path) -> None:
    assert ids(root, "train") == list(CAPTURES[1:3])
    assert ids(root, "test") == list(CAPTURES[3:])
    listing = root / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    listing.write_bytes(b"none")
    with pytest.raises(InputError, match=r"^\S*allsplit\.mat: cannot read the variable alltrain"):
        ids(root, "train")
    savemat(listing, {"alltrain": np.array(["/elsewhere/kv2/"], dtype=object)})
    with pytest.raises(InputError, match=r"allsplit\.mat: names no path below SUNRGBD"):
        ids(root, "train")
    shutil.rmtree(root / "SUNRGBDtoolbox")
    with pytest.raises(InputError, match="allsplit.mat.*'all'"):
        ids(root, "train")
    with pytest.raises(InputError, match="no split 'val'"):
        ids(root, "val")
    with pytest.raises(InputError, match="does not look like SUN RGB-D"):
        ids(root / "SUNRGBD" / "kv1" / "b3dodata", "all")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("depth_bfx/0001.png", b"", r"depth_bfx/0001\.png: the file is empty"),
        ("depth_bfx/0001.png", b"no picture", r"depth_bfx/0001\.png: not a readable image"),
        ("intrinsics.txt", None, r"intrinsics\.txt: cannot be read"),
        ("intrinsics.txt", b"1 2 3", r"intrinsics\.txt: expected 9"),
        ("intrinsics.txt", b"0 0 32 0 0 24 0 0 1", r"intrinsics\.txt: camera fx is 0"),
        ("image/0001.jpg", None, r"image: expected one picture, found 0"),
        ("image/0001.jpg", b"\xff\xd8\xff", r"0001\.jpg: not a readable image"),
    ],
)
def test_a_damaged_capture_is_named(root: Path, file: str, content: bytes | None, match: str) -> None:
    ref = next(READER.index(root, "all"))
    path = root / "SUNRGBD" / ref.id / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(FrameError, match=match):
        READER.read(root, ref)
