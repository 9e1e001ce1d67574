"""Samples in Parquet shards: images as bytes inside, read by row group, never the whole set in memory.

A shard folder holds `shard-00000.parquet`, ... and `manifest.json`, which is written last. One row is one sample:
image (the encoded file), camera {fx, fy, cx, cy, width, height}, u, v, z (lists of float64, so that a sample comes
back exactly), surface (list of strings or null), pose (16 float64, row by row, or null), scene, frame, objects (list
of structs, the fields of objects.LabelledObject; older shards have none). HF `datasets` opens the same files:
`load_dataset("parquet", data_files="OUT/*.parquet").cast_column("image", Image())`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.objects import LabelledObject
from depthlm.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = "depthlm-shards"
VERSION = 1
MAX_ROWS_PER_GROUP = 64
_CAMERA = pa.struct(
    [(name, pa.float64()) for name in ("fx", "fy", "cx", "cy")] + [("width", pa.int32()), ("height", pa.int32())]
)
_OBJECT = pa.struct(
    [("name", pa.string())]
    + [(name, pa.list_(pa.float64())) for name in ("box", "size", "center", "axes")]
    + [("visible", pa.float64())]
)
SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("camera", _CAMERA, nullable=False),
        pa.field("u", pa.list_(pa.float64()), nullable=False),
        pa.field("v", pa.list_(pa.float64()), nullable=False),
        pa.field("z", pa.list_(pa.float64()), nullable=False),
        pa.field("surface", pa.list_(pa.string())),
        pa.field("pose", pa.list_(pa.float64())),
        pa.field("scene", pa.string(), nullable=False),
        pa.field("frame", pa.string(), nullable=False),
        pa.field("objects", pa.list_(_OBJECT)),
        pa.field("near_edge", pa.list_(pa.bool_())),
        pa.field("incidence", pa.list_(pa.float64())),
    ]
)
# Images are compressed already; names repeat.
_COMPRESSION = {
    "image": "NONE",
    **{f"camera.{field.name}": "ZSTD" for field in _CAMERA},
    **{f"{name}.list.element": "ZSTD" for name in ("u", "v", "z", "surface", "pose", "near_edge", "incidence")},
    **{f"objects.list.element.{name}": "ZSTD" for name in ("name", "visible")},
    **{f"objects.list.element.{name}.list.element": "ZSTD" for name in ("box", "size", "center", "axes")},
    "scene": "ZSTD",
    "frame": "ZSTD",
}


# --- writing --------------------------------------------------------------------------------------------------------


def write_shards(
    samples: Iterable[Sample],
    out: Path | str,
    *,
    rows_per_group: int = 16,
    rows_per_shard: int = 4096,
    info: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> int:
    """Write samples to a new shard folder and return how many there were.

    The folder is filled under a temporary name beside `out` and appears by rename, so it is there whole or not at all.
    rows_per_group: rows read together, 1 to 64 (fewer: less read per random row; more: smaller index).
    info: anything JSON that says where the data come from; comes back as `ShardDataset.info`.
    Raises InputError when `out` exists and is not an empty folder (unless `overwrite`), or cannot be written.
    """
    if not 1 <= rows_per_group <= MAX_ROWS_PER_GROUP:
        raise InputError(f"rows_per_group is {rows_per_group}; expected 1 to {MAX_ROWS_PER_GROUP}")
    out = Path(out)
    if not overwrite and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} already exists and is not empty; choose another folder or remove it")
    rows_per_shard = max(rows_per_group, rows_per_shard // rows_per_group * rows_per_group)
    temporary = out.parent / f".{out.name}.writing-{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        manifest = _write_files(samples, temporary, rows_per_group, rows_per_shard)
        manifest["info"] = info or {}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        temporary.rename(out)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}; check the folder and its free space"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return int(manifest["rows"])


def _write_files(samples: Iterable[Sample], folder: Path, rows_per_group: int, rows_per_shard: int) -> dict[str, Any]:
    shards: list[dict[str, Any]] = []
    remaining = iter(samples)
    while True:
        path = folder / f"shard-{len(shards):05d}.parquet"
        shard = write_shard(itertools.islice(remaining, rows_per_shard), path, rows_per_group)
        if shard is None:
            return build_manifest(shards, rows_per_group)
        shards.append(shard)


def write_shard(samples: Iterable[Sample], path: Path, rows_per_group: int) -> dict[str, Any] | None:
    """Write one shard file; its entry for the manifest, or None (and no file) when there was no sample."""
    writer: pq.ParquetWriter | None = None
    rows = points = 0
    try:
        for batch in _batches(samples, rows_per_group):
            if writer is None:
                # Nobody filters by value: statistics would only make the footer, which every opening parses, larger.
                writer = pq.ParquetWriter(
                    path,
                    SCHEMA,
                    compression=_COMPRESSION,
                    use_dictionary=["surface.list.element", "scene", "objects.list.element.name"],
                    write_statistics=False,
                )
            writer.write_table(pa.Table.from_pylist([_to_row(s) for s in batch], SCHEMA), row_group_size=rows_per_group)
            rows += len(batch)
            points += sum(len(s) for s in batch)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "rows": rows, "points": points, "bytes": path.stat().st_size, "sha256": digest}


def build_manifest(shards: list[dict[str, Any]], rows_per_group: int) -> dict[str, Any]:
    """The manifest of shard entries, without `info`."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "rows": sum(s["rows"] for s in shards),
        "points": sum(s["points"] for s in shards),
        "rows_per_group": rows_per_group,
        "shards": shards,
    }


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _to_row(sample: Sample) -> dict[str, Any]:
    return {
        "image": sample.image,
        "camera": sample.camera.to_dict(),
        "u": sample.uv[:, 0],
        "v": sample.uv[:, 1],
        "z": sample.z,
        "surface": None if sample.surface is None else list(sample.surface),
        "pose": None if sample.pose is None else sample.pose.ravel(),
        "scene": sample.scene,
        "frame": sample.frame,
        "objects": [dataclasses.asdict(thing) for thing in sample.objects],
        "near_edge": sample.near_edge,
        "incidence": sample.incidence,
    }


