"""PIL's memory as an array and back: the same pixels, shared where PIL keeps them in one piece."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from PIL import Image

from depthlm import bicubic, rgbx
from depthlm.rgbx import as_image, view_levels


def levels(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (640, 480)])
def test_a_view_is_the_pictures_own_memory(size: tuple[int, int]) -> None:
    expected = levels(size[1], size[0])
    image = Image.fromarray(expected)
    seen = view_levels(image)
    assert seen.shape == (size[1], size[0], 4)
    assert not seen.flags.writeable
    np.testing.assert_array_equal(seen[:, :, :3], expected)
    image.putpixel((0, 0), (1, 2, 3))
    assert seen[0, 0, :3].tolist() == [1, 2, 3]


def test_a_picture_in_pieces_is_copied() -> None:
    """PIL splits what is above 16 MB."""
    expected = levels(2200, 2000)
    seen = view_levels(Image.fromarray(expected))
    np.testing.assert_array_equal(seen, expected)


def test_a_view_outlives_its_picture() -> None:
    expected = levels(480, 640)
    seen = view_levels(Image.fromarray(expected))
    gc.collect()
    others = [Image.new("RGB", (640, 480), "white") for _ in range(8)]
    np.testing.assert_array_equal(seen[:, :, :3], expected)
    assert len(others) == 8


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("part", [slice(None), slice(3, 9)])
def test_an_array_as_a_picture(channels: int, part: slice) -> None:
    given = levels(20, 30, channels)
    image = as_image(given[:, part])
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), given[:, part, :3])
    before = given.copy()
    image.putpixel((0, 0), (0, 0, 0))
    image.copy().paste((9, 9, 9), (0, 0, 3, 3))
    np.testing.assert_array_equal(given, before)


def test_resampling_a_picture_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(levels(60, 80))
    size, box = (143, 107), (5, 3, 131, 99)
    one = np.asarray(bicubic.resample_window(image, size, box))
    monkeypatch.setattr(rgbx.pa, "array", lambda picture: (_ for _ in ()).throw(ValueError("rows are not contiguous")))
    np.testing.assert_array_equal(np.asarray(bicubic.resample_window(image, size, box)), one)
