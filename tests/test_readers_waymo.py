"""Waymo v2: a synthetic drive whose every lidar point is known, the real calibration and pictures, damaged trees."""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from depthlm.camera import Camera
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.errors import InputError
from depthlm.lens import LensCamera
from depthlm.synth.scene import build_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from depthlm.data.readers.base import Frame, FrameRef

READER = get_reader("waymo")
REAL = "1024360143612057520_3580_000_3600_000"
NAMES = {1: "FRONT", 2: "FRONT_LEFT", 3: "FRONT_RIGHT", 4: "SIDE_LEFT", 5: "SIDE_RIGHT"}
SEGMENT, START = "77_120_000_140_000", 1_550_000_000_000_000
FRAMES = (START, START + 100_000)  # microseconds
EXPOSURES = {1: 0.0, 2: -0.01, 4: -0.03}  # seconds from the pose of a frame, as of the real cameras
NO_EXPOSURES = dict.fromkeys(NAMES, 0.0)
ORIGIN = np.array([800.0, -300.0, 25.0])  # of the scene in the world


@dataclass(frozen=True)
class Cam:
    """What camera_calibration says: intrinsics in Waymo's convention (0 is the left edge), vehicle from camera."""

    width: int
    height: int
    intrinsic: tuple[float, ...]  # f_u f_v c_u c_v k1 k2 p1 p2 k3
    extrinsic: np.ndarray


@dataclass(frozen=True)
class Known:
    """The points one camera sees at one frame: their whole pixel, z, laser, and z if the car had stood still."""

    pixel: np.ndarray
    z: np.ndarray
    laser: np.ndarray
    still: np.ndarray


