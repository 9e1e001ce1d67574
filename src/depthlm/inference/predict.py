"""Measure points in one photograph: file in, plain values and their explanation out."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.camera_io import ResolvedCamera, resolve_camera
from depthlm.errors import InputError
from depthlm.inference.images import read_picture
from depthlm.metrics import plain
from depthlm.pictures import draw_lengths
from depthlm.pointcloud import write_whole
from depthlm.sample import decode_image, open_encoded
from depthlm.tasks import Second, Subject, get_task
from depthlm.tasks.answers import Pixel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera
    from depthlm.inference.backend import Backend, Quantity
    from depthlm.tasks import Task
    from depthlm.view import View


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """An upright picture, where its camera came from, and the points asked about, [N, 2] original pixels.

    straight: picture, camera and points without lens distortion, which is what a model is asked about.
    """

    path: Path
    image: Image.Image
    resolved: ResolvedCamera
    uv: NDArray[np.float64]
    straight: tuple[Image.Image, Camera, NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "straight", self.resolved.straighten(self.image, self.uv))

    def at(self, uv: ArrayLike) -> Photo:
        """The same picture, asked about at other points ([N, 2] original pixels); it is not straightened again."""
        points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
        photo = copy.copy(self)
        object.__setattr__(photo, "uv", points)
        object.__setattr__(photo, "straight", (*self.straight[:2], self.resolved.straighten_points(points)))
        return photo


def read_photo(
    path: Path,
    uv: Sequence[tuple[float, float]],
    *,
    focal: float | None = None,
    fov: float | None = None,
    file: Path | None = None,
    estimator: str | None = None,
    assume_fov: float | None = None,
) -> Photo:
    """Read a picture and find its camera. Raises InputError, with the file's name, for anything that does not fit."""
    data = read_picture(path)
    upright = decode_image(data, where=str(path))
    try:
        # EXIF lives in the file as it is, not in the upright copy.
        resolved = resolve_camera(
            open_encoded(data), focal=focal, fov=fov, file=file, estimator=estimator, assume_fov=assume_fov
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    points = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
    outside = ~(np.isfinite(points).all(axis=1) & resolved.camera.contains(points))
    if outside.any():
        u, v = points[int(np.flatnonzero(outside)[0])]
        raise InputError(f"{path}: point ({u:g}, {v:g}) lies outside the {upright.width}x{upright.height} image")
    return Photo(path, upright, resolved, points)


def read_again(path: Path, uv: Sequence[tuple[float, float]], resolved: ResolvedCamera) -> Photo:
    """A photo whose camera is known and whose points were found to lie in it. Raises InputError if it has changed."""
    camera = resolved.camera
    upright = decode_image(read_picture(path), where=str(path), size=(camera.width, camera.height))
    return Photo(path, upright, resolved, np.asarray(uv, dtype=np.float64).reshape(-1, 2))


def ask_photo(
    backend: Backend,
    photo: Photo,
    *,
    second: Photo | None = None,
    task: str = "distance",
    given: float | None = None,
    answers: Quantity | None = None,
    like: View | None = None,
) -> dict[str, Any]:
    """Ask about the photo's points. Lengths in metres; None where the model's answer does not state what was asked.

    distance, z: `points` holds one entry for each point, `value`, `low` and `high` of that quantity; the interval is
    calibrated where `interval` says so, else the model's own belief. Other tasks: `questions` holds one entry for each
    point, or for each two where the task is about two. given: what a speed (seconds) or time (m/s) question states.
    second: the other picture of a task about two images, whose points are those of the first; `pixel` is then where an
    answer points in it. like: the backend's `whole_view` of the straight picture, for who asks about it repeatedly.
    Raises InputError for pictures, points or `given` that do not suit the task.
    """
    if (get_task(task).images == 2) != (second is not None):
        raise InputError(f"task {task} is about {get_task(task).images} image{'s' * (second is None)} at a time")
    if get_task(task).objects:
        raise InputError(f"task {task} is about labelled objects; --point cannot name them, give another --task")
    image, camera, uv = photo.straight
    result = {
        "image": str(photo.path),
        "task": task,
        "reference": backend.reference.name,
        "read": backend.read,
        "interval": "calibrated" if backend.calibrated else "uncalibrated",
        "camera": {**photo.resolved.camera.to_dict(), "reason": photo.resolved.reason},
    }
    if task in ("distance", "z"):
        _refuse_given(task, given)
        wanted: Quantity = "z" if task == "z" else "distance"
        return result | {"points": _measure(backend, image, camera, uv, photo.uv, wanted, answers, like)}
    if answers is not None:
        raise InputError(f"--answers says what distances mean; task {task} has none, leave it out")
    if second is not None:
        result |= {
            "second": str(second.path),
            "second_camera": {**second.resolved.camera.to_dict(), "reason": second.resolved.reason},
        }
    return result | {"questions": _question(backend, image, camera, uv, photo.uv, task, given, second, like)}


def _measure(
    backend: Backend,
    image: Image.Image,
    camera: Camera,
    uv: NDArray[np.float64],
    asked: NDArray[np.float64],
    task: Quantity,
    answers: Quantity | None,
    like: View | None,
) -> list[dict[str, Any]]:
    """Distance, z and place of points uv [N, 2] of the straightened image; `asked` are the same in the original."""
    m = backend.measure(image, uv, camera, answers=answers, wanted=task, like=like)
    factor = np.ones(len(uv)) if task == "distance" else camera.ray_factor(uv)
    return [
        {
            "u": float(asked[i, 0]),
            "v": float(asked[i, 1]),
            "value": plain(m.distance[i] / factor[i]),
            "low": plain(m.low[i] / factor[i]),
            "high": plain(m.high[i] / factor[i]),
            "distance": plain(m.distance[i]),
            "z": plain(m.z[i]),
            "xyz": [float(x) for x in m.xyz[i]] if np.isfinite(m.xyz[i]).all() else None,
            "text": m.text[i],
        }
        for i in range(len(uv))
    ]


def _question(
    backend: Backend,
    image: Image.Image,
    camera: Camera,
    uv: NDArray[np.float64],
    asked: NDArray[np.float64],
    name: str,
    given: float | None,
    second: Photo | None,
    like: View | None,
) -> list[dict[str, Any]]:
    """Answers to a task that is no length of one point; arguments as for `_measure`."""
    task = get_task(name)
    other = None
    if second is not None:
        other_image, other_camera, _ = second.straight
        other = Second.unknown(backend.whole_view(other_image, other_camera), len(uv))
    if task.given is None:
        _refuse_given(name, given)
    elif given is None or not (math.isfinite(given) and given > 0):
        raise InputError(f"task {name} needs --given, a positive number of {task.given}; got {given}")
    if len(uv) % task.points if task.points else len(uv):
        raise InputError(f"task {name} is about {task.points} points at a time; {len(uv)} were given")
    groups = [tuple(range(k, k + task.points)) for k in range(0, len(uv), task.points)] if task.points else [()]
    requests = []
    for group, view in zip(groups, backend.views(image, camera, uv, groups=groups, like=like), strict=True):
        context = backend.context(view, group[0] if group else 0, second=other)
        question = task.question(context, Subject(group, given))
        requests.append(backend.request(context, question, group, task))
    return [
        {
            "points": [[float(u), float(v)] for u, v in asked[list(group)]],
            "given": given,
            "question": request.question,
            "value": reply.value,
            "unit": task.answer.unit,
            "low": reply.low,
            "high": reply.high,
            "text": reply.text,
        }
        | ({} if second is None or other is None else {"pixel": _pixel(backend, second, other, reply.value, task)})
        for group, request, reply in zip(groups, requests, backend.ask(requests), strict=True)
    ]


def _pixel(backend: Backend, photo: Photo, second: Second, value: Any, task: Task) -> list[float] | None:
    """Where in the original second picture an answer in text coordinates points; None where it states no place."""
    if value is None or not isinstance(task.answer, Pixel):
        return None
    (x, y), image = value, second.view.image
    uv = second.view.transform.inverse(backend.text.pixel(x, y, image.width, image.height))
    if photo.resolved.lens is not None:
        uv = photo.resolved.lens.to_original(uv)
    return [float(part) for part in uv[0]]


def _refuse_given(task: str, given: float | None) -> None:
    if given is not None:
        raise InputError(f"task {task} asks without a number of its own; leave --given out")


def format_prediction(result: dict[str, Any]) -> str:
    """A few lines for people."""
    camera = result["camera"]
    lines = [
        f"{result['image']}  {camera['width']}x{camera['height']}",
        f"  camera     fx {camera['fx']:.1f} fy {camera['fy']:.1f} cx {camera['cx']:.1f} cy {camera['cy']:.1f}"
        f"  ({camera['reason']})",
    ]
    if "second" in result:
        lines.insert(1, f"{result['second']}  second image")
    for said in result.get("questions", ()):
        where = ("  " + " and ".join(f"({u:g}, {v:g})" for u, v in said["points"])).rstrip()
        if said["value"] is None:
            lines.append(f"{where}  no answer to {result['task']} in {said['text']!r}")
        elif said.get("pixel") is not None:
            lines.append(
                f"{where}  {result['task']} ({said['pixel'][0]:.1f}, {said['pixel'][1]:.1f}) of the second image"
            )
        elif said["low"] is None:
            lines.append(f"{where}  {result['task']} {_short(said['value'])} {said['unit']}".rstrip())
        else:
            interval = f"(80 % interval by its own belief {said['low']:.2f} to {said['high']:.2f} {said['unit']})"
            lines.append(f"{where}  {result['task']} {_short(said['value'])} {said['unit']}  {interval}")
    for point in result.get("points", ()):
        where = f"  ({point['u']:g}, {point['v']:g})"
        if point["value"] is None:
            lines.append(f"{where}  no number in the answer {point['text']!r}")
            continue
        interval = "interval unknown"
        if point["low"] is not None:
            interval = f"{result['interval']} 80 % interval {point['low']:.2f} to {point['high']:.2f} m"
        x, y, z = point["xyz"]
        lines.append(
            f"{where}  {result['task']} {point['value']:.2f} m  ({interval})"
            f"  z {z:.2f} m  xyz ({x:.2f}, {y:.2f}, {z:.2f}) m"
        )
    return "\n".join(lines)


def save_lengths(photo: Photo, result: dict[str, Any], path: Path) -> None:
    """The photo with the length of each two points drawn in, as PNG. Raises InputError when it cannot be written."""
    spans = [
        (np.array(said["points"]), "no answer" if said["value"] is None else f"{said['value']:.2f} {said['unit']}")
        for said in result["questions"]
    ]
    buffer = io.BytesIO()
    draw_lengths(photo.image, spans).save(buffer, "PNG")
    write_whole(path, buffer.getvalue())


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return value if isinstance(value, str) else f"{value:.2f}"
