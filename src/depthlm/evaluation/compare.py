"""Paired tests of evaluation runs: the same points, the same images drawn for both."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation.maps import figure_sums
from depthlm.evaluation.ordering import order_error, order_sums
from depthlm.evaluation.resample import RESAMPLES, ImageSums, figures, holm, paired
from depthlm.evaluation.runs import METRIC_TASKS, Run, to_points
from depthlm.evaluation.scalars import FORMULAS, columns
from depthlm.evaluation.words import figure_cell, unit_note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from depthlm.evaluation.resample import Formula

SHOWN = ("delta1", "delta2", "delta3", "absrel", "rmse", "silog", "scale", "slope")  # in tables of runs
_PLACES = ("delta1_interior", "delta1_boundary")
_ORDER = ("order_10_25", "order_25_50", "order_50")  # share of pairs in the wrong order, of ordering.BANDS
_SAME_PLACE = 0.01  # pixels


def compare_runs(runs: Sequence[Run], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Figures of each run and, for every pair, second minus first with interval and p-value.

    Returns {task, n, images, notes, runs [{name, folder, label, figures}], pairs [{first, second, differences
    {metric: {value, ci, p, p_holm}}}]}; p_holm is adjusted over the pairs.
    Raises InputError for fewer than two runs, and for runs of other points, tasks or kinds of label.
    """
    if len(runs) < 2:
        raise InputError(f"compare takes at least two evaluation folders; {len(runs)} given")
    names = run_names(runs)
    _check(runs)
    task = runs[0].summary["task"]
    notes = _given(runs)
    notes += [f"{name}: {note}" for name, run in zip(names, runs, strict=True) if (note := unit_note(run.summary))]
    if task in METRIC_TASKS:
        families, size, left_out = _metric_families(runs, task, seed)
        notes += left_out
    else:
        families = [_Family(["score"], lambda s: s["score"] / s["n"], _score_sums(runs))]
        size = len(runs[0].table)
    draw: dict[str, Any] = {"seed": seed, "resamples": resamples}
    return {
        "task": task,
        "label": runs[0].summary["label"],
        "data": runs[0].summary["data"],
        "n": size,
        "images": families[0].sums[0].images,
        "notes": notes,
        "runs": [
            {"name": name, "folder": str(run.folder)} | _asked(run)
            | {"figures": {k: v for one in families for k, v in one.figures(number, **draw).items()}}
            for number, (name, run) in enumerate(zip(names, runs, strict=True))
        ],
        "pairs": compare_pairs(names, families, **draw),
    }  # fmt: skip


