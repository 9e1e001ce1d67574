"""The real samples as roots that the readers understand, for the readers' tests and for benchmarks/curation.py.

Some samples are official trees already; single files of other sets are laid out here as their downloads have them. What
a tree must have and its sample lacks (a drive's name, a camera that was never published) is made up, and said below.
Files are copied, not linked: tests damage them.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDERS = {
    "arkitscenes": "iphone_lidar",
    "folder": "realsense_like/0",
    "hm3d": "replica_omnidata",
    "ibims1": "ibims1/derived_core_raw",
    "kitti": "kitti/demo",
    "nyuv2": "nyuv2/sync",
    "tum": "tum_rgbd",
    "waymo": "waymo/derived/v2",
}
"""Where a reader's sample lies below the folder of samples, when not under the reader's own name."""

KITTI_DRIVE = "2011_09_26_drive_0002_sync"  # made up: the sample's files have lost theirs


def lay_out(reader: str, samples: Path, scratch: Path) -> Path | None:
    """The root that holds a reader's sample: the sample itself, or a tree made of it in scratch/<reader>.

    None when there is no sample. Whether what is there makes a whole frame is the reader's to say.
    """
    sample = samples / FOLDERS.get(reader, reader)
    if not sample.is_dir():
        return None
    if reader not in LAYOUTS:
        return sample
    root = scratch / reader
    LAYOUTS[reader](sample, root)
    return root


def arkitscenes(sample: Path, root: Path) -> None:
    """One picture with lidar depth; its camera is made up."""
    video = root / "Validation" / "1"
    _copy(sample / "image.jpg", video / "wide" / "1_5.000.jpg")
    _copy(sample / "arkit_depth.png", video / "lowres_depth" / "1_5.000.png")
    _write(video / "wide_intrinsics" / "1_5.000.pincam", "1920 1440 1440 1440 959.5 719.5")


def folder(sample: Path, root: Path) -> None:
    """One pair of a depth camera."""
    _copy(sample / "rgb.png", root / "images" / "one.png")
    _copy(sample / "raw_depth.png", root / "depth" / "one.png")
    k = np.loadtxt(sample / "intrinsics.txt")
    camera = {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "width": 640, "height": 480}
    _write(root / "camera.json", json.dumps(camera))


def hm3d(sample: Path, root: Path) -> None:
    """A view of Replica, whose camera files are called as HM3D's are; HM3D's own sample has none. Building made up."""
    _omnidata(sample, root, "hm3d/00000-kfPV7w3FaU5", "fixatedpose.json")


def kitti(sample: Path, root: Path) -> None:
    """Every pair as a crop of the selection."""
    fx, fy, cx, cy = json.loads((sample / "test_annotations.json").read_text())["files"][0]["cam_in"]
    for picture in sorted((sample / "rgb").glob("*.png")):
        name = f"{KITTI_DRIVE}_image_{picture.stem}_image_02"
        truth = f"{KITTI_DRIVE}_groundtruth_depth_{picture.stem}_image_02.png"
        _copy(picture, root / "image" / f"{name}.png")
        _copy(sample / "depth" / picture.name, root / "groundtruth_depth" / truth)
        _write(root / "intrinsics" / f"{name}.txt", f"{fx} 0 {cx} 0 {fy} {cy} 0 0 1")


def scannetpp(sample: Path, root: Path) -> None:
    """Every frame in its scene; focal lengths are stored, principal points and poses made up."""
    rows = [json.loads(line) for line in (sample / "examples.jsonl").read_text().splitlines()]
    focal = {row["image"]: row["original_fx"] for row in rows}
    for picture in sorted((sample / "rgb").glob("*.jpg")):
        scene, name = picture.stem.split("_", 1)
        phone = root / "data" / scene / "iphone"
        _copy(picture, phone / "rgb" / f"{name}.jpg")
        _copy(sample / "depth" / f"{picture.stem}.png", phone / "depth" / f"{name}.png")
        k = [[focal[picture.name], 0, 959.5], [0, focal[picture.name], 719.5], [0, 0, 1]]
        _write(phone / "pose_intrinsic_imu.json", json.dumps({name: {"pose": np.eye(4).tolist(), "intrinsic": k}}))


def sunrgbd(sample: Path, root: Path) -> None:
    """One capture; its camera is made up."""
    capture = root / "xtion" / "one"
    _copy(sample / "SUN_color.jpg", capture / "image" / "SUN_color.jpg")
    _copy(sample / "SUN_depth.png", capture / "depth_bfx" / "SUN_depth.png")
    _write(capture / "intrinsics.txt", "570.3 0 320 0 570.3 240 0 0 1")


def taskonomy(sample: Path, root: Path) -> None:
    """One view; its building is made up."""
    _omnidata(sample, root, "taskonomy/hanson", "point_info.json")


def tum(sample: Path, root: Path) -> None:
    """One pair of a sequence whose name, hence camera, is not known."""
    sequence = root / "rgbd_dataset_pair"
    _copy(sample / "TUM_color.png", sequence / "rgb" / "100.000000.png")
    _copy(sample / "TUM_depth.png", sequence / "depth" / "100.015000.png")
    _write(sequence / "rgb.txt", "100.000000 rgb/100.000000.png\n")
    _write(sequence / "depth.txt", "100.015000 depth/100.015000.png\n")


LAYOUTS: dict[str, Callable[[Path, Path], None]] = {
    "arkitscenes": arkitscenes, "folder": folder, "hm3d": hm3d, "kitti": kitti, "scannetpp": scannetpp,
    "sunrgbd": sunrgbd, "taskonomy": taskonomy, "tum": tum,
}  # fmt: skip
"""(sample, root) -> None: writes the tree; the readers that are not here read their sample as it is."""


def _omnidata(sample: Path, root: Path, building: str, info: str) -> None:
    """Every view of a sample; `info` is what the camera file's name ends with."""
    for domain, ending in (("rgb", "rgb.png"), ("depth_zbuffer", "depth_zbuffer.png"), ("point_info", info)):
        for path in sample.glob(f"*_domain_{ending}"):
            _copy(path, root / domain / building / path.name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
