"""Depth maps on the page: drawn in steps that can be ended, shown in colours, kept as files for the visitor."""

from __future__ import annotations

import json
import math
import queue
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.errors import InputError
from depthlm.inference.map_files import PhotoMap, measure_map
from depthlm.pictures import depth_picture
from depthlm.pointcloud import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from depthlm.app.desk import Desk
    from depthlm.app.session import Session
    from depthlm.inference.predict import Photo

LARGEST = 1_000_000  # pixels of a map; a larger photograph is mapped smaller
SHOWN_POINTS = 150_000  # of the cloud that is turned in the browser
SUFFIXES = (".png", ".npy", ".ply", ".glb", ".json")
_ACROSS = 1024  # pixels, of what is shown
_VIEWER_FOV = 0.8  # radians, up and down, of the viewer in the browser


class StoppedMapError(Exception):
    """The visitor has ended it."""


def map_steps(desk: Desk, session: Session, budget: float | None) -> Iterator[tuple[int, int]]:
    """Draw the maps of all models; (questions asked, questions in all) as it goes on. They are in session.maps then.

    Closing the iterator ends the work at the next answer. Raises StoppedMapError where `session.stop` was set, and
    InputError and BackendError as measuring does.
    """
    if session.picture is None or session.camera is None:
        raise InputError("Choose a picture and its camera first.")
    most = desk.limits.budget
    if budget is None or not 16 <= budget <= most:
        raise InputError(f"The number of questions goes from 16 to {most}.")
    with session.busy:
        session.stop.set()  # one that is still being drawn
        stop = session.stop = threading.Event()
        session.forget_maps()
        photo = smaller(session.photo([]), LARGEST)
    told: queue.Queue[tuple[int, int] | list[PhotoMap] | Exception] = queue.Queue()
    total = int(budget) * len(desk.models)

    def work() -> None:
        try:
            done: list[PhotoMap] = []
            for number, model in enumerate(desk.models):

                def progress(asked: int, _: int, before: int = number * int(budget)) -> None:
                    if stop.is_set():
                        raise StoppedMapError
                    told.put((before + asked, total))

                found = measure_map(model.maps, photo, budget=int(budget), answers=model.answers, progress=progress)
                done.append(found)
            told.put(done)
        except Exception as error:
            told.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield 0, total
        while not isinstance(said := told.get(), list):
            if isinstance(said, Exception):
                raise said
            yield said
        with session.busy:
            if stop.is_set():
                raise StoppedMapError
            session.maps = said
    finally:
        stop.set()
        worker.join()


def smaller(photo: Photo, most: int) -> Photo:
    """The photo and its camera with at most so many pixels."""
    width, height = photo.image.size
    if width * height <= most:
        return photo
    scale = math.sqrt(most / (width * height))
    size = max(1, int(width * scale)), max(1, int(height * scale))
    used = photo.resolved
    camera = used.camera.resize(*size)
    lens = None if used.lens is None else replace(used.lens, camera=camera)
    image = photo.image.resize(size, Image.Resampling.LANCZOS)
    return replace(photo, image=image, resolved=replace(used, camera=camera, lens=lens))


def colour_range(maps: list[PhotoMap]) -> tuple[float, float]:
    """Near and far ends of the colours, metres, one for all maps that are compared."""
    values = np.concatenate([found.z[np.isfinite(found.z)] for found in maps])
    near, far = np.quantile(values, [0.01, 0.99])
    return float(near), float(max(far, near * 1.05))


def depth_view(found: PhotoMap, near: float, far: float) -> Image.Image:
    """The map in colours, large enough to look at."""
    return depth_picture(found.z.astype(np.float64), _size(found), near=near, far=far)


def confidence_view(found: PhotoMap) -> Image.Image:
    """How far measured points around agree: white all, black none."""
    lens = found.photo.resolved.lens
    values = found.dense.confidence if lens is None else lens.map_to_original(found.dense.confidence)
    grey = (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(grey).convert("RGB").resize(_size(found), Image.Resampling.NEAREST)


def write_files(session: Session, number: int, name: str) -> list[Path]:
    """The files of one model's map, in the order of SUFFIXES; for PNG see `map_photo`. name: the model's."""
    found = session.maps[number]
    base = session.folder / str(number) / f"{session.stem()}-depth"
    paths = [base.with_suffix(suffix) for suffix in SUFFIXES]
    for path in paths[:-1]:
        found.save(path)
    write_whole(paths[-1], json.dumps(map_facts(session, number, name), indent=2, allow_nan=False).encode())
    return paths


def map_facts(session: Session, number: int, name: str) -> dict[str, Any]:
    """What a map is, as plain values; the questions with their answers among them."""
    assert session.camera is not None
    found = session.maps[number]
    measured = [None if math.isnan(z) else round(float(z), 4) for z in found.dense.measured]
    return {
        "model": name,
        **found.summary(),
        "camera": {**found.photo.resolved.camera.to_dict(), "source": session.camera.source},
        "units": "metres along the principal axis; PNG millimetres; clouds: metres",
        "uv": found.dense.uv.tolist(),
        "z": measured,
    }


def write_shown_cloud(session: Session, number: int) -> tuple[Path, float]:
    """The cloud as the browser turns it: GLB of at most SHOWN_POINTS points; and from how many metres it is first seen.

    The distance is that from its middle at which its nearest face fills a square window.
    """
    cloud = session.maps[number].cloud()
    path = session.folder / str(number) / "shown.glb"
    cloud.filter(step=max(1, math.ceil(len(cloud) / SHOWN_POINTS))).save(path)
    across, down, deep = np.ptp(cloud.xyz, axis=0) / 2
    return path, float(deep + max(across, down) / math.tan(_VIEWER_FOV / 2))


def _size(found: PhotoMap) -> tuple[int, int]:
    width, height = found.photo.image.size
    across = max(width, _ACROSS)
    return across, max(1, round(height * across / width))
