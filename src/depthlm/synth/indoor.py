"""Rooms: from a 2 x 2.2 m closet over corridors to a 12 x 15 m hall, furnished along the walls and in the middle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from depthlm.synth import palette as P
from depthlm.synth.furniture import AT_WALL, FREE, pick

if TYPE_CHECKING:
    from depthlm.synth.builder import Builder
    from depthlm.synth.materials import Material

Footprint = tuple[float, float, float, float]  # x0, y0, x1, y1


def build_room(b: Builder) -> tuple[list[Footprint], float, tuple[float, float, float]]:
    """Fill the builder. Returns the areas where a camera may stand, the ceiling height, and the lamp's position."""
    rng = b.rng
    kind = rng.choice(["small", "room", "corridor", "hall"], p=[0.27, 0.38, 0.15, 0.2])
    if kind == "small":
        w, d, h = rng.uniform(2, 3.2), rng.uniform(2.2, 3.4), rng.uniform(2.25, 2.7)
    elif kind == "room":
        w, d, h = rng.uniform(3, 5.5), rng.uniform(3, 6.5), rng.uniform(2.4, 3.0)
    elif kind == "corridor":
        w, d, h = rng.uniform(1.3, 2.2), rng.uniform(5, 15), rng.uniform(2.3, 3.0)
    else:
        w, d, h = rng.uniform(6, 12), rng.uniform(6, 15), rng.uniform(2.8, 5.0)
    w, d, h = float(w), float(d), float(h)
    walls = _shell(b, w, d, h)
    taken: list[Footprint] = []
    for side in range(4):
        _fit_wall(b, side, w, d, h, taken)
    if w * d > 16 and rng.random() < 0.45:
        _partition(b, w, d, h, walls, taken)
    if kind == "hall":
        _pillars(b, w, d, h, walls, taken)
    _furnish(b, w, d, taken)
    lamp = (float(rng.uniform(-w / 4, w / 4)), float(rng.uniform(-d / 4, d / 4)), h - 0.25)
    _lamps(b, w, d, h, lamp)
    return [(-w / 2, -d / 2, w / 2, d / 2)], h, lamp


def _shell(b: Builder, w: float, d: float, h: float) -> Material:
    """Floor, ceiling, four walls, skirting. Returns the look of the walls."""
    rng = b.rng
    floor, ceiling = pick(b, tuple(P.FLOORS.values())), pick(b, tuple(P.CEILINGS.values()))
    first = pick(b, tuple(P.WALLS.values()))
    second = pick(b, tuple(P.WALLS.values())) if rng.random() < 0.5 else first
    x, y = w / 2, d / 2
    b.begin("floor")
    start = rng.uniform(0, 2, 2)
    plan = [[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]
    b.quads([plan if rng.random() < 0.5 else plan[1:] + plan[:1]], floor, uv0=start)
    b.begin("ceiling")
    b.quads([[[px, py, h] for px, py, _ in plan]], ceiling, uv0=rng.uniform(0, 2, 2))
    corners = [(-x, y), (x, y), (x, -y), (-x, -y)]
    skirting = pick(b, P.WOODS) if rng.random() < 0.8 else None
    for i in range(4):
        (ax, ay), (bx, by) = corners[i], corners[(i + 1) % 4]
        b.begin("wall")
        b.quads([[[ax, ay, 0], [bx, by, 0], [bx, by, h], [ax, ay, h]]], first if i % 2 else second)
        if skirting is not None:
            b.begin("skirting")
            length = math.hypot(bx - ax, by - ay)
            size = (length, 0.03, 0.1) if i % 2 == 0 else (0.03, length, 0.1)
            b.box(((ax + bx) / 2, (ay + by) / 2, 0.05), size, skirting)
    return first


def _on_wall(side: int, along: float, w: float, d: float) -> tuple[float, float, float]:
    """x, y, yaw of a thing whose back (+y) touches wall `side` (0 north, 1 east, 2 south, 3 west)."""
    x, y = w / 2, d / 2
    return [(along, y, 0.0), (x, -along, -math.pi / 2), (-along, -y, math.pi), (-x, along, math.pi / 2)][side]


def _footprint(x: float, y: float, half_w: float, half_d: float, yaw: float) -> Footprint:
    c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
    hx, hy = c * half_w + s * half_d, s * half_w + c * half_d
    return x - hx, y - hy, x + hx, y + hy


def _free(box: Footprint, taken: list[Footprint], gap: float = 0.05) -> bool:
    return all(box[2] + gap < t[0] or t[2] + gap < box[0] or box[3] + gap < t[1] or t[3] + gap < box[1] for t in taken)


def _fit_wall(b: Builder, side: int, w: float, d: float, h: float, taken: list[Footprint]) -> None:
    """Doors, windows, switches, sockets, pictures on one wall; the space before doors is kept free."""
    rng = b.rng
    length = w if side % 2 == 0 else d
    spans: list[tuple[float, float]] = []

    def place(width: float) -> float | None:
        if length <= width + 0.3:
            return None
        for _ in range(4):
            at = float(rng.uniform(-length / 2 + width / 2 + 0.1, length / 2 - width / 2 - 0.1))
            if all(abs(at - s) > (width + t) / 2 + 0.1 for s, t in spans):
                spans.append((at, width))
                return at
        return None

    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.4, 0.12, 0.08])) if length > 5 else int(rng.random() < 0.45)):
        at = place(1.0)
        if at is not None:
            x, y, yaw = _on_wall(side, at, w, d)
            door(b, x, y, yaw)
            taken.append(_footprint(x, y, 0.5, 0.6, yaw))
            if abs(at + 0.68) < length / 2 - 0.1:
                x, y, yaw = _on_wall(side, at + 0.68, w, d)
                b.begin("switch", x, y, 0, yaw)
                b.box((0, -0.006, 1.1), (0.08, 0.012, 0.08), P.WHITE)
                b.box((0, -0.014, 1.1), (0.055, 0.006, 0.055), P.METAL)
    for _ in range(1 + int(length > 4) + int(length > 8)):
        kind = rng.choice(["window", "picture", "tv", "clock", "none"], p=[0.4, 0.26, 0.1, 0.09, 0.15])
        at = place(1.35 if kind != "picture" else 0.8)
        if at is not None and kind != "none":
            x, y, yaw = _on_wall(side, at, w, d)
            _hang(b, str(kind), x, y, yaw)
    for _ in range(1 + int(length > 4)):
        x, y, yaw = _on_wall(side, float(rng.uniform(-length / 2 + 0.2, length / 2 - 0.2)), w, d)
        b.begin("socket", x, y, 0, yaw)
        b.box((0, -0.006, 0.3), (0.08, 0.012, 0.08), P.WHITE)
        b.box((0, -0.013, 0.3), (0.045, 0.004, 0.045), P.METAL)


