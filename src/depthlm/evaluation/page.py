"""A report of evaluation runs: report.html, report.md, summary.json and published.json in one folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.claim import write_text
from depthlm.errors import InputError
from depthlm.evaluation import beside, plots
from depthlm.evaluation.cases import case_parts, choose_cases
from depthlm.evaluation.document import Gallery, Picture, Section, Table, to_html, to_markdown
from depthlm.evaluation.domains import means_of
from depthlm.evaluation.maps import MAP_FIGURES, DenseCase, measure_maps
from depthlm.evaluation.record import told_cost, told_time, told_versions
from depthlm.evaluation.runs import METRIC_TASKS, SUMMARY, Run, measure_run, to_points
from depthlm.evaluation.scalars import GROUP_METRICS, SCALARS
from depthlm.evaluation.views import map_views
from depthlm.evaluation.words import (
    DASH,
    angle,
    band,
    cell,
    counted,
    ends,
    share,
    unit_note,
    value,
    version,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthlm.sample import Samples

REPORT_HTML, REPORT_MARKDOWN, PUBLISHED = "report.html", "report.md", "published.json"
_MAPS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run with what a report can show of it.

    samples: the data asked about. maps: pictures with dense truth; unmapped: a line for each that failed.
    """

    run: Run
    samples: Samples | None = None
    maps: Sequence[DenseCase] = ()
    unmapped: Sequence[str] = ()


