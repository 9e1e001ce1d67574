"""An evaluation summary as text for people; the figures themselves are the evaluator's."""

from __future__ import annotations

from typing import Any

from depthlm.evaluation.domains import ALL
from depthlm.evaluation.words import figure_cell, unit_note


def format_summary(summary: dict[str, Any]) -> str:
    """A few lines: what was asked, delta1 with its interval beside the best constant, errors, failures."""
    low, high = summary["score_ci"]
    interval = "one image, no interval" if low is None else f"95 % interval {low:.3f} to {high:.3f} over images"
    floor, unit = summary["floor_answer"], summary["unit"]
    lines = [
        f"{summary['model']} on {summary['data']}",
        f"  asked      {summary['n']} questions on {summary['images']} images, reference {summary['reference']}",
        f"  given      {summary.get('given') or 'not recorded'}",
        f"  scored     {_scored(summary)}",
        *([f"  read       {summary['read']} of the model's belief"] if summary["read"] != "none" else []),
        f"  {summary['metric']:<9}  {figure_cell(summary['score'])}  ({interval})",
        f"  constant   {figure_cell(summary['floor_score'])}  (the best single answer, {_short(floor)} {unit}".rstrip()
        + ")",
    ]
    if summary["absrel"] is not None:
        lines += [
            f"  absrel     {figure_cell(summary['absrel'])}",
            f"  rmse       {figure_cell(summary['rmse'])} {unit}",
        ]
    lines += [f"  {name:<10} {figure_cell(value)}" for name, value in summary["figures"].items()]
    lines.append(f"  unparsed   {summary['n_unparsed']} (counted as wrong)")
    if summary["n_failed"]:
        lines.append(f"  failed     {summary['n_failed']} of those, on {len(summary['failed'])} pictures:")
        lines += [f"             {line}" for line in summary["failed"][:5]]
    if summary["n_unasked"]:
        lines.append(f"  unasked    {summary['n_unasked']} points, objects or pictures that lack what the task needs")
    if (note := unit_note(summary)) is not None:
        lines.append(f"  note       {note}")
    if not summary["trained"]:
        lines.append(f"  note       this model was not trained to answer {summary['asked']} questions")
    if summary["n_skipped"]:
        lines.append(f"  skipped    {summary['n_skipped']} bad rows")
    if summary["interval_coverage"] is not None:
        lines.append(
            f"  interval   {summary['interval_coverage']:.0%} of the truths lie in the model's 80 % interval"
            f" ({'calibrated' if summary['calibrated'] else 'uncalibrated'})"
        )
    return "\n".join(lines)


def format_tasks(runs: list[dict[str, Any]]) -> str:
    """One line for each task, set after set."""
    lines = []
    for number, run in enumerate(runs):
        if number == 0 or run["data"] != runs[number - 1]["data"]:
            lines.append(f"{run['model']} on {run['data']}, reference {run['reference']}")
            lines.append(
                f"  {'task':<12} {'n':>6} {'metric':<9} {'score':>6} {'95 %':>15} {'constant':>9} {'unparsed':>9}"
            )
        low, high = run["score_ci"]
        interval = "-" if low is None else f"{low:.3f} - {high:.3f}"
        lines.append(
            f"  {run['task']:<12} {run['n']:>6} {run['metric']:<9} {figure_cell(run['score']):>6} {interval:>15} "
            f"{figure_cell(run['floor_score']):>9} {run['n_unparsed']:>9}"
        )
    return "\n".join(lines)


def format_suite(result: dict[str, Any]) -> str:
    """One line per set, the absent ones named, and what the labels were."""
    lines = [f"suite {result['suite']}: {result['runs'][0]['model']}", f"  {result['source']}"]
    if result["legacy_labels"]:
        lines.append(
            "  LEGACY LABELS: the released curation's errors are reproduced; answers are scored raw. Not metres."
        )
    lines.append(f"  {'set':<14} {'points':>7} {'delta1':>7} {'95 %':>15} {'constant':>9} {'absrel':>7} {'scored':>9}")
    for run in result["runs"]:
        low, high = run["delta1_ci"]
        interval = "-" if low is None else f"{low:.3f} - {high:.3f}"
        lines.append(
            f"  {run['dataset']:<14} {run['n']:>7} {figure_cell(run['delta1']):>7} {interval:>15} "
            f"{figure_cell(run['floor_delta1']):>9} {figure_cell(run['absrel']):>7} {run['scored']:>9}"
        )
        if note := run.get("legacy_note"):
            lines.append(f"    {note}")
    lines += [f"  {name:<14} absent" for name in result["absent"]]
    lines.append(f"  mean delta1 of the {len(result['runs'])} sets present: {result['mean_delta1']:.3f}")
    lines += [
        f"  mean delta1, {name} ({', '.join(data.rsplit('/', 1)[-1] for data in mean['sets'])}): {mean['score']:.3f}"
        for name, mean in result["means"].items()
        if name != ALL
    ]
    return "\n".join(lines)


def _scored(summary: dict[str, Any]) -> str:
    """What is scored, and what was made of the answers on the way."""
    if summary["answers"] is None:
        return f"{summary['task']} (data labels {summary['label']})"
    return f"{summary['task']} (answers mean {summary['answers']}, data labels {summary['label']})"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_short, value))})"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
