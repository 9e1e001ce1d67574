"""Stray Scanner: recordings of an iPhone or iPad with lidar, as the app exports them.

rgb.mp4 is read where it is; frame n of the video, depth/n.png and row n of odometry.csv belong together. Depth is z in
millimetres, 256x192 under a 1920x1440 picture; readings of confidence 0 are dropped. camera_matrix.csv is for the
video's size; newer exports give fx fy cx cy for every frame in odometry.csv, which is preferred. The quaternions
(x y z w) turn OpenCV's camera axes to the world's, as the app's own viewer uses them.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import encode_jpeg, read_numbers, rigid
from depthlm.data.readers.rgbd import dense_png, in_scan, known_pose, pictures, pose_matrix, scans
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
_FOCAL = ("fx", "fy", "cx", "cy")


class Stray(Reader):
    """One recording, or a folder of them."""

    name = "stray"
    title = "Stray Scanner"
    licence = "your own recordings"
    layout = "rgb.mp4, depth/######.png, camera_matrix.csv, odometry.csv [, confidence/######.png]"
    splits = (ALL,)
    near, far = 0.05, 10.0
    every = 10

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Every depth map, in order; poses from odometry.csv."""
        self.check_split(split)
        found = scans(root, lambda folder: (folder / "rgb.mp4").is_file() and (folder / "depth").is_dir())
        if not found:
            raise self.missing(root, "rgb.mp4 with depth/ beside it")
        for scan in found:
            folder = root / scan
            rows = _odometry(folder / "odometry.csv")
            graded = (folder / "confidence").is_dir()
            for path in pictures(folder / "depth", (".png",)):
                if not path.stem.isdigit():
                    raise InputError(f"{path}: expected the number of a frame, like 000012.png")
                row = rows.get(int(path.stem), {})
                pose = tuple(row[n] for n in _POSE) if row else None
                focal = tuple(row[n] for n in _FOCAL) if all(n in row for n in _FOCAL) else None
                yield FrameRef(
                    id=in_scan(scan, path.stem), scene=scan or "scene", sequence=scan or "scene",
                    pose=None if pose is None else known_pose(pose_matrix(pose[:3], pose[3:])),
                    data=(scan, path.stem, graded, pose, focal),
                )  # fmt: skip

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The video's frame as JPEG, z of the lidar, pose."""
        scan, number, graded, numbers, focal = ref.data
        folder = root / scan
        picture = _frame(folder / "rgb.mp4", int(number))
        if focal is None:
            k = read_numbers(folder / "camera_matrix.csv", 9)
            focal = (k[0], k[4], k[2], k[5])
        try:
            fx, fy, cx, cy = (float(n) for n in focal)
            camera = Camera(fx, fy, cx, cy, *picture.size)
        except InputError as error:
            raise FrameError(f"{folder}: frame {number}: {error}") from error
        grade = folder / "confidence" / f"{number}.png" if graded else None
        labels = dense_png(folder / "depth" / f"{number}.png", camera, confidence=grade)
        pose = None
        if numbers is not None:
            pose = rigid(pose_matrix(numbers[:3], numbers[3:]), f"{folder / 'odometry.csv'}: frame {number}")
        return Frame(image=encode_jpeg(picture), camera=camera, labels=labels, pose=pose)


def _odometry(path: Path) -> dict[int, dict[str, float]]:
    """Frame number -> its row by column name; none without the file."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {(key or "").strip(): float(value) for key, value in row.items() if (value or "").strip()}
                for row in csv.DictReader(file)
            ]
        if any(name not in row for row in rows for name in ("frame", *_POSE)):
            raise ValueError(f"expected the columns frame, {', '.join(_POSE)}")
        return {int(row["frame"]): row for row in rows}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not Stray Scanner's odometry ({error})") from error


class _Video:
    """A video open at its next frame. Frames are counted one by one: seeking may land on a neighbour."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = Lock()
        self._start()

    def _start(self) -> None:
        import cv2

        self._capture: Any = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        # Depth and intrinsics are in the sensor's own orientation.
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        self._next = 0

    def frame(self, n: int) -> Image.Image | None:
        """Frame n, or None where the video has none."""
        from PIL import Image

        with self._lock:
            if n < self._next:
                self._capture.release()
                self._start()
            while self._next < n:
                if not self._capture.grab():
                    return None
                self._next += 1
            good, pixels = self._capture.read()
            self._next += 1
        return Image.fromarray(pixels[:, :, ::-1]) if good else None


@lru_cache(maxsize=2)
def _video(path: str, changed: int) -> _Video:
    return _Video(path)


def _frame(path: Path, n: int) -> Image.Image:
    try:
        status = path.stat()
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not status.st_size:
        raise FrameError(f"{path}: the file is empty")
    picture = _video(str(path), status.st_mtime_ns).frame(n)
    if picture is None:
        raise FrameError(f"{path}: has no readable frame {n}")
    return picture


READER = Stray()
