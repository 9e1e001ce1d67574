"""Published results: every cell is complete and as printed; runs stand in a row with their own protocol only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cli_runner import run
from depthlm.data import origin_of
from depthlm.data.readers.base import READERS
from depthlm.errors import InputError
from depthlm.evaluation.beside import beside, differences, sections
from depthlm.evaluation.document import Table
from depthlm.evaluation.domains import means_of, provenance
from depthlm.evaluation.page import PUBLISHED, Entry, write_report
from depthlm.evaluation.published import MEAN, Rule, format_tables, metrics, published, select
from depthlm.evaluation.runs import read_run
from depthlm.evaluation.suites import SUITES
from depthlm.models.card import RELEASED, ModelCard
from test_report import make_run, rooms  # noqa: F401

OTHER_SETS = {MEAN, "spatialrgpt", "dtu", "tartanair-wb"}


# --- the data -------------------------------------------------------------------------------------------------------


def test_every_cell_is_complete() -> None:
    units = {name: (entry["unit"], entry["better"]) for name, entry in metrics().items()}
    ranges = {"share": (0, 1), "ratio": (0, 10), "m": (0, 100), "px": (0, 500), "degrees": (0, 180)}
    for cell in published():
        where = f"{cell.source}: {cell.model} {cell.set} {cell.metric}"
        assert cell.set in READERS or cell.set in OTHER_SETS, where
        assert set(cell.over) <= {*READERS, *OTHER_SETS} - {MEAN}, where
        assert bool(cell.over) <= (cell.set == MEAN), where
        assert units[cell.metric][0] == cell.unit, where
        assert units[cell.metric][1] in ("higher", "lower"), where
        low, high = ranges.get(cell.unit, (-100, 100))
        assert low <= cell.value <= high, where
        assert all((cell.model, cell.task, cell.paper, cell.table, cell.title, cell.protocol_title, cell.focal)), where
        assert all(isinstance(part, str) for part in (cell.focal, cell.caveat, cell.title, cell.table)), where
        assert cell.training in ("in-domain", "zero-shot", "mixed", "not stated"), where
        assert (cell.training == "mixed") == (cell.set == MEAN), where
        rule = cell.rule
        assert rule.label in (None, "z", "distance"), where
        assert rule.labels in ("metres", "released"), where
        assert rule.answers in ("raw", "converted"), where
        assert rule.points, where
        assert rule.suite is None or rule.suite in SUITES, where
        if rule.suite is not None and cell.set != MEAN:
            members = {member.dataset: member.split for member in SUITES[rule.suite].sets}
            assert members[cell.set] == rule.split, where
            assert rule.label is not None, where


def test_cells_differ() -> None:
    """No figure stands twice in one table without a caveat that tells them apart."""
    keys = [(c.source, c.title, c.model, c.set, c.task, c.metric, c.caveat) for c in published()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("model", "dataset", "paper", "metric", "value"),
    [
        ("DepthLM-7B", "nuscenes", "DepthLM", "delta1", 0.865),
        ("DepthLM-7B", "mean", "DepthLM", "delta1", 0.838),
        ("DepthLM-3B", "ibims1", "DepthLM", "delta1", 0.890),
        ("DepthLM-12B", "scannetpp", "DepthLM", "delta1", 0.834),
        ("GPT-5", "nyuv2", "DepthLM", "delta1", 0.540),
        ("Seed1.5-VL", "nyuv2", "DepthLM", "delta1", 0.841),
        ("always 2.0 m", "sunrgbd", "DepthLM", "delta1", 0.384),
        ("UniDepthV2", "eth3d", "DepthLM", "delta1", 0.852),
        ("UniDepthV2", "eth3d", "DepthVLM", "delta1", 0.657),
        ("UniDepth", "ibims1", "DepthLM", "delta1", 0.157),
        ("Metric3Dv2", "mean", "DepthLM", "relative", -3.8),
        ("DepthLM-12B", "ibims1", "facebook/DepthLM", "rmse", 1.261),
        ("DepthLM-12B", "nyuv2", "facebook/DepthLM", "delta1", 0.865),
        ("DepthLM-12B", "diode", "facebook/DepthLM", "delta1", 0.255),
        ("VLM3-4B", "scannetpp", "VLM3", "delta1", 0.976),
        ("Qwen3-VL-4B", "mean", "VLM3", "delta1", 0.101),
        ("MoGe-2", "ibims1", "VLM3", "delta1", 0.924),
        ("MoGe-2", "ibims1", "Vision Banana", "delta1", 0.830),
        ("VLM3-32B", "mean", "VLM3", "delta1", 0.873),
        ("VLM3-4B", "dtu", "VLM3", "epe", 10.71),
        ("VGGT", "scannetpp", "VLM3", "auc30", 95.1),
        ("SpatialRGPT-8B", "spatialrgpt", "VLM3", "direction", 17.1),
        ("Youtu-VL-4B", "waymo", "DepthVLM", "delta1", 0.473),
        ("DepthVLM-8B", "eth3d", "DepthVLM", "delta1", 0.928),
        ("DA3", "ibims1", "DepthVLM", "delta1", 0.955),
        ("DenseMLLM-4B", "ddad", "DenseMLLM", "delta1", 0.876),
    ],
)
def test_values_are_those_printed(model: str, dataset: str, paper: str, metric: str, value: float) -> None:
    found = [
        c.value for c in published()
        if (c.model, c.set, c.metric) == (model, dataset, metric) and c.paper.split(",")[0].startswith(paper)
    ]  # fmt: skip
    assert value in found


def test_printed_means_follow_from_their_rows() -> None:
    """Or a caveat says that they do not: no slip of the pen of ours hides there."""
    checked = 0
    rows: dict[Any, list[Any]] = {}
    for cell in published():
        own_caveat = cell.caveat if "mean" in cell.caveat or "prompt" in cell.caveat else ""
        rows.setdefault((cell.source, cell.title, cell.metric, cell.model, own_caveat), []).append(cell)
    for cells in rows.values():
        values = {c.set: c.value for c in cells if c.task in ("distance", "match", "pose")}
        if MEAN not in values or len(values) < 3 or any("mean" in c.caveat for c in cells):
            continue
        mean = sum(v for name, v in values.items() if name != MEAN) / (len(values) - 1)
        slack = {"delta1": 0.00051, "epe": 0.0051, "auc30": 0.051}[cells[0].metric]
        assert values[MEAN] == pytest.approx(mean, abs=slack), cells[0]
        checked += 1
    assert checked > 35


@pytest.mark.parametrize(("model", "domain", "mean"), [
    ("DepthLM-7B", "in-domain", 0.849), ("VLM3-4B", "in-domain", 0.947),
    ("DepthLM-7B", "zero-shot", 0.832), ("VLM3-4B", "zero-shot", 0.878),
])  # fmt: skip
def test_means_by_what_a_model_learned_from(model: str, domain: str, mean: float) -> None:
    """vlm3.md 3.1: the gain of VLM3 is 9.8 points in-domain and 4.6 zero-shot."""
    paper = "DepthLM" if model.startswith("DepthLM") else "VLM3"
    cells = [c for c in published() if c.model == model and c.table == "Table 1" and c.paper.startswith(paper)]
    values = [c.value for c in cells if c.training == domain]
    assert sum(values) / len(values) == pytest.approx(mean, abs=0.0006)


def test_released_cards_and_tables_agree_on_what_was_trained_on() -> None:
    for name, sets in (("DepthLM-12B", RELEASED["facebook/DepthLM"]), ("VLM3-4B", RELEASED["facebook/VLM3-depth"])):
        trained = {c.set for c in published() if c.model == name and c.training == "in-domain"}
        others = {c.set for c in published() if c.model == name and c.training == "zero-shot"}
        assert trained <= set(sets.trained_on or ())
        assert not others & set(sets.trained_on or ())


def test_figures_of_the_document_are_those_of_the_cells() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "tables.md").read_text()
    rows = re.findall(r"^\|[^|]*\| ([^|,]+)[^|]*\| (\.\d+) \| (\.\d+) \|", text, re.MULTILINE)
    assert len(rows) == 8
    for model, *figures in rows:
        values = {c.value for c in select(model=model.strip())}
        assert {float(figure) for figure in figures} <= values, model


# --- the command ----------------------------------------------------------------------------------------------------

GOLDEN = """\
facebook/DepthLM measured again by others, 10,000 points per set: an independent run
  delta1, share; the released 12B measured again by others
  points  10,000 points per set, of which 9,700 to 9,900 were answered
  truth   z; labels in metres
                    diode  told of the camera
  DepthLM-12B [1]   0.255  true, pictures resized to 750 px
  [1] paper .870, .819, .670 on the first three; the gap on iBims-1 is not explained, DIODE about
  diode: outdoor
