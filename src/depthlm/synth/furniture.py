"""Things of known size: furniture, fittings, people. Each stands at a local origin on the floor, its back towards +y.

Every function returns nothing and adds one object to the builder; sizes in metres vary by a few per cent.
"""

from __future__ import annotations

from collections.abc import Callable

from depthlm.synth import palette as P
from depthlm.synth.builder import Builder
from depthlm.synth.materials import Material

Place = tuple[float, float, float, float]  # x, y, z of the origin in metres, yaw in radians


def pick(b: Builder, choices: tuple[Material, ...]) -> Material:
    """One of the looks, a little toned."""
    return b.toned(choices[int(b.rng.integers(len(choices)))])


def _about(b: Builder, value: float, spread: float = 0.04) -> float:
    return value * float(b.rng.uniform(1 - spread, 1 + spread))


def _legs(b: Builder, w: float, d: float, h: float, thick: float, wood: Material) -> None:
    for x in (-w / 2 + thick / 2, w / 2 - thick / 2):
        for y in (-d / 2 + thick / 2, d / 2 - thick / 2):
            b.box((x, y, h / 2), (thick, thick, h), wood)


def chair(b: Builder, at: Place) -> None:
    """Seat at 0.45 m, back to 0.88 m."""
    b.begin("chair", *at)
    wood, w, seat = pick(b, P.WOODS), _about(b, 0.44), _about(b, 0.45, 0.02)
    _legs(b, w, w, seat, 0.04, wood)
    b.box((0, 0, seat), (w, w, 0.035), pick(b, P.FABRICS) if b.rng.random() < 0.5 else wood)
    for x in (-w / 2 + 0.02, w / 2 - 0.02):
        b.box((x, w / 2 - 0.02, seat + 0.22), (0.04, 0.035, 0.44), wood)
    for z in (0.16, 0.28, 0.4):
        b.box((0, w / 2 - 0.02, seat + z), (w - 0.06, 0.02, 0.06), wood)


def table(b: Builder, at: Place) -> None:
    """Top at 0.75 m, with things on it."""
    b.begin("table", *at)
    wood, w, d, h = pick(b, P.WOODS), float(b.rng.uniform(1.1, 1.8)), _about(b, 0.8, 0.08), _about(b, 0.75, 0.015)
    _legs(b, w, d, h, 0.07, wood)
    b.box((0, 0, h - 0.02), (w, d, 0.04), wood)
    b.box((0, d / 2 - 0.08, h - 0.08), (w - 0.14, 0.025, 0.09), wood)
    b.box((0, -d / 2 + 0.08, h - 0.08), (w - 0.14, 0.025, 0.09), wood)
    b.loose()
    for _ in range(int(b.rng.integers(0, 5))):
        _small(b, float(b.rng.uniform(-w / 2 + 0.15, w / 2 - 0.15)), float(b.rng.uniform(-d / 3, d / 3)), h)


def _small(b: Builder, x: float, y: float, z: float) -> None:
    """A mug, a book, a bottle or a fruit bowl."""
    kind = int(b.rng.integers(4))
    if kind == 0:
        b.cylinder((x, y, z), 0.04, 0.095, pick(b, (P.WHITE, *P.SHIRTS)), sides=8)
    elif kind == 1:
        b.box((x, y, z + 0.015), (0.15, 0.21, 0.03), pick(b, P.SHIRTS))
    elif kind == 2:
        glass = b.toned(P.PANE)
        b.cylinder((x, y, z), 0.037, 0.2, glass, sides=8)
        b.cylinder((x, y, z + 0.2), 0.037, 0.1, glass, top_radius=0.013, sides=8)
    else:
        b.cylinder((x, y, z), 0.08, 0.09, P.POT, top_radius=0.13, sides=10)


