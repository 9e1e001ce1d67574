"""Command of ablation studies: study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import emit, require_writable
from depthlm.cli.options import Json


@app.command()
def study(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="study.yaml, a file per question, recipes.")],
    size: Annotated[str | None, typer.Option(help="Changes to study.yaml, a file beside it: smoke.")] = None,
    out: Annotated[Path, typer.Option(help="Models and scores of what was run.")] = Path("out/study"),
    results: Annotated[Path | None, typer.Option(help="Folder for figures; default: the run's.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder for plots; default: that of the figures.")] = None,
    streams: Annotated[int, typer.Option(min=1, help="Arms trained beside each other.")] = 1,
    minutes: Annotated[float | None, typer.Option(help="Begin no arm later than this.")] = None,
    only_report: Annotated[bool, typer.Option("--only-report", help="Figures of what was run; run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train many arms from one base with several seeds, and say what differs. Goes on after an interruption."""
    from depthlm.study.plan import load_plan

    plan = load_plan(folder, size)
    require_writable(out)
    from depthlm.study.figures import study_figures, write_figures
    from depthlm.study.run import RUNS, read_runs, run_study

    if not only_report:
        run_study(
            plan, out, streams=streams, minutes=minutes, report=lambda line: print(line, file=sys.stderr, flush=True)
        )
    found = study_figures(plan, read_runs(out / RUNS))
    where = results or out
    write_figures(found, where, images or where)
    text = "\n".join(
        f"{letter}: {row['arm']}, {row['test']}: delta1 {row['delta1']:.3f} ({row['ci'][0]:.3f} to {row['ci'][1]:.3f})"
        for letter, question in found["questions"].items()
        for row in question["rows"]
    )
    emit({"out": str(where), **found}, as_json, text)
