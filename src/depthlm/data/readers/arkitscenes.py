"""ARKitScenes: rooms seen by an iPad, with the depth of a laser scanner (highres) or of the iPad's lidar (lowres).

Both downloads are read: `upsampling` and `raw`. Laser depth of the picture's own time is preferred; lidar depth is
256x192 under any picture of the same shape, and its readings of confidence 0 are dropped. Files belong together by the
time in their names; a .pincam (`w h fx fy cx cy`) may be named a millisecond off. Pictures are as the sensor stands:
some rooms lie on their side. A lowres_wide.traj holds world-to-camera axis-angle rotations: turned round here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import read_image, read_numbers, rigid
from depthlm.data.readers.rgbd import dense_png, known_pose, nearest, pictures
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PICTURES = ("color", "wide", "vga_wide", "lowres_wide")  # in order of preference; all show the same view
_FOLDERS = {"train": "Training", "val": "Validation"}
_SAME = 0.002  # seconds: names of one frame differ by a rounded millisecond at most, frames by 16 or more


class ArkitScenes(Reader):
    """The folder above Training/ and Validation/, or the one above upsampling/ or raw/."""

    name = "arkitscenes"
    title = "ARKitScenes"
    licence = "ARKitScenes: Apple's non-commercial terms"
    layout = (
        "[upsampling/|raw/]{Training,Validation}/<video>/{color|wide|vga_wide|lowres_wide}/<video>_<time>.png with "
        "highres_depth/ or lowres_depth/ (+ confidence/) and *_intrinsics/*.pincam"
    )
    splits = ("train", "val")
    near, far = 0.1, 20.0
    every = 10

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Video after video, pictures by time; those without any depth of their time are passed over."""
        self.check_split(split)
        # Two downloads of one video hold the same frames twice: the first found is read.
        bases = (root, root / "upsampling", root / "raw")
        base = next((b for b in bases if any((b / name).is_dir() for name in _FOLDERS.values())), None)
        if base is None:
            raise self.missing(root, "Training/ or Validation/")
        for part in self.splits if split == ALL else (split,):
            folder = base / _FOLDERS[part]
            if not folder.is_dir() and split != ALL:
                raise self.missing(root, f"{_FOLDERS[part]}/")
            for video in sorted(folder.iterdir()) if folder.is_dir() else ():
                if video.is_dir():
                    yield from self._index(root, video)

    def _index(self, root: Path, video: Path) -> Iterator[FrameRef]:
        kind = next((name for name in PICTURES if (video / name).is_dir()), None)
        if kind is None:
            raise self.missing(root, f"{'/, '.join(PICTURES)}/ in {video}")
        cameras = next((n for n in (f"{kind}_intrinsics", "wide_intrinsics") if (video / n).is_dir()), None)
        laser, lidar = _Timed(video / "highres_depth"), _Timed(video / "lowres_depth")
        grades = _Timed(video / "confidence")
        pincams = _Timed(video / (cameras or f"{kind}_intrinsics"), ".pincam")
        traj, path = _trajectory(video / "lowres_wide.traj"), video / "lowres_wide.traj"
        times = np.array([time for time, _ in traj])
        for picture in pictures(video / kind):
            time = _time(picture)
            depth, grade = laser.at(time) if kind in ("color", "wide") else None, ""
            if depth is None:
                depth = lidar.at(time)
                if depth is not None and grades.names:
                    grade = grades.at(time) or f"confidence/{picture.stem}.png"
            if depth is None:
                continue
            k = nearest(times, time, _SAME)
            numbers = None if k is None else traj[k][1]
            below = video.relative_to(root).as_posix()
            pincam = pincams.at(time) or f"{pincams.folder.name}/{picture.stem}.pincam"
            yield FrameRef(
                id=f"{video.name}/{picture.stem}", scene=video.name,
                # The pictures with laser depth are picked from the video, seconds apart.
                sequence=video.name if path.is_file() else "",
                pose=None if numbers is None else known_pose(_pose(numbers)),
                data=(below, f"{kind}/{picture.name}", depth, grade, pincam, numbers),
            )  # fmt: skip

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture, z of the depth map that `index` found for it."""
        below, rgb, depth, grade, pincam, numbers = ref.data
        video = root / below
        width, height, fx, fy, cx, cy = (float(n) for n in read_numbers(video / pincam, 6))
        try:
            camera = Camera(fx, fy, cx, cy, int(width), int(height))
        except InputError as error:
            raise FrameError(f"{video / pincam}: {error}") from error
        image = read_image(video / rgb, camera)
        labels = dense_png(video / depth, camera, confidence=video / grade if grade else None)
        pose = None if numbers is None else rigid(_pose(numbers), f"{video / 'lowres_wide.traj'}: pose of {ref.id}")
        return Frame(image=image, camera=camera, labels=labels, pose=pose)


class _Timed:
    """Files of a folder by the time in their names."""

    def __init__(self, folder: Path, suffix: str = ".png") -> None:
        self.folder = folder
        rows = sorted((_time(path), path.name) for path in pictures(folder, (suffix,)))
        self.names = [name for _, name in rows]
        self.times = np.array([time for time, _ in rows])

    def at(self, time: float) -> str | None:
        """`folder/name` of the file of that time, or None."""
        i = nearest(self.times, time, _SAME)
        return None if i is None else f"{self.folder.name}/{self.names[i]}"


def _time(path: Path) -> float:
    """Seconds: what follows the last underscore of <video>_<time>."""
    try:
        return float(path.stem.rsplit("_", 1)[-1])
    except ValueError:
        raise InputError(f"{path}: expected a name <video>_<time>{path.suffix}") from None


def _trajectory(path: Path) -> list[tuple[float, tuple[float, ...]]]:
    """(time, rotation vector and translation) by time; none without the file."""
    if not path.is_file():
        return []
    try:
        rows = [
            [float(word) for word in line.split()] for line in path.read_text(encoding="utf-8").splitlines() if line
        ]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a trajectory ({error})") from error
    if any(len(row) != 7 for row in rows):
        raise InputError(f"{path}: not a trajectory; expected seven numbers a line (time, rotation, translation)")
    return sorted((row[0], tuple(row[1:])) for row in rows)


def _pose(numbers: tuple[float, ...]) -> np.ndarray:
    """Camera to world from a world-to-camera rotation vector and translation; NaN where they are not finite."""
    from scipy.spatial.transform import Rotation

    values = np.array(numbers)
    if not np.isfinite(values).all():
        return np.full((4, 4), np.nan)
    turn = Rotation.from_rotvec(values[:3]).as_matrix()
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn.T, -turn.T @ values[3:]
    return pose


READER = ArkitScenes()
