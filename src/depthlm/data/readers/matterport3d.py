"""Matterport3D: undistorted tripod pictures of 90 buildings with z in 0.25 mm steps, 0 = no reading.

<scene>.conf pairs pictures and depth maps by name; an `intrinsics_matrix` line holds for the `scan` lines that follow,
up to the next one (one block per panorama and camera). Its origin is the BOTTOM-left pixel, and its cameras look down
-z with y up. Some unzipped trees hold <scene>/<scene>/. The released curation paired sorted lists and left cy as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlm.camera import Camera
from depthlm.data.readers.base import ALL, DenseLabels, Frame, FrameError, FrameRef, Reader
from depthlm.data.readers.files import (
    FROM_OPENGL,
    blaming,
    image_size,
    index_pose,
    read_bytes,
    read_depth_png,
    read_text,
    rigid,
)
from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEP = 1 / 4000  # metres
_PARAMETERS = "undistorted_camera_parameters"


class Matterport3D(Reader):
    """The three undistorted_* archives of each building."""

    name = "matterport3d"
    title = "Matterport3D"
    licence = "Matterport3D Terms of Use (signed): non-commercial research, no redistribution"
    layout = (
        "<scene>/undistorted_camera_parameters/<scene>.conf with undistorted_color_images/ and "
        "undistorted_depth_images/ beside it (or <scene>/<scene>/...), scenes_{train,val,test}.txt for the splits"
    )
    splits = ("train", "val", "test")
    near, far = 0.01, 10.0
    legacy_note = "cy taken from the bottom-left origin as it is: distances off by up to about 2 mm per metre"

    def index(self, root: Path, split: str) -> Iterator[FrameRef]:
        """The `scan` lines of every building, in the order of their .conf."""
        self.check_split(split)
        scenes = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        bases = {scene: base for scene in scenes if (base := _base(root, scene))}
        if not bases:
            raise self.missing(root, f"<scene>/{_PARAMETERS}")
        if split != ALL:
            listing = root / f"scenes_{split}.txt"
            if not listing.is_file():
                raise InputError(f"{root}: split {split!r} needs {listing.name} there; without it only 'all' works")
            chosen = set(listing.read_text(encoding="utf-8").split())
            bases = {scene: base for scene, base in bases.items() if scene in chosen}
        for scene, base in bases.items():
            conf = f"{base}/{_PARAMETERS}/{scene}.conf"
            try:
                lines = read_text(root / conf).splitlines()
            except FrameError:  # one frame that `read` refuses with the reason, instead of an end to all buildings
                yield FrameRef(id=scene, scene=scene, data=(conf, base, "", "", (), ()))
                continue
            for depth, colour, intrinsics, pose in parse_conf(lines):
                yield FrameRef(
                    id=f"{scene}/{colour.rsplit('/', 1)[-1].removesuffix('.jpg')}",
                    scene=scene,
                    pose=None if (known := index_pose(pose)) is None else _opencv(known),
                    data=(conf, base, depth, colour, intrinsics, pose),
                )

    def read(self, root: Path, ref: FrameRef) -> Frame:
        """The picture as it is, z where there is a reading."""
        name, base, depth, colour, intrinsics, pose = ref.data
        conf = root / name
        if not colour:
            read_text(conf)  # says what is wrong with it
            raise FrameError(f"{conf}: was not readable when the tree was listed")
        picture = root / base / colour
        image = read_bytes(picture)
        width, height = image_size(image, picture)
        if len(intrinsics) != 9:
            raise FrameError(f"{conf}: no intrinsics_matrix of 9 numbers before {colour}")
        fx, _, cx, _, fy, cy, *_ = intrinsics
        with blaming(conf):
            camera = Camera(fx, fy, cx, height - 1 - cy, width, height)  # rows are counted from the bottom
        world = rigid(pose, f"{conf}: {colour}") @ FROM_OPENGL
        z, valid = read_depth_png(root / base / depth, _STEP)
        return Frame(image=image, camera=camera, labels=DenseLabels(z, valid), pose=world)


def parse_conf(
    lines: list[str],
) -> Iterator[tuple[str, str, tuple[float, ...], tuple[float, ...]]]:
    """Lines of a .conf -> (depth file, colour file, 9 intrinsics, 16 numbers camera to world) of every `scan`.

    Numbers that cannot be read are left out: an empty tuple.
    """
    folders = {"depth_directory": "undistorted_depth_images", "color_directory": "undistorted_color_images"}
    intrinsics: tuple[float, ...] = ()
    for line in lines:
        word, *values = line.split() or [""]
        if word in folders and values:
            folders[word] = values[0]
        elif word == "intrinsics_matrix":
            intrinsics = _numbers(values)
        elif word == "scan" and len(values) >= 2:
            depth, colour = f"{folders['depth_directory']}/{values[0]}", f"{folders['color_directory']}/{values[1]}"
            yield depth, colour, intrinsics, _numbers(values[2:])


def _numbers(words: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        return ()


def _base(root: Path, scene: str) -> str:
    """The folder of a building that holds the three others; empty where there is none."""
    return next((base for base in (scene, f"{scene}/{scene}") if (root / base / _PARAMETERS).is_dir()), "")


def _opencv(pose: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(value) for value in (np.reshape(pose, (4, 4)) @ FROM_OPENGL).reshape(-1))


READER = Matterport3D()
