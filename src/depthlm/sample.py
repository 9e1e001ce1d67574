"""Sample: one image with its camera and its labelled points, the record that flows through everything."""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image, ImageOps

from depthlm.errors import InputError
from depthlm.objects import LabelledObject, check_objects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlm.camera import Camera


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image, its camera, its points.

    image: the encoded file (PNG, JPEG, ...), so that a sample travels without a decode.
    uv: [N, 2] float64 pixels of `camera`. z: [N] float64 principal-axis depth, metres, > 0.
    surface: [N] what each point shows ("floor", "chair", ...), or None where the source does not say. near_edge: [N]
    within 3 px of a depth edge; incidence: [N] degrees between line of sight and the surface's normal, NaN where
    unknown; both from dense truth (surfaces.py), None without.
    pose: [4, 4] camera-to-world, metres, or None. scene, frame: where it comes from. objects: those that are labelled.
    """

    image: bytes
    camera: Camera
    uv: NDArray[np.float64]
    z: NDArray[np.float64]
    scene: str = ""
    frame: str = ""
    surface: tuple[str, ...] | None = None
    pose: NDArray[np.float64] | None = None
    objects: tuple[LabelledObject, ...] = ()
    near_edge: NDArray[np.bool_] | None = None
    incidence: NDArray[np.float64] | None = None
    source: str = field(default="", compare=False)  # file and row, for error messages

    def __post_init__(self) -> None:
        where = f"{self.source or self.frame or 'sample'}: "
        uv = np.asarray(self.uv, dtype=np.float64).reshape(-1, 2)
        z = np.asarray(self.z, dtype=np.float64).reshape(-1)
        if len(uv) != len(z):
            raise InputError(
                f"{where}{len(uv)} pixel coordinates but {len(z)} depths; the two lists must be equally long"
            )
        if not np.isfinite(uv).all():
            raise InputError(f"{where}a pixel coordinate is not a finite number")
        bad = ~(np.isfinite(z) & (z > 0))
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise InputError(f"{where}depth {z[i]} at point {i}; a depth is a positive finite number of metres")
        outside = ~self.camera.contains(uv)
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise InputError(
                f"{where}point {i} at ({uv[i, 0]:g}, {uv[i, 1]:g}) lies outside the "
                f"{self.camera.width}x{self.camera.height} image"
            )
        for name in ("surface", "near_edge", "incidence"):
            labels = getattr(self, name)
            if labels is not None and len(labels) != len(z):
                raise InputError(f"{where}{len(labels)} {name} labels for {len(z)} points")
        object.__setattr__(self, "uv", uv)
        object.__setattr__(self, "z", z)
        check_objects(self.objects, self.camera, where)
        if self.pose is not None:
            pose = np.asarray(self.pose, dtype=np.float64)
            if pose.shape != (4, 4) or not np.isfinite(pose).all():
                raise InputError(f"{where}pose has shape {pose.shape}; expected a finite (4, 4) camera-to-world matrix")
            object.__setattr__(self, "pose", pose)

    def __len__(self) -> int:
        return len(self.z)

    @property
    def distance(self) -> NDArray[np.float64]:
        """[N] Euclidean distance from the camera centre, metres (derived, never stored)."""
        return self.z * self.camera.ray_factor(self.uv)

    def load_image(self) -> Image.Image:
        """Decode to RGB and check that it is the camera's picture. Raises InputError when it is not."""
        return decode_image(
            self.image, where=self.source or self.frame or "image", size=(self.camera.width, self.camera.height)
        )


class Samples(Protocol):
    """Anything that holds samples by number: a list, a data set on disk. It may have `skipped`, the rows left out."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


_ORIENTATION = 0x0112  # EXIF tag
# What cameras and programs write (MPO comes with JPEG). PIL opens more, some by running a program (EPS: Ghostscript).
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000", "AVIF")
_NO_PICTURE = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, Image.DecompressionBombError)


def read_exif(image: Image.Image) -> Image.Exif:
    """The EXIF block of an image that may be opened only; empty where it is damaged, or lies behind a PNG's pixels."""
    if getattr(image, "format", None) == "PNG" and "exif" not in image.info:
        return Image.Exif()
    try:
        return image.getexif()
    except Exception:  # PIL's parser meets damaged blocks with whatever goes wrong first
        return Image.Exif()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once the EXIF orientation is applied, as `decode_image` does; nothing is decoded."""
    width, height = image.size
    return (height, width) if read_exif(image).get(_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)


def open_encoded(data: bytes) -> Image.Image:
    """Encoded bytes -> the picture as the file has it, EXIF and all; pixels are not read yet. Raises what PIL does.

    Of a file with several pictures it is the first.
    """
    with warnings.catch_warnings():  # PIL warns of 90 megapixels, which cameras take, and refuses 180
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)


def decode_image(data: bytes, where: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Encoded bytes -> upright RGB image.

    EXIF orientation is applied. `size` is the expected (width, height). Raises InputError (with `where` in the message)
    for bytes that are no complete image and for another size.
    """
    try:
        image = open_encoded(data)
        upright = _decode_fast(data, image)
        if upright is None:
            image.load()
    except _NO_PICTURE as error:
        raise InputError(f"{where}: not a readable image, missing or truncated data ({error})") from error
    # Copies are made only where something changes: a picture of 100 megapixels takes 300 MB each time.
    if upright is None:
        upright = image if read_exif(image).get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    if upright.mode != "RGB":
        upright = upright.convert("RGB")
    if size is not None and upright.size != size:
        raise InputError(f"{where}: image is {upright.width}x{upright.height} but its camera says {size[0]}x{size[1]}")
    return upright


def _decode_fast(data: bytes, image: Image.Image) -> Image.Image | None:
    """What PIL would decode, by imagecodecs, which is faster; None where only PIL will do.

    That is: anything but an upright 8-bit RGB picture in a whole JPEG or PNG file. image: `data` as PIL opened it.
    """
    import imagecodecs

    if image.mode != "RGB":
        return None
    try:
        if _is_whole_jpeg(data, image):
            pixels = imagecodecs.jpeg8_decode(data)
        elif _is_plain_png(data, image):
            pixels = imagecodecs.png_decode(data)
        else:
            return None
    except RuntimeError:  # each codec's own: PIL says what is wrong
        return None
    if pixels.shape != (image.height, image.width, 3):
        return None
    decoded = Image.fromarray(pixels)
    decoded.info = image.info  # EXIF, from which the page finds the camera
    return decoded


def _is_whole_jpeg(data: bytes, image: Image.Image) -> bool:
    """Whether it ends with its end marker: of a cut file libjpeg makes up the rest."""
    return image.format == "JPEG" and data.endswith(b"\xff\xd9") and read_exif(image).get(_ORIENTATION, 1) == 1


def _is_plain_png(data: bytes, image: Image.Image) -> bool:
    """Whether every chunk is whole and right, and none changes what the pixels mean (8-bit RGB, one frame, upright)."""
    if image.format != "PNG" or data[24:29] != b"\x08\x02\0\0\0":  # of the header: 8 bits, RGB, rows in order
        return False
    start = 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        kind = data[start + 4 : start + 8]
        if kind in (b"eXIf", b"acTL", b"tRNS"):  # orientation, frames, a transparent colour
            return False
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            return False
        if kind == b"IEND":
            return True
        start = end
    return False
