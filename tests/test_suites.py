"""Benchmark suites: the rule that picks points, pinned; running a suite; legacy labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cli_runner import run
from depthlm.data.readers.base import FrameRef, get_reader
from depthlm.evaluation.suites import SUITES, choose_images, get_suite, write_manifest
from trees import write_ibims

if TYPE_CHECKING:
    from pathlib import Path


def refs(count: int) -> list[FrameRef]:
    return [FrameRef(id=f"image_{i}", scene="s") for i in range(count)]


def test_every_set_and_split_of_every_suite_exists() -> None:
    for suite in SUITES.values():
        for member in suite.sets:
            get_reader(member.dataset).check_split(member.split)


@pytest.mark.parametrize(("images", "points", "limit"), [(3, 10, None), (10, 3, None), (100, 8192, None), (50, 100, 7)])
def test_points_are_spread_evenly(images: int, points: int, limit: int | None) -> None:
    chosen = choose_images("set", refs(images), points, limit)
    counts = [choice.points for choice in chosen]
    assert sum(counts) == points
    assert len(chosen) == min(images, points, limit or images)
    assert max(counts) - min(counts) <= 1


def test_the_choice_does_not_depend_on_the_order_of_the_tree() -> None:
    forward, backward = choose_images("set", refs(40), 100, 9), choose_images("set", refs(40)[::-1], 100, 9)
    assert {(c.ref.id, c.points) for c in forward} == {(c.ref.id, c.points) for c in backward}
    assert {c.ref.id for c in forward} != {c.ref.id for c in choose_images("other", refs(40), 100, 9)}


def test_the_rule_is_pinned() -> None:
    """These images, for ever: published numbers depend on it."""
    assert [(c.ref.id, c.points) for c in choose_images("ibims1", refs(20), 7, 3)] == IMAGES


IMAGES = [("image_4", 2), ("image_9", 2), ("image_13", 3)]


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    write_ibims(tmp_path / "downloads" / "ibims1", 5)
    return tmp_path / "downloads"


def test_a_manifest_names_the_same_pixels_wherever_the_download_lies(downloads: Path, tmp_path: Path) -> None:
    write_ibims(tmp_path / "elsewhere", 5)
    first = write_manifest(get_suite("paper"), "ibims1", downloads / "ibims1", tmp_path / "a.json")
    second = write_manifest(get_suite("paper"), "ibims1", tmp_path / "elsewhere", tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert first["points_sha256"] == second["points_sha256"]
    assert first["points"] == 8192
    assert first["rule"].startswith("The rule makes two people")
    image = first["images"][0]
    frame = get_reader("ibims1").read(downloads / "ibims1", FrameRef(id=image["image"], scene=""))
    u, v = np.array(image["uv"]).astype(int).T
    np.testing.assert_allclose(frame.labels.z[v, u], image["z"], atol=1e-4)
    assert len({(*uv,) for uv in image["uv"]}) == len(image["uv"])


@pytest.mark.parametrize(
    ("suite", "dataset", "below", "digest"),
    [
        ("paper", "ibims1", "ibims1/derived_core_raw", "8550a06ada68a3e13aca1fba04a21dd3"),
        ("paper", "nuscenes", "nuscenes", "802fd187118a3d8ed34196f90786a0e2"),
        ("paper", "ddad", "ddad", "464618be99410bb6607612f5c4b18bec"),
        ("depthvlm", "ibims1", "ibims1/derived_core_raw", "990cc72a21c21ae95bdc5c8fe5be4b63"),
    ],
)  # fmt: skip
def test_golden_points_of_real_downloads(
    suite: str, dataset: str, below: str, digest: str, samples_dir: Path, tmp_path: Path
) -> None:
    """These pixels, for ever: another digest means another benchmark."""
    pinned = write_manifest(get_suite(suite), dataset, samples_dir / below, tmp_path / "a.json")
    assert pinned["points_sha256"][:32] == digest
    assert pinned["points"] == get_suite(suite).points


def small(monkeypatch: Any, points: int) -> None:
    """The paper's suite with so few points that a tiny model answers them at once."""
    import dataclasses

    monkeypatch.setitem(SUITES, "paper", dataclasses.replace(SUITES["paper"], points=points))


def test_a_suite_runs_what_is_there_and_names_what_is_not(
    downloads: Path, tmp_path: Path, tiny_model: Path, monkeypatch: Any, capsys: Any
) -> None:
    small(monkeypatch, 10)
    arguments = ["eval", tiny_model, downloads, "--suite", "paper", "--out", tmp_path / "out", "--json"]
    status, stdout, stderr = run(capsys, *arguments)
    assert status == 0, stderr
    result = json.loads(stdout)
    assert [r["dataset"] for r in result["runs"]] == ["ibims1"]
    assert result["absent"] == ["argoverse2", "ddad", "nuscenes", "eth3d", "scannetpp", "sunrgbd", "nyuv2"]
    assert result["runs"][0]["n"] == 10
    assert result["runs"][0]["scored"] == "distance"
    assert result["mean_delta1"] == result["runs"][0]["delta1"]
    assert run(capsys, *arguments)[1] == stdout  # a finished run is read again
    status, stdout, _ = run(capsys, *arguments[:-1])
    assert status == 0
    assert "nyuv2          absent" in stdout


def test_legacy_labels_score_raw_answers_against_what_was_published(
    downloads: Path, tmp_path: Path, tiny_model: Path, monkeypatch: Any, capsys: Any
) -> None:
    small(monkeypatch, 6)
    status, stdout, _ = run(
        capsys, "eval", tiny_model, downloads, "--suite", "paper", "--legacy-labels", "--out", tmp_path / "out"
    )
    assert status == 0
    assert "LEGACY LABELS" in stdout
    assert "masks of glass" in stdout
    summary = json.loads((tmp_path / "out" / "ibims1" / "summary.json").read_text())
    assert (summary["scored"], summary["answers"]) == ("z", "z")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{downloads}", "--suite", "mine"], "suite 'mine' is unknown; expected one of paper, depthvlm"),
        (["{downloads}/ibims1", "--suite", "paper"], "holds no set of suite 'paper'; expected folders"),
        (["{downloads}", "{downloads}", "--suite", "paper"], "--suite takes one folder"),
        (["{downloads}", "--legacy-labels"], "--legacy-labels needs --suite"),
    ],
)
def test_bad_input(arguments: list[str], words: str, downloads: Path, tiny_model: Path, capsys: Any) -> None:
    status, _, stderr = run(capsys, "eval", tiny_model, *(a.format(downloads=downloads) for a in arguments))
    assert status == 2
    assert words in stderr
    assert len(stderr.strip().splitlines()) == 1
