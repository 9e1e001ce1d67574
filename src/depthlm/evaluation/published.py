"""Published results as data: every cell with its source, its protocol and what is doubtful about it.

The cells stand in `tables/*.yaml`, table by table as they were printed; `tables/protocols.yaml` says what each was
measured with. A figure means nothing without that: docs/tables.md says what the choices move.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MEAN = "mean"  # in the place of a set: a printed mean over several
DEPTH = "distance"  # the task of every cell about depth at a pixel; what its numbers mean is the rule's label
NOT_STATED = "not stated"
Training = Literal["in-domain", "zero-shot", "mixed", "not stated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one set is measured in a protocol.

    label: what the numbers of the truth mean; None where it is not stated, or the metric is none of depth. labels:
    "metres", or "released": with the errors of DepthLM's released curation. answers: "raw", compared as they are, or
    "converted" to what the label means. alignment: of predictions to the truth before they are compared. apart: why no
    run of ours can stand in one row with the cells, or empty. suite, split: of evaluation/suites.py where the points
    follow one, else None.
    """

    label: Literal["distance", "z"] | None = None
    labels: Literal["metres", "released"] = "metres"
    answers: Literal["raw", "converted"] = "raw"
    suite: str | None = None
    split: str | None = None
    points: str = NOT_STATED
    alignment: Literal["none"] = "none"
    note: str = ""
    apart: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One printed figure.

    set: name of a reader (data/readers), of another benchmark, or MEAN, then `over` names the sets where that is known.
    task: what was asked; distance for depth at a pixel. protocol: key and title in tables/protocols.yaml; rule: what it
    says of this set. focal: what the model was told of the camera. training: whether the model learned from other
    scenes of the set. quoted: printed by `paper`, measured by another. caveat: what to know before it is used.
    """

    model: str
    set: str
    task: str
    metric: str
    unit: str
    value: float
    paper: str
    table: str
    title: str
    protocol: str
    protocol_title: str
    rule: Rule
    focal: str
    training: Training
    quoted: bool = False
    over: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the rule's among them."""
        return {
            k: v for k, v in dataclasses.asdict(self).items() if k != "rule"
        } | dataclasses.asdict(self.rule)  # fmt: skip


@cache
def published() -> tuple[Cell, ...]:
    """Every cell, in the order of the tables."""
    facts = _read("protocols.yaml")
    tables = [table for name in ("depthlm.yaml", "vlm3.yaml", "others.yaml") for table in _read(name)]
    return tuple(cell for table in tables for row in table["rows"] for cell in _cells(table, row, facts))


def metrics() -> dict[str, dict[str, str]]:
    """Metric -> unit, better, means."""
    found: dict[str, dict[str, str]] = _read("protocols.yaml")["metrics"]
    return found


def select(*, dataset: str | None = None, model: str | None = None, metric: str | None = None) -> list[Cell]:
    """The cells of a set, of models whose name holds `model` (upper and lower case alike), of a metric; None for all.

    Raises InputError with the nearest names for one that no cell has, and where no cell has all of them.
    """
    cells = published()
    names = [cell.model for cell in cells]
    if dataset is not None:
        _known("set", dataset, [name for cell in cells for name in (cell.set, *cell.over)])
    if metric is not None:
        _known("metric", metric, [cell.metric for cell in cells])
    if model is not None and not any(_holds(name, model) for name in names):
        raise _unknown("model", model, names)
    found = [
        cell for cell in cells
        if dataset in (None, cell.set) and metric in (None, cell.metric)
        and (model is None or _holds(cell.model, model))
    ]  # fmt: skip
    if not found:
        asked = {"--set": dataset, "--model": model, "--metric": metric}
        told = " ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
        raise InputError(f"no published cell has {told} together; leave one out")
    return found


def format_tables(cells: Sequence[Cell]) -> str:
    """The cells as text, table by table: where from, how measured, and the caveats beneath by number."""
    return "\n\n".join("\n".join(_block(group)) for group in _tables(cells))


# --- reading --------------------------------------------------------------------------------------------------------


@cache
def _read(name: str) -> Any:
    import yaml

    return yaml.safe_load((resources.files("depthlm.evaluation") / "tables" / name).read_text(encoding="utf-8"))


