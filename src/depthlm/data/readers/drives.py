"""What the lidar drives (nuScenes, DDAD, Argoverse 2) share: a picture, a sweep of another moment, poses of both.

Points go sensor -> vehicle -> world at the time of the sweep and world -> vehicle -> camera at the time of the picture;
at 10 m/s the two moments lie decimetres apart, so a chain without the world is wrong.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import read_image, rigid
from depthlm.data.readers.lidar import project_lidar, quaternion_rotation, visible
from depthlm.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Step(NamedTuple):
    """One pose of a chain: the file below the root (and row) it comes from; w x y z of its rotation and then x y z.

    numbers: None where the row is missing, so that `read` can say which.
    """

    source: str
    numbers: tuple[float, ...] | None


class Capture(NamedTuple):
    """A picture and the sweep nearest in time, as `FrameRef.data`; paths below the root.

    intrinsics: fx fy cx cy, None where `source` (file and row) has none. picture: camera to world, outermost step
    first; sweep: lidar points to world.
    """

    image: str
    size: tuple[int, int]
    intrinsics: tuple[float, ...] | None
    source: str
    picture: tuple[Step, ...]
    lidar: str
    sweep: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A capture read: points [N, 3] of the sweep, the [4, 4] way into the camera, [4, 4] camera to world."""

    image: bytes
    camera: Camera
    points: NDArray[np.float64]
    camera_from_lidar: NDArray[np.float64]
    pose: NDArray[np.float64]


class DriveReader(Reader):
    """A reader whose `FrameRef.data` is a Capture."""

    nearest: ClassVar[float] = 0.5
    """Points nearer than this many metres before the camera show the vehicle itself."""

    @abstractmethod
    def points(self, path: Path) -> NDArray[np.float64]:
        """[N, 3] points of a sweep. Raises FrameError."""

    def view(self, root: Path, ref: FrameRef) -> View:
        """Everything of a capture, nothing filtered."""
        capture: Capture = ref.data
        camera = capture_camera(root, capture)
        pose = compose(root, capture.picture)
        return View(
            image=read_image(root / capture.image, camera),
            camera=camera,
            camera_from_lidar=np.linalg.inv(pose) @ compose(root, capture.sweep),
            points=self.points(root / capture.lidar),
            pose=pose,
        )

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture as it is; the points that its camera sees."""
        view = self.view(root, ref)
        labels = project_lidar(view.camera_from_lidar, view.points, view.camera, near=self.nearest)
        return Frame(image=view.image, camera=view.camera, labels=visible(labels, view.camera), pose=view.pose)


def capture_ref(capture: Capture, scene: str, sequence: str) -> FrameRef:
    """The reference of a capture, called like its picture; its pose where the chain is whole."""
    pose = None
    if all(step.numbers is not None for step in capture.picture):
        matrix = _product(capture.picture)
        pose = tuple(map(float, matrix.ravel())) if np.isfinite(matrix).all() else None
    return FrameRef(id=capture.image, scene=scene, sequence=sequence, pose=pose, data=capture)


def capture_camera(root: Path, capture: Capture) -> Camera:
    """The pinhole of a capture."""
    if capture.intrinsics is None:
        raise FrameError(f"{root / capture.source}: no such calibration")
    try:
        fx, fy, cx, cy = capture.intrinsics
        return Camera(fx, fy, cx, cy, *capture.size)
    except InputError as error:
        raise FrameError(f"{root / capture.source}: {error}") from error


def compose(root: Path, steps: tuple[Step, ...]) -> NDArray[np.float64]:
    """[4, 4] product of the steps, each of them checked."""
    for step in steps:
        if step.numbers is None:
            raise FrameError(f"{root / step.source}: no such pose")
        rigid(_product((step,)), str(root / step.source))
    return _product(steps)


def _product(steps: tuple[Step, ...]) -> NDArray[np.float64]:
    total = np.eye(4)
    for step in steps:
        matrix = np.eye(4)
        assert step.numbers is not None
        with np.errstate(invalid="ignore"):  # a zero quaternion becomes NaN, which is refused
            matrix[:3, :3] = quaternion_rotation(step.numbers[:4])
            matrix[:3, 3] = step.numbers[4:]
            total = total @ matrix
    return total