def desk(b: Builder, at: Place) -> None:
    """A desk of 1.4 x 0.7 m with a 24 inch screen, a keyboard and drawers."""
    b.begin("desk", *at)
    wood, w, d, h = pick(b, P.WOODS), _about(b, 1.4, 0.06), 0.7, _about(b, 0.74, 0.015)
    b.box((0, 0, h - 0.015), (w, d, 0.03), wood)
    b.box((-w / 2 + 0.02, 0, h / 2), (0.03, d, h), wood)
    for i in range(3):
        b.box((w / 2 - 0.22, 0, 0.12 + i * 0.23), (0.42, d - 0.04, 0.215), wood)
        b.box((w / 2 - 0.22, -d / 2, 0.15 + i * 0.23), (0.12, 0.03, 0.015), P.METAL)
    b.loose()
    b.box((0, 0.2, h + 0.3), (0.54, 0.03, 0.32), P.DARK)
    b.box((0, 0.184, h + 0.3), (0.52, 0.002, 0.3), P.SCREEN)
    b.box((0, 0.22, h + 0.07), (0.05, 0.04, 0.15), P.DARK)
    b.box((0, -0.1, h + 0.01), (0.44, 0.14, 0.02), P.BALL)


def sofa(b: Builder, at: Place) -> None:
    """Seat at 0.43 m, 1.5 to 2.1 m wide."""
    b.begin("sofa", *at)
    cloth, w = pick(b, P.FABRICS), float(b.rng.choice([1.5, 2.1]))
    b.box((0, 0, 0.2), (w, 0.88, 0.26), cloth)
    b.box((0, 0.36, 0.58), (w - 0.3, 0.18, 0.5), cloth)
    for x in (-w / 2 + 0.09, w / 2 - 0.09):
        b.box((x, 0, 0.4), (0.18, 0.88, 0.4), cloth)
    n = round((w - 0.3) / 0.6)
    for i in range(n):
        x = (i - (n - 1) / 2) * 0.6
        b.box((x, -0.08, 0.38), (0.58, 0.7, 0.12), cloth)
    b.box((w / 2 - 0.4, 0.2, 0.63), (0.42, 0.12, 0.4), pick(b, P.BLANKETS))


def bed(b: Builder, at: Place) -> None:
    """2.0 m long, 0.9 to 1.6 m wide, lying surface at 0.5 m, head towards +y."""
    b.begin("bed", *at)
    wood, w = pick(b, P.WOODS), float(b.rng.choice([0.9, 1.4, 1.6]))
    b.box((0, 0, 0.2), (w + 0.06, 2.06, 0.2), wood)
    b.box((0, 1.04, 0.5), (w + 0.06, 0.04, 1.0), wood)
    b.box((0, 0, 0.4), (w, 2.0, 0.2), P.WHITE)
    b.box((0, -0.3, 0.5), (w + 0.04, 1.4, 0.06), pick(b, P.BLANKETS))
    for i in range(1 if w < 1 else 2):
        x = 0 if w < 1 else (i - 0.5) * w / 2
        b.ellipsoid((x, 0.72, 0.55), (0.34, 0.2, 0.09), b.toned(P.WHITE))


def shelf(b: Builder, at: Place) -> None:
    """0.8 m wide, 0.3 m deep, boards every 0.34 m, with books."""
    b.begin("shelf", *at)
    wood, w, rows = pick(b, P.WOODS), 0.8, int(b.rng.integers(3, 7))
    h = rows * 0.34 + 0.04
    for x in (-w / 2, w / 2):
        b.box((x, 0, h / 2), (0.02, 0.3, h), wood)
    b.box((0, 0.145, h / 2), (w, 0.01, h), wood)
    for i in range(rows + 1):
        b.box((0, 0, 0.02 + i * 0.34), (w, 0.3, 0.02), wood)
    for i in range(rows):
        width = float(b.rng.uniform(0.25, w - 0.06))
        height = float(b.rng.uniform(0.2, 0.27))
        center = (-w / 2 + 0.02 + width / 2, 0.03, 0.03 + i * 0.34 + height / 2)
        b.box(center, (width, 0.2, height), b.toned(P.BOOKS, 0.1), "books")


