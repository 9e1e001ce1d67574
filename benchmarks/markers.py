"""Several markers on one picture, a question for each: what it costs in accuracy, and what it saves in time.

    python benchmarks/markers.py [--model nano] [--data out/data/nano-val] [--counts 1,2,4] [--points 8] [--images 256]
                                 [--json] [--quick]

The same points of the same pictures are measured with at most K markers on a view, told apart by colour; those that
would cover each other stand on different copies. The questions of one view share its reading. Headline: delta1 with the
most markers minus delta1 with one, and points per second over those with one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np

from depthlm.data import open_data
from depthlm.errors import InputError
from depthlm.inference.engine import Engine
from depthlm.metrics import best_constant, bootstrap_interval, delta1, is_correct
from depthlm.models.loading import load_model
from depthlm.synth.generate import synth_samples

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from depthlm.sample import Samples


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when an answer is lost."""
    options = common.parser(__doc__)
    options.add_argument("--model", default="nano")
    options.add_argument("--data", type=Path, default=Path("out/data/nano-val"), help="labelled pictures never seen")
    options.add_argument("--counts", default="1,2,4", help="most markers on a view, separated by commas")
    options.add_argument("--points", type=int, default=8, help="points of each picture")
    options.add_argument("--images", type=int, default=256, help="pictures, the first ones")
    options.add_argument("--reference", default="arrow", help="arrow, square or cross")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every count on the same points."""
    counts = common.counts(arguments.counts, "--counts")
    if min(arguments.points, arguments.images) < 1:
        raise InputError("--points and --images take 1 or more")
    loaded = load_model(arguments.model)
    data: Samples = list(synth_samples(2, seed=7, views=1)) if arguments.quick else open_data(arguments.data)
    images = min(len(data), arguments.images)
    found = {}
    for count in counts:
        engine = Engine(loaded, reference=arguments.reference, intervals=False, markers=count)
        found[str(count)] = one_count(engine, data, images, arguments.points)
    first, last = found[str(counts[0])], found[str(counts[-1])]
    return {
        "headline": {
            "delta1_gain": last["delta1"] - first["delta1"], "speed": last["points_per_s"] / first["points_per_s"],
        },
        "checks": {"every_point_answered": all(row["n"] == first["n"] for row in found.values())},
        "config": {
            "model": arguments.model, "data": "2 rooms of seed 7" if arguments.quick else str(arguments.data),
            "images": images, "points": arguments.points, "reference": arguments.reference,
            "trained_with": loaded.card.markers_per_image, "quick": arguments.quick,
        },
        "markers": found,
    }  # fmt: skip


def one_count(engine: Engine, data: Samples, images: int, points: int) -> dict[str, Any]:
    """Score and speed with at most so many markers on a view."""
    said, truth, image = [], [], []
    seconds = 0.0
    for number in range(images):
        sample = data[number]
        rows = np.random.default_rng([0, number]).permutation(len(sample))[:points]
        picture = sample.load_image()
        start = time.perf_counter()
        measured = engine.measure(picture, sample.uv[rows], sample.camera)
        seconds += time.perf_counter() - start
        said.append(measured.distance)
        truth.append(sample.distance[rows])
        image.append(np.full(len(rows), number))
        if number % 64 == 63:
            common.progress(f"{engine.markers} markers, picture {number + 1} of {images}")
    p, g = np.concatenate(said), np.concatenate(truth)
    score = is_correct(p, g)
    return {
        "n": len(g), "delta1": delta1(p, g), "delta1_ci": list(bootstrap_interval(score, np.concatenate(image))),
        "floor_delta1": best_constant(g)[1], "points_per_s": len(g) / seconds,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
