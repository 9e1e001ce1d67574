"""A window resampled alone is the window of the whole, to one grey level."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthlm.bicubic import resample_window
from depthlm.camera import Camera
from depthlm.data import open_data
from depthlm.sample import Sample, decode_image
from depthlm.view import CropConfig, ViewConfig, make_training_view

SIZES = st.tuples(st.integers(1, 150), st.integers(1, 150))


def whole(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC).crop(box)).astype(int)


@settings(max_examples=150)
@given(SIZES, SIZES, st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 8]), st.booleans())
def test_any_window_of_any_resize(source, size, seed, block, hard) -> None:
    rng = np.random.default_rng(seed)
    width, height = source
    levels = rng.integers(0, 256, (-(-height // block), -(-width // block), 3), dtype=np.uint8)
    levels = np.where(levels > 127, 255, 0).astype(np.uint8) if hard else levels  # overshoot is cut off at 0 and 255
    image = Image.fromarray(levels.repeat(block, axis=0).repeat(block, axis=1)[:height, :width])
    left, top = int(rng.integers(size[0])), int(rng.integers(size[1]))
    box = (left, top, int(rng.integers(left + 1, size[0] + 1)), int(rng.integers(top + 1, size[1] + 1)))
    alone = np.asarray(resample_window(image, size, box)).astype(int)
    expected = whole(image, size, box)
    assert alone.shape == expected.shape
    assert np.abs(alone - expected).max() <= 1
    if size[1] < height:
        np.testing.assert_array_equal(alone, expected)


def test_training_views_of_photographs(samples_dir: Path) -> None:
    samples = open_data(samples_dir / "ibims1_official" / "ibims1_val.jsonl", label="z")
    crops = (CropConfig(), CropConfig(width=(200, 600), height=(200, 500), position="jitter", flip=0.5))
    apart = []
    for row in range(0, 25, 3):
        sample = samples[row]
        photo = sample.load_image()
        for crop in crops:
            config = ViewConfig(focal=1000, grid=32)
            view = make_training_view(sample, config=config, rng=np.random.default_rng(row), crop=crop)
            image = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.transform.flip else photo
            left, top = view.transform.left, view.transform.top
            box = (left, top, left + view.image.width, top + view.image.height)
            apart.append(np.abs(np.asarray(view.image).astype(int) - whole(image, view.transform.resized, box)))
    assert max(a.max() for a in apart) <= 1
    assert np.mean([(a > 0).mean() for a in apart]) < 0.01


def test_official_crops_are_bit_for_bit() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    sample = Sample(file.getvalue(), Camera.from_focal(60.0, 64, 48), np.array([[30.0, 20.0]]), np.array([2.0]))
    config = ViewConfig(focal=100, grid=16, geometry="official")
    crop = CropConfig(width=(64, 64), height=(48, 48))
    view = make_training_view(sample, config=config, rng=np.random.default_rng(0), crop=crop)
    left, top = view.transform.left, view.transform.top
    expected = whole(image, view.transform.resized, (left, top, left + 64, top + 48))
    np.testing.assert_array_equal(np.asarray(view.image), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
@pytest.mark.parametrize("orientation", [None, 6])
def test_decoding_gives_upright_rgb(mode: str, orientation: int | None) -> None:
    levels = np.arange(12, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(3, 4) * 20
    stored = Image.fromarray(levels) if mode == "I;16" else Image.fromarray(levels).convert(mode)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    image = decode_image(file.getvalue(), "here")
    assert image.mode == "RGB"
    expected = stored.convert("RGB")
    expected = expected.transpose(Image.Transpose.ROTATE_270) if orientation else expected
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