def placed(yaw: float, pitch: float, roll: float, *shift: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
    pose[:3, 3] = shift
    return pose


# As the real ones, in small; lenses several times as bent, so that a map taken backwards is seen at this size.
CAMERAS = {
    1: Cam(96, 64, (102.2, 102.2, 47.4, 31.6, -0.24, 0.09, 0.004, -0.003, 0.01), placed(0.01, 0.0, 0.01, 1.5, 0, 2.1)),
    2: Cam(96, 64, (102.8, 102.8, 47.7, 32.3, 0.2, -0.3, 0.003, 0.001, 0.0), placed(0.77, 0.02, 0, 1.5, 0.1, 2.1)),
    4: Cam(96, 44, (102.7, 102.7, 48.4, 12.3, 0.04, -0.33, 0.001, 0.0, 0.0), placed(1.56, 0.01, 0.02, 1.4, 0.1, 2.1)),
}
TOP = placed(2.58, -0.005, 0.004, 1.43, 0, 2.18)
TOP_BEAMS = 0.045 - 0.356 * np.linspace(1, 0, 64) ** 1.4  # non-uniform, from the lowest
FRONT_LASER, FRONT_LIMITS = placed(-0.1, -0.02, 0.01, 4.07, 0, 0.69), (-math.pi / 2, math.pi / 6)


def drive(seconds: float) -> tuple[float, ...]:
    """Roll, pitch, yaw, x, y, z of the car: 12 m/s and a bend."""
    x, y, z = ORIGIN + np.array([-4 + 12 * seconds, 0.5 + 1.5 * seconds, 0.02])
    return 0.01 + 0.1 * seconds, -0.015, 0.1 + 0.3 * seconds, x, y, z


def world_from(state: tuple[float, ...]) -> np.ndarray:
    roll, pitch, yaw, *place = state
    return placed(yaw, pitch, roll, *place)


def seconds(time: int) -> float:
    return (time - START) / 1e6 + 0.05  # the pose of a frame is that of its middle


def sweep(
    time: int, cameras: dict[int, Cam], caster: Any, exposures: dict[int, float]
) -> tuple[dict[int, tuple], dict[int, Known]]:
    """Every range image of a frame: laser -> (ranges [H, W, 4], projections [H, W, 6], poses); camera -> its points."""
    vehicle = world_from(drive(seconds(time)))
    images, points = {}, []
    low, high = FRONT_LIMITS
    even = [low + (high - low) * (row + 0.5) / 20 for row in range(20)]
    for laser, mount, beams, columns in ((1, TOP, TOP_BEAMS, 360), (2, FRONT_LASER, even, 90)):
        # Row 0 is the highest beam; columns divide the circle round the vehicle, from behind over its left.
        edges = np.linspace(math.pi, -math.pi, columns + 1)
        azimuth = (edges[1:] + edges[:-1]) / 2 - Rotation.from_matrix(mount[:3, :3]).as_euler("ZYX")[0]
        above, around = np.meshgrid(sorted(beams, reverse=True), azimuth, indexing="ij")
        local = np.stack([np.cos(above) * np.cos(around), np.cos(above) * np.sin(around), np.sin(above)], axis=-1)
        moments = seconds(time) + (np.arange(columns) / columns - 0.5) * 0.1 * (laser == 1)
        states = np.array([drive(moment) for moment in moments], np.float32).astype(np.float64)
        movement = [world_from(state) if laser == 1 else vehicle for state in states]
        origin = np.stack([(pose @ mount)[:3, 3] for pose in movement])[None].repeat(len(beams), axis=0)
        ray = np.stack([local[:, j] @ (pose @ mount)[:3, :3].T for j, pose in enumerate(movement)], axis=1)
        flat = (origin - ORIGIN).reshape(-1, 3).astype(np.float32), ray.reshape(-1, 3).astype(np.float32)
        distance = np.asarray(caster.run(*flat, query="DISTANCE"), np.float32).reshape(len(beams), columns)
        hit = distance < 75
        ranges = np.zeros((len(beams), columns, 4), np.float32)
        ranges[..., 0] = np.where(hit, distance, 33)  # a range without a point, as real ones have
        xyz = origin + ray * distance[..., None].astype(np.float64)
        still = (local * distance[..., None]) @ mount[:3, :3].T + mount[:3, 3]  # vehicle frame
        projections = np.zeros((len(beams), columns, 6), np.float32)
        for number, cam in cameras.items():
            camera = in_camera(xyz, world_from(drive(seconds(time) + exposures[number])) @ cam.extrinsic)
            pixel, on = project(camera, cam)
            on &= hit & (projections[..., 3] == 0)
            second = on & (projections[..., 0] > 0)
            for mask, place in ((on & ~second, 0), (second, 3)):
                projections[mask, place], projections[mask, place + 1 : place + 3] = number, pixel[mask]
            rest = in_camera(still, cam.extrinsic)[..., 2]
            points.append((number, pixel[on], camera[on, 2], np.full(on.sum(), laser), rest[on]))
        poses = np.broadcast_to(states.astype(np.float32), (len(beams), columns, 6))
        images[laser] = ranges, projections, poses if laser == 1 else None
    known = {}
    for number in cameras:
        parts = [part[1:] for part in points if part[0] == number]
        known[number] = Known(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return images, known


def in_camera(xyz: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """[..., 3] -> OpenCV axes of a camera that looks along its x, with y left and z up."""
    local = (xyz - pose[:3, 3]) @ pose[:3, :3]
    return np.stack([-local[..., 1], -local[..., 2], local[..., 0]], axis=-1)


def project(camera: np.ndarray, cam: Cam) -> tuple[np.ndarray, np.ndarray]:
    """[..., 3] -> [..., 2] the whole pixel, and whether it is on the picture."""
    depth = np.maximum(camera[..., 2], 0.3)
    tangent = camera[..., :2] / depth[..., None]
    fu, fv, cu, cv, *bend = cam.intrinsic
    matrix = np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1]])
    flat = np.concatenate([tangent.clip(-2, 2), np.ones((*depth.shape, 1))], axis=-1).reshape(-1, 1, 3)
    edge = cv2.projectPoints(flat, np.zeros(3), np.zeros(3), matrix, np.array(bend))[0].reshape(*depth.shape, 2)
    size = (cam.width, cam.height)
    on = (camera[..., 2] > 0.3) & (np.abs(tangent) < 0.75).all(axis=-1) & ((edge >= 0) & (edge < size)).all(axis=-1)
    return np.floor(edge), on


def picture(width: int, height: int) -> bytes:
    """Red tells the column, green the row."""
    u, v = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    buffer = io.BytesIO()
    Image.fromarray(np.stack([u, v, np.full_like(u, 90)], axis=-1).round().astype(np.uint8)).save(
        buffer, "JPEG", quality=98, subsampling=0
    )
    return buffer.getvalue()


