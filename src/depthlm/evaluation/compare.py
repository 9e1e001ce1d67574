"""Paired tests of evaluation runs: the same points, the same images drawn for both."""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation.resample import RESAMPLES, ImageSums, figures, holm, paired
from depthlm.evaluation.runs import METRIC_TASKS, Run, to_points
from depthlm.evaluation.scalars import FORMULAS, columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from depthlm.evaluation.resample import Formula

COMPARED = ("delta1", "delta2", "delta3", "absrel", "rmse", "silog", "scale", "slope")
_SAME_PLACE = 0.01  # pixels


def compare_runs(runs: Sequence[Run], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Figures of each run and, for every pair, second minus first with interval and p-value.

    Returns {task, n, images, notes, runs [{name, folder, label, figures}], pairs [{first, second, differences
    {metric: {value, ci, p, p_holm}}}]}; p_holm is adjusted over the pairs.
    Raises InputError for fewer than two runs, and for runs of other points, tasks or kinds of label.
    """
    if len(runs) < 2:
        raise InputError(f"compare takes at least two evaluation folders; {len(runs)} given")
    names = _names(runs)
    _check(runs)
    task = runs[0].summary["task"]
    notes: list[str] = []
    if task in METRIC_TASKS:
        formulas: dict[str, Formula] = {name: FORMULAS[name] for name in COMPARED}
        sums, size, notes = _metric_sums(runs, task)
    else:
        formulas = {"score": lambda s: s["score"] / s["n"]}
        sums, size = _score_sums(runs), len(runs[0].table)
    draw: dict[str, Any] = {"seed": seed, "resamples": resamples}
    pairs: list[dict[str, Any]] = [
        {"first": a, "second": b, "differences": {k: v[0] for k, v in paired(x, y, formulas, **draw).items()}}
        for (a, x), (b, y) in combinations(zip(names, sums, strict=True), 2)
    ]
    for name in formulas:
        cells = [pair["differences"][name] for pair in pairs]
        known = [cell for cell in cells if cell["p"] is not None]
        for cell in cells:
            cell["p_holm"] = None
        for cell, p in zip(known, holm([cell["p"] for cell in known]), strict=True):
            cell["p_holm"] = p
    return {
        "task": task,
        "label": runs[0].summary["label"],
        "data": runs[0].summary["data"],
        "n": size,
        "images": sums[0].images,
        "notes": notes,
        "runs": [
            {"name": name, "folder": str(run.folder)} | _asked(run)
            | {"figures": {k: v[0] for k, v in figures(s, formulas, **draw).items()}}
            for name, run, s in zip(names, runs, sums, strict=True)
        ],
        "pairs": pairs,
    }  # fmt: skip


def format_comparison(result: dict[str, Any]) -> str:
    """The comparison as text: a table of the runs, then a line for each pair and metric."""
    metrics = list(result["runs"][0]["figures"])
    width = max(len(run["name"]) for run in result["runs"])
    lines = [f"{result['n']} points on {result['images']} images, task {result['task']}, labels {result['label']}"]
    lines += [f"note: {note}" for note in result["notes"]]
    lines.append(f"  {'':<{width}} " + " ".join(f"{name:>9}" for name in metrics))
    for run in result["runs"]:
        cells = [_number(run["figures"][name]["value"]) for name in metrics]
        lines.append(f"  {run['name']:<{width}} " + " ".join(f"{cell:>9}" for cell in cells))
    for pair in result["pairs"]:
        lines.append(f"{pair['second']} minus {pair['first']}")
        for name in metrics:
            cell = pair["differences"][name]
            low, high = cell["ci"]
            ends = "one image, no interval" if low is None else f"95 % {low:+.3f} to {high:+.3f}"
            p = "-" if cell["p"] is None else f"{cell['p']:.4f}"
            adjusted = "" if len(result["pairs"]) == 1 or cell["p_holm"] is None else f", Holm {cell['p_holm']:.4f}"
            value = "-" if cell["value"] is None else f"{cell['value']:+.3f}"
            lines.append(f"  {name:<9} {value:>7}  ({ends}, p {p}{adjusted})")
    return "\n".join(lines)


def _check(runs: Sequence[Run]) -> None:
    """Refuse runs that do not measure the same thing on the same points."""
    first = runs[0]
    for other in runs[1:]:
        for key, what in (("task", "tasks"), ("label", "kinds of label"), ("suite", "suites")):
            a, b = first.summary.get(key), other.summary.get(key)
            if a != b:
                raise InputError(
                    f"{first.folder} and {other.folder} have different {what} ({a} and {b}); evaluate both alike"
                )
        if len(first.table) != len(other.table):
            raise InputError(
                f"{first.folder} and {other.folder} asked about different points ({len(first.table)} and "
                f"{len(other.table)}); evaluate both on the same data with the same --points and --seed"
            )
        place = _difference(first.table, other.table)
        if place is not None:
            a, b = (
                f"image {row['image']} {row.get('frame') or ''} ({row['u']}, {row['v']}) truth {row['truth']}"
                for row in (first.table[place], other.table[place])
            )
            raise InputError(
                f"{first.folder} and {other.folder} asked about different points (row {place}: {a} and {b}); evaluate "
                "both on the same data with the same --points and --seed"
            )


def _difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> int | None:
    """The first row that is not about the same point with the same truth, or None. Rows stand in the order asked."""
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        same = x["image"] == y["image"] and x.get("frame") == y.get("frame") and _alike(x["truth"], y["truth"])
        if not same or any(
            (x[key] is None) != (y[key] is None) or (x[key] is not None and abs(x[key] - y[key]) > _SAME_PLACE)
            for key in ("u", "v")
        ):
            return number
    return None


def _alike(a: str | None, b: str | None) -> bool:
    """Whether two truths (JSON) are the same, numbers to 1e-5: they may have come through another view's camera."""
    if a == b or a is None or b is None:
        return a == b
    x, y = json.loads(a), json.loads(b)
    is_number = isinstance(x, float | int) and isinstance(y, float | int)
    return math.isclose(x, y, rel_tol=1e-5) if is_number else x == y


def _metric_sums(runs: Sequence[Run], task: str) -> tuple[list[ImageSums], int, list[str]]:
    made = [to_points(run.table, task) for run in runs]
    notes = list(dict.fromkeys(note for _, lines in made for note in lines))
    points = [p for p, _ in made if p is not None]
    if len(points) < len(runs):
        raise InputError(f"{runs[0].folder}: no point has a usable {task}; nothing to compare")
    image, images = _images(points[0].image)
    return [ImageSums.of(columns(p.predicted, p.truth), image, images) for p in points], len(points[0]), notes


def _score_sums(runs: Sequence[Run]) -> list[ImageSums]:
    image, images = _images(np.array([row["image"] for row in runs[0].table], dtype=np.int64))
    return [
        ImageSums.of(
            [("n", np.ones(len(run.table))), ("score", np.array([float(row["score"]) for row in run.table]))],
            image, images,
        )
        for run in runs
    ]  # fmt: skip


def _images(image: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    ids, place = np.unique(image, return_inverse=True)
    return place, len(ids)


def _names(runs: Sequence[Run]) -> list[str]:
    """A name for each run; the folder is added where two would be called the same."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} in {run.folder}" for name, run in zip(names, runs, strict=True)
    ]


def _asked(run: Run) -> dict[str, Any]:
    return {key: run.summary.get(key) for key in ("model", "reference", "read", "answers", "n_unparsed", "n_skipped")}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
