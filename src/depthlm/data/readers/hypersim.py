"""Hypersim: rendered rooms, depth in metres along the ray.

Traps: depth_meters is the DISTANCE, not z; NaN where there is nothing. More than half of the scenes are taken with a
tilted or shifted lens. Such a picture is still a pinhole picture, of a camera that looks along the normal of its image
plane: that camera is used (z is along that normal, the pose is turned with it), and no pixel moves. Where the axes of
the image plane are not square to each other as well, the picture is sheared by the few pixels that make them so.
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader, SparseLabels
from depthlm.data.readers.files import encode_jpeg, image_size, read_bytes, read_hdf5, rigid
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CAMERAS = "metadata_camera_parameters.csv"
SPLITS = "metadata_images_split_scene_v1.csv"
_FLIP = np.diag([1.0, -1.0, -1.0])  # x right, y up, z back <-> x right, y down, z forward
_SQUARE = 0.05  # pixels: a shear that moves no pixel farther is none
_FRAME = re.compile(r"frame\.(\d+)\.depth_meters\.hdf5")
# Tone curve for scenes without preview: the 90th percentile of luminance becomes 0.8, exponent 1 / 2.2.
_BRIGHT, _LEVEL, _GAMMA = 90.0, 0.8, 2.2


class Hypersim(Reader):
    """Scene folders with the two csv files of the project's repository beside them."""

    name = "hypersim"
    title = "Hypersim"
    licence = "Hypersim: CC BY-SA 3.0"
    layout = (
        f"{CAMERAS} (+ {SPLITS}) and ai_###_###/images/scene_cam_##_geometry_hdf5/frame.####.depth_meters.hdf5 with "
        "scene_cam_##_final_hdf5/frame.####.color.hdf5 or scene_cam_##_final_preview/frame.####.tonemap.jpg"
    )
    splits = ("train", "val", "test")
    near, far = 0.05, 100.0

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Every depth map of the tree; splits by the official csv (without it only `all`)."""
        self.check_split(split)
        if not (root / CAMERAS).is_file():
            raise self.missing(root, CAMERAS)
        chosen = None if split == ALL else self._split(root, split)
        found = False
        for folder in sorted(root.glob("ai_*/images/scene_cam_*_geometry_hdf5")):
            scene, camera = folder.parent.parent.name, folder.name[len("scene_") : -len("_geometry_hdf5")]
            for path in sorted(folder.iterdir()):
                if not (match := _FRAME.fullmatch(path.name)):
                    continue
                found = True
                if chosen is None or (scene, camera, int(match[1])) in chosen:
                    yield FrameRef(
                        id=f"{scene}/{camera}/frame.{match[1]}", scene=scene, sequence=f"{scene}/{camera}",
                        data=(scene, camera, match[1]),
                    )  # fmt: skip
        if not found:
            raise self.missing(root, "ai_*/images/scene_cam_*_geometry_hdf5/frame.*.depth_meters.hdf5")

    def _split(self, root: Path, split: str) -> frozenset[tuple[str, str, int]]:
        path = root / SPLITS
        if not path.is_file():
            raise InputError(f"{path}: no such file, and it says which frames are {split}; or take the split {ALL!r}")
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return frozenset(
                    (row["scene_name"], row["camera_name"], int(row["frame_id"]))
                    for row in csv.DictReader(file)
                    if row["split_partition_name"] == split and row["included_in_public_release"].lower() == "true"
                )
        except (OSError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not Hypersim's list of splits ({error!r})") from error

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The preview's picture (or one developed from the HDR file), z of the pinhole camera that took it."""
        scene, name, frame = ref.data
        images = root / scene / "images"
        path = images / f"scene_{name}_geometry_hdf5" / f"frame.{frame}.depth_meters.hdf5"
        distance = read_hdf5(path).astype(np.float64)
        if distance.ndim != 2:
            raise FrameError(f"{path}: depth of shape {distance.shape}; expected (height, width)")
        m, metres = camera_row(root / CAMERAS, scene)
        height, width = distance.shape
        camera, turn, shear = pinhole(m, width, height, f"{root / CAMERAS}: row {scene}")
        image = _picture(images, name, frame, (width, height))
        v, u = np.mgrid[:height, :width]
        uv = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
        labels: DenseLabels | SparseLabels
        if shear is None:
            z = distance / camera.ray_factor(uv).reshape(height, width)
            labels = DenseLabels(z.astype(np.float32), np.isfinite(distance))
        else:
            image = _warp(image, shear, camera, str(images))
            uv = uv @ shear[:2, :2].T + shear[:2, 2]
            on = camera.contains(uv)
            labels = SparseLabels(uv[on], distance.ravel()[on] / camera.ray_factor(uv[on]))
        pose = _pose(root / scene / "_detail" / name, int(frame), metres, turn)
        return Frame(image=image, camera=camera, labels=labels, pose=pose)


