"""iBims-1: 100 indoor photographs with laser depth, masks of glass and of invalid readings applied.

Depth is z in 16-bit PNG steps of 50 / 65535 m; both masks keep what is > 0. The `core_mat` download holds the same in
one .mat per picture. The released example labels (z as well, checked to 0.4 mm) ignore the masks: 254 of their 10,000
points lie on glass or on invalid pixels.

Walls, tables and floors are marked as planes by three more masks, each with the plane's number from 1 on; the .mat also
has their parameters, of which columns 4 to 6 are the normal with x to the right, y forward and z up.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.camera import Camera
from depthlm.data.readers.base import DenseLabels, Frame, FrameError, FrameRef, Planes, Reader
from depthlm.data.readers.files import image_size, read_bytes, read_depth_png, read_gray, read_mat, read_numbers
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_STEP = 50 / 65535  # metres
_MARKED = ("wall", "table", "floor")
_NORMAL = slice(4, 7)  # columns of a plane's parameters


class IBims1(Reader):
    """core_raw (png) or core_mat (MATLAB 5) trees."""

    name = "ibims1"
    title = "iBims-1"
    licence = "iBims-1 (TUM, mediaTUM 1455541): research use, do not redistribute"
    layout = "imagelist.txt with rgb/ depth/ calib/ mask_invalid/ mask_transp/ (ibims1_core_raw), or <name>.mat files"
    splits = ("test",)
    near, far = 0.005, 50.0
    legacy_label = "z"
    legacy_note = "masks of glass and invalid readings not applied"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """One frame for each name of imagelist.txt (core_raw), or each .mat."""
        self.check_split(split)
        if (listing := root / "imagelist.txt").is_file() and (root / "rgb").is_dir():
            for name in listing.read_text(encoding="utf-8").split():
                yield FrameRef(id=name, scene=name.rsplit("_", 1)[0])
            return
        mats = sorted(path.stem for path in root.glob("*.mat"))
        if not mats:
            raise self.missing(root, "imagelist.txt and no .mat file")
        for name in mats:
            yield FrameRef(id=name, scene=name.rsplit("_", 1)[0], data="mat")

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The photograph as it is, z where both masks and the depth map say so."""
        if ref.data == "mat":
            return _read_mat(root / f"{ref.id}.mat")
        return self._read_png(root, ref, masked=True)

    def read_legacy(self, root: Path, ref: FrameRef) -> Frame:
        """Without the masks."""
        if ref.data == "mat":
            raise InputError("the released iBims-1 labels come from the png download; give ibims1_core_raw")
        return self._read_png(root, ref, masked=False)

    def planes(self, root: Path, ref: FrameRef) -> Planes | None:
        """Walls, tables and floors; None for a download without their masks."""
        masks: list[tuple[NDArray[Any], NDArray[np.float64]]] = []
        if ref.data == "mat":
            path = root / f"{ref.id}.mat"
            data = _read_data(path)
            for name in _MARKED:
                if f"mask_{name}" in data:
                    given = np.atleast_2d(np.asarray(data.get(f"mask_{name}_paras", ()), dtype=np.float64))
                    masks.append((_mask(data[f"mask_{name}"], path), given))
        else:
            for name in _MARKED:
                if (path := root / f"mask_{name}" / f"{ref.id}.png").is_file():
                    masks.append((_mask(read_gray(path), path), np.empty((0, 0))))
        return _number(masks, root / ref.id) if masks else None

    def _read_png(self, root: Path, ref: FrameRef, *, masked: bool) -> Frame:
        path = root / "rgb" / f"{ref.id}.png"
        image = read_bytes(path)
        fx, fy, cx, cy = (float(value) for value in read_numbers(root / "calib" / f"{ref.id}.txt", 4))
        camera = Camera(fx, fy, cx, cy, *image_size(image, path))
        z, valid = read_depth_png(root / "depth" / f"{ref.id}.png", _STEP)
        for mask in ("mask_invalid", "mask_transp") if masked else ():
            keep = read_gray(root / mask / f"{ref.id}.png") > 0
            if keep.shape != valid.shape:
                raise FrameError(f"{root / mask / ref.id}.png: {keep.shape} mask for a {valid.shape} depth map")
            valid &= keep
        return Frame(image=image, camera=camera, labels=DenseLabels(z, valid))


def _read_mat(path: Path) -> Frame:
    """One file of the core_mat download: struct `data` with rgb, depth [m], calib [3, 3], mask_invalid, mask_transp."""
    data = _read_data(path)
    try:
        rgb, z = np.asarray(data["rgb"], dtype=np.uint8), np.asarray(data["depth"], dtype=np.float64)
        k = np.asarray(data["calib"], dtype=np.float64)
        valid = (np.asarray(data["mask_invalid"]) > 0) & (np.asarray(data["mask_transp"]) > 0)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise FrameError(f"{path}: not an iBims-1 file ({error!r})") from error
    if k.shape != (3, 3):
        raise FrameError(f"{path}: calib has shape {k.shape}; expected (3, 3)")
    k = k.T if k[2, 0] > 1 else k  # MATLAB's own convention keeps the principal point in the last row
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    camera = Camera.from_matrix(k, z.shape[1], z.shape[0])
    return Frame(image=buffer.getvalue(), camera=camera, labels=DenseLabels(z, valid))


def _read_data(path: Path) -> dict[str, Any]:
    try:
        data = read_mat(path, "data").item()
    except ValueError as error:
        raise FrameError(f"{path}: not an iBims-1 file ({error!r})") from error
    if not isinstance(data, dict):
        raise FrameError(f"{path}: not an iBims-1 file (`data` is a {type(data).__name__})")
    return data


def _mask(values: Any, path: Path) -> NDArray[Any]:
    mask = np.asarray(values)
    if mask.ndim != 2 or mask.dtype.kind not in "uifb":
        raise FrameError(f"{path}: a mask of planes has shape {mask.shape} and kind {mask.dtype}; expected [H, W]")
    return mask


def _number(masks: list[tuple[NDArray[Any], NDArray[np.float64]]], where: Path) -> Planes:
    """Masks [H, W] with the parameters [k, 8] of their planes (or none) -> planes numbered through."""
    regions = np.zeros(masks[0][0].shape, dtype=np.int32)
    normals: list[NDArray[np.float64]] = []
    for mask, given in masks:
        if mask.shape != regions.shape:
            raise FrameError(f"{where}: masks of planes of {mask.shape} and {regions.shape} pixels; expected one size")
        for value in np.unique(mask[mask > 0]):
            normal, row = np.full(3, np.nan), int(value) - 1
            if row < len(given) and given.shape[-1] >= _NORMAL.stop:
                right, forward, up = given[row, _NORMAL]
                length = float(np.linalg.norm(given[row, _NORMAL]))
                if np.isfinite(length) and length > 0:
                    normal = np.array([right, -up, forward]) / length
            normals.append(normal)
            regions[mask == value] = len(normals)
    return Planes(regions, np.array(normals, dtype=np.float64).reshape(-1, 3))


READER = IBims1()
