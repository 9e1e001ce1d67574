"""The looks: each name has one true size and one colour family, so that a look tells its scale.

Sizes follow common building products: 30, 40 and 60 cm floor tiles, 12, 15 and 20 cm planks, 25 x 7.5 cm bricks with
their joints, 15 and 20 cm wall tiles, 60 cm ceiling panels, 50 cm carpet tiles and paving slabs.
"""

from __future__ import annotations

from depthlm.synth.materials import CHECKER, CLOUDS, DIAMOND, DISC, GRAIN, LEAVES, RING, SPECKLE, STRIPES, Material

M = Material

FLOORS: dict[str, Material] = {
    "tiles 30 cm": M(
        base=(0.66, 0.42, 0.29), joint=(0.78, 0.72, 0.64), pu=0.3, pv=0.3, ju=0.008, jv=0.008, vary=0.16, amount=0.05
    ),
    "tiles 40 cm": M(
        base=(0.84, 0.82, 0.76),
        alt=(0.17, 0.17, 0.19),
        joint=(0.5, 0.5, 0.5),
        pu=0.4,
        pv=0.4,
        ju=0.005,
        jv=0.005,
        layout=CHECKER,
        vary=0.05,
        amount=0.06,
    ),
    "tiles 60 cm": M(
        base=(0.56, 0.59, 0.61),
        joint=(0.27, 0.28, 0.3),
        pu=0.6,
        pv=0.6,
        ju=0.006,
        jv=0.006,
        vary=0.08,
        amount=0.13,
        scale=1.5,
    ),
    "planks 12 cm": M(
        base=(0.72, 0.52, 0.31),
        joint=(0.3, 0.2, 0.11),
        pu=1.2,
        pv=0.12,
        ju=0.004,
        jv=0.005,
        shift=0.37,
        vary=0.16,
        noise=GRAIN,
        amount=0.09,
    ),
    "planks 15 cm": M(
        base=(0.73, 0.7, 0.65),
        joint=(0.42, 0.4, 0.37),
        pu=1.5,
        pv=0.15,
        ju=0.004,
        jv=0.005,
        shift=0.41,
        vary=0.13,
        noise=GRAIN,
        amount=0.08,
    ),
    "planks 20 cm": M(
        base=(0.33, 0.22, 0.15),
        joint=(0.12, 0.08, 0.06),
        pu=2.0,
        pv=0.2,
        ju=0.004,
        jv=0.006,
        shift=0.33,
        vary=0.2,
        noise=GRAIN,
        amount=0.14,
    ),
    "mosaic 5 cm": M(
        base=(0.28, 0.56, 0.56),
        joint=(0.85, 0.87, 0.85),
        pu=0.05,
        pv=0.05,
        ju=0.005,
        jv=0.005,
        vary=0.25,
        hue=0.05,
        amount=0.02,
    ),
    "carpet dots 20 cm": M(
        base=(0.23, 0.29, 0.5), mark=(0.78, 0.74, 0.58), motif=DISC, mp=0.2, mr=0.045, noise=SPECKLE, amount=0.12
    ),
    "carpet diamonds 50 cm": M(
        base=(0.27, 0.42, 0.3), mark=(0.66, 0.62, 0.42), motif=DIAMOND, mp=0.5, mr=0.19, noise=SPECKLE, amount=0.12
    ),
    "carpet tiles 50 cm": M(
        base=(0.36, 0.37, 0.4),
        alt=(0.46, 0.48, 0.54),
        pu=0.5,
        pv=0.5,
        ju=0.004,
        jv=0.004,
        joint=(0.25, 0.25, 0.28),
        layout=CHECKER,
        noise=SPECKLE,
        amount=0.16,
    ),
    "parquet 7 cm": M(
        base=(0.6, 0.37, 0.2),
        joint=(0.26, 0.15, 0.08),
        pu=0.42,
        pv=0.07,
        ju=0.003,
        jv=0.003,
        shift=0.5,
        vary=0.22,
        noise=GRAIN,
        amount=0.08,
    ),
}

