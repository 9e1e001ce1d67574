"""Whole pictures with dense truth: whoever answers maps each, and the maps stay in the run's folder."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image
from scipy.ndimage import label

from depthlm.camera import Camera
from depthlm.claim import write_text
from depthlm.data.readers.base import DenseLabels, FrameError, get_reader
from depthlm.errors import InputError
from depthlm.evaluation.geometry import FEWEST_IN_PLANE, lift
from depthlm.evaluation.maps import DenseCase
from depthlm.inference.dense import BUDGET
from depthlm.sample import decode_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from depthlm.data.readers.base import Planes
    from depthlm.inference.backend import Backend

MAPS, RECORD = "maps", "maps.json"
PICTURES = 8
_SYNTH = "synth"
_TURNED = 0.95  # cosine of neighbouring normals on one surface


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """Which pictures are mapped. source: "SET:FOLDER" of a reader (ibims1, folder, ...), or "synth:SEED"."""

    source: str
    pictures: int = PICTURES
    budget: int = BUDGET
    """Questions per picture, of whoever is asked point by point."""

    def __post_init__(self) -> None:
        kind, colon, where = self.source.partition(":")
        if not colon or not where:
            raise InputError(f"--maps {self.source!r} is not SET:FOLDER, such as ibims1:/data/ibims1, or synth:SEED")
        if self.pictures < 1 or self.budget < 1:
            raise InputError(f"--map-pictures and --budget are {self.pictures} and {self.budget}; expected 1 or more")
        if kind == _SYNTH:
            if not where.isdigit():
                raise InputError(f"--maps {self.source!r}: the seed of rendered rooms is a whole number")
        elif not Path(where).is_dir():
            get_reader(kind)
            raise InputError(f"--maps {self.source!r}: no folder {where}")


def truths(config: MapConfig, bad: list[str] | None = None) -> Iterator[DenseCase]:
    """Pictures with their true maps, in the set's order; `predicted` is empty. Raises InputError for a set without.

    bad: gets a line for each picture that cannot be read; the next one takes its place.
    """
    kind, _, where = config.source.partition(":")
    found = _rooms(int(where), config.pictures) if kind == _SYNTH else _frames(kind, Path(where), bad)
    yield from islice(found, config.pictures)


def map_pictures(
    backend: Backend,
    config: MapConfig,
    out: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Map the pictures into out/maps, going on from what is there; a line for each that failed, which is left out.

    Raises InputError when the folder holds maps of another source, budget or model, and when every picture fails.
    """
    folder = out / MAPS
    settings = json.loads(json.dumps(asdict(config) | {"backend": backend.identity(), "given": backend.given}))
    record = folder / RECORD
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        if changed := sorted(k for k in settings if before.get(k) != settings[k]):
            raise InputError(f"{folder} holds maps with another {', '.join(changed)}; give another --out or delete it")
    failed: list[str] = []
    done = 0
    for number, case in enumerate(truths(config, failed)):
        progress(number, config.pictures)
        path = folder / f"{number:04d}.npz"
        if not path.is_file():
            assert case.image is not None, "a picture is what is mapped"
            try:
                found = backend.depth_map(case.image, case.camera, budget=config.budget)
            except InputError as error:
                failed.append(f"{case.name}: {error}")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            if not record.is_file():
                write_text(record, json.dumps(settings, indent=2) + "\n")
            _save(path, case, found)
        done += 1
    if not done:
        raise InputError(
            f"--maps {config.source}: no picture was mapped ({failed[0] if failed else 'the set is empty'})"
        )
    write_text(record, json.dumps(settings | {"failed": failed}, indent=2) + "\n")
    return failed


def failed_maps(out: Path) -> list[str]:
    """A line for each picture that a run could not map."""
    record = out / MAPS / RECORD
    if not record.is_file():
        return []
    return list(json.loads(record.read_text(encoding="utf-8")).get("failed", ()))


def read_cases(out: Path) -> list[DenseCase]:
    """The maps that a run left in its folder; none when it mapped nothing. Raises InputError for damaged files."""
    cases = []
    for path in sorted((out / MAPS).glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as held:
                facts = json.loads(str(held["facts"]))
                image = decode_image(held["image"].tobytes(), where=str(path))
                truth, predicted, regions = held["truth"], held["predicted"], held["regions"]
            camera = Camera(**facts["camera"])
            normals = np.array([n or [np.nan] * 3 for n in facts.get("normals") or ()], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}); delete {out / MAPS} and evaluate again") from error
        cases.append(
            DenseCase(
                name=facts["name"], camera=camera, truth=truth, predicted=predicted, image=image,
                regions=regions if regions.any() else None, normals=normals if len(normals) else None,
                marked=facts.get("marked", False),
            )
        )  # fmt: skip
    return cases


# --- truths -----------------------------------------------------------------------------------------------------------


