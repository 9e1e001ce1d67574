"""The command that prints published results: tables."""

from __future__ import annotations

from typing import Annotated

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import emit
from depthlm.cli.options import Json


@app.command()
def tables(
    dataset: Annotated[str | None, typer.Option("--set", help="Only this set: ibims1, nuscenes, ..., or mean.")] = None,
    model: Annotated[str | None, typer.Option(help="Only models whose name holds this.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only this metric: delta1, absrel, rmse, epe, ...")] = None,
    as_json: Json = False,
) -> None:
    """Published results with where they stand, what they were measured with, and what is doubtful about them."""
    from depthlm.evaluation.published import format_tables, select

    cells = select(dataset=dataset, model=model, metric=metric)
    emit({"n": len(cells), "cells": [cell.to_dict() for cell in cells]}, as_json, format_tables(cells))
