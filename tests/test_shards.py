"""Shards: an exact round trip, one row group read per row, and folders that are whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from depthlm.camera import Camera
from depthlm.data import open_data
from depthlm.data.shards import ShardDataset, write_shards
from depthlm.errors import InputError
from depthlm.objects import LabelledObject
from depthlm.sample import Sample


def make_object(i: int) -> LabelledObject:
    axes = Rotation.from_euler("y", 0.1 * i).as_matrix().ravel().tolist()
    return LabelledObject(
        f"thing {i} é", (-0.5, 1 / 3, 7.5, 9.1), (0.1 + i, 0.2, 1 / 7), (0.3, -i, 2.0), tuple(axes), 0.7
    )


def make_sample(i: int, points: int = 5) -> Sample:
    rng = np.random.default_rng(i)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(file, "PNG")
    return Sample(
        image=file.getvalue(),
        camera=Camera(20 / 3 + i, 7.1, 8.3, 5.9, 16, 12),
        uv=rng.uniform(0, 11, (points, 2)),
        z=rng.uniform(0.1, 80, points),
        scene=f"scene {i // 4}",
        frame=f"frame {i}",
        surface=None if i % 3 == 0 else tuple(f"thing {j % 2} é" for j in range(points)),
        pose=None if i % 2 else rng.normal(size=(4, 4)),
        objects=tuple(make_object(i + j) for j in range(i % 3)),
    )


def assert_same(a: Sample, b: Sample) -> None:
    assert (a.image, a.camera, a.scene, a.frame, a.surface) == (b.image, b.camera, b.scene, b.frame, b.surface)
    np.testing.assert_array_equal(a.uv, b.uv)
    np.testing.assert_array_equal(a.z, b.z)
    assert a.objects == b.objects
    assert (a.pose is None) == (b.pose is None)
    if a.pose is not None:
        np.testing.assert_array_equal(a.pose, b.pose)


@pytest.mark.parametrize(
    ("rows", "per_group", "per_shard"), [(1, 64, 4096), (10, 4, 8), (9, 3, 3), (8, 8, 5), (7, 1, 100)]
)
def test_round_trip_is_exact(tmp_path: Path, rows: int, per_group: int, per_shard: int) -> None:
    samples = [make_sample(i, points=i % 4) for i in range(rows)]
    info = {"seed": 3, "kind": "indoor"}
    written = write_shards(
        iter(samples), tmp_path / "out", rows_per_group=per_group, rows_per_shard=per_shard, info=info
    )
    data = ShardDataset(tmp_path / "out")
    assert written == len(data) == rows
    assert data.info == info
    assert data.points == sum(len(s) for s in samples)
    for got, expected in zip(data, samples, strict=True):
        assert_same(got, expected)
    assert_same(data[-1], samples[-1])
    assert "row" in data[0].source
    for outside in (rows, -rows - 1):
        with pytest.raises(IndexError):
            data[outside]


def test_empty_set(tmp_path: Path) -> None:
    assert write_shards([], tmp_path / "out") == 0
    assert len(ShardDataset(tmp_path / "out")) == 0
    assert list(ShardDataset(tmp_path / "out")) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards((make_sample(i) for i in range(40)), tmp_path / "set", rows_per_group=4, rows_per_shard=16)
    return tmp_path / "set"


def test_shards_from_before_there_were_objects_open(folder: Path) -> None:
    """The column is left out of every file, as depthlm wrote them before it had it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        file = folder / shard["file"]
        pq.write_table(pq.read_table(file).drop_columns(["objects"]), file, row_group_size=4)
        shard |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    old = ShardDataset(folder)
    assert any(make_sample(i).objects for i in range(40))
    for i in range(40):
        assert_same(old[i], replace(make_sample(i), objects=()))


def test_row_groups_are_as_small_as_asked(folder: Path) -> None:
    for file in sorted(folder.glob("*.parquet")):
        metadata = pq.ParquetFile(file).metadata
        assert all(metadata.row_group(g).num_rows <= 4 for g in range(metadata.num_row_groups))
    assert [json.loads((folder / "manifest.json").read_text())["shards"][i]["rows"] for i in range(3)] == [16, 16, 8]
    with pytest.raises(InputError, match="rows_per_group is 65"):
        write_shards([], folder.parent / "x", rows_per_group=65)


def test_a_row_reads_its_row_group_once_and_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[str, int]] = []
    original = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, group: int, **options: object) -> object:
        reads.append((str(self.metadata.num_rows), group))
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    data = ShardDataset(folder, cache_groups=2)
    assert reads == []  # opening reads no rows
    for i in (4, 5, 7, 6):
        data[i]
    assert [g for _, g in reads] == [1]
    data[0], data[17]  # two more groups: the cache of two drops the first
    assert len(data._groups) == 2
    data[0]
    assert [g for _, g in reads] == [1, 0, 0]
    data[4]
    assert [g for _, g in reads] == [1, 0, 0, 1]


