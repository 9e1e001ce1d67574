"""What dense truth says of labelled points: near a depth edge, angle of the surface; and its way into runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli_runner import run
from depthlm.camera import Camera
from depthlm.data.readers.base import DenseLabels, SparseLabels
from depthlm.data.shards import ShardDataset, write_shards
from depthlm.errors import InputError
from depthlm.evaluation.geometry import incidence_map
from depthlm.evaluation.runs import measure_run, read_run
from depthlm.surfaces import edge_band, point_facts
from depthlm.synth.generate import synth_rendered, synth_samples

CAMERA = Camera(60.0, 60.0, 31.5, 23.5, 64, 48)


def test_facts_of_points_are_those_of_the_map() -> None:
    """On rooms: the same pixels of the whole maps; no angle across an edge."""
    beside_edges = 0
    for rendered in synth_rendered(6, seed=9_200_000, views=1):
        z, camera = rendered.z, rendered.camera
        rng = np.random.default_rng(0)
        u, v = rng.integers(0, camera.width, 500), rng.integers(0, camera.height, 500)
        near, angle = point_facts(z, u, v, camera)
        np.testing.assert_array_equal(near, edge_band(z)[v, u])
        np.testing.assert_allclose(angle, np.where(near, np.nan, incidence_map(z, camera)[v, u]), atol=1e-6)
        assert np.isfinite(angle).sum() > 250
        beside_edges += near.sum()
    assert beside_edges > 30


def test_a_smaller_map_says_the_same_of_its_plane() -> None:
    """Labels of half the picture's size: places go through the picture's camera."""
    u = (np.arange(64) - CAMERA.cx) / CAMERA.fx
    plane = np.tile(3 / (1 - 0.5 * u), (48, 1))  # z = 3 + x / 2
    full = DenseLabels(plane, np.ones_like(plane, dtype=bool))
    larger = CAMERA.resize(128, 96)
    middle = 23 * 64 + 31
    for camera in (CAMERA, larger):
        near, angle = full.facts([middle], camera)
        assert not near[0]
        assert angle[0] == pytest.approx(np.degrees(np.arctan(0.5)), abs=1.0)
    assert SparseLabels(np.zeros((3, 2)), np.ones(3)).facts([0], CAMERA) == (None, None)


def test_masked_depths_make_no_edge() -> None:
    z = np.full((48, 64), 2.0)
    z[:, 32:] = 4.0
    every = DenseLabels(z, np.ones_like(z, dtype=bool))
    near_half = every.within(0.1, 3.0)
    place = int(np.flatnonzero(near_half.valid.ravel() & (np.arange(z.size) % 64 == 31))[10])
    assert every.facts([place], CAMERA)[0] == [True]
    index = int(np.searchsorted(np.flatnonzero(near_half.valid), place))
    assert near_half.facts([index], CAMERA)[0] == [False]


def test_they_travel_into_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the renderer through shards and an evaluation to the figures by edge and by angle."""
    rooms = list(synth_samples(2, seed=9_200_001, views=1, points=120))
    write_shards([rooms[0], replace(rooms[1], near_edge=None, incidence=None)], tmp_path / "data")
    back = ShardDataset(tmp_path / "data")
    np.testing.assert_array_equal(back[0].near_edge, rooms[0].near_edge)
    np.testing.assert_array_equal(back[0].incidence, rooms[0].incidence)
    assert back[1].near_edge is None
    assert back[1].incidence is None
    write_shards(rooms, tmp_path / "both")
    out = tmp_path / "run"
    status, _, errors = run(capsys, "eval", "oracle", tmp_path / "both", "--backend", "oracle", "--out", out)
    assert status == 0, errors
    found = measure_run(read_run(out).table, "distance")
    assert found is not None
    count = sum(int(room.near_edge.sum()) for room in rooms)
    assert [(row["place"], row["n"]) for row in found["by_edge"]] == [
        ("interior", sum(map(len, rooms)) - count), ("boundary", count),
    ]  # fmt: skip
    assert sum(row["n"] for row in found["by_incidence"]) == sum(int(np.isfinite(r.incidence).sum()) for r in rooms)


@pytest.mark.parametrize("name", ["near_edge", "incidence"])
def test_labels_of_another_length(name: str) -> None:
    room = next(iter(synth_samples(1, seed=9_200_001, views=1, points=20)))
    with pytest.raises(InputError, match=f"3 {name} labels for"):
        replace(room, **{name: np.zeros(3)})
