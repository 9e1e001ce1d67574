"""Which objects a rendered picture shows, where they are seen, and their boxes in space: labels from the scene itself.

The rectangle comes from the pixels' own object numbers, the box from what was built. What stands on an object without
being part of it (the bottle on a table) belongs to neither.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import find_objects

from depthlm.objects import LabelledObject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.synth.builder import SceneObject
    from depthlm.synth.render import Rendered
    from depthlm.synth.scene import Scene

# Things that can be counted and have a width and a height that people would name. Not the rug (flat), the bollards
# (three at a time), switches and sockets (a few pixels), and what belongs to a building.
LABELLED = frozenset({
    "ball", "bed", "bench", "bin", "car", "carton", "chair", "clock", "cupboard", "desk", "door", "fridge", "kitchen",
    "lamp", "lamp post", "person", "picture", "plant", "radiator", "shelf", "sign", "sofa", "table", "tree", "tv",
    "window",
})  # fmt: skip
# Objects are built with their back towards +y of their own frame; these drive along +x.
_FACES_X = frozenset({"car"})
LEAST_VISIBLE = 0.5  # share; an object of which less is seen is not labelled
SMALLEST = 8  # pixels of the rectangle's shorter side
_SAMPLES = 600  # places on an object's surface that say how much of it is seen


def labelled_objects(scene: Scene, rendered: Rendered) -> tuple[LabelledObject, ...]:
    """The objects of LABELLED in a picture of the scene of which enough is seen, in the order they were built."""
    found = find_objects(rendered.instance + 1)
    made = []
    for thing in scene.objects:
        place = found[thing.thing] if thing.name in LABELLED and thing.thing < len(found) else None
        if place is None:
            continue
        rows, columns = place
        if min(rows.stop - rows.start, columns.stop - columns.start) < SMALLEST:
            continue
        visible = visible_share(scene, rendered, thing.thing)
        if visible >= LEAST_VISIBLE:
            box = (columns.start - 0.5, rows.start - 0.5, columns.stop - 0.5, rows.stop - 0.5)
            made.append(_label(thing, rendered.pose, box, visible))
    return tuple(made)


def _label(
    thing: SceneObject, pose: NDArray[np.float64], box: tuple[float, float, float, float], visible: float
) -> LabelledObject:
    x, y, z = thing.size.tolist()
    width, depth, yaw = (y, x, thing.yaw + math.pi / 2) if thing.name in _FACES_X else (x, y, thing.yaw)
    c, s = math.cos(yaw), math.sin(yaw)
    axes = np.array([[c, 0, -s], [s, 0, c], [0, -1, 0]])  # columns: width, down, depth in the world
    turn = pose[:3, :3].T
    center = turn @ (thing.center - pose[:3, 3])
    return LabelledObject(
        name=thing.name,
        box=box,
        size=(width, z, depth),
        center=(float(center[0]), float(center[1]), float(center[2])),
        axes=tuple((turn @ axes).ravel().tolist()),
        visible=visible,
    )


def visible_share(scene: Scene, rendered: Rendered, thing: int) -> float:
    """How much of an object's surface is on the picture with nothing else before it, 0 to 1.

    Places spread over its faces count by the solid angle they stand for; one is seen where the pixel it falls on shows
    the object (what is hidden by the object itself is not hidden). Parts that are thinner than a pixel may be missed.
    """
    quads = scene.quads
    corners = quads.corners[quads.instance == thing]  # [Q, 4, 3]
    side = int(np.clip(math.ceil(math.sqrt(_SAMPLES / len(corners))), 2, 12))
    at = (np.arange(side) + 0.5) / side
    u, v = (share.ravel() for share in np.meshgrid(at, at))
    spread = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v])  # [4, S] bilinear
    turn = rendered.pose[:3, :3]
    area = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]) @ turn  # [Q, 3] twice the area
    points = np.einsum("qki,ks->qsi", (corners - rendered.pose[:3, 3]) @ turn, spread)  # [Q, S, 3] camera frame
    weight = np.abs(np.einsum("qsi,qi->qs", points, area)) / np.sum(points * points, axis=2) ** 1.5
    ahead = points[..., 2] > 1e-3
    camera = rendered.camera
    uv = camera.project(points[ahead])
    on = camera.contains(uv)
    column, row = np.floor(uv[on] + 0.5).astype(np.int64).T
    seen = np.zeros(len(uv))
    seen[on] = rendered.instance[row, column] == thing
    return min(1.0, float(seen @ weight[ahead] / weight.sum()))  # rounding
