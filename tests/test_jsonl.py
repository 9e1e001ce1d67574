"""The official jsonl: what real files say, what a bad row says, and a round trip."""

from __future__ import annotations

import io
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.data import open_data
from depthlm.data.jsonl import read_jsonl, write_jsonl
from depthlm.errors import InputError
from depthlm.sample import Sample

ROW = {
    "image": "a.png",
    "intrinsics": [20.0, 21.0, 7.5, 5.5, 16, 12],
    "pixel_coords": [[0, 0], [7.5, 5.5], [15, 11]],
    "depth": [1.0, 2.0, 3.5],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path


def write(folder: Path, *rows: object) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_official_file(samples_dir: Path) -> None:
    path = samples_dir / "ibims1_official/ibims1_val.jsonl"
    data = open_data(path, label="z", check_images=True)
    assert len(data) == 25
    assert data.points == sum(len(s) for s in data) == 2500
    assert data.skipped == []
    first = json.loads(path.read_text().splitlines()[0])
    assert data[0].frame == first["image"]
    np.testing.assert_array_equal(data[0].z, first["depth"])
    np.testing.assert_array_equal(data[0].uv, first["pixel_coords"])
    assert data[0].load_image().size == (640, 480)
    as_distance = open_data(path, label="distance")[0]
    np.testing.assert_allclose(as_distance.distance, first["depth"])
    assert (as_distance.z < data[0].z).all()


def test_distance_labels_become_z(folder: Path) -> None:
    path = write(folder, ROW)
    z, distance = read_jsonl(path)[0], read_jsonl(path, label="distance")[0]
    np.testing.assert_array_equal(z.z, ROW["depth"])
    factor = math.sqrt(1 + (7.5 / 20) ** 2 + (5.5 / 21) ** 2)
    np.testing.assert_allclose(distance.z, [1.0 / factor, 2.0, 3.5 / factor])
    np.testing.assert_allclose(distance.distance, ROW["depth"])
    with pytest.raises(InputError, match="label is 'metres'"):
        read_jsonl(path, label="metres")


def test_short_intrinsics_take_the_size_of_the_image(folder: Path) -> None:
    sample = read_jsonl(write(folder, {**ROW, "intrinsics": [20, 21, 7.5, 5.5]}))[0]
    assert sample.camera == Camera(20, 21, 7.5, 5.5, 16, 12)


def test_images_dir_blank_lines_and_negative_index(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "set.jsonl"
    path.write_text("\n" + json.dumps({**ROW, "note": "é"}) + "\n\n" + json.dumps({**ROW, "depth": [4, 5, 6]}))
    data = read_jsonl(path, folder)
    assert [s.z[0] for s in data] == [1.0, 4.0]
    assert data[-1].z[0] == 4.0
    assert data[1].source.endswith("set.jsonl:4")
    assert pickle.loads(pickle.dumps(data))[1].z[0] == 4.0
    for outside in (2, -3):
        with pytest.raises(IndexError):
            data[outside]
    with pytest.raises(InputError, match=r"set.jsonl:2: image .*a.png does not exist.*--images DIR"):
        read_jsonl(path)
    with pytest.raises(InputError, match="image folder .* does not exist"):
        read_jsonl(path, tmp_path / "none")


BAD_ROWS = [
    ({**ROW, "depth": [1.0, 2.0]}, "3 pixel_coords but 2 depths"),
    ({**ROW, "depth": []}, "3 pixel_coords but 0 depths"),
    ({**ROW, "depth": [], "pixel_coords": []}, "no labelled point"),
    ({**ROW, "depth": [1.0, -2.0, 3.0]}, "depth -2.0 at point 1"),
    ({**ROW, "depth": [1.0, 0, 3.0]}, "depth 0.0 at point 1"),
    ({**ROW, "depth": [1.0, float("nan"), 3.0]}, "depth nan at point 1"),
    ({**ROW, "depth": [1.0, "two", 3.0]}, 'depth holds "two"'),
    ({**ROW, "depth": [1.0, "2.0", 3.0]}, 'depth holds "2.0"'),
    ({**ROW, "depth": [1.0, None, 3.0]}, "depth holds null"),
    ({**ROW, "depth": [1.0, True, 3.0]}, "depth holds true"),
    ({**ROW, "depth": 3.0}, "depth is float; expected a list"),
    ({**ROW, "depth": [[1.0], [2.0], [3.0]]}, "depth has shape"),
    ({**ROW, "pixel_coords": [[0, 0], [1], [2, 2]]}, "pixel_coords is ragged"),
    ({**ROW, "pixel_coords": [0, 1, 2]}, "pixel_coords has shape"),
    ({**ROW, "pixel_coords": [[0, 0], [16, 3], [1, 1]]}, r"point 1 at \(16, 3\) lies outside the 16x12"),
    ({**ROW, "pixel_coords": [[0, 0], [float("nan"), 3], [1, 1]]}, "not a finite number"),
    ({**ROW, "intrinsics": [0, 21, 7.5, 5.5, 16, 12]}, "camera fx is 0"),
    ({**ROW, "intrinsics": [20, float("nan"), 7.5, 5.5]}, "camera fy is nan"),
    ({**ROW, "intrinsics": [20, 21, 7.5]}, "intrinsics has 3 values"),
    ({**ROW, "intrinsics": ["20", 21, 7.5, 5.5]}, 'intrinsics holds "20"'),
    ({**ROW, "intrinsics": [20, 21, 7.5, 5.5, 12, 16]}, "a.png is 16x12 but its intrinsics say 12x16"),
    ({**ROW, "intrinsics": None}, "intrinsics is NoneType"),
    ({**ROW, "image": "none.png"}, "none.png does not exist"),
    ({**ROW, "image": 3}, "image is 3; expected a path"),
    ({k: v for k, v in ROW.items() if k != "depth"}, "depth missing"),
    ({**ROW, "pose": [1, 2]}, "pose has 2 values"),
    ({**ROW, "surface": ["floor"]}, "1 surface labels for 3 points"),
    ({**ROW, "surface": "floor"}, "surface is no list"),
    ("[1, 2]", "not a JSON object but list"),
    ('{"image":', "not a JSON object"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[m for _, m in BAD_ROWS])
@pytest.mark.parametrize("check_images", [False, True])
def test_a_bad_row_is_named_before_anything_runs(folder: Path, row: object, message: str, check_images: bool) -> None:
    message = message.replace("none.png does not exist", "none.png (does not exist|cannot be read)")
    path = write(folder, ROW, row)
    with pytest.raises(InputError, match=message) as error:
        read_jsonl(path, check_images=check_images)
    assert str(error.value).startswith(f"{path}:2: ")
    assert "\n" not in str(error.value)
    kept = open_data(path, skip_bad=True, check_images=check_images)
    assert len(kept) == 1
    assert kept.skipped == [str(error.value)]


def test_bad_images(folder: Path) -> None:
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[:-100])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    path = write(folder, ROW, {**ROW, "image": "cut.png"})
    assert len(read_jsonl(path)) == 2  # the header of a truncated image is fine: only decoding tells
    with pytest.raises(InputError, match=r":2: not a readable image, missing or truncated"):
        read_jsonl(path, check_images=True)
    with pytest.raises(InputError, match="truncated"):
        read_jsonl(path)[1].load_image()
    for name in ("text.png", "empty.png"):
        with pytest.raises(InputError, match=rf":1: {name} is not a readable image"):
            read_jsonl(write(folder, {**ROW, "image": name}))


def test_an_upside_down_picture_has_its_upright_size(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 16)).save(folder / "turned.jpg", exif=exif)
    data = read_jsonl(write(folder, {**ROW, "image": "turned.jpg"}), check_images=True)
    assert data[0].load_image().size == (16, 12)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_files_without_a_row(folder: Path, content: bytes) -> None:
    (folder / "set.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="there is no row in it"):
        read_jsonl(folder / "set.jsonl")


def test_unreadable_files(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_jsonl(folder / "none.jsonl")
    (folder / "set.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"set.jsonl:1: not a JSON object"):
        read_jsonl(folder / "set.jsonl")
    with pytest.raises(InputError, match="every row is bad, the first"):
        read_jsonl(folder / "set.jsonl", on_bad="collect")


@pytest.mark.parametrize("label", ["z", "distance"])
def test_round_trip(folder: Path, label: str) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 12), (9, 99, 200)).save(jpeg, "JPEG")
    uv = np.array([[1 / 3, 2.5], [14.2, 11.1]])
    samples = [
        Sample(
            jpeg.getvalue(), Camera(20.1, 21, 7, 5, 16, 12), uv, np.array([0.1, 7 / 3]), "s", "f", ("a", "b"), np.eye(4)
        ),
        Sample((folder / "a.png").read_bytes(), Camera(9, 9, 7, 5, 16, 12), uv[:1], np.array([2.0])),
    ]
    path = folder / "out.jsonl"
    assert write_jsonl(iter(samples), path, label) == 2
    read = read_jsonl(path, label=label, check_images=True)
    for got, expected in zip(read, samples, strict=True):
        assert (got.image, got.camera, got.scene, got.surface) == (
            expected.image,
            expected.camera,
            expected.scene,
            expected.surface,
        )
        np.testing.assert_array_equal(got.uv, expected.uv)
        np.testing.assert_allclose(got.z, expected.z, rtol=0 if label == "z" else 1e-14)
    np.testing.assert_array_equal(read[0].pose, np.eye(4))
    assert read[0].frame == "f"
    assert sorted(p.suffix for p in (folder / "out_images").iterdir()) == [".jpg", ".png"]
    with pytest.raises(InputError, match="already exists"):
        write_jsonl(samples, path, label)


def test_write_leaves_nothing_half_done(folder: Path) -> None:
    def failing():
        yield Sample((folder / "a.png").read_bytes(), Camera(9, 9, 7, 5, 16, 12), [[1, 1]], [2.0])  # type: ignore[arg-type]
        raise RuntimeError("stop")

    before = set(folder.iterdir())
    with pytest.raises(RuntimeError, match="stop"):
        write_jsonl(failing(), folder / "out.jsonl")
    assert set(folder.iterdir()) == before
    with pytest.raises(InputError, match="label is 'x'"):
        write_jsonl([], folder / "out.jsonl", "x")
    with pytest.raises(InputError, match="cannot write"):
        write_jsonl([], folder / "a.png" / "out.jsonl")
