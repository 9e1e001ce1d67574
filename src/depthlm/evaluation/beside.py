"""Runs beside published cells: in one row where the protocol is the same, apart with the difference named where not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlm.evaluation.document import Section, Table
from depthlm.evaluation.published import DEPTH, NOT_STATED, Cell, published
from depthlm.evaluation.runs import METRIC_TASKS
from depthlm.evaluation.suites import pictures_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from depthlm.evaluation.published import Rule

_Rows = dict[tuple[str, str, str], dict[str, str]]  # (model, metric, source) -> column -> figure
METRICS = ("delta1", "absrel", "rmse")  # that runs and cells both have
DASH = "\N{EN DASH}"
_MOST = 0.95  # of a set's pictures; a few may be damaged, or lack points within the suite's depths


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A published cell about the set of a run, and how its protocol differs; none of `differs` means it does not."""

    run: int
    cell: Cell
    differs: tuple[str, ...]


def beside(summaries: Sequence[Mapping[str, Any]]) -> list[Beside]:
    """Every published cell about depth on the set of a run, with what its protocol does otherwise.

    Runs of other tasks, and of data whose shards do not name their set, have none.
    """
    return [
        Beside(run=number, cell=cell, differs=differences(summary, cell.rule))
        for number, summary in enumerate(summaries)
        if summary["task"] in METRIC_TASKS and summary.get("dataset") is not None
        for cell in published()
        if cell.set == summary["dataset"] and cell.task == DEPTH and cell.metric in METRICS
    ]


def differences(summary: Mapping[str, Any], rule: Rule) -> tuple[str, ...]:
    """What a run's protocol and a cell's do not share, in words; empty where they may stand in one row."""
    scored, answers = summary["task"], summary.get("answers")
    found = [rule.apart] if rule.apart else []
    if "another protocol" in (summary.get("given") or ""):
        found.append("scale and shift: the model's own there, fitted to the truths here")
    if rule.label != scored:
        found.append(f"truth: {rule.label or NOT_STATED} there, {scored} here")
    if (rule.labels == "released") != bool(summary.get("legacy_labels")):
        kinds = ("metres", "as released with their errors")
        there, here = kinds if rule.labels == "metres" else kinds[::-1]
        found.append(f"labels: {there} there, {here} here")
    if rule.answers == "raw" and answers not in (None, scored):
        found.append(f"answers: compared as they are there, turned from {answers} into {scored} here")
    if rule.suite is None or rule.suite != summary.get("suite"):
        here = "no suite" if summary.get("suite") is None else f"suite {summary['suite']}"
        found.append(f"points: {rule.points} there, {summary['n']:,} of {here} here")
    elif None not in (rule.split, summary.get("split")) and rule.split != summary["split"]:
        found.append(f"split: {rule.split} there, {summary['split']} here")
    elif (whole := pictures_of(summary["suite"], summary["dataset"])) and summary["images"] < _MOST * whole:
        found.append(f"pictures: {whole:,} there, {summary['images']:,} here")
    return tuple(found)


