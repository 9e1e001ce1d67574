"""What the demo measures: points in rooms the model never saw, beside what a guess without the picture would score."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm import __version__
from depthlm import pictures as draw
from depthlm.demo.page import Pictures, Talk, render_page
from depthlm.demo.rooms import (
    FOCAL_RANGE,
    LOOKUP_SEED,
    LOOKUP_SHRINK,
    ROOM_SEED,
    SETTINGS,
    SIZE,
    DemoConfig,
    Steps,
    with_random_points,
)
from depthlm.demo.show import draw_all
from depthlm.errors import InputError
from depthlm.evaluation.evaluator import EvaluationConfig, evaluate
from depthlm.evaluation.lookup import lookup_baseline, lookup_features
from depthlm.metrics import absrel, best_constant, bootstrap_interval, delta1, is_correct
from depthlm.models.loading import load_model
from depthlm.synth.generate import synth_rendered, synth_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from depthlm.demo.rooms import Progress
    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Sample

__all__ = ["DemoConfig", "format_table", "run_demo"]


def run_demo(out: Path | str, config: DemoConfig | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Measure, draw, and write `out`/index.html with everything it links to; returns what summary.json holds.

    progress: called with (done, in all), in hundredths of the work. Files of an earlier demo are replaced, other files
    in `out` are left alone. Raises InputError when the model cannot be loaded or `out` cannot be written.
    """
    config = config or DemoConfig()
    start = time.monotonic()
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".demo-"))
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror or error}); give another --out") from error
    try:
        summary, pictures, talks = _measure_all(config, scratch, Steps(progress))
        summary["seconds"] = round(time.monotonic() - start, 1)
        (scratch / "index.html").write_text(render_page(summary, pictures, talks), encoding="utf-8")
        _write_json(summary, scratch / "summary.json")
        for file in sorted(
            scratch.iterdir(), key=lambda f: f.name == "index.html"
        ):  # the page last: its links then work
            if file.is_file():
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return summary


def format_table(summary: dict[str, Any]) -> str:
    """The demo's table as plain text."""
    rows = [("", "delta1", "95 % interval", "mean rel. error", "no number")]
    for row in summary["table"]:
        low, high = row["delta1_ci"]
        error, unread = row["absrel"], row["n_unparsed"]
        rows.append(
            (
                row["name"],
                f"{row['delta1']:.3f}",
                "-" if low is None else f"{low:.3f} to {high:.3f}",
                "-" if error is None else f"{error:.3f}",
                "-" if unread is None else str(unread),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    asked = f"{summary['n']} points in {summary['rooms']} rooms that {summary['model']['name']} never saw"
    return "\n".join([f"{asked} (distance, seed {summary['seed']})", *lines])


# --- measuring --------------------------------------------------------------------------------------------------------


def _measure_all(config: DemoConfig, scratch: Path, steps: Steps) -> tuple[dict[str, Any], Pictures, list[Talk]]:
    loaded = load_model(config.model)
    workers = config.workers or os.cpu_count() or 1
    seed = ROOM_SEED + config.seed
    rooms = list(
        steps.count(
            synth_rendered(config.rooms, seed=seed, views=1, workers=workers, **SETTINGS), config.rooms, share=12
        )
    )
    samples = [with_random_points(room, config.points, [seed, i]) for i, room in enumerate(rooms)]
    truth = np.concatenate([s.distance for s in samples])
    image = np.repeat(np.arange(len(samples)), [len(s) for s in samples])
    table, tables = [], []
    references = loaded.card.references
    for name in references:
        row, records = _model_row(
            loaded, config, samples, name, scratch, steps.part(len(truth), share=40 / len(references))
        )
        table.append(row)
        tables.append(records)
    guess = _lookup(config, samples, workers, steps)
    table.append(_guess_row("best lookup", "from (u, v, focal length), without the picture", guess, truth, image))
    constant, _ = best_constant(truth)
    assert constant is not None, "there is at least one point"
    always = np.full_like(truth, constant)
    table.append(_guess_row("best constant", f"always {draw.metres(constant)}", always, truth, image))
    pictures, talks, grid, marks = draw_all(config, loaded, rooms, samples, scratch, steps)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    summary = {
        "model": {
            "name": Path(config.model).name,
            "parameters": parameters,
            "references": references,
            "notes": loaded.card.notes,
            "calibrated": sorted(loaded.card.calibration),
            "device": "the CPU" if loaded.model.device.type == "cpu" else str(loaded.model.device),
        },
        "scored": "distance",
        "n": len(truth),
        "rooms": len(rooms),
        "seed": config.seed,
        "table": table,
        "lookup_rooms": config.lookup_rooms,
        "grid": grid,
        "marks": marks,
        "tables": tables,
        "cores": os.cpu_count(),
        "version": __version__,
    }
    return summary, pictures, talks


def _model_row(
    loaded: LoadedModel,
    config: DemoConfig,
    samples: Sequence[Sample],
    reference: str,
    scratch: Path,
    progress: Progress,
) -> tuple[dict[str, Any], str]:
    """The table's row for one reference, through the same evaluator as `depthlm eval`, and its per-point file."""
    settings = EvaluationConfig(reference=reference, points=sum(map(len, samples)), seed=config.seed)
    folder = scratch / reference
    run = evaluate(loaded, samples, settings, model_name=config.model, data_name="demo", out=folder, progress=progress)
    records = f"points-{reference}.parquet"
    (folder / "points.parquet").replace(scratch / records)
    keys = ("delta1", "delta1_ci", "absrel", "rmse", "n_unparsed", "interval_coverage")
    note = "coordinates in the question" if reference.startswith("text") else "a marker on the picture"
    row = {
        "name": f"{Path(config.model).name}, {reference}",
        "note": note,
        "is_model": True,
        **{k: run[k] for k in keys},
    }
    return row, records


def _guess_row(
    name: str, note: str, guess: NDArray[np.float64], truth: NDArray[np.float64], image: NDArray[np.int64]
) -> dict[str, Any]:
    interval = list(bootstrap_interval(is_correct(guess, truth), image))
    figures = {"delta1": delta1(guess, truth), "delta1_ci": interval, "absrel": absrel(guess, truth)}
    return {"name": name, "note": note, "is_model": False, **figures, "n_unparsed": None}


def _lookup(config: DemoConfig, samples: Sequence[Sample], workers: int, steps: Steps) -> NDArray[np.float64]:
    """[N] what the best (u, v, focal) table, fitted on other rooms, says at every point of the samples."""
    small: dict[str, Any] = {
        "kind": "indoor",
        "size": (SIZE[0] // LOOKUP_SHRINK, SIZE[1] // LOOKUP_SHRINK),
        "focal_range": (FOCAL_RANGE[0] / LOOKUP_SHRINK, FOCAL_RANGE[1] / LOOKUP_SHRINK),
    }
    views = 4
    others = synth_samples(
        config.lookup_rooms, seed=LOOKUP_SEED + config.seed, views=views, points=400, workers=workers, **small
    )
    fitted = list(steps.count(others, config.lookup_rooms * views, share=13))
    table = lookup_baseline(
        np.concatenate([lookup_features(s.uv, s.camera) for s in fitted]),
        np.concatenate([s.distance for s in fitted]),
        np.repeat(np.arange(len(fitted)) // views, [len(s) for s in fitted]),  # a room's views stay on one side
    )
    return table.predict(np.concatenate([lookup_features(s.uv, s.camera) for s in samples]))


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
