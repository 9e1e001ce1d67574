"""DDAD: six cameras and a long-range lidar, in the files of TRI's dataset governance format (JSON).

Pictures are undistorted. Picture and sweep of one sample have a pose to world each, and differ by up to 0.1 s. Names of
sensors are written in capitals or not, depending on the scene. The lidar sees past the car's own bonnet: points that a
nearer surface hides are dropped.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.data.readers.base import ALL, FrameError, FrameRef
from depthlm.data.readers.drives import Capture, DriveReader, Step, capture_ref
from depthlm.data.readers.files import read_bytes, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_SPLITS = {"train": "0", "val": "1"}  # keys of scene_splits
_LIDAR = "lidar"


class DDAD(DriveReader):
    """A root with ddad.json; scenes that it lists and a partial download lacks are left out."""

    name = "ddad"
    title = "DDAD"
    licence = "CC BY-NC-SA 4.0 (Toyota Research Institute)"
    layout = "ddad.json (or scene_dataset*.json) beside <scene>/scene_<sha1>.json, rgb/ point_cloud/ calibration/"
    splits = ("val", "train")
    near, far = 0.05, 120.0
    legacy_label = "z"
    legacy_note = "points that a nearer surface hides are kept, pixels rounded down"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """Scene by scene, camera by camera, in order of time."""
        self.check_split(split)
        listing = next(
            (p for p in (root / "ddad.json", *sorted(root.glob("scene_dataset*.json"))) if p.is_file()), None
        )
        if listing is None:
            raise self.missing(root, "ddad.json")
        try:
            groups = read_json(listing)["scene_splits"]
            keys = _SPLITS.values() if split == ALL else (_SPLITS[split],)
            # A set: the public test scenes are listed in both splits.
            scenes = sorted({name for key in keys if key in groups for name in groups[key]["filenames"]})
        except (KeyError, TypeError) as error:
            raise FrameError(f"{listing}: not a scene list ({type(error).__name__}: {error})") from error
        present = [name for name in scenes if (root / name).is_file()]
        if not present:
            raise self.missing(root, f"scene of split {split!r} that {listing.name} lists")
        for name in present:
            try:
                yield from _index_scene(root, name)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                if isinstance(error, FrameError):
                    raise
                raise FrameError(f"{root / name}: not a scene ({type(error).__name__}: {error})") from error

    def points(self, path: Path) -> NDArray[np.float64]:
        """X, Y, Z of an .npz with X Y Z INTENSITY as `data`."""
        data = read_bytes(path)
        try:
            with np.load(io.BytesIO(data)) as file:
                points = np.asarray(file["data"], dtype=np.float64)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise FrameError(f"{path}: cannot read 'data' ({error})") from error
        if points.ndim != 2 or points.shape[1] < 3:
            raise FrameError(f"{path}: points have shape {points.shape}; expected (N, 4)")
        return points[:, :3]


def _index_scene(root: Path, name: str) -> Iterator[FrameRef]:
    content = read_json(root / name)
    scene = name.rsplit("/", 1)[0]
    data = {item["key"]: item for item in content["data"]}
    calibrations: dict[str, dict[str, tuple[float, ...]]] = {}
    cameras: dict[str, list[tuple[tuple[int, str], Capture]]] = {}
    for sample in content["samples"]:
        items = [data[key] for key in sample["datum_keys"] if key in data]
        source = f"{scene}/calibration/{sample['calibration_key']}.json"
        if source not in calibrations:
            calibrations[source] = _read_intrinsics(root / source)
        sweep = next(
            (i["datum"]["point_cloud"] for i in items if "point_cloud" in i["datum"] and _sensor(i) == _LIDAR), None
        )
        for item in items:
            if (image := item["datum"].get("image")) is None:
                continue
            file, sensor = image["filename"], _sensor(item)
            capture = Capture(
                image=f"{scene}/{file}",
                size=(image["width"], image["height"]),
                intrinsics=calibrations[source].get(sensor),
                source=f"{source} ({sensor})",
                picture=(Step(f"{name} ({file})", _numbers(image.get("pose"))),),
                lidar=f"{scene}/{sweep['filename']}" if sweep else "",
                sweep=(Step(f"{name} (lidar beside {file})", _numbers(sweep and sweep.get("pose"))),),
            )
            stem = file.rsplit("/", 1)[-1]
            cameras.setdefault(sensor, []).append(((len(stem), stem), capture))  # files are called by their time
    for sensor in sorted(cameras):
        for _, capture in sorted(cameras[sensor], key=lambda entry: entry[0]):
            yield capture_ref(capture, scene, f"{scene}/{sensor}")


def _sensor(item: dict[str, Any]) -> str:
    return str(item["id"]["name"]).lower()


def _read_intrinsics(path: Path) -> dict[str, tuple[float, ...]]:
    """The fx fy cx cy of each sensor; empty when the file cannot be used, so that its frames are refused one by one."""
    try:
        content = read_json(path)
        return {
            name.lower(): tuple(float(k[key]) for key in ("fx", "fy", "cx", "cy"))
            for name, k in zip(content["names"], content["intrinsics"], strict=True)
            if name.lower() != _LIDAR
        }
    except (KeyError, TypeError, AttributeError, ValueError):  # FrameError is a ValueError
        return {}


def _numbers(pose: dict[str, Any] | None) -> tuple[float, ...] | None:
    """Rotation w x y z and translation x y z of a pose; protobuf leaves zeros out."""
    if not pose:
        return None
    rotation, translation = pose.get("rotation", {}), pose.get("translation", {})
    return (
        *(float(rotation.get(key, 0.0)) for key in ("qw", "qx", "qy", "qz")),
        *(float(translation.get(key, 0.0)) for key in ("x", "y", "z")),
    )


READER = DDAD()
