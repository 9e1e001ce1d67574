"""Several runs on one page: their figures side by side, paired differences, the same pictures as each maps them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.claim import write_text
from depthlm.errors import InputError
from depthlm.evaluation import plots
from depthlm.evaluation.cases import case_parts, choose_cases, choose_disagreements
from depthlm.evaluation.compare import SHOWN, compare_runs, run_names
from depthlm.evaluation.compare_tables import dense_section, pairs_table
from depthlm.evaluation.document import Gallery, Picture, Section, Table, to_html, to_markdown
from depthlm.evaluation.page import REPORT_HTML, REPORT_MARKDOWN, what_was_run
from depthlm.evaluation.record import open_samples
from depthlm.evaluation.runs import CONFIG, METRIC_TASKS, POINTS, SUMMARY, find_runs, read_run, to_points
from depthlm.evaluation.words import DASH, cell, counted, ends, share, value, version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthlm.evaluation.maps import DenseCase
    from depthlm.evaluation.runs import Run
    from depthlm.sample import Samples

_CASES = 3  # worst and best answers of each model
_TOLD = ("delta1", "absrel", "silog", "scale")  # of paired differences
# Figures that compare_runs adds to the scalar ones: title, which way is better.
_SHAPE = {
    "delta1_interior": ("delta1 away from edges", "higher"),
    "delta1_boundary": ("delta1 at edges", "higher"),
    "order_10_25": ("wrong order, 10\N{EN DASH}25 % apart", "lower"),
    "order_25_50": ("wrong order, 25\N{EN DASH}50 %", "lower"),
    "order_50": ("wrong order, 50 % and more", "lower"),
}
_SHAPE_TOLD = {  # of paired differences, in short
    "delta1_interior": "interior",
    "delta1_boundary": "edges",
    "order_10_25": "order, 10\N{EN DASH}25 %",
    "order_50": "order, 50 %",
}
# Figures of a run's summary: part, name, title, which way is better.
_HABITS = (
    ("reuse", "distinct_per_100", "different numbers among 100", "higher"),
    ("reuse", "top_digit_share", "share of the commonest last digit", "near 0.1"),
    ("calibration", "coverage", "truths in the 80 % interval", "near 0.8"),
    ("calibration", "sharpness", "its width over the answer", "lower"),
    ("calibration", "ause", "AUSE", "lower"),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of several models, set by set, in the models' order. maps: those of each model; empty where it has none."""

    sets: list[list[Run]]
    results: list[dict[str, Any]]
    maps: list[list[DenseCase]]

    def to_dict(self) -> dict[str, Any]:
        """As `compare --json` prints it: of several sets {sets: [...]}, of one its own result."""
        return self.results[0] if len(self.results) == 1 else {"sets": self.results}


