"""Curation: the same bytes however the work is spread or interrupted, and nothing wrong written."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_runner import run
from depthlm.data.choose import CurateConfig, choose_labels, frame_generator, thin
from depthlm.data.curate import curate
from depthlm.data.readers import base
from depthlm.data.readers.base import DenseLabels, Frame, FrameRef, SparseLabels, get_reader
from depthlm.data.shards import ShardDataset
from depthlm.errors import InputError
from trees import write_ibims

CONFIG = CurateConfig(dataset="ibims1", points=20, frames_per_part=4)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ibims")
    write_ibims(root, 14)
    return root


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run in one process."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    curate(CONFIG, tree, out)
    return out


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_shards_open_and_hold_every_frame(whole: Path, tree: Path) -> None:
    data = ShardDataset(whole)
    assert [s.frame for s in data] == (tree / "imagelist.txt").read_text().split()
    assert len(list(whole.glob("shard-*.parquet"))) == 4
    for sample in data:
        assert len(sample) == 20
        sample.load_image()
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["points"] == 280 == data.points
    for shard in manifest["shards"]:
        assert hashlib.sha256((whole / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    info = manifest["info"]
    assert info["frames"] == {"indexed": 14, "chosen": 14, "skipped": 0}
    assert "research use" in info["licence"]
    z = np.concatenate([s.z for s in data])
    assert info["ranges"]["z_m"] == [z.min(), z.max()]


def test_two_workers_write_the_same_bytes(whole: Path, tree: Path, tmp_path: Path) -> None:
    curate(CONFIG, tree, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.slow
def test_ray_writes_the_same_bytes(whole: Path, tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    curate(CONFIG, tree, tmp_path / "out", ray="local")
    assert contents(tmp_path / "out") == contents(whole)


def test_no_cluster_is_one_line(tree: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, told = run(capsys, "curate", "ibims1", tree, tmp_path / "out", "--ray", "10.0.0.1:6379")
    assert status == 2
    assert "pip install depthlm[ray]" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("frame", [0, 6, 8, 13])
def test_killed_and_run_again_equals_an_uninterrupted_run(whole: Path, tree: Path, tmp_path: Path, frame: int) -> None:
    script = (
        "import os, signal, depthlm.data.choose as c\n"
        "from depthlm.data.curate import curate\n"
        f"make, seen = c.make_sample, []\n"
        "def dying(*a):\n"
        "    seen.append(1)\n"
        f"    if len(seen) > {frame}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return make(*a)\n"
        "c.make_sample = dying\n"
        "config = c.CurateConfig(dataset='ibims1', points=20, frames_per_part=4)\n"
        f"curate(config, {str(tree)!r}, {str(tmp_path / 'out')!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(InputError, match="no manifest.json"):
        ShardDataset(tmp_path / "out")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*")}
    assert len(before) == frame // 4
    curate(CONFIG, tree, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)
    for name, made in before.items():  # finished shards are not done again
        assert (tmp_path / "out" / name).stat().st_mtime_ns == made


def test_a_finished_run_is_left_alone(tree: Path, tmp_path: Path) -> None:
    first = curate(CONFIG, tree, tmp_path / "out")
    before = contents(tmp_path / "out")
    assert curate(CONFIG, tree, tmp_path / "out", workers=2) == first
    assert contents(tmp_path / "out") == before


def test_points_of_a_frame_depend_on_its_name_alone(whole: Path, tmp_path: Path) -> None:
    """Another order and another number of frames choose the same pixels."""
    write_ibims(tmp_path / "tree", 6)
    (tmp_path / "tree" / "imagelist.txt").write_text("room_005\nroom_002\n")
    curate(CONFIG, tmp_path / "tree", tmp_path / "out")
    ours = {s.frame: s for s in ShardDataset(tmp_path / "out")}
    for sample in ShardDataset(whole):
        if sample.frame in ours:
            np.testing.assert_array_equal(sample.uv, ours[sample.frame].uv)


def test_bad_frames_are_skipped_and_named(tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "tree"
    write_ibims(root, 9)
    png = (root / "rgb" / "room_001.png").read_bytes()
    (root / "rgb" / "room_001.png").write_bytes(png[: len(png) // 2])
    (root / "depth" / "room_002.png").write_bytes(b"")
    (root / "calib" / "room_003.txt").unlink()
    (root / "calib" / "room_004.txt").write_text("nan,1,1,1")
    from PIL import Image

    three = np.zeros((48, 64), np.uint16)
    three[0, :3] = 4000
    Image.fromarray(three).save(root / "depth" / "room_005.png")
    (root / "mask_invalid" / "room_006.png").write_bytes(b"no picture at all")
    status, stdout, _ = run(capsys, "curate", "ibims1", root, tmp_path / "out", "--workers", "1", "--json")
    assert status == 0
    told = json.loads(stdout)
    assert told["frames"] == {"indexed": 9, "chosen": 9, "skipped": 6}
    reasons = dict(zip(range(1, 7), told["skipped"], strict=True))
    for number, words in {
        1: "not a readable image, missing or truncated", 2: "the file is empty", 3: "cannot be read",
        4: "expected 4 finite numbers", 5: "3 valid labels", 6: "mask_invalid",
    }.items():  # fmt: skip
        assert f"room_00{number}" in reasons[number]
        assert words in reasons[number]
    assert [s.frame for s in ShardDataset(tmp_path / "out")] == ["room_000", "room_007", "room_008"]
    status, _, stderr = run(capsys, "curate", "ibims1", root, tmp_path / "strict", "--workers", "1", "--strict")
    assert status == 2
    assert "room_001" in stderr
    assert not (tmp_path / "strict" / "manifest.json").exists()


def test_a_frame_whose_labels_all_lie_off_the_picture_is_skipped(tree: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Labels of a distorted picture's border can miss the straightened one: 50 valid labels, and none to keep."""
    reader = get_reader("ibims1")
    read = reader.read

    def bent(root: Path, ref: FrameRef) -> Frame:
        frame = read(root, ref)
        off = SparseLabels(np.full((50, 2), -9.0), np.full(50, 2.0))
        return dataclasses.replace(frame, labels=off) if ref.id == "room_003" else frame

    monkeypatch.setattr(reader, "read", bent)
    manifest = curate(CONFIG, tree, tmp_path / "out")
    assert manifest["info"]["skipped"] == ["room_003: none of its 20 chosen labels lies on the straightened picture"]
    assert [s.frame for s in ShardDataset(tmp_path / "out")] == [f"room_{i:03d}" for i in range(14) if i != 3]
    with pytest.raises(InputError, match=r"room_003: none .*--strict"):
        curate(CONFIG, tree, tmp_path / "strict", strict=True)