def test_damage_to_one_row_group_leaves_the_others_readable(folder: Path) -> None:
    """Proof on the bytes themselves that a row needs its own row group only."""
    file = folder / "shard-00000.parquet"
    group = pq.ParquetFile(file).metadata.row_group(1)
    start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    data = bytearray(file.read_bytes())
    size = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    data[start : start + size] = b"\xff" * size
    file.write_bytes(bytes(data[: file.stat().st_size]))
    damaged = ShardDataset(folder)
    for i in (*range(4), *range(8, 40)):
        assert_same(damaged[i], make_sample(i))
    with pytest.raises(InputError, match=r"shard-00000.parquet: cannot read row group 1"):
        damaged[4]
    with pytest.raises(InputError, match="cannot read row group 1"):
        open_data(folder, check_images=True)
    kept = open_data(folder, check_images=True, skip_bad=True)
    assert len(kept) == 36
    assert len(kept.skipped) == 4
    assert kept.points == 36 * 5
    assert_same(kept[4], make_sample(8))


def test_pickle_holds_no_rows(folder: Path) -> None:
    data = ShardDataset(folder)
    data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert len(copy._groups) == len(copy._open) == 0
    assert_same(copy[21], make_sample(21))


_SHARED: list[ShardDataset] = []


def read_shared(i: int) -> tuple[bytes, bool]:
    """The image, and whether the child has let go of its parent's open files."""
    image = _SHARED[0][i].image
    return image, _SHARED[0]._pid == os.getpid()


def test_forked_workers_read_beside_their_parent(folder: Path) -> None:
    data = ShardDataset(folder)
    data[0]  # the parent's handle is open before the fork
    _SHARED[:] = [data]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pending = pool.map_async(read_shared, list(range(40)) * 3)
        here = [data[i].image for i in range(40)]
        there = pending.get(240)
    assert [image for image, _ in there] == here * 3 == [make_sample(i).image for i in range(40)] * 3
    assert all(own for _, own in there)


# --- whole or not there -----------------------------------------------------------------------------------------------


def test_nothing_half_written(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from (make_sample(i) for i in range(10))
        raise RuntimeError("renderer died")

    with pytest.raises(RuntimeError, match="renderer died"):
        write_shards(failing(), tmp_path / "out", rows_per_group=2)
    assert list(tmp_path.iterdir()) == []


def test_refuses_to_overwrite(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already exists and is not empty"):
        write_shards([make_sample(1)], folder)
    assert len(ShardDataset(folder)) == 40
    assert write_shards([make_sample(1)], folder, overwrite=True) == 1
    assert len(ShardDataset(folder)) == 1
    (tmp_path / "empty").mkdir()
    write_shards([make_sample(1)], tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        write_shards([make_sample(1)], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_shards([make_sample(1)], tmp_path / "file" / "out")


def test_folders_that_are_no_shards(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ShardDataset(tmp_path / "none")
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match=r"no manifest\.json"):
        ShardDataset(tmp_path / "plain")
    manifest = folder / "manifest.json"
    good = json.loads(manifest.read_text())
    for content, message in [
        ("{", "not readable"),
        ("[]", "not the manifest"),
        (json.dumps({**good, "format": "other"}), "not the manifest"),
        (json.dumps({**good, "version": 99}), "shard version 99"),
        (json.dumps({k: v for k, v in good.items() if k != "shards"}), "incomplete"),
    ]:
        manifest.write_text(content)
        with pytest.raises(InputError, match=message):
            ShardDataset(folder)


def test_missing_truncated_and_foreign_shards(folder: Path) -> None:
    file = folder / "shard-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"shard-00001.parquet: \d+ bytes but the manifest says"):
        ShardDataset(folder)
    file.write_bytes(b"x" * len(whole))
    with pytest.raises(InputError, match="cannot read row group"):
        ShardDataset(folder)[20]
    file.unlink()
    with pytest.raises(InputError, match=r"shard-00001.parquet: missing"):
        ShardDataset(folder)


def test_open_data(folder: Path, tmp_path: Path) -> None:
    assert len(open_data(folder)) == 40
    assert open_data(str(folder), check_images=True).skipped == []
    (tmp_path / "notes.txt").write_text("")
    for path, message in [(tmp_path / "none", "no such data"), (tmp_path / "notes.txt", "expected a shard folder")]:
        with pytest.raises(InputError, match=message):
            open_data(path)


def test_check_images_finds_a_truncated_image_in_a_shard(tmp_path: Path) -> None:
    good, bad = make_sample(1), make_sample(2)
    bad = Sample(bad.image[:-60], bad.camera, bad.uv, bad.z)
    write_shards([good, bad], tmp_path / "set")
    assert len(open_data(tmp_path / "set")) == 2
    with pytest.raises(InputError, match=r"row 1: not a readable image"):
        open_data(tmp_path / "set", check_images=True)
    write_shards([bad], tmp_path / "all_bad")
    with pytest.raises(InputError, match="every row is bad"):
        open_data(tmp_path / "all_bad", check_images=True, skip_bad=True)