def cupboard(b: Builder, at: Place) -> None:
    """A wardrobe with two doors and handles at 1 m."""
    b.begin("cupboard", *at)
    wood, w, d, h = pick(b, P.WOODS), _about(b, 1.0, 0.05), 0.58, float(b.rng.choice([1.2, 2.0]))
    b.box((0, 0, h / 2), (w, d, h), wood)
    for side in (-1, 1):
        b.box((side * w / 4, -d / 2 - 0.008, h / 2 + 0.03), (w / 2 - 0.012, 0.018, h - 0.1), wood)
        b.box((side * 0.05, -d / 2 - 0.03, min(1.0, h * 0.7)), (0.015, 0.03, 0.14), P.METAL)


def kitchen(b: Builder, at: Place) -> None:
    """A worktop at 0.9 m on modules of 0.6 m, wall cupboards above, a hob."""
    b.begin("kitchen", *at)
    wood, n = pick(b, P.WOODS), int(b.rng.integers(2, 4))
    w = n * 0.6
    b.box((0, 0.02, 0.05), (w, 0.5, 0.1), P.DARK)
    b.box((0, 0.01, 0.48), (w, 0.56, 0.78), wood)
    b.box((0, 0, 0.885), (w + 0.02, 0.62, 0.035), b.toned(P.ASPHALT))
    for i in range(n):
        x = (i - (n - 1) / 2) * 0.6
        b.box((x, -0.285, 0.4), (0.59, 0.018, 0.6), wood)
        b.box((x, -0.285, 0.785), (0.59, 0.018, 0.14), wood)
        b.box((x, -0.305, 0.79), (0.16, 0.02, 0.012), P.METAL)
        b.box((x, 0.13, 1.75), (0.59, 0.34, 0.7), wood)
        b.box((x + 0.22, -0.05, 1.5), (0.012, 0.02, 0.14), P.METAL)
    b.box((-w / 2 + 0.3, 0, 0.905), (0.56, 0.5, 0.01), P.DARK)


def fridge(b: Builder, at: Place) -> None:
    """0.6 x 0.62 x 1.8 m."""
    b.begin("fridge", *at)
    body = b.toned(P.METAL)
    b.box((0, 0, 0.9), (0.6, 0.6, 1.78), body)
    b.box((0, -0.31, 0.37), (0.595, 0.03, 0.68), body)
    b.box((0, -0.31, 1.25), (0.595, 0.03, 1.06), body)
    for z in (0.6, 1.0):
        b.box((0.25, -0.345, z), (0.02, 0.03, 0.3), P.DARK)


def person(b: Builder, at: Place) -> None:
    """1.67 to 1.83 m tall."""
    b.begin("person", *at)
    k = float(b.rng.normal(1, 0.02))
    skin, shirt, trousers = pick(b, P.SKIN), pick(b, P.SHIRTS), pick(b, P.TROUSERS)
    for x in (-0.1, 0.1):
        b.box((x * k, -0.05 * k, 0.04 * k), (0.1 * k, 0.27 * k, 0.08 * k), P.DARK)
        b.cylinder((x * k, 0, 0.06 * k), 0.07 * k, 0.78 * k, trousers, top_radius=0.095 * k, sides=8)
    b.ellipsoid((0, 0, 0.92 * k), (0.19 * k, 0.13 * k, 0.16 * k), trousers, rings=4, sides=8)
    b.ellipsoid((0, 0, 1.22 * k), (0.22 * k, 0.14 * k, 0.34 * k), shirt, sides=8)
    for x in (-0.26, 0.26):
        b.cylinder((x * k, 0, 0.84 * k), 0.042 * k, 0.58 * k, shirt, top_radius=0.06 * k, sides=6)
        b.ellipsoid((x * k, 0, 0.79 * k), (0.04 * k, 0.05 * k, 0.09 * k), skin, rings=4, sides=6)
    b.cylinder((0, 0, 1.5 * k), 0.055 * k, 0.08 * k, skin, sides=6)
    b.ellipsoid((0, 0, 1.635 * k), (0.078 * k, 0.095 * k, 0.115 * k), skin)
    b.ellipsoid((0, 0.02 * k, 1.67 * k), (0.083 * k, 0.095 * k, 0.095 * k), pick(b, P.HAIR))