def test_strict_also_sees_what_an_earlier_run_skipped(tmp_path: Path) -> None:
    write_ibims(tmp_path / "tree", 5)
    (tmp_path / "tree" / "depth" / "room_000.png").write_bytes(b"")
    (tmp_path / "tree" / "depth" / "room_004.png").write_bytes(b"")

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate(CONFIG, tmp_path / "tree", tmp_path / "out", progress=stop)
    with pytest.raises(InputError, match=r"room_000.*--strict"):
        curate(CONFIG, tmp_path / "tree", tmp_path / "out", strict=True)


def test_a_full_disk_keeps_what_is_finished(whole: Path, tree: Path, tmp_path: Path, monkeypatch: Any) -> None:
    write = pq.ParquetWriter.write_table
    calls = []

    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(InputError, match="No space left.*finished shards are kept"):
        curate(CONFIG, tree, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [".parts", "curation.json", "shard-00000.parquet", "shard-00001.parquet"]
    monkeypatch.undo()
    curate(CONFIG, tree, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_a_shard_cut_in_half_is_refused_or_made_again(whole: Path, tree: Path, tmp_path: Path) -> None:
    curate(CONFIG, tree, tmp_path / "out")
    shard = tmp_path / "out" / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"shard-00001.*bytes but the manifest says"):
        ShardDataset(tmp_path / "out")


def test_large_pictures_make_more_shards_not_larger_ones(tree: Path, tmp_path: Path) -> None:
    size = (tree / "rgb" / "room_000.png").stat().st_size
    config = dataclasses.replace(CONFIG, max_bytes=2 * size)
    curate(config, tree, tmp_path / "out")
    data = ShardDataset(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("shard-*"))) > 4
    assert [s.frame for s in data] == (tree / "imagelist.txt").read_text().split()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curate", "nosuch", "{tree}", "{out}"], "data set 'nosuch' is unknown; expected one of argoverse2"),
        (["curate", "ibims1", "{out}", "{out}2"], "no such folder"),
        (["curate", "ibims1", "{tree}", "{out}", "--split", "val"], "no split 'val'"),
        (["curate", "ibims1", "{tree}", "{out}", "--near", "9", "--far", "3"], "expected 0 <= near < far"),
        (["curate", "ibims1", "{tree}", "{whole}", "--points", "7"], "differs in frames_per_part, points"),
        (["curate", "ibims1", "{tree}", "{tree}"], "is no curation"),
        (["manifest", "waymo", "{tree}", "{out}"], "suite 'paper' has no set 'waymo'"),
        (["manifest", "ibims1", "{tree}", "{tree}/imagelist.txt"], "already exists"),
        (["manifest", "ibims1", "{tree}", "{out}", "--suite", "mine"], "suite 'mine' is unknown"),
    ],
)
def test_bad_input(
    arguments: list[str], words: str, tree: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tree)
    status, _, stderr = run(capsys, *(a.format(tree=tree, out=tmp_path / "out", whole=whole) for a in arguments))
    assert status == 2
    assert words in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert contents(tree) == before


