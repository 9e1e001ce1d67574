"""Input made to do harm: refused in one line with exit status 2, nothing written, and soon."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_runner import run
from depthlm.camera_io import resolve_camera
from depthlm.errors import InputError
from depthlm.inference import images
from depthlm.inference.images import open_image, read_bytes, second_nature
from depthlm.sample import decode_image, open_encoded
from test_bad_input import GOOD, refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(encoded())
    return tmp_path


def encoded(kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in some 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(3751)) for _ in range(30_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A small PNG whose comment unpacks to 200 MB."""
    packed = zlib.compress(bytes(200_000_000), 9)
    body = b"zTXt" + b"comment\0\0" + packed
    good = encoded()
    return good[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + good[33:]


def with_zip() -> bytes:
    file = io.BytesIO(encoded())
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("run.py", "print('hello')")
        archive.comment = b"a comment of its own"
    assert zipfile.is_zipfile(io.BytesIO(file.getvalue()))
    return file.getvalue()


def with_exif(**tags: Any) -> bytes:
    codes = {"mm": 0x920A, "mm35": 0xA405, "zoom": 0xA404, "wide": 0xA002, "res": 0xA20E, "unit": 0xA210}
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({codes[name]: value for name, value in tags.items()})
    return encoded("JPEG", exif=exif)


PICTURES: dict[str, tuple[bytes, str]] = {
    "pixels without end": (bomb(), "decompression bomb"),
    "a comment without end": (text_bomb(), "not a readable image"),
    "and a ZIP archive": (with_zip(), "ZIP archive"),
    "and a web page": (encoded("JPEG", comment=b"<script>alert(1)</script>"), "script"),
    "and a PDF": (encoded("JPEG", comment=b"%PDF-1.7"), "document"),
    "GIF and JavaScript": (b"GIF89a/*" + bytes(40) + b"*/=1;alert(1)//", "not a readable image"),
    "PostScript, which PIL would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "not a readable",
    ),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "page"),
    "nothing": (b"", "not a readable image"),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("command", ["predict", "map"])
def test_pictures(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, command: str, name: str) -> None:
    data, naming = PICTURES[name]
    (folder / "b.jpg").write_bytes(data)
    before = sorted(folder.rglob("*"))
    options = ("--point", "1,1") if command == "predict" else ("--out", folder / "map.npy")
    start = time.monotonic()
    refused(capsys, command, tiny_model, folder / "b.jpg", *options, "--focal", 50, naming=naming)
    assert time.monotonic() - start < 10
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(InputError, match=r"b\.jpg"):
        open_image(folder / "b.jpg")


def test_a_picture_that_ends_as_phones_write_it_is_no_archive() -> None:
    assert second_nature(encoded("JPEG") + b"\0\0\0\x18ftypmp42 a moving picture PK\x05\x06 that goes on") is None
    assert second_nature(encoded("WEBP")) is None


def test_a_file_without_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/dev/zero: is larger than 1 MB"):
        read_bytes("/dev/zero", most=2**20)
    monkeypatch.setattr(images.read_bytes, "__kwdefaults__", {"most": 100, "what": "a smaller one"})
    (tmp_path / "large.png").write_bytes(encoded())
    with pytest.raises(InputError, match=r"large\.png: is larger than .* MB; give a smaller one"):
        open_image(tmp_path / "large.png")
    with pytest.raises(InputError, match="null byte"):
        read_bytes("a\0b.png")


# --- EXIF -------------------------------------------------------------------------------------------------------------

