"""Puts the program's own help into docs/cli.md when mkdocs builds it: typer writes it, so that it cannot go stale."""

from __future__ import annotations

from typing import Any

import typer
from typer.cli import get_docs_for_click

from depthlm.cli import app

PLACE = "<!-- commands -->"


def command_pages() -> str:
    """A section for each command, as `typer depthlm.cli utils docs` would print it."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="depthlm")
    parts = [
        get_docs_for_click(obj=command, ctx=context, name=name, call_prefix="depthlm")
        for name, command in group.commands.items()
    ]
    return "\n\n".join(part.strip() for part in parts).replace("```console", "```text")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(PLACE, command_pages()) if PLACE in markdown else markdown
