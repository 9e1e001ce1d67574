"""DIODE: laser scans of rooms and outdoor places, one picture from each of many headings of a scanner's stand.

Depth is z in metres, float32 [768, 1024, 1] in .npy; the mask beside it is 1 where it was measured. All pictures are
crops by one computed camera whose fx and fy differ on purpose. Its principal point is taken as written (512, 384).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import read_bytes, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CAMERA = Camera(886.81, 927.06, 512.0, 384.0, 1024, 768)


class Diode(Reader):
    """The trees of train.tar.gz and val.tar.gz."""

    name = "diode"
    title = "DIODE"
    licence = "DIODE: MIT"
    layout = "{train,val}/{indoors,outdoor}/scene_#####/scan_#####/*.png with *_depth.npy and *_depth_mask.npy"
    splits = ("train", "val")
    near, far = 0.6, 350.0

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Scan after scan, pictures by name."""
        self.check_split(split)
        found = False
        for part in self.splits if split == ALL else (split,):
            for scan in sorted((root / part).glob("*/scene_*/scan_*")):
                scene = f"{scan.parent.parent.name}/{scan.parent.name}"
                for path in sorted(scan.glob("*.png")):
                    found = True
                    yield FrameRef(id=path.relative_to(root).with_suffix("").as_posix(), scene=scene)
        if not found:
            what = "train or val" if split == ALL else split
            raise self.missing(root, f"{what}/{{indoors,outdoor}}/scene_*/scan_*/*.png")

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture, z where the mask says so."""
        image = read_image(root / f"{ref.id}.png", CAMERA)
        z = _read_npy(root / f"{ref.id}_depth.npy").astype(np.float32)
        mask = _read_npy(root / f"{ref.id}_depth_mask.npy") > 0
        return Frame(image=image, camera=CAMERA, labels=DenseLabels(z, mask))


def _read_npy(path: Path) -> NDArray[Any]:
    """[768, 1024] numbers; depth maps have a third axis of length 1."""
    import io

    try:
        values: NDArray[Any] = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"{path}: not a NumPy file ({error})") from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.shape != (CAMERA.height, CAMERA.width) or values.dtype.kind not in "fiub":
        raise FrameError(
            f"{path}: {values.dtype} of shape {values.shape}; expected ({CAMERA.height}, {CAMERA.width}) numbers"
        )
    return values


READER = Diode()
