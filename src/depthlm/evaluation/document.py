"""Sections of text, tables and pictures -> one HTML page that needs nothing from outside, and the same as Markdown."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


# "0.81 (0.67-0.91)": the interval stands smaller, on a phone beneath.
_INTERVAL = re.compile("^(\\S+) (\\([-\\d.]+(?:\N{EN DASH}| to )[-\\d.]+\\))$")
_CODE, _TYPED = re.compile("`([^`]+)`"), r"<code>\1</code>"
_LINE = "\n"  # of several in one cell
_SMALL = r"\1 <small>\2</small>"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain text; a cell may have several lines.

    bars: column of which each cell may have (value, low, high) in [0, 1] drawn beneath it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    bars: Sequence[tuple[float, float | None, float | None] | None] = ()
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture by its address (a data URI), and the words beneath it."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures side by side, two to five in a row where there is room; on a phone those of four and five in twos."""

    pictures: Sequence[Picture]
    columns: int = 2


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what stands under it. level: 1 for a section, 2 within one."""

    title: str
    parts: list[str | Table | Gallery] = field(default_factory=list)
    level: int = 1


def to_html(title: str, lead: str, sections: Sequence[Section], stamp: str) -> str:
    """The page."""
    body = "\n".join(_section(section) for section in sections)
    template = resources.files("depthlm.evaluation").joinpath("page.html").read_text(encoding="utf-8")
    escaped = {"title": html.escape(title), "lead": html.escape(lead), "stamp": html.escape(stamp)}
    return Template(template).substitute(escaped, body=body)


def to_markdown(title: str, lead: str, sections: Sequence[Section], stamp: str) -> str:
    """The same without pictures: their captions say what they show."""
    lines = [f"# {title}", "", lead]
    for section in sections:
        lines += ["", f"{'#' * (section.level + 1)} {section.title}"]
        for part in section.parts:
            lines.append("")
            if isinstance(part, str):
                lines.append(part)
            elif isinstance(part, Table):
                lines += _markdown_table(part)
            else:
                lines += [f"- {picture.caption}" for picture in part.pictures]
    return "\n".join([*lines, "", stamp, ""])


def _markdown_table(table: Table) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "; ") for cell in cells) + " |"

    lines = [line(table.head), "|" + "---|" * len(table.head), *(line(row) for row in table.rows)]
    return [*lines, "", table.note] if table.note else lines


def _section(section: Section) -> str:
    tag = f"h{section.level + 1}"
    parts = [f"<{tag}>{html.escape(section.title)}</{tag}>"]
    for part in section.parts:
        if isinstance(part, str):
            parts.append(f"<p>{_CODE.sub(_TYPED, html.escape(part))}</p>")
        elif isinstance(part, Table):
            parts.append(_table(part))
        else:
            parts.append(f'<div class="grid g{part.columns}">{"".join(map(_figure, part.pictures))}</div>')
    return f"<section>{''.join(parts)}</section>"


def _figure(picture: Picture) -> str:
    return (
        f'<figure><img src="{picture.uri}" alt="{html.escape(picture.alt)}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = []
    for number, row in enumerate(table.rows):
        cells = [f"<td>{_INTERVAL.sub(_SMALL, html.escape(cell).replace(_LINE, '<br>'))}</td>" for cell in row]
        bar = table.bars[number] if number < len(table.bars) else None
        if bar is not None:
            cells[1] = f"<td>{html.escape(row[1])}{_bar(*bar)}</td>"
        strong = ' class="strong"' if number in table.strong else ""
        rows.append(f"<tr{strong}>{''.join(cells)}</tr>")
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{note}'
    )


def _bar(value: float, low: float | None, high: float | None) -> str:
    """A share as a bar on [0, 1], its interval as a line on it."""
    parts = [
        '<rect width="100" height="6" rx="2" fill="#e6eaf0"/>',
        f'<rect width="{100 * value:.1f}" height="6" rx="2" fill="#1d5f9e"/>',
    ]
    if low is not None and high is not None:
        parts.append(f'<path d="M{100 * low:.1f} 3H{100 * high:.1f}" stroke="#181c24" stroke-width="1.6"/>')
    return f'<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
