"""Commands about this installation: doctor."""

from __future__ import annotations

import typer

from depthlm.cli.app import app
from depthlm.cli.helpers import emit
from depthlm.cli.options import Json


@app.command()
def doctor(as_json: Json = False) -> None:
    """Print versions, devices, and what is missing for what; status 1 where the core does not work."""
    from depthlm.doctor import examine, format_report

    found = examine()
    emit(found, as_json, format_report(found))
    if found["problems"]:
        raise typer.Exit(1)