def write_report(folder: Path | str, entries: Sequence[Entry]) -> dict[str, Any]:
    """Write the report of one or several runs and return what summary.json holds.

    summary.json: the run's own summary, or {runs [...], means} for several; dense figures as "maps". published.json:
    cells of papers about the same sets, where there are any (beside.to_dict). A run whose pictures or maps cannot be
    had is reported without them, with the reason.
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
    means = means_of(summaries)
    published = beside.sections(summaries)
    head = [_overview(summaries, means), *published[:1]]
    others = [Section("Published results of other protocols"), *published[1:]] if published[1:] else []
    tail = [*others, what_was_run([entry.run for entry in entries]), _definitions()]
    models = list(dict.fromkeys(str(summary["model"]) for summary in summaries))
    title = f"Evaluation of {', '.join(models[:3])}{' ...' if len(models) > 3 else ''}"
    stamp = f"depthlm {version('depthlm')}, written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    content = (title, _lead(summaries, means), [*head, *sections, *tail], stamp)
    result = summaries[0] if len(summaries) == 1 else {"runs": summaries, "means": means}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / REPORT_HTML, to_html(*content))
        write_text(folder / REPORT_MARKDOWN, to_markdown(*content))
        write_text(folder / SUMMARY, json.dumps(result, indent=2, allow_nan=False) + "\n")
        if any((cells := beside.to_dict(summaries)).values()):
            write_text(folder / PUBLISHED, json.dumps(cells, indent=1) + "\n")
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
        f"{one['metric']} {one['score']:.3f}{ends} on {one['n']:,} questions about {data_name(one['data'])}; "
        f"the best constant answer scores {one['floor_score']:.3f} on the same ones."
    )


def _overview(summaries: list[dict[str, Any]], means: dict[str, Any]) -> Section:
    head = ["run", "score", "95 % interval", "constant", "AbsRel", "RMSE", "SILog", "slope", "questions", "no answer"]
    rows: list[list[str]] = []
    bars: list[tuple[float, float | None, float | None] | None] = []
    for one in summaries:
        scalars = (one["metrics"] or {}).get("scalars", {}).get(one["task"], {})
        cells = [value(scalars.get(name), 1 if name == "silog" else 3) for name in ("absrel", "rmse", "silog", "slope")]
        kind = one.get("domain")
        name = (
            f"{data_name(one['data'])}{f' ({kind})' if kind else ''}: {one['model']}, {one['reference']}, {one['task']}"
        )
        rows.append([
            name, f"{one['metric']} {one['score']:.3f}", ends(one["score_ci"]), f"{one['floor_score']:.3f}", *cells,
            f"{one['n']:,}", share(one["n_unparsed"], one["n"]),
        ])  # fmt: skip
        bars.append((one["score"], *one["score_ci"]))
    strong = frozenset(range(len(rows), len(rows) + (len(means) if len(summaries) > 1 else 0)))
    if len(summaries) > 1:
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
    heading = [] if alone else [Section(f"{data_name(summary['data'])}: {summary['model']}, {summary['reference']}")]
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
        [m.title + (f", {m.unit}" if m.unit else ""), *(cell(found["scalars"][q][m.name]) for q in quantities),
         {"one": "near 1"}.get(m.better, m.better)]
        for m in SCALARS
    ]  # fmt: skip
    counts = (
        f"{found['n']:,} points on {counted(found['images'])}; {found['n_unparsed']} without a number, "
        f"{found['n_out_of_range']} with one that is no possible length, {summary['n_skipped']} bad rows skipped."
    )
    failed = [f"Failed, counted as wrong: {line}" for line in summary.get("failed", ())]
    parts: list[str | Table | Gallery] = [*found.get("left_out", ()), Table(head, rows, counts), *failed[:10]]
    if (note := unit_note(summary)) is not None:
        parts.append(f"Note: {note}.")
    if readings := found["readings"]:
        told = " and ".join(f"{cell(readings[q])} if read as {q}" for q in readings)
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
        (found["by_incidence"], angle, "delta1 by how the surface is turned from the line of sight."),
    ):
        if rows:
            pictures.append(Picture(plots.bars(rows, name, "delta1", "delta1"), caption, caption))
    head = ["depth", "points", "pictures", "delta1", "AbsRel", "scale"]
    rows = [
        [plots.range_name(row), f"{row['n']:,}", str(row["images"]), *(cell(row[k]) for k in GROUP_METRICS)]
        for row in found["by_range"]
    ]
    return Section("Where the errors are", [Gallery(pictures), Table(head, rows)], level)


def _habits(found: dict[str, Any], level: int) -> Section:
    """Order, re-use of answers, calibration."""
    order = [[band(row), f"{row['n']:,}", cell(row["error"])] for row in found["order"]]
    note = "Pairs of points of one picture; a constant answer scores 0.5."
    parts: list[str | Table | Gallery] = [Table(["depths differ by", "pairs", "put in the wrong order"], order, note)]
    reuse, belief = found["reuse"], found["calibration"]
    if reuse["top_digit"] is not None:
        parts.append(
            f"Of 100 answers {cell(reuse['distinct_per_100'], 1)} are different numbers ({reuse['values']:,} in all "
            f"{reuse['n']:,}). The last digit is most often {reuse['top_digit']}: {cell(reuse['top_digit_share'])} of "
            "answers, where 0.1 shows no preference."
        )
    pictures = [Picture(plots.digits(reuse), "Last digits of the answers.", "last digits")] if reuse["n"] else []
    if belief is not None:
        parts.append(
            f"{cell(belief['coverage'])} of the truths lie in the model's 80 % interval, which promises "
            f"{belief['nominal']:.2f}; its width is {cell(belief['sharpness'])} of the answer. AUSE "
            f"{cell(belief['ause'])} (a random order: {cell(belief['ause_random'])}; 0 is an order as good as "
            "knowing the errors)."
        )
        pictures += [
            Picture(plots.reliability(belief), "Reliability: promised and true shares.", "reliability diagram"),
            Picture(plots.sparsification(belief), "Error of what is left, most uncertain out first.", "sparsification"),
        ]
    return Section("Order, habits, confidence", [*parts, Gallery(pictures, 3)], level)


def _case_sections(entry: Entry, task: str, level: int) -> list[Section]:
    """Worst and best answers; none for tasks whose answers are not depths of a point."""
    if task not in METRIC_TASKS:
        return []
    chosen = zip(("Worst answers", "Best answers"), choose_cases(entry.run.table, task), strict=True)
    return [Section(title, case_parts(cases, entry.samples), level) for title, cases in chosen if cases]


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
        [f"{title}{f', {unit}' if unit else ''}", cell(found["figures"][name]), better]
        for name, (title, unit, better) in MAP_FIGURES.items()
    ]
    rows += [[f"delta1, {row['place']}", cell(row["delta1"]), "higher"] for row in found["by_edge"]]
    rows += [[f"delta1, surface turned {angle(row)}", cell(row["delta1"]), "higher"] for row in found["by_incidence"]]
    parts: list[str | Table | Gallery] = [
        Table(["figure", "value, 95 % interval", "better"], rows, maps_note(found)),
        *(f"Left out: {line}" for line in [*entry.unmapped, *found["skipped"]]),
    ]
    left_out = {line.split(":", 1)[0] for line in found["skipped"]}
    for case in [case for case in entry.maps if case.name not in left_out][:_MAPS_SHOWN]:
        parts.append(map_views(case))
    return Section("Depth maps", parts, level)


def maps_note(found: dict[str, Any]) -> str:
    """How many pictures were measured, and who says what a plane is."""
    marked, every = found["marked"], found["images"]
    who = {0: "are looked for in the truth", every: "are those that the set marks"}.get(
        marked, f"are those that the set marks in {counted(marked)}, and looked for in the truth of the others"
    )
    return f"{counted(every)} with a dense truth. Planes {who}."


# --- what was run ---------------------------------------------------------------------------------------------------


def what_was_run(runs: Sequence[Run]) -> Section:
    """The facts of runs; what they share is said once, what differs with whose it is."""
    facts = [_facts(run) for run in runs]
    names = dict.fromkeys(key for one in facts for key in one)
    rows = [[name, _whose([one.get(name, DASH) for one in facts], runs)] for name in names]
    return Section("What was run", [Table(["", ""], rows)])


def _whose(values: Sequence[str], runs: Sequence[Run]) -> str:
    """A line for each different value: whose it is, by models or by sets where either says it, and the value."""
    if len(set(values)) == 1:
        return values[0]
    who = [(run.name, data_name(run.summary["data"])) for run in runs]

    def says_it(part: int) -> bool:
        """Whether the value follows from the model's name (0), or from the set's (1)."""
        return len({(one[part], v) for one, v in zip(who, values, strict=True)}) == len({one[part] for one in who})

    by = next((part for part in (0, 1) if says_it(part)), None)
    owners = [" on ".join(one) if by is None else one[by] for one in who]
    lines: dict[str, list[str]] = {}
    for one, owner in zip(values, owners, strict=True):
        if owner not in lines.setdefault(one, []):
            lines[one].append(owner)
    return "\n".join(f"{', '.join(whose)}: {one}" for one, whose in lines.items() if one != DASH)


def data_name(data: object) -> str:
    """The end of a path, which tells sets apart."""
    return "/".join(Path(str(data)).parts[-2:]) if data else "the data"


def _facts(run: Run) -> dict[str, str]:
    config, summary = run.config, run.summary
    card, backend = config.get("card", {}), dict(config.get("backend", {}))
    kind, weights = backend.pop("name", None), backend.pop("weights", None)
    is_asked = kind != "rival"  # which is told nothing in words
    given = {
        "model": summary["model"],
        "weights (digest)": weights,
        "answered by": ", ".join([str(kind), *(f"{name} {one}" for name, one in backend.items())]) if kind else None,
        "what it was given": config.get("given"),
        "prompt": card.get("prompt") if is_asked else None,
        "first question": next((row["question"] for row in run.table if row["question"]), None) if is_asked else None,
        "reference": summary["reference"],
        "which number of its belief": summary.get("read") if is_asked else None,
        "data": summary["data"],
        "samples (digest)": config.get("samples"),
        "scored, asked as": f"{summary['task']}, {summary.get('asked')}",
        "answers mean": summary.get("answers") or summary.get("asked"),
        "data labels": summary["label"],
        "points, seed": f"{summary['n']} of {summary.get('points')}, {summary.get('seed')}",
        "versions": told_versions(run.folder),
        "time": told_time(run.folder),
        "cost": told_cost(run.folder),
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def _definitions() -> Section:
    rows = [[m.title, m.definition, m.source] for m in SCALARS]
    return Section("What the numbers mean", [
        "p is the answer, g the truth, in metres. docs/metrics.md has all the others.",
        Table(["metric", "definition", "source"], rows),
    ])  # fmt: skip
