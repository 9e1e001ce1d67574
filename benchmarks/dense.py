"""Dense maps from few true answers: how well they are completed, over a uniform grid with bilinear interpolation.

    python benchmarks/dense.py [--json] [--quick] [--samples ../shared/samples] [--plot docs/img/dense.png]

Every question is answered with the true z of its pixel; one that hits a hole of the truth is spent, and the sampler
never sees where holes are. Pictures: TUM, Redwood (renderings), NYUv2, Taskonomy and iBims-1 corridor_04 of the sample
folder, and rooms and streets of our own. AbsRel and delta1 over all pixels with a truth; flying: evaluation/edges.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
from PIL import Image
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import distance_transform_edt

from depthlm.errors import InputError
from depthlm.evaluation.edges import flying_rate
from depthlm.inference.dense import complete_image
from depthlm.metrics import absrel, delta1
from depthlm.synth.generate import synth_rendered

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

BUDGET = 2000
HARD = "ibims1 corridor_04"  # foliage: judged by itself
CURVE = (250, 500, 1000, 2000, 4000, 8000, 16000)
TRIAL = {"absrel": 0.011, "delta1": 0.990, "absrel_over_uniform": 0.55, "flying_over_uniform": 1 / 20}
TRIAL_HARD = {"absrel": 0.057, "delta1": 0.935}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of `common.run`."""
    options = common.parser(__doc__)
    samples = Path(__file__).resolve().parents[2] / "shared" / "samples"
    options.add_argument("--samples", type=Path, default=samples, help="folder with the real sample files")
    options.add_argument("--plot", type=Path, help="draw the curves over budgets into this PNG")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures at BUDGET for each picture, means, checks, and curves."""
    budgets = (500, BUDGET) if arguments.quick else CURVE
    pictures = rendered(1 if arguments.quick else 4)
    real = samples_of(arguments.samples) if arguments.samples.is_dir() else []
    if arguments.quick:
        real = real[:1]
    curves: dict[str, dict[int, dict[str, Any]]] = {}
    for name, image, z in [*real, *pictures]:
        curves[name] = {}
        for budget in budgets:
            curves[name][budget] = {"ours": score(ours, image, z, budget), "uniform": score(uniform, image, z, budget)}
        common.progress(f"{name}: {curves[name][BUDGET]}")
    groups = {
        "photographs": [name for name, _, _ in real if name != HARD],
        "procedural": [name for name, _, _ in pictures],
    }
    means = {
        group: {b: _mean([curves[name][b] for name in names]) for b in budgets}
        for group, names in groups.items()
        if names
    }
    checks = {}
    if (photographs := means.get("photographs")) and not arguments.quick:
        got, plain = photographs[BUDGET]["ours"], photographs[BUDGET]["uniform"]
        checks = {
            "absrel_at_most_0.011": got["absrel"] <= TRIAL["absrel"],
            "delta1_at_least_0.990": got["delta1"] >= TRIAL["delta1"],
            "absrel_at_most_0.55_of_uniform": got["absrel"] <= TRIAL["absrel_over_uniform"] * plain["absrel"],
            "flying_at_most_a_20th_of_uniform": got["flying"] <= TRIAL["flying_over_uniform"] * plain["flying"],
            "corridor_04_absrel_at_most_0.057": curves[HARD][BUDGET]["ours"]["absrel"] <= TRIAL_HARD["absrel"],
            "corridor_04_delta1_at_least_0.935": curves[HARD][BUDGET]["ours"]["delta1"] >= TRIAL_HARD["delta1"],
        }
    checks["no_question_too_many"] = all(one["ours"]["asked"] <= b for c in curves.values() for b, one in c.items())
    if arguments.plot is not None:
        plot(arguments.plot, means)
    group = "photographs" if real else "procedural"
    return {
        "headline": {"absrel": means[group][BUDGET]["ours"]["absrel"]},
        "checks": checks,
        "config": {"budget": BUDGET, "pictures": list(curves), "quick": arguments.quick},
        "means": means,
        "pictures": curves,
    }


def _mean(rows: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    return {
        way: {
            figure: float(np.mean([row[way][figure] for row in rows if row[way][figure] is not None]))
            for figure in ("absrel", "delta1", "flying")
        }
        for way in ("ours", "uniform")
    }


# --- pictures ---------------------------------------------------------------------------------------------------------


def samples_of(folder: Path) -> list[tuple[str, Image.Image, NDArray[np.float64]]]:
    """(name, picture, z [H, W] metres, NaN for holes) of the sample folder's pictures."""
    taskonomy = "taskonomy/point_202_view_5_domain_"
    files = [
        ("tum", "tum_rgbd/TUM_color.png", "tum_rgbd/TUM_depth.png", 5000),
        *[(f"redwood {k}", f"redwood/color/0000{k}.jpg", f"redwood/depth/0000{k}.png", 1000) for k in range(3)],
        *[
            (f"nyuv2 {k}", f"nyuv2/sync/rgb_{k}.jpg", f"nyuv2/sync/sync_depth_{k}.png", 1000)
            for k in ("00000", "00050")
        ],
        ("taskonomy", f"{taskonomy}rgb.png", f"{taskonomy}depth_zbuffer.png", 512),
        (HARD, "ibims1/corridor_04_rgb.png", "ibims1/corridor_04_depth_gt.npy", 1),
    ]
    found = []
    for name, rgb, depth, unit in files:
        if not (folder / rgb).is_file() or not (folder / depth).is_file():
            raise InputError(f"{folder} lacks {rgb} or {depth}; give the whole folder of samples")
        raw = np.load(folder / depth) if depth.endswith(".npy") else np.asarray(Image.open(folder / depth))
        z = raw.squeeze().astype(np.float64)
        z[~((z > 0) & (z < 65535))] = np.nan
        found.append((name, Image.open(folder / rgb).convert("RGB"), z / unit))
    return found