def camera_row(path: Path, scene: str) -> tuple[NDArray[np.float64], float]:
    """A scene's M_cam_from_uv [3, 3] and the metres of its unit of length."""
    row = _rows(str(path)).get(scene)
    if row is None:
        raise FrameError(f"{path}: no row for scene {scene}")
    try:
        m = np.array([[float(row[f"M_cam_from_uv_{i}{j}"]) for j in range(3)] for i in range(3)])
        metres = float(row["settings_units_info_meters_scale"])
    except (KeyError, ValueError, TypeError) as error:
        raise FrameError(f"{path}: the row of scene {scene} is incomplete ({error!r})") from error
    return m, metres


@lru_cache(maxsize=2)
def _rows(path: str) -> dict[str, dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - the cache keys on the string
            return {row["scene_name"]: row for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError) as error:
        raise FrameError(f"{path}: not Hypersim's table of cameras ({error!r})") from error


def pinhole(
    m: NDArray[np.float64], width: int, height: int, where: str
) -> tuple[Camera, NDArray[np.float64], NDArray[np.float64] | None]:
    """M_cam_from_uv -> camera, turn [3, 3] from its frame to Hypersim's, and the shear [3, 3] of pixels or None.

    M takes (u, v, 1), both from -1 to 1 and v up, to a ray in axes x right, y up, z back. Written for pixels and split
    into a rotation and an upper triangle (QR), the triangle is the inverse of an intrinsic matrix.
    """
    to_uv = np.array([[2 / width, 0, 1 / width - 1], [0, -2 / height, 1 - 1 / height], [0, 0, 1]])
    rays = _FLIP @ m @ to_uv  # [3, 3] pixel -> ray
    if not np.isfinite(rays).all() or np.linalg.det(rays) <= 0:
        raise FrameError(f"{where}: M_cam_from_uv describes no camera")
    turn, triangle = np.linalg.qr(rays)
    sign = np.sign(np.diag(triangle))
    turn, triangle = turn * sign, triangle * sign[:, None]
    a, b, d = np.diag(triangle)
    slant = triangle[0, 1] / a  # columns per row
    middle = (height - 1) / 2
    camera = Camera(
        float(d / a),
        float(d / b),
        float(-triangle[0, 2] / a - slant * middle),
        float(-triangle[1, 2] / b),
        width,
        height,
    )
    if abs(slant) * middle <= _SQUARE:
        return camera, turn, None
    margin = int(np.ceil(abs(slant) * middle))  # cut off: there the sheared picture has no pixels
    shear = np.array([[1, slant, -slant * middle - margin], [0, 1, 0], [0, 0, 1]])
    return camera.crop(margin, 0, width - 2 * margin, height), turn, shear


def develop(rgb: NDArray[Any]) -> NDArray[np.uint8]:
    """[H, W, 3] linear light -> 8 bits, exposed so that the 90th percentile of luminance is at 0.8."""
    light = np.nan_to_num(np.asarray(rgb, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    bright = float(np.percentile(light @ (0.2126, 0.7152, 0.0722), _BRIGHT))
    scale = _LEVEL**_GAMMA / bright if bright > 1e-6 else 1.0
    developed: NDArray[np.uint8] = np.round(255 * (light * scale).clip(0, 1) ** (1 / _GAMMA)).astype(np.uint8)
    return developed


def _picture(images: Path, name: str, frame: str, size: tuple[int, int]) -> bytes:
    from PIL import Image

    path = images / f"scene_{name}_final_preview" / f"frame.{frame}.tonemap.jpg"
    if path.is_file():
        data = read_bytes(path)
        found = image_size(data, path)
    else:
        path = images / f"scene_{name}_final_hdf5" / f"frame.{frame}.color.hdf5"
        rgb = read_hdf5(path)
        if rgb.ndim != 3 or rgb.shape[2] != 3:
            raise FrameError(f"{path}: colour of shape {rgb.shape}; expected (height, width, 3)")
        data, found = encode_jpeg(Image.fromarray(develop(rgb))), (rgb.shape[1], rgb.shape[0])
    if found != size:
        raise FrameError(f"{path}: picture is {found[0]}x{found[1]} but its depth map {size[0]}x{size[1]}")
    return data


def _warp(data: bytes, shear: NDArray[np.float64], camera: Camera, where: str) -> bytes:
    import cv2
    from PIL import Image

    from depthlm.sample import decode_image

    try:
        pixels = np.asarray(decode_image(data, where))
    except InputError as error:
        raise FrameError(str(error)) from error
    warped = cv2.warpPerspective(pixels, shear, (camera.width, camera.height), flags=cv2.INTER_CUBIC)
    return encode_jpeg(Image.fromarray(warped))


def _pose(folder: Path, frame: int, metres: float, turn: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Camera to world of keyframe `frame`; None where the scene was downloaded without _detail/."""
    where = folder / "camera_keyframe_orientations.hdf5"
    if not where.is_file():
        return None
    turns, places = read_hdf5(where), read_hdf5(folder / "camera_keyframe_positions.hdf5")
    if turns.shape[1:] != (3, 3) or places.shape != (len(turns), 3) or frame >= len(turns):
        raise FrameError(f"{where}: no keyframe {frame} ({turns.shape} orientations, {places.shape} positions)")
    return rigid(np.column_stack([turns[frame] @ _FLIP @ turn, places[frame] * metres]), f"{where}: keyframe {frame}")


READER = Hypersim()
