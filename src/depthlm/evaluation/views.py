"""Pictures of depth maps beside their truth: depth, contours, planes, clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.evaluation.document import Gallery, Picture
from depthlm.evaluation.geometry import CONTOUR_RATIOS, check_maps
from depthlm.pictures import cloud_picture, colour_depth, data_uri
from depthlm.pointcloud import PointCloud
from depthlm.surfaces import known_depths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.evaluation.maps import DenseCase

_CLOUD = (480, 360)
_SHOWN = CONTOUR_RATIOS[len(CONTOUR_RATIOS) // 2]
_FULL = 1.5  # factor of full colour
_STEEP = 45  # degrees of full brightness
_NONE = (0.92, 0.92, 0.92)
_TRUE, _SAID, _BOTH = (15, 138, 108), (201, 84, 26), (24, 28, 36)


def map_views(case: DenseCase) -> Gallery:
    """What the case shows, true and predicted: eight pictures; one less without planes, or without the picture."""
    true, said = truth_views(case), answer_views(case)
    return Gallery([*true[:-1], *said[:-1], true[-1], said[-1]], 4)


def truth_views(case: DenseCase) -> list[Picture]:
    """The picture, where there is one, its true depth, and the true points from the side."""
    _, g = check_maps(case.predicted, case.truth)
    near, far = shown_range(g)
    scale = f"{near:.1f} m (bright) to {far:.1f} m (dark)"
    shown = [Picture(depth_picture(g, near, far), f"True z, {scale}.", "true depth"), _cloud(case, g, "True")]
    if case.image is not None:
        shown.insert(0, Picture(data_uri(case.image.convert("RGB")), case.name, f"picture {case.name}"))
    return shown


def answer_views(case: DenseCase, who: str = "") -> list[Picture]:
    """The predicted depth, how far it is off, its contours, planes where there are any, and its points from the side.

    who: the model, where there are several.
    """
    p, g = check_maps(case.predicted, case.truth)
    near, far = shown_range(g)
    name = f"{who}: predicted" if who else "Predicted"
    shown = [
        Picture(depth_picture(p, near, far), f"{name} z, the same colours; grey: none.", "predicted depth"),
        Picture(
            data_uri(ratio_picture(p, g)),
            f"Off by: blue too near, red too far, full colour by a factor of {_FULL:g}.",
            "prediction over truth",
        ),
        Picture(
            data_uri(contour_picture(p, g)),
            f"Contours at ratio {_SHOWN:.2f}: green only true, orange only predicted, black both.",
            "depth contours",
        ),
    ]
    if case.regions is not None:
        shown.append(_planes(case))
    return [*shown, _cloud(case, p, "Predicted")]


def _cloud(case: DenseCase, z: NDArray[np.float64], name: str) -> Picture:
    """The points of a map of the case, seen from the side."""
    known = known_depths(case.truth)
    near, far = shown_range(known)
    colours = (
        case.image.convert("RGB") if case.image is not None else Image.fromarray(colour_depth(z, near=near, far=far))
    )
    cloud = PointCloud.from_depth(colours, z, case.camera)
    pivot = float(np.nanmedian(known))
    drawn = cloud_picture(cloud, case.camera, _CLOUD, pivot=pivot, splat=2, yaw=28, pitch=14)
    return Picture(data_uri(drawn), f"{name} points seen from the side.", f"{name.lower()} point cloud")


def shown_range(truth: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """The depths, metres, between which colours run for a true map."""
    near, far = np.nanquantile(known_depths(truth), [0.01, 0.99]).tolist()
    return near, max(far, near * 1.01)


def depth_picture(z: NDArray[np.floating[Any]], near: float, far: float) -> str:
    """The address of a map in colours, grey where there is none."""
    return data_uri(Image.fromarray(colour_depth(known_depths(z), near=near, far=far)))


def contour_picture(p: NDArray[np.float64], g: NDArray[np.float64]) -> Image.Image:
    """[H, W] maps -> contours of the middle threshold, by who has them."""
    said, true = _contours(p), _contours(g)
    canvas = np.full((*g.shape, 3), 250, dtype=np.uint8)
    for where, colour in ((true & ~said, _TRUE), (said & ~true, _SAID), (said & true, _BOTH)):
        canvas[where] = colour
    return Image.fromarray(canvas)


def _contours(z: NDArray[np.float64]) -> NDArray[np.bool_]:
    t = np.log(_SHOWN)
    found = np.zeros(z.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        found[:, :-1] |= np.abs(np.diff(np.log(z), axis=1)) > t
        found[:-1] |= np.abs(np.diff(np.log(z), axis=0)) > t
    return found


def ratio_picture(p: NDArray[np.float64], g: NDArray[np.float64]) -> Image.Image:
    """[H, W] maps -> how far the prediction is off: blue too near, red too far, white right, grey where one is missing.

    Full colour is a factor of 1.5.
    """
    from matplotlib import colormaps

    with np.errstate(invalid="ignore"):
        off = np.log(p / g) / np.log(_FULL)
    canvas = colormaps["RdBu_r"](np.nan_to_num(np.clip(off / 2 + 0.5, 0, 1)))[..., :3]
    canvas[~np.isfinite(off)] = _NONE
    return Image.fromarray((canvas * 255).astype(np.uint8))


def _planes(case: DenseCase) -> Picture:
    """Each measured plane in the colour of the angle by which the prediction turns it."""
    from matplotlib import colormaps

    assert case.regions is not None, "the caller has looked"
    errors = case.plane_errors()
    canvas = np.full((*case.regions.shape, 3), _NONE)
    for error in errors:
        canvas[case.regions == error.label] = colormaps["viridis"](min(error.orientation_deg / _STEEP, 1.0))[:3]
    who = "marked by the set" if case.marked else "found in the truth"
    told = f"{len(errors)} planes {who}" if errors else f"No plane {who} could be measured."
    if errors:
        turned, rough = (np.median([getattr(e, key) for e in errors]) for key in ("orientation_deg", "planarity_rel"))
        told += (
            f", by how far they are turned: dark 0\N{DEGREE SIGN}, bright {_STEEP}\N{DEGREE SIGN} and more. "
            f"Median {turned:.0f}\N{DEGREE SIGN}, {100 * rough:.1f} % rough."
        )
    return Picture(data_uri(Image.fromarray((canvas * 255).astype(np.uint8))), told, "planar regions")
