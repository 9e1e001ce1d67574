"""People's own data: pictures with depth maps and a camera, in plain folders.

    ROOT/images/NAME.jpg          (or rgb/, color/) png or jpg
    ROOT/depth/NAME.png           16-bit steps; .npy, .tiff, .exr with decimals hold metres
    ROOT/camera.json              one camera for all: fx fy cx cy width height [model, distortion] (.yaml, .yml, and
                                  whatever else `--camera FILE` takes), or
    ROOT/cameras/NAME.json        one for each picture
    ROOT/poses/NAME.txt           optional: 4x4 camera to world, metres, OpenCV axes
    ROOT/depthlm-folder.yaml      optional: depth_scale, depth, invalid

Several scenes: the same in ROOT/SCENE/, where what a scene lacks of camera.json and depthlm-folder.yaml is taken from
ROOT. Depth must be registered to the picture and may be coarser. Settings and what holds without them: `depth_scale`
0.001 (one step of a whole-number depth map in metres: MILLIMETRES, unless said otherwise), `depth` z (or `distance`,
along the ray), `invalid` [0] (values as stored that mean "nothing measured").
"""

from __future__ import annotations

import io
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from depthlm.camera import Camera, resize_uv
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import image_size, read_bytes, read_gray, read_numbers, rigid, straighten
from depthlm.data.readers.rgbd import MILLIMETRE, camera_file, check_shape, in_scan, pictures, scans
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from depthlm.lens import LensCamera

SETTINGS = "depthlm-folder.yaml"
_PICTURES = ("images", "rgb", "color")
_CAMERAS = ("json", "yaml", "yml", "txt")
_DEPTHS = (".png", ".npy", ".tiff", ".tif", ".exr")
_KEYS = {"depth_scale": MILLIMETRE, "depth": "z", "invalid": [0]}
_HOW = "fx fy cx cy width height, and optionally model and distortion"


class Folder(Reader):
    """One scene, or a folder of scenes."""

    name = "folder"
    title = "a folder of your own pictures"
    licence = "your own data"
    layout = (
        "images/ (or rgb/, color/) and depth/ with files of the same name, camera.json or cameras/NAME.json "
        f"[, poses/NAME.txt, {SETTINGS}], or one such folder for each scene"
    )
    splits = (ALL,)
    near, far = 0.001, 1000.0

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Every picture, by name, scene after scene."""
        self.check_split(split)
        found = scans(root, lambda folder: _pictures(folder) is not None)
        if not found:
            raise self.missing(root, "images/, rgb/ or color/, here or one level down")
        for scene in found:
            yield from self._index(root, scene)

    def _index(self, root: Path, scene: str) -> Iterator[FrameRef]:
        folder = root / scene
        settings = _settings(folder, root)
        shots = pictures(folder / (_pictures(folder) or ""))
        if not shots:
            raise InputError(f"{folder / (_pictures(folder) or '')}: no .png or .jpg picture in it")
        if not (folder / "depth").is_dir():
            raise InputError(
                f"{folder / 'depth'}: no such folder; it holds one depth map for each picture, named like it"
            )
        shared = next((p for b in (folder, root) for n in _CAMERAS if (p := b / f"camera.{n}").is_file()), None)
        own = {path.stem: path for path in pictures(folder / "cameras", [f".{n}" for n in _CAMERAS])}
        if shared is None and not own:
            raise InputError(
                f"{folder}: no camera; put camera.json ({_HOW}) there, or cameras/{shots[0].stem}.json for each picture"
            )
        depths = {path.stem: path for path in pictures(folder / "depth", _DEPTHS)}
        posed = (folder / "poses").is_dir()
        twice = _repeated([path.stem for path in shots])
        if twice:
            raise InputError(f"{shots[0].parent}: two pictures are called {twice}; their depth map could be either's")
        for path in shots:
            camera = own.get(path.stem, shared)
            below = [p.relative_to(root).as_posix() if p else "" for p in (path, depths.get(path.stem), camera)]
            yield FrameRef(
                id=in_scan(scene, path.stem), scene=scene or "scene", sequence=(scene or "scene") if posed else "",
                data=(scene, *below, *settings),
            )  # fmt: skip

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture (straightened where the camera has distortion), its depth map as z, its pose."""
        scene, rgb, depth, calibration, scale, kind, invalid = ref.data
        folder, path = root / scene, root / rgb
        if not depth:
            raise FrameError(
                f"{folder / 'depth' / path.stem}.png: no depth map for {rgb}; "
                f"expected the picture's name with one of {' '.join(_DEPTHS)}"
            )
        if not calibration:
            raise FrameError(
                f"{folder / 'cameras' / path.stem}.json: no camera for {rgb}, and no camera.json for all; write {_HOW}"
            )
        image = read_bytes(path)
        lens = camera_file(root / calibration, image_size(image, path))
        raw = _read_depth(root / depth)
        check_shape(raw, lens.camera, root / depth)
        # Whole numbers are steps, decimals are metres. Float first: a 16-bit product wraps silently.
        values = raw.astype(np.float64) * (1.0 if raw.dtype.kind == "f" else scale)
        if kind == "distance":
            values /= _ray_factor(lens, values.shape)
        bent = None if lens.is_pinhole else lens
        labels = DenseLabels(values.astype(np.float32), ~np.isin(raw, invalid), bent)
        camera: Camera = lens.camera
        if bent is not None:
            image, camera = straighten(image, path, bent)
        where = folder / "poses" / f"{path.stem}.txt"
        pose = rigid(read_numbers(where, 16), str(where)) if where.is_file() else None
        return Frame(image=image, camera=camera, labels=labels, pose=pose)


