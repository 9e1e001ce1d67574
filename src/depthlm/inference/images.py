"""Pictures in the forms people have them, and what is refused before a decoder sees it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from depthlm.errors import InputError
from depthlm.sample import decode_image

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MAX_PICTURE_BYTES = 512 * 2**20
_ZIP_END = b"PK\x05\x06"  # of a ZIP archive: 22 bytes, then a comment that reaches to the end of the file
_ZIP_TAIL = 22 + 65_535
_MARKUP = (b"%pdf-", b"<html", b"<!doctype", b"<script", b"<svg", b"<?php")


def open_image(image: Image.Image | ArrayLike | Path | str) -> Image.Image:
    """A picture in any of the forms people have it -> RGB, EXIF orientation applied to files.

    Raises InputError for a file that is no complete image and an array that is no [H, W, 3] uint8.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, (str, Path)):
        return decode_image(read_picture(image), where=str(image))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"image array has shape {array.shape} and type {array.dtype}; expected [H, W, 3] uint8")
    return Image.fromarray(array)


def read_picture(path: Path | str) -> bytes:
    """The bytes of a picture file, not decoded yet. Raises InputError when it cannot be read or is more than a picture.

    Such a file is a picture to one program and an archive, a page or a script to the next. We would measure it
    and be right, but whoever passes it on would pass on the rest.
    """
    data = read_bytes(path)
    other = second_nature(data)
    if other is not None:
        raise InputError(f"{path}: is a picture and {other} at once; save the picture anew and give that")
    return data


def second_nature(data: bytes) -> str | None:
    """What a picture file is besides: an archive, a page, a script; None for a picture alone."""
    head = data[:1024].lower()
    if any(mark in head for mark in _MARKUP):
        return "a page, a document or a script"
    tail = data[-_ZIP_TAIL:]
    at = tail.rfind(_ZIP_END)
    if at >= 0 and len(tail) >= at + 22 and struct.unpack_from("<H", tail, at + 20)[0] == len(tail) - at - 22:
        return "a ZIP archive"
    return None


def read_bytes(path: Path | str, *, most: int = MAX_PICTURE_BYTES, what: str = "an existing image file") -> bytes:
    """The bytes of a file. Raises InputError when it cannot be read, or holds more than `most` bytes.

    No more than that is read, whatever the file system says of its size.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); give {what}") from error
    if len(data) > most:
        raise InputError(f"{path}: is larger than {most / 2**20:g} MB; give {what}")
    return data
