"""PointCloud: lifting, filtering, drawing, and files that an independent reader understands."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.pointcloud import PointCloud

CAMERA = Camera(50.0, 55.0, 15.5, 11.5, 32, 24)


def plane_depth(camera: Camera, normal: tuple[float, float, float], offset: float) -> np.ndarray:
    """[H, W] z of the plane normal . x = offset."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    rays = camera.rays(np.stack([u.ravel(), v.ravel()], axis=1))
    return (offset / (rays @ np.asarray(normal))).reshape(camera.height, camera.width)


def colours(camera: Camera) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)


def read_ply(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A reader that shares nothing with the writer: line by line, vertex by vertex."""
    file = io.BytesIO(data)
    lines = []
    while not lines or lines[-1] != "end_header":
        lines.append(file.readline().decode("ascii").rstrip("\n"))
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    assert [kind for kind, _ in properties] == ["float"] * 6 + ["uchar"] * 3
    assert [name for _, name in properties] == ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"]
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[2])
    rows = [struct.unpack("<ffffffBBB", file.read(27)) for _ in range(count)]
    assert file.read() == b""
    table = np.array(rows)
    return table[:, :3], table[:, 6:]


def read_glb(data: bytes) -> tuple[np.ndarray, np.ndarray, int]:
    """Positions [N, 3], colours [N, C] and primitive mode straight from the glTF 2.0 container."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    json_length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + json_length])
    binary = data[20 + json_length + 8 :]
    primitive = tree["meshes"][0]["primitives"][0]
    kinds = {5126: "<f4", 5121: "u1"}
    widths = {"VEC3": 3, "VEC4": 4}

    def accessor(index: int) -> np.ndarray:
        a = tree["accessors"][index]
        view = tree["bufferViews"][a["bufferView"]]
        width = widths[a["type"]]
        start = view.get("byteOffset", 0) + a.get("byteOffset", 0)
        flat = np.frombuffer(binary, kinds[a["componentType"]], a["count"] * width, start)
        return flat.reshape(-1, width)

    return (
        accessor(primitive["attributes"]["POSITION"]),
        accessor(primitive["attributes"]["COLOR_0"]),
        primitive["mode"],
    )


@pytest.mark.parametrize("as_image", [True, False])
def test_lift_puts_each_point_on_its_pixel_and_plane(as_image: bool) -> None:
    normal, offset = (0.2, -0.9, 0.4), 1.7
    z, rgb = plane_depth(CAMERA, normal, offset), colours(CAMERA)
    z[z <= 0] = np.nan  # above the horizon
    cloud = PointCloud.from_depth(Image.fromarray(rgb) if as_image else rgb, z, CAMERA)
    assert len(cloud) == np.isfinite(z).sum() > 100
    np.testing.assert_allclose(cloud.xyz @ np.asarray(normal), offset, rtol=1e-9)
    u, v = np.rint(CAMERA.project(cloud.xyz)).astype(int).T
    np.testing.assert_array_equal(cloud.rgb, rgb[v, u])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_pixels_without_depth_give_no_point(bad: float) -> None:
    z = np.full((24, 32), 2.0)
    z[3, 5] = bad
    mask = np.ones((24, 32), bool)
    mask[0] = False
    cloud = PointCloud.from_depth(colours(CAMERA), z, CAMERA, mask=mask)
    assert len(cloud) == 24 * 32 - 1 - 32
    assert np.isfinite(cloud.edge).all()
    assert cloud.edge.max() == 0  # a hole is not an edge


def test_one_pixel_and_no_pixel() -> None:
    camera = Camera(1.0, 1.0, 0.0, 0.0, 1, 1)
    one = PointCloud.from_depth(np.full((1, 1, 3), 7, np.uint8), [[3.0]], camera)
    np.testing.assert_array_equal(one.xyz, [[0, 0, 3]])
    none = PointCloud.from_depth(np.zeros((1, 1, 3), np.uint8), [[np.nan]], camera)
    assert len(none) == len(none.filter(max_edge=0.1)) == 0
    assert none.render(camera).getpixel((0, 0)) == (255, 255, 255)


def test_edge_filter_takes_the_step_and_leaves_slanted_planes() -> None:
    slanted = PointCloud.from_depth(colours(CAMERA), plane_depth(CAMERA, (0.9, 0.0, 0.42), 2.0).clip(0), CAMERA)
    assert slanted.xyz[:, 2].max() / slanted.xyz[:, 2].min() > 1.7  # steep: a threshold on z would bite
    assert len(slanted.filter(max_edge=1e-6)) == len(slanted)
    z = np.full((24, 32), 2.0)
    z[:, 16:] = 4.0
    step = PointCloud.from_depth(colours(CAMERA), z, CAMERA)
    np.testing.assert_allclose(sorted(set(step.edge.round(12))), [0, 0.5, 1.0])  # |1 - 2/4| and |1 - 4/2|
    kept = step.filter(max_edge=0.1)
    assert len(step) - len(kept) == 2 * 24
    columns = np.rint(CAMERA.project(kept.xyz))[:, 0]
    assert not np.isin(columns, [15, 16]).any()


def test_range_filter_and_step() -> None:
    z = np.linspace(1, 9, 24 * 32).reshape(24, 32)
    cloud = PointCloud.from_depth(colours(CAMERA), z, CAMERA)
    kept = cloud.filter(min_z=2, max_z=5)
    assert len(kept) == ((z >= 2) & (z <= 5)).sum()
    assert len(cloud.filter(step=10)) == -(-24 * 32 // 10)
    assert len(kept.rgb) == len(kept.edge) == len(kept.xyz)


def test_ply_reads_back(tmp_path) -> None:
    cloud = PointCloud.from_depth(colours(CAMERA), plane_depth(CAMERA, (0, 0.1, 1), 3.0), CAMERA)
    path = cloud.save(tmp_path / "deeper" / "room.ply")
    xyz, rgb = read_ply(path.read_bytes())
    np.testing.assert_allclose(xyz, cloud.xyz, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(rgb, cloud.rgb)
    assert [p.name for p in path.parent.iterdir()] == ["room.ply"]  # no temporary file stays


def test_glb_reads_back_y_up_and_linear(tmp_path) -> None:
    cloud = PointCloud.from_depth(colours(CAMERA), plane_depth(CAMERA, (0, 0.1, 1), 3.0), CAMERA)
    xyz, rgba, mode = read_glb(cloud.save(tmp_path / "room.GLB").read_bytes())
    assert mode == 0  # POINTS
    np.testing.assert_allclose(xyz * [1, -1, -1], cloud.xyz, rtol=1e-6, atol=1e-7)
    back = rgba[:, :3] / 255
    srgb = np.where(back <= 0.0031308, 12.92 * back, 1.055 * back ** (1 / 2.4) - 0.055) * 255
    bright = cloud.rgb > 60  # 8-bit linear is coarse in the dark
    assert np.abs(srgb - cloud.rgb)[bright].max() < 2.5


def test_render_shows_the_picture_from_the_same_place_and_the_nearer_point_in_front() -> None:
    rgb = colours(CAMERA)
    cloud = PointCloud.from_depth(rgb, np.full((24, 32), 2.0), CAMERA)
    np.testing.assert_array_equal(np.asarray(cloud.render(CAMERA)), rgb)
    two = PointCloud(
        np.array([[0, 0, 1.0], [0, 0, 2.0], [0, 0, -1.0]]),
        np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]], np.uint8),
        np.zeros(3),
        np.tile([0, 0, -1.0], (3, 1)),
    )
    camera = Camera(5.0, 5.0, 2.0, 2.0, 5, 5)
    image = np.asarray(two.render(camera, splat=3, background=(1, 1, 1)))
    assert (image[1:4, 1:4] == [9, 0, 0]).all()
    assert (image[0] == 1).all()
    assert (image[4] == 1).all()
    behind = np.diag([-1.0, 1.0, -1.0, 1.0])  # half a turn about y: only the third point is in front now
    assert np.asarray(two.render(camera, camera_from_cloud=behind))[2, 2].tolist() == [0, 0, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.ones((23, 32))}, "depth map has shape"),
        ({"image": np.zeros((24, 31, 3), np.uint8)}, "image has shape"),
        ({"image": np.zeros((24, 32, 3), np.float32)}, "expected uint8"),
        ({"image": np.zeros((24, 32), np.uint8)}, "expected uint8"),
        ({"mask": np.ones((1, 1), bool)}, "mask has shape"),
    ],
)
def test_unequal_sizes_are_input_errors(change: dict, message: str) -> None:
    given = {"image": colours(CAMERA), "z": np.ones((24, 32)), "mask": None} | change
    with pytest.raises(InputError, match=message):
        PointCloud.from_depth(given["image"], given["z"], CAMERA, mask=given["mask"])


