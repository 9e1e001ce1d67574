"""TUM RGB-D, Redwood, ARKitScenes and Stray Scanner: real pairs, trees of known geometry, damage."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from depthlm.camera import Camera
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.data.readers.rgbd import nearest
from depthlm.errors import InputError
from depthlm.sample import decode_image
from layouts import lay_out
from trees import Known, check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

VGA = Camera(525, 525, 319.5, 239.5, 640, 480)
TUM, REDWOOD, ARKIT, STRAY = (get_reader(name) for name in ("tum", "redwood", "arkitscenes", "stray"))


def steps(known: Known, per_metre: float) -> Image.Image:
    return Image.fromarray(np.round(np.nan_to_num(known.z, posinf=0) * per_metre).astype(np.uint16))


def xyzw(pose: np.ndarray) -> str:
    return " ".join(f"{n:.9f}" for n in (*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()))


def only(reader, root: Path):
    (ref,) = reader.index(root, "all")
    return reader.read(root, ref)


# --- TUM ------------------------------------------------------------------------------------------------------------


def tum_tree(root: Path, name: str = "rgbd_dataset_freiburg9_room") -> Path:
    folder, known = root / name, known_view(11, camera=VGA)
    for part in ("rgb", "depth"):
        (folder / part).mkdir(parents=True)
    (folder / "rgb" / "100.000000.png").write_bytes(known.encoded("PNG"))
    steps(known, 5000).save(folder / "depth" / "100.015000.png")
    (folder / "rgb.txt").write_text("# colour\n99.970000 rgb/99.970000.png\n100.000000 rgb/100.000000.png\n")
    (folder / "depth.txt").write_text("# depth\n100.015000 depth/100.015000.png\n100.500000 depth/100.500000.png\n")
    other = np.eye(4)
    (folder / "groundtruth.txt").write_text(f"99.99 {xyzw(other)}\n100.004 {xyzw(known.pose)}\n100.2 {xyzw(other)}\n")
    return folder


def test_tum_real_pair(samples_dir: Path, tmp_path: Path) -> None:
    frame = only(TUM, lay_out("tum", samples_dir, tmp_path))
    assert abs(np.median(frame.labels.depths()) - 2.415) < 5e-4
    assert frame.camera == VGA


def test_tum_known_geometry(tmp_path: Path) -> None:
    folder, known = tum_tree(tmp_path), known_view(11, camera=VGA)
    (ref,) = TUM.index(tmp_path, "all")  # 99.97 has no depth within 20 ms
    assert (ref.id, ref.sequence) == ("rgbd_dataset_freiburg9_room/100.000000", "rgbd_dataset_freiburg9_room")
    frame = TUM.read(tmp_path, ref)
    check_labels(frame, known, z_tolerance=0.00011)
    assert np.allclose(frame.pose, known.pose, atol=1e-6)
    assert np.allclose(ref.pose, known.pose.ravel(), atol=1e-6)
    (same,) = TUM.index(folder, "all")
    assert same.id == ref.id
    check_labels(TUM.read(folder, same), known, z_tolerance=0.00011)
    (folder / "groundtruth.txt").write_text(f"100.021 {xyzw(known.pose)}\n")
    assert only(TUM, tmp_path).pose is None


@pytest.mark.parametrize(
    ("name", "focal"),
    [("rgbd_dataset_freiburg1_xyz", 517.306408), ("rgbd_dataset_freiburg2_desk", 520.90862), ("fr3_office", 535.4)],
)
def test_tum_cameras(tmp_path: Path, name: str, focal: float) -> None:
    tum_tree(tmp_path, name)
    frame = only(TUM, tmp_path)
    assert (frame.camera.fx, frame.labels.lens is None) == (focal, "fr3" in name)
    assert np.asarray(decode_image(frame.image, "")).shape[:2] == (frame.camera.height, frame.camera.width)


def test_tum_distortion_is_undone(tmp_path: Path) -> None:
    """A distorted picture of a ramp in u: the straightened picture shows each label's original column."""
    folder = tum_tree(tmp_path, "rgbd_dataset_freiburg1_xyz")
    ramp = np.repeat((np.arange(640) // 2.6).astype(np.uint8)[None], 480, axis=0)
    Image.fromarray(np.stack([ramp] * 3, -1)).save(folder / "rgb" / "100.000000.png")
    Image.fromarray(np.full((480, 640), 10000, np.uint16)).save(folder / "depth" / "100.015000.png")
    frame = only(TUM, tmp_path)
    chosen = np.array([240 * 640 + 320, 100 * 640 + 100, 400 * 640 + 560])
    uv, z = frame.labels.take(chosen, frame.camera)
    assert np.allclose(z, 2.0)
    picture = np.asarray(decode_image(frame.image, ""))[..., 0]
    u, v = np.round(uv).astype(int).T
    assert np.abs(picture[v, u] - np.array([320, 100, 560]) / 2.6).max() < 2.5
    # OpenCV bends their rays, by the published coefficients, back to the original pixels.
    k = np.array([[517.306408, 0, 318.643040], [0, 516.469215, 255.313989], [0, 0, 1]])
    bent = np.array([0.262383, -0.953104, -0.005358, 0.002628, 1.163314])
    points = np.array([[320, 240], [100, 100], [560, 400]], np.float64)
    drawn, _ = cv2.projectPoints(frame.camera.rays(uv), np.zeros(3), np.zeros(3), k, bent)
    assert np.abs(drawn[:, 0] - points).max() < 1e-4


def test_tum_damage(tmp_path: Path) -> None:
    folder = tum_tree(tmp_path)
    (ref,) = TUM.index(tmp_path, "all")
    (folder / "groundtruth.txt").write_text("100.0 nan 0 0 0 0 0 1\n")
    (bad,) = TUM.index(tmp_path, "all")
    assert bad.pose is None
    with pytest.raises(FrameError, match="groundtruth.txt: pose of rgb/100.000000.png.*not finite"):
        TUM.read(tmp_path, bad)
    (folder / "depth" / "100.015000.png").write_bytes(b"")
    with pytest.raises(FrameError, match="100.015000.png: the file is empty"):
        TUM.read(tmp_path, ref)
    (folder / "rgb" / "100.000000.png").unlink()
    with pytest.raises(FrameError, match="100.000000.png: cannot be read"):
        TUM.read(tmp_path, ref)
    (folder / "rgb.txt").write_text("100.0\n")
    with pytest.raises(InputError, match="rgb.txt: line 1"):
        list(TUM.index(tmp_path, "all"))
    with pytest.raises(InputError, match="no split 'train'; expected one of all$"):
        list(TUM.index(tmp_path, "train"))
    with pytest.raises(InputError, match="does not look like TUM"):
        list(TUM.index(folder / "rgb", "all"))


def test_nearest_time() -> None:
    times = np.array([1.0, 2.0, 2.5])
    assert [nearest(times, t, 0.2) for t in (0.5, 0.9, 1.2, 1.5, 2.3, 2.7, 3.0)] == [None, 0, 0, None, 2, 2, None]
    assert nearest(np.array([]), 1.0, 9) is None


# --- Redwood --------------------------------------------------------------------------------------------------------


def redwood_tree(root: Path, camera: Camera = VGA) -> Known:
    known = known_view(12, camera=camera)
    (root / "color").mkdir(parents=True)
    (root / "depth").mkdir()
    (root / "color" / "000001-000000033333.jpg").write_bytes(known.encoded())
    steps(known, 1000).save(root / "depth" / "000001-000000040000.png")
    k = camera.matrix.T.ravel().tolist()  # column by column
    data = {"width": camera.width, "height": camera.height, "intrinsic_matrix": k}
    (root / "camera_primesense.json").write_text(json.dumps(data))
    rows = "\n".join(" ".join(map(repr, row)) for row in known.pose.tolist())
    (root / "trajectory.log").write_text(f"0 0 1\n{rows}\n")
    return known


def test_redwood_real(samples_dir: Path) -> None:
    root = samples_dir / "redwood"
    refs = list(REDWOOD.index(root, "all"))
    assert [ref.id for ref in refs] == ["00000", "00001", "00002"]
    frame = REDWOOD.read(root, refs[0])
    assert abs(np.median(frame.labels.depths()) - 1.861) < 5e-4
    assert frame.camera == VGA


def test_redwood_known_geometry(tmp_path: Path) -> None:
    known = redwood_tree(tmp_path / "lounge", Camera(70, 72, 30.5, 25, 64, 48))
    (ref,) = REDWOOD.index(tmp_path, "all")
    assert (ref.id, ref.sequence) == ("lounge/000001", "lounge")
    frame = REDWOOD.read(tmp_path, ref)
    assert frame.camera == known.camera
    check_labels(frame, known, z_tolerance=0.0006)
    assert np.allclose(frame.pose, known.pose)


def test_redwood_damage(tmp_path: Path) -> None:
    redwood_tree(tmp_path)
    (ref,) = REDWOOD.index(tmp_path, "all")
    log = tmp_path / "trajectory.log"
    log.write_text("0 0 1\n" + "nan 0 0 0\n" * 4)
    (bad,) = REDWOOD.index(tmp_path, "all")
    with pytest.raises(FrameError, match="trajectory.log: pose of 000001.*not finite"):
        REDWOOD.read(tmp_path, bad)
    log.write_text("0 0 1\n1 2 3\n")
    with pytest.raises(InputError, match="trajectory.log: not a trajectory"):
        list(REDWOOD.index(tmp_path, "all"))
    log.unlink()
    depth = next((tmp_path / "depth").iterdir())
    depth.write_bytes(b"")
    with pytest.raises(FrameError, match="000001-000000040000.png: the file is empty"):
        REDWOOD.read(tmp_path, ref)
    depth.unlink()
    (alone,) = REDWOOD.index(tmp_path, "all")
    with pytest.raises(FrameError, match="depth/000001.png: cannot be read"):
        REDWOOD.read(tmp_path, alone)
    (tmp_path / "camera_primesense.json").unlink()
    with pytest.raises(FrameError, match="camera_primesense.json: cannot be read"):
        only(REDWOOD, tmp_path)
    next((tmp_path / "color").iterdir()).unlink()
    with pytest.raises(FrameError, match="000001-000000033333.jpg: cannot be read"):
        REDWOOD.read(tmp_path, ref)
    with pytest.raises(InputError, match="does not look like Redwood"):
        list(REDWOOD.index(tmp_path / "color", "all"))
    with pytest.raises(InputError, match="no split 'test'"):
        list(REDWOOD.index(tmp_path, "test"))


# --- ARKitScenes ----------------------------------------------------------------------------------------------------

SMALL = Camera(60, 60, 31.5, 23.5, 64, 48)
COARSE = Camera(30, 30, 15.5, 11.5, 32, 24)  # the same view on a grid half as fine: cx + 0.5 halves


def arkit_video(video: Path, kind: str, times: tuple[str, ...] = ("10.117",)) -> Known:
    known, coarse = known_view(13, camera=SMALL), known_view(13, camera=SMALL).z[::2, ::2]
    for part in (kind, f"{kind}_intrinsics", "lowres_depth", "confidence"):
        (video / part).mkdir(parents=True, exist_ok=True)
    grade = np.full(coarse.shape, 2, np.uint8)
    grade[:, :8], grade[:, 8:16] = 0, 1
    for time in times:
        name = f"{video.name}_{time}.png"
        (video / kind / name).write_bytes(known.encoded("PNG"))
        Image.fromarray(np.round(coarse * 1000).astype(np.uint16)).save(video / "lowres_depth" / name)
        Image.fromarray(grade).save(video / "confidence" / name)
        pincam = video / f"{kind}_intrinsics" / f"{video.name}_{float(time) + 0.001:.3f}.pincam"
        pincam.write_text("64 48 60 60 31.5 23.5")
    return known


def test_arkitscenes_upsampling(tmp_path: Path) -> None:
    video = tmp_path / "upsampling" / "Validation" / "41048190"
    known = arkit_video(video, "color", ("10.117", "10.617"))
    (video / "highres_depth").mkdir()
    steps(known, 1000).save(video / "highres_depth" / "41048190_10.617.png")
    lidar, laser = ARKIT.index(tmp_path, "val")
    assert (laser.id, laser.scene) == ("41048190/41048190_10.617", "41048190")
    frame = ARKIT.read(tmp_path, laser)
    assert frame.camera == SMALL
    check_labels(frame, known, z_tolerance=0.0006)
    assert frame.labels.count == np.isfinite(known.z).sum()
    coarse = ARKIT.read(tmp_path, lidar).labels
    assert coarse.z.shape == (24, 32)
    assert not coarse.valid[:, :8].any()  # confidence 0
    assert coarse.valid[:, 8:].all()
    assert [ref.id for ref in ARKIT.index(tmp_path / "upsampling", "all")] == [lidar.id, laser.id]
    with pytest.raises(InputError, match="no Training/"):
        list(ARKIT.index(tmp_path, "train"))


def test_arkitscenes_raw(tmp_path: Path) -> None:
    video = tmp_path / "raw" / "Training" / "40753679"
    known = arkit_video(video, "lowres_wide")
    back = np.linalg.inv(known.pose)
    numbers = [10.117, *Rotation.from_matrix(back[:3, :3]).as_rotvec(), *back[:3, 3]]
    (video / "lowres_wide.traj").write_text(" ".join(f"{n:.9f}" for n in numbers) + "\n")
    (ref,) = ARKIT.index(tmp_path, "train")
    assert ref.sequence == "40753679"
    frame = ARKIT.read(tmp_path, ref)
    assert np.allclose(frame.pose, known.pose, atol=1e-6)
    uv, z = frame.labels.take(np.arange(frame.labels.count), frame.camera)
    assert uv[0] == pytest.approx([16.5, 0.5])  # the centre of a coarse pixel is the corner of four fine ones
    near = known.z[np.floor(uv[:, 1]).astype(int), np.floor(uv[:, 0]).astype(int)]
    assert np.abs(near - z).max() < 0.0006


def test_arkitscenes_real_lidar(samples_dir: Path, tmp_path: Path) -> None:
    frame = only(ARKIT, lay_out("arkitscenes", samples_dir, tmp_path))
    assert abs(np.median(frame.labels.depths()) - 2.654) < 5e-4


def test_arkitscenes_damage(tmp_path: Path) -> None:
    video = tmp_path / "Training" / "7"
    arkit_video(video, "wide")
    (ref,) = ARKIT.index(tmp_path, "train")
    (video / "lowres_wide.traj").write_text("10.117 nan 0 0 0 0 0\n")
    (bad,) = ARKIT.index(tmp_path, "train")
    with pytest.raises(FrameError, match="lowres_wide.traj: pose of 7/7_10.117.*not finite"):
        ARKIT.read(tmp_path, bad)
    (video / "lowres_wide.traj").unlink()
    grade = video / "confidence" / "7_10.117.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(grade)
    with pytest.raises(FrameError, match=r"confidence/7_10.117.png: confidence of shape \(2, 2\)"):
        ARKIT.read(tmp_path, ref)
    depth = video / "lowres_depth" / "7_10.117.png"
    Image.fromarray(np.ones((24, 24), np.uint16)).save(depth)
    with pytest.raises(FrameError, match="lowres_depth/7_10.117.png: depth map is 24x24.*another shape"):
        ARKIT.read(tmp_path, ref)
    depth.write_bytes(b"")
    with pytest.raises(FrameError, match="lowres_depth/7_10.117.png: the file is empty"):
        ARKIT.read(tmp_path, ref)
    (video / "wide" / "7_10.117.png").unlink()
    with pytest.raises(FrameError, match="wide/7_10.117.png: cannot be read"):
        ARKIT.read(tmp_path, ref)
    arkit_video(video, "wide")
    shutil.rmtree(video / "wide_intrinsics")
    (ref,) = ARKIT.index(tmp_path, "train")
    with pytest.raises(FrameError, match="wide_intrinsics/7_10.117.pincam: cannot be read"):
        ARKIT.read(tmp_path, ref)
    with pytest.raises(InputError, match="does not look like ARKitScenes"):
        list(ARKIT.index(video, "train"))
    with pytest.raises(InputError, match="no split 'test'"):
        list(ARKIT.index(tmp_path, "test"))


# --- Stray Scanner --------------------------------------------------------------------------------------------------


def stray_scan(root: Path, *, focal: bool = False, frames: int = 12) -> Known:
    """A video whose frame n is of brightness 20 n, so that each can be told; depth and grades as in `arkit_video`."""
    known = known_view(13, camera=SMALL)
    for part in ("depth", "confidence"):
        (root / part).mkdir(parents=True)
    video = cv2.VideoWriter(str(root / "rgb.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (64, 48))
    header, rows = "timestamp, frame, x, y, z, qx, qy, qz, qw", []
    for n in range(frames):
        video.write(np.full((48, 64, 3), 20 * n, np.uint8))
        pose = known.pose.copy()
        pose[0, 3] += n
        Image.fromarray(np.round(known.z[::2, ::2] * 1000 + n).astype(np.uint16)).save(root / "depth" / f"{n:06d}.png")
        grade = np.full((24, 32), 1 + n % 2, np.uint8)
        grade[0] = 0
        Image.fromarray(grade).save(root / "confidence" / f"{n:06d}.png")
        rows.append(f"{n / 30:.4f}, {n:06d}, " + xyzw(pose).replace(" ", ", ") + (", 61, 62, 31, 24" if focal else ""))
    video.release()
    (root / "odometry.csv").write_text("\n".join([header + (", fx, fy, cx, cy" if focal else ""), *rows]) + "\n")
    (root / "camera_matrix.csv").write_text("60, 0, 31.5\n0, 60, 23.5\n0, 0, 1\n")
    return known


@pytest.mark.parametrize("focal", [False, True])
def test_stray_known_geometry(tmp_path: Path, focal: bool) -> None:
    known = stray_scan(tmp_path / "3fa0", focal=focal)
    refs = list(STRAY.index(tmp_path, "all"))
    assert len(refs) == 12
    assert (refs[3].id, refs[3].sequence) == ("3fa0/000003", "3fa0")
    for n in (7, 2, 11, 2):  # forwards and backwards
        frame = STRAY.read(tmp_path, refs[n])
        assert frame.camera == (Camera(61, 62, 31, 24, 64, 48) if focal else SMALL)
        picture = np.asarray(decode_image(frame.image, "", (64, 48)))
        assert abs(float(np.median(picture)) - 20 * n) < 6
        assert np.allclose(frame.labels.z, known.z[::2, ::2] + n / 1000, atol=0.0006)
        assert not frame.labels.valid[0].any()
        assert frame.labels.valid[1:].all()
        pose = known.pose.copy()
        pose[0, 3] += n
        assert np.allclose(frame.pose, pose, atol=1e-6)


def test_stray_damage(tmp_path: Path) -> None:
    stray_scan(tmp_path, frames=3)
    refs = list(STRAY.index(tmp_path, "all"))
    assert refs[0].id == "000000"
    Image.fromarray(np.ones((24, 32), np.uint16)).save(tmp_path / "depth" / "000009.png")
    beyond = list(STRAY.index(tmp_path, "all"))[-1]
    with pytest.raises(FrameError, match="rgb.mp4: has no readable frame 9"):
        STRAY.read(tmp_path, beyond)
    (tmp_path / "depth" / "000001.png").write_bytes(b"")
    with pytest.raises(FrameError, match="depth/000001.png: the file is empty"):
        STRAY.read(tmp_path, refs[1])
    text = (tmp_path / "odometry.csv").read_text()
    (tmp_path / "odometry.csv").write_text("timestamp,frame,x,y,z,qx,qy,qz,qw\n0,2,nan,0,0,0,0,0,1\n")
    bad = list(STRAY.index(tmp_path, "all"))[2]
    with pytest.raises(FrameError, match="odometry.csv: frame 000002.*not finite"):
        STRAY.read(tmp_path, bad)
    (tmp_path / "odometry.csv").write_text("timestamp,frame,x\n0,2,1\n")
    with pytest.raises(InputError, match="odometry.csv: not Stray Scanner's"):
        list(STRAY.index(tmp_path, "all"))
    (tmp_path / "odometry.csv").write_text(text)
    (tmp_path / "confidence" / "000002.png").unlink()
    with pytest.raises(FrameError, match="confidence/000002.png: cannot be read"):
        STRAY.read(tmp_path, refs[2])
    (tmp_path / "camera_matrix.csv").unlink()
    with pytest.raises(FrameError, match="camera_matrix.csv: cannot be read"):
        STRAY.read(tmp_path, refs[0])
    (tmp_path / "rgb.mp4").write_bytes(b"")
    with pytest.raises(FrameError, match="rgb.mp4: the file is empty"):
        STRAY.read(tmp_path, refs[0])
    (tmp_path / "rgb.mp4").unlink()
    with pytest.raises(FrameError, match="rgb.mp4: cannot be read"):
        STRAY.read(tmp_path, refs[0])
    with pytest.raises(InputError, match="does not look like Stray Scanner"):
        list(STRAY.index(tmp_path, "all"))
    with pytest.raises(InputError, match="no split 'x'"):
        list(STRAY.index(tmp_path, "x"))