def write(base: Path, component: str, segment: str, rows: list[dict[str, Any]], **keys: str) -> None:
    """One parquet file with small row groups; rows: {"time": .., "camera"/"laser": .., column: value}."""
    title = {"lidar": "LiDAR", "lidar_calibration": "LiDARCalibration", "lidar_pose": "LiDARPose"}.get(
        component, "".join(part.title() for part in component.split("_")).replace("Lidar", "LiDAR")
    )
    columns: dict[str, Any] = {"key.segment_context_name": [segment] * len(rows)}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "time":
            columns["key.frame_timestamp_micros"] = pa.array(values, pa.int64())
        elif name in ("camera", "laser"):
            columns[f"key.{name}_name"] = pa.array(values, pa.string() if isinstance(values[0], str) else pa.int8())
        else:
            kind = pa.list_(pa.float32(), 16) if "transform" in name and keys.get("poses") == "float32" else None
            columns[f"[{title}Component].{name}"] = pa.array(values, kind)
    path = base / component / f"{segment}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=3)


def write_lidar(
    base: Path, segment: str, sweeps: dict[int, dict[int, tuple]], skip_lasers: tuple[int, ...] = ()
) -> None:
    """The four lidar components; the latest frame comes first in the files."""
    stored: dict[str, list[dict[str, Any]]] = {"lidar": [], "lidar_camera_projection": [], "lidar_pose": []}
    for time, images in sorted(sweeps.items(), reverse=True):
        for laser, arrays in images.items():
            for component, array in zip(stored, arrays, strict=True):
                if array is not None:
                    stored[component].append({
                        "time": time, "laser": laser,
                        "range_image_return1.values": np.asarray(array).ravel(),
                        "range_image_return1.shape": list(array.shape),
                    })  # fmt: skip
    for component, rows in stored.items():
        write(base, component, segment, rows)
    write(base, "lidar_calibration", segment, [
        {"laser": laser, "extrinsic.transform": mount.ravel(), "beam_inclination.min": low,
         "beam_inclination.max": high, "beam_inclination.values": values}
        for laser, mount, low, high, values in (
            (1, TOP, -0.31, 0.045, TOP_BEAMS), (2, FRONT_LASER, *FRONT_LIMITS, None),
        ) if laser not in skip_lasers
    ])  # fmt: skip


def write_tree(base: Path, segment: str = SEGMENT, *, early: bool = False) -> dict[tuple[int, int], Known]:
    """A drive of two frames; early: sensors named in words, poses in float32, as in the first exports."""
    caster = build_scene(11, "outdoor").caster
    sweeps, known = {}, {}
    for time in FRAMES:
        sweeps[time], seen = sweep(time, CAMERAS, caster, NO_EXPOSURES if early else EXPOSURES)
        known.update({(time, camera): points for camera, points in seen.items()})
    write_lidar(base, segment, sweeps)
    name: Callable[[int], Any] = NAMES.__getitem__ if early else int
    poses = "float32" if early else "float64"
    write(base, "camera_image", segment, [
        {"time": time, "camera": name(camera)}
        | ({} if early else {"pose.transform": world_from(drive(seconds(time) + EXPOSURES[camera])).ravel()})
        | {"image": picture(cam.width, cam.height)}
        for time in reversed(FRAMES) for camera, cam in CAMERAS.items()
    ])  # fmt: skip
    letters = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
    write(base, "camera_calibration", segment, [
        {"camera": name(camera), **{f"intrinsic.{k}": v for k, v in zip(letters, cam.intrinsic, strict=True)},
         "extrinsic.transform": cam.extrinsic.ravel(), "width": cam.width, "height": cam.height}
        for camera, cam in CAMERAS.items()
    ], poses=poses)  # fmt: skip
    write(base, "vehicle_pose", segment, [
        {"time": time, "world_from_vehicle.transform": world_from(drive(seconds(time))).ravel()}
        for time in reversed(FRAMES)
    ], poses=poses)  # fmt: skip
    return known


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[int, int], Known]]:
    root = tmp_path_factory.mktemp("waymo")
    return root, write_tree(root / "training")


