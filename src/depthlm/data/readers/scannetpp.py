"""ScanNet++ (iPhone): video of 1920x1440 with lidar z of 256x192, whose grid is stretched over the picture.

Works on the download (rgb.mkv, rgb_mask.mkv, depth.bin) and on frames that the toolkit has extracted (rgb/, rgb_masks/,
depth/). depth.bin exists in two forms: one deflate stream of float32 metres, or a chain of [size][block] frames, each
LZ4 of uint16 millimetres or deflate of float32 metres. Each frame has its own K (for 1920x1440). The lens' distortion
(colmap/cameras.txt) is mild and NOT undone: picture and depth share it, so that labels stay on their pixels.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import Camera, resize_uv
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import (
    blaming,
    image_size,
    index_pose,
    read_bytes,
    read_depth_png,
    read_gray,
    read_json,
    rigid,
)
from depthlm.data.readers.streams import DeflateStream, Video, chain, unpack_lz4
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_FULL = (1920, 1440)  # the size that K is given for
_GRID = (192, 256)  # rows, columns of depth.bin
_PIXELS = _GRID[0] * _GRID[1]
_OFFICIAL_FOCAL = 1427.4375  # what the released curation took for every frame, px at 1920x1440


class ScanNetPP(Reader):
    """data/<scene>/iphone of the download, raw or extracted."""

    name = "scannetpp"
    title = "ScanNet++ (iPhone)"
    licence = "ScanNet++ Terms of Use: academic research, no redistribution"
    layout = (
        "data/<scene>/iphone/ with pose_intrinsic_imu.json and rgb.mkv, rgb_mask.mkv, depth.bin (or the extracted "
        "rgb/, rgb_masks/, depth/), and splits/nvs_sem_{train,val}.txt"
    )
    splits = ("train", "val")
    near, far = 0.001, 10.0
    every = 10
    legacy_note = "distance computed as sqrt(x^2 + y^2 + z^2) with x, y not multiplied by z, and one K for all frames"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """The frames of pose_intrinsic_imu.json (of rgb/ where there is one), scene by scene."""
        self.check_split(split)
        scenes = sorted(path.parent.parent.name for path in root.glob("data/*/iphone/pose_intrinsic_imu.json"))
        if not scenes:
            raise self.missing(root, "data/<scene>/iphone/pose_intrinsic_imu.json")
        if split != ALL:
            listing = root / "splits" / f"nvs_sem_{split}.txt"
            if not listing.is_file():
                raise InputError(f"{listing}: not there; split {split!r} needs it, without it only 'all' works")
            chosen = set(listing.read_text(encoding="utf-8").split())
            scenes = [scene for scene in scenes if scene in chosen]
        for scene in scenes:
            folder = root / "data" / scene / "iphone"
            try:
                table = _table(folder)
            except FrameError:  # one frame that `read` refuses with the reason, instead of an end to all scenes
                yield FrameRef(id=scene, scene=scene, data=(scene, "", (), ()))
                continue
            extracted = folder / "rgb"
            names = [path.stem for path in extracted.glob("frame_*.jpg")] if extracted.is_dir() else list(table)
            for name in sorted(names):
                intrinsics, pose = table.get(name, ((), ()))
                yield FrameRef(
                    id=f"{scene}/{name}", scene=scene, sequence=scene, pose=index_pose(pose),
                    data=(scene, name, intrinsics, pose),
                )  # fmt: skip

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture as it is; sensor z where it has a reading and the picture is not anonymised."""
        scene, name, intrinsics, pose = ref.data
        folder = root / "data" / scene / "iphone"
        if not name:
            _table(folder)  # says what is wrong
            raise FrameError(f"{folder}: was not readable when the tree was listed")
        table = folder / "pose_intrinsic_imu.json"
        if len(intrinsics) != 9:
            raise FrameError(f"{table}: no 3x3 intrinsic of {name}")
        image, size = _picture(folder, name)
        with blaming(table):
            camera = Camera.from_matrix(np.reshape(intrinsics, (3, 3)), *_FULL).resize(*size)
        world = rigid(pose, f"{table}: {name}")
        z, valid = _depth(folder, name)
        mask = _mask(folder, name)
        if mask is not None:
            valid &= _nearest(mask, z.shape)
        return Frame(image=image, camera=camera, labels=DenseLabels(z, valid), pose=world)

    def read_legacy(self, root: Path, ref: FrameRef) -> Frame:
        """With the released formula: z such that z * ray_factor is sqrt(xn^2 + yn^2 + z_true^2)."""
        frame = self.read(root, ref)
        assert isinstance(frame.labels, DenseLabels)
        camera, (rows, columns) = frame.camera, frame.labels.z.shape
        v, u = np.mgrid[:rows, :columns]
        uv = resize_uv(np.stack([u.ravel(), v.ravel()], 1), (columns, rows), (camera.width, camera.height))
        xy = (uv - (camera.cx, camera.cy)) / (_OFFICIAL_FOCAL * camera.width / _FULL[0])
        z = frame.labels.z.astype(np.float64).reshape(-1)
        wrong = np.sqrt((xy**2).sum(axis=1) + z**2) / camera.ray_factor(uv)
        return replace(frame, labels=DenseLabels(wrong.reshape(rows, columns), frame.labels.valid))


