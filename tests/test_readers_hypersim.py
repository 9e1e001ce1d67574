"""Hypersim: the real frame of a tilt-shift scene, all real cameras, and trees of known geometry."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.data.readers.base import FrameError, get_reader
from depthlm.data.readers.hypersim import camera_row, develop, pinhole
from depthlm.errors import InputError
from depthlm.sample import decode_image
from trees import Known, check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("hypersim")
FLIP = np.diag([1.0, -1.0, -1.0])
PLAIN = np.diag([0.6, 0.45, -1.0])
TILTED = np.array([[0.58, 0, -0.07], [0, 0.434, 0.09], [0, 0.2, -1.03]])
SKEWED = np.array([[0.58, 0.02, -0.07], [0, 0.434, 0.09], [0.1, 0.15, -1.03]])
WIDTH, HEIGHT = 64, 48


def rays(m: np.ndarray, width: int, height: int, pixels: np.ndarray | None = None) -> np.ndarray:
    """[..., 3] unit rays of [..., 2] pixels (all: [H, W, 3]); x right, y up, z back, as M_cam_from_uv has them."""
    if pixels is None:
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    u, v = -1 + (2 * pixels[..., 0] + 1) / width, 1 - (2 * pixels[..., 1] + 1) / height
    out = np.stack([u, v, np.ones_like(u)], axis=-1) @ m.T
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def write(root: Path, m: np.ndarray, *, preview: bool = True) -> Known:
    """One frame taken with M; its truth is rendered by the pinhole camera that the reader must find."""
    camera, turn, _ = pinhole(m, WIDTH, HEIGHT, "")
    known = known_view(8, camera=camera)
    images, detail = root / "ai_001_001" / "images", root / "ai_001_001" / "_detail" / "cam_00"
    for folder in (images / "scene_cam_00_geometry_hdf5", images / "scene_cam_00_final_hdf5", detail):
        folder.mkdir(parents=True)
    v, u = np.mgrid[: camera.height, : camera.width]  # smaller than the frame where the picture is to be sheared
    factor = np.linalg.norm(camera.rays(np.stack([u.ravel(), v.ravel()], axis=1)), axis=1)
    distance = known.z.astype(np.float64) * factor.reshape(known.z.shape)
    distance[0, 0] = np.nan
    save(images / "scene_cam_00_geometry_hdf5" / "frame.0003.depth_meters.hdf5", distance.astype(np.float16))
    if preview:
        (images / "scene_cam_00_final_preview").mkdir()
        (images / "scene_cam_00_final_preview" / "frame.0003.tonemap.jpg").write_bytes(known.encoded())
    save(images / "scene_cam_00_final_hdf5" / "frame.0003.color.hdf5", (known.rgb / 255.0) ** 2.2 * 7)
    keyframes = np.tile(known.pose[:3, :3] @ turn.T @ FLIP, (5, 1, 1))
    save(detail / "camera_keyframe_orientations.hdf5", keyframes)
    save(detail / "camera_keyframe_positions.hdf5", np.tile(known.pose[:3, 3] / 0.0254, (5, 1)))
    row = {"scene_name": "ai_001_001", "settings_units_info_meters_scale": 0.0254}
    row |= {f"M_cam_from_uv_{i}{j}": m[i, j] for i in range(3) for j in range(3)}
    with (root / "metadata_camera_parameters.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    return known


def save(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["dataset"] = values


def grid() -> np.ndarray:
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([u.ravel(), v.ravel()], axis=1)


def test_the_real_frame(samples_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "ai_037_002").mkdir()
    for path in (samples_dir / "hypersim" / "ai_037_002").iterdir():
        (tmp_path / "ai_037_002" / path.name).symlink_to(path)
    (tmp_path / "ai_037_002" / "images").unlink()
    images = tmp_path / "ai_037_002" / "images"
    images.mkdir()
    geometry = samples_dir / "hypersim" / "ai_037_002" / "images" / "scene_cam_00_geometry_hdf5"
    (images / geometry.name).symlink_to(geometry)
    (images / "scene_cam_00_final_preview").mkdir()
    Image.new("RGB", (1024, 768)).save(images / "scene_cam_00_final_preview" / "frame.0000.tonemap.jpg")
    (tmp_path / "metadata_camera_parameters.csv").symlink_to(
        samples_dir / "hypersim" / "metadata_camera_parameters.csv"
    )
    (ref,) = READER.index(tmp_path, "all")
    frame = READER.read(tmp_path, ref)
    uv, z = frame.labels.take(np.arange(frame.labels.count), frame.camera)
    distance = z * np.linalg.norm(frame.camera.rays(uv), axis=1)
    assert abs(np.median(distance) - 5.504) < 2e-3
    # datasets.md's z of 5.165 is along the axis of Hypersim's own camera frame: go there through the world.
    assert frame.pose is not None
    with h5py.File(tmp_path / "ai_037_002" / "_detail" / "cam_00" / "camera_keyframe_orientations.hdf5") as file:
        orientation = file["dataset"][0]
    xyz = frame.camera.unproject(uv, z) @ (orientation.T @ frame.pose[:3, :3]).T
    assert abs(np.median(-xyz[:, 2]) - 5.165) < 1e-3
    m, _ = camera_row(samples_dir / "hypersim" / "metadata_camera_parameters.csv", "ai_037_002")
    unit = rays(m, 1024, 768)[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    assert np.abs(xyz - unit * distance[:, None]).max() < 1e-4


def test_every_real_camera_is_a_rotated_pinhole(samples_dir: Path) -> None:
    path = samples_dir / "hypersim" / "metadata_camera_parameters.csv"
    with path.open() as file:
        names = [row["scene_name"] for row in csv.DictReader(file)]
    sheared = 0
    for name in names:
        m, _ = camera_row(path, name)
        camera, turn, shear = pinhole(m, 1024, 768, name)
        uv = np.array([[0.0, 0], [1023, 0], [0, 767], [1023, 767], [300, 500]])
        moved = uv if shear is None else uv @ shear[:2, :2].T + shear[:2, 2]
        ours = camera.rays(moved) @ turn.T
        ours /= np.linalg.norm(ours, axis=1, keepdims=True)
        true = rays(m, 1024, 768, uv) @ FLIP
        assert np.abs(ours - true).max() < 1e-4, name
        assert np.linalg.det(turn) > 0.999
        sheared += shear is not None
        if np.abs(m - np.diag(np.diag(m))).max() < 1e-9:
            assert camera.cx == pytest.approx(511.5)
            assert np.allclose(turn, np.eye(3))
    assert len(names) == 482
    assert 0 < sheared < 285


@pytest.mark.parametrize("m", [PLAIN, TILTED])
def test_known_geometry(tmp_path: Path, m: np.ndarray) -> None:
    known = write(tmp_path, m)
    (ref,) = READER.index(tmp_path, "all")
    assert (ref.id, ref.scene) == ("ai_001_001/cam_00/frame.0003", "ai_001_001")
    frame = READER.read(tmp_path, ref)
    check_labels(frame, known, z_tolerance=0.004)  # half precision: 1/2048 of the distance
    assert not frame.labels.valid[0, 0]
    assert frame.pose is not None
    assert np.allclose(frame.pose, known.pose, atol=1e-6)
    turned = rays(m, WIDTH, HEIGHT) @ FLIP @ pinhole(m, WIDTH, HEIGHT, "")[1]
    assert np.allclose(turned / turned[..., 2:], frame.camera.rays(grid()).reshape(HEIGHT, WIDTH, 3))


def test_a_skewed_picture_is_sheared(tmp_path: Path) -> None:
    write(tmp_path, SKEWED)
    distance = np.linspace(2, 6, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.float32)
    images = tmp_path / "ai_001_001" / "images"
    save(images / "scene_cam_00_geometry_hdf5" / "frame.0003.depth_meters.hdf5", distance)
    ramp = np.repeat(np.arange(WIDTH, dtype=np.uint8)[None] * 4, HEIGHT, axis=0)
    Image.fromarray(np.stack([ramp] * 3, -1)).save(
        images / "scene_cam_00_final_preview" / "frame.0003.tonemap.jpg", quality=100
    )
    (ref,) = READER.index(tmp_path, "all")
    frame = READER.read(tmp_path, ref)
    uv, z = frame.labels.take(np.arange(frame.labels.count), frame.camera)
    picture = np.asarray(decode_image(frame.image, "", (frame.camera.width, frame.camera.height)))[..., 0] / 4
    assert picture[1:-1].min() >= -0.5
    _, turn, _ = pinhole(SKEWED, WIDTH, HEIGHT, "")
    got = frame.camera.unproject(uv, z) @ turn.T
    # Every label is one of the original rays at its distance: find it by its distance, all of which differ.
    index = np.abs(distance.ravel()[None] - np.linalg.norm(got, axis=1)[:, None]).argmin(axis=1)
    true = (rays(SKEWED, WIDTH, HEIGHT) @ FLIP).reshape(-1, 3)[index] * distance.ravel()[index, None]
    assert np.abs(got - true).max() < 1e-4
    # And the picture shows there what the original did: its column.
    inner = (np.abs(uv[:, 0] - frame.camera.width / 2) < frame.camera.width / 2 - 3) & (uv[:, 1] > 1) & (uv[:, 1] < 46)
    u, v = np.round(uv[inner]).astype(int).T
    assert np.abs(picture[v, u] + (uv[inner, 0] - u) - index[inner] % WIDTH).max() < 0.8
    assert np.median(np.abs(picture[v, u] + (uv[inner, 0] - u) - index[inner] % WIDTH)) < 0.3


def test_hdr_is_developed(tmp_path: Path) -> None:
    known = write(tmp_path, PLAIN, preview=False)
    (ref,) = READER.index(tmp_path, "all")
    picture = np.asarray(decode_image(READER.read(tmp_path, ref).image, "", (WIDTH, HEIGHT))).astype(float)
    assert np.corrcoef(picture.ravel(), known.rgb.ravel())[0, 1] > 0.9
    light = np.full((10, 10, 3), 3.0)
    light[0, 0] = np.nan, np.inf, -1
    assert develop(light)[5, 5].tolist() == [204, 204, 204]  # 0.8 of 255
    assert develop(np.zeros((2, 2, 3))).max() == 0


def test_splits(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    with pytest.raises(InputError, match="metadata_images_split_scene_v1.csv: no such file"):
        list(READER.index(tmp_path, "train"))
    (tmp_path / "metadata_images_split_scene_v1.csv").write_text(
        "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"
        "ai_001_001,cam_00,3,True,,val\n"
    )
    assert [ref.id for ref in READER.index(tmp_path, "val")] == ["ai_001_001/cam_00/frame.0003"]
    assert not list(READER.index(tmp_path, "train"))
    with pytest.raises(InputError, match="no split 'eval'"):
        list(READER.index(tmp_path, "eval"))


def test_damage(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    (ref,) = READER.index(tmp_path, "all")
    scene = tmp_path / "ai_001_001"
    places = scene / "_detail" / "cam_00" / "camera_keyframe_positions.hdf5"
    save(places, np.full((5, 3), np.nan))
    with pytest.raises(FrameError, match="keyframe 3.*not finite"):
        READER.read(tmp_path, ref)
    save(places, np.zeros((5, 3)))
    preview = scene / "images" / "scene_cam_00_final_preview" / "frame.0003.tonemap.jpg"
    preview.write_bytes(b"")
    with pytest.raises(FrameError, match="tonemap.jpg: the file is empty"):
        READER.read(tmp_path, ref)
    preview.unlink()
    colour = scene / "images" / "scene_cam_00_final_hdf5" / "frame.0003.color.hdf5"
    colour.unlink()
    with pytest.raises(FrameError, match="color.hdf5: cannot read"):
        READER.read(tmp_path, ref)
    depth = scene / "images" / "scene_cam_00_geometry_hdf5" / "frame.0003.depth_meters.hdf5"
    depth.write_bytes(b"")
    with pytest.raises(FrameError, match="depth_meters.hdf5: cannot read"):
        READER.read(tmp_path, ref)
    with pytest.raises(InputError, match="does not look like Hypersim"):
        list(READER.index(scene, "all"))


def test_a_missing_camera_row_is_named(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    (ref,) = READER.index(tmp_path, "all")
    (tmp_path / "ai_001_001").rename(tmp_path / "ai_009_009")
    (ref,) = READER.index(tmp_path, "all")
    with pytest.raises(FrameError, match="metadata_camera_parameters.csv: no row for scene ai_009_009"):
        READER.read(tmp_path, ref)


def test_a_matrix_that_is_no_camera(tmp_path: Path) -> None:
    m = Camera.from_fov(8, 6, 60).matrix * 0
    with pytest.raises(FrameError, match="describes no camera"):
        pinhole(m, 8, 6, "row")
