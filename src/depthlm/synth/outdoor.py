"""Streets: lanes of 3.5 m with dashed marks, pavements, houses on both sides, cars, people, trees, lamp posts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from depthlm.synth import palette as P
from depthlm.synth.furniture import Place, person, pick
from depthlm.synth.indoor import door

if TYPE_CHECKING:
    from depthlm.synth.builder import Builder
    from depthlm.synth.materials import Material

Footprint = tuple[float, float, float, float]


def build_street(b: Builder) -> tuple[list[Footprint], float, tuple[float, float, float]]:
    """Fill the builder; the street runs along x. Returns camera areas, a height limit, the sun's far position."""
    rng = b.rng
    lanes = int(rng.integers(1, 4))
    road = lanes * 3.5 + float(rng.choice([0, 2.2]))  # with or without a strip of parked cars
    walk = float(rng.uniform(1.8, 4.0))
    length = 42.0
    _ground(b, lanes, road, walk, length)
    for side in (-1, 1):
        _houses(b, side, road / 2 + walk, length)
        _pavement_things(b, side, road / 2, walk, length)
    _cars(b, lanes, road, length)
    angle, height = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.5, 1.3))
    sun = (300 * math.cos(angle) * math.cos(height), 300 * math.sin(angle) * math.cos(height), 300 * math.sin(height))
    edge = road / 2 + walk - 0.5
    return [(-22, -edge, 22, edge)], 2.6, sun


def _ground(b: Builder, lanes: int, road: float, walk: float, length: float) -> None:
    rng = b.rng
    surface = b.toned(P.ASPHALT if rng.random() < 0.75 else P.COBBLES, 0.08)
    b.begin("road")
    half = road / 2
    b.quads([[[-length, -half, 0], [length, -half, 0], [length, half, 0], [-length, half, 0]]], surface)
    b.begin("lane mark")
    left = -lanes * 3.5 / 2
    for i in range(1, lanes):
        for x in np.arange(-length + float(rng.uniform(0, 9)), length - 3, 9.0):  # 3 m marks, 6 m gaps
            b.box((x + 1.5, left + i * 3.5, 0.002), (3.0, 0.12, 0.008), P.MARKING)
    for y in (left + 0.1, -left - 0.1):
        b.box((0, y, 0.002), (2 * length, 0.12, 0.008), P.MARKING)
    if rng.random() < 0.4:  # a zebra crossing of 0.5 m bars
        x = float(rng.uniform(-12, 12))
        for y in np.arange(-half + 0.5, half - 0.3, 1.0):
            b.box((x, float(y), 0.003), (3.0, 0.5, 0.01), P.MARKING)
    slabs = pick(b, P.PAVEMENTS)
    lawn = rng.random() < 0.35
    for side in (-1, 1):
        near, far = side * (half + 0.15), side * (half + walk)
        b.begin("kerb")
        b.box((0, side * (half + 0.075), 0.06), (2 * length, 0.15, 0.13), P.KERB)
        b.begin("pavement")
        b.quads([[[-length, near, 0.12], [length, near, 0.12], [length, far, 0.12], [-length, far, 0.12]]], slabs)
        b.begin("grass" if lawn else "pavement")
        back = far + side * 60
        b.quads(
            [[[-length, far, 0.1], [length, far, 0.1], [length, back, 0.1], [-length, back, 0.1]]],
            P.GRASS if lawn else slabs,
        )
    b.begin("house")
    wall = pick(b, (P.WALLS["brick red"], P.SIDING, P.STUCCO))
    for x in (-length, length):  # a house closes each end of the street
        b.box((x, 0, 4), (6, 2 * (half + walk), 8), wall)
        _facade(b, x - math.copysign(3, x), 0, -math.copysign(math.pi / 2, x), 2 * (half + walk), 2, 2.8)


