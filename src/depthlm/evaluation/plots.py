"""A report's plots: figures of a run -> SVG inside the page. No font, script or colour comes from elsewhere."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.metrics import DELTA1_RATIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from depthlm.evaluation.measure import Points

INK, BLUE, ORANGE, GREEN, SOFT = "#181c24", "#1d5f9e", "#c9541a", "#0f8a6c", "#a9b2c0"
_SIZE = (4.6, 3.4)  # inches; at a phone's width letters are still 9 px high
_DOTS = 4000  # a scatter of more says nothing more
STYLE: Any = {
    "font.size": 9.5, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "axes.spines.top": False,
    "axes.spines.right": False, "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "grid.color": "#e9ecf1",
    "axes.axisbelow": True, "svg.fonttype": "path", "svg.hashsalt": "depthlm", "font.family": "DejaVu Sans",
}  # fmt: skip


def draw(paint: Callable[[Axes], None], size: tuple[float, float] = _SIZE) -> str:
    """A picture's address, with the picture in it: paint draws on the axes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None}, transparent=True)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def scatter(points: Points) -> str:
    """Answers over truths on logarithmic axes, the band of delta1 shaded.

    Answers beyond four times the range of the truths stand on the border.
    """

    def paint(axes: Axes) -> None:
        known = np.flatnonzero(np.isfinite(points.predicted) & (points.predicted > 0))
        if len(known) > _DOTS:
            known = np.random.default_rng(0).choice(known, _DOTS, replace=False)
        g, p = points.truth[known], points.predicted[known]
        near, far = points.truth.min() / 1.1, points.truth.max() * 1.1
        least, most = near, far
        if len(p):
            least, most = np.clip([p.min() / 1.1, p.max() * 1.1], [near / 4, near], [far, far * 4])
        ends, p = np.array([min(near, least), max(far, most)]), p.clip(least, most)
        axes.fill_between(ends, ends / DELTA1_RATIO, ends * DELTA1_RATIO, color=GREEN, alpha=0.16, linewidth=0)
        axes.plot(ends, ends, color=GREEN, linewidth=1)
        axes.plot(g, p, ".", color=BLUE, markersize=4.5, alpha=0.4, markeredgewidth=0, rasterized=True, clip_on=False)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.set(xlabel=f"true {points.quantity}, m", ylabel="answer, m")
        _metre_ticks(axes, both=True)

    return draw(paint)


def by_range(rows: list[dict[str, Any]]) -> str:
    """delta1 and AbsRel of each range of true depth, with intervals."""

    def paint(axes: Axes) -> None:
        place = np.arange(len(rows))
        _whiskers(axes, place - 0.08, [row["delta1"] for row in rows], BLUE, "o", "delta1")
        _whiskers(axes, place + 0.08, [row["absrel"] for row in rows], ORANGE, "s", "AbsRel")
        axes.set_xticks(place, [range_name(row) for row in rows], rotation=30 if len(rows) > 5 else 0)
        highest = max([1.0] + [row["absrel"]["value"] or 0 for row in rows])
        axes.set(xlabel="true depth", ylim=(0, min(highest, 2) * 1.05))
        axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))

    return draw(paint)


def bars(rows: list[dict[str, Any]], name: Callable[[dict[str, Any]], str], metric: str, label: str) -> str:
    """One metric of each group as bars with intervals, the first on top."""

    def paint(axes: Axes) -> None:
        place = np.arange(len(rows))[::-1]
        axes.barh(place, [row[metric]["value"] or 0 for row in rows], color=BLUE, alpha=0.85, height=0.62)
        for y, row in zip(place, rows, strict=True):
            if row[metric]["ci"][0] is not None:
                axes.plot(row[metric]["ci"], [y, y], color=INK, linewidth=1.4)
        axes.set_yticks(place, [name(row) for row in rows])
        axes.set(xlabel=label, xlim=(0, 1))
        axes.grid(False, axis="y")

    return draw(paint, (_SIZE[0], max(1.5, 0.75 + 0.28 * len(rows))))


def reliability(calibration: dict[str, Any]) -> str:
    """Share of truths inside the central interval of each level, over that level."""

    def paint(axes: Axes) -> None:
        rows = calibration["reliability"]
        axes.plot([0, 1], [0, 1], color=GREEN, linewidth=1, label="calibrated")
        levels = np.array([row["level"] for row in rows])
        _whiskers(axes, levels, [row["share"] for row in rows], BLUE, "o", "this model", line=True)
        axes.set(xlabel="promised share", ylabel="share of truths inside", xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False, loc="upper left")

    return draw(paint)


def sparsification(calibration: dict[str, Any]) -> str:
    """AbsRel of what is left when the most uncertain answers are left out, beside the best order."""

    def paint(axes: Axes) -> None:
        axes.plot(calibration["left_out"], calibration["curve"], color=BLUE, label="by the model's interval")
        axes.plot(calibration["left_out"], calibration["oracle"], color=GREEN, label="by the true error")
        axes.set(xlabel="share of answers left out", ylabel="AbsRel of the rest", xlim=(0, 1), ylim=(0, None))
        axes.legend(frameon=False, loc="lower left")

    return draw(paint)


def digits(reuse: dict[str, Any]) -> str:
    """How often each last digit was said."""

    def paint(axes: Axes) -> None:
        counts = np.array(reuse["digits"], dtype=np.float64)
        axes.bar(np.arange(10), counts / max(counts.sum(), 1), color=BLUE, alpha=0.85)
        axes.axhline(0.1, color=GREEN, linewidth=1)
        axes.set_xticks(np.arange(10))
        axes.set(xlabel="last digit of the answer", ylabel="share")
        axes.grid(False, axis="x")

    return draw(paint, (_SIZE[0], 2.6))


def range_name(row: dict[str, Any]) -> str:
    """A range of depths for people."""
    return f"above {row['from']:g} m" if row["to"] is None else f"{row['from']:g}\N{EN DASH}{row['to']:g} m"


def _whiskers(
    axes: Axes,
    place: Any,
    cells: list[dict[str, Any]],
    colour: str,
    marker: str,
    label: str,
    *,
    line: bool = False,
) -> None:
    value = np.array([np.nan if cell["value"] is None else cell["value"] for cell in cells])
    for x, cell in zip(place, cells, strict=True):
        if cell["ci"][0] is not None:
            axes.plot([x, x], cell["ci"], color=colour, linewidth=1.4, alpha=0.7)
    style = "-" if line else ""
    axes.plot(place, value, linestyle=style, marker=marker, color=colour, markersize=5, label=label)


def _metre_ticks(axes: Axes, *, both: bool) -> None:
    """Plain numbers in the place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis) if both else (axes.xaxis,):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
