"""Which row when: bijections, shares, and an exact place for every draw."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from depthlm.data.mixture import PRESETS, Mixture, Permutation, cap_passes, mixture_weights
from depthlm.errors import InputError


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 10, 16, 17, 64, 65, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_permutation_is_a_bijection(n: int, seed: int) -> None:
    for epoch in (0, 1, 7):
        assert sorted(Permutation(seed, epoch, n)) == list(range(n))


def test_permutation_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): list(Permutation(seed, epoch, 1000)) for seed in range(3) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9
    assert orders[1, 2] == list(Permutation(1, 2, 1000))
    for order in orders.values():  # shuffled: few rows stay, neighbours part
        assert sum(i == j for i, j in enumerate(order)) < 10
        assert np.mean(np.abs(np.diff(order))) == pytest.approx(1000 / 3, rel=0.15)


def test_permutation_spreads_evenly() -> None:
    places = np.array([list(Permutation(seed, 0, 8)) for seed in range(2000)])
    counts = np.array([[np.sum(places[:, i] == j) for j in range(8)] for i in range(8)])
    assert counts.min() > 150
    assert counts.max() < 350  # 250 expected


def test_permutation_of_a_billion_rows_needs_no_memory() -> None:
    permutation = Permutation(3, 0, 10**12)
    seen = {permutation[i] for i in range(1000)}
    assert len(seen) == 1000
    assert max(seen) > 10**11


@pytest.mark.parametrize("index", [-1, 5])
def test_permutation_bounds(index: int) -> None:
    with pytest.raises(IndexError):
        Permutation(0, 0, 5)[index]
    with pytest.raises(ValueError, match="-1 items"):
        Permutation(0, 0, -1)


@pytest.mark.parametrize("weights", [[1, 1, 1, 0.1], [3.0, 0.5, 0.0, 1.0], [1e-9, 1, 1, 1]])
def test_shares_hold_at_any_time(weights: list[float]) -> None:
    mixture = Mixture([range(50), range(7), range(1000), range(3)], weights, seed=5)
    counts, share = np.zeros(4), np.array(weights) / np.sum(weights)
    for i in range(5000):
        counts[mixture.at(i)[0]] += 1
        assert np.abs(counts - share * (i + 1)).max() < 5  # low discrepancy, not merely on average
    assert (counts[np.array(weights) == 0] == 0).all()


def test_every_row_once_per_pass_and_passes_differ() -> None:
    mixture = Mixture([range(10), range(37)], [1, 0.25], seed=2)
    rows: dict[int, list[int]] = {0: [], 1: []}
    for i in range(4000):
        dataset, row = mixture.at(i)
        rows[dataset].append(row)
    for dataset, size in ((0, 10), (1, 37)):
        passes = [tuple(rows[dataset][k : k + size]) for k in range(0, len(rows[dataset]) - size + 1, size)]
        assert all(sorted(p) == list(range(size)) for p in passes)
        assert len(set(passes)) > len(passes) * 0.9


def test_one_set_of_equal_weight_is_a_plain_epoch() -> None:
    mixture = Mixture([range(13)], None, seed=0)
    assert len(mixture) == 13
    first, second = ([mixture[epoch, i] for i in range(13)] for epoch in (0, 1))
    assert sorted(row for _, row in first) == sorted(row for _, row in second) == list(range(13))
    assert first != second


def test_a_draw_is_a_pure_function_of_its_index() -> None:
    """Resuming at any step, in any order, across block borders, gives what an unbroken run gave."""
    sets = [range(100), range(20)]
    straight = [Mixture(sets, [1, 0.3], seed=9).at(i) for i in range(65500, 65600)]
    resumed = Mixture(sets, [1, 0.3], seed=9)
    assert [resumed.at(i) for i in reversed(range(65500, 65600))] == straight[::-1]
    assert [Mixture(sets, [1, 0.3], seed=10).at(i) for i in range(65500, 65600)] != straight
    assert resumed[3, 7] == resumed.at(3 * 120 + 7)


def test_passes_continue_across_blocks() -> None:
    mixture = Mixture([range(1000), range(1000)], [1, 0.5], seed=4)
    counts = Counter(mixture.at(i) for i in range(65536 - 4000, 65536 + 4000))
    per_row = [counts[0, row] for row in range(1000)]
    assert min(per_row) >= 4
    assert max(per_row) <= 7  # 5333 draws of 1000 rows: 5 or 6 passes in the window, cut passes at both ends


@pytest.mark.parametrize(
    ("sets", "weights", "message"),
    [
        ([range(3)], [1, 2], "1 data sets but 2 weights"),
        ([range(3)], [-1], "weight 0 is -1"),
        ([range(3)], [float("nan")], "weight 0 is nan"),
        ([range(3), range(0)], [1, 1], "data set 1 of the mixture is empty"),
        ([range(3)], [0], "no data set with a positive weight"),
        ([], [], "no data set"),
    ],
)
def test_bad_mixtures(sets: list, weights: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixture(sets, weights)


# --- named mixtures, and the cap on passes ---------------------------------------------------------------------------


def test_named_mixtures() -> None:
    sizes, names = [100, 300], ["a", "b"]
    assert mixture_weights("weights", [0.1, 2], sizes, names) == [0.1, 2]
    assert mixture_weights("uniform", [0.1, 2], sizes, names) == [1, 1]
    assert mixture_weights("size", [0.1, 2], sizes, names) == [100, 300]


def test_a_published_mixture_takes_its_sets_by_name() -> None:
    names = list(PRESETS["vlm3-public"])
    weights = mixture_weights("vlm3-public", [1] * 7, [10] * 7, names)
    assert dict(zip(names, weights, strict=True)) == pytest.approx(PRESETS["vlm3-public"])
    assert sum(weights) == pytest.approx(1.566)
    assert mixture_weights("depthlm", [1] * 7, [10] * 7, names)[names.index("matterport3d")] == 0.1


def test_parts_of_one_set_share_its_weight_by_size() -> None:
    names = [*PRESETS["vlm3-public"], "waymo"]
    weights = mixture_weights("vlm3-public", [1] * 8, [30] * 7 + [10], names)
    assert weights[names.index("waymo")] == pytest.approx(0.03)
    assert weights[-1] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("mixture", "names", "words"),
    [
        ("best", ["waymo"], "mixture is 'best'; expected one of weights, uniform"),
        ("depthlm", ["waymo", "mine"], "does not know mine"),
        ("depthlm", ["waymo", None], "does not know None"),
        ("vlm3", list(PRESETS["vlm3-public"]), "also needs street"),
    ],
)
def test_sets_that_are_not_the_preset(mixture: str, names: list[str | None], words: str) -> None:
    with pytest.raises(InputError, match=words):
        mixture_weights(mixture, [1] * len(names), [5] * len(names), names)


def test_capped_sets_hand_their_draws_on() -> None:
    assert cap_passes([1, 1, 2], [10, 1000, 1000], 100, 5) == pytest.approx([0.25, 0.25, 0.5])
    shares = cap_passes([1, 1, 2], [10, 1000, 1000], 1000, 2)  # the first may be drawn 20 times of 1000
    assert shares == pytest.approx([0.02, 0.98 / 3, 0.98 * 2 / 3])
    assert cap_passes([1, 1, 0], [10, 30, 5], 80, 2) == pytest.approx([0.25, 0.75, 0])
    with pytest.raises(InputError, match=r"need 2\.50 passes over the data, more than max_passes=2"):
        cap_passes([1, 1], [10, 30], 100, 2)


def test_a_cap_that_hits_a_second_set_after_the_first() -> None:
    """What the first gives up pushes the second over its own limit."""
    shares = cap_passes([5, 3, 2], [10, 30, 1000], 100, 1)
    assert shares == pytest.approx([0.1, 0.3, 0.6])
    mixture = Mixture([range(10), range(30), range(1000)], shares, seed=3)
    drawn = Counter(mixture.at(i) for i in range(100))
    assert max(count for (source, _), count in drawn.items() if source < 2) <= 2
