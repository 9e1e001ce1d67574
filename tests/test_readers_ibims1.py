"""iBims-1: the real corridor_04 against the official labels, and damaged trees."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

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
