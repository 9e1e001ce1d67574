"""Pictures in the forms people have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from depthlm.errors import InputError
from depthlm.sample import decode_image

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def open_image(image: Image.Image | ArrayLike | Path | str) -> Image.Image:
    """A picture in any of the forms people have it -> RGB, EXIF orientation applied to files.

    Raises InputError for a file that is no complete image and an array that is no [H, W, 3] uint8.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, (str, Path)):
        return decode_image(read_bytes(image), where=str(image))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"image array has shape {array.shape} and type {array.dtype}; expected [H, W, 3] uint8")
    return Image.fromarray(array)


def read_bytes(path: Path | str) -> bytes:
    """The bytes of a file. Raises InputError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give an existing image file") from error
