"""SUN RGB-D: 8,886 captures of four depth cameras (and NYUv2's 1,449, which belong to the reader `nyuv2`).

Traps: depth is millimetres rotated left by 3 bits, not steps of 1/10000 m, and v / 8000 is wrong past 8.191 m;
`depth_bfx` has its holes filled from several views, `depth` is the sensor's own. The nesting of folders differs per
camera: a capture is any folder that holds image/. The NYU captures are left out, as in the paper's set.
Principal points are taken as the files give them (the toolbox counts pixels from 1, the cameras' makers from 0).
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import image_size, read_bytes, read_gray, read_mat, read_numbers
from depthlm.data.readers.rgbd import MILLIMETRE, check_shape, pictures
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CAMERAS = ("kv1", "kv2", "realsense", "xtion")
_SPLIT = Path("SUNRGBDtoolbox", "traintestSUNRGBD", "allsplit.mat")
_LEGACY_STEP = 1 / 10000  # what the released curation takes one step of the depth picture for, metres


class SunRgbd(Reader):
    """The tree of Princeton's SUNRGBD.zip."""

    name = "sunrgbd"
    title = "SUN RGB-D"
    licence = "SUN RGB-D: research use; terms not checked"
    layout = (
        "SUNRGBD/{kv1,kv2,realsense,xtion}/.../<capture>/{image/*.jpg, depth_bfx/*.png, intrinsics.txt} "
        "and SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    )
    splits = ("train", "test")
    near, far = 0.005, 8.0
    legacy_label = "distance"
    legacy_note = "raw / 10000 for metres: 0.8 of the truth, wraps to near 0 past 8.191 m; train and test mixed"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Every capture that is not NYU's; train and test by allsplit.mat (without that file only `all`)."""
        self.check_split(split)
        captures = self._captures(root, split)
        if next(captures, None) is None:
            raise self.missing(root, "folder with image/ below kv1, kv2, realsense or xtion")
        yield from self._captures(root, split)

    def _captures(self, root: Path, split: str) -> Iterator[FrameRef]:
        base = tree(root)
        if base is None:
            raise self.missing(root, "kv1/, kv2/, realsense/ or xtion/")
        chosen = None if split == ALL else official_split(self, root, split)
        for camera in CAMERAS:
            for capture in captures(base / camera, base):
                if "NYUdata" not in capture.split("/") and (chosen is None or capture in chosen):
                    yield capture_ref(capture)

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture, z of depth_bfx (of depth where the capture has no other)."""
        return read_capture(root, ref, ("depth_bfx", "depth"))

    def read_legacy(self, root: Path, ref: FrameRef) -> Frame:
        """Raw / 10000 of depth_bfx as z: what was published is the distance that follows from it."""
        return read_capture(root, ref, ("depth_bfx",), legacy=True)


def tree(root: Path) -> Path | None:
    """The folder that holds the cameras' folders: root/SUNRGBD or root."""
    return next((b for b in (root / "SUNRGBD", root) if any((b / camera).is_dir() for camera in CAMERAS)), None)


def captures(folder: Path, base: Path) -> Iterator[str]:
    """Paths below `base` of the folders that hold image/, at any depth, sorted."""
    for path, names, _ in os.walk(folder):
        if "image" in names:
            names.clear()
            yield Path(path).relative_to(base).as_posix()
        names.sort()


def capture_ref(capture: str) -> FrameRef:
    """Captures of xtion/sun3ddata/<place>/ are frames of videos of one place; the others stand alone."""
    parts = capture.split("/")
    scene = "/".join(parts[:3]) if "sun3ddata" in parts else capture
    return FrameRef(id=capture, scene=scene)


def official_split(reader: Reader, root: Path, split: str) -> frozenset[str]:
    """Captures (paths below SUNRGBD/) of alltrain or alltest in allsplit.mat."""
    found = next((p for p in (root / _SPLIT, root.parent / _SPLIT) if p.is_file()), None)
    if found is None:
        raise InputError(
            f"{root}: no {_SPLIT.as_posix()}, which says what {reader.title}'s {split} split is; "
            f"unpack SUNRGBDtoolbox.zip there, or take the split {ALL!r}"
        )
    names = np.ravel(read_mat(found, f"all{split}"))
    try:
        return frozenset(_below_sunrgbd(str(name)) for name in names)
    except ValueError as error:
        raise InputError(f"{found}: names no path below SUNRGBD/ ({error})") from error


def _below_sunrgbd(name: str) -> str:
    """/n/fs/sun3d/data/SUNRGBD/kv2/.../ -> kv2/...; one slash between parts."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[parts.index("SUNRGBD") + 1 :])


def read_capture(root: Path, ref: FrameRef, folders: tuple[str, ...], *, legacy: bool = False) -> Frame:
    """One capture with the depth of the first of `folders` that it has; legacy: raw / 10000."""
    folder = (tree(root) or root) / ref.id
    picture = _only(folder / "image")
    image = read_bytes(picture)
    k: NDArray[np.float64] = read_numbers(folder / "intrinsics.txt", 9).reshape(3, 3)
    try:
        camera = Camera.from_matrix(k, *image_size(image, picture))
    except InputError as error:
        raise FrameError(f"{folder / 'intrinsics.txt'}: {error}") from error
    depth = _only(next((folder / name for name in folders if (folder / name).is_dir()), folder / folders[0]))
    raw = read_gray(depth)
    if raw.dtype.kind not in "ui" or raw.dtype.itemsize < 2:
        raise FrameError(f"{depth}: expected 16-bit depth, found {raw.dtype}")
    z = raw * _LEGACY_STEP if legacy else _unrotate(raw) * MILLIMETRE
    check_shape(z, camera, depth)
    return Frame(image=image, camera=camera, labels=DenseLabels(z.astype(np.float32), raw > 0))


def _only(folder: Path) -> Path:
    """The one picture in a capture's sub-folder."""
    found = pictures(folder)
    if len(found) != 1:
        raise FrameError(f"{folder}: expected one picture, found {len(found)}")
    return found[0]


def _unrotate(raw: NDArray[Any]) -> NDArray[np.float64]:
    """16-bit values rotated left by 3 bits -> what they were, as floats."""
    value = raw.astype(np.uint32)
    return ((value >> 3) | (value << 13 & 0xFFFF)).astype(np.float64)


READER = SunRgbd()
