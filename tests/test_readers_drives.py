"""nuScenes, DDAD, Argoverse 2: the real samples, a moving vehicle with known z, damaged trees."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from depthlm.data.readers.base import FrameError, get_reader
from depthlm.data.readers.nuscenes import _VAL, _numbered, _rows
from depthlm.errors import InputError
from trees import Known, check_labels, known_view

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.data.readers.base import FrameRef

KNOWN = known_view(3)
MOUNT = np.eye(4)  # camera on the vehicle: x forward, y left, z up
MOUNT[:3, :3], MOUNT[:3, 3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (1.6, 0.1, 1.4)
LIDAR_MOUNT = np.eye(4)
LIDAR_MOUNT[:3, :3], LIDAR_MOUNT[:3, 3] = Rotation.from_euler("z", -90, degrees=True).as_matrix(), (0.9, 0, 1.8)
MOVED = np.eye(4)  # the vehicle between sweep and picture: half a metre on, three degrees to the left
MOVED[:3, :3], MOVED[:3, 3] = Rotation.from_euler("z", 3, degrees=True).as_matrix(), (0.5, 0.02, 0)
VEHICLE_AT_PICTURE = KNOWN.pose @ np.linalg.inv(MOUNT)
VEHICLE_AT_SWEEP = VEHICLE_AT_PICTURE @ np.linalg.inv(MOVED)


def points_of(known: Known, world_from_lidar: NDArray[Any]) -> NDArray[np.float64]:
    """Every pixel of the picture as the lidar has it."""
    v, u = np.nonzero(np.isfinite(known.z) & (known.z > 1.0))
    z, c = known.z[v, u].astype(float), known.camera
    xyz1 = np.stack([(u - c.cx) / c.fx * z, (v - c.cy) / c.fy * z, z, np.ones_like(z)])
    return (np.linalg.inv(world_from_lidar) @ known.pose @ xyz1)[:3].T


def wxyz(pose: NDArray[Any]) -> list[float]:
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    return [float(value) for value in (w, x, y, z)]


def xyz(pose: NDArray[Any]) -> list[float]:
    return [float(value) for value in pose[:3, 3]]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    write(path, json.dumps(content).encode())


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def write_feather(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.table({name: np.atleast_1d(value) for name, value in columns.items()}), str(path))


def pose_columns(*poses: NDArray[Any]) -> dict[str, Any]:
    names = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
    return dict(zip(names, np.array([wxyz(p) + xyz(p) for p in poses]).T, strict=True))


def nuscenes_tree(root: Path) -> None:
    def row(table: str, **values: Any) -> dict[str, Any]:
        return {"token": table, "rotation": [], "translation": []} | values

    def data(kind: str, channel: str, time: int, key: bool = True, **values: Any) -> dict[str, Any]:
        folder, ending = ("samples" if key else "sweeps"), ("pcd.bin" if channel == "LIDAR_TOP" else "jpg")
        return {
            "token": f"{channel}{time}", "sample_token": "sample", "ego_pose_token": f"ego {kind}",
            "calibrated_sensor_token": f"mount {kind}", "timestamp": time, "is_key_frame": key,
            "height": KNOWN.camera.height, "width": KNOWN.camera.width,
            "filename": f"{folder}/{channel}/n__{channel}__{time}.{ending}",
        } | values  # fmt: skip

    k = KNOWN.camera.matrix.tolist()
    tables = {
        "scene": [{"token": "one", "name": "scene-0103"}, {"token": "two", "name": "scene-0061"}],
        "sample": [{"token": "sample", "scene_token": "one"}],
        "sample_data": [
            data("lidar", "LIDAR_TOP", 1000), data("camera", "CAM_FRONT", 1040),
            data("camera", "CAM_FRONT", 1080, key=False), data("radar", "RADAR_FRONT", 1030),
        ],
        "ego_pose": [
            row("ego lidar", rotation=wxyz(VEHICLE_AT_SWEEP), translation=xyz(VEHICLE_AT_SWEEP)),
            row("ego camera", rotation=wxyz(VEHICLE_AT_PICTURE), translation=xyz(VEHICLE_AT_PICTURE)),
        ],
        "calibrated_sensor": [
            row("mount lidar", rotation=wxyz(LIDAR_MOUNT), translation=xyz(LIDAR_MOUNT), camera_intrinsic=[]),
            row("mount camera", rotation=wxyz(MOUNT), translation=xyz(MOUNT), camera_intrinsic=k),
        ],
    }  # fmt: skip
    for name, rows in tables.items():
        write_json(root / "v1.0-trainval" / f"{name}.json", rows)
    points = points_of(KNOWN, VEHICLE_AT_SWEEP @ LIDAR_MOUNT)
    write(root / "samples/LIDAR_TOP/n__LIDAR_TOP__1000.pcd.bin", np.c_[points, points[:, :2]].astype("<f4").tobytes())
    write(root / "samples/CAM_FRONT/n__CAM_FRONT__1040.jpg", KNOWN.encoded())


def ddad_tree(root: Path) -> None:
    def pose(matrix: NDArray[Any]) -> dict[str, Any]:
        return {
            "rotation": dict(zip(("qw", "qx", "qy", "qz"), wxyz(matrix), strict=True)),
            "translation": dict(zip("xyz", xyz(matrix), strict=True)),
        }

    sweep = VEHICLE_AT_SWEEP @ LIDAR_MOUNT
    size = {"width": KNOWN.camera.width, "height": KNOWN.camera.height}
    image = {"filename": "rgb/CAMERA_01/15.jpg", "pose": pose(KNOWN.pose)} | size
    cloud = {"filename": "point_cloud/LIDAR/16.npz", "pose": pose(sweep)}
    scene = {
        "data": [
            {"key": "a", "id": {"name": "camera_01"}, "datum": {"image": image}},
            {"key": "b", "id": {"name": "LIDAR"}, "datum": {"point_cloud": cloud}},
        ],
        "samples": [{"calibration_key": "cal", "datum_keys": ["a", "b"]}],
    }
    k = {name: getattr(KNOWN.camera, name) for name in ("fx", "fy", "cx", "cy")}
    write_json(root / "000150/scene_ab.json", scene)
    calibration = {"names": ["lidar", "CAMERA_01"], "intrinsics": [dict.fromkeys(k, 0.0), k | {"skew": 0.0}]}
    write_json(root / "000150/calibration/cal.json", calibration)
    names = {"0": {"filenames": ["000000/scene_00.json"]}, "1": {"filenames": ["000150/scene_ab.json"]}}
    write_json(root / "ddad.json", {"scene_splits": names})
    write(root / "000150/rgb/CAMERA_01/15.jpg", KNOWN.encoded())
    (root / "000150/point_cloud/LIDAR").mkdir(parents=True)
    points = points_of(KNOWN, sweep)
    np.savez_compressed(root / "000150/point_cloud/LIDAR/16.npz", data=np.c_[points, points[:, :1]])


def argoverse2_tree(root: Path) -> None:
    log, c = root / "val/log-1", KNOWN.camera
    pinhole = {"fx_px": c.fx, "fy_px": c.fy, "cx_px": c.cx, "cy_px": c.cy, "k1": -0.3, "k2": 0.1, "k3": 0.1}
    size = {"height_px": np.uint16(c.height), "width_px": np.uint16(c.width)}
    write_feather(log / "calibration/intrinsics.feather", sensor_name="ring_side_left", **pinhole, **size)
    write_feather(
        log / "calibration/egovehicle_SE3_sensor.feather",
        sensor_name=["ring_side_left", "up_lidar"],
        **pose_columns(MOUNT, LIDAR_MOUNT),
    )
    times = [10**18, 10**18 + 40_000_000]
    poses = pose_columns(VEHICLE_AT_SWEEP, VEHICLE_AT_PICTURE)
    write_feather(log / "city_SE3_egovehicle.feather", timestamp_ns=times, **poses)
    points = points_of(KNOWN, VEHICLE_AT_SWEEP).astype(np.float16)
    for time in (times[0], times[0] - 100_000_000):
        write_feather(log / f"sensors/lidar/{time}.feather", **dict(zip("xyz", points.T, strict=True)))
    write(log / f"sensors/cameras/ring_side_left/{times[1]}.jpg", KNOWN.encoded())
    write(log / f"sensors/cameras/ring_side_left/{times[0] + 52_000_000}.jpg", KNOWN.encoded())  # too late
    write(log / f"sensors/cameras/stereo_front_left/{times[1]}.jpg", KNOWN.encoded())  # not calibrated


@dataclass(frozen=True)
class Tree:
    """One set: how to write it, the file names of its one frame, what is lost when a row goes."""

    build: Callable[[Path], None]
    split: str
    id: str
    sequence: str
    sweep: str
    tables: tuple[str, ...]
    z_tolerance: float = 2e-3


TREES = {
    "nuscenes": Tree(
        nuscenes_tree, "val", "samples/CAM_FRONT/n__CAM_FRONT__1040.jpg", "scene-0103/CAM_FRONT",
        "samples/LIDAR_TOP/n__LIDAR_TOP__1000.pcd.bin",
        ("v1.0-trainval/calibrated_sensor.json", "v1.0-trainval/ego_pose.json"),
    ),
    "ddad": Tree(
        ddad_tree, "val", "000150/rgb/CAMERA_01/15.jpg", "000150/camera_01", "000150/point_cloud/LIDAR/16.npz", (),
    ),
    "argoverse2": Tree(
        argoverse2_tree, "val", "val/log-1/sensors/cameras/ring_side_left/1000000000040000000.jpg",
        "log-1/ring_side_left", "val/log-1/sensors/lidar/1000000000000000000.feather",
        ("val/log-1/calibration/intrinsics.feather", "val/log-1/calibration/egovehicle_SE3_sensor.feather",
         "val/log-1/city_SE3_egovehicle.feather"),
        z_tolerance=2e-2,  # float16
    ),
}  # fmt: skip
NAMES = tuple(TREES)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_a_moving_vehicle_are_right(name: str, tmp_path: Path) -> None:
    reader, tree = get_reader(name), TREES[name]
    tree.build(tmp_path)
    (ref,) = reader.index(tmp_path, tree.split)
    assert list(reader.index(tmp_path, "all")) == [ref]
    assert (ref.id, ref.sequence) == (tree.id, tree.sequence)
    assert pickle.loads(pickle.dumps(ref)) == ref
    frame = reader.read(tmp_path, ref)
    check_labels(frame, KNOWN, z_tolerance=tree.z_tolerance, pixels=0.02 if name != "argoverse2" else 0.3)
    assert frame.labels.count > 0.5 * np.count_nonzero(KNOWN.z > 1.0)
    assert frame.image == KNOWN.encoded()
    assert frame.camera == KNOWN.camera
    np.testing.assert_allclose(frame.pose, KNOWN.pose, atol=1e-6)
    np.testing.assert_allclose(np.reshape(ref.pose, (4, 4)), KNOWN.pose, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["sweep", "id"])
def test_an_empty_or_missing_file_is_named(name: str, what: str, tmp_path: Path) -> None:
    reader, tree = get_reader(name), TREES[name]
    tree.build(tmp_path)
    (ref,) = reader.index(tmp_path, tree.split)
    file = tmp_path / getattr(tree, what)
    file.write_bytes(file.read_bytes()[:11])
    with pytest.raises(FrameError, match=file.name) as caught:
        reader.read(tmp_path, ref)
    assert "\n" not in str(caught.value)
    file.write_bytes(b"")
    with pytest.raises(FrameError, match=f"{file.name}: the file is empty"):
        reader.read(tmp_path, ref)
    file.unlink()
    with pytest.raises(FrameError, match=f"{file.name}: cannot be read"):
        reader.read(tmp_path, ref)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_another_size_is_refused(name: str, tmp_path: Path) -> None:
    reader, tree = get_reader(name), TREES[name]
    tree.build(tmp_path)
    Image.new("RGB", (48, 64)).save(tmp_path / tree.id)
    (ref,) = reader.index(tmp_path, tree.split)
    with pytest.raises(FrameError, match="image is 48x64 but its calibration says 64x48"):
        reader.read(tmp_path, ref)


def drop_rows(path: Path) -> None:
    """A table with its header alone."""
    if path.suffix == ".json":
        path.write_text("[]")
    else:
        feather.write_feather(feather.read_table(path).slice(0, 0), str(path))


@pytest.mark.parametrize(("name", "table"), [(name, table) for name in NAMES for table in TREES[name].tables])
def test_a_missing_calibration_or_pose_row_is_named(name: str, table: str, tmp_path: Path) -> None:
    reader, tree = get_reader(name), TREES[name]
    tree.build(tmp_path)
    drop_rows(tmp_path / table)
    (ref,) = reader.index(tmp_path, tree.split)
    with pytest.raises(FrameError, match=f"{table} .*no such (pose|calibration)"):
        reader.read(tmp_path, ref)


@pytest.mark.parametrize("name", NAMES)
def test_a_pose_that_is_not_finite_is_named(name: str, tmp_path: Path) -> None:
    reader, tree = get_reader(name), TREES[name]
    tree.build(tmp_path)
    if name == "nuscenes":
        table = "v1.0-trainval/ego_pose.json"
        edit_json(tmp_path / table, lambda rows: rows[1].update(translation=[float("nan"), 0, 0]))
    elif name == "ddad":
        table = "000150/scene_ab.json"
        zero = dict.fromkeys(("qw", "qx", "qy", "qz"), 0.0)  # no direction at all
        edit_json(tmp_path / table, lambda scene: scene["data"][0]["datum"]["image"]["pose"].update(rotation=zero))
    else:
        table = "val/log-1/city_SE3_egovehicle.feather"
        content = feather.read_table(tmp_path / table).to_pydict()
        feather.write_feather(pa.table(content | {"qw": [np.nan, np.nan]}), str(tmp_path / table))
    (ref,) = reader.index(tmp_path, tree.split)
    assert ref.pose is None
    with pytest.raises(FrameError, match=f"{table} .*not finite"):
        reader.read(tmp_path, ref)


@pytest.mark.parametrize("name", NAMES)
def test_another_tree_or_split_is_refused(name: str, tmp_path: Path) -> None:
    reader = get_reader(name)
    with pytest.raises(InputError, match="does not look like"):
        list(reader.index(tmp_path, reader.splits[0]))
    with pytest.raises(InputError, match="no such folder"):
        list(reader.index(tmp_path / "nowhere", "all"))
    with pytest.raises(InputError, match="no split 'holdout'"):
        list(reader.index(tmp_path, "holdout"))


def test_ddad_scene_without_calibration_or_lidar(tmp_path: Path) -> None:
    reader = get_reader("ddad")
    ddad_tree(tmp_path)
    edit_json(tmp_path / "000150/scene_ab.json", lambda scene: scene["data"].pop())
    (ref,) = reader.index(tmp_path, "val")
    with pytest.raises(FrameError, match="scene_ab.json .lidar beside rgb/CAMERA_01/15.jpg.: no such pose"):
        reader.read(tmp_path, ref)
    (tmp_path / "000150/calibration/cal.json").write_text("")
    (ref,) = reader.index(tmp_path, "val")
    with pytest.raises(FrameError, match="cal.json .camera_01.: no such calibration"):
        reader.read(tmp_path, ref)
    (tmp_path / "000150/scene_ab.json").write_text("{}")
    with pytest.raises(FrameError, match="scene_ab.json: not a scene"):
        list(reader.index(tmp_path, "val"))
    with pytest.raises(InputError, match="no scene of split 'train'"):
        list(reader.index(tmp_path, "train"))


def test_nuscenes_splits_are_the_official_ones(tmp_path: Path) -> None:
    val = _numbered(_VAL)
    assert len(val) == 150
    assert {"scene-0103", "scene-0553", "scene-0796", "scene-0916"} < val
    assert not {f"scene-{n}" for n in ("0061", "0655", "0757", "1077", "1094", "1100", "0077", "1043")} & val
    nuscenes_tree(tmp_path)
    assert list(get_reader("nuscenes").index(tmp_path, "train")) == []
    with pytest.raises(InputError, match="no v1.0-mini/sample_data.json"):
        list(get_reader("nuscenes").index(tmp_path, "mini"))


def test_nuscenes_tables_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"token": str(i), "text": "][},{\\" * i, "rotation": [1.5, -2e-3]} for i in range(20)]
    path = tmp_path / "table.json"
    for chunk, indent in ((7, None), (64, 1), (1 << 20, None)):
        path.write_text(json.dumps(rows, indent=indent))
        monkeypatch.setattr("depthlm.data.readers.nuscenes._CHUNK", max(chunk, 64))
        assert list(_rows(path)) == rows
    path.write_text(json.dumps(rows)[:-3])
    with pytest.raises(FrameError, match="table.json: not a complete"):
        list(_rows(path))


# --- real samples ---------------------------------------------------------------------------------------------------


def in_view(reader: Any, root: Path, ref: FrameRef, near: float = 0.5) -> tuple[NDArray[Any], NDArray[Any]]:
    """All points in front of the camera and strictly between pixel 0 and W: uv, z (how the figures were counted)."""
    view = reader.view(root, ref)
    return window(view.camera_from_lidar, view, near)


def window(matrix: NDArray[Any], view: Any, near: float) -> tuple[NDArray[Any], NDArray[Any]]:
    p = view.points @ matrix[:3, :3].T + matrix[:3, 3]
    p = p[p[:, 2] > near]
    uvw = p @ view.camera.matrix.T
    uv = uvw[:, :2] / uvw[:, 2:]
    on = ((uv > 0) & (uv < (view.camera.width, view.camera.height))).all(axis=1)
    return uv[on], p[on, 2]


def test_real_nuscenes(samples_dir: Path) -> None:
    root, reader = samples_dir / "nuscenes", get_reader("nuscenes")
    refs = list(reader.index(root, "mini"))
    stored = json.loads((root / "calib.json").read_text())["cameras"]
    assert [ref.sequence.split("/")[1] for ref in refs] == [
        "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT",
    ]  # fmt: skip
    for ref in refs:
        expected = stored[ref.sequence.split("/")[1]]
        view = reader.view(root, ref)  # type: ignore[attr-defined]
        assert np.abs(view.camera_from_lidar - expected["lidar2cam_motion_compensated"]).max() < 1e-4
        assert ref.id == expected["img"]
        np.testing.assert_allclose(np.reshape(ref.pose, (4, 4)), view.pose)
    _, z = in_view(reader, root, refs[0])
    assert len(z) == 3067
    assert abs(np.median(z) - 10.36) < 5e-3
    frame = reader.read(root, refs[0])
    assert 2800 < frame.labels.count < 3060
    assert frame.labels.depths().min() > 1


def test_real_nuscenes_legacy(samples_dir: Path) -> None:
    root, reader = samples_dir / "nuscenes", get_reader("nuscenes")
    ref = next(iter(reader.index(root, "mini")))
    stored = json.loads((root / "calib.json").read_text())
    still = np.linalg.inv(stored["cameras"]["CAM_FRONT"]["cam2ego"]) @ np.array(stored["lidar2ego"])
    uv, z = window(still, reader.view(root, ref), 0.0)  # type: ignore[attr-defined]
    assert len(z) == 2879
    assert abs(np.median(z) - 10.89) < 5e-3
    labels = reader.read_legacy(root, ref).labels
    nearest: dict[tuple[int, int], float] = {}
    for (u, v), depth in zip(uv.astype(int).tolist(), z.tolist(), strict=True):
        nearest[u, v] = min(depth, nearest.get((u, v), np.inf))
    ours = dict(zip(map(tuple, labels.uv.astype(int).tolist()), labels.z.tolist(), strict=True))
    assert len(set(nearest) ^ set(ours)) <= 4  # pixel areas end half a pixel earlier here
    assert max(abs(nearest[uv] - ours[uv]) for uv in set(nearest) & set(ours)) < 1e-4


def test_real_ddad(samples_dir: Path) -> None:
    root, reader = samples_dir / "ddad", get_reader("ddad")
    refs = list(reader.index(root, "val"))
    assert refs == list(reader.index(root, "train")) == list(reader.index(root, "all"))  # the test scene is in both
    assert len(refs) == 18
    assert [ref.sequence for ref in refs[::3]] == [f"scene_02/camera_{n:02d}" for n in (1, 5, 6, 7, 8, 9)]
    assert [ref.id for ref in refs] == sorted(ref.id for ref in refs)
    _, z = in_view(reader, root, refs[0])
    assert len(z) == 5157
    assert abs(np.median(z) - 26.10) < 5e-3
    assert 175 < z.max() < 177
    frame = reader.read(root, refs[0])
    assert 0.8 * len(z) < frame.labels.count < len(z)


def test_real_argoverse2(samples_dir: Path, tmp_path: Path) -> None:
    name, reader = "7fab2350-7eaf-3b7e-a39d-6937a4c1bede", get_reader("argoverse2")
    log = tmp_path / "val" / name
    shutil.copytree(samples_dir / "argoverse2/val" / name, log)
    poses = feather.read_table(log / "city_SE3_egovehicle.feather")["timestamp_ns"].to_numpy()
    sweeps = [int(path.stem) for path in (log / "sensors/lidar").iterdir()]
    sizes = {"ring_front_center": (1550, 2048), "ring_side_left": (2048, 1550), "stereo_front_left": (2048, 1550)}
    near = [int(t) for t in poses if 0 < abs(t - min(sweeps)) < 30_000_000]
    far = [int(t) for t in poses if t > max(sweeps) + 51_000_000]
    for camera, size in sizes.items():
        for time in (near[0], near[-1], far[0]):
            file = log / f"sensors/cameras/{camera}/{time}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", size).save(file)
    refs = list(reader.index(tmp_path, "val"))
    assert [ref.sequence for ref in refs] == [f"{name}/{camera}" for camera in sizes for _ in range(2)]
    medians = {}
    for ref in refs:
        camera = ref.sequence.split("/")[1]
        frame = reader.read(tmp_path, ref)
        assert (frame.camera.width, frame.camera.height) == sizes[camera]
        assert frame.labels.count > 5000
        # The figures were counted as if picture and sweep were simultaneous.
        at_once = dataclasses.replace(ref, data=ref.data._replace(picture=(*ref.data.sweep, ref.data.picture[-1])))
        _, z = in_view(reader, tmp_path, at_once)
        medians[camera] = (len(z), float(np.median(z)), float(z.max()))
    count, median, top = medians["ring_front_center"]
    assert (count, round(median, 2), round(top, 1)) == (11461, 29.19, 208.5)
    assert round(medians["ring_side_left"][1], 2) == 12.46
