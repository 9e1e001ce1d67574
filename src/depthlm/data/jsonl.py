"""The official jsonl: one row per image, with pixel coordinates and depths as lists.

{"image": "a.png", "intrinsics": [fx, fy, cx, cy(, width, height)], "pixel_coords": [[u, v], ...], "depth": [m, ...]}

What `depth` means is not in the file: label "z" (principal-axis depth) or "distance" (Euclidean), which is converted
to z on reading. We also write, and read back, "scene", "frame", "pose" (16 numbers) and "surface" (one word a point).
"""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.sample import Sample, upright_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

Label = Literal["z", "distance"]
_LONGEST_ROW = 32 * 2**20  # bytes; a row of 100,000 points has three million
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"BM": ".bmp", b"II*\x00": ".tif"}


def read_jsonl(
    path: Path | str,
    images_dir: Path | str | None = None,
    label: str = "z",
    on_bad: Literal["raise", "collect"] = "raise",
    *,
    check_images: bool = False,
) -> JsonlDataset:
    """Open a jsonl after checking every row of it; images are read when a sample is asked for.

    images_dir: what image paths are relative to (default: the folder of the file). label: what the depths mean.
    on_bad: "raise" stops at the first bad row with an InputError naming file:line; "collect" leaves bad rows out and
    lists them in `.skipped`. check_images: also decode every image now (truncated files are found before a long run;
    without it only presence and size are checked).
    """
    if label not in ("z", "distance"):
        raise InputError(f"label is {label!r}; expected 'z' (principal-axis depth) or 'distance' (Euclidean)")
    path = Path(path)
    folder = Path(images_dir) if images_dir is not None else path.parent
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist")
    offsets: list[int] = []
    lines: list[int] = []
    skipped: list[str] = []
    points = 0
    for number, (offset, text) in enumerate(_lines(path), 1):
        if not text.strip():
            continue
        try:
            points += len(_check(text, folder, cast("Label", label), f"{path}:{number}", decode=check_images))
        except InputError as error:
            if on_bad == "raise":
                raise
            skipped.append(str(error))
            continue
        offsets.append(offset)
        lines.append(number)
    if not offsets:
        reason = f"every row is bad, the first: {skipped[0]}" if skipped else "there is no row in it"
        raise InputError(f"{path}: {reason}")
    return JsonlDataset(path, folder, cast("Label", label), offsets, lines, points, skipped)


class JsonlDataset:
    """The good rows of a jsonl as a sequence of samples; keeps line offsets only, reads line and image on demand.

    `points`: number of labels. `skipped`: one line for each row left out. Pickles, and holds no open file.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        label: Label,
        offsets: list[int],
        lines: list[int],
        points: int,
        skipped: list[str],
    ) -> None:
        self.path = path
        self.folder = folder
        self.label = label
        self.points = points
        self.skipped = skipped
        self.info: dict[str, Any] = {"source": str(path), "label": label}
        self._offsets = np.array(offsets, dtype=np.int64)
        self._lines = np.array(lines, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` (negative counts from the end). Raises InputError for a file that changed meanwhile."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[index]))
            text = file.readline()
        where = f"{self.path}:{self._lines[index]}"
        fields = _parse(text, where)
        data = _read(self.folder / fields.image, where)
        return fields.sample(data, _size(data, fields.image, where), self.label, where)


@dataclass(slots=True)
class _Fields:
    """One row as it stands in the file; lists are arrays of numbers already."""

    image: str
    intrinsics: NDArray[np.float64]  # [4] or [6]
    uv: NDArray[np.float64]  # [N, 2]
    depth: NDArray[np.float64]  # [N]
    scene: str
    frame: str
    pose: NDArray[np.float64] | None
    surface: tuple[str, ...] | None

    def sample(self, data: bytes, size: tuple[int, int], label: Label, where: str) -> Sample:
        """The validated sample; `size` is what the image really measures."""
        if len(self.intrinsics) == 6 and tuple(self.intrinsics[4:]) != size:
            width, height = self.intrinsics[4:]
            raise InputError(
                f"{where}: {self.image} is {size[0]}x{size[1]} but its intrinsics say {width:g}x{height:g}; "
                "give the intrinsics of this image"
            )
        fx, fy, cx, cy = (float(value) for value in self.intrinsics[:4])
        try:
            camera = Camera(fx, fy, cx, cy, *size)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if len(self.uv) != len(self.depth):
            raise InputError(
                f"{where}: {len(self.uv)} pixel_coords but {len(self.depth)} depths; the two lists must be equally long"
            )
        z = self.depth / camera.ray_factor(self.uv) if label == "distance" else self.depth
        return Sample(
            data, camera, self.uv, z, self.scene, self.frame or self.image, self.surface, self.pose, source=where
        )


def _check(text: bytes, folder: Path, label: Label, where: str, *, decode: bool) -> Sample:
    """Everything that can be wrong with a row, found before anything runs. Raises InputError."""
    fields = _parse(text, where)
    path = folder / fields.image
    if decode:
        data = _read(path, where)
        sample = fields.sample(data, _size(data, fields.image, where), label, where)
        sample.load_image()
        return sample
    if not path.is_file():
        raise InputError(f"{where}: image {path} does not exist; say where images are with --images DIR")
    return fields.sample(b"", _size(path, fields.image, where), label, where)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line) of every line; of a line that is too long, the beginning."""
    try:
        with path.open("rb") as file:
            offset = 0
            while line := file.readline(_LONGEST_ROW + 1):
                yield offset, line
                offset += len(line)
                while len(line) > _LONGEST_ROW and not line.endswith(b"\n"):  # the rest of one that is refused
                    offset += len(rest := file.readline(_LONGEST_ROW))
                    if not rest or rest.endswith(b"\n"):
                        break
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _parse(text: bytes, where: str) -> _Fields:
    if len(text) > _LONGEST_ROW:
        raise InputError(f"{where}: longer than {_LONGEST_ROW / 2**20:g} MB; one row holds the points of one image")
    try:
        row = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON object ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object but {type(row).__name__}")
    missing = [name for name in ("image", "intrinsics", "pixel_coords", "depth") if name not in row]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing; expected image, intrinsics, pixel_coords, depth")
    if not isinstance(row["image"], str) or not row["image"]:
        raise InputError(f"{where}: image is {row['image']!r}; expected a path")
    intrinsics = _numbers(row["intrinsics"], "intrinsics", where)
    if intrinsics.shape not in ((4,), (6,)):
        raise InputError(f"{where}: intrinsics has {intrinsics.size} values; expected fx, fy, cx, cy(, width, height)")
    uv, depth = _numbers(row["pixel_coords"], "pixel_coords", where), _numbers(row["depth"], "depth", where)
    if uv.size == 0 and depth.size == 0:
        raise InputError(f"{where}: no labelled point (pixel_coords and depth are empty)")
    if uv.size and (uv.ndim != 2 or uv.shape[1] != 2):
        raise InputError(f"{where}: pixel_coords has shape {uv.shape}; expected [[u, v], ...]")
    if depth.ndim != 1:
        raise InputError(f"{where}: depth has shape {depth.shape}; expected one number for each point")
    pose, surface = row.get("pose"), row.get("surface")
    if pose is not None and (pose := _numbers(pose, "pose", where)).size != 16:
        raise InputError(f"{where}: pose has {pose.size} values; expected 16 (4 x 4, row by row)")
    if surface is not None and not (isinstance(surface, list) and all(isinstance(s, str) for s in surface)):
        raise InputError(f"{where}: surface is no list of words")
    return _Fields(
        image=row["image"],
        intrinsics=intrinsics,
        uv=uv.reshape(-1, 2),
        depth=depth,
        scene=str(row.get("scene", "")),
        frame=str(row.get("frame", "")),
        pose=None if pose is None else pose.reshape(4, 4),
        surface=None if surface is None else tuple(surface),
    )