def rendered(count: int) -> list[tuple[str, Image.Image, NDArray[np.float64]]]:
    """So many rooms and so many streets of 640x480 pixels that no recipe trains on."""
    made = []
    for kind in ("indoor", "outdoor"):
        scenes = synth_rendered(count, seed=700_000, kind=kind, views=1, size=(640, 480), focal_range=(400.0, 600.0))
        for k, room in enumerate(scenes):
            z = np.where(np.isfinite(room.z), room.z, np.nan)
            made.append((f"{kind} {k}", Image.fromarray(np.asarray(room.image)), z))
    return made


# --- ways -------------------------------------------------------------------------------------------------------------


def score(
    way: Callable[..., NDArray[np.floating[Any]]], image: Image.Image, z: NDArray[np.float64], budget: int
) -> dict[str, Any]:
    """AbsRel, delta1, flying rate, questions and seconds of one map."""
    asked = 0

    def ask(uv: NDArray[np.int64]) -> NDArray[np.float64]:
        nonlocal asked
        asked += len(uv)
        return z[uv[:, 1], uv[:, 0]]

    start = time.perf_counter()
    predicted = way(image, ask, budget).astype(np.float64)
    seconds = time.perf_counter() - start
    known = np.isfinite(z)
    return {
        "absrel": absrel(predicted[known], z[known]),
        "delta1": delta1(predicted[known], z[known]),
        "flying": flying_rate(predicted, z),
        "asked": asked,
        "seconds": seconds,
    }


def ours(
    image: Image.Image, ask: Callable[[NDArray[np.int64]], NDArray[np.float64]], budget: int
) -> NDArray[np.floating[Any]]:
    """inference/dense.py."""
    return complete_image(image, lambda uv: (ask(uv), np.full(len(uv), np.nan)), budget=budget).z


def uniform(
    image: Image.Image, ask: Callable[[NDArray[np.int64]], NDArray[np.float64]], budget: int
) -> NDArray[np.floating[Any]]:
    """An even grid from border to border, holes filled with the nearest answer, bilinear between."""
    columns = int(np.sqrt(budget * image.width / image.height))
    u = np.linspace(0, image.width - 1, columns).round()
    v = np.linspace(0, image.height - 1, budget // columns).round()
    grid = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2).astype(np.int64)
    z = ask(grid).reshape(len(v), len(u))
    nearest = distance_transform_edt(~np.isfinite(z), return_distances=False, return_indices=True)
    rows, cells = np.mgrid[: image.height, : image.width]
    return np.asarray(RegularGridInterpolator((v, u), z[tuple(nearest)])((rows, cells)))


def plot(path: Path, means: dict[str, dict[int, dict[str, dict[str, float]]]]) -> None:
    """AbsRel, 1 - delta1 and flying rate over budgets, both ways."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, title) in zip(
        figure.subplots(1, 3),
        (("absrel", "AbsRel"), ("delta1", "1 - delta1"), ("flying", "flying rate near edges")),
        strict=True,
    ):
        for group, style in zip(means, ("-o", "--s"), strict=False):
            for way, colour in (("ours", "#0f8a6c"), ("uniform", "#c9541a")):
                values = [row[way][name] for row in means[group].values()]
                values = [1 - v for v in values] if name == "delta1" else values
                label = f"{group}, {'adaptive' if way == 'ours' else 'uniform, bilinear'}"
                axes.plot(list(means[group]), values, style, color=colour, label=label, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="questions (of 307,200 pixels)", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