def door(b: Builder, x: float, y: float, yaw: float) -> None:
    """A leaf of 0.86 x 2.0 m in a frame of 0.07 m, with two panels and a handle at 1.05 m."""
    b.begin("door", x, y, 0, yaw)
    leaf = pick(b, P.DOORS)
    frame = b.toned(P.WHITE) if b.rng.random() < 0.6 else leaf
    b.box((0, -0.015, 1.0), (0.86, 0.03, 2.0), leaf)
    for side in (-1, 1):
        b.box((side * 0.465, -0.025, 1.035), (0.07, 0.05, 2.07), frame)
    b.box((0, -0.025, 2.035), (0.86, 0.05, 0.07), frame)
    for z, tall in ((0.5, 0.7), (1.45, 0.85)):
        b.box((0, -0.034, z), (0.58, 0.012, tall), leaf)
    hand = float(b.rng.choice([-1, 1]))
    b.box((hand * 0.37, -0.04, 1.05), (0.035, 0.02, 0.2), P.METAL)
    b.box((hand * 0.32, -0.07, 1.07), (0.12, 0.02, 0.02), P.METAL)


def _hang(b: Builder, kind: str, x: float, y: float, yaw: float) -> None:
    """A window, a picture, a television or a clock on a wall."""
    b.begin(kind, x, y, 0, yaw)
    if kind == "window":
        b.box((0, -0.01, 1.5), (1.2, 0.02, 1.2), P.GLASS)
        frame = pick(b, P.WOODS)
        for side in (-1, 0, 1):
            b.box((side * 0.6, -0.025, 1.5), (0.06, 0.05, 1.26), frame)
        for z in (0.9, 2.1):
            b.box((0, -0.025, z), (1.26, 0.05, 0.06), frame)
        b.box((0, -0.07, 0.86), (1.36, 0.16, 0.03), b.toned(P.WHITE))
        b.begin("radiator", x, y, 0, yaw)
        if b.rng.random() < 0.6:
            for i in range(10):
                b.box((-0.45 + i * 0.1, -0.07, 0.42), (0.06, 0.08, 0.6), P.WHITE)
    elif kind == "picture":
        frame = pick(b, P.WOODS)
        b.box((0, -0.012, 1.55), (0.7, 0.024, 0.5), frame)
        b.box((0, -0.026, 1.55), (0.62, 0.004, 0.42), b.toned(P.PICTURE, 0.2))
    elif kind == "tv":
        b.box((0, -0.03, 1.2), (1.1, 0.05, 0.64), P.DARK)
        b.box((0, -0.056, 1.2), (1.07, 0.003, 0.6), P.SCREEN)
    else:
        b.box((0, -0.012, 1.9), (0.3, 0.024, 0.3), P.WHITE)
        b.box((0.03, -0.027, 1.93), (0.012, 0.004, 0.13), P.DARK)
        b.box((0.0, -0.027, 1.9), (0.1, 0.004, 0.014), P.DARK)