def _numbers(value: Any, name: str, where: str) -> NDArray[np.float64]:
    """A (nested) JSON list of numbers as an array; words, nulls, true/false and ragged lists are refused."""
    if not isinstance(value, list):
        raise InputError(f"{where}: {name} is {type(value).__name__}; expected a list of numbers")
    flat = [v for item in value for v in (item if isinstance(item, list) else [item])]
    wrong = next((v for v in flat if isinstance(v, bool) or not isinstance(v, int | float)), None)
    if wrong is not None or None in flat:
        raise InputError(f"{where}: {name} holds {json.dumps(wrong)}, which is not a number")
    try:
        return np.array(value, dtype=np.float64)
    except (ValueError, OverflowError):
        raise InputError(f"{where}: {name} is ragged; its rows must be equally long") from None


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: image {path} cannot be read ({error.strerror}); check --images DIR") from error


def _size(image: Path | bytes, name: str, where: str) -> tuple[int, int]:
    """Upright (width, height) from the header alone."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return upright_size(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: {name} is not a readable image ({error})") from error


# --- writing --------------------------------------------------------------------------------------------------------


def write_jsonl(samples: Iterable[Sample], path: Path | str, label: str = "z") -> int:
    """Write `path` in the official form and its images to `<stem>_images/` beside it; returns the number of rows.

    label: write z or distance. Both appear by rename, images first. Raises InputError when either exists or cannot be
    written.
    """
    if label not in ("z", "distance"):
        raise InputError(f"label is {label!r}; expected 'z' (principal-axis depth) or 'distance' (Euclidean)")
    path = Path(path)
    images = path.parent / f"{path.stem}_images"
    for existing in (path, images):
        if existing.exists():
            raise InputError(f"{existing} already exists; choose another name or remove it")
    temporary = path.parent / f".{path.stem}.writing-{os.getpid()}"
    rows = 0
    try:
        (temporary / "images").mkdir(parents=True)
        with (temporary / "rows.jsonl").open("w", encoding="utf-8") as file:
            for rows, sample in enumerate(samples, 1):
                name = f"{rows - 1:06d}{_suffix(sample.image)}"
                (temporary / "images" / name).write_bytes(sample.image)
                file.write(json.dumps(_to_row(sample, f"{images.name}/{name}", label), allow_nan=False) + "\n")
        (temporary / "images").rename(images)
        (temporary / "rows.jsonl").rename(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return rows


def _to_row(sample: Sample, image: str, label: str) -> dict[str, Any]:
    camera = sample.camera
    row: dict[str, Any] = {
        "image": image,
        "intrinsics": [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height],
        "pixel_coords": sample.uv.tolist(),
        "depth": (sample.distance if label == "distance" else sample.z).tolist(),
    }
    if sample.scene:
        row["scene"] = sample.scene
    if sample.frame:
        row["frame"] = sample.frame
    if sample.pose is not None:
        row["pose"] = sample.pose.ravel().tolist()
    if sample.surface is not None:
        row["surface"] = list(sample.surface)
    return row


def _suffix(data: bytes) -> str:
    return next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), ".img")
