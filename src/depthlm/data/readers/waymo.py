"""Waymo Open Dataset, perception, v2 (parquet): five cameras and five lidars of 20 s drives at 10 Hz.

Traps: pictures are distorted, and the lidar's stored pixels are whole pixels of the distorted picture; the top lidar's
range image is taken while the car drives, each pixel with a vehicle pose of its own; a range above zero does not mean
that there is a point (the projection's camera does); camera axes are x forward, y left, z up; the principal point of
the side cameras is far above the middle. A file holds one drive; rows are found by their keys.
"""

from __future__ import annotations

import functools
import itertools
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, Frame, FrameError, FrameRef, Reader, SparseLabels
from depthlm.data.readers.files import rigid, straighten
from depthlm.data.readers.lidar import transform, visible
from depthlm.errors import InputError
from depthlm.lens import LensCamera

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Rows = dict[int, dict[str, Any]]  # sensor -> column -> value

# Folder -> what its columns begin with.
_COMPONENTS = {
    "camera_image": "CameraImage",
    "camera_calibration": "CameraCalibration",
    "lidar": "LiDAR",
    "lidar_calibration": "LiDARCalibration",
    "lidar_camera_projection": "LiDARCameraProjection",
    "lidar_pose": "LiDARPose",
    "vehicle_pose": "VehiclePose",
}
_SEGMENT, _TIME = "key.segment_context_name", "key.frame_timestamp_micros"
_CAMERA, _LASER = "key.camera_name", "key.laser_name"
_CAMERAS = ("", "FRONT", "FRONT_LEFT", "FRONT_RIGHT", "SIDE_LEFT", "SIDE_RIGHT")
_LASERS = ("", "TOP", "FRONT", "SIDE_LEFT", "SIDE_RIGHT", "REAR")
_TOP = 1
_EXPOSURE = "pose.transform"  # of the vehicle, when the camera exposed
_BATCH = 8  # rows in memory at a time; one range image has a megabyte
_AXES = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])  # OpenCV camera -> x forward, z up


