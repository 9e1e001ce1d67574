"""A scene, how it is built from a seed, and the cameras that look at it.

World frame: x, y on the ground, z up, metres. Poses are camera-to-world with the OpenCV camera frame (x right, y down,
z forward).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.synth.builder import Builder, Quads, SceneObject
from depthlm.synth.indoor import build_room
from depthlm.synth.outdoor import build_street

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("indoor", "outdoor")


@dataclass(frozen=True, slots=True)
class Light:
    """One lamp or the sun: position [3] metres, share of ambient light, gains of the three colours."""

    position: tuple[float, float, float]
    ambient: float
    white: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Scene:
    """Quads with their looks and names; what a camera may do in it.

    materials: [M, K] rows (materials.COLUMN). names: surface names, indexed by quads.surface; objects: named boxes.
    areas: where cameras stand (x0, y0, x1, y1), metres; ceiling: the highest a camera may be, metres.
    """

    id: str
    kind: str
    quads: Quads
    materials: NDArray[np.float32]
    names: tuple[str, ...]
    objects: tuple[SceneObject, ...]
    light: Light
    areas: tuple[tuple[float, float, float, float], ...]
    ceiling: float
    seed: int = field(default=0)

    @functools.cached_property
    def caster(self) -> Any:
        """Embree's acceleration structure; triangle i belongs to quad i // 2."""
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        vertices, faces = self.triangles()
        scene = EmbreeScene()
        TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
        return scene

    def triangles(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Vertices [4Q, 3] and faces [2Q, 3]."""
        vertices = self.quads.corners.reshape(-1, 3)
        first = np.arange(len(self.quads.corners))[:, None] * 4
        faces = (first[:, None] + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
        return vertices, faces

    def to_trimesh(self) -> Any:
        """The geometry as a trimesh.Trimesh, for export and for other ray casters."""
        import trimesh

        vertices, faces = self.triangles()
        return trimesh.Trimesh(vertices, faces, process=False)


def build_scene(seed: int, kind: str = "indoor") -> Scene:
    """The scene of a seed; the same seed and kind always give the same scene."""
    if kind not in KINDS:
        raise InputError(f"scene kind is {kind!r}; expected one of {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, KINDS.index(kind), 1])
    b = Builder(rng)
    areas, ceiling, lamp = build_room(b) if kind == "indoor" else build_street(b)
    quads, objects = b.finish()
    warm = rng.normal(0, 0.07)
    light = Light(
        position=lamp,
        ambient=float(rng.uniform(0.4, 0.65)),
        white=(float(1 + warm), float(1 + rng.normal(0, 0.02)), float(1 - warm)),
    )
    table = np.array([material.row() for material in b.materials], np.float32)
    return Scene(
        f"{kind}-{seed}", kind, quads, table, tuple(b.names), objects, light, tuple(areas), ceiling, seed
    )  # fmt: skip


# --- cameras ----------------------------------------------------------------------------------------------------------

_CANDIDATES = 10  # random cameras among which one is chosen
_PROBE = (20, 15)  # rays per candidate
_NEAREST = 0.28  # metres: nothing may be nearer to the camera
_TARGETS = {"indoor": (0.75, 5.5), "outdoor": (1.5, 16.0)}  # metres: range of an image's median depth, log-uniform
_STEPS = {"indoor": (0.08, 1.2), "outdoor": (0.3, 4.0)}  # metres: how far `nearby_camera` moves, log-uniform
_TURNS = (14.0, 6.0)  # degrees, standard deviations: how it turns, yaw and pitch
_SHARED = 0.45  # of the first picture's probed points that must fall into the second


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """[3, 3] camera-to-world; yaw about the world's z axis from x, pitch upward, roll clockwise; radians."""
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = math.cos(roll), math.sin(roll)
    return np.stack([c * right + s * down, -s * right + c * down, forward], axis=1)


def nearby_camera(
    scene: Scene, rng: np.random.Generator, camera: Camera, pose: NDArray[np.float64]
) -> tuple[Camera, NDArray[np.float64]] | None:
    """The camera and a pose of it a step and a turn away that sees much of the same; None where none is found."""
    forward = pose[:3, 2]
    yaw, pitch = math.atan2(forward[1], forward[0]), math.asin(float(np.clip(forward[2], -1, 1)))
    rays = camera.rays(_probe_pixels(camera))
    seen = _probe(scene, rays, pose)
    points = pose[:3, 3] + (rays * seen[:, None])[seen < 1e6] @ pose[:3, :3].T
    low, high = _STEPS[scene.kind]
    for _ in range(4 * _CANDIDATES):
        way = rng.normal(size=3) * (1, 1, 0.4)
        near = np.eye(4)
        step = float(np.exp(rng.uniform(math.log(low), math.log(high))))
        near[:3, 3] = pose[:3, 3] + way / np.linalg.norm(way) * step
        turn = np.radians(rng.normal(size=2) * _TURNS)
        roll = math.radians(float(np.clip(rng.normal(0, 2.5), -6, 6)))
        near[:3, :3] = rotation(yaw + turn[0], float(np.clip(pitch + turn[1], -1.2, 1.2)), roll)
        if not _may_stand(scene, near[:3, 3]):
            continue
        z = _probe(scene, rays, near)
        local = (points - near[:3, 3]) @ near[:3, :3]
        ahead = local[:, 2] > _NEAREST
        shared = camera.contains(camera.project(local[ahead])).sum() / max(1, len(points))
        if z.min() > _NEAREST and (z < 1e6).mean() > 0.6 and shared >= _SHARED:
            return camera, near
    return None


def _may_stand(scene: Scene, place: NDArray[np.float64]) -> bool:
    x, y, height = place.tolist()
    inside = any(x0 + 0.3 <= x <= x1 - 0.3 and y0 + 0.3 <= y <= y1 - 0.3 for x0, y0, x1, y1 in scene.areas)
    return inside and 0.3 <= height <= scene.ceiling - 0.2


def _probe_pixels(camera: Camera) -> NDArray[np.float64]:
    """[20 * 15, 2] pixels spread over the picture."""
    columns, rows = (np.linspace(0, side - 1, n) for side, n in zip((camera.width, camera.height), _PROBE, strict=True))
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)


