"""Every metric against values worked out by hand, the sums against a plain loop, intervals and tests against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from depthlm.errors import InputError
from depthlm.evaluation.calibration import calibration, sparsification_curve
from depthlm.evaluation.measure import Points, measure_points
from depthlm.evaluation.ordering import BANDS, order_errors, pair_columns, reuse
from depthlm.evaluation.resample import ImageSums, figures, holm, interval, paired
from depthlm.evaluation.scalars import FORMULAS, SCALARS, columns, scalar
from depthlm.metrics import absrel, bootstrap_interval, delta1, rmse

NAN = float("nan")
# Truths 1, 2, 4, 5 and answers that are exact, twice, half, and none.
P, G = [1.0, 4.0, 2.0, NAN], [1.0, 2.0, 4.0, 5.0]
LN2 = math.log(2)
BY_HAND = {
    "delta1": 1 / 4,  # the first alone
    "delta2": 1 / 4,
    "delta3": 1 / 4,  # 2 > 1.25^3
    "absrel": (0 + 1 + 0.5) / 3,
    "sqrel": (0 + 4 / 2 + 4 / 4) / 3,
    "rmse": math.sqrt((0 + 4 + 4) / 3),
    "rmse_log": LN2 * math.sqrt(2 / 3),
    "log10": 2 * math.log10(2) / 3,
    "silog": 100 * LN2 * math.sqrt(2 / 3),  # the mean of ln p - ln g is 0
    "scale": 1.0,
    # ln g = 0, L, 2L and ln p = 0, 2L, L (L = ln 2): covariance L^2 / 3, variance 2 L^2 / 3
    "slope": 0.5,
}


@pytest.mark.parametrize("name", list(FORMULAS))
def test_by_hand(name: str) -> None:
    assert scalar(name, P, G) == pytest.approx(BY_HAND[name], abs=1e-12)


def test_deltas_part_at_powers_of_a_quarter() -> None:
    p = [1.2, 1.5, 1.9, 2.0]
    assert [scalar(f"delta{k}", p, [1.0] * 4) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]


def test_every_metric_says_what_it_is() -> None:
    assert set(BY_HAND) == {metric.name for metric in SCALARS}
    assert all(metric.definition and metric.source for metric in SCALARS)


def test_nothing_to_say_is_none() -> None:
    assert scalar("absrel", [NAN], [1.0]) is None
    assert scalar("delta1", [NAN], [1.0]) == 0.0
    assert scalar("slope", [1.0, 2.0], [3.0, 3.0]) is None  # no line through truths all alike
    assert scalar("silog", [-1.0], [1.0]) is None  # no logarithm
    with pytest.raises(ValueError, match="2 predictions for 1"):
        scalar("rmse", [1, 2], [1])


def cloud(n: int = 600, images: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    g = rng.lognormal(1, 0.7, n)
    p = g * rng.lognormal(0.05, 0.25, n)
    p[::17] = NAN
    return p, g, np.sort(rng.integers(0, images, n))


def test_the_older_functions_agree() -> None:
    p, g, _ = cloud()
    assert scalar("delta1", p, g) == delta1(p, g)
    assert scalar("absrel", p, g) == pytest.approx(absrel(p, g))
    assert scalar("rmse", p, g) == pytest.approx(rmse(p, g))


def test_intervals_equal_those_of_resampled_points() -> None:
    """The fast path (sums of images) against drawing the points themselves again."""
    p, g, image = cloud(300, 6)
    sums = ImageSums.of(columns(p, g), image, 6)
    found = figures(sums, FORMULAS, seed=4, resamples=40)
    draws = np.random.default_rng(4).multinomial(6, np.full(6, 1 / 6), size=40)
    for name in FORMULAS:
        slow = []
        for row in draws:
            again = np.concatenate([np.flatnonzero(image == k) for k, times in enumerate(row) for _ in range(times)])
            slow.append(scalar(name, p[again], g[again]))
        assert found[name][0]["value"] == pytest.approx(scalar(name, p, g))
        assert found[name][0]["ci"] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist())


def test_delta1_has_one_interval() -> None:
    p, g, image = cloud()
    sums = ImageSums.of(columns(p, g), image, 12)
    ends = figures(sums, {"delta1": FORMULAS["delta1"]}, seed=3)["delta1"][0]["ci"]
    right = [bool(a > 0 and max(a / b, b / a) < 1.25) for a, b in zip(p, g, strict=True)]
    assert tuple(ends) == pytest.approx(bootstrap_interval(right, image, seed=3))


def test_groups_are_the_points_of_the_group() -> None:
    p, g, image = cloud()
    group = np.where(g < 2, 0, np.where(g < 5, 1, -1))
    sums = ImageSums.of(columns(p, g), image, 12, group, 2)
    found = figures(sums, FORMULAS, resamples=20)
    for k in range(2):
        for name in FORMULAS:
            assert found[name][k]["value"] == pytest.approx(scalar(name, p[group == k], g[group == k]))


def test_one_image_has_no_interval() -> None:
    p, g, _ = cloud(50)
    found = figures(ImageSums.of(columns(p, g), np.zeros(50, int), 1), FORMULAS)
    assert found["delta1"][0]["ci"] == [None, None]
    assert interval(np.array([[1.0], [NAN], [NAN]])) == [[None, None]]


def test_paired_difference() -> None:
    p, g, image = cloud(3000, 60)
    better = g * (p / g) ** 0.5
    a, b = (ImageSums.of(columns(x, g), image, 60) for x in (p, better))
    found = paired(a, b, FORMULAS, resamples=400)
    assert found["absrel"][0]["value"] == pytest.approx(scalar("absrel", better, g) - scalar("absrel", p, g))
    assert found["absrel"][0]["p"] == pytest.approx(1 / 401), "better in every image: no swap of images does as much"
    assert found["absrel"][0]["ci"][1] < 0
    same = paired(a, a, FORMULAS, resamples=50)
    assert {cell[0]["p"] for cell in same.values()} == {1.0}
    assert same["rmse"][0]["ci"] == [0, 0]


def test_p_values_are_uniform_without_a_difference() -> None:
    """Two runs with the same kind of error: 5 % of such pairs may be called different, not 20 %."""
    rng = np.random.default_rng(8)
    image = np.repeat(np.arange(20), 10)
    g = np.ones(200)
    hits = 0
    for _ in range(200):
        shift = rng.normal(0, 0.2, (2, 20))[:, image]  # errors shared by the points of an image
        a, b = (ImageSums.of(columns(np.exp(s + rng.normal(0, 0.1, 200)), g), image, 20) for s in shift)
        hits += paired(a, b, {"absrel": FORMULAS["absrel"]}, resamples=99)["absrel"][0]["p"] <= 0.05
    assert hits <= 22, hits  # 5 % of 200, three standard deviations above


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# --- order, re-use, calibration ---------------------------------------------------------------------------------------


def order_of(p: list[float], g: list[float], image: list[int] | None = None) -> list[tuple[int, float | None]]:
    place = np.array(image or [0] * len(g))
    rows = order_errors(np.array(p), np.array(g), place, int(place.max()) + 1, resamples=10)
    return [(row["n"], row["error"]["value"]) for row in rows]


def test_order_by_hand() -> None:
    g = [1.0, 1.2, 1.6, 4.0]  # ratios less one: .2 .6 3.0 .33 2.33 1.5 -> bands 1, 1, 4 of six pairs
    assert order_of(g, g) == [(1, 0), (1, 0), (4, 0)]
    assert order_of([1.2, 1.0, 1.6, 4.0], g) == [(1, 1), (1, 0), (4, 0)]  # swapped: one pair wrong
    assert order_of([2.0] * 4, g) == [(1, 0.5), (1, 0.5), (4, 0.5)]  # a constant is a coin
    assert order_of([NAN, 1.2, 1.6, 4.0], g) == [(1, 1), (1, 0), (4, 0.5)]
    assert order_of([1.0, 1.2, 1.6, 4.0], g, [0, 0, 1, 1]) == [(1, 0), (0, None), (1, 0)], "pairs of one image only"
    assert order_of([5.0, 6.0], [1.0, 1.05]) == [(0, None)] * 3  # nearly alike: no pair


@pytest.mark.parametrize("count", [2, 3, 8, 31, 32, 33, 50])
def test_pairs_of_an_image_come_once(count: int) -> None:
    g = np.exp(np.arange(count) * 0.7)  # every pair's ratio is its own name
    p, image = g[::-1].copy(), np.zeros(count, int)
    seen = sum(len(im) for im, _, _ in pair_columns(p, g, image))
    assert seen == (count * (count - 1) // 2 if count <= 33 else count * 16)
    assert all((error == 1).all() for _, _, error in pair_columns(p, g, image))
    assert BANDS[-1][1] == math.inf


def test_reuse_by_hand() -> None:
    found = reuse(np.array([1.5, 1.5, 1.5, 2.05]), np.array([0, 0, 1, 1]), 2, resamples=20)
    assert found["values"] == 2
    assert found["distinct_per_100"]["value"] == pytest.approx(2 - 0.25**100 - 0.75**100)
    assert (found["top_digit"], found["top_digit_share"]["value"]) == (0, 0.75)  # 1.50 thrice, 2.05
    written = reuse(np.array([1.5, 3.5, 4.2, NAN]), np.array([0, 0, 1, 1]), 2, digit=np.array([5, 5, 2, -1]))
    assert (written["top_digit"], written["top_digit_share"]["value"]) == (5, pytest.approx(2 / 3))
    everything = reuse(np.arange(1, 5001) / 100, np.zeros(5000, int), 1)
    assert everything["distinct_per_100"]["value"] == pytest.approx(99.02, abs=0.01)
    assert everything["top_digit_share"]["value"] == pytest.approx(0.1)
    assert reuse(np.array([NAN]), np.array([0]), 1)["distinct_per_100"]["value"] is None


def test_coverage_and_sharpness_by_hand() -> None:
    p, g = np.array([2.0, 2.0, 4.0, NAN]), np.array([2.1, 3.0, 4.0, 1.0])
    low, high = np.array([1.8, 1.9, 3.0, NAN]), np.array([2.2, 2.1, 5.0, NAN])
    found = calibration(p, g, low, high, np.array([0, 0, 1, 1]), 2)
    assert found is not None
    assert found["n"] == 3
    assert found["coverage"]["value"] == pytest.approx(2 / 3)
    assert found["sharpness"]["value"] == pytest.approx((0.2 + 0.1 + 0.5) / 3)
    assert calibration(p[3:], g[3:], low[3:], high[3:], np.array([0]), 1) is None


def test_a_calibrated_model_is_called_so() -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    sigma, g = rng.uniform(0.05, 0.4, n), rng.lognormal(1, 0.5, n)
    p = g * np.exp(rng.normal(0, sigma))
    z90 = 1.281552
    ends = (p * np.exp(-z90 * sigma), p * np.exp(z90 * sigma))
    found = calibration(p, g, *ends, np.arange(n) % 50, 50, resamples=50)
    assert found is not None
    assert found["coverage"]["value"] == pytest.approx(0.8, abs=0.01)
    for row in found["reliability"]:
        assert row["share"]["value"] == pytest.approx(row["level"], abs=0.015)
    assert found["ause"]["value"] < 0.6 * found["ause_random"]["value"]
    sure = calibration(p, g, p * 0.999, p * 1.001, np.arange(n) % 50, 50, resamples=50)
    assert sure is not None
    assert sure["coverage"]["value"] < 0.02  # over-confident: sharp, and wrong
    assert sure["ause"]["value"] == pytest.approx(sure["ause_random"]["value"], rel=0.1)


def test_ause_against_sorting() -> None:
    rng = np.random.default_rng(3)
    error, doubt = rng.exponential(0.2, 5000), rng.random(5000)
    ranked = error[np.argsort(doubt)]
    slow = [ranked[: 5000 - 50 * k].mean() for k in range(100)]
    assert sparsification_curve(error, doubt) == pytest.approx(slow)
    best = np.sort(error)
    oracle = [best[: 5000 - 50 * k].mean() for k in range(100)]
    g = np.ones(5000)
    found = calibration(1 + error, g, (1 + error) / np.exp(doubt), (1 + error) * np.exp(doubt), np.zeros(5000, int), 1)
    assert found is not None
    assert found["ause"]["value"] == pytest.approx(np.mean(np.array(slow) - oracle))
    assert found["ause_random"]["value"] == pytest.approx(np.mean(error.mean() - np.array(oracle)))


# --- predictors with known errors -----------------------------------------------------------------------------------


def known(p: np.ndarray, g: np.ndarray, image: np.ndarray, **more: np.ndarray) -> dict:
    return measure_points(Points(image=image, truth=g, predicted=p, **more), resamples=60)


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.lognormal(1, 0.8, 4000), np.repeat(np.arange(40), 100)


def test_a_constant_factor(scene: tuple[np.ndarray, np.ndarray]) -> None:
    g, image = scene
    found = known(1.2 * g, g, image)
    s = {name: figure["value"] for name, figure in found["scalars"]["z"].items()}
    assert s["absrel"] == pytest.approx(0.2)
    assert s["scale"] == pytest.approx(1.2)
    assert s["rmse_log"] == pytest.approx(math.log(1.2))
    assert s["delta1"] == 1  # these stay: within 1.25, same shape, same order
    assert s["silog"] == pytest.approx(0, abs=1e-5)
    assert s["slope"] == pytest.approx(1)
    assert [row["error"]["value"] for row in found["order"]] == [0, 0, 0]
    assert known(1.3 * g, g, image)["scalars"]["z"]["delta1"]["value"] == 0


def test_noise(scene: tuple[np.ndarray, np.ndarray]) -> None:
    g, image = scene
    p = g * np.random.default_rng(2).lognormal(0, 0.2, len(g))
    found = known(p, g, image)
    s = {name: figure["value"] for name, figure in found["scalars"]["z"].items()}
    assert s["silog"] == pytest.approx(20, rel=0.05)
    assert s["delta1"] == pytest.approx(math.erf(math.log(1.25) / 0.2 / math.sqrt(2)), abs=0.02)
    assert s["scale"] == pytest.approx(1, abs=0.01)
    assert s["slope"] == pytest.approx(1, abs=0.02)
    assert found["reuse"]["distinct_per_100"]["value"] > 80
    errors = [row["error"]["value"] for row in found["order"]]
    assert errors[0] > errors[1] > errors[2] > 0


def test_compression(scene: tuple[np.ndarray, np.ndarray]) -> None:
    g, image = scene
    s = known(g**0.7, g, image)
    assert s["scalars"]["z"]["slope"]["value"] == pytest.approx(0.7)
    assert [row["error"]["value"] for row in s["order"]] == [0, 0, 0]
    near, far = s["by_range"][0], s["by_range"][-1]
    assert near["scale"]["value"] > 1 > far["scale"]["value"]


def test_swapped_orders(scene: tuple[np.ndarray, np.ndarray]) -> None:
    g, image = scene
    p = g.copy()
    for start in range(0, len(g), 100):  # each image's depths in the opposite order
        block = np.argsort(g[start : start + 100])
        p[start + block] = np.sort(g[start : start + 100])[::-1]
    found = known(p, g, image)
    assert [row["error"]["value"] for row in found["order"]] == pytest.approx([1, 1, 1])
    assert found["scalars"]["z"]["scale"]["value"] == pytest.approx(1)  # the same numbers, elsewhere
    assert found["reuse"]["distinct_per_100"] == known(g, g, image)["reuse"]["distinct_per_100"]


def test_few_answers(scene: tuple[np.ndarray, np.ndarray]) -> None:
    g, image = scene
    p = np.exp(np.round(np.log(g) * 4) / 4)
    found = known(p, g, image)
    assert found["reuse"]["values"] == len(np.unique(p))
    assert found["reuse"]["distinct_per_100"]["value"] < 20
    assert found["scalars"]["z"]["delta1"]["value"] == 1


def test_counts_and_quantities(scene: tuple[np.ndarray, np.ndarray]) -> None:
    g, image = scene
    p = g.copy()
    p[:10], p[10:13], p[13] = NAN, -1, 2e4
    factor = np.full(len(g), 1.5)
    found = known(p, g, image, factor=factor, said=1.5 * p, surface=np.where(g < 2, "floor", "wall"))
    assert (found["n_unparsed"], found["n_out_of_range"]) == (10, 4)
    z, distance = (found["scalars"][q]["rmse"]["value"] for q in ("z", "distance"))
    assert distance == pytest.approx(1.5 * z)
    assert found["scalars"]["z"]["delta1"] == found["scalars"]["distance"]["delta1"]
    assert found["readings"]["distance"]["value"] == found["scalars"]["z"]["delta1"]["value"]
    assert found["readings"]["z"]["value"] == 0  # answers that mean distance, read as z: 1.5 off
    assert {row["surface"] for row in found["by_surface"]} == {"floor", "wall"}
    assert sum(row["n"] for row in found["by_range"]) == len(g)


@pytest.mark.parametrize("bad", [NAN, 0.0, -1.0, math.inf])
def test_a_bad_truth_is_named(bad: float) -> None:
    with pytest.raises(InputError, match=r"truth .* at row 1"):
        Points(image=np.zeros(2, int), truth=np.array([1.0, bad]), predicted=np.ones(2))
    with pytest.raises(InputError, match=r"predicted has shape \(3,\)"):
        Points(image=np.zeros(2, int), truth=np.ones(2), predicted=np.ones(3))