# --- reading --------------------------------------------------------------------------------------------------------


class ShardDataset:
    """A shard folder as a sequence of samples. Row i costs the reading of its row group, nothing more.

    Files open on first use in each process (so it pickles, and a forked DataLoader worker never shares a handle); the
    last `cache_groups` row groups stay decoded and the last `open_files` shards open: memory does not grow with the
    number of rows. `info`: what the writer said of the data; `points`: number of labels.
    Raises InputError for a folder that holds no shards, or shards that are missing, truncated or of another version.
    """

    def __init__(self, path: Path | str, *, cache_groups: int = 8, open_files: int = 8) -> None:
        self.path = Path(path)
        manifest = _read_manifest(self.path)
        self.info: dict[str, Any] = manifest["info"]
        self.points: int = manifest["points"]
        self.skipped: list[str] = []
        self._files = [self.path / shard["file"] for shard in manifest["shards"]]
        self._ends = np.cumsum([shard["rows"] for shard in manifest["shards"]], dtype=np.int64)
        self._rows_per_group: int = manifest["rows_per_group"]
        self._cache_groups, self._open_files = cache_groups, open_files
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_groups", "_pid")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` (negative counts from the end). Raises IndexError outside, InputError for damaged files."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = index % len(self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        table = self._group(shard, row // self._rows_per_group)
        return sample_from_table(table, row % self._rows_per_group, f"{self._files[shard]} row {row}")

    def _group(self, shard: int, group: int) -> pa.Table:
        if self._pid != os.getpid():  # a forked child must not move its parent's file positions
            self._forget()
        key = (shard, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        table = self._read(shard, group)
        self._groups[key] = table
        while len(self._groups) > self._cache_groups:
            self._groups.popitem(last=False)
        return table

    def _read(self, shard: int, group: int) -> pa.Table:
        """The one place that touches the disk after opening: one row group of one shard."""
        path = self._files[shard]
        try:
            if shard in self._open:
                self._open.move_to_end(shard)
            else:
                # Not memory-mapped: every page once touched would stay resident while the file is open.
                self._open[shard] = pq.ParquetFile(path, memory_map=False)
                if len(self._open) > self._open_files:
                    self._open.popitem(last=False)[1].close()
            # No Arrow threads: their pool does not survive a fork.
            return self._open[shard].read_row_group(group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: cannot read row group {group} ({error}); write the shards again") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a shard folder with manifest.json")
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no manifest.json, so not a shard folder (or one that was never finished)") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path / 'manifest.json'}: not readable ({error}); write the shards again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path / 'manifest.json'}: not the manifest of a shard folder (expected format {FORMAT!r})")
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{path / 'manifest.json'}: shard version {manifest.get('version')}; this depthlm reads version {VERSION}"
        )
    if missing := {"rows_per_group", "points", "info", "shards"} - manifest.keys():
        raise InputError(f"{path / 'manifest.json'}: incomplete, without {', '.join(sorted(missing))}; write it anew")
    for shard in manifest["shards"]:
        file = path / shard["file"]
        actual = file.stat().st_size if file.is_file() else None
        if actual is None:
            raise InputError(f"{file}: missing shard; copy the folder again or write it anew")
        if actual != shard["bytes"]:
            raise InputError(
                f"{file}: {actual} bytes but the manifest says {shard['bytes']}; copy it again or write it anew"
            )
    return manifest


def sample_from_table(table: pa.Table, row: int, source: str) -> Sample:
    """A row of a table with the columns of SCHEMA as a sample. source: where it stands, for messages."""

    def numbers(name: str) -> Any:
        return table.column(name)[row].values.to_numpy()

    surface, pose = table.column("surface")[row], table.column("pose")[row]
    return Sample(
        image=table.column("image")[row].as_py(),
        camera=Camera(**table.column("camera")[row].as_py()),
        uv=np.stack([numbers("u"), numbers("v")], axis=1),
        z=numbers("z"),
        surface=tuple(surface.as_py()) if surface.is_valid else None,
        pose=numbers("pose").reshape(4, 4) if pose.is_valid else None,
        scene=table.column("scene")[row].as_py(),
        frame=table.column("frame")[row].as_py(),
        objects=_objects(table, row),
        near_edge=_labels(table, "near_edge", row),
        incidence=_labels(table, "incidence", row),
        source=source,
    )


def _labels(table: pa.Table, name: str, row: int) -> Any:
    """[N] one value for each point, or None; folders written before there was such a column have none."""
    if name not in table.column_names or not (found := table.column(name)[row]).is_valid:
        return None
    return found.values.to_numpy(zero_copy_only=False)


def _objects(table: pa.Table, row: int) -> tuple[LabelledObject, ...]:
    if "objects" not in table.column_names:
        return ()
    made = []
    for stored in table.column("objects")[row].as_py() or ():
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        made.append(LabelledObject(**fields))
    return tuple(made)