def _probe(scene: Scene, rays: NDArray[np.float64], *poses: NDArray[np.float64]) -> NDArray[np.float32]:
    """Depths that the rays meet from each pose, one pose after the other; above 1e6 where they meet nothing."""
    directions = np.concatenate([rays @ pose[:3, :3].T for pose in poses]).astype(np.float32)
    origins = np.repeat(np.stack([pose[:3, 3] for pose in poses]), len(rays), axis=0).astype(np.float32)
    z: NDArray[np.float32] = scene.caster.run(origins, directions, query="DISTANCE")
    return z


def _random_pose(scene: Scene, rng: np.random.Generator) -> NDArray[np.float64]:
    x0, y0, x1, y1 = scene.areas[int(rng.integers(len(scene.areas)))]
    pose = np.eye(4)
    height = min(float(rng.uniform(0.5, 2.4)), scene.ceiling - 0.2)
    pose[:3, 3] = rng.uniform(x0 + 0.3, x1 - 0.3), rng.uniform(y0 + 0.3, y1 - 0.3), height
    pitch = math.radians(float(rng.uniform(-35, 15)))
    roll = math.radians(float(np.clip(rng.normal(0, 2.5), -6, 6)))
    pose[:3, :3] = rotation(float(rng.uniform(0, 2 * math.pi)), pitch, roll)
    return pose


def sample_camera(
    scene: Scene, rng: np.random.Generator, size: tuple[int, int] = (256, 192),
    focal_range: tuple[float, float] = (150.0, 260.0),
) -> tuple[Camera, NDArray[np.float64]]:  # fmt: skip
    """A camera of `size` (width, height) pixels and its pose [4, 4], camera to world.

    Of several random poses that see something and stand in nothing, the one whose median depth is nearest to a
    log-uniform target is taken: near and far pictures are equally frequent, whatever the room.
    """
    low, high = focal_range
    focal = float(np.exp(rng.uniform(math.log(low), math.log(high))))
    camera = Camera.from_focal(focal, *size)
    near, far = _TARGETS[scene.kind]
    rays = camera.rays(_probe_pixels(camera))
    for _ in range(20):
        target = float(np.exp(rng.uniform(math.log(near), math.log(far))))
        poses = [_random_pose(scene, rng) for _ in range(_CANDIDATES)]
        z = _probe(scene, rays, *poses).reshape(_CANDIDATES, -1)
        hit = z < 1e6
        middle = np.array([np.median(row[mask]) if mask.any() else np.inf for row, mask in zip(z, hit, strict=True)])
        usable = (z.min(axis=1) > _NEAREST) & (hit.mean(axis=1) > 0.6)
        if usable.any():
            cost = np.where(usable, np.abs(np.log(middle / target)), np.inf)
            return camera, poses[int(np.argmin(cost))]
    raise RuntimeError(f"no camera sees anything in scene {scene.id}")