@dataclass(frozen=True)
class _Family:
    """Figures that are functions of the same sums: of one group each by its own formula, or one formula by group.

    names: of the figures. formula: by name, or the one of all groups. sums: of each run.
    """

    names: Sequence[str]
    formula: Mapping[str, Formula] | Formula
    sums: Sequence[ImageSums]

    def figures(self, run: int, **draw: Any) -> dict[str, Any]:
        """By name {value, ci} of one run."""
        return self._named(figures(self.sums[run], self._formulas(), **draw))

    def differences(self, first: int, second: int, **draw: Any) -> dict[str, Any]:
        """By name {value, ci, p} of two runs."""
        return self._named(paired(self.sums[first], self.sums[second], self._formulas(), **draw))

    def _formulas(self) -> Mapping[str, Formula]:
        return {"": self.formula} if callable(self.formula) else self.formula

    def _named(self, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        cells = [cell for one in found.values() for cell in one]
        return dict(zip(self.names, cells, strict=True))


def compare_pairs(names: Sequence[str], families: Sequence[_Family], **draw: Any) -> list[dict[str, Any]]:
    """For every pair of runs {first, second, differences {figure: {value, ci, p, p_holm}}}."""
    pairs: list[dict[str, Any]] = [
        {
            "first": names[a],
            "second": names[b],
            "differences": {k: v for one in families for k, v in one.differences(a, b, **draw).items()},
        }
        for a, b in combinations(range(len(names)), 2)
    ]
    for name in [name for one in families for name in one.names]:
        cells = [pair["differences"][name] for pair in pairs]
        known = [cell for cell in cells if cell["p"] is not None]
        for cell in cells:
            cell["p_holm"] = None
        for cell, p in zip(known, holm([cell["p"] for cell in known]), strict=True):
            cell["p_holm"] = p
    return pairs


def compare_maps(measured: Mapping[str, Mapping[str, Any]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Paired differences of `measure_maps` of the same pictures by several models, as `compare_runs` has them."""
    sums = [figure_sums(found["cases"]) for found in measured.values()]
    family = _Family(list(sums[0][1]), sums[0][1], [one for one, _ in sums])
    return compare_pairs(list(measured), [family], seed=seed)


def format_comparison(result: dict[str, Any]) -> str:
    """The comparison as text: a table of the runs, then a line for each pair and metric."""
    found = list(result["runs"][0]["figures"])
    metrics = [name for name in found if name in SHOWN] or found
    width = max(len(run["name"]) for run in result["runs"])
    lines = [f"{result['n']} points on {result['images']} images, task {result['task']}, labels {result['label']}"]
    lines += [f"note: {note}" for note in result["notes"]]
    lines.append(f"  {'':<{width}} " + " ".join(f"{name:>9}" for name in metrics))
    for run in result["runs"]:
        cells = [figure_cell(run["figures"][name]["value"]) for name in metrics]
        lines.append(f"  {run['name']:<{width}} " + " ".join(f"{cell:>9}" for cell in cells))
    for pair in result["pairs"]:
        lines.append(f"{pair['second']} minus {pair['first']}")
        for name in found:
            cell = pair["differences"][name]
            low, high = cell["ci"]
            ends = "one image, no interval" if low is None else f"95 % {low:+.3f} to {high:+.3f}"
            p = "-" if cell["p"] is None else f"{cell['p']:.4f}"
            adjusted = "" if len(result["pairs"]) == 1 or cell["p_holm"] is None else f", Holm {cell['p_holm']:.4f}"
            value = "-" if cell["value"] is None else f"{cell['value']:+.3f}"
            lines.append(f"  {name:<15} {value:>7}  ({ends}, p {p}{adjusted})")
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


def _metric_families(runs: Sequence[Run], task: str, seed: int) -> tuple[list[_Family], int, list[str]]:
    """Every scalar metric, delta1 at edges and away from them where the data say which, and order."""
    made = [to_points(run.table, task) for run in runs]
    notes = list(dict.fromkeys(note for _, lines in made for note in lines))
    points = [p for p, _ in made if p is not None]
    if len(points) < len(runs):
        raise InputError(f"{runs[0].folder}: no point has a usable {task}; nothing to compare")
    image, images = _images(points[0].image)
    scalars = [ImageSums.of(columns(p.predicted, p.truth), image, images) for p in points]
    families = [_Family(list(FORMULAS), FORMULAS, scalars)]
    edges = [None if p.near_edge is None else p.near_edge.astype(np.int64) for p in points]
    if all(edge is not None for edge in edges):
        by_edge = [
            ImageSums.of(columns(p.predicted, p.truth), image, images, edge, 2)
            for p, edge in zip(points, edges, strict=True)
        ]
        families.append(_Family(_PLACES, FORMULAS["delta1"], by_edge))
    order = [order_sums(p.predicted, p.truth, image, images, seed=seed) for p in points]
    return [*families, _Family(_ORDER, order_error, order)], len(points[0]), notes


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


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run; the folder is added where two would be called the same."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} in {run.folder}" for name, run in zip(names, runs, strict=True)
    ]


_ASKED = ("model", "reference", "read", "answers", "given", "n_unparsed", "n_failed", "n_skipped")


def _asked(run: Run) -> dict[str, Any]:
    return {key: run.summary.get(key) for key in _ASKED}


def _given(runs: Sequence[Run]) -> list[str]:
    """A line for each run where they did not know the same of a picture: that is not one protocol."""
    told = [run.summary.get("given") or "not recorded" for run in runs]
    if len(set(told)) == 1:
        return []
    return [f"{name} was given {what}" for name, what in zip(run_names(runs), told, strict=True)]