ABSURD: dict[str, dict[str, Any]] = {
    "65 metres": {"mm35": 65_535},
    "endless zoom": {"mm35": 28, "zoom": 4e9},
    "a picture made from one pixel": {"mm": 5.0, "res": 1000.0, "unit": 3, "wide": 1e-6},
    "a thousandth of a millimetre": {"mm": 0.001, "res": 100.0, "unit": 3},
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_exif(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, name: str) -> None:
    (folder / "b.jpg").write_bytes(with_exif(**ABSURD[name]))
    arguments = ("predict", tiny_model, folder / "b.jpg", "--point", "1,1")
    error = refused(capsys, *arguments, naming="field of view")
    assert "EXIF" in error
    assert "--fov DEG" in error
    status, out, _ = run(capsys, *arguments, "--assume-fov", 60, "--json")
    assert status == 0
    assert "EXIF focal length is absurd" in json.loads(out)["images"][0]["camera"]["reason"]


@pytest.mark.parametrize("option", [("--focal", 1), ("--focal", "1e9"), ("--fov", 179), ("--assume-fov", "1e-3")])
def test_absurd_cameras(
    capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, option: tuple[Any, ...]
) -> None:
    """A focal length of one pixel would be shown to the model as a picture a thousand times as large."""
    refused(capsys, "predict", tiny_model, folder / "a.png", "--point", "1,1", *option, naming=option[0])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_is_silent_or_says_something(tmp_path: Path) -> None:
    """Bytes of the block changed at random: a camera or one line, never another error."""
    good, rng = with_exif(mm35=28, mm=5.0, res=1000.0, unit=3), random.Random(0)
    start = good.index(b"Exif")
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(start, start + 120)] = rng.randrange(256)
        try:
            upright = decode_image(bytes(data), "a.jpg")
            resolved = resolve_camera(open_encoded(bytes(data)))
        except InputError:
            continue
        assert (resolved.camera.width, resolved.camera.height) == upright.size


# --- text that is too much --------------------------------------------------------------------------------------------

CAMERA = {"fx": 50, "fy": 50, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}


def yaml_bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join([*lines, "fx: *a9", "fy: 1", "cx: 1", "cy: 1", "width: 64", "height: 48"])


FILES: dict[str, tuple[str, Any, str]] = {
    "100 MB": ("c.json", lambda: json.dumps(CAMERA) + " " * 100_000_000, "larger than 1 MB"),
    "100 MB of YAML": ("c.yaml", lambda: "a: 1\n" * 20_000_000, "larger than 1 MB"),
    "brackets without end": ("c.json", lambda: '{"fx": ' + "[" * 500_000, "not valid JSON"),
    "brackets of YAML": ("c.yaml", lambda: "fx: " + "[" * 5_000, "not valid YAML"),
    "a list of lists of lists": ("c.yaml", yaml_bomb, "fx is"),
    "a number without end": ("c.json", lambda: json.dumps(CAMERA).replace("31.5", "9" * 4000), "cx is"),
    "a name of a megabyte": ("c.json", lambda: json.dumps(CAMERA | {"model": "x" * 900_000}), "model"),
    "code": ("c.yaml", lambda: "!!python/object/apply:os.system ['touch gone']", "not valid YAML"),
}


@pytest.mark.parametrize("name", FILES)
def test_camera_files(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, name: str) -> None:
    file, make, naming = FILES[name]
    (folder / file).write_text(make())
    start = time.monotonic()
    arguments = ("predict", tiny_model, folder / "a.png", "--point", "1,1", "--camera", folder / file)
    error = refused(capsys, *arguments, naming=naming)
    assert len(error) < 1200
    assert time.monotonic() - start < 10


def test_a_row_of_100_megabytes(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path) -> None:
    good, rows = json.dumps(GOOD), folder / "rows.jsonl"
    long = json.dumps(GOOD | {"depth": [1.5] * 20_000_000})
    assert len(long) >= 100_000_000
    rows.write_text(f"{good}\n{long}\n{good}\n")
    refused(capsys, "eval", tiny_model, rows, "--label", "z", naming="rows.jsonl:2: longer than 32 MB")
    status, out, notes = run(capsys, "eval", tiny_model, rows, "--label", "z", "--skip-bad", "--json")
    assert (status, json.loads(out)["n"], json.loads(out)["n_skipped"]) == (0, 4, 1)
    assert "rows.jsonl:2" in notes
    rows.write_text("[" * 1_000_000)
    refused(capsys, "eval", tiny_model, rows, "--label", "z", naming="rows.jsonl:1: not a JSON object")


def test_a_name_is_printed_without_what_a_terminal_obeys() -> None:
    assert str(InputError("\x1b]0;owned\x07\x1b[2J a\u202egnp.exe\nb")) == "?]0;owned??[2J a?gnp.exe b"
    assert len(str(InputError("x" * 10_000_000))) < 1100
