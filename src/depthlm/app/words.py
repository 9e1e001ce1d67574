"""What the page says, as HTML. Everything that comes from outside is escaped here."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.pictures import colour_depth, metres

if TYPE_CHECKING:
    from depthlm.app.cameras import UsedCamera
    from depthlm.app.desk import Desk
    from depthlm.app.session import Session

SURE = {"exact": "exact", "likely": "likely right", "yours": "as sure as you are"}
MAP_HINT = (
    '<p class="quiet">A few hundred questions become a depth for every pixel: where to ask is chosen as answers come '
    "in. More questions are finer and take longer.</p>"
)


def header(models: list[str]) -> str:
    """What this is, in one glance, and who answers."""
    by = " and ".join(f"<b>{escape(name)}</b>" for name in models)
    return (
        '<header id="top"><h1>How far is it?</h1><p>Click on the picture: a language model says in metres how far that '
        "point is. Click on a second point for the length between the two.</p>"
        f'<span class="by">answered by {by}</span></header>'
    )


def message(text: str, kind: str = "error") -> str:
    """One line for the visitor, read out by screen readers; kind: error or note."""
    return f'<div class="message {kind}" role="alert">{escape(text)}</div>' if text else ""


def camera_card(used: UsedCamera | None) -> str:
    """Which camera is used, and how sure that is."""
    if used is None:
        return (
            '<div class="camera none"><b>Camera unknown</b><span class="sure">not set</span>'
            "<p>Without it a picture has no scale. Set it below.</p></div>"
        )
    camera = used.resolved.camera
    return (
        f'<div class="camera {used.sure}"><b>Camera</b><span class="sure">{SURE[used.sure]}</span>'
        f"<p>{escape(used.source[:1].upper() + used.source[1:])}</p>"
        f'<p class="quiet">focal length {camera.fx:.0f} px, field of view {camera.fov_x:.0f}°, '
        f"picture {camera.width}×{camera.height}. {escape(used.advice)}</p></div>"
    )


def results(desk: Desk, session: Session) -> str:
    """What the models said about the clicked points."""
    if session.picture is None:
        return '<div class="results empty"><p>Choose a picture to begin.</p></div>'
    notes = _notes(desk, session)
    if not session.uv:
        width, height = session.picture.image.size
        text = "Click anywhere on the picture."
        keys = f"Or type a pixel below: u from 0 to {width - 1}, v from 0 to {height - 1}."
        if session.camera is None:
            text = "Which camera took this picture?"
            keys = "Set its field of view below, then click on the picture."
        return f'<div class="results empty"><p><b>{text}</b></p><p class="quiet">{keys}</p></div>{notes}'
    cards = [_model_card(desk, session, number) for number in range(len(desk.models))]
    return f'<div class="results models-{len(cards)}" aria-live="polite">{"".join(cards)}</div>{notes}'


def _notes(desk: Desk, session: Session) -> str:
    photo = session.picture is not None and session.picture.room is None
    texts = [text for model in desk.models for text in (model.note, model.photo_note if photo else "") if text]
    return "".join(f'<p class="note">{escape(text)}</p>' for text in dict.fromkeys(texts))


def _model_card(desk: Desk, session: Session, number: int) -> str:
    points, lengths = session.points[number], session.lengths[number]
    last = points[-1]
    parts = [f"<h3>{escape(desk.models[number].name)}</h3>" if len(desk.models) > 1 else ""]
    if len(points) % 2 == 0:
        parts.append(_length_headline(len(points), lengths[-1]))
    else:
        parts.append(_headline(len(points), last))
    if last["xyz"] is not None:
        x, y, z = last["xyz"]
        parts.append(
            f'<dl class="facts"><div><dt>point {len(points)}: z, ahead</dt><dd>{metres(z)}</dd></div>'
            f"<div><dt>right</dt><dd>{x:+z.2f} m</dd></div><div><dt>down</dt><dd>{y:+z.2f} m</dd></div></dl>"
        )
    parts.append(_table(points, lengths))
    return f"<section>{''.join(parts)}</section>"


def _headline(number: int, point: dict[str, Any]) -> str:
    if point["distance"] is None:
        return (
            f'<p class="big none">no number</p><p class="quiet">Point {number}: the model said '
            f"{escape(repr(point['text'][:120]))}.</p>"
        )
    return (
        f'<p class="big">{metres(point["distance"])}</p><p class="quiet">from the camera to point {number} '
        f"({point['u']:g}, {point['v']:g}){_truth(point)}</p><p>{_interval(point)}</p>"
    )


def _length_headline(number: int, length: dict[str, Any]) -> str:
    text = "no length" if length["length"] is None else metres(length["length"])
    asked = "" if length["asked"] is None else f" Asked for it outright, the model says {metres(length['asked'])}."
    return (
        f'<p class="big length">{text}</p><p class="quiet">from point {number - 1} to point {number}, by where both are'
        f"{_truth(length)}.{asked}</p>"
    )


def _truth(point: dict[str, Any]) -> str:
    return "" if point["truth"] is None else f"; truly {metres(point['truth'])}"


def _interval(point: dict[str, Any]) -> str:
    if point["low"] is None:
        return "Interval: not known; the model gives no probabilities."
    how = (
        "calibrated on pictures like those it was trained on"
        if point["interval"] == "calibrated"
        else ("the model's own belief, not calibrated")
    )
    return f'80 % interval <b>{point["low"]:.2f} to {point["high"]:.2f} m</b> <span class="quiet">({how})</span>'


def _table(points: list[dict[str, Any]], lengths: list[dict[str, Any]]) -> str:
    rows = []
    for number, point in enumerate(points, 1):
        low = "" if point["low"] is None else f"{point['low']:.2f} – {point['high']:.2f}"
        rows.append(
            f"<tr><th scope=row>{number}</th><td>{point['u']:g}, {point['v']:g}</td>"
            f"<td>{_cell(point['distance'])}</td><td>{low}</td><td>{_cell(point['z'])}</td></tr>"
        )
        if number % 2 == 0:
            said = lengths[number // 2 - 1]
            rows.append(
                f'<tr class="between"><th scope=row>{number - 1}–{number}</th><td>length</td>'
                f"<td>{_cell(said['length'])}</td><td></td><td></td></tr>"
            )
    head = "<th></th><th>u, v</th><th>distance</th><th>80 %</th><th>z</th>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} m"


def progress(done: int, total: int) -> str:
    """How far a depth map is."""
    share = 100 * done / max(1, total)
    return (
        f'<div class="progress" role="progressbar" aria-valuemin=0 aria-valuemax={total} aria-valuenow={done}>'
        f'<i style="width:{share:.0f}%"></i><span>{done:,} of {total:,} questions</span></div>'
    )


def map_caption(session: Session, number: int, near: float, far: float) -> str:
    """What the depth map shows, with the key to its colours."""
    found = session.maps[number]
    facts = found.summary()
    ends = np.geomspace(near, far, 9)
    ramp = ",".join("rgb({},{},{})".format(*colour) for colour in colour_depth(ends, near=near, far=far).tolist())
    width, height = found.photo.image.size
    return (
        f'<div class="key"><span>{near:.1f} m</span><i style="background:linear-gradient(90deg,{ramp})"></i>'
        f"<span>{far:.1f} m</span></div>"
        f'<p class="quiet">z of {width}×{height} pixels from {facts["asked"]:,} questions, {facts["answered"]:,} '
        f"of them answered. What lies between is completed along the picture's edges.</p>"
    )