def _houses(b: Builder, side: int, front: float, length: float) -> None:
    rng = b.rng
    x = -length
    walls = (P.WALLS["brick red"], P.WALLS["brick yellow"], P.SIDING, P.STUCCO, P.WALLS["blocks 40 cm"])
    while x < length:
        width, depth, storeys = float(rng.uniform(5, 11)), float(rng.uniform(7, 10)), int(rng.integers(1, 4))
        garden = float(rng.choice([0, 0, 1.5, 4])) * float(rng.uniform(0.7, 1.2))
        gap = float(rng.choice([0, 0, 2, 5]))
        tall = storeys * 2.8 + 0.4
        cx, y = x + width / 2, side * (front + garden)
        b.begin("house")
        b.box((cx, y + side * depth / 2, tall / 2), (width, depth, tall), pick(b, walls))
        yaw = 0.0 if side > 0 else math.pi
        _facade(b, cx, y, yaw, width, storeys, 2.8)
        _roof(b, cx, y, side, width, depth, tall)
        if garden > 1:
            _fence(b, cx, side * (front + 0.15), width)
        x += width + gap


def _facade(b: Builder, x: float, y: float, yaw: float, width: float, storeys: int, storey: float) -> None:
    """Windows of 1.1 x 1.3 m every 2 m or so, and one door on the ground floor; back (+y) touches the wall."""
    rng = b.rng
    n = max(1, int(width / 2.1))
    gone = int(rng.integers(n))
    frame = pick(b, (P.WHITE, P.WOODS[1], P.DARK))
    for i in range(n):
        along = (i - (n - 1) / 2) * width / n
        px, py = x + math.cos(yaw) * along, y + math.sin(yaw) * along
        if i == gone:
            door(b, px, py, yaw)
            b.loose()
            b.box((0, -0.3, 0.07), (1.3, 0.6, 0.14), P.KERB, "step")
        for level in range(storeys):
            if i == gone and level == 0:
                continue
            b.begin("window", px, py, level * storey + 0.1, yaw)
            b.box((0, -0.01, 1.6), (1.1, 0.03, 1.3), P.PANE)
            for s in (-1, 0, 1):
                b.box((s * 0.55, -0.03, 1.6), (0.06, 0.06, 1.36), frame)
            for z in (0.95, 2.25):
                b.box((0, -0.03, z), (1.16, 0.06, 0.06), frame)
            b.box((0, -0.08, 0.9), (1.3, 0.16, 0.05), P.KERB)


def _roof(b: Builder, cx: float, y: float, side: int, width: float, depth: float, tall: float) -> None:
    """A gable roof along the street."""
    over, rise = 0.4, depth * 0.35
    x0, x1 = cx - width / 2, cx + width / 2
    front, middle, back = y - side * over, y + side * depth / 2, y + side * (depth + over)
    low, high = tall - over * 0.7, tall + rise
    b.begin("roof")
    tiles = b.toned(P.ROOF, 0.1)
    b.quads(
        [
            [[x0, front, low], [x1, front, low], [x1, middle, high], [x0, middle, high]],
            [[x0, back, low], [x1, back, low], [x1, middle, high], [x0, middle, high]],
        ],
        tiles,
    )
    for x in (x0, x1):  # the gable: a quad with two corners on one line
        b.quads(
            [[[x, y, tall], [x, y + side * depth, tall], [x, middle, high - 0.2], [x, middle, high - 0.2]]], P.SIDING
        )


def _fence(b: Builder, cx: float, y: float, width: float) -> None:
    """A hedge of 1 to 1.5 m, a brick wall of 0.9 m, or a picket fence of 1 m with pickets every 0.14 m."""
    kind = int(b.rng.integers(3))
    span = width - 1.4
    b.begin(("hedge", "garden wall", "fence")[kind])
    x = cx + 0.7
    if kind == 0:
        tall = float(b.rng.uniform(1.0, 1.5))
        b.box((x, y, tall / 2 + 0.1), (span, 0.5, tall), b.toned(P.HEDGE))
    elif kind == 1:
        b.box((x, y, 0.55), (span, 0.24, 0.9), pick(b, (P.WALLS["brick red"], P.WALLS["brick yellow"])))
        b.box((x, y, 1.03), (span, 0.32, 0.06), P.KERB)
    else:
        wood = pick(b, P.WOODS)
        for i in np.arange(-span / 2, span / 2, 0.14):
            b.box((x + float(i), y, 0.6), (0.08, 0.02, 1.0), wood)
        for z in (0.35, 0.85):
            b.box((x, y, z), (span, 0.04, 0.07), wood)