WALLS: dict[str, Material] = {
    "brick red": M(
        base=(0.55, 0.3, 0.23),
        joint=(0.72, 0.69, 0.64),
        pu=0.25,
        pv=0.075,
        ju=0.012,
        jv=0.012,
        shift=0.5,
        vary=0.22,
        noise=SPECKLE,
        amount=0.06,
    ),
    "brick yellow": M(
        base=(0.76, 0.65, 0.44),
        joint=(0.5, 0.47, 0.43),
        pu=0.25,
        pv=0.075,
        ju=0.012,
        jv=0.012,
        shift=0.5,
        vary=0.17,
        noise=SPECKLE,
        amount=0.06,
    ),
    "blocks 40 cm": M(
        base=(0.62, 0.62, 0.6),
        joint=(0.47, 0.47, 0.46),
        pu=0.4,
        pv=0.2,
        ju=0.01,
        jv=0.01,
        shift=0.5,
        vary=0.08,
        noise=SPECKLE,
        amount=0.09,
    ),
    "wall tiles 15 cm": M(
        base=(0.6, 0.8, 0.7), joint=(0.9, 0.92, 0.9), pu=0.15, pv=0.15, ju=0.005, jv=0.005, vary=0.05, amount=0.02
    ),
    "wall tiles 20 cm": M(
        base=(0.42, 0.58, 0.75), joint=(0.86, 0.88, 0.9), pu=0.2, pv=0.2, ju=0.006, jv=0.006, vary=0.16, amount=0.04
    ),
    "panelling 10 cm": M(
        base=(0.66, 0.47, 0.28), joint=(0.28, 0.18, 0.1), pu=0.1, pv=2.6, ju=0.008, vary=0.12, noise=CLOUDS, amount=0.07
    ),
    "stripes 10 cm": M(base=(0.83, 0.81, 0.69), alt=(0.54, 0.66, 0.54), pu=0.1, layout=STRIPES, amount=0.03),
    "stripes 25 cm": M(base=(0.62, 0.6, 0.7), alt=(0.76, 0.75, 0.81), pu=0.25, layout=STRIPES, amount=0.03),
    "dots 15 cm": M(base=(0.85, 0.71, 0.7), mark=(0.62, 0.4, 0.45), motif=DISC, mp=0.15, mr=0.028, amount=0.03),
    "diamonds 30 cm": M(base=(0.82, 0.74, 0.58), mark=(0.65, 0.53, 0.35), motif=DIAMOND, mp=0.3, mr=0.1, amount=0.03),
    "rings 40 cm": M(base=(0.6, 0.72, 0.76), mark=(0.35, 0.48, 0.56), motif=RING, mp=0.4, mr=0.15, amount=0.03),
    "concrete 1.2 m": M(
        base=(0.66, 0.65, 0.62),
        joint=(0.45, 0.44, 0.42),
        mark=(0.3, 0.3, 0.3),
        pu=1.2,
        pv=0.6,
        ju=0.008,
        jv=0.008,
        vary=0.06,
        motif=DISC,
        mp=0.6,
        mr=0.016,
        amount=0.1,
        scale=1.5,
    ),
    "boards 14 cm": M(
        base=(0.8, 0.83, 0.83),
        joint=(0.48, 0.52, 0.54),
        pu=3.0,
        pv=0.14,
        ju=0.004,
        jv=0.009,
        shift=0.3,
        vary=0.05,
        noise=GRAIN,
        amount=0.04,
    ),
    "roughcast": M(base=(0.85, 0.83, 0.78), noise=SPECKLE, amount=0.1),
}

CEILINGS: dict[str, Material] = {
    "panels 60 cm": M(
        base=(0.88, 0.88, 0.86),
        joint=(0.63, 0.64, 0.66),
        mark=(0.58, 0.58, 0.57),
        pu=0.6,
        pv=0.6,
        ju=0.024,
        jv=0.024,
        motif=DISC,
        mp=0.06,
        mr=0.008,
        noise=SPECKLE,
        amount=0.04,
    ),
    "boards 10 cm": M(
        base=(0.8, 0.68, 0.5),
        joint=(0.42, 0.32, 0.2),
        pu=2.4,
        pv=0.1,
        ju=0.003,
        jv=0.008,
        shift=0.4,
        vary=0.1,
        noise=GRAIN,
        amount=0.07,
    ),
    "roughcast": M(base=(0.9, 0.9, 0.88), noise=SPECKLE, amount=0.07),
    "concrete deck": M(
        base=(0.68, 0.68, 0.67), joint=(0.5, 0.5, 0.5), pu=3.0, pv=0.25, jv=0.01, vary=0.06, amount=0.09
    ),
}