def points_of(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    return frame.labels.take(np.arange(frame.labels.count), frame.camera)


def bent(frame: Frame, uv: np.ndarray, cam: Cam) -> np.ndarray:
    """Straightened pixels -> pixels of the original picture, 0 at the centre of the first, by OpenCV's formula."""
    fu, fv, cu, cv, *bend = cam.intrinsic
    matrix = np.array([[fu, 0, cu - 0.5], [0, fv, cv - 0.5], [0, 0, 1]])
    rays = frame.camera.rays(uv).reshape(-1, 1, 3)
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, np.array(bend))[0].reshape(-1, 2)


def check_points(frame: Frame, cam: Cam, known: Known, relative: float) -> np.ndarray:
    """Every label is the nearest known point of its original pixel; returns which of the known points each is."""
    uv, z = points_of(frame)
    original = bent(frame, uv, cam)
    whole = np.round(original)
    assert np.abs(original - whole).max() < 1e-3  # a truth that lies anywhere in that pixel is at most 0.5 away
    order = np.lexsort((known.z, *known.pixel.T))
    first = {tuple(pixel): i for i, pixel in zip(order[::-1], known.pixel[order[::-1]].tolist(), strict=True)}
    found = np.array([first[tuple(pixel)] for pixel in whole.tolist()])
    assert np.abs(z / known.z[found] - 1).max() < relative
    assert len(found) > 0.6 * len(first), f"{len(found)} labels of {len(first)} pixels with points"
    return found


def frames(root: Path, split: str = "training") -> Iterator[tuple[FrameRef, Frame]]:
    for ref in READER.index(root, split):
        yield ref, READER.read(root, ref)


# --- the synthetic drive ----------------------------------------------------------------------------------------------


def test_index_lists_every_camera_in_order_of_time(tree: tuple) -> None:
    refs = list(READER.index(tree[0], "training"))
    expected = [f"{SEGMENT}/{time}/{NAMES[camera]}" for time in FRAMES for camera in CAMERAS]
    assert [ref.id for ref in refs] == expected
    assert refs[2].sequence == f"{SEGMENT}/SIDE_LEFT"
    assert {ref.scene for ref in refs} == {SEGMENT}


def test_every_label_is_a_known_point(tree: tuple) -> None:
    root, known = tree
    lasers, moved = [], []
    for ref, frame in frames(root):
        time, camera = int(ref.id.split("/")[1]), ref.data[-1]
        truth = known[time, camera]
        found = check_points(frame, CAMERAS[camera], truth, 1e-6)
        lasers.append(truth.laser[found])
        moved.append(np.abs(truth.z - truth.still)[found][truth.laser[found] == 1])
        pose = world_from(drive(seconds(time) + EXPOSURES[camera])) @ CAMERAS[camera].extrinsic
        assert np.allclose(frame.pose[:3, 3], pose[:3, 3], atol=1e-9)
        assert np.allclose(frame.pose[:3, :3], np.stack([-pose[:3, 1], -pose[:3, 2], pose[:3, 0]], axis=1), atol=1e-9)
        assert np.allclose(np.reshape(ref.pose, (4, 4)), frame.pose, atol=0.5)  # of the frame: for thinning only
    assert min(np.mean(part == 2) for part in lasers[::3]) > 0.02  # the short-range laser is seen, in FRONT
    # A reader that takes the car to stand still is off by a thousand times what the check above allows.
    assert np.median(np.concatenate(moved)) > 0.01