def _rooms(seed: int, count: int) -> Iterator[DenseCase]:
    from depthlm.synth.generate import synth_rendered

    for room in synth_rendered(count, seed=seed, views=1):
        z = np.where(np.isfinite(room.z), room.z, np.nan)
        yield _case(f"room {room.scene}", room.camera, z, Image.fromarray(room.image))


def _frames(kind: str, root: Path, bad: list[str] | None) -> Iterator[DenseCase]:
    reader = get_reader(kind)
    found = False
    for ref in reader.index(root, reader.splits[0]):
        try:
            frame = reader.read(root, ref)
            if not isinstance(frame.labels, DenseLabels) or frame.labels.lens is not None:
                raise InputError(
                    f"--maps {kind}:{root}: {reader.title} has no dense maps of its pictures; choose another"
                )
            labels = frame.labels.within(reader.near, reader.far)
            image = decode_image(frame.image, where=ref.id, size=(frame.camera.width, frame.camera.height))
            planes = reader.planes(root, ref)
            if planes is not None and planes.regions.shape != labels.z.shape:
                raise FrameError(f"{ref.id}: planes are marked on {planes.regions.shape} pixels, not {labels.z.shape}")
        except FrameError as error:
            if bad is not None:
                bad.append(str(error))
            continue  # as in curation: one damaged frame
        found = True
        yield _case(ref.id, frame.camera, np.where(labels.valid, labels.z, np.nan), image, planes)
    if not found:
        raise InputError(f"--maps {kind}:{root}: no picture can be read; expected {reader.layout}")


def _case(name: str, camera: Camera, z: NDArray[Any], image: Image.Image, planes: Planes | None = None) -> DenseCase:
    """truth: of the picture's own pixels, or of a coarser grid stretched over it (`_save` takes the map there)."""
    truth = z.astype(np.float32)
    small = camera.resize(z.shape[1], z.shape[0])
    return DenseCase(
        name=name, camera=camera, truth=truth, predicted=np.full_like(truth, np.nan), image=image,
        regions=planar_regions(truth, small) if planes is None else planes.regions,
        normals=None if planes is None else planes.normals, marked=planes is not None,
    )  # fmt: skip


def planar_regions(z: NDArray[np.floating[Any]], camera: Camera) -> NDArray[np.int32]:
    """[H, W] labels of smooth surfaces of a true map, 0 for none; which of them are planes, `plane_errors` looks.

    Neighbours belong together where their normals differ by less than 18 degrees and point along the same axis of the
    camera most; across a depth edge central differences make a normal that fits neither side.
    """
    xyz = lift(z.astype(np.float64), camera)
    normal = np.full(xyz.shape, np.nan)
    across = xyz[1:-1, 2:] - xyz[1:-1, :-2]
    down = xyz[2:, 1:-1] - xyz[:-2, 1:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        turned = np.cross(across, down)
        normal[1:-1, 1:-1] = turned / np.linalg.norm(turned, axis=-1, keepdims=True)
        left, up = np.full(z.shape, False), np.full(z.shape, False)
        left[:, 1:] = (normal[:, 1:] * normal[:, :-1]).sum(axis=-1) > _TURNED
        up[1:] = (normal[1:] * normal[:-1]).sum(axis=-1) > _TURNED
    smooth = left & up
    with np.errstate(invalid="ignore"):
        facing = np.nan_to_num(np.argmax(np.abs(np.nan_to_num(normal)), axis=-1))
    regions = np.zeros(z.shape, dtype=np.int32)
    for axis in range(3):
        found, count = label(smooth & (facing == axis))
        sizes = np.bincount(found.ravel(), minlength=count + 1)
        kept = np.flatnonzero(sizes >= FEWEST_IN_PLANE)
        for number in kept[kept > 0]:
            regions[found == number] = regions.max() + 1
    return regions


# --- files ------------------------------------------------------------------------------------------------------------


def _facts(case: DenseCase, camera: Camera) -> dict[str, Any]:
    normals = [] if case.normals is None else [n.tolist() if np.isfinite(n).all() else None for n in case.normals]
    return {"name": case.name, "camera": camera.to_dict(), "marked": case.marked, "normals": normals}


def _save(path: Path, case: DenseCase, found: NDArray[np.floating[Any]]) -> None:
    """One picture with its truth and its map, on the truth's grid; by rename."""
    assert case.image is not None, "a picture is what is mapped"
    height, width = case.truth.shape
    predicted = np.asarray(found, dtype=np.float32)
    if predicted.shape != case.truth.shape:
        predicted = cv2.resize(predicted, (width, height), interpolation=cv2.INTER_NEAREST)
    camera = case.camera.resize(width, height)
    buffer = io.BytesIO()
    shown = case.image if case.image.size == (width, height) else case.image.resize((width, height))
    shown.save(buffer, "PNG")
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file, truth=case.truth, predicted=predicted,
            regions=np.zeros((height, width), np.int32) if case.regions is None else case.regions,
            image=np.frombuffer(buffer.getvalue(), dtype=np.uint8),
            facts=np.array(json.dumps(_facts(case, camera))),
        )  # fmt: skip
    temporary.replace(path)
