"""runs.jsonl -> what differs: delta1 of each arm and its difference from another, with intervals over seeds and rooms.

An interval is the 95 % percentile bootstrap in which seeds and rooms are drawn again, both at once; the arms of a
difference share the draws, as they share rooms and seeds. Three seeds drawn again vary by a third less than seeds do,
so an effect is only called one where every seed shows its sign besides.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlm.metrics import image_draws
from depthlm.study.plan import digest, test_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from depthlm.study.plan import Plan, Question

_RESAMPLES = 4000
_LEVELS = (0.025, 0.975)
_FACTS = ("pictures", "tokens_per_picture", "questions_per_picture")
Table = tuple["NDArray[np.float64]", "NDArray[np.float64]"]  # hits and points asked, [seeds, rooms] each


def study_figures(plan: Plan, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{seeds, points, missing, questions {letter: {question, says, rows}}}; a row for each arm and test all of whose
    seeds were run. missing: what was not.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault((digest(line["arm"]), line["test"]), []).append(line)
    missing: list[str] = []
    questions = {}
    for letter, (question, keys) in plan.questions.items():
        cells = {}
        for name, test in _cells(question):
            runs = found.get((digest(keys[name]), test_key(question.tests[test])), [])
            seeds = plan.study.seeds if question.arms[name] is not None else plan.study.seeds[:1]
            runs = sorted((run for run in runs if run["seed"] in seeds), key=lambda run: run["seed"])
            if len(runs) < len(seeds):
                missing.append(f"{letter}: {name}, {test}")
            else:
                cells[name, test] = runs
        questions[letter] = {
            "question": question.question,
            "says": question.says,
            "arms": question.arms,
            "rows": [_row(question, cells, name, test) for name, test in cells],
        }
    return {"seeds": plan.study.seeds, "points": plan.study.points, "missing": missing, "questions": questions}


def write_figures(found: dict[str, Any], folder: Path, images: Path) -> None:
    """One JSON file for each question that has rows into `folder`, one plot into `images`; files appear by rename."""
    from depthlm.study.plots import draw_question

    folder.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    for letter, question in found["questions"].items():
        if not question["rows"]:
            continue
        text = json.dumps({"seeds": found["seeds"], "points": found["points"], **question}, indent=1) + "\n"
        temporary = folder / f".{letter}.json.partial"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / f"{letter}.json")
        draw_question(question, images / f"study-{letter}.png")


def _cells(question: Question) -> list[tuple[str, str]]:
    return [
        (name, test)
        for test, how in question.tests.items()
        for name in question.arms
        if how.only is None or name in how.only
    ]


def _row(
    question: Question, cells: dict[tuple[str, str], list[dict[str, Any]]], name: str, test: str
) -> dict[str, Any]:
    runs = cells[name, test]
    table = _table(runs)
    value, ci = _with_interval(table)
    row: dict[str, Any] = {"arm": name, "test": test, "delta1": value, "ci": ci}
    row["by_seed"] = [run["delta1"] for run in runs]
    row |= {key: _mean([run.get(key) for run in runs]) for key in ("absrel", "bias", "unread", *_FACTS)}
    other = _against(question, cells, name, test)
    if other is not None:
        before = _table(cells[other])
        change, interval = _with_interval(table, before)
        # An untrained arm was run once: every seed is compared with that.
        signs = set(np.sign(np.subtract(row["by_seed"], [run["delta1"] for run in cells[other]])).tolist())
        row |= {
            "against": list(other),
            "difference": change,
            "difference_ci": interval,
            "effect": len(signs) == 1 and (interval[0] > 0 or interval[1] < 0),
        }
    return row


def _against(
    question: Question, cells: dict[tuple[str, str], list[dict[str, Any]]], name: str, test: str
) -> tuple[str, str] | None:
    """What a row is compared with: the first arm in the same test, else in the first test, else the first arm that
    takes the same test, else the same arm in the first test of its; always on the same points.
    """
    arms, tests = list(question.arms), list(question.tests)
    others = [(arm, test) for arm in arms[: arms.index(name)]]
    earlier = [(name, before) for before in tests[: tests.index(test)]]
    for other in ((arms[0], test), (arms[0], tests[0]), *others, *earlier):
        if other == (name, test):
            continue
        if other in cells and question.tests[other[1]].data == question.tests[test].data:
            return other
    return None


def _table(runs: Sequence[dict[str, Any]]) -> Table:
    return np.array([run["hits"] for run in runs], float), np.array([run["asked"] for run in runs], float)


def _with_interval(table: Table, before: Table | None = None) -> tuple[float, list[float]]:
    """delta1, or its difference from `before`, with the ends of its interval."""
    hits, asked = table
    by_room = np.concatenate(list(image_draws(hits.shape[1], seed=0, resamples=_RESAMPLES)))

    def share(hits: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float64]:
        seeds = len(hits)
        by_seed = np.random.default_rng(1).multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES).astype(float)
        drawn: NDArray[np.float64] = (by_seed @ hits * by_room).sum(axis=1) / (by_seed @ asked * by_room).sum(axis=1)
        return drawn

    value, drawn = hits.sum() / asked.sum(), share(hits, asked)
    if before is not None:
        value, drawn = value - before[0].sum() / before[1].sum(), drawn - share(*before)
    return round(float(value), 4), [round(float(end), 4) for end in np.quantile(drawn, _LEVELS)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None
