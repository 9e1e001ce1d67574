"""ScanNet++: three real frames, and a rendered scan in every form the download and the toolkit leave behind."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from depthlm.camera import Camera, resize_uv
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.data.readers.streams import unpack_lz4
from depthlm.errors import InputError
from layouts import lay_out
from trees import Known, check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("scannetpp")
SIZE = (256, 192)  # small pictures of the right shape; depth.bin has this grid
FORMS = ["png", "stream", "lz4", "deflate"]
SCENE = "02455b3d20"
FULL_K = [[1432.0, 0, 958.0], [0, 1431.0, 721.0], [0, 0, 1]]


def view(number: int) -> Known:
    camera = Camera.from_matrix(FULL_K, 1920, 1440).resize(*SIZE)
    return known_view(seed=number, camera=camera)


def build(root: Path, form: str, *, frames: int = 3) -> Path:
    """<root>/data/<scene>/iphone: `form` says how depth is stored; pictures extracted ("png") or a video."""
    folder = root / "data" / SCENE / "iphone"
    folder.mkdir(parents=True)
    names = [f"frame_{n:06d}" for n in range(frames)]
    table = {
        name: {"timestamp": n, "pose": np.eye(4).tolist(), "intrinsic": FULL_K, "aligned_pose": view(n).pose.tolist()}
        for n, name in enumerate(names)
    }
    (folder / "pose_intrinsic_imu.json").write_text(json.dumps(table))
    metres = [np.nan_to_num(view(n).z, posinf=0).astype("<f4") for n in range(frames)]
    millimetres = [(z * 1000).round().clip(0, 65535).astype("<u2") for z in metres]
    if form == "png":
        for sub in ("rgb", "depth", "rgb_masks"):
            (folder / sub).mkdir()
        for n, name in enumerate(names):
            (folder / "rgb" / f"{name}.jpg").write_bytes(view(n).encoded())
            cv2.imwrite(str(folder / "depth" / f"{name}.png"), millimetres[n])
            cv2.imwrite(str(folder / "rgb_masks" / f"{name}.png"), np.full((192, 256), 255, np.uint8))
        return folder
    video = cv2.VideoWriter(str(folder / "rgb.mkv"), cv2.VideoWriter_fourcc(*"FFV1"), 60, SIZE)
    assert video.isOpened()
    for n in range(frames):
        video.write(np.ascontiguousarray(view(n).rgb[:, :, ::-1]))
    video.release()
    if form == "stream":
        packer = zlib.compressobj(wbits=-15)
        data = packer.compress(np.stack(metres).tobytes()) + packer.flush()
    elif form == "lz4":
        blocks = [pa.compress(z.tobytes(), codec="lz4_raw", asbytes=True) for z in millimetres]
        data = b"".join(struct.pack("<I", len(block)) + block for block in blocks)
    else:
        blocks = [zlib.compress(z.tobytes(), wbits=-15) for z in metres]
        data = b"".join(struct.pack("<I", len(block)) + block for block in blocks)
    (folder / "depth.bin").write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "focal", "median"),
    [("02455b3d20_frame_001020", 1432.49, 1.457), ("09c1414f1b_frame_002160", 1431.33, 1.746)],
)
def test_real_frames(samples_dir: Path, tmp_path: Path, name: str, focal: float, median: float) -> None:
    root, rows = lay_out("scannetpp", samples_dir, tmp_path), samples_dir / "scannetpp" / "examples.jsonl"
    scene, frame_name = name.split("_", 1)
    (ref,) = (ref for ref in READER.index(root, "all") if ref.sequence == scene)
    assert ref.id == f"{scene}/{frame_name}"
    frame = READER.read(root, ref)
    assert abs(np.median(frame.labels.depths()) - median) < 1e-3
    assert (frame.camera.width, frame.camera.height, frame.camera.fx) == (1920, 1440, focal)
    row = next(r for line in rows.open() if (r := json.loads(line))["image"] == f"{name}.jpg")
    u, v = np.array(row["pixel_coords"]).T
    assert np.abs(frame.labels.z[v, u] - row["depth"]).max() < 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_storage(tmp_path: Path, form: str) -> None:
    build(tmp_path, form)
    refs = list(READER.index(tmp_path, "all"))
    assert [ref.id for ref in refs] == [f"{SCENE}/frame_{n:06d}" for n in range(3)]
    for n in (1, 2, 0):  # also backwards: a stream starts over
        frame, known = READER.read(tmp_path, refs[n]), view(n)
        check_labels(frame, known, z_tolerance=6e-4)
        assert np.abs(frame.pose - known.pose).max() < 1e-9
        assert np.abs(np.reshape(refs[n].pose, (4, 4)) - known.pose).max() < 1e-9
        assert abs(frame.camera.fx - 1432 * 256 / 1920) < 1e-9
        assert abs(frame.camera.cx - (958.5 * 256 / 1920 - 0.5)) < 1e-9
        picture = np.asarray(Image.open(io.BytesIO(frame.image))).astype(float)
        off = [np.abs(picture - view(other).rgb).mean() for other in range(3)]
        assert int(np.argmin(off)) == n  # the frame of that number, not a neighbour
        assert off[n] < 8  # JPEG noise


def test_a_hand_made_lz4_block() -> None:
    # Four literals, a match of 12 bytes 4 back, five literals: "abcd" * 4 + "vwxyz".
    block = bytes([0x48]) + b"abcd" + bytes([4, 0]) + bytes([0x50]) + b"vwxyz"
    assert unpack_lz4(block, 21) == b"abcd" * 4 + b"vwxyz"
    assert unpack_lz4(block, 22) == b""  # too short
    assert unpack_lz4(block, 20) == b""  # too long
    assert unpack_lz4(b"", 5) == b""


def test_anonymised_and_unread_pixels_are_no_labels(tmp_path: Path) -> None:
    folder = build(tmp_path, "png", frames=1)
    depth = view(0).z
    small = (np.nan_to_num(depth[::2, ::2], posinf=0) * 1000).astype(np.uint16)  # 128x96: the mask is finer
    small[0, 0] = 0
    cv2.imwrite(str(folder / "depth" / "frame_000000.png"), small)
    mask = np.full((192, 256), 255, np.uint8)
    mask[:, 100:] = 0
    cv2.imwrite(str(folder / "rgb_masks" / "frame_000000.png"), mask)
    frame = READER.read(tmp_path, next(READER.index(tmp_path, "all")))
    assert not frame.labels.valid[0, 0]
    assert not frame.labels.valid[:, 50:].any()
    assert frame.labels.valid[1:, :50].all()
    uv, _ = frame.labels.take([0], frame.camera)
    assert uv[0].tolist() == [2.5, 0.5]  # the middle of its 2x2 pixels


def test_a_mask_video_counts(tmp_path: Path) -> None:
    folder = build(tmp_path, "lz4", frames=2)
    video = cv2.VideoWriter(str(folder / "rgb_mask.mkv"), cv2.VideoWriter_fourcc(*"FFV1"), 60, SIZE)
    mask = np.full((192, 256, 3), 255, np.uint8)
    video.write(mask)
    mask[:100] = 0
    video.write(mask)
    video.release()
    first, second = (READER.read(tmp_path, ref).labels.valid for ref in READER.index(tmp_path, "all"))
    assert first[:100].any()
    assert not second[:100].any()
    assert second[100:].any()


def test_legacy_labels_use_the_released_formula(tmp_path: Path) -> None:
    build(tmp_path, "png", frames=1)
    (ref,) = READER.index(tmp_path, "all")
    frame, legacy = READER.read(tmp_path, ref), READER.read_legacy(tmp_path, ref)
    index = np.arange(frame.labels.count)
    uv, z = frame.labels.take(index, frame.camera)
    full = resize_uv(uv, SIZE, (1920, 1440))
    published = np.sqrt(((full[:, 0] - 958) / 1427.4375) ** 2 + ((full[:, 1] - 721) / 1427.4375) ** 2 + z**2)
    moved, label = legacy.labels.take(index, legacy.camera)
    assert np.array_equal(moved, uv)
    assert np.abs(label * legacy.camera.ray_factor(uv) / published - 1).max() < 2e-3
    assert READER.legacy_label == "distance"


def test_splits(tmp_path: Path) -> None:
    build(tmp_path, "png", frames=1)
    with pytest.raises(InputError, match="nvs_sem_val.txt.*only 'all'"):
        list(READER.index(tmp_path, "val"))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "nvs_sem_train.txt").write_text(f"{SCENE}\nffffffffff\n")
    (tmp_path / "splits" / "nvs_sem_val.txt").write_text("ffffffffff\n")
    assert len(list(READER.index(tmp_path, "train"))) == 1
    assert not list(READER.index(tmp_path, "val"))


@pytest.mark.parametrize("name", ["rgb/frame_000000.jpg", "depth/frame_000000.png", "rgb_masks/frame_000000.png"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    folder = build(tmp_path, "png", frames=1)
    (ref,) = READER.index(tmp_path, "all")
    (folder / name).write_bytes(b"")
    with pytest.raises(FrameError, match=f"{name}.*empty"):
        READER.read(tmp_path, ref)
    (folder / name).unlink()
    with pytest.raises(FrameError, match=f"{name}.*cannot be read"):
        READER.read(tmp_path, ref)


@pytest.mark.parametrize("form", ["stream", "lz4", "deflate"])
def test_a_truncated_depth_stream_is_named(tmp_path: Path, form: str) -> None:
    folder = build(tmp_path, form, frames=2)
    path = folder / "depth.bin"
    path.write_bytes(path.read_bytes()[:-200])
    ref = list(READER.index(tmp_path, "all"))[1]
    with pytest.raises(FrameError, match="depth.bin"):
        READER.read(tmp_path, ref)


@pytest.mark.parametrize("name", ["rgb.mkv", "depth.bin"])
def test_an_empty_or_missing_stream_is_named(tmp_path: Path, name: str) -> None:
    folder = build(tmp_path, "lz4", frames=1)
    (ref,) = READER.index(tmp_path, "all")
    (folder / name).write_bytes(b"")
    with pytest.raises(FrameError, match=f"{name}.*(empty|not a readable video)"):
        READER.read(tmp_path, ref)
    (folder / name).unlink()
    with pytest.raises(FrameError, match=f"{name}.*(cannot be read|no such file)"):
        READER.read(tmp_path, ref)


def test_a_video_that_ends_early_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path, "lz4", frames=2)
    table = json.loads((folder / "pose_intrinsic_imu.json").read_text())
    table["frame_000002"] = table["frame_000001"]
    (folder / "pose_intrinsic_imu.json").write_text(json.dumps(table))
    ref = list(READER.index(tmp_path, "all"))[2]
    with pytest.raises(FrameError, match="rgb.mkv.*holds 2 frames; no frame 2"):
        READER.read(tmp_path, ref)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intrinsic": None}, "no 3x3 intrinsic of frame_000000"),
        ({"intrinsic": [[0, 0, 1], [0, 5, 1], [0, 0, 1]]}, "fx is 0"),
        ({"aligned_pose": [[float("nan")] * 4] * 4}, "frame_000000.*not finite"),
        ({"aligned_pose": None, "pose": None}, "frame_000000.*expected 12 or 16"),
        (None, "not valid JSON"),
    ],
)
def test_damaged_calibration_is_named(tmp_path: Path, change: dict | None, message: str) -> None:
    path = build(tmp_path, "png", frames=1) / "pose_intrinsic_imu.json"
    table = json.loads(path.read_text())
    table["frame_000000"].update(change or {})
    path.write_text(json.dumps(table) if change else "{")
    (ref,) = READER.index(tmp_path, "all")
    with pytest.raises(FrameError, match=f"pose_intrinsic_imu.json.*{message}"):
        READER.read(tmp_path, ref)


def test_a_frame_without_calibration_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path, "png", frames=1)
    shutil.copyfile(folder / "rgb" / "frame_000000.jpg", folder / "rgb" / "frame_000009.jpg")
    ref = list(READER.index(tmp_path, "all"))[1]
    with pytest.raises(FrameError, match="no 3x3 intrinsic of frame_000009"):
        READER.read(tmp_path, ref)


def test_another_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not look like ScanNet"):
        list(READER.index(tmp_path, "all"))
    with pytest.raises(InputError, match="no split 'test'"):
        list(READER.index(tmp_path, "test"))
