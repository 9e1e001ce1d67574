"""Pictures of depth maps beside their truth: depth, contours, planes, clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from depthlm.evaluation.document import Gallery, Picture
from depthlm.evaluation.geometry import CONTOUR_RATIOS, check_maps, plane_errors
from depthlm.pictures import cloud_picture, colour_depth, data_uri
from depthlm.pointcloud import PointCloud

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.evaluation.maps import DenseCase

_CLOUD = (480, 360)
_SHOWN = CONTOUR_RATIOS[len(CONTOUR_RATIOS) // 2]
_TRUE, _SAID, _BOTH = (15, 138, 108), (201, 84, 26), (24, 28, 36)


def map_views(case: DenseCase) -> Gallery:
    """What the case shows, true and predicted: six pictures (without planes five, without a picture one less)."""
    p, g = check_maps(case.predicted, case.truth)
    near, far = np.nanquantile(g, [0.01, 0.99])
    far = max(far, near * 1.01)

    def depth(z: NDArray[np.float64]) -> str:
        return data_uri(Image.fromarray(colour_depth(z, near=near, far=far)))

    pictures = []
    if case.image is not None:
        pictures.append(Picture(data_uri(case.image.convert("RGB")), case.name, f"picture {case.name}"))
    scale = f"{near:.1f} m (bright) to {far:.1f} m (dark)"
    pictures += [
        Picture(depth(g), f"True z, {scale}.", "true depth"),
        Picture(depth(p), "Predicted z, the same colours; grey: none.", "predicted depth"),
        Picture(
            data_uri(contour_picture(p, g)),
            f"Contours at ratio {_SHOWN:.2f}: green only true, orange only predicted, black both.",
            "depth contours",
        ),
    ]
    if case.regions is not None:
        pictures.append(_planes(case, p, g))
    pivot = float(np.nanmedian(g))
    for z, name in ((g, "True"), (p, "Predicted")):
        colours = (
            case.image.convert("RGB")
            if case.image is not None
            else Image.fromarray(colour_depth(z, near=near, far=far))
        )
        cloud = PointCloud.from_depth(colours, z, case.camera)
        drawn = cloud_picture(cloud, case.camera, _CLOUD, pivot=pivot, splat=2, yaw=28, pitch=14)
        pictures.append(Picture(data_uri(drawn), f"{name} points seen from the side.", f"{name.lower()} point cloud"))
    return Gallery(pictures, 3)


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


def _planes(case: DenseCase, p: NDArray[np.float64], g: NDArray[np.float64]) -> Picture:
    """Each measured plane in a colour, with its errors beneath."""
    from matplotlib import colormaps

    assert case.regions is not None, "the caller has looked"
    errors = plane_errors(p, g, case.camera, case.regions)
    canvas = np.full((*g.shape, 3), 235, dtype=np.uint8)
    for number, error in enumerate(errors):
        canvas[case.regions == error.label] = (np.array(colormaps["tab10"](number % 10)[:3]) * 255).astype(np.uint8)
    told = "; ".join(f"{100 * e.planarity_rel:.1f} % rough, turned {e.orientation_deg:.1f} degrees" for e in errors[:4])
    caption = f"{len(errors)} planes{': ' if told else ''}{told}{' ...' if len(errors) > 4 else ''}"
    return Picture(data_uri(Image.fromarray(canvas)), caption, "planar regions")
