"""Procedural materials in metres: every look has one true scale, so that a picture carries metric cues.

A material is one row of numbers (`Material`); a scene keeps its materials as one table and `albedo` evaluates all
pixels of an image at once: a grid of cells with joints (tiles, bricks, planks, slabs), a tone per cell, a motif
(discs, diamonds) and a noise (speckle, wood grain, clouds, leaves). Everything is pre-filtered by the size of the
pixel's footprint on the surface, so that far patterns fade to their mean instead of aliasing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Color = tuple[float, float, float]

SPECKLE, GRAIN, CLOUDS, LEAVES = range(4)  # kinds of noise
PLAIN, CHECKER, STRIPES = range(3)  # how the second colour `alt` is laid out over the cells
NO_MOTIF, DISC, DIAMOND, RING = range(4)

_HUGE = 1e4  # metres: a cell so large that its joints are never seen
_TEXEL = 0.002  # metres per texel of the finest noise level
_NOISE_SIZE = 512  # texels
_LEVELS = 10


@dataclass(frozen=True, kw_only=True)
class Material:
    """One look. Lengths in metres; colours in 0..1; all fields are plain numbers, so that a table holds them.

    pu, pv: cell size along u and v; ju, jv: joint width; shift: how far each row is moved, as a share of pu.
    layout: PLAIN, CHECKER or STRIPES of base and alt. vary: light variation per cell; hue: colour variation per cell.
    motif: NO_MOTIF, DISC, DIAMOND or RING of radius mr on an own grid of spacing mp, in colour mark.
    noise: kind; amount: its strength; scale: its magnification. along: u follows the longer side of a box's face.
    glow: 1 for what shines by itself.
    """

    base: Color
    joint: Color = (0.5, 0.5, 0.5)
    alt: Color = (0.5, 0.5, 0.5)
    mark: Color = (0.5, 0.5, 0.5)
    pu: float = _HUGE
    pv: float = _HUGE
    ju: float = 0.0
    jv: float = 0.0
    shift: float = 0.0
    layout: float = PLAIN
    vary: float = 0.0
    hue: float = 0.0
    motif: float = NO_MOTIF
    mp: float = 1.0
    mr: float = 0.1
    noise: float = CLOUDS
    amount: float = 0.05
    scale: float = 1.0
    along: float = 0.0
    glow: float = 0.0

    def row(self) -> list[float]:
        """The numbers in the order of `COLUMN`."""
        flat: list[float] = []
        for spec in fields(self):
            value = getattr(self, spec.name)
            flat.extend(value if isinstance(value, tuple) else (value,))
        return flat


_NAMES = (
    "br bg bb jr jg jb ar ag ab mkr mkg mkb pu pv ju jv shift layout vary hue motif mp mr noise amount scale along glow"
)
COLUMN: dict[str, int] = {name: i for i, name in enumerate(_NAMES.split())}


@functools.cache
def _noise_table() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All noises and their mip levels in one flat array, and [kind, level] -> offset into it."""
    rng = np.random.default_rng(7)
    n = _NOISE_SIZE
    f = np.fft.fftfreq(n) * n
    fv, fu = np.meshgrid(f, f, indexing="ij")
    radius = np.hypot(fu, fv)

    def spectrum(kind: int) -> NDArray[np.float64]:
        if kind == SPECKLE:  # a grain of about 1 cm
            return np.exp(-((radius / 70) ** 2)) * (radius > 8)
        if kind == GRAIN:  # streaks along u: 30 times longer than wide
            return 1 / (1 + np.hypot(fu * 30, fv * 1.0) / 12) ** 1.3
        if kind == CLOUDS:  # all scales
            return 1 / (1 + radius) ** 1.1
        return np.exp(-(((radius - 14) / 8) ** 2)) + 0.2 * np.exp(-((radius / 60) ** 2))  # leaves of about 4 cm

    parts: list[NDArray[np.float32]] = []
    offsets = np.zeros((4, _LEVELS), np.int64)
    position = 0
    for kind in range(4):
        white = np.fft.fft2(rng.standard_normal((n, n)))
        image = np.fft.ifft2(white * spectrum(kind)).real
        image = np.clip((image - image.mean()) / image.std(), -2.5, 2.5)
        for level in range(_LEVELS):
            offsets[kind, level] = position
            parts.append(image.astype(np.float32).ravel())
            position += image.size
            if image.shape[0] > 1:
                image = image.reshape(image.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    return np.concatenate(parts), offsets


def _noise(kind: NDArray, u: NDArray, v: NDArray, width: NDArray) -> NDArray[np.float32]:
    """Noise of unit strength at (u, v) metres, filtered to footprints of `width` metres; [N]."""
    table, offsets = _noise_table()
    level = np.clip(np.log2(width * np.float32(1 / _TEXEL)) + 0.5, 0, _LEVELS - 1).astype(np.int32)
    size = (_NOISE_SIZE >> level).astype(np.int32)
    per_metre = size * np.float32(1 / (_NOISE_SIZE * _TEXEL))
    iu = np.floor(u * per_metre).astype(np.int32) & (size - 1)
    iv = np.floor(v * per_metre).astype(np.int32) & (size - 1)
    return table[offsets[kind.astype(np.int32), level] + iv * size + iu]


def _hash(iu: NDArray, iv: NDArray, seed: NDArray) -> NDArray[np.uint32]:
    """Three whole numbers -> a well-mixed 32-bit number, [N]."""
    h = iu.astype(np.uint32) * np.uint32(0x9E3779B1)
    h ^= iv.astype(np.uint32) * np.uint32(0x85EBCA77)
    h ^= seed.astype(np.uint32) * np.uint32(0xC2B2AE3D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(16)
    return h


def _joint_cover(x: NDArray, period: NDArray, joint: NDArray, width: NDArray) -> NDArray:
    """Share of the interval [x - width/2, x + width/2] that lies in joints [k*period, k*period + joint]: exact."""

    def integral(t: NDArray) -> NDArray:
        k = np.floor(t / period)
        return k * joint + np.minimum(t - k * period, joint)

    return np.clip((integral(x + width * 0.5) - integral(x - width * 0.5)) / width, 0, 1)


def albedo(
    table: NDArray[np.float32], mat: NDArray, u: NDArray, v: NDArray, wu: NDArray, wv: NDArray, part: NDArray
) -> NDArray[np.float32]:
    """Surface colour of N pixels.

    table: [M, K] material rows; mat: [N] row of each pixel; u, v: [N] metres on the surface; wu, wv: [N] footprint of
    the pixel along u and v, metres; part: [N] whole number of the part, so that two equal boxes differ. -> [N, 3].
    """
    columns = np.ascontiguousarray(table.T)

    def get(name: str) -> NDArray:
        return columns[COLUMN[name]][mat]

    pu, pv, vary = get("pu"), get("pv"), get("vary")
    row = np.floor(v / pv)
    us = u + row * get("shift") * pu
    column = np.floor(us / pu)
    iu, iv = column.astype(np.int32), row.astype(np.int32)
    # How visible single cells still are: 1 when large on the image, 0 from half a period per pixel on.
    visible = np.clip((0.5 - np.maximum(wu / pu, wv / pv)) * 4, 0, 1)

    h = _hash(iu, iv, part)
    tones = [((h >> np.uint32(s)) & np.uint32(255)).astype(np.float32) / 127.5 - 1 for s in (0, 8, 16, 24)]
    layout = get("layout")
    parity = np.where(layout == CHECKER, (iu + iv) & 1, iu & 1).astype(np.float32)
    mix = np.where(layout == PLAIN, 0, 0.5 + (parity - 0.5) * visible)
    cover_u = _joint_cover(us, pu, get("ju"), wu)
    cover_v = _joint_cover(v, pv, get("jv"), wv)
    joint = 1 - (1 - cover_u) * (1 - cover_v)

    strength = get("amount") * np.where(joint > 0.5, 0.5, 1.0)
    inv_scale = 1 / get("scale")
    width = np.maximum(wu, wv) * inv_scale * 0.8
    moved = np.where(vary > 0, tones[3] * 7, 0)  # each plank has its own grain
    grain = _noise(get("noise"), (u + moved) * inv_scale, (v + moved) * inv_scale, width)
    light = (1 + strength * grain) * (1 + vary * tones[0] * visible)

    hue = get("hue") * visible
    color = np.empty((len(mat), 3), np.float32)
    for i, (base, alt, seam) in enumerate((("br", "ar", "jr"), ("bg", "ag", "jg"), ("bb", "ab", "jb"))):
        first = get(base)
        body = (first + (get(alt) - first) * mix + hue * tones[i + 1]) * light
        color[:, i] = body + (get(seam) - body) * joint
    _add_motifs(color, columns, mat, u, v, wu, wv)
    return color


def _add_motifs(
    color: NDArray, columns: NDArray, mat: NDArray, u: NDArray, v: NDArray, wu: NDArray, wv: NDArray
) -> None:
    """Paint the discs, diamonds and rings of those pixels whose material has any, in place."""
    at = np.flatnonzero(columns[COLUMN["motif"]][mat] != NO_MOTIF)
    if not len(at):
        return
    kind, spacing, radius = (columns[COLUMN[name]][mat[at]] for name in ("motif", "mp", "mr"))
    x = u[at] / spacing
    y = v[at] / spacing
    x, y = (x - np.floor(x) - 0.5) * spacing, (y - np.floor(y) - 0.5) * spacing
    away = np.where(kind == DIAMOND, np.abs(x) + np.abs(y), np.hypot(x, y))
    width = np.maximum(wu[at], wv[at])
    inside = np.clip((radius - away) / width + 0.5, 0, 1)
    inside = np.where(kind == RING, inside * np.clip((away - radius * 0.6) / width + 0.5, 0, 1), inside)
    area = np.where(kind == DIAMOND, 2.0, np.where(kind == RING, np.pi * 0.64, np.pi)) * (radius / spacing) ** 2
    visible = np.clip((0.5 - width / spacing) * 4, 0, 1)
    share = (area + (inside - area) * visible)[:, None]
    mark = np.stack([columns[COLUMN[name]][mat[at]] for name in ("mkr", "mkg", "mkb")], axis=1)
    color[at] += (mark - color[at]) * share
