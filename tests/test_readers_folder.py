"""People's own folders: every form the docstring promises, real pairs, and messages that help."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.data.readers.base import Frame, FrameError, get_reader
from depthlm.errors import InputError
from depthlm.sample import decode_image
from layouts import lay_out
from trees import check_labels, known_view

if TYPE_CHECKING:
    from pathlib import Path

READER = get_reader("folder")
CAMERA = Camera(50, 52, 30.5, 25.0, 64, 48)
KNOWN = known_view(21, camera=CAMERA)


def write_scene(folder: Path, *, camera: dict[str, Any] | None = None, pictures: str = "images") -> Path:
    for part in (pictures, "depth"):
        (folder / part).mkdir(parents=True)
    for name in ("a", "b.1"):
        (folder / pictures / f"{name}.jpg").write_bytes(KNOWN.encoded())
        save_png(folder, name, np.round(KNOWN.z * 1000))
    (folder / "camera.json").write_text(json.dumps(camera or CAMERA.to_dict()))
    return folder


def save_png(folder: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint16)).save(folder / "depth" / f"{name}.png")


def first(root: Path) -> Frame:
    return READER.read(root, next(READER.index(root, "all")))


def settings(root: Path, text: str) -> None:
    (root / "depthlm-folder.yaml").write_text(text)


def distance() -> np.ndarray:
    v, u = np.mgrid[:48, :64]
    return KNOWN.z * np.sqrt(1 + ((u - 30.5) / 50) ** 2 + ((v - 25.0) / 52) ** 2)


@pytest.mark.parametrize("pictures", ["images", "rgb", "color"])
def test_millimetres_are_the_default(tmp_path: Path, pictures: str) -> None:
    write_scene(tmp_path, pictures=pictures)
    refs = list(READER.index(tmp_path, "all"))
    assert [(ref.id, ref.sequence) for ref in refs] == [("a", ""), ("b.1", "")]
    for ref in refs:
        frame = READER.read(tmp_path, ref)
        check_labels(frame, KNOWN, z_tolerance=0.0006)
        assert frame.camera == CAMERA
        assert frame.pose is None


def test_scale_and_invalid_values(tmp_path: Path) -> None:
    write_scene(tmp_path)
    settings(tmp_path, "depth_scale: 0.0002\ninvalid: [0, 65535]\n")
    raw = np.round(KNOWN.z * 5000)
    raw[0, :10], raw[1, :10] = 65535, 0
    save_png(tmp_path, "a", raw)
    frame = first(tmp_path)
    check_labels(frame, KNOWN, z_tolerance=0.00011)
    assert not frame.labels.valid[:2, :10].any()
    assert frame.labels.valid[2:].all()


def test_distance_becomes_z(tmp_path: Path) -> None:
    write_scene(tmp_path)
    settings(tmp_path, "depth: distance")
    save_png(tmp_path, "a", np.round(distance() * 1000))
    check_labels(first(tmp_path), KNOWN, z_tolerance=0.0006)


@pytest.mark.parametrize("form", ["npy", "npy3", "tiff", "tif"])
def test_decimals_are_metres(tmp_path: Path, form: str) -> None:
    write_scene(tmp_path)
    settings(tmp_path, "depth_scale: 0.0002")  # for whole numbers only
    (tmp_path / "depth" / "a.png").unlink()
    if form == "npy":
        np.save(tmp_path / "depth" / "a.npy", KNOWN.z)
    elif form == "npy3":
        np.save(tmp_path / "depth" / "a.npy", KNOWN.z[None])
    else:
        Image.fromarray(KNOWN.z).save(tmp_path / "depth" / f"a.{form}")
    check_labels(first(tmp_path), KNOWN, z_tolerance=1e-5)


def test_whole_numbers_in_npy_are_steps(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (tmp_path / "depth" / "a.png").unlink()
    np.save(tmp_path / "depth" / "a.npy", np.round(KNOWN.z * 1000).astype(np.int32))
    check_labels(first(tmp_path), KNOWN, z_tolerance=0.0006)


def test_exr_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (tmp_path / "depth" / "a.png").unlink()
    (tmp_path / "depth" / "a.exr").write_bytes(b"\x76\x2f\x31\x01 nothing")
    with pytest.raises(FrameError, match=r"depth/a\.exr: .*\.npy or \.tiff") as error:
        first(tmp_path)
    assert "\n" not in str(error.value)


def test_scenes_and_shared_camera(tmp_path: Path) -> None:
    for name in ("kitchen", "attic"):
        write_scene(tmp_path / name)
    (tmp_path / "kitchen" / "camera.json").rename(tmp_path / "camera.json")
    other = {"fx": 40, "fy": 41, "cx": 30, "cy": 20, "width": 64, "height": 48}
    (tmp_path / "attic" / "camera.json").unlink()
    (tmp_path / "attic" / "camera.yaml").write_text("\n".join(f"{k}: {v}" for k, v in other.items()))
    (tmp_path / "notes").mkdir()
    refs = list(READER.index(tmp_path, "all"))
    assert [ref.id for ref in refs] == ["attic/a", "attic/b.1", "kitchen/a", "kitchen/b.1"]
    assert [ref.scene for ref in refs] == ["attic", "attic", "kitchen", "kitchen"]
    assert READER.read(tmp_path, refs[0]).camera == Camera(**other)
    assert READER.read(tmp_path, refs[2]).camera == CAMERA


def test_one_camera_for_each_picture(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (tmp_path / "camera.json").unlink()
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "a.json").write_text(json.dumps(CAMERA.to_dict() | {"fx": 77}))
    refs = list(READER.index(tmp_path, "all"))
    assert READER.read(tmp_path, refs[0]).camera.fx == 77
    with pytest.raises(FrameError, match=r"cameras/b\.1\.json: no camera for images/b\.1\.jpg, and no camera\.json"):
        READER.read(tmp_path, refs[1])


def test_poses(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (tmp_path / "poses").mkdir()
    path = tmp_path / "poses" / "a.txt"
    np.savetxt(path, KNOWN.pose)
    refs = list(READER.index(tmp_path, "all"))
    assert refs[0].sequence
    assert np.allclose(READER.read(tmp_path, refs[0]).pose, KNOWN.pose)
    assert READER.read(tmp_path, refs[1]).pose is None
    path.write_text("nan " * 16)
    with pytest.raises(FrameError, match=r"poses/a\.txt: expected 16 finite numbers"):
        READER.read(tmp_path, refs[0])
    np.savetxt(path, 3 * KNOWN.pose)
    with pytest.raises(FrameError, match=r"poses/a\.txt: the pose's rotation is not orthonormal"):
        READER.read(tmp_path, refs[0])


@pytest.mark.parametrize("kind", ["z", "distance"])
def test_lens_distortion_is_undone(tmp_path: Path, kind: str) -> None:
    """A flat wall at z = 2 seen through a bent lens: the ray of every label meets it at z = 2."""
    k1, k2 = -0.25, 0.06
    write_scene(tmp_path, camera=CAMERA.to_dict() | {"model": "opencv", "distortion": [k1, k2, 0, 0]})
    v, u = np.mgrid[:48, :64]
    pixels = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
    bent = rays = (pixels - (30.5, 25.0)) / (50, 52)
    for _ in range(300):  # the lens draws a ray at radius r out at r (1 + k1 r^2 + k2 r^4)
        r2 = (rays**2).sum(axis=1, keepdims=True)
        rays = bent / (1 + k1 * r2 + k2 * r2**2)
    length = 2.0 if kind == "z" else 2 * np.sqrt(1 + (rays**2).sum(axis=1)).reshape(48, 64)
    settings(tmp_path, f"depth: {kind}")
    save_png(tmp_path, "a", np.round(np.broadcast_to(length, (48, 64)) * 1000))
    columns = np.repeat(np.arange(64, dtype=np.uint8)[None] * 3 + 20, 48, axis=0)
    Image.fromarray(np.stack([columns] * 3, -1)).save(tmp_path / "images" / "a.jpg", quality=100)
    frame = first(tmp_path)
    assert frame.labels.count == 64 * 48
    uv, z = frame.labels.take(np.arange(64 * 48), frame.camera)
    assert np.abs(z - 2).max() < 0.0006
    assert np.abs(frame.camera.rays(uv)[:, :2] - rays).max() < 1e-6
    picture = np.asarray(decode_image(frame.image, "", (frame.camera.width, frame.camera.height)))[..., 0].astype(float)
    middle = (np.abs(u - 32) < 24) & (np.abs(v - 24) < 16)
    x, y = np.round(uv[middle.ravel()]).astype(int).T
    assert np.abs(picture[y, x] - (u[middle] * 3 + 20)).max() < 6


def test_real_depth_camera(samples_dir: Path, tmp_path: Path) -> None:
    root = lay_out("folder", samples_dir, tmp_path)
    assert abs(np.median(first(root).labels.depths()) - 2.056) < 5e-4


def test_real_coarse_depth(samples_dir: Path, tmp_path: Path) -> None:
    for part, file, name in (("images", "image.jpg", "x.jpg"), ("depth", "arkit_depth.png", "x.png")):
        (tmp_path / part).mkdir()
        shutil.copy(samples_dir / "iphone_lidar" / file, tmp_path / part / name)
    (tmp_path / "camera.json").write_text(json.dumps(Camera.from_focal(1440, 1920, 1440).to_dict()))
    frame = first(tmp_path)
    assert frame.labels.z.shape == (192, 256)
    assert abs(np.median(frame.labels.depths()) - 2.654) < 5e-4
    uv, _ = frame.labels.take(np.arange(frame.labels.count), frame.camera)
    assert uv.min(axis=0).tolist() == [3.25, 3.25]  # (0 + 0.5) * 7.5 - 0.5 and the middle of the last
    assert uv.max(axis=0).tolist() == [1915.75, 1435.75]


# --- what is said when something is wrong -----------------------------------------------------------------------------


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not look like a folder of your own pictures.*images/ .*depth/"):
        first(tmp_path)
    with pytest.raises(InputError, match="gone: no such folder"):
        first(tmp_path / "gone")
    with pytest.raises(InputError, match="no split 'val'; expected one of all$"):
        list(READER.index(tmp_path, "val"))
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"images: no \.png or \.jpg picture"):
        first(tmp_path)


def test_missing_parts(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (tmp_path / "camera.json").unlink()
    with pytest.raises(InputError, match=r"no camera; put camera\.json \(fx fy cx cy width height.*cameras/a\.json"):
        first(tmp_path)
    shutil.rmtree(tmp_path / "depth")
    with pytest.raises(InputError, match="depth: no such folder; it holds one depth map for each picture"):
        first(tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("scale: 0.001", r"depthlm-folder\.yaml: scale; expected only depth_scale, depth, invalid"),
        ("- 1", r"no named values; expected only depth_scale"),
        ("depth_scale: mm", r"depth_scale is 'mm'; expected the metres of one step, like 0\.001"),
        ("depth_scale: 0", r"depth_scale is 0; expected"),
        ("depth: ray", r"depth is 'ray'; expected z .*or distance"),
        ("invalid: none", r"invalid is \['none'\]; expected a list of stored values"),
        ("a: [", r"depthlm-folder\.yaml: not readable YAML"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, match: str) -> None:
    write_scene(tmp_path)
    settings(tmp_path, text)
    with pytest.raises(InputError, match=match) as error:
        first(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("depth/a.png", b"", r"depth/a\.png: the file is empty"),
        ("depth/a.png", b"none", r"depth/a\.png: not a readable image"),
        ("depth/a.png", None, r"depth/a\.png: no depth map for images/a\.jpg; expected the picture's name"),
        ("images/a.jpg", b"", r"images/a\.jpg: the file is empty"),
        ("images/a.jpg", b"\xff\xd8\xff", r"images/a\.jpg: not a readable image"),
        ("camera.json", b"{", r"camera file .*camera\.json: not valid JSON"),
        ("camera.json", b'{"fx": 3}', r"camera\.json: fy, cx, cy, width, height missing"),
        (
            "camera.json",
            json.dumps(CAMERA.to_dict() | {"width": 48, "height": 64}).encode(),
            r"camera\.json: it is for a 48x64 image, but the image is 64x48",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, content: bytes | None, match: str) -> None:
    write_scene(tmp_path)
    path = tmp_path / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(FrameError, match=match) as error:
        first(tmp_path)
    assert "\n" not in str(error.value)


def test_a_picture_that_vanishes(tmp_path: Path) -> None:
    write_scene(tmp_path)
    ref = next(READER.index(tmp_path, "all"))
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(FrameError, match=r"images/a\.jpg: cannot be read"):
        READER.read(tmp_path, ref)


def test_unusable_depth(tmp_path: Path) -> None:
    write_scene(tmp_path)
    path = tmp_path / "depth" / "a.png"
    Image.fromarray(np.ones((48, 64), np.uint8)).save(path)
    with pytest.raises(FrameError, match=r"depth/a\.png: 8-bit depth is a picture of depth.*16-bit"):
        first(tmp_path)
    Image.fromarray(np.ones((48, 64, 3), np.uint8)).save(path)
    with pytest.raises(FrameError, match=r"depth/a\.png: expected one channel"):
        first(tmp_path)
    save_png(tmp_path, "a", np.ones((64, 48)))
    with pytest.raises(FrameError, match=r"depth map is 48x64 but its picture 64x48.*registered"):
        first(tmp_path)
    path.unlink()
    npy = tmp_path / "depth" / "a.npy"
    np.save(npy, np.ones(5))
    with pytest.raises(FrameError, match=r"depth/a\.npy: float64 of shape \(5,\)"):
        first(tmp_path)
    npy.write_bytes(b"junk")
    with pytest.raises(FrameError, match=r"depth/a\.npy: not a NumPy file"):
        first(tmp_path)


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    write_scene(tmp_path)
    (tmp_path / "images" / "a.png").write_bytes(KNOWN.encoded("PNG"))
    with pytest.raises(InputError, match="two pictures are called a"):
        first(tmp_path)
