"""TUM RGB-D: videos of a Kinect with the camera's path from motion capture.

Pictures, depth maps and poses have their own clocks: they are matched by time, at most 20 ms apart. One step of a depth
map is 1/5000 m (the scale corrections of the table on the web page are applied already). The camera follows from the
folder's name (freiburg1, 2, 3): 1 and 2 are distorted, which is undone; depth is registered to the distorted picture.
Any other folder gets the driver's default, 525 525 319.5 239.5. Quaternions are x y z w, camera to world.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, Frame, FrameRef, Reader
from depthlm.data.readers.files import read_image, rigid, straighten
from depthlm.data.readers.rgbd import dense_png, known_pose, nearest, pose_matrix, scans
from depthlm.errors import InputError
from depthlm.lens import LensCamera

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHIN = 0.02  # seconds
_STEP = 1 / 5000  # metres
_DEFAULT = LensCamera(Camera(525.0, 525.0, 319.5, 239.5, 640, 480))
_LENSES = {
    "1": LensCamera(
        Camera(517.306408, 516.469215, 318.643040, 255.313989, 640, 480), "opencv",
        (0.262383, -0.953104, -0.005358, 0.002628, 1.163314),
    ),
    "2": LensCamera(
        Camera(520.908620, 521.007327, 325.141442, 249.701764, 640, 480), "opencv",
        (0.231222, -0.784899, -0.003257, -0.000105, 0.917205),
    ),
    "3": LensCamera(Camera(535.4, 539.2, 320.1, 247.6, 640, 480)),
}  # fmt: skip
_NAMED = re.compile(r"(?:freiburg|(?<![a-z])fr)([123])")


class Tum(Reader):
    """One sequence folder, or a folder of them."""

    name = "tum"
    title = "TUM RGB-D"
    licence = "TUM RGB-D: CC BY 4.0 (not re-checked)"
    layout = "rgbd_dataset_freiburg#_*/{rgb.txt, depth.txt, groundtruth.txt, rgb/*.png, depth/*.png}"
    splits = (ALL,)
    near, far = 0.3, 10.0
    every = 10

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Pictures that have a depth map within 20 ms, in order of time; poses where groundtruth.txt has one."""
        self.check_split(split)
        found = scans(root, lambda folder: (folder / "rgb.txt").is_file() and (folder / "depth.txt").is_file())
        if not found:
            raise self.missing(root, "rgb.txt and depth.txt")
        for scan in found:
            yield from self._index(root, scan)

    def _index(self, root: Path, scan: str) -> Iterator[FrameRef]:
        folder = root / scan
        name = scan or root.resolve().name  # the set's own name either way: ids do not depend on which root was given
        pictures, depths = _listing(folder / "rgb.txt", 1), _listing(folder / "depth.txt", 1)
        truth = _listing(folder / "groundtruth.txt", 7) if (folder / "groundtruth.txt").is_file() else []
        picture_times, depth_times, pose_times = (
            np.array([time for time, _ in rows]) for rows in (pictures, depths, truth)
        )
        for i, (time, (rgb,)) in enumerate(pictures):
            j = nearest(depth_times, time, WITHIN)
            if j is None or nearest(picture_times, depths[j][0], WITHIN) != i:
                continue  # without depth, or its depth belongs to another picture
            k = nearest(pose_times, time, WITHIN)
            # Text that is no number becomes NaN, and `read` refuses the pose by name.
            pose = None if k is None else tuple(_number(word) for word in truth[k][1])
            yield FrameRef(
                id=f"{name}/{rgb.rsplit('/', 1)[-1].rsplit('.', 1)[0]}", scene=name, sequence=name,
                pose=None if pose is None else known_pose(pose_matrix(pose[:3], pose[3:])),
                data=(scan, rgb, depths[j][1][0], pose, _freiburg(name)),
            )  # fmt: skip

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture (straightened for freiburg1 and 2), z and pose."""
        scan, rgb, depth, numbers, freiburg = ref.data
        lens = _LENSES.get(freiburg, _DEFAULT)
        pose = None
        if numbers is not None:
            pose = rigid(pose_matrix(numbers[:3], numbers[3:]), f"{root / scan / 'groundtruth.txt'}: pose of {rgb}")
        path = root / scan / rgb
        image, camera = read_image(path, lens.camera), lens.camera
        bent = None if lens.is_pinhole else lens
        labels = dense_png(root / scan / depth, lens.camera, _STEP, lens=bent)
        if bent is not None:
            image, camera = straighten(image, path, bent)
        return Frame(image=image, camera=camera, labels=labels, pose=pose)


def _freiburg(name: str) -> str:
    match = _NAMED.search(name.lower())
    return match[1] if match else ""


def _listing(path: Path, count: int) -> list[tuple[float, list[str]]]:
    """(time, its `count` words) of every line that is no comment, by time."""
    rows = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            words = line.split("#")[0].replace(",", " ").split()
            if not words:
                continue
            time = _number(words[0])
            if len(words) != count + 1 or not np.isfinite(time):
                raise InputError(f"{path}: line {number} is not a time and {count} more; found {line.strip()!r}")
            rows.append((time, words[1:]))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return sorted(rows)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")


READER = Tum()
