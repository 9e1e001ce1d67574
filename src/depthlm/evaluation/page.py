"""A report of evaluation runs: report.html, report.md and summary.json in one folder."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation import plots
from depthlm.evaluation.cases import choose_cases, with_picture
from depthlm.evaluation.document import Gallery, Picture, Section, Table, to_html, to_markdown
from depthlm.evaluation.maps import MAP_FIGURES, DenseCase, measure_maps
from depthlm.evaluation.runs import METRIC_TASKS, SUMMARY, Run, measure_run, to_points
from depthlm.evaluation.scalars import GROUP_METRICS, SCALARS
from depthlm.evaluation.views import map_views
from depthlm.pictures import data_uri, metres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthlm.sample import Samples

REPORT_HTML, REPORT_MARKDOWN = "report.html", "report.md"
DASH = "\N{EN DASH}"
_MAPS_SHOWN = 3
# Sets that the released checkpoints were trained on, by the prompt that only they use (paper.md 1.6, vlm3.md 1.6).
_DEPTHLM_SETS = frozenset({"argoverse2", "waymo", "nuscenes", "scannetpp", "taskonomy", "hm3d", "matterport3d"})
TRAINED_ON = {"depthlm-official": _DEPTHLM_SETS, "vlm3-depth": _DEPTHLM_SETS}
_PACKAGES = ("depthlm", "torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run with what a report can show of it. samples: the data asked about. maps: pictures with dense truth."""

    run: Run
    samples: Samples | None = None
    maps: Sequence[DenseCase] = ()


def write_report(
    folder: Path | str, entries: Sequence[Entry], *, seconds: float | None = None, cost: str | None = None
) -> dict[str, Any]:
    """Write the report of one or several runs and return what summary.json holds.

    summary.json: the run's own summary, or {runs [...], means} for several; dense figures as "maps". A run whose
    pictures or maps cannot be had is reported without them, with the reason.
    seconds: wall time of the command. cost: in words, where it is known.
    Raises InputError for no run, and when the folder cannot be written.
    """
    if not entries:
        raise InputError("no run to report; name the --out of a `depthlm eval`")
    summaries, sections = [], []
    for entry in entries:
        summary = dict(entry.run.summary)
        if summary.get("metrics") is None:  # of a run that was written before reports were
            summary["metrics"] = measure_run(entry.run.table, summary["task"], seed=summary.get("seed", 0))
        dense = _dense(entry, summary.get("seed", 0))
        if dense is not None:
            summary["maps"] = dense
        summaries.append(summary)
        sections += _run_sections(entry, summary, alone=len(entries) == 1)
    means = _means(entries, summaries)
    head = [_overview(entries, summaries, means)]
    tail = [_what_was_run(entries, seconds, cost), _definitions()]
    models = list(dict.fromkeys(str(summary["model"]) for summary in summaries))
    title = f"Evaluation of {', '.join(models[:3])}{' ...' if len(models) > 3 else ''}"
    stamp = f"depthlm {_version('depthlm')}, written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    content = (title, _lead(summaries, means), [*head, *sections, *tail], stamp)
    result = summaries[0] if len(summaries) == 1 else {"runs": summaries, "means": means}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / REPORT_HTML, to_html(*content))
        _write(folder / REPORT_MARKDOWN, to_markdown(*content))
        _write(folder / SUMMARY, json.dumps(result, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {error.filename or folder} ({error.strerror or error})") from error
    return result


# --- what it adds up to ---------------------------------------------------------------------------------------------


def _lead(summaries: list[dict[str, Any]], means: dict[str, Any]) -> str:
    if len(summaries) > 1:
        told = [f"{name} {mean['score']:.3f} ({len(mean['sets'])} runs)" for name, mean in means.items()]
        return f"{len(summaries)} runs. Mean score: {'; '.join(told)}."
    one = summaries[0]
    low, high = one["score_ci"]
    ends = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f} over {one['images']} pictures)"
    return (
        f"{one['metric']} {one['score']:.3f}{ends} on {one['n']:,} questions about {one['data'] or 'the data'}; "
        f"the best constant answer scores {one['floor_score']:.3f} on the same ones."
    )