class Waymo(Reader):
    """Folders of one parquet file per drive and component, in training/, validation/ and testing/."""

    name = "waymo"
    title = "Waymo Open Dataset v2 (perception)"
    licence = "Waymo Dataset License Agreement for Non-Commercial Use: do not redistribute"
    layout = "{training,validation,testing}/{" + ",".join(_COMPONENTS) + "}/<segment>.parquet, or one of the three"
    splits = ("training", "validation", "testing")
    near, far = 0.05, 70.0
    every = 5  # of 10 a second
    legacy_label = "distance"
    legacy_note = (
        "pixels moved against the lens map and the principal point taken for the middle: 17 to 393 of 1920 px off"
    )

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """One frame for each row of camera_image; the cameras of one moment follow each other and share its lidar."""
        self.check_split(split)
        for folder in self._folders(root, split):
            for path in sorted((root / folder / "camera_image").glob("*.parquet")):
                yield from _frames(root, folder, path)

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The straightened picture with the first returns of all lidars, in the camera frame at its own exposure."""
        folder, segment, time, camera = ref.data
        base = root / folder
        where = base / "camera_image" / f"{segment}.parquet" / str(time) / _CAMERAS[camera]
        columns = ("image", *_exposure_column(base, segment))
        image, *exposure = _rows(base, "camera_image", segment, columns, time, camera)[camera].values()
        if not image:
            raise FrameError(f"{where}: the row holds no picture")
        lens, vehicle_from_camera = _calibration(base, segment, camera)
        # The cameras expose up to 30 ms from the frame's pose: half a metre at 15 m/s.
        world_from_frame = _vehicle_pose(base, segment, time)
        pose = (rigid(exposure[0], str(where)) if exposure else world_from_frame) @ vehicle_from_camera
        xyz, pixels = _points(base, segment, time)
        # Of two cameras that see a point the first column names one, the fourth the other.
        first, second = pixels[:, 0] == camera, pixels[:, 3] == camera
        # Stored pixels are whole and count from the left edge of the first one: u of its centre is the number itself.
        uv = np.where(first[:, None], pixels[:, 1:3], pixels[:, 4:6]).astype(np.float64)
        seen = (first | second) & lens.camera.contains(uv)
        z = transform(np.linalg.inv(pose) @ world_from_frame, xyz[seen])[:, 2]
        picture, pinhole = straighten(image, where, lens)
        try:
            labels = SparseLabels(lens.to_undistorted(uv[seen]), z)
        except InputError as error:
            raise FrameError(f"{where}: {error}") from error
        return Frame(image=picture, camera=pinhole, labels=visible(labels, pinhole), pose=pose)

    def _folders(self, root: Path, split: str) -> list[str]:
        """Split folders below the root that hold pictures; "" for a root that is one itself."""
        if any((root / "camera_image").glob("*.parquet")):
            if root.name in self.splits and split not in (root.name, ALL):
                raise InputError(
                    f"{root} is the split {root.name!r}, not {split!r}; give the split, or the folder above"
                )
            return [""]
        names = self.splits if split == ALL else (split,)
        found = [name for name in names if any((root / name / "camera_image").glob("*.parquet"))]
        if not found:
            raise self.missing(root, " and no ".join(f"{name}/camera_image/*.parquet" for name in names))
        return found


def _frames(root: Path, folder: str, path: Path) -> Iterator[FrameRef]:
    """The frames of one drive, in order of time, then camera."""
    base, segment = root / folder, path.stem
    try:
        keys = sorted(_places(path))
    except FrameError:
        # What it would have held cannot be known: one frame stands for the drive, and reading it says what is wrong.
        yield FrameRef(id=segment, scene=segment, data=(folder, segment, 0, 0))
        return
    for time, camera in keys:
        name = _CAMERAS[camera]
        try:
            pose = _vehicle_pose(base, segment, time) @ _calibration(base, segment, camera)[1]
        except FrameError:  # `read` says so
            pose = None
        yield FrameRef(
            id=f"{segment}/{time}/{name}",
            scene=segment,
            sequence=f"{segment}/{name}",
            pose=None if pose is None else tuple(pose.reshape(-1).tolist()),
            data=(folder, segment, time, camera),
        )


# --- geometry ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _calibration(base: Path, segment: str, camera: int) -> tuple[LensCamera, NDArray[np.float64]]:
    """The lens, and vehicle from (OpenCV) camera [4, 4]."""
    names = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
    columns = (*(f"intrinsic.{name}" for name in names), "extrinsic.transform", "width", "height")
    row = _rows(base, "camera_calibration", segment, columns, 0, camera)[camera]
    where = f"{base / 'camera_calibration' / segment}.parquet, {_CAMERAS[camera]}"
    try:
        fx, fy, cx, cy, *bend = (float(row[f"intrinsic.{name}"]) for name in names)
        # Waymo's pixel 0 is the left edge of the first pixel, ours its centre.
        pinhole = Camera(fx, fy, cx - 0.5, cy - 0.5, int(row["width"]), int(row["height"]))
        lens = LensCamera(pinhole, "opencv", tuple(bend))
    except (InputError, TypeError) as error:
        raise FrameError(f"{where}: {error}") from error
    return lens, rigid(row["extrinsic.transform"], where) @ _AXES


def _vehicle_pose(base: Path, segment: str, time: int) -> NDArray[np.float64]:
    """World from vehicle [4, 4] at a frame; the range images of all lidars but the top one are in this frame."""
    where = f"{base / 'vehicle_pose' / segment}.parquet"
    if time not in (poses := _vehicle_poses(base, segment)):
        raise FrameError(f"{where}: no row of {time}")
    return rigid(poses[time], f"{where}, {time}")


@functools.lru_cache(maxsize=16)
def _vehicle_poses(base: Path, segment: str) -> dict[int, Any]:
    """All 16 numbers of every frame: few, and `index` asks for them one after another."""
    column = "[VehiclePoseComponent].world_from_vehicle.transform"
    with _opened(base / "vehicle_pose" / f"{segment}.parquet") as file:
        rows = file.read(columns=[_SEGMENT, _TIME, column]).to_pylist()
        return {row[_TIME]: row[column] for row in rows if row[_SEGMENT] == segment}


@functools.lru_cache(maxsize=64)
def _exposure_column(base: Path, segment: str) -> tuple[str, ...]:
    """The column with the vehicle's pose at each camera's own exposure; none in files that lack it."""
    with _opened(base / "camera_image" / f"{segment}.parquet") as file:
        return (_EXPOSURE,) if f"[CameraImageComponent].{_EXPOSURE}" in file.schema_arrow.names else ()


@functools.lru_cache(maxsize=2)  # the five cameras of a frame come one after another
def _points(base: Path, segment: str, time: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """First returns that some camera sees: [N, 3] vehicle frame at the frame's pose; [N, 6] (camera, x, y) twice."""
    arrays = ("range_image_return1.values", "range_image_return1.shape")
    ranges = _rows(base, "lidar", segment, arrays, time)
    projections = _rows(base, "lidar_camera_projection", segment, arrays, time)
    beams = tuple(f"beam_inclination.{name}" for name in ("min", "max", "values"))
    lasers = _rows(base, "lidar_calibration", segment, ("extrinsic.transform", *beams))
    points, pixels = [], []
    for laser, row in sorted(ranges.items()):
        name = f"{segment}.parquet, {time}, {_LASERS[laser]}"
        for component, rows in (("lidar_camera_projection", projections), ("lidar_calibration", lasers)):
            if laser not in rows:
                raise FrameError(f"{base / component / name}: no such row")
        image = _array(row, 4, base / "lidar" / name)
        seen = _array(projections[laser], 6, base / "lidar_camera_projection" / name)
        if seen.shape[:2] != image.shape[:2]:
            raise FrameError(f"{base / 'lidar' / name}: {image.shape} ranges, but {seen.shape} projections")
        where = base / "lidar_calibration" / name
        vehicle_from_laser = rigid(lasers[laser]["extrinsic.transform"], str(where))
        inclination = _inclinations(lasers[laser], len(image), where)
        i, j = np.nonzero((image[..., 0] > 0) & ((seen[..., 0] > 0) | (seen[..., 3] > 0)))
        # Columns go round clockwise from straight behind the VEHICLE: hence the laser's own yaw.
        yaw = np.arctan2(vehicle_from_laser[1, 0], vehicle_from_laser[0, 0])
        azimuth = np.pi * (1 - (2 * j + 1) / image.shape[1]) - yaw
        flat = np.cos(inclination[i])
        ray = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(inclination[i])], axis=1)
        xyz = transform(vehicle_from_laser, ray * image[i, j, :1].astype(np.float64))
        if laser == _TOP:
            poses = _array(_rows(base, "lidar_pose", segment, arrays, time, _TOP)[_TOP], 6, base / "lidar_pose" / name)
            if poses.shape[:2] != image.shape[:2] or not np.isfinite(poses[i, j]).all():
                raise FrameError(f"{base / 'lidar_pose' / name}: not one finite pose for each range")
            xyz = transform(np.linalg.inv(_vehicle_pose(base, segment, time)), _moved(poses[i, j], xyz))
        points.append(xyz)
        pixels.append(seen[i, j])
    return np.concatenate(points), np.concatenate(pixels)


