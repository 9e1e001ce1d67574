"""Does a language model answer with points that fly? Asked at depth edges, on planes and elsewhere, of unseen rooms.

    python benchmarks/flying.py [--model nano] [--rooms 500] [--references text,arrow] [--points 12] [--json] [--quick]

In each room so many pixels within 3 px of a true depth edge are asked about, so many elsewhere, and twice as many in
one window that is a plane in the truth. A pixel *flies* when its answer differs by more than 5 % from every true depth
of its 7x7 window (evaluation/edges.py); between: and lies between the nearest and the farthest of them, as a smoothed
edge would. The same share of pixels away from edges says how often an answer is that far off without any edge.
For scale, the same shares of the truth itself seen at every eighth pixel, bilinear between them: right, and smooth.
Beside it everything that an evaluation tells of these points: delta1 at edges and away from them, order, re-use of
answers, calibration. Headline: share of flying pixels, at edges and away from them, by reference.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import cv2
import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from depthlm.evaluation.edges import flies
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.geometry import FLAT, fit_plane
from depthlm.evaluation.resample import ImageSums, figures
from depthlm.evaluation.runs import measure_run, read_run
from depthlm.models.loading import load_model
from depthlm.sample import Sample
from depthlm.surfaces import BAND, edge_band, point_facts
from depthlm.synth.generate import encode, synth_rendered

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from depthlm.models.loading import LoadedModel
    from depthlm.synth.render import Rendered

SEED = 9_400_000  # of rooms that no recipe sees
WINDOW = 48  # pixels a side of what may be a plane
EDGE, AWAY, PLANE = range(3)  # what a pixel was asked for


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when an answer is lost."""
    options = common.parser(__doc__)
    options.add_argument("--model", default="nano")
    options.add_argument("--rooms", type=int, default=500, help="rooms, one picture each")
    options.add_argument("--references", default="text,arrow", help="separated by commas")
    options.add_argument(
        "--points", type=int, default=12, help="pixels at edges and elsewhere; twice as many on a plane"
    )
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every reference on the same pixels."""
    count = 4 if arguments.quick else arguments.rooms
    rooms = list(synth_rendered(count, seed=SEED, views=1))
    chosen = [choose_pixels(room, arguments.points, np.random.default_rng([SEED, k])) for k, room in enumerate(rooms)]
    samples = [to_sample(room, uv) for room, (uv, _) in zip(rooms, chosen, strict=True)]
    loaded = load_model(arguments.model)
    found = {
        reference: one_reference(loaded, reference, rooms, samples, [kind for _, kind in chosen])
        for reference in arguments.references.split(",")
    }
    asked = sum(len(sample) for sample in samples)
    smooth = [
        flights(room, sample, kind, list(enumerate(through_a_grid(room.z)[tuple(sample.uv.astype(int).T[::-1])])))
        for room, sample, (_, kind) in zip(rooms, samples, chosen, strict=True)
    ]
    return {
        "headline": {
            name: {place: row["flying"][place]["value"] for place in ("at_edges", "away")}
            for name, row in found.items()
        },
        "checks": {"every_pixel_answered": all(row["points"]["n"] == asked for row in found.values())},
        "config": {
            "model": arguments.model, "rooms": count, "seed": SEED, "points": arguments.points, "asked": asked,
            "quick": arguments.quick,
        },
        "references": found,
        "smooth_truth": shares(smooth),
    }  # fmt: skip


def choose_pixels(room: Rendered, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """[N, 2] distinct pixels of a room, and what each is asked for; fewer where it has no edge or no plane."""
    known = np.isfinite(room.z)
    band = edge_band(room.z)
    plane = plane_window(room, known & ~band, 2 * count, rng)
    taken = np.zeros(known.shape, dtype=bool)
    taken[plane[:, 1], plane[:, 0]] = True
    parts, kinds = [plane], [np.full(len(plane), PLANE)]
    for kind, where in ((EDGE, band), (AWAY, known & ~band & ~taken)):
        flat = np.flatnonzero(where)
        v, u = np.divmod(rng.choice(flat, min(count, len(flat)), replace=False), known.shape[1])
        parts.append(np.stack([u, v], axis=1))
        kinds.append(np.full(len(u), kind))
    return np.concatenate(parts), np.concatenate(kinds)


def plane_window(room: Rendered, allowed: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 2] pixels of the first window of fifty drawn that shows one plane; [0, 2] when none does."""
    height, width = room.z.shape
    for _ in range(50):
        left, top = rng.integers(0, width - WINDOW), rng.integers(0, height - WINDOW)
        inside = allowed[top : top + WINDOW, left : left + WINDOW]
        if inside.all():
            flat = rng.choice(WINDOW * WINDOW, count, replace=False)
            uv = np.stack([left + flat % WINDOW, top + flat // WINDOW], axis=1)
            _, off, far = fit_plane(room.camera.unproject(uv.astype(float), room.z[uv[:, 1], uv[:, 0]]))
            if off < FLAT * far:
                return uv
    return np.zeros((0, 2), dtype=np.int64)


def to_sample(room: Rendered, uv: np.ndarray) -> Sample:
    """The room as an evaluation takes it, asked about these pixels."""
    u, v = uv.T
    near_edge, incidence = point_facts(room.z, u, v, room.camera)
    return Sample(
        image=encode(room.image), camera=room.camera, uv=uv.astype(np.float64), z=room.z[v, u].astype(np.float64),
        scene=room.scene, frame=room.frame, pose=room.pose, near_edge=near_edge, incidence=incidence,
    )  # fmt: skip


def one_reference(
    loaded: LoadedModel, reference: str, rooms: list[Rendered], samples: list[Sample], kinds: list[np.ndarray]
) -> dict[str, Any]:
    """What an evaluation tells of these points, and the share that flies."""
    total = sum(map(len, samples))
    config = EvaluationConfig(reference=reference, task="z", points=total)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        evaluate(loaded, samples, config, out=out, model_name="model", data_name="rooms", progress=say(reference))
        table = read_run(out).table
    points = measure_run(table, "z")
    assert points is not None, "there is truth"
    answers: list[list[tuple[int, float]]] = [[] for _ in rooms]
    place = [{tuple(uv): row for row, uv in enumerate(sample.uv.astype(int).tolist())} for sample in samples]
    for row in table:
        answers[row["image"]].append((place[row["image"]][int(row["u"]), int(row["v"])], row["value"] or np.nan))
    rows = [flights(*given) for given in zip(rooms, samples, kinds, answers, strict=True)]
    return shares(rows) | {
        "points": {name: points[name] for name in ("n", "n_unparsed", "by_edge", "by_incidence", "order", "reuse")}
        | {"scalars": points["scalars"]["z"], "calibration": points["calibration"]},
    }


def shares(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Counts of each room -> shares with intervals over rooms."""
    sums = ImageSums({name: np.array([[row[name]] for row in rows], dtype=np.float64) for name in rows[0]})
    named = {
        "at_edges": ("edge_flies", "edge"), "at_edges_between": ("edge_between", "edge"),
        "away": ("away_flies", "away"),
        "planarity_rel": ("rough", "planes"), "orientation_deg": ("turned", "planes"),
    }  # fmt: skip
    found = figures(sums, {name: _ratio(*given) for name, given in named.items()})
    return {
        "flying": {name: found[name][0] for name in ("at_edges", "at_edges_between", "away")},
        "planes": {name: found[name][0] for name in ("planarity_rel", "orientation_deg")},
        "counts": {name: float(sums.total()[name][0]) for name in ("edge", "away", "planes")},
    }


def through_a_grid(z: np.ndarray, step: int = 8) -> np.ndarray:
    """[H, W] the map seen at every eighth pixel and bilinear between: as a dense network's small output is enlarged."""
    known = np.where(np.isfinite(z), z, 0)[step // 2 :: step, step // 2 :: step]
    return cv2.resize(known, z.shape[::-1], interpolation=cv2.INTER_LINEAR)


def flights(room: Rendered, sample: Sample, kind: np.ndarray, answers: list[tuple[int, float]]) -> dict[str, float]:
    """Counts of one room: pixels asked and answered by kind, those that fly; roughness and turn of its plane."""
    order = np.array([row for row, _ in answers])
    said = np.full(len(sample), np.nan)
    said[order] = [value for _, value in answers]
    u, v = sample.uv.astype(int).T
    off = flies(said, u, v, room.z)
    far = maximum_filter(np.where(np.isfinite(room.z), room.z, 0), 2 * BAND + 1)[v, u]
    between = off & (said > minimum_filter(room.z, 2 * BAND + 1)[v, u]) & (said < far)
    edge, away, plane = (np.isfinite(said) & (kind == which) for which in (EDGE, AWAY, PLANE))
    counts = {
        "edge": edge.sum(), "edge_flies": (off & edge).sum(), "edge_between": (between & edge).sum(),
        "away": away.sum(), "away_flies": (off & away).sum(), "planes": 0, "rough": 0.0, "turned": 0.0,
    }  # fmt: skip
    if plane.sum() >= 8:
        true_normal, _, _ = fit_plane(room.camera.unproject(sample.uv[plane], sample.z[plane]))
        normal, rough, away_m = fit_plane(room.camera.unproject(sample.uv[plane], said[plane]))
        turned = np.degrees(np.arccos(np.clip(abs(normal @ true_normal), 0, 1)))
        counts |= {"planes": 1, "rough": rough / away_m, "turned": float(turned)}
    return {name: float(value) for name, value in counts.items()}


def say(reference: str) -> Any:
    """Progress, every few thousand points."""

    def told(done: int, total: int) -> None:
        if done * 8 // total != said[0]:
            said[0] = done * 8 // total
            common.progress(f"{reference}: {done} of {total}")

    said = [0]
    return told


def _ratio(over: str, under: str) -> Any:
    return lambda s: s[over] / s[under]


if __name__ == "__main__":
    sys.exit(main())