def _means(entries: Sequence[Entry], summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Unweighted means over runs of one metric: all, and apart for sets the model was trained on and others."""
    metrics = {summary["metric"] for summary in summaries}
    if len(metrics) != 1:
        return {}
    groups: dict[str, list[dict[str, Any]]] = {"all": summaries}
    for entry, summary in zip(entries, summaries, strict=True):
        if (kind := _domain(entry.run)) is not None:
            groups.setdefault(kind, []).append(summary)
    return {
        name: {"score": float(np.mean([s["score"] for s in group])), "sets": [s["data"] for s in group]}
        for name, group in groups.items()
    }


def _domain(run: Run) -> str | None:
    """in-domain, zero-shot, or None where it is not known what the model was trained on."""
    trained = TRAINED_ON.get(run.config.get("card", {}).get("prompt", ""))
    if trained is None:
        return None
    return "in-domain" if str(run.summary["data"]).rsplit("/", 1)[-1] in trained else "zero-shot"


def _overview(entries: Sequence[Entry], summaries: list[dict[str, Any]], means: dict[str, Any]) -> Section:
    head = ["run", "score", "95 % interval", "constant", "AbsRel", "RMSE", "SILog", "slope", "questions", "no answer"]
    rows: list[list[str]] = []
    bars: list[tuple[float, float | None, float | None] | None] = []
    for entry, one in zip(entries, summaries, strict=True):
        scalars = (one["metrics"] or {}).get("scalars", {}).get(one["task"], {})
        cells = [
            _value(scalars.get(name), 1 if name == "silog" else 3) for name in ("absrel", "rmse", "silog", "slope")
        ]
        kind = _domain(entry.run)
        name = f"{one['data']}{f' ({kind})' if kind else ''}: {one['model']}, {one['reference']}, {one['task']}"
        rows.append([
            name, f"{one['metric']} {one['score']:.3f}", _ends(one["score_ci"]), f"{one['floor_score']:.3f}", *cells,
            f"{one['n']:,}", _share(one["n_unparsed"], one["n"]),
        ])  # fmt: skip
        bars.append((one["score"], *one["score_ci"]))
    strong = frozenset(range(len(rows), len(rows) + (len(means) if len(entries) > 1 else 0)))
    if len(entries) > 1:
        for name, mean in means.items():
            rows.append([f"mean, {name} ({len(mean['sets'])})", f"{mean['score']:.3f}", *[""] * 8])
            bars.append((mean["score"], None, None))
    note = (
        "Intervals are bootstraps over pictures, as points of one picture share their errors. The constant is the one "
        "answer that scores best on these very points. An answer without a number counts as wrong."
    )
    return Section("Result", [Table(head, rows, note, bars, strong)])


# --- one run --------------------------------------------------------------------------------------------------------


def _run_sections(entry: Entry, summary: dict[str, Any], *, alone: bool) -> list[Section]:
    """The sections of one run; under its own heading when it is not alone."""
    level = 1 if alone else 2
    heading = [] if alone else [Section(f"{summary['data']}: {summary['model']}, {summary['reference']}")]
    found = summary["metrics"]
    sections = []
    if found is not None:
        points, _ = to_points(entry.run.table, summary["task"])
        assert points is not None, "a measured run has points"
        sections = [
            _accuracy(summary, found, level),
            _shape(points, found, level),
            _habits(found, level),
        ]
    if summary.get("maps"):
        sections.append(_maps(entry, summary["maps"], level))
    sections += _case_sections(entry, summary["task"], level)
    return [*heading, *(section for section in sections if section.parts)]


def _accuracy(summary: dict[str, Any], found: dict[str, Any], level: int) -> Section:
    quantities = list(found["scalars"])
    head = ["metric", *(f"{quantity}, 95 % interval" for quantity in quantities), "better"]
    rows = [
        [m.title + (f", {m.unit}" if m.unit else ""), *(_cell(found["scalars"][q][m.name]) for q in quantities),
         {"one": "near 1"}.get(m.better, m.better)]
        for m in SCALARS
    ]  # fmt: skip
    counts = (
        f"{found['n']:,} points on {found['images']} pictures; {found['n_unparsed']} without a number, "
        f"{found['n_out_of_range']} with one that is no possible length, {summary['n_skipped']} bad rows skipped."
    )
    parts: list[str | Table | Gallery] = [*found.get("left_out", ()), Table(head, rows, counts)]
    if readings := found["readings"]:
        told = " and ".join(f"{_cell(readings[q])} if read as {q}" for q in readings)
        parts.append(
            f"The same answers score delta1 {told}. This run scores {summary['task']}; its answers were taken to mean "
            f"{summary['answers'] or summary['asked']}."
        )
    return Section("Accuracy", parts, level)


def _shape(points: Any, found: dict[str, Any], level: int) -> Section:
    """Where the errors are: by depth, by surface, at edges."""
    pictures = [
        Picture(plots.scatter(points), "Answers over truths; the band is delta1.", "scatter of answers over truths"),
        Picture(plots.by_range(found["by_range"]), "delta1 and AbsRel by true depth.", "errors by range"),
    ]
    for rows, name, caption in (
        (found["by_surface"], lambda row: row["surface"], "delta1 by what the point shows."),
        (found["by_edge"], lambda row: row["place"], "delta1 within 3 px of a depth edge, and elsewhere."),
        (found["by_incidence"], _angle, "delta1 by how the surface is turned from the line of sight."),
    ):
        if rows:
            pictures.append(Picture(plots.bars(rows, name, "delta1", "delta1"), caption, caption))
    head = ["depth", "points", "pictures", "delta1", "AbsRel", "scale"]
    rows = [
        [plots.range_name(row), f"{row['n']:,}", str(row["images"]), *(_cell(row[k]) for k in GROUP_METRICS)]
        for row in found["by_range"]
    ]
    return Section("Where the errors are", [Gallery(pictures), Table(head, rows)], level)


def _habits(found: dict[str, Any], level: int) -> Section:
    """Order, re-use of answers, calibration."""
    order = [[_band(row), f"{row['n']:,}", _cell(row["error"])] for row in found["order"]]
    note = "Pairs of points of one picture; a constant answer scores 0.5."
    parts: list[str | Table | Gallery] = [Table(["depths differ by", "pairs", "put in the wrong order"], order, note)]
    reuse, belief = found["reuse"], found["calibration"]
    if reuse["top_digit"] is not None:
        parts.append(
            f"Of 100 answers {_cell(reuse['distinct_per_100'], 1)} are different numbers ({reuse['values']:,} in all "
            f"{reuse['n']:,}). The last digit is most often {reuse['top_digit']}: {_cell(reuse['top_digit_share'])} of "
            "answers, where 0.1 shows no preference."
        )
    pictures = [Picture(plots.digits(reuse), "Last digits of the answers.", "last digits")] if reuse["n"] else []
    if belief is not None:
        parts.append(
            f"{_cell(belief['coverage'])} of the truths lie in the model's 80 % interval, which promises "
            f"{belief['nominal']:.2f}; its width is {_cell(belief['sharpness'])} of the answer. AUSE "
            f"{_cell(belief['ause'])} (a random order: {_cell(belief['ause_random'])}; 0 is an order as good as "
            "knowing the errors)."
        )
        pictures += [
            Picture(plots.reliability(belief), "Reliability: promised and true shares.", "reliability diagram"),
            Picture(plots.sparsification(belief), "Error of what is left, most uncertain out first.", "sparsification"),
        ]
    return Section("Order, habits, confidence", [*parts, Gallery(pictures)], level)


def _case_sections(entry: Entry, task: str, level: int) -> list[Section]:
    """Worst and best answers; none for tasks whose answers are not depths of a point."""
    if task not in METRIC_TASKS:
        return []
    sections = []
    for title, cases in zip(("Worst answers", "Best answers"), choose_cases(entry.run.table, task), strict=True):
        shown, told, notes = [], [], set()
        for case in (with_picture(case, entry.samples) for case in cases):
            row = case.row
            words = (
                f"{row['frame'] or 'picture ' + str(row['image'])} at ({row['u']:.0f}, {row['v']:.0f}): true "
                f"{metres(case.truth)}, answer {metres(row['value'])} ({case.ratio:.2f} of it)"
            )
            told.append(words)
            if case.picture is None:
                notes.add(case.note)
            else:
                shown.append(Picture(data_uri(case.picture), words, words))
        if not cases:
            continue
        parts: list[str | Table | Gallery] = [Gallery(shown, 3)] if shown else list(told)
        sections.append(Section(title, [*parts, *sorted(notes)], level))
    return sections


# --- depth maps -----------------------------------------------------------------------------------------------------


def _dense(entry: Entry, seed: int) -> dict[str, Any] | None:
    """Figures of the entry's maps; {"error": why} where none can be measured, as the points still can."""
    if not entry.maps:
        return None
    try:
        return measure_maps(entry.maps, seed=seed)
    except InputError as error:
        return {"error": str(error)}


def _maps(entry: Entry, found: dict[str, Any], level: int) -> Section:
    if "error" in found:
        return Section("Depth maps", [f"The depth maps are not measured: {found['error']}"], level)
    rows = [
        [f"{title}{f', {unit}' if unit else ''}", _cell(found["figures"][name]), better]
        for name, (title, unit, better) in MAP_FIGURES.items()
    ]
    rows += [[f"delta1, {row['place']}", _cell(row["delta1"]), "higher"] for row in found["by_edge"]]
    rows += [[f"delta1, surface turned {_angle(row)}", _cell(row["delta1"]), "higher"] for row in found["by_incidence"]]
    parts: list[str | Table | Gallery] = [
        Table(["figure", "value, 95 % interval", "better"], rows, f"{found['images']} pictures with a dense truth."),
        *(f"Left out: {line}" for line in found["skipped"]),
    ]
    left_out = {line.split(":", 1)[0] for line in found["skipped"]}
    for case in [case for case in entry.maps if case.name not in left_out][:_MAPS_SHOWN]:
        parts.append(map_views(case))
    return Section("Depth maps", parts, level)


# --- what was run ---------------------------------------------------------------------------------------------------


def _what_was_run(entries: Sequence[Entry], seconds: float | None, cost: str | None) -> Section:
    rows: list[list[str]] = []
    facts = [_facts(entry.run) for entry in entries]
    for name in dict.fromkeys(key for one in facts for key in one):
        values = [one.get(name, "") for one in facts]
        rows.append([name, values[0] if len(set(values)) == 1 else "; ".join(dict.fromkeys(values))])
    versions = ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name)))
    rows.append(["versions", f"Python {platform.python_version()}, {versions}"])
    rows.append(
        ["time", "not known" if seconds is None else f"{seconds:.0f} s for this command on {os.cpu_count()} cores"]
    )
    rows.append(["cost", cost or "not known"])
    return Section("What was run", [Table(["", ""], rows)])


