"""Summary and pictures -> one HTML page that needs nothing from outside: inline style, pictures as data URIs."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.pictures import colour_depth, data_uri, metres

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Talk:
    """One question as it was put: the view the model saw (marker included), its words, and its answer's words."""

    title: str
    image: Image.Image
    question: str
    answer: str
    truth: float  # metres of distance


@dataclass(frozen=True, slots=True)
class Pictures:
    """Every picture of the page, and what stands under the gallery's."""

    photo: Image.Image
    grid_measured: Image.Image
    grid_truth: Image.Image
    full_truth: Image.Image
    cloud_measured: Image.Image
    cloud_truth: Image.Image
    gallery: list[tuple[Image.Image, str]]


def render_page(summary: dict[str, Any], pictures: Pictures, talks: list[Talk]) -> str:
    """The page's HTML. summary: what `run_demo` returns."""
    grid, model = summary["grid"], summary["model"]
    ramp = colour_depth(np.geomspace(1, 10, 9), near=1, far=10)
    values = {
        "model": html.escape(model["name"]),
        "parameters": f"{model['parameters'] / 1e6:.1f}",
        "calibrated": "calibrated on other rooms" if model["calibrated"] else "not calibrated",
        "model_notes": f'<p class="note">From its model card: {html.escape(model["notes"])}</p>'
        if model["notes"]
        else "",
        "device": html.escape(model["device"]),
        "photo": data_uri(pictures.photo),
        "photo_alt": f"a rendered room with {summary['marks']} measured points",
        "n": f"{summary['n']:,}",
        "rooms": summary["rooms"],
        "lookup_rooms": summary["lookup_rooms"],
        "rows": "\n".join(_row(row) for row in summary["table"]),
        "talks": "".join(_talk(talk) for talk in talks),
        "gallery": "".join(
            f'<figure><img src="{data_uri(image)}" alt="room with measured points"><figcaption>{html.escape(caption)}'
            "</figcaption></figure>"
            for image, caption in pictures.gallery
        ),
        "cells": f"{grid['n']:,}",
        "columns": grid["columns"],
        "grid_rows": grid["rows"],
        "grid_right": _share(grid["delta1"]),
        "near": metres(grid["near"]),
        "far": metres(grid["far"]),
        "ramp": ",".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in ramp),
        "tables": ", ".join(f'<a href="{name}">{name}</a>' for name in summary["tables"]),
        "version": html.escape(summary["version"]),
        "stamp": f"seed {summary['seed']} &middot; {summary['seconds']:.0f} s on {summary['cores']} cores",
    }
    for name in ("grid_measured", "grid_truth", "full_truth", "cloud_measured", "cloud_truth"):
        values[name] = data_uri(getattr(pictures, name))
    template = resources.files("depthlm.demo").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(values)


def _row(row: dict[str, Any]) -> str:
    return (
        f'<tr><td class="name">{html.escape(row["name"])}<small>{html.escape(row["note"])}</small></td>'
        f'<td class="figure">{_figure(row["delta1"])}</td><td class="bar">{_bar(row)}</td>'
        f'<td class="small">{_share(row["absrel"])}</td><td class="small">{_count(row["n_unparsed"])}</td></tr>'
    )


def _bar(row: dict[str, Any]) -> str:
    """delta1 as a bar on [0, 1], its interval as a whisker."""
    share, (low, high) = row["delta1"], row["delta1_ci"]
    if share is None:
        return ""
    colour = "#1d3f66" if row["is_model"] else "#a9b2c0"
    parts = [
        '<rect x="0" y="6" width="400" height="14" rx="3" fill="#eef0f3"/>',
        f'<rect x="0" y="6" width="{400 * share:.1f}" height="14" rx="3" fill="{colour}"/>',
    ]
    if low is not None and high is not None:
        ends = "".join(f"M{400 * x:.1f} 9v8" for x in (low, high))
        path = f"M{400 * low:.1f} 13H{400 * high:.1f}{ends}"
        parts.append(f'<path d="{path}" stroke="#fff" stroke-width="5" fill="none" opacity=".8"/>')
        parts.append(f'<path d="{path}" stroke="#181c24" stroke-width="2" fill="none"/>')
    label = f"delta1 {share:.2f}" + (f", 95 % interval {low:.2f} to {high:.2f}" if low is not None else "")
    return (
        f'<svg viewBox="0 0 400 26" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def _talk(talk: Talk) -> str:
    return (
        f'<div class="talk"><h3>{html.escape(talk.title)}</h3>'
        f'<img src="{data_uri(talk.image)}" alt="what the model saw">'
        f'<div class="say ask"><b>question</b>{html.escape(talk.question)}</div>'
        f'<div class="say tell"><b>answer</b>{html.escape(talk.answer)}</div>'
        f'<p class="note" style="margin:10px 0 0">true distance {metres(talk.truth)}</p></div>'
    )


def _figure(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "&ndash;" if value is None else f"{100 * value:.0f}&thinsp;%"


def _count(value: int | None) -> str:
    return "&ndash;" if value is None else str(value)
