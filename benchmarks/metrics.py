"""Every scalar metric of a million points with 1,000 bootstrap draws over images: seconds, memory, and a plain loop.

    python benchmarks/metrics.py [--json] [--quick] [--samples ../shared/samples]

The plain-Python loop computes the same metrics point by point and draws images again by hand, on a sample of the
points and draws; its time is scaled to the whole (it is linear in both). Also the blur table: truth blurred by
a Gaussian of 1, 2, 4, 8 px, flying-point rate and boundary F1 (rooms, and iBims-1 corridor_04 where the samples are).
"""

from __future__ import annotations

import math
import random
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
from scipy.ndimage import gaussian_filter

from depthlm.data.readers.ibims1 import READER
from depthlm.evaluation.edges import flying_rate
from depthlm.evaluation.geometry import boundary_f1
from depthlm.evaluation.resample import ImageSums, figures
from depthlm.evaluation.scalars import FORMULAS, columns, scalar
from depthlm.synth.generate import synth_rendered

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

PER_IMAGE = 100
SIGMAS = (0, 1, 2, 4, 8)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of `common.run`."""
    options = common.parser(__doc__)
    options.add_argument("--points", type=int, default=None, help="default: 1,000,000, or 100,000 with --quick")
    options.add_argument("--draws", type=int, default=None, help="default: 1,000, or 100 with --quick")
    samples = Path(__file__).resolve().parents[2] / "shared" / "samples"
    options.add_argument("--samples", type=Path, default=samples, help="folder with the real sample files")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times, memory, equality, blur."""
    points = arguments.points or (100_000 if arguments.quick else 1_000_000)
    draws = arguments.draws or (100 if arguments.quick else 1000)
    p, g, image = make_points(points)
    all_figures(p[:PER_IMAGE], g[:PER_IMAGE], image[:PER_IMAGE], 2)  # imports are not timed
    before = peak_mb()
    many = timed(all_figures, p, g, image, draws)  # more than one block of draws (metrics.image_draws)
    after_many = peak_mb()
    more = timed(all_figures, p, g, image, 4 * draws)
    after_more = peak_mb()
    sample = 5_000
    loop = timed(plain_loop, p[:sample], g[:sample], sample // PER_IMAGE, 2)
    loop_seconds = loop["seconds"] / 3 / sample * points * (1 + draws)  # the figure itself, and two draws
    differ = max(
        abs(loop["result"][name] - (scalar(name, p[:sample], g[:sample]) or 0)) / max(abs(loop["result"][name]), 1e-9)
        for name in FORMULAS
    )
    blur = {"rooms": blur_rooms(arguments.quick), "corridor_04": blur_photograph(arguments.samples)}
    return {
        "headline": {"seconds": many["seconds"], "faster_than_plain_loop": loop_seconds / many["seconds"]},
        "checks": {
            "equal_to_plain_loop": differ < 1e-9,
            "under_a_minute": many["seconds"] < 60,
            "memory_does_not_grow_with_draws": after_more - after_many < 16,
            "memory_flat": after_more - before < 64 + 40 * p.nbytes / 2**20,
            **{f"blur_is_monotone_{name}": monotone(rows) for name, rows in blur.items() if rows},
        },
        "config": {"points": points, "images": points // PER_IMAGE, "draws": draws, "metrics": len(FORMULAS)},
        "seconds_with_four_times_the_draws": more["seconds"],
        "plain_loop_seconds_scaled": loop_seconds,
        "plain_loop_sample": {"points": sample, "draws": 2, "seconds": loop["seconds"]},
        "peak_mb": {"before": before, "all_draws": after_many, "four_times_the_draws": after_more},
        "largest_relative_difference": differ,
        "blur": {name: rows or "no sample" for name, rows in blur.items()},
    }


def make_points(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N] answers with a tenth of noise shared by an image and 2 % without a number, truths, images."""
    rng = np.random.default_rng(0)
    image = np.arange(count) // PER_IMAGE
    g = rng.lognormal(1, 0.8, count)
    p = g * np.exp(rng.normal(0, 0.15, count) + rng.normal(0, 0.1, image[-1] + 1)[image])
    p[rng.random(count) < 0.02] = np.nan
    return p, g, image


def all_figures(p: np.ndarray, g: np.ndarray, image: np.ndarray, draws: int) -> dict[str, Any]:
    """Every scalar metric with its interval."""
    sums = ImageSums.of(columns(p, g), image, int(image[-1]) + 1)
    return figures(sums, FORMULAS, resamples=draws)


def plain_loop(p: np.ndarray, g: np.ndarray, images: int, draws: int) -> dict[str, float]:
    """The same without arrays: the figures, and as many again for `draws` sets of images drawn with replacement."""
    answers, truths = p.tolist(), g.tolist()
    whole = plain_figures(answers, truths)
    choose = random.Random(0)
    for _ in range(draws):
        again = [choose.randrange(images) * PER_IMAGE for _ in range(images)]
        rows = [start + k for start in again for k in range(PER_IMAGE)]
        plain_figures([answers[i] for i in rows], [truths[i] for i in rows])
    return whole


def plain_figures(answers: list[float], truths: list[float]) -> dict[str, float]:
    """Each metric by its definition."""
    right = [0, 0, 0]
    rel = sq_rel = sq = log10 = 0.0
    logs, lines = [], []
    answered = 0
    for p, g in zip(answers, truths, strict=True):
        if math.isnan(p):
            continue
        answered += 1
        for power in range(3):
            right[power] += p > 0 and max(p / g, g / p) < 1.25 ** (power + 1)
        rel += abs(p - g) / g
        sq_rel += (p - g) ** 2 / g
        sq += (p - g) ** 2
        if p > 0:
            logs.append(math.log(p / g))
            lines.append((math.log(g), math.log(p)))
            log10 += abs(math.log10(p / g))
    n, m = len(truths), len(logs)
    mean = sum(logs) / m
    x, y = sum(a for a, _ in lines) / m, sum(b for _, b in lines) / m
    slope = sum((a - x) * (b - y) for a, b in lines) / sum((a - x) ** 2 for a, _ in lines)
    return {
        "delta1": right[0] / n, "delta2": right[1] / n, "delta3": right[2] / n, "absrel": rel / answered,
        "sqrel": sq_rel / answered, "rmse": math.sqrt(sq / answered),
        "rmse_log": math.sqrt(sum(d * d for d in logs) / m), "log10": log10 / m,
        "silog": 100 * math.sqrt(sum((d - mean) ** 2 for d in logs) / m), "scale": math.exp(mean), "slope": slope,
    }  # fmt: skip


def timed(function: Any, *given: Any) -> dict[str, Any]:
    """Result and seconds of one call."""
    start = time.perf_counter()
    result = function(*given)
    return {"result": result, "seconds": time.perf_counter() - start}


def peak_mb() -> float:
    """Highest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- blur -----------------------------------------------------------------------------------------------------------


def blur_rooms(quick: bool) -> list[dict[str, float]]:
    """Means over rooms that have edges."""
    rooms = [r.z.astype(np.float64) for r in synth_rendered(6 if quick else 20, seed=9_200_000, views=1)]
    tables = [blur_table(z) for z in rooms if (flying_rate(z, z) is not None and boundary_f1(z, z) is not None)]
    return [
        {key: float(np.mean([table[k][key] for table in tables])) for key in tables[0][0]} for k in range(len(SIGMAS))
    ]


def blur_photograph(samples: Path) -> list[dict[str, float]]:
    """iBims-1 corridor_04; empty without the samples."""
    root = samples / "ibims1" / "derived_core_raw"
    if not root.is_dir():
        return []
    labels = READER.read(root, next(iter(READER.index(root, "test")))).labels
    return blur_table(np.where(labels.valid, labels.z, np.nan))


def blur_table(truth: np.ndarray) -> list[dict[str, float]]:
    """Rate and F1 of the truth itself and of it blurred, pixels without a depth left out of the blur."""
    valid = np.isfinite(truth)
    rows = []
    for sigma in SIGMAS:
        z = truth
        if sigma:
            weight = gaussian_filter(valid.astype(np.float64), sigma)
            z = np.where(valid, gaussian_filter(np.where(valid, truth, 0.0), sigma) / np.maximum(weight, 1e-12), np.nan)
        contours = boundary_f1(z, truth)
        assert contours is not None, "the truth has contours"
        rows.append({"sigma_px": sigma, "flying_rate": flying_rate(z, truth), "boundary_f1": contours["f1"]})
    return rows


def monotone(rows: list[dict[str, float]]) -> bool:
    """Truth at 0 and 1, and then ever worse."""
    flying, sharp = ([row[key] for row in rows] for key in ("flying_rate", "boundary_f1"))
    return bool(flying[0] == 0 and sharp[0] == 1 and flying == sorted(flying) and sharp == sorted(sharp, reverse=True))


if __name__ == "__main__":
    sys.exit(main())
