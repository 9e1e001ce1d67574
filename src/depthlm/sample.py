"""Sample: one image with its camera and its labelled points, the record that flows through everything."""

from __future__ import annotations

import io
import warnings
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
    surface: [N] what each point shows ("floor", "chair", ...), or None where the source does not say.
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
        if self.surface is not None and len(self.surface) != len(z):
            raise InputError(f"{where}{len(self.surface)} surface labels for {len(z)} points")
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


def read_exif(image: Image.Image) -> Image.Exif:
    """The EXIF block of an image that may be opened only; empty where reading it would decode a whole PNG."""
    if getattr(image, "format", None) == "PNG" and "exif" not in image.info:
        return Image.Exif()
    return image.getexif()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once the EXIF orientation is applied, as `decode_image` does; nothing is decoded."""
    width, height = image.size
    return (height, width) if read_exif(image).get(0x0112, 1) in (5, 6, 7, 8) else (width, height)


def open_encoded(data: bytes) -> Image.Image:
    """Encoded bytes -> the picture as the file has it, EXIF and all; pixels are not read yet. Raises what PIL does."""
    with warnings.catch_warnings():  # PIL warns of 90 megapixels, which cameras take, and refuses 180
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data))


def decode_image(data: bytes, where: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Encoded bytes -> upright RGB image.

    EXIF orientation is applied. `size` is the expected (width, height). Raises InputError (with `where` in the message)
    for bytes that are no complete image and for another size.
    """
    try:
        image = open_encoded(data)
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: not a readable image, missing or truncated data ({error})") from error
    upright = ImageOps.exif_transpose(image).convert("RGB")
    if size is not None and upright.size != size:
        raise InputError(f"{where}: image is {upright.width}x{upright.height} but its camera says {size[0]}x{size[1]}")
    return upright