# Furniture and fittings. Woods carry their grain at true size; fabrics a weave of a few centimetres.
WOODS = (
    M(base=(0.64, 0.45, 0.27), noise=GRAIN, amount=0.13, along=1),
    M(base=(0.36, 0.24, 0.16), noise=GRAIN, amount=0.16, along=1),
    M(base=(0.8, 0.69, 0.52), noise=GRAIN, amount=0.09, along=1),
    M(base=(0.86, 0.86, 0.84), noise=GRAIN, amount=0.05, along=1),
)
FABRICS = (
    M(base=(0.36, 0.4, 0.5), alt=(0.46, 0.5, 0.6), pu=0.03, pv=0.03, layout=CHECKER, noise=SPECKLE, amount=0.07),
    M(base=(0.55, 0.34, 0.3), alt=(0.62, 0.42, 0.36), pu=0.03, pv=0.03, layout=CHECKER, noise=SPECKLE, amount=0.07),
    M(base=(0.56, 0.55, 0.5), alt=(0.66, 0.65, 0.6), pu=0.03, pv=0.03, layout=CHECKER, noise=SPECKLE, amount=0.07),
    M(base=(0.32, 0.45, 0.38), alt=(0.4, 0.54, 0.46), pu=0.03, pv=0.03, layout=CHECKER, noise=SPECKLE, amount=0.07),
    M(base=(0.74, 0.6, 0.3), alt=(0.82, 0.7, 0.4), pu=0.03, pv=0.03, layout=CHECKER, noise=SPECKLE, amount=0.07),
)
BLANKETS = (
    M(base=(0.8, 0.78, 0.74), alt=(0.48, 0.56, 0.68), pu=0.12, pv=0.12, layout=CHECKER, noise=SPECKLE, amount=0.05),
    M(base=(0.7, 0.5, 0.5), alt=(0.85, 0.8, 0.76), pu=0.08, layout=STRIPES, noise=SPECKLE, amount=0.05),
    M(base=(0.52, 0.62, 0.52), mark=(0.86, 0.86, 0.76), motif=DISC, mp=0.1, mr=0.02, noise=SPECKLE, amount=0.05),
)
WHITE = M(base=(0.88, 0.88, 0.87), noise=CLOUDS, amount=0.02)
METAL = M(base=(0.58, 0.6, 0.62), noise=GRAIN, amount=0.06, along=1)
DARK = M(base=(0.13, 0.13, 0.14), noise=SPECKLE, amount=0.1)
SCREEN = M(base=(0.1, 0.12, 0.15), noise=CLOUDS, amount=0.1)
GLASS = M(base=(0.62, 0.75, 0.88), noise=CLOUDS, amount=0.06, scale=3, glow=0.9)
PANE = M(base=(0.3, 0.38, 0.45), noise=CLOUDS, amount=0.08, scale=3)
LAMP = M(base=(0.97, 0.95, 0.88), glow=1.0, amount=0.0)
BOOKS = M(base=(0.45, 0.4, 0.38), joint=(0.1, 0.1, 0.1), pu=0.032, ju=0.003, vary=0.4, hue=0.22, amount=0.04)
DOORS = (
    M(base=(0.6, 0.42, 0.25), noise=GRAIN, amount=0.1, along=1),
    M(base=(0.84, 0.84, 0.82), noise=GRAIN, amount=0.03, along=1),
    M(base=(0.36, 0.48, 0.5), noise=GRAIN, amount=0.04, along=1),
)
CARTON = M(base=(0.65, 0.5, 0.34), joint=(0.78, 0.68, 0.5), pu=0.5, pv=0.15, jv=0.03, noise=GRAIN, amount=0.05)
SKIN = (M(base=(0.83, 0.65, 0.54), amount=0.03), M(base=(0.5, 0.35, 0.27), amount=0.03))
HAIR = (M(base=(0.2, 0.14, 0.1), noise=GRAIN, amount=0.2), M(base=(0.6, 0.5, 0.32), noise=GRAIN, amount=0.2))
SHIRTS = (
    M(base=(0.3, 0.42, 0.6), noise=SPECKLE, amount=0.06),
    M(base=(0.8, 0.8, 0.78), alt=(0.35, 0.45, 0.6), pu=0.04, pv=0.04, layout=CHECKER, noise=SPECKLE, amount=0.04),
    M(base=(0.62, 0.38, 0.35), noise=SPECKLE, amount=0.06),
    M(base=(0.4, 0.52, 0.38), noise=SPECKLE, amount=0.06),
)
TROUSERS = (M(base=(0.2, 0.25, 0.37), noise=SPECKLE, amount=0.12), M(base=(0.42, 0.38, 0.3), noise=SPECKLE, amount=0.1))
LEAF = M(base=(0.26, 0.42, 0.2), noise=LEAVES, amount=0.32)
POT = M(base=(0.62, 0.4, 0.3), noise=SPECKLE, amount=0.06)
BALL = M(base=(0.88, 0.88, 0.88), alt=(0.15, 0.15, 0.16), pu=0.07, pv=0.07, layout=CHECKER, amount=0.02)
PICTURE = M(base=(0.55, 0.55, 0.5), pu=0.12, pv=0.1, vary=0.3, hue=0.16, amount=0.18)

