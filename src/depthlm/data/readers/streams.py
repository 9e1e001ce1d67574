"""Frames out of videos and of compressed depth streams, by number.

Neither can be entered in the middle (seeking in a video is not exact to the frame), so each open stream remembers where
it stands: asking in rising order reads it once, asking for an earlier frame starts over. What comes out depends on the
file and the number alone.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthlm.data.readers.base import FrameError

_CHUNK = 1 << 20


class Video:
    """A video read with OpenCV."""

    def __init__(self, path: Path) -> None:
        self._path, self._next = path, 0
        self._capture: Any = None
        self._lock = threading.Lock()

    @staticmethod
    @lru_cache(maxsize=4)
    def open(path: Path) -> Video:
        """The same object for the same path."""
        return Video(path)

    def jpeg(self, number: int) -> tuple[bytes, tuple[int, int]]:
        """Frame `number` as a JPEG (quality 95, full chroma), and its (width, height)."""
        pixels = Image.fromarray(np.ascontiguousarray(self._frame(number)[:, :, ::-1]))
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=95, subsampling=0)
        return buffer.getvalue(), pixels.size

    def gray(self, number: int) -> NDArray[Any]:
        """[H, W] uint8, the green channel of frame `number`: for videos without colour."""
        return self._frame(number)[:, :, 1]

    def _frame(self, number: int) -> NDArray[Any]:
        """[H, W, 3] uint8 BGR."""
        import cv2

        with self._lock:
            if self._capture is None or number < self._next:
                self._capture, self._next = cv2.VideoCapture(str(self._path)), 0
                if not self._capture.isOpened():
                    self._capture = None
                    raise FrameError(
                        f"{self._path}: {'not a readable video' if self._path.is_file() else 'no such file'}"
                    )
            while self._next <= number:
                if not self._capture.grab():
                    held, self._capture = self._next, None
                    raise FrameError(f"{self._path}: holds {held} frames; no frame {number}")
                self._next += 1
            good, pixels = self._capture.retrieve()
            if not good:
                raise FrameError(f"{self._path}: frame {number} cannot be decoded")
            frame: NDArray[Any] = pixels
            return frame


class DeflateStream:
    """One raw deflate stream of frames of equal size."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size, self._next, self._parts = path, size, 0, _inflate(path, size)
        self._lock = threading.Lock()

    @staticmethod
    @lru_cache(maxsize=2)
    def open(path: Path, size: int) -> DeflateStream:
        """The same object for the same path."""
        return DeflateStream(path, size)

    def frame(self, number: int) -> bytes:
        """The bytes of frame `number`."""
        with self._lock:
            if number < self._next:
                self._restart()
            part = b""
            while self._next <= number:
                try:
                    part = next(self._parts, b"")
                except (OSError, zlib.error) as error:
                    self._restart()
                    raise FrameError(f"{self._path}: cannot be unpacked ({error})") from error
                if not part:
                    held = self._next
                    self._restart()
                    raise FrameError(f"{self._path}: holds {held} frames; no frame {number}")
                self._next += 1
            return part

    def _restart(self) -> None:
        self._next, self._parts = 0, _inflate(self._path, self._size)


def _inflate(path: Path, size: int) -> Any:
    """The parts of `size` bytes of a raw deflate stream, one after the other; a shorter rest is left out."""
    unpacker, part = zlib.decompressobj(-zlib.MAX_WBITS), b""
    with path.open("rb") as file:
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or file.read(_CHUNK)
            got = unpacker.decompress(packed, size - len(part))
            if not packed and not got:  # at the end of the file zlib may still hold some output
                return
            part += got
            if len(part) == size:
                yield part
                part = b""


@lru_cache(maxsize=4)
def chain(path: Path) -> tuple[tuple[int, int], ...]:
    """Where the blocks of a file of [uint32 size][block] frames lie: (start, size) each; empty for another file."""
    blocks, place = [], 0
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            while place < length:
                file.seek(place)
                head = file.read(4)
                size = struct.unpack("<I", head)[0] if len(head) == 4 else 0
                if not 0 < size <= length - place - 4:
                    return ()
                blocks.append((place + 4, size))
                place += 4 + size
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not blocks:
        raise FrameError(f"{path}: the file is empty")
    return tuple(blocks)


def unpack_lz4(block: bytes, size: int) -> bytes:
    """An LZ4 block of exactly `size` bytes, unpacked; empty when it is none."""
    import pyarrow as pa

    try:
        data: bytes = pa.decompress(block, size, codec="lz4_raw", asbytes=True)
    except OSError:
        return b""
    # pyarrow does not say how much it filled: a block that fits into less room is too short.
    try:
        pa.decompress(block, size - 1, codec="lz4_raw", asbytes=True)
    except OSError:
        return data
    return b""
