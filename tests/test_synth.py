"""Procedural scenes: exact depth, reproducible, labelled, not guessable, no marker-red pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.covisibility import find_partner
from depthlm.data import open_data
from depthlm.errors import InputError
from depthlm.sample import Sample
from depthlm.synth.builder import Builder
from depthlm.synth.generate import encode, generate, stratified_points, synth_rendered, synth_samples
from depthlm.synth.materials import COLUMN, Material, albedo
from depthlm.synth.palette import FLOORS, WHITE
from depthlm.synth.render import Rendered, _sky, render
from depthlm.synth.scene import KINDS, Light, Scene, build_scene, rotation, sample_camera


def simple_scene(build: Any) -> Scene:
    """A scene of what `build` adds to a builder."""
    b = Builder(np.random.default_rng(0))
    build(b)
    quads, objects = b.finish()
    table = np.array([m.row() for m in b.materials], np.float32)
    light = Light((0.0, 0.0, 10.0), 0.5, (1.0, 1.0, 1.0))
    return Scene("t", "indoor", quads, table, tuple(b.names), objects, light, ((-1, -1, 1, 1),), 3.0)


def pose_at(position: tuple[float, float, float], yaw: float, pitch: float, roll: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = rotation(*np.radians([yaw, pitch, roll]))
    pose[:3, 3] = position
    return pose


def world_points(rendered: Rendered, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    xyz = rendered.camera.unproject(np.stack([u, v], 1), rendered.z[v, u])
    return xyz @ rendered.pose[:3, :3].T + rendered.pose[:3, 3]


@pytest.fixture(scope="module")
def rooms() -> list[Rendered]:
    return list(synth_rendered(6, seed=2, views=2, size=(128, 96), focal_range=(75, 130)))


@pytest.fixture(scope="module")
def streets() -> list[Rendered]:
    return list(synth_rendered(2, seed=2, kind="outdoor", views=3, size=(128, 96), focal_range=(75, 130)))


# --- exact geometry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll", "size"),
    [(0, 0, 0, (64, 48)), (40, -30, 5, (64, 48)), (200, -89, -6, (33, 17)), (10, -20, 0, (1, 1))],
)
def test_z_of_a_floor_is_analytic(yaw: float, pitch: float, roll: float, size: tuple[int, int]) -> None:
    def build(b: Builder) -> None:
        b.begin("floor")
        b.quads([[[-60, -60, 0], [60, -60, 0], [60, 60, 0], [-60, 60, 0]]], WHITE)

    camera, pose = Camera.from_focal(50.0, *size), pose_at((0.3, -0.2, 1.5), yaw, pitch, roll)
    rendered = render(simple_scene(build), camera, pose)
    v, u = np.mgrid[: size[1], : size[0]]
    down = (camera.rays(np.stack([u, v], -1)) @ pose[:3, :3].T)[:, 2]
    expected = np.where(down < 0, 1.5 / np.maximum(-down, 1e-9), np.inf).reshape(size[::-1])
    near = expected < 40  # beyond, the floor ends
    assert near.any()
    np.testing.assert_allclose(rendered.z[near], expected[near], rtol=2e-5)
    assert (rendered.surface[near] == rendered.names.index("floor")).all()
    assert (rendered.surface[down.reshape(near.shape) > 0] == -1).all()
    assert np.isinf(rendered.z[down.reshape(near.shape) > 0]).all()


def test_z_and_label_of_a_turned_box() -> None:
    """Slab test in the box's own frame, in double precision, against the ray caster."""
    yaw, size = 0.5, np.array([1.0, 0.6, 0.8])

    def build(b: Builder) -> None:
        b.begin("carton", 3.0, 0.5, 0.2, yaw)
        b.box((0, 0, 0.4), (1.0, 0.6, 0.8), WHITE)

    scene = simple_scene(build)
    camera, pose = Camera.from_focal(60.0, 80, 60), pose_at((0, 0, 1.0), 8, -5, 3)
    rendered = render(scene, camera, pose)
    v, u = np.mgrid[:60, :80]
    c, s = np.cos(yaw), np.sin(yaw)
    into = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    d = camera.rays(np.stack([u, v], -1)) @ pose[:3, :3].T @ into.T
    o = into @ (pose[:3, 3] - np.array([3.0, 0.5, 0.6]))
    a, b = (-size / 2 - o) / d, (size / 2 - o) / d
    enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    hit = enter < leave
    z = rendered.z.ravel()
    clear = np.abs(leave - enter) > 1e-3  # leave out rays that graze an edge
    assert hit.sum() > 100
    assert (np.isfinite(z) == hit)[clear].all()
    np.testing.assert_allclose(z[hit & clear], enter[hit & clear], rtol=2e-5)
    (thing,) = scene.objects
    assert thing.name == "carton"
    np.testing.assert_allclose(thing.center, [3.0, 0.5, 0.6], atol=1e-9)
    np.testing.assert_allclose(thing.size, size, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_views_of_one_scene_agree(kind: str) -> None:
    """A point seen in one view, carried by pose and z into another, has the other's z, or is hidden there."""
    scene = build_scene(11, kind)
    rng = np.random.default_rng(0)
    camera, pose = sample_camera(scene, rng, (128, 96), (90, 100))
    turned = pose.copy()
    # a few degrees about each axis of the camera
    turned[:3, :3] = pose[:3, :3] @ rotation(0, 0, 0).T @ rotation(0.15, 0.05, 0.03)
    turned[:3, 3] += pose[:3, 0] * 0.05
    first, second = (render(scene, camera, p) for p in (pose, turned))
    u, v = stratified_points(first.z, 3000, rng)
    local = (world_points(first, u, v) - turned[:3, 3]) @ turned[:3, :3]
    ahead = local[:, 2] > 0.05
    uv = np.round(camera.project(local[ahead])).astype(int)
    inside = camera.contains(uv)
    z, other = local[ahead][inside, 2], second.z[uv[inside, 1], uv[inside, 0]]
    assert inside.sum() > 300
    assert (other < z * 1.06).mean() > 0.97  # nothing is seen through
    assert (np.abs(other / z - 1) < 0.06).mean() > 0.85  # and most of it is seen again
    same = np.asarray(first.surface[v, u])[ahead][inside] == second.surface[uv[inside, 1], uv[inside, 0]]
    assert same.mean() > 0.85


def test_caster_agrees_with_double_precision(rooms: list[Rendered]) -> None:
    """The first hit of Embree's float32 rays against every triangle of a furnished room, by hand."""
    scene = build_scene(2 * 1_000_003, "indoor")
    rendered = rooms[0]
    u, v = stratified_points(rendered.z, 60, np.random.default_rng(0))
    directions = rendered.camera.rays(np.stack([u, v], 1)) @ rendered.pose[:3, :3].T
    origins = np.tile(rendered.pose[:3, 3], (len(u), 1))
    p0, p1, p2 = (scene.to_trimesh().triangles[:, i] for i in range(3))
    edge1, edge2 = p1 - p0, p2 - p0
    with np.errstate(all="ignore"):  # Moeller-Trumbore in double precision; parallel triangles give nan
        h = np.cross(directions[:, None], edge2[None])
        det = (h * edge1).sum(-1)
        s = origins[:, None] - p0[None]
        a = (s * h).sum(-1) / det
        q = np.cross(s, edge1[None])
        b = (directions[:, None] * q).sum(-1) / det
        t = (edge2 * q).sum(-1) / det
        t = np.where((a >= -1e-6) & (b >= -1e-6) & (a + b <= 1 + 1e-6) & (t > 1e-4), t, np.inf)
    np.testing.assert_allclose(rendered.z[v, u], t.min(1), rtol=1e-4)


# --- samples ----------------------------------------------------------------------------------------------------------


def same_sample(a: Sample, b: Sample) -> bool:
    assert a.pose is not None
    assert b.pose is not None
    return (
        a.image == b.image and a.camera == b.camera and np.array_equal(a.uv, b.uv) and np.array_equal(a.z, b.z)
        and a.surface == b.surface and np.array_equal(a.pose, b.pose) and (a.scene, a.frame) == (b.scene, b.frame)
        and a.objects == b.objects
    )  # fmt: skip


def test_workers_change_nothing() -> None:
    settings: dict[str, Any] = {"seed": 4, "views": 2, "size": (48, 32), "focal_range": (30, 50), "points": 20}
    alone = list(synth_samples(3, workers=1, **settings))
    shared = list(synth_samples(3, workers=2, **settings))
    assert len(alone) == len(shared) == 6
    assert any(sample.objects for sample in alone)
    assert all(same_sample(a, b) for a, b in zip(alone, shared, strict=True))
    assert not same_sample(alone[0], alone[1])
    later = list(synth_samples(1, first_scene=2, **settings))
    assert all(same_sample(a, b) for a, b in zip(alone[4:], later, strict=True))
    other = list(synth_samples(1, **{**settings, "seed": 5}))
    assert not np.array_equal(other[0].z, alone[0].z)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_show_much_of_the_same(kind: str) -> None:
    """Every second picture has its partner; without `pairs` few have, and the others are as they always were."""
    settings: dict[str, Any] = {"seed": 8, "kind": kind, "views": 4, "points": 300}
    pairs, plain = list(synth_samples(4, pairs=True, **settings)), list(synth_samples(4, **settings))
    found = [find_partner(pairs, row, 0) for row in range(len(pairs))]
    assert np.mean([partner is not None for partner in found]) >= 0.8
    assert np.mean([find_partner(plain, row, 0) is not None for row in range(len(plain))]) < 0.5
    for first in range(0, 16, 2):
        assert same_sample(pairs[first], plain[first]), "pairs change every second view alone"
        step = np.linalg.norm(pairs[first].pose[:3, 3] - pairs[first + 1].pose[:3, 3])
        if pairs[first + 1].camera == pairs[first].camera:
            assert 0.07 < step < 4.1
    assert sum(pairs[k].camera == pairs[k + 1].camera for k in range(0, 16, 2)) >= 6


def test_points_carry_the_rendered_truth() -> None:
    settings: dict[str, Any] = {"seed": 3, "kind": "outdoor", "views": 3, "size": (96, 72), "focal_range": (60, 90)}
    rendered = list(synth_rendered(1, **settings))
    samples = list(synth_samples(1, points=100, **settings))
    assert any(np.isinf(r.z).any() for r in rendered), "a street without sky tests nothing"
    for r, s in zip(rendered, samples, strict=True):
        assert s.surface is not None
        assert s.camera == r.camera
        assert 30 < len(s) <= 130
        u, v = s.uv.astype(int).T
        assert np.array_equal(s.uv, np.stack([u, v], 1))  # whole pixels
        assert np.array_equal(s.z, r.z[v, u].astype(np.float64))
        assert np.isfinite(s.z).all()
        assert (s.z > 0).all()
        assert s.surface == tuple(r.names[i] for i in r.surface[v, u])
        picture = np.asarray(Image.open(io.BytesIO(s.image)).convert("RGB")).astype(int)
        assert np.abs(picture - r.image).mean() < 4  # JPEG of quality 95


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [((96, 128), 48, 48), ((96, 128), 400, 400), ((1, 1), 5, 1), ((7, 5), 10_000, 35), ((96, 128), 1, 1)],
)
def test_stratified_points(shape: tuple[int, int], count: int, expected: int) -> None:
    z = np.ones(shape, np.float32)
    u, v = stratified_points(z, count, np.random.default_rng(0))
    assert abs(len(u) - expected) <= 0.15 * expected
    assert len(set(zip(u.tolist(), v.tolist(), strict=True))) == len(u)
    assert u.min() >= 0
    assert v.min() >= 0
    assert u.max() < shape[1]
    assert v.max() < shape[0]
    if count == 48:  # every part of the picture has its points
        quarters = np.histogram2d(v, u, bins=4, range=[[0, 96], [0, 128]])[0]
        assert quarters.min() >= 2
    z[:] = np.inf
    assert len(stratified_points(z, count, np.random.default_rng(0))[0]) == 0