def plant(b: Builder, at: Place) -> None:
    """A pot of 0.3 m with leaves up to about 1.2 m."""
    b.begin("plant", *at)
    b.cylinder((0, 0, 0), 0.12, 0.28, b.toned(P.POT), top_radius=0.16)
    b.cylinder((0, 0, 0.28), 0.015, 0.4, P.BARK, sides=6)
    leaf = b.toned(P.LEAF)
    for _ in range(5):
        x, y, z = b.rng.uniform([-0.16, -0.16, 0.5], [0.16, 0.16, 1.05])
        b.ellipsoid((x, y, z), (0.17, 0.17, 0.15), leaf, rings=4, sides=8)


def cartons(b: Builder, at: Place) -> None:
    """One to three moving boxes of 0.4 x 0.3 x 0.3 m."""
    b.begin("carton", *at)
    for i in range(int(b.rng.integers(1, 4))):
        b.box((float(b.rng.uniform(-0.03, 0.03)), 0, 0.15 + 0.3 * i), (0.4, 0.3, 0.298), b.toned(P.CARTON))


def floor_lamp(b: Builder, at: Place) -> None:
    """1.6 m tall."""
    b.begin("lamp", *at)
    b.cylinder((0, 0, 0), 0.14, 0.025, P.METAL)
    b.cylinder((0, 0, 0.02), 0.012, 1.35, P.METAL, sides=6)
    b.cylinder((0, 0, 1.3), 0.2, 0.3, P.LAMP, top_radius=0.13)


def bin_(b: Builder, at: Place) -> None:
    """A waste bin of 0.3 m."""
    b.begin("bin", *at)
    b.cylinder((0, 0, 0), 0.11, 0.32, pick(b, (P.METAL, P.DARK)), top_radius=0.14)


def ball(b: Builder, at: Place) -> None:
    """A football, 22 cm."""
    b.begin("ball", *at)
    b.ellipsoid((0, 0, 0.11), (0.11, 0.11, 0.11), P.BALL, rings=8, sides=12)


def rug(b: Builder, at: Place) -> None:
    """1.7 x 1.2 m with stripes."""
    b.begin("rug", *at)
    b.box((0, 0, 0.006), (1.7, 1.2, 0.012), pick(b, P.BLANKETS))


# name: (function, half width, half depth) of the footprint in metres
AT_WALL: dict[str, tuple[Callable[[Builder, Place], None], float, float]] = {
    "desk": (desk, 0.75, 0.37),
    "sofa": (sofa, 1.05, 0.46),
    "bed": (bed, 0.85, 1.08),
    "shelf": (shelf, 0.42, 0.17),
    "cupboard": (cupboard, 0.53, 0.32),
    "kitchen": (kitchen, 0.92, 0.33),
    "fridge": (fridge, 0.32, 0.36),
    "cartons": (cartons, 0.24, 0.2),
    "plant": (plant, 0.3, 0.3),
    "bin": (bin_, 0.15, 0.15),
    "floor_lamp": (floor_lamp, 0.22, 0.22),
    "chair": (chair, 0.25, 0.25),
}
FREE: dict[str, tuple[Callable[[Builder, Place], None], float, float]] = {
    "table": (table, 0.9, 0.45),
    "chair": (chair, 0.25, 0.25),
    "person": (person, 0.3, 0.2),
    "plant": (plant, 0.3, 0.3),
    "cartons": (cartons, 0.24, 0.2),
    "ball": (ball, 0.12, 0.12),
    "rug": (rug, 0.85, 0.6),
    "floor_lamp": (floor_lamp, 0.22, 0.22),
}