Entry = tuple[tuple[float, ...], tuple[float, ...]]


@lru_cache(maxsize=2)
def _table(folder: Path) -> dict[str, Entry]:
    """Frame name -> 9 numbers of K, 16 of the pose; an empty tuple where they cannot be read."""
    path = folder / "pose_intrinsic_imu.json"
    values = read_json(path)
    if not isinstance(values, dict):
        raise FrameError(f"{path}: expected one entry per frame, found a {type(values).__name__}")
    # aligned_pose is the same camera in the frame of the laser scan; `pose` is what ARKit said.
    return {
        name: (_numbers(entry, "intrinsic"), _numbers(entry, "aligned_pose") or _numbers(entry, "pose"))
        for name, entry in values.items()
    }


def _numbers(entry: Any, key: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in np.asarray(entry[key], dtype=np.float64).reshape(-1))
    except (KeyError, TypeError, ValueError):
        return ()


def _picture(folder: Path, name: str) -> tuple[bytes, tuple[int, int]]:
    """The encoded picture and its (width, height)."""
    if (folder / "rgb").is_dir():
        path = folder / "rgb" / f"{name}.jpg"
        data = read_bytes(path)
        size = image_size(data, path)
    else:
        path = folder / "rgb.mkv"
        data, size = Video.open(path).jpeg(_number(name))
    # Any other shape is a crop or a turned picture, for which K does not hold.
    if size[0] * _FULL[1] != size[1] * _FULL[0]:
        raise FrameError(f"{path}: image is {size[0]}x{size[1]} but its calibration says {_FULL[0]}x{_FULL[1]}")
    return data, size


def _depth(folder: Path, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Z [h, w] metres and where there is a reading."""
    if (folder / "depth").is_dir():
        return read_depth_png(folder / "depth" / f"{name}.png", 0.001)
    z: NDArray[np.float32]
    path, number = folder / "depth.bin", _number(name)
    blocks = chain(path)
    if not blocks:
        z = np.frombuffer(DeflateStream.open(path, 4 * _PIXELS).frame(number), dtype="<f4").reshape(_GRID)
        return z, z > 0
    if number >= len(blocks):
        raise FrameError(f"{path}: holds {len(blocks)} frames; no frame {number}")
    start, size = blocks[number]
    with path.open("rb") as file:
        file.seek(start)
        block = file.read(size)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        metres = unpacker.decompress(block, 4 * _PIXELS + 1)
    except zlib.error:
        metres = b""
    if len(metres) == 4 * _PIXELS:
        z = np.frombuffer(metres, dtype="<f4").reshape(_GRID)
    elif millimetres := unpack_lz4(block, 2 * _PIXELS):
        z = (np.frombuffer(millimetres, dtype="<u2").astype(np.float32) / np.float32(1000)).reshape(_GRID)
    else:
        raise FrameError(f"{path}: frame {number} is neither LZ4 nor deflate of {_GRID[1]}x{_GRID[0]} depths")
    return z, z > 0


def _mask(folder: Path, name: str) -> NDArray[Any] | None:
    """What may be seen (255) and what is anonymised (0); None where the tree has no masks."""
    if (folder / "rgb_masks").is_dir():
        return read_gray(folder / "rgb_masks" / f"{name}.png")
    path = folder / "rgb_mask.mkv"
    return Video.open(path).gray(_number(name)) if path.is_file() else None


def _nearest(mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask at the pixel under each pixel centre of a grid of `shape`; a codec blurs its edges, so half counts."""
    row, column = (
        np.floor((np.arange(small) + 0.5) * large / small).astype(int)
        for small, large in zip(shape, mask.shape, strict=True)
    )
    keep: NDArray[np.bool_] = mask[np.ix_(row, column)] > 127
    return keep


def _number(name: str) -> int:
    """frame_000123 -> 123, its place in the video."""
    digits = name.removeprefix("frame_")
    if not digits.isdigit():
        raise FrameError(f"{name}: not a frame name; expected frame_000000")
    return int(digits)


READER = ScanNetPP()