# Streets.
ASPHALT = M(base=(0.33, 0.33, 0.34), noise=SPECKLE, amount=0.22)
MARKING = M(base=(0.86, 0.86, 0.83), noise=SPECKLE, amount=0.06)
COBBLES = M(
    base=(0.5, 0.47, 0.44),
    joint=(0.24, 0.23, 0.21),
    pu=0.12,
    pv=0.12,
    ju=0.014,
    jv=0.014,
    shift=0.5,
    vary=0.25,
    noise=SPECKLE,
    amount=0.06,
)
PAVEMENTS = (
    M(
        base=(0.62, 0.61, 0.58),
        joint=(0.34, 0.33, 0.31),
        pu=0.5,
        pv=0.5,
        ju=0.012,
        jv=0.012,
        shift=0.5,
        vary=0.1,
        noise=SPECKLE,
        amount=0.09,
    ),
    M(
        base=(0.62, 0.45, 0.38),
        joint=(0.38, 0.32, 0.28),
        pu=0.2,
        pv=0.1,
        ju=0.007,
        jv=0.007,
        shift=0.5,
        vary=0.18,
        noise=SPECKLE,
        amount=0.07,
    ),
    M(
        base=(0.72, 0.68, 0.55),
        joint=(0.42, 0.4, 0.34),
        pu=0.3,
        pv=0.3,
        ju=0.009,
        jv=0.009,
        vary=0.1,
        noise=SPECKLE,
        amount=0.08,
    ),
)
KERB = M(base=(0.7, 0.69, 0.66), joint=(0.4, 0.4, 0.38), pu=1.0, ju=0.012, noise=SPECKLE, amount=0.08, along=1)
GRASS = M(base=(0.34, 0.47, 0.2), noise=LEAVES, amount=0.24)
HEDGE = M(base=(0.2, 0.35, 0.17), noise=LEAVES, amount=0.36)
BARK = M(base=(0.37, 0.29, 0.22), noise=LEAVES, amount=0.25)
ROOF = M(base=(0.52, 0.32, 0.26), joint=(0.25, 0.15, 0.13), pu=0.25, pv=0.33, ju=0.02, jv=0.04, vary=0.14, amount=0.08)
SIDING = M(base=(0.78, 0.8, 0.82), joint=(0.45, 0.47, 0.5), pu=4.0, pv=0.18, jv=0.014, vary=0.04, amount=0.05)
STUCCO = M(base=(0.86, 0.78, 0.62), noise=SPECKLE, amount=0.12)
CARS = (
    M(base=(0.28, 0.4, 0.58), amount=0.05),
    M(base=(0.75, 0.76, 0.77), amount=0.04),
    M(base=(0.22, 0.23, 0.25), amount=0.08),
    M(base=(0.6, 0.3, 0.28), amount=0.05),
    M(base=(0.36, 0.48, 0.4), amount=0.05),
    M(base=(0.82, 0.76, 0.5), amount=0.05),
)
LIGHT_FRONT = M(base=(0.92, 0.92, 0.84), amount=0.02)
LIGHT_BACK = M(base=(0.62, 0.2, 0.2), amount=0.02)
PLATE = M(base=(0.9, 0.9, 0.86), alt=(0.15, 0.15, 0.15), pu=0.03, layout=STRIPES, amount=0.0)