def _facts(run: Run) -> dict[str, str]:
    config, summary = run.config, run.summary
    card = config.get("card", {})
    given = {
        "model": summary["model"],
        "backend": ", ".join(f"{name} {value}" for name, value in config.get("backend", {}).items()) or None,
        "focal length of views, px": card.get("focal"),
        "focal length given": config.get("focal_given"),
        "prompt": card.get("prompt"),
        "question": next((row["question"] for row in run.table if row["question"]), None),
        "reference": summary["reference"],
        "read": summary.get("read"),
        "data": summary["data"],
        "samples (digest)": config.get("samples"),
        "task, asked as": f"{summary['task']}, {summary.get('asked')}",
        "answers mean": summary.get("answers"),
        "data labels": summary["label"],
        "points, seed": f"{summary['n']} of {summary.get('points')}, {summary.get('seed')}",
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def _definitions() -> Section:
    rows = [[m.title, m.definition, m.source] for m in SCALARS]
    return Section("What the numbers mean", [
        "p is the answer, g the truth, in metres. docs/metrics.md has all the others.",
        Table(["metric", "definition", "source"], rows),
    ])  # fmt: skip


# --- words ----------------------------------------------------------------------------------------------------------


def _cell(figure: dict[str, Any], decimals: int = 3) -> str:
    low, high = figure["ci"]
    value = _value(figure, decimals)
    return value if low is None or value == DASH else f"{value} ({low:.{decimals}f}{DASH}{high:.{decimals}f})"


def _value(figure: dict[str, Any] | None, decimals: int = 3) -> str:
    return DASH if figure is None or figure["value"] is None else f"{figure['value']:.{decimals}f}"


def _ends(ci: Sequence[float | None]) -> str:
    low, high = ci
    return "one picture" if low is None or high is None else f"{low:.3f}{DASH}{high:.3f}"


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.1f} %)" if count else "0"


def _angle(row: dict[str, Any]) -> str:
    return f"{row['from']:g}{DASH}{row['to']:g}\N{DEGREE SIGN}"


def _band(row: dict[str, Any]) -> str:
    """By how much the depths of a pair differ, in words."""
    low = f"{100 * row['from']:.0f}"
    return f"{low} % and more" if row["to"] is None else f"{low}{DASH}{100 * row['to']:.0f} %"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