def _partition(b: Builder, w: float, d: float, h: float, wall: Material, taken: list[Footprint]) -> None:
    """A free wall that reaches a third to two thirds into the room: nooks, and occlusion."""
    rng = b.rng
    x, y = float(rng.uniform(-w / 4, w / 4)), float(rng.uniform(-d / 4, d / 4))
    if rng.random() < 0.5:
        size = (float(rng.uniform(0.3, 0.6)) * w, 0.12)
        x = float(rng.choice([-1, 1])) * (w - size[0]) / 2
    else:
        size = (0.12, float(rng.uniform(0.3, 0.6)) * d)
        y = float(rng.choice([-1, 1])) * (d - size[1]) / 2
    b.begin("wall")
    b.box((x, y, h / 2), (*size, h), wall)
    taken.append((x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2))


def _pillars(b: Builder, w: float, d: float, h: float, wall: Material, taken: list[Footprint]) -> None:
    """Square pillars of 0.4 m on a grid of 4 m."""
    if b.rng.random() < 0.4:
        return
    for x in np.arange(-w / 2 + 3, w / 2 - 1, 4.0):
        for y in np.arange(-d / 2 + 3, d / 2 - 1, 4.0):
            box = _footprint(float(x), float(y), 0.2, 0.2, 0)
            if _free(box, taken):
                b.begin("pillar")
                b.box((float(x), float(y), h / 2), (0.4, 0.4, h), wall)
                taken.append(box)


def _furnish(b: Builder, w: float, d: float, taken: list[Footprint]) -> None:
    rng = b.rng
    names = list(AT_WALL)
    for _ in range(int(np.clip(rng.uniform(0.6, 1.3) * (w + d), 3, 22))):
        make, half_w, half_d = AT_WALL[names[int(rng.integers(len(names)))]]
        side = int(rng.integers(4))
        length = w if side % 2 == 0 else d
        if length < 2 * half_w + 0.1:
            continue
        x, y, yaw = _on_wall(side, float(rng.uniform(-length / 2 + half_w, length / 2 - half_w)), w, d)
        x, y = x + math.sin(yaw) * (half_d + 0.03), y - math.cos(yaw) * (half_d + 0.03)
        box = _footprint(x, y, half_w, half_d, yaw)
        if max(abs(box[0]), abs(box[2])) < w / 2 and max(abs(box[1]), abs(box[3])) < d / 2 and _free(box, taken):
            make(b, (x, y, 0.0, yaw))
            taken.append(box)
    names = list(FREE)
    for _ in range(int(np.clip(rng.uniform(0.2, 0.6) * w * d, 1, 24))):
        make, half_w, half_d = FREE[names[int(rng.integers(len(names)))]]
        x, y = float(rng.uniform(-w / 2, w / 2)), float(rng.uniform(-d / 2, d / 2))
        yaw = float(rng.choice([0, math.pi / 2, math.pi, -math.pi / 2]) + rng.normal(0, 0.3))
        box = _footprint(x, y, half_w, half_d, yaw)
        inside = box[0] > -w / 2 and box[2] < w / 2 and box[1] > -d / 2 and box[3] < d / 2
        if inside and _free(box, taken):
            make(b, (x, y, 0.0, yaw))
            taken.append(box)


def _lamps(b: Builder, w: float, d: float, h: float, lamp: tuple[float, float, float]) -> None:
    """Ceiling lights: tubes of 1.2 m in rows, or one pendant."""
    rng = b.rng
    if rng.random() < 0.5 or w * d > 30:
        for x in np.arange(-w / 2 + 1.2, w / 2 - 0.3, 2.4):
            for y in np.arange(-d / 2 + 1.2, d / 2 - 0.5, 2.4):
                b.begin("lamp", float(x), float(y))
                b.box((0, 0, h - 0.03), (0.2, 1.2, 0.06), P.LAMP)
    else:
        b.begin("lamp", lamp[0], lamp[1])
        b.cylinder((0, 0, h - 0.45), 0.2, 0.15, P.LAMP, top_radius=0.1)
        b.cylinder((0, 0, h - 0.3), 0.008, 0.3, P.DARK, sides=4)
