"""Boxes, cylinders, ellipsoids and quads -> the flat arrays that a ray caster and a shader want.

Every primitive ends as quads (two triangles each) with a metric frame on the surface. World frame: x, y on the ground,
z up, metres. Boxes are collected as rows and turned into faces all at once: a room has hundreds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from depthlm.synth.materials import Color, Material

# Corners of a unit box, and its faces as corner indices; the first edge of a face is its u axis.
_CORNERS = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
_FACES = np.array([[4, 5, 7, 6], [0, 1, 3, 2], [1, 3, 7, 5], [0, 2, 6, 4], [2, 3, 7, 6], [0, 1, 5, 4]])


@dataclass(frozen=True, slots=True, eq=False)
class SceneObject:
    """A named thing and its box: centre [3] and size [3] in metres, turned by yaw (radians) about the z axis.

    thing: its number in Quads.instance.
    """

    thing: int
    name: str
    center: NDArray[np.float64]
    size: NDArray[np.float64]
    yaw: float


@dataclass(frozen=True, slots=True, eq=False)
class Quads:
    """Q quads: corners [Q, 4, 3]; unit u_axis, v_axis, normal [Q, 3]; uv0 [Q, 2] with u = p . u_axis + uv0;
    material, surface, thing [Q] indices; instance [Q] the thing that the quad is part of, -1 where it is part of none.
    """

    corners: NDArray[np.float64]
    u_axis: NDArray[np.float64]
    v_axis: NDArray[np.float64]
    normal: NDArray[np.float64]
    uv0: NDArray[np.float64]
    material: NDArray[np.int32]
    surface: NDArray[np.int32]
    thing: NDArray[np.int32]
    instance: NDArray[np.int32]


class Builder:
    """Collects primitives. Between `begin` and the next `begin`, coordinates are local to one object."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.materials: list[Material] = []
        self.names: list[str] = []
        self._material_ids: dict[int, int] = {}
        self._boxes: list[tuple[float, ...]] = []
        self._quads: list[NDArray[np.float64]] = []
        self._quad_rows: list[tuple[NDArray[np.int32], NDArray[np.float64]]] = []
        self._things: list[tuple[str, float, float, float, float]] = []
        self.begin("ground")

    def begin(self, name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> None:
        """Start an object called `name` whose local origin stands at (x, y, z), turned by yaw."""
        self._things.append((name, x, y, z, yaw))
        self._instance = len(self._things) - 1
        self._cos, self._sin = math.cos(yaw), math.sin(yaw)
        self._surface = self.surface(name)

    def loose(self) -> None:
        """What follows stands on the object and is no part of it: it counts neither for its box nor for its pixels."""
        self._instance = -1

    def surface(self, name: str) -> int:
        """The index of a surface name."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def material(self, material: Material) -> int:
        """The row of a material in the scene's table."""
        key = id(material)
        if key not in self._material_ids:
            self._material_ids[key] = len(self.materials)
            self.materials.append(material)  # the list keeps it alive, so that its id stays its own
        return self._material_ids[key]

    def toned(self, material: Material, amount: float = 0.06) -> Material:
        """The same look, a little lighter or darker and warmer or colder; its scale is untouched."""
        light, warm = 1 + self.rng.uniform(-2, 2) * amount, self.rng.uniform(-0.5, 0.5) * amount
        gain = np.array([light + warm, light, light - warm])

        def shifted(color: Color) -> Color:
            r, g, b = np.clip(np.array(color) * gain, 0.02, 0.97).tolist()
            return r, g, b

        return replace(
            material,
            base=shifted(material.base),
            joint=shifted(material.joint),
            alt=shifted(material.alt),
            mark=shifted(material.mark),
        )

    # --- primitives -----------------------------------------------------------------------------------------------

    def box(
        self,
        center: tuple[float, float, float],
        size: tuple[float, float, float],
        material: Material,
        surface: str | None = None,
    ) -> None:
        """An upright box, turned with its object."""
        _, ox, oy, oz, yaw = self._things[-1]
        x, y, z = center
        label = self._surface if surface is None else self.surface(surface)
        self._boxes.append((
            ox + self._cos * x - self._sin * y, oy + self._sin * x + self._cos * y, oz + z, *size, yaw,
            self.material(material), label, len(self._things) - 1, self._instance,
        ))  # fmt: skip

    def quads(
        self, corners: ArrayLike, material: Material, surface: str | None = None, uv0: ArrayLike = (0.0, 0.0)
    ) -> None:
        """[Q, 4, 3] flat quads in the object's frame; the first edge is u. uv0 [Q, 2] or [2]: uv of corner 0."""
        local = np.asarray(corners, dtype=np.float64).reshape(-1, 4, 3)
        _, ox, oy, oz, _ = self._things[-1]
        x, y = local[..., 0], local[..., 1]
        world = np.stack(
            [ox + self._cos * x - self._sin * y, oy + self._sin * x + self._cos * y, oz + local[..., 2]], axis=-1
        )
        label = self._surface if surface is None else self.surface(surface)
        row = np.array([self.material(material), label, len(self._things) - 1, self._instance], np.int32)
        self._quads.append(world)
        self._quad_rows.append((np.tile(row, (len(local), 1)), np.broadcast_to(uv0, (len(local), 2))))

    def cylinder(
        self, base: tuple[float, float, float], radius: float, height: float, material: Material,
        surface: str | None = None, top_radius: float | None = None, sides: int = 10,
    ) -> None:  # fmt: skip
        """An upright cylinder or cone of `sides` (even) facets, closed at the top."""
        angle = np.arange(sides + 1) * 2 * math.pi / sides
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
        low = ring * radius + np.array(base)
        high = ring * (radius if top_radius is None else top_radius) + np.array(base) + np.array([0, 0, height])
        side = np.stack([low[:-1], low[1:], high[1:], high[:-1]], axis=1)
        facet = 2 * radius * math.sin(math.pi / sides)
        self.quads(side, material, surface, np.stack([np.arange(sides) * facet, np.zeros(sides)], axis=1))
        middle = np.array(base) + np.array([0, 0, height])
        cap = [[middle, high[i], high[i + 1], high[i + 2]] for i in range(0, sides, 2)]
        self.quads(cap, material, surface)

    def ellipsoid(
        self, center: tuple[float, float, float], radii: tuple[float, float, float], material: Material,
        surface: str | None = None, rings: int = 6, sides: int = 10,
    ) -> None:  # fmt: skip
        """An ellipsoid of rings x sides facets."""
        lat = np.linspace(-math.pi / 2, math.pi / 2, rings + 1)[:, None]
        lon = np.linspace(0, 2 * math.pi, sides + 1)[None, :]
        unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) + 0 * lon], axis=-1)
        grid = unit * np.array(radii) + np.array(center)
        faces = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2)
        u = np.broadcast_to(lon[0, :-1] * max(radii[:2]), (rings, sides))
        v = np.broadcast_to((lat[:-1] + math.pi / 2) * radii[2], (rings, sides))
        self.quads(faces.reshape(-1, 4, 3), material, surface, np.stack([u, v], axis=-1).reshape(-1, 2))

    # --- result -------------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[Quads, tuple[SceneObject, ...]]:
        """All quads with their frames, and the objects with their boxes."""
        corners, rows, start = self._box_faces()
        if self._quads:
            corners = np.concatenate([corners, *self._quads])
            rows = np.concatenate([rows, *(row for row, _ in self._quad_rows)])
            start = np.concatenate([start, *(uv for _, uv in self._quad_rows)])
        first = corners[:, 1] - corners[:, 0]
        short = np.linalg.norm(first, axis=1) < 1e-6  # the pole of an ellipsoid
        first[short] = corners[short, 2] - corners[short, 3]
        u_axis = first / np.linalg.norm(first, axis=1, keepdims=True)
        normal = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        v_axis = np.cross(normal, u_axis)
        up = np.sum((corners[:, 3] - corners[:, 0]) * v_axis, axis=1) < 0
        v_axis[up] *= -1
        corner = corners[:, 0]
        uv0 = start - np.stack([np.sum(corner * u_axis, axis=1), np.sum(corner * v_axis, axis=1)], axis=1)
        quads = Quads(corners, u_axis, v_axis, normal, uv0, *rows.T)
        return quads, self._objects(quads)

    def _box_faces(self) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]:
        boxes = np.array(self._boxes, dtype=np.float64).reshape(-1, 11)
        local = _CORNERS[None] * boxes[:, None, 3:6]
        cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
        x, y, z = local[..., 0], local[..., 1], local[..., 2]
        world = np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1) + boxes[:, None, :3]
        corners = world[:, _FACES].reshape(-1, 4, 3)
        rows = np.repeat(boxes[:, 7:11].astype(np.int32), 6, axis=0)
        along = np.array([material.along for material in self.materials] or [0.0])[rows[:, 0]] > 0
        long_u = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)
        long_v = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1)
        swap = along & (long_v > long_u)
        corners[swap] = corners[swap][:, [0, 3, 2, 1]]
        return corners, rows, np.zeros((len(corners), 2))

    def _objects(self, quads: Quads) -> tuple[SceneObject, ...]:
        count = len(self._things)
        frame = np.array([thing[1:] for thing in self._things])
        part = quads.instance[quads.instance >= 0]
        mine = frame[part]
        offset = quads.corners[quads.instance >= 0] - mine[:, None, :3]
        cos, sin = np.cos(mine[:, 3])[:, None], np.sin(mine[:, 3])[:, None]
        x, y = offset[..., 0], offset[..., 1]
        local = np.stack([cos * x + sin * y, -sin * x + cos * y, offset[..., 2]], axis=-1)
        low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
        np.minimum.at(low, part, local.min(axis=1))
        np.maximum.at(high, part, local.max(axis=1))
        result = []
        for i in np.flatnonzero(np.isfinite(low[:, 0])):
            name, ox, oy, oz, yaw = self._things[i]
            mx, my, mz = (low[i] + high[i]) / 2
            c, s = math.cos(yaw), math.sin(yaw)
            center = np.array([ox + c * mx - s * my, oy + s * mx + c * my, oz + mz])
            result.append(SceneObject(int(i), name, center, high[i] - low[i], yaw))
        return tuple(result)