@pytest.mark.parametrize(
    "bad",
    [{"kind": "space"}, {"views": 0}, {"points": 0}, {"seed": -1}, {"size": (8, 8)}, {"focal_range": (0, 10)},
     {"focal_range": (200, 100)}, {"focal_range": (100, float("nan"))}],
)  # fmt: skip
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        synth_samples(1, **bad)
    if "kind" in bad:
        with pytest.raises(InputError):
            build_scene(0, bad["kind"])


def test_generate_writes_shards(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"seed": 4, "views": 2, "size": (48, 32), "focal_range": (30, 50), "points": 20}
    generate(tmp_path / "rooms", scenes=2, **settings)
    stored = open_data(tmp_path / "rooms")
    expected = list(synth_samples(2, **settings))
    assert len(stored) == 4
    assert all(same_sample(stored[i], expected[i]) for i in range(4))
    assert stored.info["seed"] == 4
    with pytest.raises(InputError, match="number of scenes"):
        generate(tmp_path / "none", scenes=0)
    assert not (tmp_path / "none").exists()


# --- pictures --------------------------------------------------------------------------------------------------------


def test_no_marker_red(rooms: list[Rendered], streets: list[Rendered]) -> None:
    """Nowhere, JPEG included, is a pixel near (255, 0, 0); even from a scene that is painted so."""

    def build(b: Builder) -> None:
        b.begin("floor")
        b.quads([[[-9, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]]], Material(base=(1.0, 0.0, 0.0)))

    red = render(simple_scene(build), Camera.from_focal(40.0, 48, 32), pose_at((0, 0, 1.5), 0, -60, 0))
    for r in [*rooms, *streets, red]:
        decoded = np.asarray(Image.open(io.BytesIO(encode(r.image))).convert("RGB")).astype(int)
        assert ((decoded[..., 0] > 200) & (decoded[..., 1:].max(-1) < 50)).sum() == 0


