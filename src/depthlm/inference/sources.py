"""Many pictures at once: files, folders, globs and tables of points -> one job for each picture."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".gif", ".jp2", ".avif", ".mpo")
_MAGIC = re.compile(r"[*?\[]")
POINT_COLUMNS = ("image", "u", "v")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One picture, and what is asked of it.

    name: what its outputs are called after, a relative path that never leads upwards. uv: N pixels (u, v). extra: the
    other columns of each point's row. rows: the place of each point in the table it came from.
    """

    path: Path
    name: str
    uv: tuple[tuple[float, float], ...] = ()
    extra: tuple[dict[str, str], ...] = ()
    rows: tuple[int, ...] = ()


def find_pictures(
    given: Iterable[Path | str], uv: Sequence[tuple[float, float]] = ()
) -> tuple[list[Job], dict[str, int]]:
    """Files, folders (with what lies below) and globs -> jobs that ask about the same `uv`, and what was left out.

    Each picture once, in the order given; of a folder or glob in the order people count (2 before 10), so that frames
    of a video stay in theirs. Left out are files of folders that are no pictures: how many of each suffix. Raises
    InputError for a folder or glob without a picture.
    """
    found: dict[Path, tuple[Path, str]] = {}
    others: Counter[str] = Counter()
    for text in map(str, given):
        path = Path(text)
        if path.is_dir():
            inside = [Path(at) / name for at, _, names in _walk(path) for name in names if not name.startswith(".")]
            pictures = _pictures(inside)
            others.update(file.suffix.lower() or "no suffix" for file in inside if not _is_picture(file))
            where, root = f"{text}: no picture in this folder", path
        elif os.path.lexists(path) or not _MAGIC.search(text):
            pictures, where, root = [path], "", path.parent
        else:
            where, root = f"{text}: no picture matches", _fixed_part(path)
            below = (match for match in root.glob(str(path.relative_to(root))) if match.is_file())
            pictures = _pictures(file for file in below if "/." in text or not _is_hidden(file.relative_to(root)))
        if not pictures:
            raise InputError(f"{where}; pictures are {', '.join(PICTURE_SUFFIXES)}")
        for file in pictures:
            found.setdefault(file.resolve(), (file, file.relative_to(root).as_posix()))
    count = len(uv)
    jobs = [
        Job(path, name, tuple(uv), ({},) * count, tuple(range(k * count, (k + 1) * count)))
        for k, (path, name) in enumerate(found.values())
    ]
    return jobs, dict(others)


def read_points(path: Path, images: Path | None = None, *, skip_bad: bool = False) -> tuple[list[Job], list[str]]:
    """A CSV of points -> jobs, in the order in which pictures first appear, and a line for each bad row left out.

    Columns image, u, v, and any others, which results carry along. images: the folder that image names are relative
    to, default that of the file; a name that leads out of it is refused. Raises InputError for a bad row (with
    file:line) unless skip_bad, for a file that is no such table, and when no row is usable.
    """
    folder = path.parent if images is None else images
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist; say where pictures are with --images DIR")
    points: dict[str, list[tuple[int, tuple[float, float], dict[str, str]]]] = {}
    skipped: list[str] = []
    for number, (line, row) in enumerate(_rows(path)):
        try:
            name = inside(row["image"], f"{path}:{line}")
            points.setdefault(name, []).append((number, _point(row, f"{path}:{line}"), _others(row)))
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
    if not points:
        raise InputError(f"{path}: {skipped[0] if skipped else 'no row in it'}; no point is left to measure")
    return [
        Job(folder / name, name, tuple(uv for _, uv, _ in of), tuple(e for *_, e in of), tuple(n for n, *_ in of))
        for name, of in points.items()
    ], skipped


def inside(name: str, where: str) -> str:
    """A file name from a table, as a relative path. Raises InputError for one that leads out of its folder."""
    parts = PurePosixPath(name.strip()).parts
    if not parts or "\0" in name:
        raise InputError(f"{where}: image is {name!r}; expected the name of a picture")
    if parts[0] == "/" or ".." in parts or "\\" in name:
        raise InputError(
            f"{where}: image {name!r} leads out of its folder; expected a path below it, parts joined by /"
        )
    return PurePosixPath(*parts).as_posix()


def output_paths(jobs: Sequence[Job], out: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """By job name, the files that its outputs go to below `out`. Raises InputError where two would be one file."""
    paths: dict[str, list[Path]] = {}
    owner: dict[str, str] = {}
    for job in jobs:
        stem = PurePosixPath(inside(job.name, str(job.path))).with_suffix("").as_posix()
        other = owner.setdefault(stem.lower(), str(job.path))
        if other != str(job.path):
            raise InputError(f"{other} and {job.path} would both be written to {out / stem}; give each its own --out")
        paths[job.name] = [out / f"{stem}{suffix}" for suffix in suffixes]
    return paths


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield at, folders, names


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _pictures(files: Iterable[Path]) -> list[Path]:
    def counted(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.as_posix())
        return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]

    return sorted(filter(_is_picture, files), key=counted)


def _fixed_part(pattern: Path) -> Path:
    """The folder that all matches of a glob lie below."""
    parts = pattern.parts
    return Path(*parts[: next(k for k, part in enumerate(parts) if _MAGIC.search(part))])


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV with a header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            missing = [name for name in POINT_COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{path}: column {', '.join(missing)} missing; expected a first line with image,u,v[,...]"
                )
            for row in table:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}:{table.line_num}: not {len(table.fieldnames or ())} values, as the first line has"
                    )
                yield table.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({getattr(error, 'strerror', None) or error})") from error


def _point(row: dict[str, str], where: str) -> tuple[float, float]:
    try:
        u, v = float(row["u"]), float(row["v"])
    except ValueError:
        raise InputError(f"{where}: u, v are {row['u']!r}, {row['v']!r}; expected pixels") from None
    if not (math.isfinite(u) and math.isfinite(v)):
        raise InputError(f"{where}: u, v are {u}, {v}; expected pixels")
    return u, v


def _others(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in POINT_COLUMNS}
