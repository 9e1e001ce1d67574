"""Pictures by imagecodecs equal PIL's, and go to PIL where they might not."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from depthlm.errors import InputError
from depthlm.sample import _decode_fast, decode_image, open_encoded


def picture(height: int = 61, width: int = 83) -> Image.Image:
    """Smooth colours with noise on top, of odd sizes."""
    v, u = np.mgrid[:height, :width]
    levels = np.stack([u * 3, v * 4, u + v], axis=2) + np.random.default_rng(0).integers(0, 30, (height, width, 3))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (picture() if image is None else image).save(file, kind, **options)
    return file.getvalue()


def by_pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def by_a_camera() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    return exif


PLAIN = encoded("PNG")
FAST = {
    "png": PLAIN,
    "png and more": PLAIN + b"trailing",
    "png with a colour profile": encoded("PNG", icc_profile=b"x" * 200),
    "png, gamma": PLAIN[:33] + chunk(b"gAMA", (20000).to_bytes(4)) + PLAIN[33:],
    "png, palette sizes": encoded("PNG", compress_level=9),
    "jpeg 4:4:4": encoded("JPEG", subsampling=0),
    "jpeg 4:2:2": encoded("JPEG", subsampling=1),
    "jpeg 4:2:0": encoded("JPEG", subsampling=2, quality=60),
    "jpeg progressive": encoded("JPEG", progressive=True),
    "jpeg with restarts": encoded("JPEG", restart_marker_rows=1),
    "jpeg of one pixel": encoded("JPEG", picture(1, 1)),
    "jpeg of a camera": encoded("JPEG", exif=by_a_camera()),
}
SLOW = {
    "png turned": encoded("PNG", exif=turned()),
    "png turned, said behind its pixels": PLAIN[:-12] + chunk(b"eXIf", turned().tobytes()) + PLAIN[-12:],
    "png with a transparent colour": encoded("PNG", transparency=(1, 2, 3)),
    "png with alpha": encoded("PNG", picture().convert("RGBA")),
    "png of grey": encoded("PNG", picture().convert("L")),
    "png of 16 bits": encoded("PNG", Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000)),
    "png with a palette": encoded("PNG", picture().convert("P")),
    "png with frames": encoded("PNG", save_all=True, append_images=[Image.new("RGB", (83, 61))]),
    "png without an end": PLAIN[:-12],
    "png with a wrong sum": PLAIN[:-1] + b"x",
    "jpeg turned": encoded("JPEG", exif=turned()),
    "jpeg of grey": encoded("JPEG", picture().convert("L")),
    "jpeg of ink": encoded("JPEG", picture().convert("CMYK")),
    "jpeg and more": encoded("JPEG") + b"trailing",
    "webp": encoded("WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FAST)
def test_equal_to_pil(name):
    data = FAST[name]
    assert _decode_fast(data, open_encoded(data)) is not None
    image = decode_image(data, "here")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), by_pil(data))
    assert dict(image.getexif()) == dict(Image.open(io.BytesIO(data)).getexif())
    assert bool(image.getexif()) == (name == "jpeg of a camera")


@pytest.mark.parametrize("name", SLOW)
def test_left_to_pil(name):
    data = SLOW[name]
    assert _decode_fast(data, open_encoded(data)) is None
    upright = Image.open(io.BytesIO(data))
    upright.load()
    expected = by_pil(data)
    if "turned" in name:
        expected = np.rot90(expected, -1)
    np.testing.assert_array_equal(np.asarray(decode_image(data, "here")), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damage_is_seen_as_pil_sees_it(kind):
    whole, rng = encoded(kind), np.random.default_rng(1)
    for trial in range(200):
        data = bytearray(whole)
        if trial % 4 == 0:
            del data[int(rng.integers(20, len(data))) :]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            found = np.asarray(decode_image(bytes(data), "here"))
        except InputError:
            found = None
        try:
            expected = by_pil(bytes(data))
        except Exception:
            # Of a JPEG whose header is odd, one in 1,500 of such damages, libjpeg reads what PIL gives up on before.
            assert found is None or kind == "JPEG"
        else:
            assert found is not None
            np.testing.assert_array_equal(found, expected)