def compare_folders(folders: Sequence[Path], *, seed: int = 0) -> Comparison:
    """Compare what `eval --out` wrote: each folder one run, or one for each of the same sets.

    Raises InputError for folders of other sets, and as `compare_runs`.
    """
    from depthlm.evaluation.dense import read_cases

    if len(folders) < 2:
        raise InputError(f"compare takes at least two evaluation folders; {len(folders)} given")
    found = [_runs_of(folder) for folder in folders]
    for folder, runs in zip(folders, found, strict=True):
        if list(runs) != list(found[0]):
            raise InputError(
                f"{folders[0]} and {folder} hold runs of different sets ({_sets(found[0])} and {_sets(runs)}); "
                "evaluate both on the same data"
            )
    sets = [[read_run(runs[name]) for runs in found] for name in found[0]]
    results = [compare_runs(runs, seed=seed) for runs in sets]
    return Comparison(sets=sets, results=results, maps=[read_cases(Path(folder)) for folder in folders])


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """report.html, report.md and summary.json. Raises InputError when the folder cannot be written."""
    names = run_names(comparison.sets[0])
    result = comparison.to_dict()
    sections: list[Section] = []
    alone = len(comparison.sets) == 1
    for runs, found in zip(comparison.sets, comparison.results, strict=True):
        sections += _set_sections(runs, found, alone=alone)
    dense, found_maps = dense_section(names, comparison.maps)
    sections += dense
    result |= found_maps
    sections.append(what_was_run([run for runs in comparison.sets for run in runs]))
    lead = (
        f"{len(names)} models on the same points of {len(comparison.sets)} data "
        f"set{'' if alone else 's'}: {', '.join(names)}."
    )
    stamp = f"depthlm {version('depthlm')}, written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    content = ("Models compared", lead, sections, stamp)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / REPORT_HTML, to_html(*content))
        write_text(folder / REPORT_MARKDOWN, to_markdown(*content))
        write_text(folder / SUMMARY, json.dumps(result, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {error.filename or folder} ({error.strerror or error})") from error


def _sets(runs: dict[str, Path]) -> str:
    return ", ".join(runs) if "" not in runs else "one run"


def _runs_of(folder: Path) -> dict[str, Path]:
    """Runs by the set's folder below `folder`; "" for a folder that is itself a run."""
    if any((folder / name).is_file() for name in (CONFIG, POINTS)):
        return {"": folder}
    return {path.relative_to(folder).as_posix(): path for path in find_runs(folder)}


# --- one set ----------------------------------------------------------------------------------------------------------


def _set_sections(runs: list[Run], found: dict[str, Any], *, alone: bool) -> list[Section]:
    level = 1 if alone else 2
    title = f"{Path(str(found['data'])).name}: {found['n']:,} points on {counted(found['images'])}, {found['task']}"
    given = {run.summary.get("given") or "not recorded" for run in runs}
    same = [f"All were given {next(iter(given))}."] if len(given) == 1 else []  # else the notes say it
    parts: list[Any] = [_figures(runs, found), *found["notes"], *same]
    sections = [Section(title, parts), Section("Paired differences", _pair_tables(found), level)]
    if found["task"] not in METRIC_TASKS:
        return sections
    plotted = []
    for run, row in zip(runs, found["runs"], strict=True):
        points, _ = to_points(run.table, found["task"])
        if points is not None and (np.isfinite(points.predicted) & (points.predicted > 0)).any():
            plotted.append(Picture(plots.scatter(points), row["name"], f"answers of {row['name']} over truths"))
    sections.append(Section("Answers over truths", [Gallery(plotted, 3)], level))
    sections.append(Section("By true depth", [_ranges(runs, found)], level))
    sections.append(Section("Edges, order, habits, confidence", [_habits(runs, found)], level))
    return sections + _case_sections(runs, found, level)


def _case_sections(runs: list[Run], found: dict[str, Any], level: int) -> list[Section]:
    """Where the models disagree most, then the worst and the best answers of each, with their pictures."""
    names, task = [row["name"] for row in found["runs"]], found["task"]
    samples, missing = _pictures(runs)
    apart = choose_disagreements([run.table for run in runs], names, task)
    sections = []
    if apart:
        told = "The smallest and the largest answer stand on the picture, all of them beneath it."
        sections.append(Section("Where they disagree most", [told, *case_parts(apart, samples, missing)], level))
    for run, name in zip(runs, names, strict=True):
        worst, best = choose_cases(run.table, task, _CASES)
        for title, cases in (("worst", worst), ("best", best)):
            if cases:
                sections.append(Section(f"{name}: {title} answers", case_parts(cases, samples, missing), level + 1))
    return sections


def _pictures(runs: list[Run]) -> tuple[Samples | None, str]:
    """The data of the first run that still lies where it was; all were asked about the same points."""
    reasons = []
    for run in runs:
        samples, reason = open_samples(run.folder)
        if samples is not None:
            return samples, ""
        reasons.append(reason)
    return None, reasons[0]


def _figures(runs: list[Run], found: dict[str, Any]) -> Table:
    known = found["runs"][0]["figures"]
    first, *others = [name for name in known if name in SHOWN] or list(known)
    rows, bars = [], []
    for run, row in zip(runs, found["runs"], strict=True):
        one = row["figures"]
        rows.append([
            row["name"], value(one[first]), ends(one[first]["ci"]), *(value(one[name]) for name in others),
            share(run.summary["n_unparsed"], run.summary["n"]),
        ])  # fmt: skip
        bars.append(None if one[first]["value"] is None else (one[first]["value"], *one[first]["ci"]))
    floor = runs[0].summary.get("floor_score")
    note = "Intervals are bootstraps over pictures." + (
        "" if floor is None else f" The best constant answer scores {floor:.3f} on these points."
    )
    return Table(["model", first, "95 % interval", *others, "no answer"], rows, note, bars)


def _pair_tables(found: dict[str, Any]) -> list[Any]:
    """Accuracy, then edges and order."""
    tables = [pairs_table(found["pairs"], {name: name for name in (*_TOLD, "score")})]
    if found["task"] in METRIC_TASKS:
        tables.append(pairs_table(found["pairs"], _SHAPE_TOLD))
    return tables


def _habits(runs: list[Run], found: dict[str, Any]) -> Table:
    """At edges, order, re-use of answers and confidence, a column for each model."""
    made = [run.summary["metrics"] or {} for run in runs]
    rows = [
        [title, *(cell(row["figures"][name]) for row in found["runs"]), better]
        for name, (title, better) in _SHAPE.items()
        if name in found["runs"][0]["figures"]
    ]
    for part, name, title, better in _HABITS:
        cells = [(one.get(part) or {}).get(name) for one in made]
        if any(one is not None and one["value"] is not None for one in cells):
            rows.append([title, *(DASH if one is None else cell(one) for one in cells), better])
    return Table(["figure", *(row["name"] for row in found["runs"]), "better"], rows)


def _ranges(runs: list[Run], found: dict[str, Any]) -> Table:
    """delta1 of each model in each range of true depth."""
    made = [(run.summary["metrics"] or {}).get("by_range", []) for run in runs]
    heads = list(dict.fromkeys(plots.range_name(row) for rows in made for row in rows))
    body = []
    for rows, row in zip(made, found["runs"], strict=True):
        known = {plots.range_name(one): value(one["delta1"]) for one in rows}
        body.append([row["name"], *(known.get(head, DASH) for head in heads)])
    return Table(["delta1 at", *heads], body)
