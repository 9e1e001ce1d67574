"""Redwood's indoor videos, or any recording in Open3D's layout: color/ depth/ and one pinhole camera.

Depth is registered, 16-bit millimetres of z. Pictures and depth maps belong together by the number that their names
start with (00012.jpg, or 000012-000000400000.jpg). Open3D's camera file holds K column by column. trajectory.log (five
lines a frame, camera to world) is optional; its n-th pose belongs to the n-th frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthlm.data.readers.base import ALL, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import image_size, read_bytes, rigid
from depthlm.data.readers.rgbd import camera_file, dense_png, in_scan, known_pose, pictures, scans
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CAMERAS = ("camera_primesense.json", "camera_intrinsic.json", "intrinsic.json", "camera.json")
_COLOURS = ("color", "image", "rgb")


class Redwood(Reader):
    """One recording, or a folder of them."""

    name = "redwood"
    title = "Redwood (Open3D layout)"
    licence = "Redwood: terms not checked"
    layout = "color/#####.jpg, depth/#####.png, camera_primesense.json (Open3D pinhole camera) [, trajectory.log]"
    splits = (ALL,)
    near, far = 0.3, 10.0
    every = 10

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Every number that has a picture or a depth map, in order."""
        self.check_split(split)
        found = scans(root, lambda folder: _colour(folder) is not None and (folder / "depth").is_dir())
        if not found:
            raise self.missing(root, "color/ with depth/ beside it")
        for scan in found:
            yield from self._index(root, scan)

    def _index(self, root: Path, scan: str) -> Iterator[FrameRef]:
        folder = root / scan
        colour = _colour(folder)
        if colour is None:
            raise self.missing(folder, "color/")
        camera = next((p for base in (folder, root) for n in CAMERAS if (p := base / n).is_file()), folder / CAMERAS[0])
        colours = {path.stem.split("-")[0]: f"{colour}/{path.name}" for path in pictures(folder / colour)}
        depths = {path.stem.split("-")[0]: f"depth/{path.name}" for path in pictures(folder / "depth", (".png",))}
        poses = _trajectory(folder / "trajectory.log")
        for i, number in enumerate(sorted(colours.keys() | depths.keys())):
            # Half a pair is a frame that `read` refuses, by the name that is missing.
            pair = colours.get(number, f"{colour}/{number}.jpg"), depths.get(number, f"depth/{number}.png")
            pose = poses[i] if i < len(poses) else None
            yield FrameRef(
                id=in_scan(scan, number), scene=scan or "scene", sequence=scan or "scene",
                pose=None if pose is None else known_pose(np.array(pose)),
                data=(scan, *pair, camera.relative_to(root).as_posix(), pose),
            )  # fmt: skip

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture, z, and the trajectory's pose."""
        scan, rgb, depth, calibration, numbers = ref.data
        path = root / scan / rgb
        image = read_bytes(path)
        lens = camera_file(root / calibration, image_size(image, path))
        if not lens.is_pinhole:
            raise FrameError(f"{root / calibration}: has lens distortion; the reader `folder` takes such recordings")
        labels = dense_png(root / scan / depth, lens.camera)
        pose = None if numbers is None else rigid(numbers, f"{root / scan / 'trajectory.log'}: pose of {ref.id}")
        return Frame(image=image, camera=lens.camera, labels=labels, pose=pose)


def _colour(folder: Path) -> str | None:
    return next((name for name in _COLOURS if (folder / name).is_dir()), None)


def _trajectory(path: Path) -> list[tuple[float, ...]]:
    """16 numbers for each frame; none without the file."""
    if not path.is_file():
        return []
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        poses = [tuple(float(word) for row in lines[i + 1 : i + 5] for word in row) for i in range(0, len(lines), 5)]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a trajectory.log ({error})") from error
    if any(len(pose) != 16 for pose in poses):
        raise InputError(f"{path}: not a trajectory.log; expected five lines a frame: three numbers, then 4x4")
    return poses


READER = Redwood()
