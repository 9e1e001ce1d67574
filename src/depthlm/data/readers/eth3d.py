"""ETH3D high-resolution multi-view (DSLR): 454 distorted photographs of 13 scenes with laser z.

The depth maps lie in the grid of the DISTORTED picture and are raw little-endian float32 metres called .JPG, infinite
where nothing was scanned. Each picture has its own THIN_PRISM_FISHEYE camera (COLMAP counts pixels from the corner, so
0.5 is taken off). The released curation used the first camera of a scene for all its pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import blaming, index_pose, read_bytes, read_text, rigid, straighten
from depthlm.data.readers.lidar import quaternion_rotation
from depthlm.lens import LensCamera

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_MODEL = "THIN_PRISM_FISHEYE"


class ETH3D(Reader):
    """<scene>/{images,ground_truth_depth}/dslr_images/DSC_*.JPG with dslr_calibration_jpg/."""

    name = "eth3d"
    title = "ETH3D high-res multi-view"
    licence = "CC BY-NC-SA 4.0 (from memory: terms not checked)"
    layout = (
        "<scene>/dslr_calibration_jpg/{cameras,images}.txt, <scene>/images/dslr_images/*.JPG and "
        "<scene>/ground_truth_depth/dslr_images/*.JPG (the training archives dslr_jpg and dslr_depth)"
    )
    splits = ("training",)
    near, far = 0.01, 50.0
    legacy_note = "the first camera of each scene used for all its pictures, and only k1..k4 of its lens"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """The pictures that images.txt of each scene names, by name."""
        self.check_split(split)
        tables = sorted(root.glob("*/dslr_calibration_jpg/images.txt"))
        if not tables:
            raise self.missing(root, "<scene>/dslr_calibration_jpg/images.txt")
        for table in tables:
            scene = table.parents[1].name
            try:
                cameras, images = parse_cameras(table.with_name("cameras.txt")), parse_images(table)
            except FrameError:  # one frame that `read` refuses with the reason, instead of an end to all scenes
                yield FrameRef(id=scene, scene=scene, data=(scene, "", "", (), ()))
                continue
            for name, (camera, values) in sorted(images.items()):
                yield FrameRef(
                    id=f"{scene}/{name.removeprefix('dslr_images/').rsplit('.', 1)[0]}",
                    scene=scene,
                    pose=index_pose(camera_to_world(values)),
                    data=(scene, name, camera, cameras.get(camera, ()), values),
                )

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The straightened photograph; z of the distorted grid, whose points are moved with it."""
        scene, name, number, parameters, values = ref.data
        calibration = root / scene / "dslr_calibration_jpg"
        if not name:
            parse_cameras(calibration / "cameras.txt"), parse_images(calibration / "images.txt")  # say what is wrong
            raise FrameError(f"{calibration}: was not readable when the tree was listed")
        if not parameters:
            raise FrameError(f"{calibration / 'cameras.txt'}: no {_MODEL} camera {number}, which {name} was taken with")
        with blaming(calibration / "cameras.txt"):
            lens = thin_prism(parameters)
        pose = rigid(camera_to_world(values), f"{calibration / 'images.txt'}: {name}")
        path = root / scene / "ground_truth_depth" / name
        depth = np.frombuffer(raw := read_bytes(path), dtype="<f4", count=len(raw) // 4)
        width, height = lens.camera.width, lens.camera.height
        if len(raw) != 4 * width * height:
            raise FrameError(f"{path}: {len(raw)} bytes; {width}x{height} float32 depths are {4 * width * height}")
        picture = root / scene / "images" / name
        image, camera = straighten(read_bytes(picture), picture, lens)
        z = depth.reshape(height, width)
        return Frame(image=image, camera=camera, labels=DenseLabels(z, np.isfinite(z), lens), pose=pose)


def parse_cameras(path: Path) -> dict[str, tuple[float, ...]]:
    """COLMAP cameras.txt -> id: (width, height, fx, fy, cx, cy, 8 coefficients); other models are left out."""
    cameras = {}
    for line in read_text(path).splitlines():
        words = line.split("#")[0].split()
        if len(words) == 16 and words[1] == _MODEL:
            with blaming(path):
                cameras[words[0]] = tuple(float(word) for word in words[2:])
    return cameras


def parse_images(path: Path) -> dict[str, tuple[str, tuple[float, ...]]]:
    """COLMAP images.txt -> name: (camera id, qw qx qy qz tx ty tz).

    Every second line lists points in threes (it may be empty): only the others have ten words.
    """
    images = {}
    for line in read_text(path).splitlines():
        words = line.split()
        if len(words) == 10 and not words[0].startswith("#"):
            with blaming(path):
                images[words[9]] = (words[8], tuple(float(word) for word in words[1:8]))
    return images


def thin_prism(parameters: tuple[float, ...]) -> LensCamera:
    """The lens of a row of `parse_cameras`."""
    width, height, fx, fy, cx, cy, *bend = parameters
    return LensCamera(Camera(fx, fy, cx - 0.5, cy - 0.5, int(width), int(height)), "thin_prism_fisheye", tuple(bend))


def camera_to_world(values: tuple[float, ...]) -> NDArray[np.float64]:
    """[4, 4] from COLMAP's world to camera: quaternion (w first), translation."""
    pose = np.eye(4)
    with np.errstate(invalid="ignore"):
        turn = quaternion_rotation(values[:4]).T
    pose[:3, :3], pose[:3, 3] = turn, -turn @ np.asarray(values[4:])
    return pose


READER = ETH3D()