def test_pictures_show_something(rooms: list[Rendered], streets: list[Rendered]) -> None:
    for r in [*rooms, *streets]:
        assert (r.z > 0.25).mean() > 0.98  # the camera stands in nothing
        assert np.isfinite(r.z).mean() > 0.5
        assert r.image.std() > 5
        assert 40 < r.image.mean() < 200
        assert r.surface.max() < len(r.names)
        assert ((r.surface >= 0) == np.isfinite(r.z)).all()
    names = {r.names[i] for r in [*rooms, *streets] for i in np.unique(r.surface[r.surface >= 0])}
    assert {"floor", "wall", "door", "window", "road", "pavement", "house", "car", "person"} <= names


def test_cameras_vary() -> None:
    scene = build_scene(1, "indoor")
    drawn = [sample_camera(scene, np.random.default_rng(i), (64, 48), (40, 60)) for i in range(40)]
    heights = [pose[2, 3] for _, pose in drawn]
    pitch = [np.degrees(np.arcsin(pose[2, 2])) for _, pose in drawn]
    focal = [camera.fx for camera, _ in drawn]
    assert 0.5 <= min(heights) < 0.9
    assert 1.6 < max(heights) <= 2.4
    assert -35 <= min(pitch) < -20
    assert 5 < max(pitch) <= 15
    assert 40 <= min(focal) < 45
    assert 55 < max(focal) <= 60
    for _, pose in drawn:
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) > 0


