"""Worst and best answers, and where models disagree: the picture, the marked point, the truth, the answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.errors import InputError
from depthlm.evaluation.document import Gallery, Picture
from depthlm.pictures import Mark, annotate, data_uri, metres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from depthlm.evaluation.document import Table
    from depthlm.sample import Sample, Samples

CASES = 6
_WIDTH = 640
_SAME_PIXEL = 0.01
_LONGEST = 18  # letters of a model's name on a picture


@dataclass(frozen=True, slots=True)
class Case:
    """A point with what was answered. row: of points.parquet. answers: (name, metres) of each model; no name where
    there is one model only. picture: None where it cannot be had; note why.
    """

    row: dict[str, Any]
    truth: float
    answers: tuple[tuple[str, float], ...]
    picture: Image.Image | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Answer over truth, of the first model."""
        return self.answers[0][1] / self.truth

    @property
    def words(self) -> str:
        """Where the point is, its truth, and what was answered."""
        row = self.row
        where = f"{row['frame'] or 'picture ' + str(row['image'])} at ({row['u']:.0f}, {row['v']:.0f})"
        if len(self.answers) == 1:
            told = f"answer {metres(self.answers[0][1])} ({self.ratio:.2f} of it)"
        else:
            told = "; ".join(f"{name} {metres(said)}" for name, said in self.answers)
        return f"{where}: true {metres(self.truth)}, {told}"


def choose_cases(table: list[dict[str, Any]], task: str, count: int = CASES) -> tuple[list[Case], list[Case]]:
    """The worst and the best answers by |ln(answer / truth)|, at most one of each picture.

    Rows without a usable truth take no part; an answer of 0 is as wrong as can be, one without a number is shown by
    the counts and not here.
    """
    cases = [
        Case(row, float(row[task]), (("", float(row["value"])),))
        for row in table
        if _is_length(row[task]) and row["value"] is not None and np.isfinite(row["value"])
    ]
    ranked = sorted(cases, key=lambda c: np.inf if c.ratio <= 0 else abs(np.log(c.ratio)))
    return _one_per_image(ranked[::-1], count), _one_per_image(ranked, count)


def choose_disagreements(
    tables: Sequence[list[dict[str, Any]]], names: Sequence[str], task: str, count: int = CASES
) -> list[Case]:
    """Points of the same rows of several runs where the largest answer is most times the smallest, one of each picture.

    Models without a usable answer to a point take no part in it; points about which all say the same are no case.
    """
    spread: list[tuple[float, Case]] = []
    for rows in zip(*tables, strict=True):
        said = [(name, float(row["value"])) for name, row in zip(names, rows, strict=True) if _is_length(row["value"])]
        if len(said) < 2 or not _is_length(rows[0][task]):
            continue
        values = [value for _, value in said]
        if (gap := max(values) / min(values)) > 1:
            spread.append((gap, Case(rows[0], float(rows[0][task]), tuple(said))))
    return _one_per_image([case for _, case in sorted(spread, key=lambda one: -one[0])], count)


def with_picture(case: Case, samples: Samples | None, missing: str = "the pictures were not at hand") -> Case:
    """The case with its picture, or with the reason why there is none; the rest of the report does not depend on it.

    Of several models, the smallest and the largest answer are written beside the point.
    """
    if samples is None:
        return replace(case, note=missing)
    row = case.row
    try:
        sample = samples[row["image"]]
        if not _holds(sample, row):
            return replace(case, note="the data have changed since they were asked about: a shown point is not in them")
        by_size = sorted(case.answers, key=lambda one: one[1])
        shown = dict.fromkeys([by_size[0], by_size[-1]])
        marks = [Mark((row["u"], row["v"]), said, case.truth, name=_short(name)) for name, said in shown]
        size = (sample.camera.width, sample.camera.height)
        picture = annotate(sample.load_image(), marks, size=size, width=_WIDTH, text=2.0)
    except (InputError, OSError, IndexError) as error:
        return replace(case, note=f"no picture: {' '.join(str(error).split())}")
    return replace(case, picture=picture)


def case_parts(cases: Sequence[Case], samples: Samples | None, missing: str = "") -> list[str | Table | Gallery]:
    """What a report shows of cases: pictures with their words, the words alone, and why pictures are missing."""
    found = [with_picture(case, samples, missing) if missing else with_picture(case, samples) for case in cases]
    shown = [Picture(data_uri(case.picture), case.words, case.words) for case in found if case.picture is not None]
    told: list[str | Table | Gallery] = [case.words for case in found if case.picture is None]
    return [*([Gallery(shown, 3)] if shown else []), *told, *sorted({case.note for case in found if case.note})]


def _is_length(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value)) and value > 0


def _holds(sample: Sample, row: dict[str, Any]) -> bool:
    """Whether the sample has the row's point, as it had when it was asked about."""
    near = np.abs(sample.uv - (row["u"], row["v"])).max(axis=1) < _SAME_PIXEL
    return bool((near & np.isclose(sample.z, row["z"], rtol=1e-4)).any())


def _short(name: str) -> str:
    """A model's name without its folders, short enough to stand on a picture."""
    end = name.rstrip("/").rsplit("/", 1)[-1]
    return end if len(end) <= _LONGEST else f"{end[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _one_per_image(cases: list[Case], count: int) -> list[Case]:
    seen: set[int] = set()
    kept: list[Case] = []
    for case in cases:
        if case.row["image"] not in seen and len(kept) < count:
            seen.add(case.row["image"])
            kept.append(case)
    return kept
