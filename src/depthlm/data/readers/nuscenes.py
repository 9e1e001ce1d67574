"""nuScenes: the key frames of six cameras round a car, labelled by the lidar of the same sample.

Pictures are rectified. Camera and lidar of one sample are up to 50 ms apart: the car's own motion in between moves
points by decimetres, which the released curation leaves out. Tables are read as they are, without a devkit; those of
trainval with a row for every file (1 GB) pass row by row. The official mini release has scenes of both train and val.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from depthlm.data.readers.base import ALL, Frame, FrameError, FrameRef, SparseLabels
from depthlm.data.readers.drives import Capture, DriveReader, Step, capture_ref, compose
from depthlm.data.readers.files import read_bytes, read_json
from depthlm.data.readers.lidar import project_lidar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
_LIDAR = "LIDAR_TOP"
_TABLES = {"train": "v1.0-trainval", "val": "v1.0-trainval", "mini": "v1.0-mini", "test": "v1.0-test"}
_VAL = (  # the 150 official scenes, by number
    "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 775 "
    "777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073"
)
_CHUNK = 1 << 20  # characters
_BETWEEN_ROWS = re.compile(r"[\s\[,]*")
_END = re.compile(r"[\s\[]*\]\s*")


class _Row(NamedTuple):
    """What is kept of a key frame in sample_data."""

    filename: str
    size: tuple[int, int]
    time: int
    sensor: str
    ego: str


class NuScenes(DriveReader):
    """One of the v1.0 releases, or several in one root."""

    name = "nuscenes"
    title = "nuScenes"
    licence = "CC BY-NC-SA 4.0 with the nuScenes terms of use (non-commercial)"
    layout = "v1.0-trainval (or v1.0-mini, v1.0-test) with its JSON tables, beside samples/CAM_* and samples/LIDAR_TOP"
    splits = ("train", "val", "mini", "test")
    near, far = 0.05, 80.0
    nearest = 1.0  # as official tools: the car's own roof and bonnet
    legacy_label = "z"
    legacy_note = "the car's motion between lidar and camera left out (up to 0.4 m), pixels rounded down"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Scene by scene, camera by camera, in order of time."""
        self.check_split(split)
        folders = [_TABLES[split]] if split != ALL else ["v1.0-trainval", "v1.0-test"]
        if split == ALL and not (root / folders[0]).is_dir():
            folders.append("v1.0-mini")  # its scenes are in trainval
        found = [root / name for name in folders if (root / name / "sample_data.json").is_file()]
        if not found:
            raise self.missing(root, f"{folders[-1]}/sample_data.json")
        for folder in found:
            yield from _index_tables(folder, split)

    def points(self, path: Path) -> NDArray[np.float64]:
        """x, y, z of float32 x y z intensity ring."""
        data = read_bytes(path)
        if len(data) % 20:
            raise FrameError(f"{path}: {len(data)} bytes; expected a multiple of 20 (five float32 for each point)")
        return np.frombuffer(data, dtype="<f4").reshape(-1, 5)[:, :3].astype(np.float64)

    def read_legacy(self, root: Path, ref: FrameRef) -> Frame:
        """As if the car stood still; the nearest point of each pixel, however near, whatever hides it."""
        view = self.view(root, ref)
        # The last step of each chain is the mount on the car.
        still = np.linalg.inv(compose(root, ref.data.picture[-1:])) @ compose(root, ref.data.sweep[-1:])
        labels = project_lidar(still, view.points, view.camera, near=0.0)
        by_depth = np.argsort(labels.z, kind="stable")
        pixels, first = np.unique(np.floor(labels.uv[by_depth]), axis=0, return_index=True)
        on = view.camera.contains(pixels)
        labels = SparseLabels(pixels[on], labels.z[by_depth][first][on])
        return Frame(image=view.image, camera=view.camera, labels=labels, pose=view.pose)


