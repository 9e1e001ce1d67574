"""The Omnidata layout, which Taskonomy and HM3D share: square renders of scans, z, and one camera file per picture.

Depth is z in 1/512 m steps, 65535 = nothing. The annotator can be run with another range, and then the same PNGs mean
something else: every picture is fixated on a point whose distance the camera file states, so that z in the middle is
known and the unit is checked for each picture. The field of view differs from picture to picture. Poses are Blender's
(Euler XYZ, looking down -z), checked on two real files: the fixated point lies on the optical axis at that distance.
The split lists of Taskonomy end their lines with a lone carriage return.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import (
    FROM_OPENGL,
    blaming,
    image_size,
    read_bytes,
    read_depth_png,
    read_json,
    rigid,
)
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_STEP = 1 / 512  # metres
_UNIT_TOLERANCE = 0.02  # share of the stated distance


class Omnidata(Reader):
    """One component of an Omnidata tree; `name` is its folder below each domain."""

    splits = ("train", "val", "test")
    lists: ClassVar[tuple[str, ...]]
    """Split lists are called train_val_test_<one of these>.csv."""
    invalid_above: ClassVar[int] = 65534
    """Raw depth above this says nothing."""

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Every picture of domain rgb, by building and name."""
        self.check_split(split)
        pictures = self._domain(root, "rgb")
        if not pictures.is_dir():
            raise self.missing(root, "rgb folder")
        buildings = sorted(path.name for path in pictures.iterdir() if path.is_dir())
        if not buildings:
            raise self.missing(root, "building in rgb")
        if split != ALL:
            chosen = self._listed(root, split)
            buildings = [building for building in buildings if building in chosen]
        for building in buildings:
            for name in sorted(path.name for path in (pictures / building).iterdir()):
                if name.endswith("_domain_rgb.png"):
                    yield FrameRef(id=f"{building}/{name.removesuffix('_domain_rgb.png')}", scene=building)

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture as it is, z wherever the scan has a surface."""
        picture = self._domain(root, "rgb") / f"{ref.id}_domain_rgb.png"
        image = read_bytes(picture)
        depth = self._domain(root, "depth_zbuffer") / f"{ref.id}_domain_depth_zbuffer.png"
        z, valid = read_depth_png(depth, _STEP)
        valid &= z <= self.invalid_above * _STEP
        info = self._info(root, ref)
        values = read_json(info)
        with blaming(info):
            camera = Camera.from_fov(*image_size(image, picture), math.degrees(values["field_of_view_rads"]))
            pose = rigid(_pose(values), str(info))
            distance = float(values["camera_distance"])
        _check_unit(z, valid, distance, depth)
        return Frame(image=image, camera=camera, labels=DenseLabels(z, valid), pose=pose)

    def _domain(self, root: Path, domain: str) -> Path:
        """<root>/<domain>/<name>, or <root>/<domain> where a tree holds this component alone."""
        nested = root / domain / self.name
        return nested if nested.is_dir() else root / domain

    def _info(self, root: Path, ref: FrameRef) -> Path:
        """The camera file: HM3D (and Replica) keep the folder's name and change the file's."""
        folder = self._domain(root, "point_info")
        expected = folder / f"{ref.id}_domain_point_info.json"
        other = folder / f"{ref.id}_domain_fixatedpose.json"
        return other if other.is_file() else expected

    def _listed(self, root: Path, split: str) -> set[str]:
        """The buildings of a split."""
        found = [path for name in self.lists if (path := root / f"train_val_test_{name}.csv").is_file()]
        names = " or ".join(f"train_val_test_{name}.csv" for name in self.lists)
        if not found:
            raise InputError(f"{root}: split {split!r} needs {names} there; without a list only the split 'all' works")
        if len(found) > 1:
            raise InputError(f"{root}: several split lists ({', '.join(p.name for p in found)}); keep the one you mean")
        rows = [line.split(",") for line in found[0].read_text(encoding="utf-8").splitlines() if line.strip()]
        header = [word.strip() for word in rows[0]] if rows else []
        if "id" not in header or split not in header:
            raise InputError(f"{found[0]}: expected the columns id,train,val,test, found {','.join(header)!r}")
        column, flag = header.index("id"), header.index(split)
        return {row[column].strip() for row in rows[1:] if len(row) == len(header) and row[flag].strip() == "1"}


def _pose(values: dict[str, Any]) -> NDArray[np.float64]:
    """[4, 4] camera to world from Blender's location and Euler XYZ angles (x first, about fixed axes)."""
    from scipy.spatial.transform import Rotation

    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", values["camera_rotation_final"]).as_matrix()
    pose[:3, 3] = values["camera_location"]
    return pose @ FROM_OPENGL


def _check_unit(z: NDArray[np.float32], valid: NDArray[np.bool_], distance: float, path: Path) -> None:
    """FrameError unless z round the centre is the distance of the fixated point."""
    rows, columns = ((n // 2 - 1, n // 2 + 1) if n % 2 == 0 else (n // 2, n // 2 + 1) for n in z.shape)
    middle = (slice(*rows), slice(*columns))
    centre = z[middle][valid[middle]]
    # The centre lies between four pixels: on a slanted surface the distance is between theirs.
    low, high = distance * (1 - _UNIT_TOLERANCE), distance * (1 + _UNIT_TOLERANCE)
    if len(centre) and not (centre.max() >= low and centre.min() <= high):
        raise FrameError(
            f"{path}: depth at the centre is {np.median(centre):.3f} m in steps of 1/512 m, but its camera stands "
            f"{distance:.3f} m away; the unit of this file is not 1/512 m"
        )