"""


def test_golden_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "tables", "--set", "diode") == (0, GOLDEN, "")


def test_tables_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(
        capsys, "tables", "--set", "nuscenes", "--model", "depthlm-7b", "--metric", "delta1", "--json"
    )
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["n"] == len(found["cells"]) == 3
    cell = found["cells"][0]
    assert {k: cell[k] for k in ("model", "value", "label", "labels", "suite", "split", "training", "quoted")} == {
        "model": "DepthLM-7B", "value": 0.865, "label": "z", "labels": "released", "suite": "paper", "split": "mini",
        "training": "in-domain", "quoted": False,
    }  # fmt: skip


def test_every_table_prints() -> None:
    text = format_tables(published())
    assert text.count("told of the camera") == len({(c.source, c.title, c.protocol, c.metric) for c in published()})
    assert "0.833*" in text
    assert max(map(len, text.splitlines())) < 240


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "ibims"], "--set 'ibims' is in no published table; did you mean ibims1?"),
        (["--set", "NYUv2"], "did you mean nyuv2?"),
        (["--model", "DepthLN-7B"], "--model 'DepthLN-7B' is in no published table; did you mean DepthLM-7B"),
        (["--metric", "delta_1"], "did you mean delta1?"),
        (
            ["--metric", "zzz"],
            "'zzz' is in no published table; expected one of absrel, accuracy, auc30, delta1",
        ),
        (["--set", "diode", "--metric", "epe"], "no published cell has --set diode --metric epe together; leave one"),
    ],
)
def test_unknown_names(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    status, out, err = run(capsys, "tables", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_select_by_part_of_a_name() -> None:
    assert {c.model for c in select(model="UNIDEPTH")} == {"UniDepth", "UniDepthV2"}
    with pytest.raises(InputError, match="did you mean"):
        select(model="UniDeppth")


# --- protocols ------------------------------------------------------------------------------------------------------

LEGACY = {"suite": "paper", "legacy_labels": True, "task": "z", "answers": "z", "n": 8192, "split": "test",
          "dataset": "ibims1", "images": 100}  # fmt: skip
RULE = Rule(label="z", labels="released", suite="paper", split="test", points="8,192 points")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"answers": None}, []),  # asked for z itself
        ({"task": "distance", "answers": "distance"}, ["truth: z there, distance here"]),
        ({"answers": "distance"}, ["answers: compared as they are there, turned from distance into z here"]),
        ({"legacy_labels": False}, ["labels: as released with their errors there, metres here"]),
        ({"suite": "depthvlm"}, ["points: 8,192 points there, 8,192 of suite depthvlm here"]),
        ({"suite": None}, ["points: 8,192 points there, 8,192 of no suite here"]),
        ({"split": "val"}, ["split: test there, val here"]),
        ({"images": 96}, []),
        ({"images": 25}, ["pictures: 100 there, 25 here"]),  # part of a download is another set
        ({"dataset": "ddad", "images": 25}, []),  # of which nobody says how many there are
        ({"legacy_labels": False, "suite": None, "task": "distance"}, ["truth", "labels", "answers", "points"]),
    ],
)
def test_what_two_protocols_do_not_share(change: dict[str, Any], told: list[str]) -> None:
    found = differences(LEGACY | change, RULE)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True))


def test_doubtful_cells_never_share() -> None:
    assert differences(LEGACY, Rule(label="z", labels="released", suite="paper", apart="not known")) == ("not known",)


def summary(dataset: str | None, task: str, **other: Any) -> dict[str, Any]:
    return {
        "model": "mine", "reference": "text", "metric": "delta1", "score": 0.5, "delta1": 0.5, "absrel": 0.2,
        "rmse": 1.0, "n": 8192, "task": task, "answers": task, "dataset": dataset, "split": None, "suite": None,
        "legacy_labels": False, "domain": None, "data": dataset, "images": 1449,
    } | other  # fmt: skip


def shared_models(found: list[Any]) -> set[str]:
    return {one.cell.model for one in found if not one.differs}


def test_legacy_runs_share_a_row_with_depthlm_and_correct_ones_do_not() -> None:
    legacy = summary("nuscenes", "z", suite="paper", legacy_labels=True, split="mini")
    shared = shared_models(beside([legacy]))
    assert {"DepthLM-7B", "GPT-5", "VLM3-4B"} <= shared
    assert not {"UniDepthV2", "DepthVLM-4B"} & shared
    assert not shared_models(beside([legacy | {"legacy_labels": False}]))
    assert not shared_models(beside([legacy | {"task": "distance"}]))
    assert not shared_models(beside([summary("nyuv2", "distance", suite="paper", legacy_labels=True)]))  # 0.8 or not?


def test_depthvlm_runs_share_a_row_with_the_bench() -> None:
    shared = shared_models(beside([summary("ibims1", "z", suite="depthvlm", split="test", answers="distance")]))
    assert {"DepthVLM-8B", "DepthLM-12B", "DA3", "GPT-5.5"} <= shared
    assert not {"DepthLM-7B", "VLM3-4B"} & shared
    nyu = beside([summary("nyuv2", "z", suite="depthvlm", split="test")])
    assert "DepthVLM-8B" in shared_models(nyu)
    assert "DepthLM-12B" not in shared_models(nyu)  # that one cell fits other labels


def test_nothing_is_beside_runs_of_other_tasks_or_unnamed_sets() -> None:
    assert beside([summary("ibims1", "surface"), summary(None, "z"), summary("tum", "z")]) == []
    assert sections([summary("tum", "z")]) == []


def test_runs_of_two_suites_get_a_table_each() -> None:
    runs = [
        summary("ibims1", "z", suite="paper", legacy_labels=True, split="test"),
        summary("ibims1", "z", suite="depthvlm", split="test", delta1=0.6),
    ]
    first = sections(runs)[0]
    tables = [part for part in first.parts if isinstance(part, Table)]
    assert [table.rows[0][2] for table in tables] == ["0.500", "0.600"]
    for table in tables:
        assert table.strong == {0}
    assert not {row[-1] for row in tables[0].rows[1:]} & {row[-1] for row in tables[1].rows[1:]}, "sources"


def test_a_report_sets_a_run_beside_its_protocol_and_the_rest_apart(rooms: Any, tmp_path: Path) -> None:  # noqa: F811
    facts = {
        "dataset": "ibims1",
        "suite": "paper",
        "legacy_labels": True,
        "split": "test",
        "delta1": 0.5,
        "images": 100,
    }
    folder = make_run(tmp_path / "mine", rooms, 0.2, data="paper/ibims1", domain="zero-shot", **facts)
    write_report(tmp_path / "out", [Entry(run=read_run(folder))])
    text = (tmp_path / "out" / "report.md").read_text()
    shared, apart = text.split("### Another protocol", 1)
    assert "| **mine" not in shared
    assert "| mine, text | delta1 | 0.500 | this run |" in shared
    assert "| VLM3-4B (" in shared
    assert "| UniDepthV2" not in shared
    assert "ibims1 (z): truth: not stated there, z here; labels: metres there, as released" in apart
    assert "DepthVLM-Bench" in apart
    saved = json.loads((tmp_path / "out" / PUBLISHED).read_text())
    assert {cell["protocol"] for cell in saved["shared"]} == {"depthlm", "vlm3"}
    assert all(cell["differs"] for cell in saved["apart"])
    assert '<tr class="strong"><td>mine, text' in (tmp_path / "out" / "report.html").read_text()


def test_a_report_says_when_no_cell_shares_the_protocol(rooms: Any, tmp_path: Path) -> None:  # noqa: F811
    folder = make_run(tmp_path / "mine", rooms, 0.2, dataset="ibims1", delta1=0.5)
    write_report(tmp_path / "out", [Entry(run=read_run(folder))])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "No published cell shares the protocol" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<code>--suite depthvlm --task z</code>" in page
    titles = re.findall(r"<h2>([^<]+)</h2>", page)
    assert titles.index("Accuracy") < titles.index("Published results of other protocols"), "the run's own come first"
    assert "this run" not in text
    other = make_run(tmp_path / "other", rooms, 0.2)
    write_report(tmp_path / "plain", [Entry(run=read_run(other))])
    assert not (tmp_path / "plain" / PUBLISHED).exists()
    assert "Beside published" not in (tmp_path / "plain" / "report.md").read_text()


# --- where samples come from ----------------------------------------------------------------------------------------


class Shards:
    def __init__(self, **info: Any) -> None:
        self.info = info


def test_origin_and_domain() -> None:
    curated = Shards(source="depthlm curate", settings={"dataset": "nuscenes", "split": "mini", "legacy": True})
    assert origin_of(curated) == ("nuscenes", "mini", True)
    assert origin_of(Shards(source="depthlm synth")) == ("synth", None, False)
    assert origin_of([]) == (None, None, False)
    card = RELEASED["facebook/DepthLM"]
    assert provenance(curated, card) == {
        "dataset": "nuscenes", "split": "mini", "legacy_labels": True, "domain": "in-domain"
    }  # fmt: skip
    assert provenance(Shards(source="depthlm synth"), card)["domain"] == "zero-shot"
    assert provenance(curated, ModelCard())["domain"] is None
    assert provenance([], card)["domain"] is None


def test_means_are_apart_only_where_the_domain_is_known() -> None:
    runs = [summary("a", "z", domain="in-domain"), summary("b", "z", score=0.7), summary("c", "z", domain="zero-shot")]
    means = means_of(runs)
    assert {name: (round(mean["score"], 3), mean["sets"]) for name, mean in means.items()} == {
        "all": (0.567, ["a", "b", "c"]), "in-domain": (0.5, ["a"]), "zero-shot": (0.5, ["c"]),
    }  # fmt: skip
    assert means_of([*runs, summary("d", "z", metric="accuracy")]) == {}


def test_a_card_says_what_it_learned_from_or_nothing() -> None:
    assert ModelCard(trained_on=["synth"]).trained_on == ["synth"]
    with pytest.raises(InputError, match="trained_on is 'synth'; expected a list of data sets, or null"):
        ModelCard(trained_on="synth")  # type: ignore[arg-type]