def _pavement_things(b: Builder, side: int, kerb: float, walk: float, length: float) -> None:
    """Lamp posts every 16 to 22 m, trees, people, bins, benches, post boxes."""
    rng = b.rng
    yaw = 0.0 if side > 0 else math.pi
    for x in np.arange(-length + float(rng.uniform(0, 15)), length, float(rng.uniform(16, 22))):
        b.begin("lamp post", float(x), side * (kerb + 0.45), 0.12, yaw)
        b.cylinder((0, 0, 0), 0.09, 1.0, P.METAL, sides=8)
        b.cylinder((0, 0, 1.0), 0.055, 4.3, P.METAL, top_radius=0.04, sides=8)
        b.box((0, -0.4, 5.3), (0.2, 0.9, 0.1), P.METAL)
    if rng.random() < 0.6:
        for x in np.arange(-length + float(rng.uniform(0, 8)), length, float(rng.uniform(6, 11))):
            _tree(b, float(x), side * (kerb + 0.7))
    for _ in range(int(rng.integers(5, 13))):
        x, y = float(rng.uniform(-26, 26)), side * (kerb + float(rng.uniform(0.7, max(0.8, walk - 0.4))))
        person(b, (x, y, 0.12, float(rng.uniform(0, 2 * math.pi))))
    for make in (_bench, _wheelie_bin, _wheelie_bin, _bollards, _sign):
        for _ in range(int(rng.integers(0, 4))):
            make(b, (float(rng.uniform(-26, 26)), side * (kerb + walk - 0.45), 0.12, yaw))


def _tree(b: Builder, x: float, y: float) -> None:
    rng = b.rng
    b.begin("tree", x, y, 0.1)
    tall, trunk = float(rng.uniform(1.9, 2.8)), float(rng.uniform(0.09, 0.17))
    b.cylinder((0, 0, 0), trunk, tall + 0.6, P.BARK, top_radius=trunk * 0.7, sides=8)
    leaf = b.toned(P.LEAF, 0.1)
    for _ in range(6):
        px, py, pz = rng.uniform([-0.8, -0.8, tall + 0.5], [0.8, 0.8, tall + 2.2])
        b.ellipsoid((px, py, pz), (1.0, 1.0, 0.85), leaf, rings=5, sides=8)


def _bench(b: Builder, at: Place) -> None:
    b.begin("bench", *at)
    wood = pick(b, P.WOODS[:3])
    for i in range(4):
        b.box((0, -0.18 + i * 0.12, 0.45), (1.6, 0.1, 0.035), wood)
    for z in (0.62, 0.78):
        b.box((0, 0.24, z), (1.6, 0.03, 0.1), wood)
    for x in (-0.65, 0.65):
        b.box((x, 0, 0.22), (0.05, 0.42, 0.44), P.METAL)
        b.box((x, 0.26, 0.6), (0.05, 0.03, 0.5), P.METAL)


def _wheelie_bin(b: Builder, at: Place) -> None:
    b.begin("bin", *at)
    look = pick(b, (P.DARK, P.CARS[4], P.CARS[0]))
    b.box((0, 0, 0.52), (0.56, 0.66, 0.94), look)
    b.box((0, -0.02, 1.02), (0.6, 0.72, 0.06), b.toned(look, 0.15))


def _bollards(b: Builder, at: Place) -> None:
    b.begin("bollard", *at)
    for i in range(3):
        b.cylinder((i * 1.5, -0.6, 0), 0.06, 0.9, P.DARK, sides=8)
        b.cylinder((i * 1.5, -0.6, 0.75), 0.064, 0.08, P.WHITE, sides=8)


def _sign(b: Builder, at: Place) -> None:
    b.begin("sign", *at)
    b.cylinder((0, 0, 0), 0.03, 2.6, P.METAL, sides=6)
    b.box((0, -0.04, 2.3), (0.6, 0.02, 0.6), pick(b, (P.CARS[0], P.WHITE, P.CARS[5])))
    b.box((0, -0.052, 2.3), (0.34, 0.004, 0.12), P.WHITE)