# --- which pixels ----------------------------------------------------------------------------------------------------


def test_near_and_far_are_applied_without_checking_the_map_again(monkeypatch: Any) -> None:
    z = np.array([[np.nan, -1.0, 0.5], [1.0, 2.0, np.inf]])
    labels = DenseLabels(z, np.array([[True, True, True], [True, True, True]]))
    monkeypatch.setattr(base, "_usable", lambda *given: pytest.fail("the map was checked when it was made"))
    near = labels.within(0.5, 1.5)
    assert near.depths().tolist() == [0.5, 1.0]
    assert labels.depths().tolist() == [0.5, 1.0, 2.0]


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 300), points=st.integers(1, 120), how=st.sampled_from(["uniform", "stratified"]))
def test_chosen_labels_are_distinct_sorted_and_as_many_as_there_can_be(count: int, points: int, how: str) -> None:
    rng = np.random.default_rng(count)
    labels = SparseLabels(rng.uniform(0, 9, (count, 2)), rng.uniform(0.5, 50, count))
    chosen = choose_labels(labels, points, how, frame_generator(0, "set", "frame"))
    assert len(chosen) == min(points, count)
    assert (np.diff(chosen) > 0).all()
    assert not len(chosen) or (chosen[0] >= 0 and chosen[-1] < count)


def test_uniform_reaches_every_pixel_and_stratified_every_depth() -> None:
    """9,900 near pixels and 100 far ones: a uniform draw of 160 sees about 2 far ones, a stratified one half."""
    z = np.r_[np.full(9900, 1.0), np.full(100, 30.0)].reshape(100, 100)
    labels = DenseLabels(z, np.ones_like(z, dtype=bool))
    seen = np.zeros(10_000, int)
    far = {"uniform": 0, "stratified": 0}
    for frame in range(400):
        for how in far:
            chosen = choose_labels(labels, 160, how, frame_generator(0, "set", str(frame)))
            far[how] += int((chosen >= 9900).sum())
            if how == "uniform":
                seen[chosen] += 1
    assert 1.2 < far["uniform"] / 400 < 2.0
    assert far["stratified"] / 400 == 80
    assert seen.min() >= 0
    assert (seen > 0).mean() > 0.99
    assert seen.max() < 25  # a Poisson of mean 6.4


def test_the_generator_of_a_frame_is_pinned() -> None:
    """Another draw would change every benchmark point: this must never change."""
    assert frame_generator(0, "ibims1", "corridor_04").integers(0, 1 << 30, 3).tolist() == PINNED


PINNED = [989539360, 377203641, 310366534]


def test_videos_are_thinned_by_step_and_by_motion() -> None:
    def ref(i: int, x: float | None) -> FrameRef:
        pose = None if x is None else tuple(float(v) for v in np.eye(4).ravel())
        if pose is not None:
            pose = (*pose[:3], x, *pose[4:])
        return FrameRef(id=str(i), scene="s", sequence="video", pose=pose)

    still = [ref(i, 0.011 * i) for i in range(21)]
    assert [r.id for r in thin(still, 1, 0.05, 2.0)] == ["0", "5", "10", "15", "20"]
    assert [r.id for r in thin(still, 4, 0.05, 2.0)] == ["0", "8", "16"]
    assert [r.id for r in thin([ref(i, None) for i in range(7)], 3, 0.05, 2.0)] == ["0", "3", "6"]
    alone = [FrameRef(id=str(i), scene="s") for i in range(4)]
    assert list(thin(alone, 10, 1.0, 10.0)) == alone


def test_a_turning_camera_is_kept() -> None:
    def ref(degrees: float) -> FrameRef:
        a = np.radians(degrees)
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
        return FrameRef(id=str(degrees), scene="s", sequence="v", pose=tuple(pose.ravel().tolist()))

    assert [r.id for r in thin([ref(d) for d in (0, 1, 2.5, 3, 5)], 1, 0.05, 2.0)] == ["0", "2.5", "5"]
