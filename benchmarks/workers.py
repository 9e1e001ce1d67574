"""Pictures read ahead of the model: what --workers gains.

    python benchmarks/workers.py [--model nano] [--workers 1,2,4] [--images 24] [--megapixels 0.3,12] [--json] [--quick]

Rendered rooms, enlarged and saved as JPEG, one point of each measured: read and asked in turn, and read by so many
threads while the model answers; the best of three rounds. Headline: the best gain at each size. More threads than
cores cannot gain.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np

import depthlm
from depthlm.errors import InputError
from depthlm.synth.generate import synth_samples

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

FOV = 60.0
ROUNDS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when an answer depends on how pictures were read."""
    options = common.parser(__doc__)
    options.add_argument("--model", default="nano")
    options.add_argument("--workers", default="1,2,4", help="threads, separated by commas")
    options.add_argument("--images", type=int, default=24, help="pictures of each size")
    options.add_argument("--megapixels", default="0.3,12", help="their sizes, separated by commas")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every size, in turn and with each number of threads."""
    workers = common.counts(arguments.workers, "--workers")
    try:
        sizes = [float(part) for part in arguments.megapixels.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size <= 100 for size in sizes):
        raise InputError(f"--megapixels takes sizes up to 100, separated by commas; {arguments.megapixels!r} was given")
    images = 3 if arguments.quick else arguments.images
    model = depthlm.load(arguments.model)
    (room,) = synth_samples(1, seed=9_000_500, views=1)
    found = {}
    for size in [0.3] if arguments.quick else sizes:
        with tempfile.TemporaryDirectory() as folder:
            common.progress(f"{size:g} megapixels")
            found[f"{size:g}"] = one_size(model, room.load_image(), Path(folder), size, images, workers)
    rates = {size: {name: row["per_s"] for name, row in rows.items()} for size, rows in found.items()}
    return {
        "headline": {size: max(row.values()) / row["in_turn"] for size, row in rates.items()},
        "checks": {
            "equal_answers": all(
                row["said"] == rows["in_turn"]["said"] for rows in found.values() for row in rows.values()
            )
        },
        "config": {
            "model": arguments.model, "images": images, "megapixels": list(map(float, found)), "workers": workers,
            "points": 1, "quick": arguments.quick,
        },
        "images_per_s": rates,
    }  # fmt: skip


def one_size(
    model: Any, picture: Any, folder: Path, megapixels: float, images: int, workers: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Pictures per second and what was said."""
    width = round(float(np.sqrt(megapixels * 1e6 * picture.width / picture.height)))
    large = picture.resize((width, round(width * picture.height / picture.width)))
    for number in range(images):
        large.save(folder / f"{number}.jpg", quality=92)
    point = [(large.width / 2, large.height / 2)]
    camera = depthlm.Camera.from_fov(*large.size, FOV)
    paths = [folder / f"{number}.jpg" for number in range(images)]
    model.measure(paths[0], point, camera)  # what the first question alone pays for

    def in_turn() -> list[str]:
        return [text for path in paths for text in model.measure(path, point, camera).text]

    def ahead(count: int) -> list[str]:
        found = model.measure_many(folder, point, fov=FOV, workers=count)
        return [text for item in found for text in item.measurement.text]

    ways: dict[str, Any] = {"in_turn": in_turn} | {str(n): partial(ahead, n) for n in workers}
    rows: dict[str, dict[str, Any]] = {name: {"per_s": 0.0, "said": None} for name in ways}
    for _ in range(ROUNDS):  # whatever else the machine does meets all ways alike; each keeps its best
        for name, read in ways.items():
            start = time.perf_counter()
            said = read()
            rows[name] = {"per_s": max(rows[name]["per_s"], images / (time.perf_counter() - start)), "said": said}
    return rows


if __name__ == "__main__":
    sys.exit(main())