def _cells(table: Mapping[str, Any], row: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterable[Cell]:
    """The cells of a row; one that the paper left empty has none."""
    protocol, model = facts["protocols"][table["protocol"]], facts["models"].get(row["model"], {})
    by_task = table.get("by") == "task"
    sets = [column for column in table["columns"] if column != MEAN]
    caveats = [text for text in (row.get("caveat"), table.get("caveat")) if text]
    for column, value in zip(table["columns"], row["values"], strict=True):
        if value is None:
            continue
        name = table["set"] if by_task else column
        yield Cell(
            model=row["model"], set=name, task=column if by_task else row.get("task", DEPTH),
            metric=table["metric"], unit=facts["metrics"][table["metric"]]["unit"], value=float(value),
            paper=table["paper"], table=table["table"], title=table["title"],
            protocol=table["protocol"], protocol_title=protocol["title"],
            rule=_rule(table, protocol, name, row.get("apart", {})),
            focal=row.get("focal") or model.get("focal", NOT_STATED), training=_training(model, name),
            quoted=table.get("quoted", False), caveat="; ".join(caveats),
            over=tuple(table.get("over", sets)) if name == MEAN else (),
        )  # fmt: skip


def _rule(table: Mapping[str, Any], protocol: Mapping[str, Any], name: str, apart: Mapping[str, str]) -> Rule:
    own = dict(protocol["sets"].get(name, {})) | ({"apart": apart[name]} if name in apart else {})
    shared = {key: protocol[key] for key in ("suite", "points", "labels", "answers") if key in protocol}
    return Rule(**shared | own | ({"answers": table["answers"]} if "answers" in table else {}))


def _training(model: Mapping[str, Any], name: str) -> Training:
    if name == MEAN:
        return "mixed"
    if "trained_on" in model:
        return "in-domain" if name in model["trained_on"] else "zero-shot"
    return "zero-shot" if name in model.get("not_trained_on", ()) else "not stated"


# --- choosing -------------------------------------------------------------------------------------------------------


def _holds(name: str, part: str) -> bool:
    return part.lower() in name.lower()


def _known(kind: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise _unknown(kind, name, names)


def _unknown(kind: str, name: str, names: Iterable[str]) -> InputError:
    """The error for a name that does not exist: those that look like it, or all where none does."""
    known = {known.lower(): known for known in names}
    near = [known[key] for key in get_close_matches(name.lower(), known, n=3, cutoff=0.5)]
    way_out = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(sorted(known.values()))}"
    return InputError(f"--{kind} {name!r} is in no published table; {way_out}")


# --- as text --------------------------------------------------------------------------------------------------------


def _tables(cells: Sequence[Cell]) -> Iterable[list[Cell]]:
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.paper, cell.table, cell.title, cell.protocol, cell.metric), []).append(cell)
    return groups.values()


def _block(cells: list[Cell]) -> list[str]:
    """One table: rows are models (and tasks), columns sets; * for a set learned from, [1] for a caveat."""
    first, tasks = cells[0], {cell.task for cell in cells}
    by_task = len(tasks) > 1 and len({cell.set for cell in cells}) == 1
    columns = list(dict.fromkeys(cell.task if by_task else cell.set for cell in cells))
    notes = list(dict.fromkeys(cell.caveat for cell in cells if cell.caveat))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        name = cell.model + (f" [{notes.index(cell.caveat) + 1}]" if cell.caveat else "")
        figure = f"{cell.value:.{_decimals(cell)}f}{'*' if cell.training == 'in-domain' else ' '}"
        rows.setdefault((name, cell.focal), {})[cell.task if by_task else cell.set] = figure
    width, widths = max(len(name) for name, _ in rows), [max(len(column), 7) for column in columns]
    lines = [
        f"{first.source}: {first.title}",
        f"  {first.metric}, {first.unit}; {first.protocol_title}{'; quoted, not measured again' * first.quoted}",
        f"  points  {first.rule.points}",
        *([f"  truth   {_truths(cells)}"] if tasks == {DEPTH} and first.unit in ("share", "ratio", "m") else []),
        f"  {'':<{width}} "
        + " ".join(f"{c:>{w}} " for c, w in zip(columns, widths, strict=True))
        + " told of the camera",
    ]
    for (name, focal), values in rows.items():
        figures = " ".join(f"{values.get(c, '- '):>{w + 1}}" for c, w in zip(columns, widths, strict=True))
        lines.append(f"  {name:<{width}} {figures} {focal}")
    if any(cell.training == "in-domain" for cell in cells):
        lines.append("  * the model learned from other scenes of the set")
    lines += [f"  [{number}] {note}" for number, note in enumerate(notes, 1)]
    doubts = {cell.set: cell.rule.apart or cell.rule.note for cell in cells if cell.rule.apart or cell.rule.note}
    return lines + [f"  {name}: {doubt}" for name, doubt in doubts.items()]


def _truths(cells: Sequence[Cell]) -> str:
    """What the truth is, set by set where they differ."""
    labels = {cell.set: cell.rule.label or NOT_STATED for cell in cells if cell.set != MEAN}
    alike = len(set(labels.values())) == 1
    told = next(iter(labels.values())) if alike else ", ".join(f"{name} {label}" for name, label in labels.items())
    return f"{told or 'as its sets'}; labels {'as released, errors and all' if _is_released(cells[0]) else 'in metres'}"


def _is_released(cell: Cell) -> bool:
    return cell.rule.labels == "released"


def _decimals(cell: Cell) -> int:
    return {"share": 3, "ratio": 3, "m": 3, "px": 2}.get(cell.unit, 2 if cell.metric == "accuracy" else 1)