def test_the_picture_is_straightened_as_the_labels_are(tree: tuple) -> None:
    for ref, frame in frames(tree[0]):
        cam = CAMERAS[ref.data[-1]]
        uv, _ = points_of(frame)
        pixels = np.asarray(Image.open(io.BytesIO(frame.image)).convert("RGB"), np.float32)
        assert pixels.shape[1::-1] == (frame.camera.width, frame.camera.height)
        shown = cv2.remap(pixels, *uv.astype(np.float32).T[:, :, None], cv2.INTER_LINEAR)[:, 0, :2]
        shown *= np.array([cam.width - 1, cam.height - 1]) / 255
        original = bent(frame, uv, cam)
        wrong = shown - original
        # One grey level is a third of a pixel, so single points are noisy: the mean of each of 3x3 fields is not.
        column, row = (original // (cam.width / 3, cam.height / 3)).astype(int).T
        inner = ((original > 1.5) & (original < np.array([cam.width, cam.height]) - 2.5)).all(axis=1)
        for field in range(9):
            part = wrong[inner & (row * 3 + column == field)]
            assert len(part) < 30 or np.abs(part.mean(axis=0)).max() < 0.15


def test_early_exports_read_the_same(tree: tuple, tmp_path: Path) -> None:
    known = write_tree(tmp_path, early=True)  # a split folder by itself, of no official name
    read = dict(frames(tmp_path, "validation"))
    assert [ref.id for ref in read] == [ref.id for ref in READER.index(tree[0], "training")]
    for ref, frame in read.items():
        # float32 poses are 6e-5 m apart at this distance from the origin; a z-buffer may then choose otherwise
        check_points(frame, CAMERAS[ref.data[-1]], known[int(ref.id.split("/")[1]), ref.data[-1]], 2e-4)


def test_index_opens_no_picture(tree: tuple, tmp_path: Path) -> None:
    shutil.copytree(tree[0], tmp_path / "tree")
    path = tmp_path / "tree" / "training" / "camera_image" / f"{SEGMENT}.parquet"
    data, metadata = bytearray(path.read_bytes()), pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(metadata.num_columns - 1)
        assert chunk.path_in_schema.endswith("image")
        begin = chunk.dictionary_page_offset or chunk.data_page_offset
        data[begin : begin + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    refs = list(READER.index(tmp_path / "tree", "training"))
    assert len(refs) == 6
    with pytest.raises(FrameError, match=f"camera_image/{SEGMENT}.parquet: cannot be read"):
        READER.read(tmp_path / "tree", refs[0])


def test_splits_are_folders_and_a_root_may_be_one(tree: tuple, tmp_path: Path) -> None:
    for split, segment in (("validation", "2_b"), ("training", "1_a")):
        folder = tmp_path / split / "camera_image"
        folder.mkdir(parents=True)
        shutil.copy(tree[0] / "training" / "camera_image" / f"{SEGMENT}.parquet", folder / f"{segment}.parquet")
        write(tmp_path / split, "camera_image", segment, [{"time": 5, "camera": 1, "image": b"x"}])
    assert [ref.id for ref in READER.index(tmp_path, "training")] == ["1_a/5/FRONT"]
    assert [ref.id for ref in READER.index(tmp_path, "all")] == ["1_a/5/FRONT", "2_b/5/FRONT"]
    assert [ref.id for ref in READER.index(tmp_path / "validation", "validation")] == ["2_b/5/FRONT"]
    with pytest.raises(InputError, match="is the split 'validation', not 'training'"):
        list(READER.index(tmp_path / "validation", "training"))
    with pytest.raises(InputError, match="does not look like Waymo.*testing/camera_image"):
        list(READER.index(tmp_path, "testing"))
    with pytest.raises(InputError, match="no split 'train'"):
        list(READER.index(tmp_path, "train"))
    with pytest.raises(InputError, match="no such folder"):
        list(READER.index(tmp_path / "nothing", "training"))


# --- damage -----------------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, list]], None]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        table = pq.read_table(path)
        columns = table.to_pydict()
        change(columns)
        pq.write_table(pa.table(columns), path)

    return run


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_row(key: str, value: Any) -> Callable[[Path], None]:
    def change(columns: dict[str, list]) -> None:
        keep = [i for i, found in enumerate(columns[key]) if found != value]
        for name in columns:
            columns[name] = [columns[name][i] for i in keep]

    return edited(change)


def replaced(column: str, new: Callable[[Any], Any]) -> Callable[[Path], None]:
    def change(columns: dict[str, list]) -> None:
        (name,) = [name for name in columns if name.endswith(column)]
        columns[name] = [new(value) for value in columns[name]]

    return edited(change)


def nan_first(values: Any) -> list[float]:
    return [math.nan, *values[1:]]


NAN_POSES = replaced("return1.values", lambda values: [math.nan] * len(values))
NO_FRAME = without_row("key.frame_timestamp_micros", START)
DAMAGE = {
    "empty lidar": ("lidar", emptied, "lidar/.*0 bytes"),
    "no lidar": ("lidar", lambda path: path.unlink(), "lidar/.*cannot be read"),
    "lidar without the frame": ("lidar", NO_FRAME, f"lidar/.*no row of {START}"),
    "truncated lidar": ("lidar", lambda path: path.write_bytes(path.read_bytes()[:-9]), "lidar/.*cannot be read"),
    "lidar of another shape": ("lidar", replaced("return1.values", lambda v: v[:-4]), "lidar/.*values of shape"),
    "no projection": ("lidar_camera_projection", without_row("key.laser_name", 2), "_projection/.*FRONT: no such"),
    "no laser calibration": ("lidar_calibration", without_row("key.laser_name", 2), "_calibration/.*FRONT: no such"),
    "too few beams": ("lidar_calibration", replaced("n.values", lambda v: v and v[:-1]), "63 beam inclinations for 64"),
    "NaN mount": ("lidar_calibration", replaced("transform", nan_first), "lidar_calibration/.*not finite"),
    "no pixel poses": ("lidar_pose", NO_FRAME, f"lidar_pose/.*no row of {START} TOP"),
    "NaN pixel poses": ("lidar_pose", NAN_POSES, "lidar_pose/.*not one finite pose"),
    "NaN vehicle pose": ("vehicle_pose", replaced("transform", nan_first), "vehicle_pose/.*not finite"),
    "no vehicle pose": ("vehicle_pose", NO_FRAME, f"vehicle_pose/.*no row of {START}"),
    "no calibration": ("camera_calibration", without_row("key.camera_name", 1), "camera_calibration/.*no row.*FRONT"),
    "no focal length": ("camera_calibration", replaced("f_u", lambda v: None), "camera_calibration/.*FRONT"),
    "NaN distortion": ("camera_calibration", replaced("k2", lambda v: math.nan), "_calibration/.*FRONT.*not a finite"),
    "no column": ("camera_calibration", edited(lambda c: c.pop("[CameraCalibrationComponent].width")), "no column.*th"),
    "no picture file": ("camera_image", lambda path: path.unlink(), "camera_image/.*cannot be read"),
    "empty pictures": ("camera_image", replaced("image", lambda data: b""), f"{START}/FRONT: the row holds no"),
    "truncated pictures": ("camera_image", replaced("image", lambda data: data[:200]), f"{START}/FRONT: not a"),
    "wrong size": ("camera_image", replaced("image", lambda data: picture(40, 30)), "40x30 but its camera says 96x64"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_frame_error_that_names_the_file(name: str, tree: tuple, tmp_path: Path) -> None:
    component, damage, match = DAMAGE[name]
    shutil.copytree(tree[0], tmp_path / "tree")
    if name == "no picture file":  # gone since the index was made
        refs = list(READER.index(tmp_path / "tree", "training"))
    damage(tmp_path / "tree" / "training" / component / f"{SEGMENT}.parquet")
    if name != "no picture file":
        refs = list(READER.index(tmp_path / "tree", "training"))
    assert len(refs) == 6
    with pytest.raises(FrameError, match=match) as caught:
        READER.read(tmp_path / "tree", refs[0])
    assert SEGMENT in str(caught.value)


def test_a_drive_without_readable_pictures_is_one_bad_frame(tree: tuple, tmp_path: Path) -> None:
    shutil.copytree(tree[0], tmp_path / "tree")
    (tmp_path / "tree" / "training" / "camera_image" / "88_a.parquet").write_bytes(b"")
    *good, bad = READER.index(tmp_path / "tree", "training")
    assert len(good) == 6
    with pytest.raises(FrameError, match="camera_image/88_a.parquet"):
        READER.read(tmp_path / "tree", bad)


# --- real calibration and pictures ------------------------------------------------------------------------------------


@pytest.fixture
def real(samples_dir: Path) -> Path:
    return samples_dir / "waymo" / "derived" / "v2"


def real_cameras(real: Path) -> dict[int, Cam]:
    table = pq.read_table(real / "camera_calibration" / f"{REAL}.parquet").to_pydict()
    rows = [{name.split("].")[-1]: values[i] for name, values in table.items()} for i in range(5)]
    letters = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
    return {
        row["key.camera_name"]: Cam(
            row["width"], row["height"], tuple(row[f"intrinsic.{k}"] for k in letters),
            np.reshape(row["extrinsic.transform"], (4, 4)),
        )
        for row in rows
    }  # fmt: skip


def test_real_pictures_with_synthetic_lidar(real: Path, tmp_path: Path) -> None:
    cameras = real_cameras(real)
    assert {n: (cam.width, cam.height) for n, cam in cameras.items()} == {
        1: (1920, 1280), 2: (1920, 1280), 3: (1920, 1280), 4: (1920, 886), 5: (1920, 886),
    }  # fmt: skip
    refs = list(READER.index(real, "validation"))
    assert [ref.id.split("/")[2] for ref in refs] == list(NAMES.values())
    assert all(ref.pose for ref in refs)  # calibration and poses of all five
    with pytest.raises(FrameError, match="lidar/.*parquet"):  # the sample has none
        READER.read(real, refs[0])

    shutil.copytree(real / "camera_calibration", tmp_path / "camera_calibration")
    pictures = pq.read_table(real / "camera_image" / f"{REAL}.parquet")
    (tmp_path / "camera_image").mkdir()  # without the poses of another drive
    pictures = pictures.drop_columns(["[CameraImageComponent].pose.transform"])
    pq.write_table(pictures, tmp_path / "camera_image" / f"{REAL}.parquet")
    time = int(refs[0].id.split("/")[1])
    images, known = sweep(START, cameras, build_scene(11, "outdoor").caster, NO_EXPOSURES)
    write_lidar(tmp_path, REAL, {time: images})
    pose = world_from(drive(seconds(START))).ravel()
    write(tmp_path, "vehicle_pose", REAL, [{"time": time, "world_from_vehicle.transform": pose}])
    for ref in READER.index(tmp_path, "training"):
        if ref.data[-1] not in (2, 4):
            continue  # one of each size is enough: each costs a decode of 2.5 million pixels
        frame, cam = READER.read(tmp_path, ref), cameras[ref.data[-1]]
        check_points(frame, cam, known[ref.data[-1]], 1e-6)
        assert (frame.camera.fx, frame.camera.fy) == cam.intrinsic[:2]
        shift = np.array([frame.camera.cx, frame.camera.cy]) - (np.array(cam.intrinsic[2:4]) - 0.5)
        assert np.abs(shift - np.round(shift)).max() < 1e-9  # K as it was; the canvas grew by whole pixels
        assert shift.max() < 100


def test_labels_are_not_where_the_released_curation_puts_them(real: Path) -> None:
    """It reads the undistortion map backwards and moves the principal point to the middle: 25, 17 and 393 px off."""
    medians = {}
    for number, cam in real_cameras(real).items():
        fu, fv, cu, cv, *bend = cam.intrinsic
        matrix, bend = np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1]]), np.array(bend)
        middle = np.array([[fu, 0, cam.width / 2], [0, fv, cam.height / 2], [0, 0, 1]])
        u, v = np.meshgrid(np.arange(0, cam.width, 10), np.arange(0, cam.height, 10))
        pixels = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
        size = (cam.width, cam.height)
        map_u, map_v = cv2.initUndistortRectifyMap(matrix, bend, None, middle, size, cv2.CV_32FC1)
        released = np.stack([map_u[v, u].ravel(), map_v[v, u].ravel()], axis=1)
        right = cv2.undistortPoints(pixels[:, None], matrix, bend, None, middle)[:, 0]
        medians[number] = float(np.median(np.linalg.norm(released - right, axis=1)))
        lens = LensCamera(Camera(fu, fv, cu, cv, *size), "opencv", tuple(bend.tolist()))
        rays = lens.undistorted.rays(lens.to_undistorted(pixels))[:, None]
        back = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, bend)[0][:, 0]
        assert np.abs(back - pixels).max() < 1e-4  # ours, bent again by OpenCV
    assert medians == pytest.approx({1: 25.2, 2: 17.2, 3: 13.4, 4: 392.7, 5: 404.0}, abs=0.5)


def test_the_test_extracts_of_the_repository_are_understood(samples_dir: Path) -> None:
    """Real early exports: float32 poses of 199 frames, cameras named in words."""
    from depthlm.data.readers import waymo

    base, segment = samples_dir / "waymo" / "v2_testdata", "10023947602400723454_1120_000_1140_000"
    poses = [waymo._vehicle_pose(base, segment, time) for time in waymo._vehicle_poses(base, segment)]
    assert len(poses) == 199
    steps = np.linalg.norm(np.diff([pose[:3, 3] for pose in poses], axis=0), axis=1)
    assert 0 < np.median(steps) < 3  # a car, at 10 Hz
    places = waymo._places(base / "camera_hkp" / f"{segment}.parquet")
    assert {camera for _, camera in places} == {1, 2, 3, 4, 5}