def car(b: Builder, at: Place) -> None:
    """4.4 x 1.8 x 1.5 m, its length along x, wheels of 0.64 m, plates of 0.52 x 0.11 m."""
    b.begin("car", *at)
    paint: Material = pick(b, P.CARS)
    long, wide = 4.4 * float(b.rng.uniform(0.97, 1.03)), 1.8
    b.box((0, 0, 0.58), (long, wide - 0.04, 0.5), paint)
    b.box((0, 0, 0.36), (long - 0.5, wide, 0.2), P.DARK)
    cabin, roof = (-1.75, 1.0), (-1.25, 0.35)  # x of the rear and front edge, at the belt line and at the roof
    y0, y1, z0, z1 = wide / 2 - 0.04, wide / 2 - 0.2, 0.83, 1.46
    for s in (-1, 1):
        b.quads(
            [[[cabin[0], s * y0, z0], [cabin[1], s * y0, z0], [roof[1], s * y1, z1], [roof[0], s * y1, z1]]], P.PANE
        )
        for px in (-0.45, 0.75):  # pillars between the side windows
            b.box((px - 0.1, s * (y0 - 0.05), 1.1), (0.09, 0.1, 0.56), paint)
    for low, high in zip(cabin, roof, strict=True):
        b.quads([[[low, -y0, z0], [low, y0, z0], [high, y1, z1], [high, -y1, z1]]], P.PANE)
    b.box((sum(roof) / 2, 0, z1), (roof[1] - roof[0] + 0.1, 2 * y1 + 0.06, 0.05), paint)
    for x in (-long / 2, long / 2):
        lights = P.LIGHT_FRONT if x > 0 else P.LIGHT_BACK
        for s in (-1, 1):
            b.box((x, s * 0.66, 0.66), (0.03, 0.32, 0.14), lights)
        b.box((x, 0, 0.48), (0.04, 0.52, 0.11), P.PLATE)
    for x in (-1.35, 1.35):
        for s in (-1, 1):
            _wheel(b, x, s * (wide / 2 - 0.1))


def _wheel(b: Builder, x: float, y: float) -> None:
    angle = np.arange(11) * 2 * math.pi / 10
    ring = np.stack([x + 0.32 * np.cos(angle), np.zeros(11), 0.32 + 0.32 * np.sin(angle)], axis=1)
    outside = np.array([0, math.copysign(0.005, y), 0])
    for offset in (-0.11, 0.11):
        rim = ring + np.array([0, y + offset, 0])
        middle = np.array([x, y + offset, 0.32])
        b.quads([[middle, rim[i], rim[i + 1], rim[i + 2]] for i in range(0, 10, 2)], P.DARK)
        hub = middle + (rim - middle) * 0.6 + outside
        b.quads([[middle + outside, hub[i], hub[i + 1], hub[i + 2]] for i in range(0, 10, 2)], P.METAL)
    low, high = ring + np.array([0, y - 0.11, 0]), ring + np.array([0, y + 0.11, 0])
    b.quads(np.stack([low[:-1], low[1:], high[1:], high[:-1]], axis=1), P.DARK)


def _cars(b: Builder, lanes: int, road: float, length: float) -> None:
    rng = b.rng
    left = -lanes * 3.5 / 2
    for i in range(lanes):
        x = -length + float(rng.uniform(5, 20))
        while x < length - 5:
            heading = 0.0 if i >= lanes / 2 else math.pi
            car(b, (x, left + (i + 0.5) * 3.5 + float(rng.normal(0, 0.15)), 0.0, heading + float(rng.normal(0, 0.02))))
            x += float(rng.uniform(8, 30))
    if road > lanes * 3.5 + 1:  # parked along both kerbs
        for side in (-1, 1):
            x = -length + 5
            while x < length - 5:
                if rng.random() < 0.6:
                    car(b, (x, side * (road / 2 - 1.0), 0.0, float(rng.normal(0, 0.02)) + (math.pi if side > 0 else 0)))
                x += float(rng.uniform(5.2, 7))
