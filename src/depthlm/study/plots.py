"""A question's figures as a picture: delta1 of every arm and test, its interval, and each seed as a dot."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

from depthlm.evaluation.plots import BLUE, GREEN, INK, ORANGE, SOFT, STYLE

if TYPE_CHECKING:
    from pathlib import Path

_COLOURS = (BLUE, ORANGE, GREEN, INK, SOFT)


def draw_question(question: dict[str, Any], path: Path) -> None:
    """question: as study_figures gives it, with at least one row. Writes a PNG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = question["rows"]
    tests = list(dict.fromkeys(row["test"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.1 + 0.34 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            colour = _COLOURS[arms.index(row["arm"]) % len(_COLOURS)]
            axes.plot(row["ci"], [place, place], color=colour, linewidth=2)
            axes.plot([row["delta1"]], [place], "o", color=colour, markersize=7)
            axes.plot(row["by_seed"], [place] * len(row["by_seed"]), "|", color=INK, markersize=8)
        names = [row["arm"] if len(tests) == 1 else f"{row['arm']}, {row['test']}" for row in rows]
        axes.set_yticks(range(len(rows)), names if len(arms) > 1 or len(tests) == 1 else [row["test"] for row in rows])
        axes.set(xlabel="delta1, its 95 % interval, each seed (ticks)")
        figure.suptitle(fill(question["question"], 76), x=0.01, ha="left", fontsize=10)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=130, metadata={"Software": None})