def _inclinations(row: dict[str, Any], count: int, where: Path) -> NDArray[np.float64]:
    """[count] radians above the laser's horizon, of the rows of the range image from top to bottom."""
    values, low, high = (row[f"beam_inclination.{name}"] for name in ("values", "min", "max"))
    if values is None or not len(values):  # evenly spaced
        if low is None or high is None:
            raise FrameError(f"{where}: neither beam inclinations nor their limits")
        values = low + (np.arange(count) + 0.5) / count * (high - low)
    if len(values) != count or not np.isfinite(values).all():
        raise FrameError(f"{where}: {len(values)} beam inclinations for {count} rows; expected as many, finite")
    return np.asarray(values, dtype=np.float64)[::-1]  # stored from the lowest


def _moved(poses: NDArray[Any], xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 6] roll, pitch, yaw, x, y, z; [N, 3] -> [N, 3] turned about x, then y, then z, and shifted."""
    angles = poses.astype(np.float64)
    for column, (a, b) in enumerate(((1, 2), (2, 0), (0, 1))):
        c, s = np.cos(angles[:, column]), np.sin(angles[:, column])
        turned = xyz.copy()
        turned[:, a], turned[:, b] = c * xyz[:, a] - s * xyz[:, b], s * xyz[:, a] + c * xyz[:, b]
        xyz = turned
    return xyz + angles[:, 3:]


def _array(row: dict[str, Any], channels: int, where: Path) -> NDArray[Any]:
    """[H, W, channels] the range image of a row."""
    values, shape = row["range_image_return1.values"], row["range_image_return1.shape"]
    if values is None or shape is None:
        raise FrameError(f"{where}: the row is empty")
    if len(shape) != 3 or shape[2] != channels or values.size != np.prod(shape):
        raise FrameError(f"{where}: {values.size} values of shape {shape.tolist()}; expected {channels} channels")
    array: NDArray[Any] = values.reshape(shape)
    return array


# --- parquet ----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except InputError:
        raise
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise FrameError(f"{path}: cannot be read as parquet ({error})") from error


@functools.lru_cache(maxsize=64)
def _places(path: Path) -> dict[tuple[int, int], tuple[int, int]]:
    """(time, sensor) -> (row group, row in it) of the drive the file is named after, from the key columns alone.

    A component without one of the two keys has 0 there. Early exports name their sensors in words.
    """
    places = {}
    with _opened(path) as file:
        names = [name for name in (_SEGMENT, _TIME, _CAMERA, _LASER) if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            for row, key in enumerate(file.read_row_group(group, columns=names).to_pylist()):
                sensor = key.get(_CAMERA, key.get(_LASER, 0))
                if isinstance(sensor, str):
                    sensor = (_CAMERAS if _CAMERA in key else _LASERS).index(sensor)
                if key[_SEGMENT] == path.stem and sensor in range(len(_CAMERAS)):
                    places[key.get(_TIME, 0), sensor] = (group, row)
        if not places:
            raise FrameError(f"{path}: no row of the drive it is named after")
    return places


def _rows(
    base: Path, component: str, segment: str, columns: tuple[str, ...], time: int = 0, sensor: int | None = None
) -> Rows:
    """The rows of one moment (of all sensors, or one), some columns of them; lists come as arrays. At least one row."""
    path = base / component / f"{segment}.parquet"
    wanted = {place: key[1] for key, place in _places(path).items() if key[0] == time and sensor in (None, key[1])}
    if not wanted:
        names = _CAMERAS if component.startswith("camera") else _LASERS
        raise FrameError(f"{path}: no row of {time} {names[sensor or 0]}".rstrip())
    full = [f"[{_COMPONENTS[component]}Component].{name}" for name in columns]
    rows: Rows = {}
    with _opened(path) as file:
        if absent := [name for name in full if name not in file.schema_arrow.names]:
            raise FrameError(f"{path}: no column {absent[0]}")
        for group, places in itertools.groupby(sorted(wanted), key=lambda place: place[0]):
            numbers, start = [row for _, row in places], 0
            for batch in file.iter_batches(_BATCH, row_groups=[group], columns=full):
                for row in (n - start for n in numbers if start <= n < start + batch.num_rows):
                    values = {name: _plain(batch.column(f)[row]) for name, f in zip(columns, full, strict=True)}
                    rows[wanted[group, row + start]] = values
                start += batch.num_rows
                if start > numbers[-1]:
                    break
    return rows


def _plain(scalar: Any) -> Any:
    """A pyarrow scalar -> array for a list, Python value for anything else, None for a null."""
    if scalar.is_valid and hasattr(scalar, "values"):
        return scalar.values.to_numpy(zero_copy_only=False)
    return scalar.as_py()


READER = Waymo()
