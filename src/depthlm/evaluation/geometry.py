"""Metrics of depth maps: contours, planes, surface normals, point clouds. Maps are [H, W] z in metres, NaN for none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from depthlm.errors import InputError
from depthlm.surfaces import incidence_deg, known_depths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera

CONTOUR_RATIOS = np.linspace(1.05, 1.25, 10)
FEWEST_IN_PLANE = 200  # pixels; a smaller region says little about a plane
_ANSWERED = 0.5  # share of a region that must have a prediction
FLAT = 0.005  # a region is a plane when its true points lie within this share of their depth of one
CLOUD_POINTS = 20_000
CLOUD_TOLERANCE = 0.05  # share of the median true distance


def check_maps(predicted: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two maps of one size as floats, NaN where there is no depth. Raises InputError for other shapes."""
    p, g = known_depths(predicted), known_depths(truth)
    if p.ndim != 2 or p.shape != g.shape:
        raise InputError(f"depth map has shape {p.shape}, the truth {g.shape}; expected one [H, W] for both")
    return p, g


def boundary_f1(predicted: ArrayLike, truth: ArrayLike) -> dict[str, float] | None:
    """Contours of a map against those of the truth: {f1, precision, recall}; None for a truth without contours.

    A contour at ratio t lies between two neighbours (4-neighbourhood) of which one is farther than t times the other.
    Precision: share of the predicted contours that are true, the same side in front; recall: of the true ones that are
    predicted. Of ten t from 1.05 to 1.25 the mean with weights t. Only pairs whose true 3x3 neighbourhoods hold a depth
    everywhere are scored: at holes of the truth nobody knows where the edge is.
    Source: Depth Pro, Bochkovskii et al., arXiv 2410.02073, section 4 (scale-invariant boundary metrics); counts of
    the four directions are summed here, where they take the mean of the directions' ratios.
    """
    p, g = check_maps(predicted, truth)
    safe = binary_erosion(np.isfinite(g), np.ones((3, 3)), border_value=1)
    both, said, true = np.zeros((3, len(CONTOUR_RATIOS)))
    for a, b in _neighbours():
        scored = safe[a] & safe[b]
        with np.errstate(invalid="ignore"):
            steps_p = np.where(scored, np.log(p[b]) - np.log(p[a]), 0.0)
            steps_g = np.where(scored, np.log(g[b]) - np.log(g[a]), 0.0)
        for number, t in enumerate(np.log(CONTOUR_RATIOS)):
            for sign in (1, -1):
                with np.errstate(invalid="ignore"):
                    in_p, in_g = sign * steps_p > t, sign * steps_g > t
                both[number] += (in_p & in_g).sum()
                said[number] += in_p.sum()
                true[number] += in_g.sum()
    if not true[0]:
        return None
    kept = true > 0  # thresholds at which the truth has a contour at all
    precision = np.divide(both, said, out=np.zeros_like(both), where=said > 0)[kept]
    recall = (both[kept]) / true[kept]
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    weight = CONTOUR_RATIOS[kept]
    return {
        "f1": float((weight * f1).sum() / weight.sum()),
        "precision": float((weight * precision).sum() / weight.sum()),
        "recall": float((weight * recall).sum() / weight.sum()),
    }


