"""Dense maps: planes exact, edges sharp, every question counted; and `depthlm map` from picture to file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

import depthlm
from cli_runner import run
from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.inference import completion, dense
from depthlm.inference.bounds import ConstantBackend
from depthlm.inference.completion import Completer, fit_planes
from depthlm.inference.dense import complete_image, depth_map
from depthlm.models.card import ModelCard
from test_pointcloud import read_ply

SIZE = (96, 72)


def plane(size: tuple[int, int], a: float, b: float, c: float) -> np.ndarray:
    """[H, W] z of inverse depth a u + b v + c."""
    v, u = np.mgrid[: size[1], : size[0]]
    return 1 / (a * u + b * v + c)


class Truth:
    """Answers with the true z of a pixel, and remembers what it was asked."""

    def __init__(self, z: np.ndarray, error: float = np.nan) -> None:
        self.z, self.error = z, error
        self.asked = np.empty((0, 2), dtype=np.int64)

    def __call__(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert uv.dtype == np.int64
        self.asked = np.concatenate([self.asked, uv])
        return self.z[uv[:, 1], uv[:, 0]], np.full(len(uv), self.error)


def grey(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (128, 128, 128))


def test_a_slanted_plane_is_found_exactly():
    z = plane(SIZE, 0.003, -0.002, 0.4)
    found = complete_image(grey(SIZE), Truth(z), budget=150)
    np.testing.assert_allclose(found.z, z, rtol=5e-3)
    assert found.confidence.min() > 0.99
    uv = found.uv
    inverse, slope = fit_planes(uv, 1 / z[uv[:, 1], uv[:, 0]])
    np.testing.assert_allclose(inverse, 1 / z[uv[:, 1], uv[:, 0]], rtol=3e-3)
    np.testing.assert_allclose(slope, np.broadcast_to([0.003, -0.002], slope.shape), atol=3e-4)


def test_between_two_surfaces_a_pixel_belongs_to_one_of_them():
    """A near square, of another colour, before a slanted wall."""
    z = plane(SIZE, 0.001, 0.0, 0.2)
    pixels = np.full((SIZE[1], SIZE[0], 3), 90, dtype=np.uint8)
    z[20:50, 30:70], pixels[20:50, 30:70] = 1.5, (200, 120, 40)
    truth = Truth(z)
    found = complete_image(Image.fromarray(pixels), truth, budget=300)
    wall = plane(SIZE, 0.001, 0.0, 0.2)
    either = np.minimum(np.abs(found.z / 1.5 - 1), np.abs(found.z / wall - 1))
    assert either.max() < 0.02, "nothing flies between"
    assert (np.abs(found.z / z - 1) < 0.02).mean() > 0.995, "and the colour says which"
    first = len(dense._first_points(SIZE, 300))
    u, v = truth.asked[first:].T
    near = (np.abs(u - 29.5) < 8) | (np.abs(u - 69.5) < 8) | (np.abs(v - 19.5) < 8) | (np.abs(v - 49.5) < 8)
    assert near[(u > 20) & (u < 80) & (v > 10) & (v < 60)].mean() > 0.8, "questions go to the edge"
    assert found.confidence[45:55, 30:70].min() < found.confidence[:10].min(), "where votes differ it says so"


def one_vote(lab: np.ndarray, uv: np.ndarray, z: np.ndarray, pixel: np.ndarray, noise: float) -> list[float]:
    """(z, agreement, spread) at one pixel, word for word as completion.py tells it, in float64."""
    inverse, slope = fit_planes(uv, 1 / z, noise)
    distance = np.linalg.norm(uv - pixel, axis=1)
    near = np.argsort(distance, kind="stable")[: completion.NEIGHBOURS]
    distance = distance[near]
    told = inverse[near] + ((pixel - uv[near]) * slope[near]).sum(axis=1)
    told = np.clip(told, 1 / z[near] / 1.5, 1 / z[near] * 1.5)
    logs = -np.log(np.clip(told, (1 / z).min() / 1.1, (1 / z).max() * 1.1))
    colour = np.linalg.norm(lab[pixel[1], pixel[0]] - lab[uv[near, 1], uv[near, 0]].astype(np.float64), axis=1)
    reach = 0.7 * distance[min(2, len(near) - 1)] + 0.5
    weight = np.exp(-0.5 * (distance / reach) ** 2 - np.minimum(0.5 * (colour / 15) ** 2, 4))
    weight /= weight.sum()
    alike = np.exp(-0.5 * (logs[:, None] - logs) ** 2 / (0.03**2 + noise**2))
    votes = weight * alike[((alike * weight).sum(axis=1) * weight**0.25).argmax()]
    log_z = (votes * logs).sum() / votes.sum()
    off = np.minimum(np.exp(np.abs(logs - log_z)) - 1, 1)
    return [np.exp(log_z), votes.sum(), (weight * off).sum()]


@pytest.mark.parametrize("count", [1, 2, 3, 13, 60])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_votes_in_float32_are_those_counted_one_by_one(count, noise):
    rng = np.random.default_rng(count)
    image = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(SIZE)
    # Uneven places, so that no two points are equally far from a pixel.
    uv = np.stack([rng.permutation(SIZE[0])[:count], rng.permutation(SIZE[1])[:count]], axis=1)
    z = np.where(uv[:, 0] > 40, 2.0, 4.0) * rng.uniform(0.9, 1.1, count)
    at = np.stack([rng.integers(0, SIZE[0], 300), rng.integers(0, SIZE[1], 300)], axis=1)
    apart = np.sort(np.linalg.norm(at[:, None] - uv, axis=2), axis=1)[:, : completion.NEIGHBOURS + 1]
    at = at[(np.diff(apart, axis=1) > 1e-9).all(axis=1)]
    completer = Completer(image)
    found = completer(uv, z, at, noise)
    expected = np.array([one_vote(completer.lab, uv, z, pixel, noise) for pixel in at])
    assert len(at) > 100
    np.testing.assert_allclose(
        np.stack([found.z, found.agreement, found.spread], axis=1), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("budget", [1, 2, 3, 15, 200, 1000])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 2), (40, 30)])
def test_every_question_is_another_pixel_and_none_too_many(size, budget):
    truth = Truth(plane(size, 0.003, 0.002, 0.4))
    told: list[tuple[int, int]] = []
    found = complete_image(grey(size), truth, budget=budget, progress=lambda done, total: told.append((done, total)))
    assert len(truth.asked) <= min(budget, size[0] * size[1])
    assert len(np.unique(truth.asked, axis=0)) == len(truth.asked)
    if budget >= size[0] * size[1]:
        assert len(truth.asked) == size[0] * size[1], "all pixels are asked where the budget allows"
    assert found.z.shape == found.confidence.shape == (size[1], size[0])
    assert np.isfinite(found.z).all()
    np.testing.assert_array_equal(found.uv, truth.asked)
    assert told[-1] == (len(truth.asked), min(budget, size[0] * size[1]))
    again = complete_image(grey(size), Truth(truth.z), budget=budget)
    np.testing.assert_array_equal(again.z, found.z)


def test_answers_without_a_number_are_spent_and_bridged():
    z = plane(SIZE, 0.003, -0.002, 0.4)
    holes = z.copy()
    holes[:, 40:60] = np.nan
    found = complete_image(grey(SIZE), Truth(holes), budget=200)
    assert len(found.uv) == 200
    assert np.isnan(found.measured).any()
    np.testing.assert_allclose(found.z, z, rtol=0.05)
    for nothing in (np.full(z.shape, np.nan), np.zeros(z.shape)):
        with pytest.raises(InputError, match=r"none of \d+ answers held a number"):
            complete_image(grey(SIZE), Truth(nothing), budget=200)


def test_what_answers_are_unsure_of_is_no_edge():
    """With 10 % noise and a model that says so, the map is smoother than the answers."""
    z = plane(SIZE, 0.003, -0.002, 0.4)
    noisy = z * np.exp(np.random.default_rng(0).normal(0, 0.1, z.shape))
    sure, unsure = (complete_image(grey(SIZE), Truth(noisy, error), budget=400).z for error in (np.nan, 0.2))
    error = [np.sqrt(np.mean(np.log(found / z) ** 2)) for found in (sure, unsure)]
    assert error[1] < 0.06 < 0.075 < error[0]


def test_a_large_picture_is_completed_smaller(monkeypatch):
    monkeypatch.setattr(dense, "LARGEST", 2000)
    truth = Truth(plane(SIZE, 0.003, -0.002, 0.4))
    found = complete_image(grey(SIZE), truth, budget=150)
    assert found.z.shape == (SIZE[1], SIZE[0])
    np.testing.assert_allclose(found.z, truth.z, rtol=0.02)
    np.testing.assert_array_equal(found.uv, truth.asked)


@pytest.mark.slow
def test_a_picture_of_a_hundred_million_pixels(tmp_path, capsys):
    size = (12_000, 9_000)
    grey(size).save(tmp_path / "large.png")
    arguments = ("map", "nano", tmp_path / "large.png", "--fov", 60, "--budget", 20, "--out", tmp_path / "z.npy")
    status, _, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    assert np.load(tmp_path / "z.npy", mmap_mode="r").shape == size[::-1]

    def ask(uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 1 / (1e-5 * uv[:, 0] + 0.4), np.full(len(uv), np.nan)

    found = complete_image(grey(size), ask, budget=500)
    assert found.z.shape == size[::-1]
    expected = 1 / (1e-5 * np.arange(0, size[0], 500) + 0.4)
    np.testing.assert_allclose(found.z[::500, ::500], np.broadcast_to(expected, (18, 24)), rtol=0.01)


@pytest.mark.parametrize("told", ["inverse", "depth"])
def test_another_model_s_shape_says_what_lies_between(told):
    """Few answers and a grey picture: only the shape can know of the ball."""
    v, u = np.mgrid[: SIZE[1], : SIZE[0]]
    z = plane(SIZE, 0.001, 0.0, 0.25)
    ball = (u - 40) ** 2 + (v - 30) ** 2 < 400
    z[ball] = 1.8 - 0.3 * np.sqrt(1 - ((u - 40) ** 2 + (v - 30) ** 2)[ball] / 400)
    relative = 40 / z + 7 if told == "inverse" else 3 * z
    shaped, plain = (complete_image(grey(SIZE), Truth(z), budget=40, shape=s).z for s in (relative, None))
    error = [np.abs(found / z - 1).mean() for found in (shaped, plain)]
    assert error[0] < (0.002 if told == "inverse" else 0.02)
    assert error[1] > 2 * error[0]
    with pytest.raises(InputError, match=r"the shape is \(3, 3\), the image \(72, 96\)"):
        complete_image(grey(SIZE), Truth(z), shape=np.ones((3, 3)))
    few = complete_image(grey(SIZE), Truth(z), budget=5, shape=relative).z
    np.testing.assert_array_equal(few, complete_image(grey(SIZE), Truth(z), budget=5).z)


def test_a_backend_makes_a_map():
    card = ModelCard(focal=64, references=["text"], label="distance")
    camera = Camera.from_fov(64, 48, fov_x=60)
    found = depth_map(ConstantBackend("2 meters", card), grey((64, 48)), camera, budget=100)
    v, u = np.mgrid[:48, :64]
    expected = 2 / camera.ray_factor(np.stack([u.ravel(), v.ravel()], axis=1)).reshape(48, 64)
    np.testing.assert_allclose(found.z, expected, rtol=0.02)
    with pytest.raises(InputError, match=r"camera is of 64x48 pixels, the image of 32x24"):
        depth_map(ConstantBackend("2", card), grey((32, 24)), camera)
    with pytest.raises(InputError, match="--budget is 0"):
        depth_map(ConstantBackend("2", card), grey((64, 48)), camera, budget=0)
    with pytest.raises(InputError, match="none of"):
        depth_map(ConstantBackend("far", card), grey((64, 48)), camera, budget=20)


def test_the_python_interface():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    camera = depthlm.Camera.from_fov(width=64, height=48, fov_x=60)
    found = depthlm.load("nano").depth_map(image, camera, budget=30)
    assert found.z.shape == (48, 64)
    assert len(found.uv) == 30
    cloud = depthlm.PointCloud.from_depth(image, found.z, camera)
    assert len(cloud) == 64 * 48


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path) -> Any:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_map_writes_every_kind_of_file(photo, tmp_path, capsys):
    arguments = ("map", "nano", photo, "--fov", 60, "--budget", 40)
    status, out, _ = run(capsys, *arguments, "--out", tmp_path / "z.npy", "--json")
    said = json.loads(out)
    z = np.load(tmp_path / "z.npy")
    assert (status, z.shape, z.dtype) == (0, (48, 64), np.float32)
    assert (said["asked"], said["answered"], said["reference"]) == (40, 40, "text")
    assert said["z_range"] == [float(z.min()), float(z.max())]
    assert run(capsys, *arguments, "--out", tmp_path / "z.png")[0] == 0
    with Image.open(tmp_path / "z.png") as picture:
        np.testing.assert_allclose(np.asarray(picture) / 1000, z, atol=0.0006)
    status, out, _ = run(capsys, *arguments, "--out", tmp_path / "z.ply", "--max-edge", 0)
    assert "3,072 points" in out
    xyz, _ = read_ply((tmp_path / "z.ply").read_bytes())
    np.testing.assert_allclose(xyz[:, 2], z.ravel(), rtol=1e-5)
    np.testing.assert_allclose(trimesh.load(tmp_path / "z.ply").vertices, xyz, rtol=1e-6)
    assert run(capsys, *arguments, "--out", tmp_path / "z.glb")[0] == 0
    scene = trimesh.load(tmp_path / "z.glb")
    assert 0 < sum(len(part.vertices) for part in scene.geometry.values()) <= 3072


def test_map_comes_back_in_the_pixels_of_a_bent_picture(photo, tmp_path, capsys):
    camera = {"fx": 50, "fy": 50, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}
    bent = camera | {"model": "opencv", "distortion": [-0.2, 0.05, 0, 0]}
    (tmp_path / "camera.json").write_text(json.dumps(bent))
    arguments = ("--camera", tmp_path / "camera.json", "--budget", 30, "--out", tmp_path / "z.npy")
    status, _, err = run(capsys, "map", "nano", photo, *arguments)
    assert (status, err) == (0, "")
    z = np.load(tmp_path / "z.npy")
    assert z.shape == (48, 64)
    assert np.isfinite(z).all()


def test_map_takes_a_depth_estimation_model(photo, tmp_path, capsys):
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessorPil

    backbone = Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=8,
        head_hidden_size=4, patch_size=14,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path / "shape")
    DPTImageProcessorPil(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(tmp_path / "shape")
    arguments = ("map", "nano", photo, "--fov", 60, "--budget", 30, "--out", tmp_path / "z.npy")
    status, out, _ = run(capsys, *arguments, "--shape", tmp_path / "shape", "--json")
    assert (status, json.loads(out)["asked"]) == (0, 30)
    assert np.isfinite(np.load(tmp_path / "z.npy")).all()
    (tmp_path / "z.npy").unlink()
    status, out, err = run(capsys, *arguments, "--shape", tmp_path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "is no depth-estimation model of transformers" in err
    assert not (tmp_path / "z.npy").exists()


@pytest.mark.parametrize("kind", ["RGBA", "CMYK", "I;16", "rotated", "L"])
def test_pictures_of_every_kind(kind, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 4), dtype=np.uint8)
    name, extra = "photo.png", {}
    if kind == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    elif kind == "rotated":
        picture, name = Image.fromarray(pixels[..., :3]), "photo.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90 degrees
        extra = {"exif": exif}
    else:
        picture = Image.fromarray(pixels, "RGBA").convert(kind)
        name = "photo.tif" if kind == "CMYK" else name
    picture.save(tmp_path / name, **extra)
    arguments = ("--fov", 60, "--budget", 20, "--out", tmp_path / "z.npy")
    status, _, err = run(capsys, "map", "nano", tmp_path / name, *arguments)
    if status == 0:
        assert np.load(tmp_path / "z.npy").shape == ((64, 48) if kind == "rotated" else (48, 64))
    else:
        assert (status, err.count("\n")) == (2, 1)
        assert name in err
        assert not (tmp_path / "z.npy").exists()
    assert status == 0 or kind == "I;16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "z.obj"], "cannot write a map as '.obj'"),
        (["--out", "z.npy", "--budget", "0"], "--budget is 0"),
        (["--out", "z.npy", "--budget", "-3"], "--budget is -3"),
        (["--out", "missing.png/z.npy"], "missing.png"),
        (["--out", "z.npy", "--focal", "50"], "exclude each other"),
    ],
)
def test_maps_that_cannot_be_made(photo, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "missing.png").write_text("a file, no folder")
    status, out, err = run(capsys, "map", "nano", photo, "--fov", 60, *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
