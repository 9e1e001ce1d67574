"""Parts of a page of several runs: paired differences as a table, and the same pictures as each model maps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation.compare import compare_maps
from depthlm.evaluation.document import Gallery, Section, Table
from depthlm.evaluation.maps import MAP_FIGURES, measure_maps
from depthlm.evaluation.page import maps_note
from depthlm.evaluation.views import answer_views, truth_views
from depthlm.evaluation.words import DASH, cell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthlm.evaluation.maps import DenseCase

_SHOWN = 2  # pictures that were mapped
_TESTED = ("flying_rate", "boundary_f1", "planarity_rel", "orientation_deg", "f_score")  # of paired differences


def pairs_table(pairs: list[dict[str, Any]], shown: Mapping[str, str]) -> Table:
    """Differences of every pair. shown: figure -> its title."""
    told = {name: title for name, title in shown.items() if name in pairs[0]["differences"]}
    head = ["second minus first", *(part for title in told.values() for part in (title, "p"))]
    rows = []
    for pair in pairs:
        cells = []
        for name in told:
            one = pair["differences"][name]
            p = one["p_holm"] if len(pairs) > 1 else one["p"]
            cells += [cell(one), DASH if p is None else f"{p:.4f}"]
        rows.append([f"{pair['second']} minus {pair['first']}", *cells])
    holm = " p is adjusted over the pairs (Holm)." if len(pairs) > 1 else ""
    return Table(head, rows, f"The same pictures are drawn for both; p by permutation of pictures.{holm}")


def dense_section(names: list[str], maps: list[list[DenseCase]]) -> tuple[list[Section], dict[str, Any]]:
    """Figures, paired differences and pictures of what every model with maps has mapped.

    Also for the comparison's JSON {maps {model: measure_maps}, map_pairs}; both empty where there are no maps.
    """
    having = {name: {case.name: case for case in cases} for name, cases in zip(names, maps, strict=True) if cases}
    if not having:
        return [], {}
    first = next(iter(having.values()))
    shared = [name for name in first if all(_same(cases.get(name), first[name]) for cases in having.values())]
    if not shared:
        return [Section("Depth maps", ["The models mapped different pictures; use the same --maps for all."])], {}
    measured, left_out = _measure({name: [cases[k] for k in shared] for name, cases in having.items()})
    left_out += [f"{name} mapped nothing." for name in names if name not in having]
    if not measured:
        return [Section("Depth maps", [*left_out])], {}
    pictured = [case["name"] for case in next(iter(measured.values()))["cases"]]
    note = f"{maps_note(next(iter(measured.values())))} All of these models mapped them."
    parts: list[Any] = [Table(["figure", *measured, "better"], _rows(list(measured.values())), note), *left_out]
    pairs = compare_maps(measured) if len(measured) > 1 else []
    if pairs:
        parts.append(pairs_table(pairs, {name: MAP_FIGURES[name][0] for name in _TESTED}))
    for picture in pictured[:_SHOWN]:
        parts += _galleries([(name, having[name][picture]) for name in measured])
    return [Section("Depth maps", parts)], {"maps": measured, "map_pairs": pairs}


def _measure(cases: dict[str, list[DenseCase]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Each model's figures over the pictures that can be measured for all, and a line for what was left out."""
    measured: dict[str, dict[str, Any]] = {}
    left_out = []
    for name, own in cases.items():
        try:
            measured[name] = measure_maps(own)
        except InputError as error:
            left_out.append(f"{name} is left out: {error}.")
    left_out += [
        f"Left out for all, as {name} has: {line}." for name, one in measured.items() for line in one["skipped"]
    ]
    known = [{case["name"] for case in one["cases"]} for one in measured.values()]
    common = set.intersection(*known) if known else set()
    if known and not common:
        return {}, [*left_out, "No picture can be measured for all of the models."]
    if any(one != common for one in known):
        measured = {name: measure_maps([c for c in cases[name] if c.name in common]) for name in measured}
    return measured, left_out


def _rows(measured: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each figure, a column for each model."""
    rows = [
        [f"{title}{f', {unit}' if unit else ''}", *(cell(found["figures"][key]) for found in measured), better]
        for key, (title, unit, better) in MAP_FIGURES.items()
    ]
    for number, place in enumerate(("interior", "boundary")):
        if all(len(found["by_edge"]) == 2 for found in measured):
            rows.append(
                [f"delta1, {place}", *(cell(found["by_edge"][number]["delta1"]) for found in measured), "higher"]
            )
    return rows


def _same(a: DenseCase | None, b: DenseCase) -> bool:
    return a is not None and np.array_equal(a.truth, b.truth, equal_nan=True)


def _galleries(cases: list[tuple[str, DenseCase]]) -> list[Gallery]:
    """The picture and its truth, then how each model maps it, in the truth's colours."""
    _, first = cases[0]
    return [Gallery(truth_views(first), 4), *(Gallery(answer_views(case, name), 5) for name, case in cases)]