def test_bad_requests_are_input_errors(tmp_path) -> None:
    cloud = PointCloud.from_depth(colours(CAMERA), np.ones((24, 32)), CAMERA)
    with pytest.raises(InputError, match="use .ply or .glb"):
        cloud.save(tmp_path / "room.obj")
    with pytest.raises(InputError, match="has no points"):
        cloud.filter(min_z=5).save(tmp_path / "room.ply")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        cloud.save(tmp_path / "file" / "room.ply")
    with pytest.raises(InputError, match="the first must be the smaller"):
        cloud.filter(min_z=3, max_z=2)
    with pytest.raises(InputError, match="step is 0"):
        cloud.filter(step=0)


def test_normals_are_those_of_the_surface_and_face_the_camera() -> None:
    normal = np.array([0.3, -0.5, -0.8]) / np.linalg.norm([0.3, -0.5, -0.8])
    near, far = plane_depth(CAMERA, tuple(normal), -2.0), plane_depth(CAMERA, (0.0, 0.0, 1.0), 9.0)
    z = np.where(np.arange(32) < 16, near, far)
    cloud = PointCloud.from_depth(colours(CAMERA), z, CAMERA)
    left = np.tile(np.arange(32) < 16, (24, 1)).ravel()
    np.testing.assert_allclose(cloud.normal[left], np.broadcast_to(normal, (left.sum(), 3)), atol=1e-6)
    np.testing.assert_allclose(cloud.normal[~left], np.broadcast_to([0, 0, -1.0], ((~left).sum(), 3)), atol=1e-6)
    alone = PointCloud.from_depth(colours(CAMERA), np.where(z == z[3, 3], z, np.nan), CAMERA)
    np.testing.assert_allclose(alone.normal, -alone.xyz / np.linalg.norm(alone.xyz))
