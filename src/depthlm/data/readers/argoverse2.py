"""Argoverse 2 Sensor: seven ring cameras (20 Hz) and two stereo ones, labelled by the lidar sweep nearest in time.

Released pictures are undistorted already: k1..k3 of intrinsics.feather describe the raw ones and are ignored. Points
are float16 (3 cm steps at 32 m, 12 cm beyond 128 m) in the vehicle frame at the time of the sweep. Some logs have no
calibration of the stereo cameras, which are left out there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.data.readers.base import ALL, FrameError, FrameRef
from depthlm.data.readers.drives import Capture, DriveReader, Step, capture_ref
from depthlm.data.readers.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_RING = (
    "ring_front_center", "ring_front_left", "ring_front_right", "ring_side_left", "ring_side_right", "ring_rear_left",
    "ring_rear_right",
)  # fmt: skip
_STEREO = ("stereo_front_left", "stereo_front_right")
_APART = 51_000_000  # nanoseconds; the official tools pair no picture with a sweep farther away
_POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
_PINHOLE = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")


class Argoverse2(DriveReader):
    """Logs in train/ val/ test/."""

    name = "argoverse2"
    title = "Argoverse 2 Sensor"
    licence = "CC BY-NC-SA 4.0"
    layout = "train/ val/ test/ with <log>/{calibration,sensors/lidar,sensors/cameras}, city_SE3_egovehicle.feather"
    splits = ("train", "val", "test")
    near, far = 0.05, 120.0
    every = 10  # two pictures a second
    legacy_note = "stereo cameras left out, focal length forced to 1000 in both directions, pixels rounded down"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Log by log, camera by camera, in order of time; pictures with no sweep within 51 ms are left out."""
        self.check_split(split)
        splits = [name for name in self.splits if split in (name, ALL) and (root / name).is_dir()]
        logs = [log for name in splits for log in sorted((root / name).iterdir()) if (log / "sensors").is_dir()]
        if not logs:
            raise self.missing(root, f"{'train' if split == ALL else split}/<log>/sensors")
        for log in logs:
            yield from _index_log(log)

    def points(self, path: Path) -> NDArray[np.float64]:
        """x, y, z of a sweep, both lidars together."""
        table = _read_table(path, ("x", "y", "z"))
        return np.stack([np.asarray(table[name], dtype=np.float64) for name in ("x", "y", "z")], axis=1)


def _index_log(log: Path) -> Iterator[FrameRef]:
    base = f"{log.parent.name}/{log.name}"
    pinholes = _rows(log / "calibration/intrinsics.feather", "sensor_name", _PINHOLE)
    mounts = _rows(log / "calibration/egovehicle_SE3_sensor.feather", "sensor_name", _POSE)
    poses = _rows(log / "city_SE3_egovehicle.feather", "timestamp_ns", _POSE)

    def city(time: int) -> Step:
        return Step(f"{base}/city_SE3_egovehicle.feather ({time})", poses.get(time))

    sweeps = np.array(_times(log / "sensors/lidar", "*.feather"), dtype=np.int64)
    for camera in (*_RING, *_STEREO):
        if camera in _STEREO and not (camera in pinholes and camera in mounts):
            continue
        pinhole = pinholes.get(camera)
        mount = Step(f"{base}/calibration/egovehicle_SE3_sensor.feather ({camera})", mounts.get(camera))
        for time in _times(log / "sensors/cameras" / camera, "*.jpg") if len(sweeps) else ():
            sweep = int(sweeps[np.argmin(np.abs(sweeps - time))])
            if abs(sweep - time) > _APART:
                continue
            capture = Capture(
                image=f"{base}/sensors/cameras/{camera}/{time}.jpg",
                size=(int(pinhole[4]), int(pinhole[5])) if pinhole else (0, 0),
                intrinsics=pinhole[:4] if pinhole else None,
                source=f"{base}/calibration/intrinsics.feather ({camera})",
                picture=(city(time), mount),
                lidar=f"{base}/sensors/lidar/{sweep}.feather",
                sweep=(city(sweep),),
            )
            yield capture_ref(capture, log.name, f"{log.name}/{camera}")


def _times(folder: Path, pattern: str) -> list[int]:
    """The moments that the files of a folder are called by, nanoseconds."""
    return sorted(int(path.stem) for path in folder.glob(pattern) if path.stem.isdecimal())


def _read_table(path: Path, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Some columns of a feather file."""
    import pyarrow as pa
    import pyarrow.feather as feather

    data = read_bytes(path)
    try:
        table = feather.read_table(pa.BufferReader(data), columns=list(columns))
        return {name: table[name].to_numpy() for name in columns}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise FrameError(f"{path}: cannot read {', '.join(columns)} ({str(error).splitlines()[0]})") from error


def _rows(path: Path, key: str, columns: tuple[str, ...]) -> dict[Any, tuple[float, ...]]:
    """The rows of a table by `key`; empty when the file cannot be used, so that its frames are refused one by one."""
    try:
        table = _read_table(path, (key, *columns))
    except FrameError:
        return {}
    values = np.stack([np.asarray(table[name], dtype=np.float64) for name in columns], axis=1)
    return dict(zip(table[key].tolist(), map(tuple, values.tolist()), strict=True))


READER = Argoverse2()
