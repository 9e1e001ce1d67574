"""How fast raw trees become shards: every reader on its real sample, one process against two, local against Ray.

    python benchmarks/curation.py [--json] [--quick] [--samples DIR] [--no-ray]

Readers: frames per second of one core, from the files to a finished sample (decode check and choice of points
included), on the frames of each reader's sample, read again and again; a reader that has none, or whose sample is no
whole frame, is named with what it lacks. Spread: a tree of rendered pictures in the `folder` layout is curated by 1
process, by 2, and by a local Ray cluster of 2; the shards must be the same to the last bit. Headline: how many times
faster 2 processes are than 1, start-up of the processes counted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
from PIL import Image

from depthlm.data.choose import Choice, CurateConfig, read_sample
from depthlm.data.curate import curate
from depthlm.data.readers.base import ALL, READERS, get_reader
from depthlm.errors import InputError
from depthlm.synth.generate import synth_rendered

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the readers' tests read the same trees
from layouts import lay_out

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
SECONDS = 3.0  # each reader is timed at least so long


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when shards differ."""
    options = common.parser(__doc__)
    options.add_argument("--samples", type=Path, default=SAMPLES, help="folder of the real samples")
    options.add_argument("--frames", type=int, help="frames of the rendered tree (2400; quick: 24)")
    options.add_argument("--no-ray", action="store_true", help="leave the Ray run out")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both parts."""
    frames = arguments.frames if arguments.frames is not None else 24 if arguments.quick else 2400
    if frames < 1:
        raise InputError(f"--frames is {frames}; expected 1 or more")
    timed, untimed = time_readers(arguments.samples, 0.2 if arguments.quick else SECONDS)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        write_tree(tree, frames)
        seconds, digests = {}, {}
        ways: dict[str, dict[str, Any]] = {"1 process": {"workers": 1}, "2 processes": {"workers": 2}}
        if not arguments.no_ray:
            ways["ray, 2 processes"] = {"ray": "local"}
        for way, how in ways.items():
            common.progress(way)
            out = Path(scratch) / way
            start = time.perf_counter()
            curate(CurateConfig(dataset="folder", frames_per_part=max(1, frames // 12)), tree, out, **how)
            seconds[way] = time.perf_counter() - start
            digests[way] = digest(out)
    return {
        "headline": {"two_processes_against_one": seconds["1 process"] / seconds["2 processes"]},
        "checks": {"shards_identical": len(set(digests.values())) == 1},
        "config": {"frames": frames, "picture": "640x480 JPEG and 16-bit PNG"},
        "seconds": seconds,
        "frames_per_s": {way: frames / taken for way, taken in seconds.items()},
        "readers_frames_per_s_per_core": timed,
        "readers_not_timed": untimed,
    }


def time_readers(samples: Path, seconds: float) -> tuple[dict[str, float], dict[str, str]]:
    """Frames per second and core of every reader that has a sample; why there is no figure for the others."""
    timed, untimed = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in READERS:
            root = lay_out(name, samples, Path(scratch))
            if root is None:
                untimed[name] = "no sample"
                continue
            common.progress(name)
            try:
                timed[name] = time_reader(name, root, seconds)
            except InputError as error:  # the reader knows what its sample lacks
                untimed[name] = str(error).replace(str(root), "the sample")
    return timed, untimed


def time_reader(name: str, root: Path, seconds: float) -> float:
    """Frames per second of processor time, one thread's worth. Raises InputError when a frame is not whole."""
    config = CurateConfig(dataset=name, split=ALL)
    choices = [Choice(ref, config.points) for ref in get_reader(name).index(root, ALL)]
    if not choices:
        raise InputError(f"{root} has no picture that goes with its labels")
    for choice in choices:  # warms caches and imports
        read_sample(config, root, choice)
    done, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        read_sample(config, root, choices[done % len(choices)])
        done += 1
    return done / (time.process_time() - start)


def write_tree(root: Path, frames: int) -> None:
    """images/ and depth/ of `frames` names for a few rendered views, and one camera.json."""
    (root / "images").mkdir(parents=True)
    (root / "depth").mkdir()
    focal = 560.0
    views = list(synth_rendered(2, seed=5, views=4, size=(640, 480), focal_range=(focal, focal)))
    for number, view in enumerate(views):
        picture, depth = io.BytesIO(), io.BytesIO()
        Image.fromarray(view.image).save(picture, "JPEG", quality=92)
        Image.fromarray((np.nan_to_num(view.z, nan=0.0) * 1000).round().astype(np.uint16)).save(depth, "PNG")
        for copy in range(number, frames, len(views)):
            (root / "images" / f"{copy:05d}.jpg").write_bytes(picture.getvalue())
            (root / "depth" / f"{copy:05d}.png").write_bytes(depth.getvalue())
    camera = views[0].camera
    (root / "camera.json").write_text(json.dumps(camera.to_dict()))


def digest(folder: Path) -> str:
    """Of all files, names included."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(os.fsencode(path.relative_to(folder)) + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
