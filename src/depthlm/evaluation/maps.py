"""Depth maps beside dense truth: one row of sums for each picture, figures with intervals over the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation.edges import flying_rate
from depthlm.evaluation.geometry import boundary_f1, check_maps, cloud_errors, incidence_map, lift, plane_errors
from depthlm.evaluation.resample import RESAMPLES, ImageSums, figures
from depthlm.evaluation.scalars import FORMULAS, GROUP_METRICS, columns
from depthlm.surfaces import edge_band

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from depthlm.camera import Camera
    from depthlm.evaluation.geometry import PlaneError
    from depthlm.evaluation.resample import Formula

# name -> (title, unit, which way is better): means over pictures (planes: over regions) that have the figure
MAP_FIGURES = {
    "flying_rate": ("flying points", "", "lower"),
    "boundary_f1": ("boundary F1", "", "higher"),
    "boundary_precision": ("boundary precision", "", "higher"),
    "boundary_recall": ("boundary recall", "", "higher"),
    "planarity_m": ("planarity error", "m", "lower"),
    "planarity_rel": ("planarity error over distance", "", "lower"),
    "orientation_deg": ("orientation error", "degrees", "lower"),
    "accuracy_m": ("cloud accuracy", "m", "lower"),
    "completeness_m": ("cloud completeness", "m", "lower"),
    "f_score": ("cloud F-score", "", "higher"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseCase:
    """One picture with a predicted and a true map.

    truth, predicted: [H, W] z of `camera`'s pixels, metres; NaN, infinite or not positive where there is none.
    image: the picture, for reports. regions: [H, W] labels of planar surfaces (0 for none), or None. normals: [K, 3]
    their true normals (geometry.plane_errors), where the data set marks them; marked: whether it marks the regions,
    which are otherwise looked for in the truth.
    """

    name: str
    camera: Camera
    truth: NDArray[np.floating[Any]]
    predicted: NDArray[np.floating[Any]]
    image: Image.Image | None = None
    regions: NDArray[np.integer[Any]] | None = None
    normals: NDArray[np.floating[Any]] | None = None
    marked: bool = False

    def plane_errors(self) -> list[PlaneError]:
        """Of each of its planes; none without regions."""
        if self.regions is None:
            return []
        return plane_errors(self.predicted, self.truth, self.camera, self.regions, self.normals)


def measure_maps(cases: Iterable[DenseCase], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Figures of maps, as plain numbers; {value, ci} with 95 % intervals by bootstrap over pictures.

    images, marked (those of which the set says itself what is a plane), skipped (a line for each case that cannot be
    measured; the others are kept), scalars over all pixels with a true depth, by_edge (interior, boundary) and
    by_incidence with delta1, AbsRel and scale, figures (MAP_FIGURES), and cases: those of each picture (of planes the
    mean over its `regions`). Raises InputError when no case can be measured.
    """
    rows: list[dict[str, Any]] = []
    pixels: list[dict[str, NDArray[np.float64]]] = []
    skipped: list[str] = []
    for case in cases:
        try:
            row, sums = _measure_case(case)
        except InputError as error:
            skipped.append(f"{case.name}: {error}")
            continue
        rows.append(row)
        pixels.append(sums)
    if not rows:
        raise InputError(f"no depth map can be measured ({'; '.join(skipped[:3]) or 'none given'})")
    draw: dict[str, Any] = {"seed": seed, "resamples": resamples}
    grouped = ImageSums({name: np.concatenate([sums[name] for sums in pixels]) for name in pixels[0]})
    whole = ImageSums({name: value[:, :1] + value[:, 1:2] for name, value in grouped.values.items()})
    found = figures(grouped, {name: FORMULAS[name] for name in GROUP_METRICS}, **draw)
    titles: list[dict[str, Any]] = [{"place": "interior"}, {"place": "boundary"}]
    titles += [{"from": a, "to": a + 30} for a in (0, 30, 60)]
    counts = grouped.total()["n"]
    groups = [
        title | {"n": int(counts[k])} | {name: found[name][k] for name in GROUP_METRICS}
        for k, title in enumerate(titles)
    ]
    return {
        "images": len(rows),
        "marked": sum(row["marked"] for row in rows),
        "skipped": skipped,
        "scalars": {name: cell[0] for name, cell in figures(whole, FORMULAS, **draw).items()},
        "by_edge": [row for row in groups[:2] if row["n"]],
        "by_incidence": [row for row in groups[2:] if row["n"]],
        "figures": {name: cell[0] for name, cell in figures(*figure_sums(rows), **draw).items()},
        "cases": rows,
    }


def figure_sums(cases: Sequence[Mapping[str, Any]]) -> tuple[ImageSums, dict[str, Formula]]:
    """Of `measure_maps`' cases: sums over pictures (planes: over regions) whose ratios MAP_FIGURES are."""
    values: dict[str, NDArray[np.float64]] = {}
    formulas: dict[str, Formula] = {}
    for name in MAP_FIGURES:
        weight = np.array([
            0 if case[name] is None else case["regions"] if name in _PLANES else 1 for case in cases
        ], dtype=np.float64)  # fmt: skip
        values[name] = (weight * [case[name] or 0.0 for case in cases])[:, None]
        values[f"{name}.n"] = weight[:, None]
        formulas[name] = _mean(name)
    return ImageSums(values), formulas


_PLANES = ("planarity_m", "planarity_rel", "orientation_deg")


def _mean(name: str) -> Formula:
    return lambda s: s[name] / s[f"{name}.n"]


def _measure_case(case: DenseCase) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Figures of one picture, and sums [1, 5] over its pixels: interior, boundary, three ranges of incidence."""
    p, g = check_maps(case.predicted, case.truth)
    true = lift(g, case.camera)
    valid = np.isfinite(g)
    if not valid.any():
        raise InputError("the true map holds no depth")
    if not (np.isfinite(p) & valid).any():
        raise InputError("the predicted map holds no depth where the truth has one")
    contours = boundary_f1(p, g) or {}
    planes = case.plane_errors()
    cloud = cloud_errors(lift(p, case.camera)[valid & np.isfinite(p)], true[valid])
    row: dict[str, Any] = {
        "name": case.name,
        "flying_rate": flying_rate(p, g),
        "boundary_f1": contours.get("f1"),
        "boundary_precision": contours.get("precision"),
        "boundary_recall": contours.get("recall"),
        "accuracy_m": cloud["accuracy_m"],
        "completeness_m": cloud["completeness_m"],
        "f_score": cloud["f_score"],
        "regions": len(planes),
        "marked": case.marked,
        **{name: float(np.mean([getattr(p, name) for p in planes])) if planes else None for name in _PLANES},
    }
    near = edge_band(g)[valid].astype(np.int64)
    angle = incidence_map(g, case.camera)[valid]
    known = np.isfinite(angle) & (near == 0)  # across an edge there is no surface
    third = np.where(known, np.minimum(angle // 30, 2), -1).astype(np.int64)
    image = np.zeros(len(near), dtype=np.int64)
    parts = [
        ImageSums.of(columns(p[valid], g[valid]), image, 1, group, size).values
        for group, size in ((near, 2), (third, 3))
    ]
    return row, {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
