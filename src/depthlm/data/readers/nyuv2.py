"""NYU Depth v2: 1,449 labelled pictures, in any of the three forms people have it.

nyu_depth_v2_labeled.mat (HDF5 inside): rawDepths is the sensor's z, 0 where it saw nothing, 10 m where it saw no end;
`depths` is painted in and not used. Pictures have a white border: only the crop of Eigen et al. counts. SUN RGB-D's
copy (kv1/NYUdata): its own crop and rotated bits. Dumps rgb_%05d.jpg + sync_depth_%05d.png (BTS): 16-bit millimetres.
The camera is the toolbox's (its file does not say whether pixels count from 1: taken as it is). splits.mat counts from
1, the names of pictures from 0.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers import sunrgbd
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import read_image, read_mat, require_h5py
from depthlm.data.readers.rgbd import dense_png
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAT = "nyu_depth_v2_labeled.mat"
CAMERA = Camera(518.857901, 519.469611, 325.582449, 253.736166, 640, 480)
CROP = (slice(45, 471), slice(41, 601))  # rows, columns (Eigen et al. 2014)
_SATURATED = 9.999  # metres: the sensor's 10 m means "farther"
_SYNC = re.compile(r"rgb_(\d+)\.(?:jpg|png)")


class NyuV2(Reader):
    """labeled.mat, SUN RGB-D's copy, or dumps of synchronised pairs."""

    name = "nyuv2"
    title = "NYU Depth v2"
    licence = "NYU Depth v2: research use; no explicit licence of the data"
    layout = (
        f"{MAT} (+ splits.mat), or SUN RGB-D's kv1/NYUdata/NYU####/ (+ splits.mat or allsplit.mat), "
        "or folders of rgb_#####.jpg with sync_depth_#####.png"
    )
    splits = ("train", "test")
    near, far = 0.005, 10.0
    every = 10  # dumps are video; the labelled pictures stand alone
    legacy_label = "distance"
    legacy_note = (
        "raw / 10000 of SUN RGB-D's copy for metres: 0.8 of the truth; all 1,449 pictures, not the 654 of test"
    )

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """The first form found: labeled.mat, SUN RGB-D's copy, dumps (there, a folder `test` on the path is test)."""
        self.check_split(split)
        if (root / MAT).is_file():
            yield from self._index_mat(root, split)
        elif (base := sunrgbd.tree(root)) and (base / "kv1" / "NYUdata").is_dir():
            yield from self._index_sun(root, base, split)
        else:
            yield from self._index_sync(root, split)

    def _index_mat(self, root: Path, split: str) -> Iterator[FrameRef]:
        count, scenes = _contents(root / MAT)
        chosen = None if split == ALL else self._numbers(root, split)
        for i in range(count):
            if chosen is None or i + 1 in chosen:
                yield FrameRef(id=f"rgb_{i:05d}", scene=scenes[i] if scenes else f"{i:05d}", data=("mat", i))

    def _index_sun(self, root: Path, base: Path, split: str) -> Iterator[FrameRef]:
        if split == ALL:
            chosen = None
        elif (root / "splits.mat").is_file():
            chosen = {f"kv1/NYUdata/NYU{n:04d}" for n in self._numbers(root, split)}
        else:
            chosen = set(sunrgbd.official_split(self, root, split))
        for capture in sunrgbd.captures(base / "kv1" / "NYUdata", base):
            if chosen is None or capture in chosen:
                yield FrameRef(id=capture, scene=capture, data=("sun",))

    def _index_sync(self, root: Path, split: str) -> Iterator[FrameRef]:
        found = False
        for folder, names, files in os.walk(root):
            names.sort()
            below = Path(folder).relative_to(root).as_posix()
            parts = below.split("/")
            video = not {"train", "test"} & set(parts)  # official_splits/{train,test}/<kind of room>: labelled pictures
            here = "test" if "test" in parts else "train"
            for name in sorted(files):
                if not (match := _SYNC.fullmatch(name)):
                    continue
                found = True
                if split in (here, ALL):
                    rgb = name if below == "." else f"{below}/{name}"
                    depth = f"{rgb[: -len(name)]}sync_depth_{match[1]}.png"
                    scene = "" if below == "." else below
                    yield FrameRef(
                        id=rgb.rsplit(".", 1)[0], scene=scene or "sync", sequence=(scene or "sync") if video else "",
                        data=("sync", rgb, depth),
                    )  # fmt: skip
        if not found:
            raise self.missing(root, f"{MAT}, kv1/NYUdata or rgb_#####.jpg")

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture, the sensor's own z."""
        form, *where = ref.data
        if form == "mat":
            return _read_mat(root / MAT, int(where[0]))
        if form == "sun":
            return sunrgbd.read_capture(root, ref, ("depth",))
        rgb, depth = where
        labels = dense_png(root / depth, CAMERA)
        labels = DenseLabels(labels.z, labels.valid & (labels.z < _SATURATED))
        return Frame(image=read_image(root / rgb, CAMERA), camera=CAMERA, labels=labels)

    def read_legacy(self, root: Path, ref: FrameRef) -> Frame:
        """Raw / 10000 of the copy's depth/ as z: what was published is the distance that follows from it."""
        if ref.data[0] != "sun":
            raise InputError("the released NYUv2 labels come from SUN RGB-D's copy; give a root with kv1/NYUdata")
        return sunrgbd.read_capture(root, ref, ("depth",), legacy=True)

    def _numbers(self, root: Path, split: str) -> frozenset[int]:
        """Numbers of a split's pictures in splits.mat, from 1."""
        path = root / "splits.mat"
        if not path.is_file():
            raise InputError(
                f"{path}: no such file, and it says which pictures are {split}; put it there, or take the split {ALL!r}"
            )
        return frozenset(int(n) for n in np.ravel(read_mat(path, f"{split}Ndxs")))


def _contents(path: Path) -> tuple[int, list[str]]:
    """How many pictures the file holds, and the names of their scenes (kitchen_0004; empty where it has none)."""
    h5py = require_h5py()
    try:
        with h5py.File(path, "r") as file:
            count = file["images"].shape[0]
            cells: Any = np.ravel(file["scenes"][()]) if "scenes" in file else ()
            # A MATLAB string is an array of character codes that a cell points to.
            return count, ["".join(map(chr, np.ravel(file[cell][()]))) for cell in cells]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not {MAT} ({error})") from error


def _read_mat(path: Path, i: int) -> Frame:
    """Picture i (from 0). MATLAB's arrays come out reversed: images [N, 3, 640, 480], rawDepths [N, 640, 480]."""
    from PIL import Image

    h5py = require_h5py()
    try:
        with h5py.File(path, "r") as file:
            rgb: NDArray[np.uint8] = np.asarray(file["images"][i], dtype=np.uint8).transpose(2, 1, 0)
            z: NDArray[np.float32] = np.asarray(file["rawDepths"][i], dtype=np.float32).T
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise FrameError(f"{path}: cannot read picture {i} ({error})") from error
    if rgb.shape != (480, 640, 3) or z.shape != (480, 640):
        raise FrameError(f"{path}: picture {i} is {rgb.shape} with depth {z.shape}; expected (480, 640)")
    valid = np.zeros(z.shape, dtype=bool)
    valid[CROP] = (z[CROP] > 0) & (z[CROP] < _SATURATED)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "PNG")
    return Frame(image=buffer.getvalue(), camera=CAMERA, labels=DenseLabels(z, valid))


READER = NyuV2()
