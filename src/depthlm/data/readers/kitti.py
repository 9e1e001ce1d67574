"""KITTI depth: both colour cameras of the raw drives with the semi-dense accumulated laser depth.

Depth is z in 16-bit PNG steps of 1/256 m, 0 for none. The annotated download holds no pictures: they are those of the
raw drives (the `sync` ones, rectified: the matrix is P_rect, not K). The five frames at either end of a drive have no
depth. The selection of 1,000 validation crops brings its own pictures and intrinsics.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import image_size, read_bytes, read_depth_png, read_image, read_numbers, read_text
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STEP = 1 / 256  # metres
_ANNOTATED = ("", "data_depth_annotated")
_RAW = ("", "raw", "raw_data", "kitti_raw")
_CROPS = ("val_selection_cropped", "depth_selection/val_selection_cropped", "")


class _Files(NamedTuple):
    """Paths below the root; camera: 02 or 03, empty for a crop, whose calibration is a file of nine numbers."""

    image: str
    depth: str
    calibration: str
    camera: str = ""


class Kitti(Reader):
    """data_depth_annotated with the raw drives, or val_selection_cropped alone."""

    name = "kitti"
    title = "KITTI depth"
    licence = "CC BY-NC-SA 3.0"
    layout = (
        "train/ val/ of data_depth_annotated beside the raw drives <date>/<drive>/image_02/data (here or in raw/), "
        "or val_selection_cropped/{image,groundtruth_depth,intrinsics}"
    )
    splits = ("train", "val", "selection")
    near, far = 0.001, 80.0
    every = 5  # two pictures a second

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Drive by drive, camera by camera, in order of time; one frame for each annotated depth map."""
        self.check_split(split)
        tried = self.splits if split == ALL else (split,)
        found = {name: folder for name in tried if (folder := _folder(root, name)) is not None}
        if not found:
            wanted = "val_selection_cropped" if split == "selection" else f"{tried[0]}/<drive>/proj_depth"
            raise self.missing(root, wanted)
        raw = next((root / name for name in _RAW if any((root / name).glob("20??_??_??"))), None)
        if raw is None and set(found) - {"selection"}:
            raise self.missing(root, "raw drive <date>/<drive>/image_02/data")
        for name, folder in found.items():
            if name == "selection":
                yield from _index_crops(root, folder)
            elif raw is not None:
                yield from _index_drives(root, folder, raw)

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The rectified picture as it is."""
        files: _Files = ref.data
        calibration, path = root / files.calibration, root / files.image
        if files.camera:
            camera = _rectified_camera(calibration, files.camera)
            image = read_image(path, camera)
        else:
            image = read_bytes(path)
            fx, _, cx, _, fy, cy, *_ = (float(value) for value in read_numbers(calibration, 9))
            camera = _camera(calibration, fx, fy, cx, cy, *image_size(image, path))
        z, valid = read_depth_png(root / files.depth, _STEP)
        if z.shape != (camera.height, camera.width):
            size = f"{z.shape[1]}x{z.shape[0]}"
            raise FrameError(f"{root / files.depth}: depth is {size} for a {camera.width}x{camera.height} picture")
        return Frame(image=image, camera=camera, labels=DenseLabels(z, valid))


def _folder(root: Path, split: str) -> Path | None:
    """Where a split lies."""
    if split == "selection":
        return next((root / name for name in _CROPS if (root / name / "groundtruth_depth").is_dir()), None)
    folders = (root / name / split for name in _ANNOTATED)
    return next((folder for folder in folders if any(folder.glob("*_sync/proj_depth"))), None)


def _index_drives(root: Path, folder: Path, raw: Path) -> Iterator[FrameRef]:
    for drive in sorted(folder.glob("*_sync")):
        date = raw / drive.name[: len("2011_09_26")]
        for camera in ("02", "03"):
            pictures = date / drive.name / f"image_{camera}" / "data"
            for depth in sorted((drive / "proj_depth/groundtruth" / f"image_{camera}").glob("*.png")):
                yield FrameRef(
                    id=f"{drive.name}/image_{camera}/{depth.stem}",
                    scene=drive.name,
                    sequence=f"{drive.name}/image_{camera}",
                    data=_Files(
                        _below(root, pictures / depth.name),
                        _below(root, depth),
                        _below(root, date / "calib_cam_to_cam.txt"),
                        camera,
                    ),
                )


def _index_crops(root: Path, folder: Path) -> Iterator[FrameRef]:
    for depth in sorted((folder / "groundtruth_depth").glob("*.png")):
        # 2011_09_26_drive_0002_sync_groundtruth_depth_0000000005_image_02 belongs to ..._sync_image_0000000005_image_02
        name = depth.stem.replace("_groundtruth_depth_", "_image_")
        image, matrix = folder / "image" / f"{name}.png", folder / "intrinsics" / f"{name}.txt"
        data = _Files(_below(root, image), _below(root, depth), _below(root, matrix))
        yield FrameRef(id=name, scene=name.split("_image_")[0], data=data)


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _rectified_camera(path: Path, number: str) -> Camera:
    """The camera of the rectified pictures, from calib_cam_to_cam.txt."""
    lines = dict(line.split(":", 1) for line in read_text(path).splitlines() if ":" in line)
    try:
        p = [float(value) for value in lines[f"P_rect_{number}"].split()]
        width, height = (float(value) for value in lines[f"S_rect_{number}"].split())
        fx, fy, cx, cy = p[0], p[5], p[2], p[6]
    except KeyError as error:
        raise FrameError(f"{path}: no line {error.args[0]}") from error
    except (ValueError, IndexError) as error:
        raise FrameError(f"{path}: P_rect_{number} or S_rect_{number} is not as it should be ({error})") from error
    if not (math.isfinite(width) and math.isfinite(height)):
        raise FrameError(f"{path}: S_rect_{number} is not finite")
    return _camera(path, fx, fy, cx, cy, int(width), int(height))


def _camera(path: Path, fx: float, fy: float, cx: float, cy: float, width: int, height: int) -> Camera:
    try:
        return Camera(fx, fy, cx, cy, width, height)
    except InputError as error:
        raise FrameError(f"{path}: {error}") from error


READER = Kitti()
