"""An evaluation summary as text for people; the figures themselves are the evaluator's."""

from __future__ import annotations

from typing import Any


def format_summary(summary: dict[str, Any]) -> str:
    """A few lines: what was asked, delta1 with its interval beside the best constant, errors, failures."""
    low, high = summary["delta1_ci"]
    interval = "one image, no interval" if low is None else f"95 % interval {low:.3f} to {high:.3f} over images"
    lines = [
        f"{summary['model']} on {summary['data']}",
        f"  asked      {summary['n']} points on {summary['images']} images, reference {summary['reference']}",
        f"  scored     {summary['scored']} (answers read as {summary['answers']}, data labels {summary['label']})",
        f"  delta1     {_figure(summary['delta1'])}  ({interval})",
        f"  constant   {_figure(summary['floor_delta1'])}  (the best single answer, {summary['floor_constant']:.2f} m)",
        f"  absrel     {_figure(summary['absrel'])}",
        f"  rmse       {_figure(summary['rmse'])} m",
        f"  unparsed   {summary['n_unparsed']} (counted as wrong)",
    ]
    if summary["n_skipped"]:
        lines.append(f"  skipped    {summary['n_skipped']} bad rows")
    if summary["interval_coverage"] is not None:
        lines.append(
            f"  interval   {summary['interval_coverage']:.0%} of the truths lie in the model's own 16-84 % interval"
            " (uncalibrated)"
        )
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
