"""loss.png: what metrics.jsonl says, as a picture."""

from __future__ import annotations

import json
from pathlib import Path


def draw_loss_curve(folder: Path) -> Path | None:
    """Draw folder/metrics.jsonl into folder/loss.png; None when nothing was logged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not lines:
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("answer_loss", "answers"), ("word_loss", "words at image tokens")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    axes.set(xlabel="step", ylabel="cross-entropy, nats per token")
    axes.grid(alpha=0.3)
    scores = [(line["step"], line["delta1"]) for line in lines if "delta1" in line]
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), "k.-", label="delta1, held out")
        right.set(ylabel="delta1", ylim=(0, 1))
        right.legend(loc="upper left")
    axes.legend(loc="upper right")
    FigureCanvasAgg(figure).print_png(str(out := folder / "loss.png"))
    return out