def _neighbours() -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Slices of the left and the right, the upper and the lower pixel of every pair."""
    everything = slice(None)
    yield (everything, slice(None, -1)), (everything, slice(1, None))
    yield (slice(None, -1), everything), (slice(1, None), everything)


# --- planes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlaneError:
    """One planar region: its label, pixels, how flat the prediction is there, and how it is turned."""

    label: int
    pixels: int
    planarity_m: float
    planarity_rel: float
    orientation_deg: float


def lift(z: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    """[H, W] z -> [H, W, 3] points in the camera frame. Raises InputError for a map of another size than the camera."""
    if z.shape != (camera.height, camera.width):
        raise InputError(f"depth map has shape {z.shape}, its camera {camera.width}x{camera.height}")
    v, u = np.mgrid[: z.shape[0], : z.shape[1]]
    return camera.unproject(np.stack([u.ravel(), v.ravel()], axis=1), z.ravel()).reshape(*z.shape, 3)


def plane_errors(
    predicted: ArrayLike,
    truth: ArrayLike,
    camera: Camera,
    regions: NDArray[np.integer[Any]],
    normals: NDArray[np.floating[Any]] | None = None,
) -> list[PlaneError]:
    """For each region that is a plane in the truth: planarity and orientation error of the prediction.

    regions: [H, W] labels, 0 or less for none (iBims-1: masks of walls, tables and floors; rendered rooms: surfaces).
    normals: [K, 3] in row k - 1 the true unit normal of region k, camera frame, NaN where it is not known: a region
    with one is a plane because its source says so, and is measured whatever its true points do.
    planarity_m: root mean square distance, metres, of the predicted points from the plane laid through them (total
    least squares); planarity_rel: over their median distance from the camera. orientation_deg: angle between that
    plane's normal and the true one's. Regions of fewer than 200 pixels, with predictions for less than half of it, or
    (without a normal) whose true points do not lie in a plane (within 0.5 % of their distance) are left out.
    Source: Koch et al., Evaluation of CNN-based Single-Image Depth Estimation Methods, arXiv 1805.01328, section 3.
    """
    p, g = check_maps(predicted, truth)
    if regions.shape != g.shape:
        raise InputError(f"plane regions have shape {regions.shape}, the truth {g.shape}")
    said, true = lift(p, camera), lift(g, camera)
    found = []
    for label in np.unique(regions[regions > 0]):
        inside = (regions == label) & np.isfinite(g)
        if inside.sum() < FEWEST_IN_PLANE:
            continue
        normal, off, far = fit_plane(true[inside])
        if normals is not None and np.isfinite(normals[label - 1]).all():
            normal, off = np.asarray(normals[label - 1], dtype=np.float64), 0.0
        known = inside & np.isfinite(p)
        if off > FLAT * far or known.sum() < _ANSWERED * inside.sum():
            continue
        turned, rough, away = fit_plane(said[known])
        angle = float(np.degrees(np.arccos(np.clip(abs(normal @ turned), 0, 1))))
        found.append(PlaneError(int(label), int(known.sum()), rough, rough / away, angle))
    return found


def fit_plane(xyz: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """[N, 3] points -> normal of the plane laid through them, their rms distance from it, their median one from 0."""
    centred = xyz - xyz.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(xyz))
    return vectors[:, 0], float(np.sqrt(max(values[0], 0))), float(np.median(np.linalg.norm(xyz, axis=1)))


def incidence_map(truth: ArrayLike, camera: Camera) -> NDArray[np.float64]:
    """[H, W] angle between the line of sight and the surface's normal (surfaces.incidence_deg), degrees.

    NaN at the border, and where a neighbour has no depth.
    """
    _, g = check_maps(truth, truth)
    xyz = np.pad(lift(g, camera), ((1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    height, width = g.shape
    return incidence_deg(lambda du, dv: xyz[1 + dv : 1 + dv + height, 1 + du : 1 + du + width])


# --- clouds ---------------------------------------------------------------------------------------------------------


def cloud_errors(
    predicted: ArrayLike, truth: ArrayLike, *, tolerance_m: float | None = None, seed: int = 0
) -> dict[str, float]:
    """Two point clouds [N, 3], [M, 3], metres: accuracy, completeness, precision, recall and F-score.

    accuracy_m: mean distance of predicted points to the nearest true one; completeness_m: of true points to the nearest
    predicted one. precision, recall: shares of those distances below `tolerance_m` (5 % of the true points' median
    distance from the camera if not given; it is in the result); f_score: their harmonic mean. At most 20,000 points of
    each are used, drawn by seed. Raises InputError for an empty cloud.
    Source: Knapitsch et al., Tanks and Temples, 2017, section 3; Jensen et al., DTU, 2014.
    """
    clouds = []
    rng = np.random.default_rng([seed, 4])
    for name, cloud in (("predicted", predicted), ("true", truth)):
        xyz = np.asarray(cloud, dtype=np.float64).reshape(-1, 3)
        xyz = xyz[np.isfinite(xyz).all(axis=1)]
        if not len(xyz):
            raise InputError(f"the {name} point cloud is empty; nothing to compare")
        clouds.append(xyz if len(xyz) <= CLOUD_POINTS else xyz[rng.choice(len(xyz), CLOUD_POINTS, replace=False)])
    p, g = clouds
    if tolerance_m is None:
        tolerance_m = CLOUD_TOLERANCE * float(np.median(np.linalg.norm(g, axis=1)))
    to_truth, to_prediction = cKDTree(g).query(p)[0], cKDTree(p).query(g)[0]
    precision, recall = float((to_truth < tolerance_m).mean()), float((to_prediction < tolerance_m).mean())
    total = precision + recall
    return {
        "accuracy_m": float(to_truth.mean()),
        "completeness_m": float(to_prediction.mean()),
        "precision": precision,
        "recall": recall,
        "f_score": 2 * precision * recall / total if total else 0.0,
        "tolerance_m": tolerance_m,
    }