def test_far_patterns_fade_to_their_mean() -> None:
    """Pixels of 2 m on a 30 cm tile floor get one colour: the mean of near ones."""
    table = np.array([FLOORS["tiles 30 cm"].row()], np.float32)
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-20, 20, (2, 20_000)).astype(np.float32)
    zero = np.zeros(20_000, np.int32)

    def colors(width: float) -> np.ndarray:
        w = np.full(20_000, width, np.float32)
        return albedo(table, zero, u, v, w, w, zero)

    near, far = colors(0.002), colors(2.0)
    assert near.std(axis=0).min() > 0.05
    assert far.std(axis=0).max() < 0.01
    np.testing.assert_allclose(near.mean(0), far.mean(0), atol=0.02)
    assert set(COLUMN.values()) == set(range(table.shape[1]))


def delta1(p: np.ndarray | float, g: np.ndarray) -> float:
    return float((np.maximum(p / g, g / p) < 1.25).mean())


def test_rooms_cannot_be_guessed() -> None:
    """The best lookup from (u, v, focal), fitted on half of the rooms, stays near the best constant on the others."""
    z, cell = [], []
    for s in synth_samples(50, seed=21, views=1, size=(96, 72), focal_range=(56, 98), points=60):
        u, v = s.uv.T
        z.append(s.z)
        cell.append((v * 6 // 72).astype(int) * 4 + (u * 2 // 96).astype(int) * 2 + int(s.camera.fx > 74))
    half = len(z) // 2
    fit, rest = np.concatenate(z[:half]), np.concatenate(z[half:])
    fit_cell, rest_cell = np.concatenate(cell[:half]), np.concatenate(cell[half:])
    trial = np.geomspace(0.4, 10, 50)

    def best(values: np.ndarray) -> float:
        return float(trial[int(np.argmax([delta1(c, values) for c in trial]))])

    constant = delta1(best(fit), rest)
    table = {c: best(fit[fit_cell == c]) for c in np.unique(fit_cell)}
    lookup = delta1(np.array([table.get(c, best(fit)) for c in rest_cell]), rest)
    assert 0.2 < constant < 0.42
    assert lookup < constant + 0.10


def test_sky_in_every_direction() -> None:
    """Looking down past the end of the ground too: one pixel that is no number would blacken the whole picture."""
    d = np.random.default_rng(0).normal(size=(1000, 3))
    steep = np.float64(-0.35)
    d[0] = [np.sqrt(1 - steep**2), 0, steep]
    assert np.isfinite(_sky(d)).all()
