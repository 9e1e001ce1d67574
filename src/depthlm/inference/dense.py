"""Dense maps from few questions: ask where the picture is not yet understood, then complete (completion.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image
from scipy.spatial import Delaunay, cKDTree

from depthlm.errors import InputError
from depthlm.inference.completion import Completer
from depthlm.inference.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from depthlm.camera import Camera
    from depthlm.inference.backend import Backend, Quantity
    from depthlm.models.card import ModelCard

    # [K, 2] pixels -> z [K] metres (NaN: no answer) and the relative error to be expected of each [K] (NaN: unknown)
    Ask = Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.float64]]]

BUDGET = 2000
LARGEST = 1_500_000  # pixels that are completed one by one; a larger picture is completed smaller
_FIRST = 0.3  # of the budget: an even grid
_ROUNDS = 20  # in which the rest is spent
_LOOKED_AT = 80_000  # pixels that are looked at to choose the next questions
_CLOSEST = 1.5  # pixels between two questions
_UNSEEN = 0.004  # error to be expected of a pixel whose votes agree: nobody has looked yet
_SIGMAS = 2.563  # standard deviations of a normal distribution that an 80 % interval spans
_WIDE = 20.0  # pixels from all questions beyond which more distance makes a pixel no better to ask


@dataclass(frozen=True, slots=True, eq=False)
class DenseMap:
    """Depth at every pixel of a picture.

    z: [H, W] float32 metres along the principal axis. confidence: [H, W] float32, 0 to 1: share of the votes of the
    measured points around that agree on it. uv: [N, 2] pixels that were asked. measured: [N] their z, metres, NaN where
    the answer held no number.
    """

    z: NDArray[np.float32]
    confidence: NDArray[np.float32]
    uv: NDArray[np.int64]
    measured: NDArray[np.float64]


def depth_map(
    backend: Backend,
    image: Image.Image,
    camera: Camera,
    *,
    budget: int = BUDGET,
    answers: Quantity | None = None,
    shape: NDArray[np.floating[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DenseMap:
    """The depth map of a picture by `budget` questions. progress: called with (asked, budget).

    answers: what the model's numbers mean, default what its card says. shape: see `complete_image`. Raises InputError
    for a budget below 1, a camera of another size, and a model that answers no question with a number.
    """
    if (camera.width, camera.height) != image.size:
        size = f"{image.width}x{image.height}"
        raise InputError(f"the camera is of {camera.width}x{camera.height} pixels, the image of {size}; resize it")

    view = backend.whole_view(image, camera)

    def ask(uv: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = backend.measure(image, uv, camera, answers=answers, wanted="z", like=view)
        with np.errstate(invalid="ignore", divide="ignore"):
            return found.z, np.log(found.high / found.low) / _SIGMAS

    return complete_image(image, ask, budget=budget, shape=shape, progress=progress)


def cheapest_reference(card: ModelCard) -> str | None:
    """Text coordinates where the model knows them: one reading of the picture then serves all questions."""
    return "text" if "text" in card.references else None


def complete_image(
    image: Image.Image,
    ask: Ask,
    *,
    budget: int = BUDGET,
    shape: NDArray[np.floating[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DenseMap:
    """The same with whatever answers `ask`; it sees pixels of `image`, each at most once.

    shape: [H, W] depth, or inverse depth, of another model up to scale and shift (shape.py): answers say how large
    things are, it says what lies between. Then not depth is completed but its ratio to that of the aligned shape.
    """
    if budget < 1:
        raise InputError(f"--budget is {budget}; expected 1 or more questions")
    if shape is not None and shape.shape != (image.height, image.width):
        raise InputError(f"the shape is {shape.shape}, the image {(image.height, image.width)} (height, width)")
    shrink = max(1, math.ceil(math.sqrt(image.width * image.height / LARGEST)))
    work = image if shrink == 1 else image.resize((image.width // shrink, image.height // shrink), Image.Resampling.BOX)
    scale = np.array(image.size) / np.array(work.size)
    told = progress or (lambda done, total: None)
    budget = min(budget, work.width * work.height)

    asked: list[NDArray[np.int64]] = []
    said: list[NDArray[np.float64]] = []
    errors: list[NDArray[np.float64]] = []

    def put(points: NDArray[np.int64]) -> None:
        z, error = ask(np.floor((points + 0.5) * scale).astype(np.int64))
        asked.append(points)
        said.append(np.where(z > 0, z, np.nan))
        errors.append(error)
        told(sum(map(len, asked)), budget)

    guide = None if shape is None else Shape(cv2.resize(shape.astype(np.float32), work.size), Completer(work))
    completer = Completer(work) if guide is None else guide
    put(_first_points(work.size, budget))
    for number in range(_ROUNDS, 0, -1):
        points, z = np.concatenate(asked), np.concatenate(said)
        count = math.ceil((budget - len(points)) / number)
        if not count:
            break
        known = np.isfinite(z)
        if not known.any():
            raise InputError(f"none of {len(z)} answers held a number; a map needs a model that measures")
        put(_next_points(completer, work.size, points, known, z, _noise(errors), count))
    points, z = np.concatenate(asked), np.concatenate(said)
    known = np.isfinite(z)
    if not known.any():
        raise InputError(f"none of {len(z)} answers held a number; a map needs a model that measures")
    v, u = np.mgrid[: work.height, : work.width]
    votes = completer(points[known], z[known], np.stack([u.ravel(), v.ravel()], axis=1), _noise(errors))

    def full(values: NDArray[np.float64]) -> NDArray[np.float32]:
        grid = values.reshape(work.height, work.width).astype(np.float32)
        return grid if shrink == 1 else np.asarray(cv2.resize(grid, image.size, interpolation=cv2.INTER_NEAREST))

    return DenseMap(full(votes.z), full(votes.agreement), np.floor((points + 0.5) * scale).astype(np.int64), z)


def _noise(errors: list[NDArray[np.float64]]) -> float:
    """The relative error that answers to neighbouring questions may differ by: half of what they are unsure of.

    The other half is the scale of the whole surface, which neighbours share. 0 where nothing is known.
    """
    known = np.concatenate(errors)
    known = known[np.isfinite(known)]
    return 0.5 * float(np.median(known)) if len(known) else 0.0


def _first_points(size: tuple[int, int], budget: int) -> NDArray[np.int64]:
    """An even grid, every second row shifted; [N, 2] pixels, N <= budget."""
    width, height = size
    count = max(1, min(budget, max(16, int(_FIRST * budget))))
    columns = max(1, min(count, width, round(math.sqrt(count * width / height))))
    rows = max(1, min(height, count // columns))
    u = np.tile((np.arange(columns) + 0.5) / columns * width - 0.5, (rows, 1))
    if rows > 1:
        u += np.where(np.arange(rows) % 2, 0.25, -0.25)[:, None] * width / columns
    v = np.tile(((np.arange(rows) + 0.5) / rows * height - 0.5)[:, None], (1, columns))
    points = np.stack([u.ravel(), v.ravel()], axis=1).round().clip(0, [width - 1, height - 1]).astype(np.int64)
    return np.unique(points, axis=0)


def _next_points(
    completer: Completer | Shape,
    size: tuple[int, int],
    points: NDArray[np.int64],
    known: NDArray[np.bool_],
    z: NDArray[np.float64],
    noise: float,
    count: int,
) -> NDArray[np.int64]:
    """Where to ask next: in the triangles between questions that hold most of the error to be expected.

    At most `count` pixels, not too close to each other or to older ones; a pixel far from all is always found.
    """
    width, height = size
    step = max(1, math.ceil(math.sqrt(width * height / _LOOKED_AT)))
    v, u = np.mgrid[:height:step, :width:step]
    at = np.stack([u.ravel(), v.ravel()], axis=1)
    apart = cKDTree(points).query(at, workers=-1)[0]
    error = completer(points[known], z[known], at, noise).spread + _UNSEEN
    # Corners beyond the picture, so that every pixel lies in a triangle.
    around = np.array([[-1, -1], [width, -1], [-1, height], [width, height]])
    triangles = Delaunay(np.concatenate([points, around]).astype(np.float64))
    inside = triangles.find_simplex(at)
    free = apart >= min(_CLOSEST, step)
    total = np.bincount(inside, weights=error * free, minlength=len(triangles.simplices))
    side = np.sqrt(np.bincount(inside, minlength=len(total)) * float(step**2))
    order = np.lexsort((np.where(free, error * np.minimum(apart, _WIDE), -1.0), inside))
    ends = np.flatnonzero(np.diff(inside[order], append=-1))
    best = np.full(len(total), -1)
    best[inside[order[ends]]] = order[ends]
    taken = np.zeros((height, width), dtype=bool)
    chosen: list[tuple[int, int]] = []
    for triangle in np.argsort(-total, kind="stable"):
        if len(chosen) == count or total[triangle] <= 0:
            break
        if not free[best[triangle]]:
            continue
        x, y = at[best[triangle]]
        gap = int(max(1, min(0.5 * side[triangle], 8)))
        if not taken[max(0, y - gap) : y + gap + 1, max(0, x - gap) : x + gap + 1].any():
            taken[y, x] = True
            chosen.append((int(x), int(y)))
    if not chosen:  # every triangle is too small to hold one more: whatever is farthest
        chosen = [(int(at[k, 0]), int(at[k, 1])) for k in np.argsort(-apart, kind="stable")[:count] if apart[k] > 0]
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)