def sections(summaries: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The part of a report that sets runs beside published results; none where no cell is about their sets."""
    found = beside(summaries)
    if not found:
        return []
    columns = {one.run: f"{summaries[one.run]['dataset']} ({summaries[one.run]['task']})" for one in found}
    suites: dict[tuple[Any, bool], list[Beside]] = {}  # runs of two suites are two protocols: a table each
    for one in found:
        if not one.differs:
            summary = summaries[one.run]
            suites.setdefault((summary["suite"], bool(summary["legacy_labels"])), []).append(one)
    parts: list[Any] = [_shared_table(summaries, shared, columns) for shared in suites.values()] or [
        "No published cell shares the protocol of this report's runs: none stands in one row with them. `--suite paper "
        "--legacy-labels` measures as DepthLM did, `--suite depthvlm --task z` as DepthVLM-Bench."
    ]  # fmt: skip
    made = [Section("Beside published results", parts)]
    apart: dict[str, list[Beside]] = {}
    for one in found:
        if one.differs:
            apart.setdefault(one.cell.protocol, []).append(one)
    return made + [_apart_section(group, columns) for group in apart.values()]


def to_dict(summaries: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The same as plain values: cells that share a run's protocol, and the others with what differs."""
    found = beside(summaries)
    return {
        "shared": [{"run": one.run, **one.cell.to_dict()} for one in found if not one.differs],
        "apart": [{"run": one.run, "differs": list(one.differs), **one.cell.to_dict()} for one in found if one.differs],
    }


# --- tables ---------------------------------------------------------------------------------------------------------


def _shared_table(summaries: Sequence[Mapping[str, Any]], shared: list[Beside], columns: dict[int, str]) -> Table:
    """Runs first, in bold, then published rows; * marks a set that the model learned from."""
    heads = list(dict.fromkeys(columns[one.run] for one in shared))
    rows: _Rows = {}
    for metric in [name for name in METRICS if any(one.cell.metric == name for one in shared)]:
        for number in dict.fromkeys(one.run for one in shared if one.cell.metric == metric):
            one = summaries[number]
            name = (f"{one['model']}, {one['reference']}", metric, "this run")
            rows.setdefault(name, {})[columns[number]] = _figure(one[metric], one.get("domain"))
    own = len(rows)
    rows |= _published_rows(shared, columns)
    note = (
        "Same set, split, meaning and scale of the truth, treatment of answers and rule of points in every row. The "
        "published draws of points are not public: theirs and ours are two samples. * the model learned from other "
        "scenes of the set; where that is not stated, no mark says nothing."
    )
    body = [[model, metric, *(cells.get(head, DASH) for head in heads), source]
            for (model, metric, source), cells in rows.items()]  # fmt: skip
    return Table(["model", "metric", *heads, "source"], body, note, strong=frozenset(range(own)))


def _apart_section(group: list[Beside], columns: dict[int, str]) -> Section:
    """Cells of one protocol that is not the runs': first what differs, set by set, then the cells."""
    by_difference: dict[tuple[str, ...], list[str]] = {}
    for one in group:
        names = by_difference.setdefault(one.differs, [])
        if columns[one.run] not in names:
            names.append(columns[one.run])
    told = [f"{', '.join(names)}: {'; '.join(differs)}." for differs, names in by_difference.items()]
    heads = list(dict.fromkeys(columns[one.run] for one in group))
    rows = [[model, metric, *(cells.get(head, DASH) for head in heads), source]
            for (model, metric, source), cells in _published_rows(group, columns).items()]  # fmt: skip
    title = f"Another protocol: {group[0].cell.protocol_title}"
    note = "Not comparable with the runs of this report as they stand."
    return Section(title, [*told, Table(["model", "metric", *heads, "source"], rows, note)], 2)


def _published_rows(found: Iterable[Beside], columns: dict[int, str]) -> _Rows:
    """Rows of cells, the caveat beside the model; a row that several papers print is one with all of them."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for one in found:
        cell = one.cell
        key: tuple[str, ...] = (cell.model, cell.metric, cell.protocol, cell.caveat, cell.source)
        rows.setdefault(key, {})[columns[one.run]] = _figure(cell.value, cell.training)
    merged: list[tuple[tuple[str, ...], list[str], list[str], dict[str, str]]] = []
    for key, row in sorted(rows.items(), key=lambda item: -len(item[1])):  # a part joins its whole
        same = next((m for m in merged if m[0] == key[:3] and row.items() <= m[3].items()), None)
        if same is None:
            merged.append((key[:3], [key[3]] if key[3] else [], [key[4]], row))
            continue
        for told, new in ((same[1], key[3]), (same[2], key[4])):
            if new and new not in told:
                told.append(new)
    return {
        (f"{model} ({'; '.join(caveats)})" if caveats else model, metric, "; ".join(sources)): row
        for (model, metric, _), caveats, sources, row in merged
    }


def _figure(value: float | None, domain: str | None) -> str:
    return DASH if value is None else f"{value:.3f}{'*' if domain == 'in-domain' else ''}"
