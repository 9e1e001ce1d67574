"""Worst and best answers of a run, each with its picture: the marked point, the truth and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.pictures import Mark, annotate

if TYPE_CHECKING:
    from PIL import Image

    from depthlm.sample import Samples

CASES = 6
_WIDTH = 640


@dataclass(frozen=True, slots=True)
class Case:
    """One answer. ratio: answer over truth, NaN without an answer. picture: None where it cannot be had; note why."""

    row: dict[str, Any]
    truth: float
    ratio: float
    picture: Image.Image | None = None
    note: str = ""


def choose_cases(table: list[dict[str, Any]], task: str, count: int = CASES) -> tuple[list[Case], list[Case]]:
    """The worst and the best answers by |ln(answer / truth)|, at most one of each picture.

    Rows without a usable truth take no part; an answer of 0 is as wrong as can be, one without a number is shown by
    the counts and not here.
    """
    cases = []
    for row in table:
        truth, value = row[task], row["value"]
        if truth is None or value is None or not (np.isfinite(truth) and truth > 0 and np.isfinite(value)):
            continue
        cases.append(Case(row, float(truth), float(value) / float(truth)))
    ranked = sorted(cases, key=lambda c: np.inf if c.ratio <= 0 else abs(np.log(c.ratio)))
    return _one_per_image(ranked[::-1], count), _one_per_image(ranked, count)


def with_picture(case: Case, samples: Samples | None) -> Case:
    """The case with its picture, or with the reason why there is none; the rest of the report does not depend on it."""
    if samples is None:
        return Case(case.row, case.truth, case.ratio, None, "the pictures were not at hand")
    number, (u, v) = case.row["image"], (case.row["u"], case.row["v"])
    try:
        sample = samples[number]
        mark = Mark((u, v), case.row["value"], case.truth)
        size = (sample.camera.width, sample.camera.height)
        picture = annotate(sample.load_image(), [mark], size=size, width=_WIDTH, text=2.0)
    except (InputError, OSError, IndexError) as error:
        return Case(case.row, case.truth, case.ratio, None, f"no picture: {' '.join(str(error).split())}")
    return Case(case.row, case.truth, case.ratio, picture)


def _one_per_image(cases: list[Case], count: int) -> list[Case]:
    seen: set[int] = set()
    kept: list[Case] = []
    for case in cases:
        if case.row["image"] not in seen and len(kept) < count:
            seen.add(case.row["image"])
            kept.append(case)
    return kept