def _pictures(folder: Path) -> str | None:
    return next((name for name in _PICTURES if (folder / name).is_dir()), None)


def _repeated(names: list[str]) -> str:
    """A name that occurs twice, or ""."""
    return next((a for a, b in pairwise(sorted(names)) if a == b), "")


def _settings(folder: Path, root: Path) -> tuple[float, str, tuple[float, ...]]:
    """(metres of one step, "z" or "distance", stored values that mean nothing) of a scene's or the root's file."""
    path = next((p for p in (folder / SETTINGS, root / SETTINGS) if p.is_file()), None)
    if path is None:
        return MILLIMETRE, "z", (0.0,)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict) or set(given) - set(_KEYS):
        unknown = ", ".join(sorted(map(str, set(given) - set(_KEYS)))) if isinstance(given, dict) else "no named values"
        raise InputError(f"{path}: {unknown}; expected only {', '.join(_KEYS)}")
    scale, kind, invalid = (given.get(name, default) for name, default in _KEYS.items())
    if not _is_number(scale) or not (math.isfinite(scale) and scale > 0):
        raise InputError(
            f"{path}: depth_scale is {scale!r}; expected the metres of one step, like 0.001 for millimetres"
        )
    if kind not in ("z", "distance"):
        raise InputError(f"{path}: depth is {kind!r}; expected z (along the camera's axis) or distance (along the ray)")
    invalid = invalid if isinstance(invalid, list) else [invalid]
    if not all(_is_number(value) for value in invalid):
        raise InputError(f"{path}: invalid is {invalid!r}; expected a list of stored values, like [0, 65535]")
    return float(scale), str(kind), tuple(float(value) for value in invalid)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_depth(path: Path) -> NDArray[Any]:
    """[H, W] as stored."""
    if path.suffix.lower() == ".npy":
        try:
            raw: NDArray[Any] = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            if isinstance(error, InputError):
                raise
            raise FrameError(f"{path}: not a NumPy file ({error})") from error
        if raw.ndim == 3 and 1 in (raw.shape[0], raw.shape[2]):
            raw = raw.squeeze(0 if raw.shape[0] == 1 else 2)
    elif path.suffix.lower() == ".exr":
        raw = _read_exr(path)
    else:
        raw = read_gray(path)
    if raw.ndim != 2 or raw.dtype.kind not in "fiu":
        raise FrameError(f"{path}: {raw.dtype} of shape {raw.shape}; expected a (height, width) depth map")
    if raw.dtype == np.uint8:
        raise FrameError(
            f"{path}: 8-bit depth is a picture of depth, not a measurement; store 16-bit steps or decimals in metres"
        )
    return raw


def _read_exr(path: Path) -> NDArray[Any]:
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    import cv2

    try:
        raw = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FrameError(f"{path}: OpenCV cannot read it; store .npy or .tiff ({error.err})") from error
    if raw is None:
        raise FrameError(
            f"{path}: this OpenCV cannot read OpenEXR, or the file is damaged; store .npy or .tiff instead"
        )
    return np.asarray(raw[:, :, 0] if raw.ndim == 3 else raw)


def _ray_factor(lens: LensCamera, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """[h, w] distance / z on the grid of a depth map; NaN for pixels whose ray no pinhole picture can hold."""
    height, width = shape
    v, u = np.mgrid[:height, :width]
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    uv = resize_uv(uv, (width, height), (lens.camera.width, lens.camera.height))
    try:
        uv = lens.to_undistorted(uv)
    except InputError as error:
        raise FrameError(f"{error} (depth given as distance needs every pixel's ray)") from error
    return lens.undistorted.ray_factor(uv).reshape(height, width)


READER = Folder()
