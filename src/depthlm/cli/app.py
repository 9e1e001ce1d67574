"""The application that the commands add themselves to."""

from __future__ import annotations

from typing import Annotated

import typer

from depthlm import __version__

app = typer.Typer(
    name="depthlm",
    help="Metric depth from standard vision-language models.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"depthlm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Metric depth from standard vision-language models. Errors in the input end with one line and exit status 2."""
