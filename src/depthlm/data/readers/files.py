"""Reading the files of raw trees, so that a damaged one is one FrameError that names it."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depthlm.data.readers.base import FrameError
from depthlm.errors import InputError
from depthlm.sample import upright_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.camera import Camera
    from depthlm.lens import LensCamera


def read_bytes(path: Path) -> bytes:
    """The whole file, not empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise FrameError(f"{path}: the file is empty")
    return data


def read_text(path: Path) -> str:
    """The whole text (UTF-8)."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(f"{path}: not a text file ({error})") from error


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise FrameError(f"{path}: not valid JSON ({error})") from error


def read_numbers(path: Path, count: int) -> NDArray[np.float64]:
    """[count] numbers that a text file holds, separated by white space or commas."""
    try:
        values = np.array(read_text(path).replace(",", " ").split(), dtype=np.float64)
    except ValueError as error:
        raise FrameError(f"{path}: holds something that is no number ({error})") from error
    if len(values) != count or not np.isfinite(values).all():
        raise FrameError(f"{path}: expected {count} finite numbers, found {len(values)}")
    return values


def image_size(data: bytes, path: Path) -> tuple[int, int]:
    """Upright (width, height) of an encoded picture, from its header."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return upright_size(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FrameError(f"{path}: not a readable image ({error})") from error


def read_image(path: Path, camera: Camera) -> bytes:
    """An encoded picture whose upright size is the camera's."""
    data = read_bytes(path)
    size = image_size(data, path)
    if size != (camera.width, camera.height):
        raise FrameError(
            f"{path}: image is {size[0]}x{size[1]} but its calibration says {camera.width}x{camera.height}"
        )
    return data


def read_gray(path: Path) -> NDArray[Any]:
    """[H, W] a one-channel picture as stored (uint8 or uint16): masks and depth maps. Cast before scaling it."""
    data = read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            pixels = np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FrameError(f"{path}: not a readable image ({error})") from error
    if pixels.ndim != 2:
        raise FrameError(f"{path}: expected one channel, found an array of shape {pixels.shape}")
    return pixels


def read_depth_png(path: Path, metres: float, *, invalid: tuple[int, ...] = (0,)) -> tuple[NDArray[np.float32], Any]:
    """A 16-bit depth picture -> z [H, W] metres and valid [H, W].

    metres: what one step is worth. invalid: values that mean "nothing measured".
    """
    raw = read_gray(path)
    if raw.dtype.kind not in "ui" or raw.dtype.itemsize < 2:
        raise FrameError(f"{path}: expected 16-bit depth, found {raw.dtype}")
    # Float first: a 16-bit product wraps silently.
    return (raw.astype(np.float64) * metres).astype(np.float32), ~np.isin(raw, invalid)


def require_h5py() -> Any:
    """The h5py module. Raises InputError where the optional package is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise InputError("reading HDF5 files needs h5py; pip install depthlm[data]") from error
    return h5py


def read_hdf5(path: Path, key: str = "dataset") -> NDArray[Any]:
    """One data set of an HDF5 file."""
    h5py = require_h5py()
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file[key])
    except (OSError, KeyError) as error:
        raise FrameError(f"{path}: cannot read {key!r} ({error})") from error


def read_mat(path: Path, key: str) -> NDArray[Any]:
    """One variable of a MATLAB 5 file, cells and characters simplified. Raises InputError for any other file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return np.asarray(loadmat(path, simplify_cells=True)[key])
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise InputError(f"{path}: cannot read the variable {key} of a MATLAB file ({error})") from error


def straighten(data: bytes, path: Path, lens: LensCamera) -> tuple[bytes, Camera]:
    """An encoded, distorted picture -> the straightened one (JPEG, quality 95, full chroma) and its pinhole camera."""
    from depthlm.sample import decode_image

    try:
        image, camera = lens.undistort(decode_image(data, str(path), (lens.camera.width, lens.camera.height)))
    except InputError as error:
        raise FrameError(str(error)) from error
    return encode_jpeg(image), camera


def encode_jpeg(image: Image.Image) -> bytes:
    """For pictures that a reader had to change: JPEG, quality 95, full chroma."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def rigid(matrix: Any, where: str) -> NDArray[np.float64]:
    """A [4, 4] pose (16 numbers in any nesting, or 12 for [3, 4]): finite, its rotation orthonormal to 1e-2."""
    values = np.asarray(matrix, dtype=np.float64).reshape(-1)
    pose = np.eye(4)
    if values.size not in (12, 16):
        raise FrameError(f"{where}: a pose has {values.size} numbers; expected 12 or 16")
    pose[: values.size // 4] = values.reshape(-1, 4)
    if not np.isfinite(pose).all():
        raise FrameError(f"{where}: the pose holds a number that is not finite")
    if np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() > 1e-2:
        raise FrameError(f"{where}: the pose's rotation is not orthonormal")
    return pose


# Right-multiplied to a pose: from a camera that looks down -z with y up (OpenGL, Blender, Matterport) to OpenCV's.
FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def index_pose(pose: Any) -> tuple[float, ...] | None:
    """FrameRef.pose of a [4, 4] or [3, 4] pose; None where `rigid` would refuse it, which is for `read` to say."""
    try:
        return tuple(float(value) for value in rigid(pose, "").reshape(-1))
    except (ValueError, TypeError):
        return None


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Whatever wrong content of a file raises inside becomes a FrameError that names it."""
    try:
        yield
    except FrameError:
        raise
    except KeyError as error:
        raise FrameError(f"{path}: it has no {error}") from error
    except (ValueError, TypeError, IndexError, OverflowError) as error:  # InputError of a camera among them
        raise FrameError(f"{path}: {error}") from error
