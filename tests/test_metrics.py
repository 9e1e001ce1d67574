"""Metrics against hand-computed values, the floor against brute force, the choice of points against its promise."""

import numpy as np
import pytest

from depthlm.errors import InputError
from depthlm.evaluation.points import choose_points
from depthlm.metrics import absrel, best_constant, bootstrap_interval, delta1, is_correct, rmse

NAN = float("nan")


@pytest.mark.parametrize(
    ("p", "g", "right"),
    [
        (1.0, 1.0, True),
        (1.25, 1.0, False),  # strict, from above
        (1.0, 1.25, False),  # and from below
        (1.2499, 1.0, True),
        (1.0, 1.2499, True),
        (NAN, 1.0, False),
        (0.0, 1.0, False),
        (-1.0, 1.0, False),
        (float("inf"), 1.0, False),
    ],
)
def test_is_correct(p: float, g: float, right: bool) -> None:
    assert is_correct([p], [g]).tolist() == [right]


def test_by_hand() -> None:
    p, g = [1.0, 3.0, NAN, 4.0], [1.0, 2.0, 5.0, 4.0]
    assert delta1(p, g) == 0.5  # right: 1st and 4th of all four
    assert absrel(p, g) == pytest.approx((0 + 0.5 + 0) / 3)
    assert rmse(p, g) == pytest.approx(np.sqrt(1 / 3))


def test_nothing_to_score() -> None:
    assert delta1([], []) is None
    assert absrel([NAN], [1.0]) is None
    assert rmse([NAN], [1.0]) is None
    assert delta1([NAN], [1.0]) == 0.0
    assert best_constant([]) == (None, None)


def test_unequal_lengths_are_a_fault() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1"):
        delta1([1, 2], [1])


@pytest.mark.parametrize(
    "truth",
    [
        [3.0],
        [1.0, 1.0, 1.0],
        [1.0, 1.5625],  # exactly 1.25 squared apart: no constant is right for both
        [1.0, 1.56],
        [1.0, 2.0, 4.0, 4.4, 4.8, 8.0],
        np.random.default_rng(0).lognormal(1, 0.8, 300).tolist(),
        np.random.default_rng(1).uniform(0.5, 10, 101).tolist(),
    ],
)
def test_best_constant_is_the_best(truth: list[float]) -> None:
    constant, share = best_constant(truth)
    assert constant is not None
    assert share == delta1(np.full(len(truth), constant), truth)
    candidates = np.exp(np.linspace(np.log(min(truth) / 1.3), np.log(max(truth) * 1.3), 20_001))
    brute = max(float(is_correct(np.full(len(truth), c), truth).mean()) for c in candidates)
    assert share >= brute


def test_bootstrap() -> None:
    correct = np.array([1, 0, 1, 1, 0, 0, 1, 1], bool)
    image = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    low, high = bootstrap_interval(correct, image, seed=3)
    assert low is not None
    assert high is not None
    assert 0 <= low < correct.mean() < high <= 1
    assert bootstrap_interval(correct, image, seed=3) == (low, high)
    assert bootstrap_interval(correct, np.zeros(8, int)) == (None, None)
    assert bootstrap_interval([], []) == (None, None)
    assert bootstrap_interval(np.ones(8, bool), image) == (1.0, 1.0)


def test_bootstrap_draws_images_not_points() -> None:
    """Wholly right or wholly wrong images: the interval has to be as wide as that of 20 coins, not of 20,000."""
    image = np.repeat(np.arange(20), 1000)
    low, high = bootstrap_interval(image % 2 == 0, image)
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 20), rel=0.15)


def test_choose_points() -> None:
    counts = [3, 0, 5, 1]
    everything = choose_points(counts, 100, seed=0)
    assert everything.tolist() == [[0, 0], [0, 1], [0, 2], [2, 0], [2, 1], [2, 2], [2, 3], [2, 4], [3, 0]]
    some = choose_points(counts, 4, seed=0)
    assert len({tuple(row) for row in some.tolist()}) == 4
    assert {tuple(row) for row in some.tolist()} <= {tuple(row) for row in everything.tolist()}
    assert some.tolist() == choose_points(counts, 4, seed=0).tolist()
    assert any(some.tolist() != choose_points(counts, 4, seed=s).tolist() for s in range(1, 5))


def test_choose_points_is_uniform() -> None:
    hits = np.zeros(10)
    for seed in range(2000):
        rows = choose_points([7, 3], 2, seed=seed)
        hits[rows[:, 0] * 7 + rows[:, 1]] += 1
    assert abs(hits - 400).max() < 5 * np.sqrt(400)


@pytest.mark.parametrize(("counts", "total"), [([], 5), ([0, 0], 5), ([3], 0), ([3], -1)])
def test_nothing_to_choose(counts: list[int], total: int) -> None:
    with pytest.raises(InputError):
        choose_points(counts, total, seed=0)
