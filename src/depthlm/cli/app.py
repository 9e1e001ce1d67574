"""The application that the commands add themselves to."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="depthlm",
    help="Metric depth from standard vision-language models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Metric depth from standard vision-language models. Errors in the input end with one line and exit status 2."""