def _index_tables(folder: Path, split: str) -> Iterator[FrameRef]:
    try:
        names = {row["token"]: row["name"] for row in read_json(folder / "scene.json")}
        val = _numbered(_VAL)
        if split in ("train", "val"):
            names = {token: name for token, name in names.items() if (name in val) == (split == "val")}
        samples = {row["token"]: names[row["scene_token"]] for row in _rows(folder / "sample.json")
                   if row["scene_token"] in names}  # fmt: skip
        mounts = {row["token"]: row for row in read_json(folder / "calibrated_sensor.json")}
        frames = _key_frames(folder / "sample_data.json", set(samples))
        wanted = {row.ego for sample in frames.values() for row in sample.values()}
        egos = {row["token"]: _numbers(row) for row in _rows(folder / "ego_pose.json") if row["token"] in wanted}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"{folder}: a table is not as it should be ({type(error).__name__}: {error})") from error

    def steps(row: _Row) -> tuple[Step, Step]:
        mount = mounts.get(row.sensor)
        return (
            Step(f"{folder.name}/ego_pose.json ({row.ego})", egos.get(row.ego)),
            Step(f"{folder.name}/calibrated_sensor.json ({row.sensor})", None if mount is None else _numbers(mount)),
        )

    cameras: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for token, sample in frames.items():
        for channel, row in sample.items():
            if channel != _LIDAR:
                cameras.setdefault((samples[token], channel), []).append((row.time, row.filename, token))
    for scene, channel in sorted(cameras, key=lambda key: (key[0], _CAMERAS.index(key[1]))):
        for _, _, token in sorted(cameras[scene, channel]):
            row, sweep = frames[token][channel], frames[token].get(_LIDAR)
            lost = Step(f"{folder.name}/sample_data.json ({_LIDAR} of sample {token})", None)
            capture = Capture(
                image=row.filename,
                size=row.size,
                intrinsics=_pinhole(mounts.get(row.sensor)),
                source=f"{folder.name}/calibrated_sensor.json ({row.sensor})",
                picture=steps(row),
                lidar=sweep.filename if sweep else "",
                sweep=steps(sweep) if sweep else (lost,),
            )
            yield capture_ref(capture, scene, f"{scene}/{channel}")


def _key_frames(path: Path, samples: set[str]) -> dict[str, dict[str, _Row]]:
    """Sample token -> channel -> its key frame."""
    frames: dict[str, dict[str, _Row]] = {}
    for row in _rows(path):
        if not row["is_key_frame"] or row["sample_token"] not in samples:
            continue
        channel = row["filename"].split("/")[1]  # samples/CHANNEL/log__CHANNEL__time.ext
        if channel in _CAMERAS or channel == _LIDAR:
            size = (row["width"], row["height"])
            kept = _Row(row["filename"], size, row["timestamp"], row["calibrated_sensor_token"], row["ego_pose_token"])
            frames.setdefault(row["sample_token"], {})[channel] = kept
    return frames


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table one after the other: the largest of trainval take gigabytes at once."""
    decode = json.JSONDecoder().raw_decode
    rest, chunk = "", "\n"
    try:
        with path.open(encoding="utf-8") as file:
            while chunk and len(rest) <= 4 * _CHUNK:  # no row is that long: something is broken
                chunk = file.read(_CHUNK)
                rest += chunk
                at = 0
                while gap := _BETWEEN_ROWS.match(rest, at):
                    try:
                        row, at = decode(rest, gap.end())
                    except ValueError:
                        break  # the row goes on in the next chunk
                    yield row
                rest = rest[at:]
    except (OSError, UnicodeDecodeError) as error:
        raise FrameError(f"{path}: cannot be read ({error})") from error
    if not _END.fullmatch(rest):
        raise FrameError(f"{path}: not a complete JSON table")


def _numbers(row: dict[str, Any]) -> tuple[float, ...] | None:
    """Rotation w x y z and translation x y z of a row."""
    values = (*map(float, row["rotation"]), *map(float, row["translation"]))
    return values if len(values) == 7 else None


def _pinhole(mount: dict[str, Any] | None) -> tuple[float, ...] | None:
    k = mount.get("camera_intrinsic") if mount else None
    return (float(k[0][0]), float(k[1][1]), float(k[0][2]), float(k[1][2])) if k else None


def _numbered(ranges: str) -> set[str]:
    """The scene names of a list of numbers and ranges."""
    ends = [part.split("-") for part in ranges.split()]
    return {f"scene-{n:04d}" for part in ends for n in range(int(part[0]), int(part[-1]) + 1)}


READER = NuScenes()
