"""What a reader is: one small file that turns the raw tree of one data set into frames with right labels.

A reader lists its frames without opening pictures (`index`), and reads one of them (`read`) as a pure function of the
tree and the reference, so that any process on any machine can do it. Whatever the set stores (z or distance,
millimetres or metres, lidar in another frame at another time, pixels of a distorted picture) becomes z in metres at
pixels of a pinhole picture here, once.
"""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from depthlm.camera import resize_uv
from depthlm.errors import InputError
from depthlm.surfaces import point_facts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from depthlm.camera import Camera
    from depthlm.lens import LensCamera

ALL = "all"  # every split that the tree holds


class FrameError(InputError):
    """One frame cannot be used (the message says which file and why); the others can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRef:
    """One picture of a tree: everything `read` needs beside the root. Small, and pickles."""

    id: str
    """The set's own name of the picture, unique in the set and the same in every download (forward slashes)."""
    scene: str
    """Room, drive or building it shows; scenes never straddle a split."""
    sequence: str = ""
    """Pictures of one video of one camera, in order of time; empty where pictures stand alone."""
    pose: tuple[float, ...] | None = None
    """Camera to world, 16 numbers row by row, metres; None where the set has none or only `read` finds it."""
    data: Any = None
    """The reader's own: paths below the root, calibration, whatever `index` has found already."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseLabels:
    """A depth map: z [h, w] metres, valid [h, w] bool. Its grid is stretched over the picture.

    lens: set when the map lies in the grid of the original, distorted picture; its points are moved to the straightened
    one, where z is the same (distortion bends rays, it does not change z).
    """

    z: NDArray[Any]
    valid: NDArray[np.bool_]
    lens: LensCamera | None = None

    def __post_init__(self) -> None:
        # NaN, infinity and what is not in front of the camera can never be a label.
        object.__setattr__(self, "valid", _usable(self.z, self.valid))

    @property
    def count(self) -> int:
        """How many points can be chosen from."""
        return int(np.count_nonzero(self.valid))

    def within(self, near: float, far: float) -> DenseLabels:
        """The same with only near <= z <= far, metres."""
        narrowed = copy.copy(self)  # making a new one would check the whole map again
        object.__setattr__(narrowed, "valid", self.valid & (self.z >= near) & (self.z <= far))
        return narrowed

    def depths(self) -> NDArray[np.float64]:
        """[count] z of the valid pixels in reading order, metres."""
        return self.z[self.valid].astype(np.float64)

    def take(self, index: ArrayLike, camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[K] places among the valid pixels -> uv [K, 2] pixels of the picture of `camera`, and z [K] metres."""
        u, v = self._pixels(index)
        return self._place(u, v, camera), self.z[v, u].astype(np.float64)

    def facts(self, index: ArrayLike, camera: Camera) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """[K] places among the valid pixels -> near_edge [K], incidence [K] degrees (surfaces.point_facts)."""
        known = np.where(self.valid, self.z, 0)
        return point_facts(known, *self._pixels(index), camera, lambda u, v: self._place(u, v, camera))

    def _pixels(self, index: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[K] places -> columns and rows of the map."""
        flat = np.flatnonzero(self.valid)[np.asarray(index, dtype=np.int64)]
        v, u = np.divmod(flat, self.z.shape[1])
        return u, v

    def _place(self, u: NDArray[np.int64], v: NDArray[np.int64], camera: Camera) -> NDArray[np.float64]:
        """Columns [K] and rows [K] of the map -> uv [K, 2] pixels of the picture of `camera`."""
        height, width = self.z.shape
        uv = np.stack([u, v], axis=1).astype(np.float64)
        source = camera if self.lens is None else self.lens.camera
        full = (source.width, source.height)
        if (width, height) != full:
            uv = resize_uv(uv, (width, height), full)
        return uv if self.lens is None else self.lens.to_undistorted(uv)


@dataclass(frozen=True, slots=True, eq=False)
class SparseLabels:
    """Points: uv [N, 2] pixels of the picture, z [N] metres."""

    uv: NDArray[np.float64]
    z: NDArray[np.float64]

    def __post_init__(self) -> None:
        keep = _usable(self.z, np.asarray(np.isfinite(self.uv).all(axis=1)))
        object.__setattr__(self, "uv", np.asarray(self.uv, dtype=np.float64)[keep])
        object.__setattr__(self, "z", np.asarray(self.z, dtype=np.float64)[keep])

    @property
    def count(self) -> int:
        """How many points can be chosen from."""
        return len(self.z)

    def within(self, near: float, far: float) -> SparseLabels:
        """The same with only near <= z <= far, metres."""
        keep = (self.z >= near) & (self.z <= far)
        return SparseLabels(self.uv[keep], self.z[keep])

    def depths(self) -> NDArray[np.float64]:
        """[count] z, metres."""
        return self.z

    def take(self, index: ArrayLike, camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[K] places -> uv [K, 2] pixels, z [K] metres."""
        index = np.asarray(index, dtype=np.int64)
        return self.uv[index], self.z[index]

    def facts(self, index: ArrayLike, camera: Camera) -> tuple[None, None]:
        """Points alone do not say where a depth edge is."""
        return None, None


Labels = DenseLabels | SparseLabels


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frame:
    """One picture with everything that is known of it.

    image: the encoded file; its upright picture is what `camera` (a pinhole) shows. pose: [4, 4] camera-to-world,
    OpenCV camera frame, metres, or None.
    """

    image: bytes
    camera: Camera
    labels: Labels
    pose: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Surfaces of a picture that people marked as planes.

    regions: [h, w] on the grid of its depth map, k from 1 on for the pixels of plane k, 0 for none. normals: [K, 3]
    unit normal of plane k in row k - 1, camera frame, NaN where the set does not say it.
    """

    regions: NDArray[np.int32]
    normals: NDArray[np.float64]


class Reader(ABC):
    """One data set. A module of this package holds one instance as `READER`."""

    name: ClassVar[str]
    """As in `depthlm curate NAME`."""
    title: ClassVar[str]
    """As people write it."""
    licence: ClassVar[str]
    """One line that goes into every manifest."""
    version: ClassVar[int] = 1
    """Grows whenever labels change."""
    layout: ClassVar[str]
    """What a root looks like, for the message when it does not."""
    splits: ClassVar[tuple[str, ...]]
    """Official splits; the first is the default."""
    near: ClassVar[float]
    """Least z of a trusted label, metres."""
    far: ClassVar[float]
    """Largest z of a trusted label, metres."""
    every: ClassVar[int] = 1
    """Of a video, one frame in so many is kept by default."""
    legacy_label: ClassVar[Literal["z", "distance"]] = "distance"
    """What the labels of the released curation mean for this set (they were all asked for as distances)."""
    legacy_note: ClassVar[str] = ""
    """What else is wrong with the released labels, in one line; empty for nothing known."""

    @abstractmethod
    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """All frames of a split (or `ALL`), in an order that depends on the tree's content alone.

        Opens no picture and no depth map. Raises InputError when the root is not this set.
        """

    @abstractmethod
    def read(self, root: Path, ref: FrameRef) -> Frame:
        """One frame, all valid labels. Raises FrameError when it is damaged or incomplete."""

    def read_legacy(self, root: Path, ref: FrameRef) -> Frame:
        """The frame with the errors of the released curation (`legacy_note`), to compare with published numbers.

        Its labels hold z such that what was published is `legacy_label` of it.
        """
        return self.read(root, ref)

    def planes(self, root: Path, ref: FrameRef) -> Planes | None:
        """The planes that the set marks in a frame with a depth map; None where it marks none at all.

        Raises FrameError when the file of them is damaged.
        """
        return None

    @property
    def legacy_line(self) -> str:
        """`legacy_note`, and whether `read_legacy` brings those errors back."""
        if not self.legacy_note or type(self).read_legacy is not Reader.read_legacy:
            return self.legacy_note
        return f"not reproduced: {self.legacy_note}"

    def missing(self, root: Path, what: str) -> InputError:
        """The error for a root that does not hold the set: what was looked for in vain, what a root looks like."""
        if not root.is_dir():
            return InputError(f"{root}: no such folder; give the root of {self.title}: {self.layout}")
        return InputError(f"{root} does not look like {self.title} (no {what}); expected {self.layout}")

    def check_split(self, split: str) -> None:
        """Raises InputError for a split the set does not have."""
        if split not in (*self.splits, ALL):
            known = ", ".join(dict.fromkeys((*self.splits, ALL)))
            raise InputError(f"{self.name} has no split {split!r}; expected one of {known}")


READERS = (
    "argoverse2", "arkitscenes", "ddad", "diode", "eth3d", "folder", "hm3d", "hypersim", "ibims1", "kitti",
    "matterport3d", "nuscenes", "nyuv2", "redwood", "scannetpp", "stray", "sunrgbd", "taskonomy", "tum", "waymo",
)  # fmt: skip


def get_reader(name: str) -> Reader:
    """The reader called `name`. Raises InputError with the names that exist."""
    if name not in READERS:
        raise InputError(f"data set {name!r} is unknown; expected one of {', '.join(READERS)}")
    reader: Reader = importlib.import_module(f"depthlm.data.readers.{name}").READER
    return reader


def _usable(z: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    z, valid = np.asarray(z), np.asarray(valid, dtype=bool)
    if z.shape != valid.shape:
        raise ValueError(f"{valid.shape} valid flags for {z.shape} depths")
    with np.errstate(invalid="ignore"):
        usable: NDArray[np.bool_] = valid & np.isfinite(z) & (z > 0)
    return usable
