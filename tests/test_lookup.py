"""The lookup baseline finds what the layout gives away, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.evaluation.lookup import lookup_baseline, lookup_features
from depthlm.metrics import best_constant, delta1


def draw(rng: np.random.Generator, images: int, per_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Random features [N, 3], one focal length per image, and which image."""
    image = np.repeat(np.arange(images), per_image)
    features = rng.random((images * per_image, 3))
    features[:, 2] = rng.uniform(0.5, 1.1, images)[image]
    return features, image


@pytest.mark.parametrize(("axis", "least"), [(0, 0.9), (1, 0.9), (2, 0.6)])
def test_depth_given_away_by_one_feature_is_found(axis: int, least: float) -> None:
    rng = np.random.default_rng(0)
    features, image = draw(rng, 200, 20)
    fresh, _ = draw(rng, 50, 20)
    low, high = features[:, axis].min(), features[:, axis].max()

    def depth(x: np.ndarray) -> np.ndarray:
        return 1 + 7 * (x[:, axis] - low) / (high - low)

    table = lookup_baseline(features, depth(features), image)
    constant = best_constant(depth(fresh))[1]
    assert delta1(table.predict(fresh), depth(fresh)) > max(least, constant + 0.2)


def test_on_noise_it_is_no_better_than_the_constant() -> None:
    rng = np.random.default_rng(1)
    features, image = draw(rng, 200, 20)
    fresh, _ = draw(rng, 200, 20)
    truth, new = rng.uniform(1, 8, len(features)), rng.uniform(1, 8, len(fresh))
    table = lookup_baseline(features, truth, image)
    assert delta1(table.predict(fresh), new) <= best_constant(new)[1] + 0.01


def test_features_are_shares_of_the_image() -> None:
    camera = Camera(50.0, 50.0, 49.5, 24.5, 100, 50)
    np.testing.assert_allclose(
        lookup_features([(-0.5, -0.5), (99.5, 49.5), (49.5, 24.5)], camera), [[0, 0, 0.5], [1, 1, 0.5], [0.5, 0.5, 0.5]]
    )
    assert lookup_features(np.empty((0, 2)), camera).shape == (0, 3)


def test_few_points_take_the_constant_and_one_image_is_refused() -> None:
    features = np.array([[0.1, 0.1, 0.5], [0.9, 0.9, 0.5]])
    table = lookup_baseline(features, [2.0, 2.2], [0, 1])
    assert np.unique(table.values).size == 1
    assert table.predict(np.empty((0, 3))).shape == (0,)
    with pytest.raises(InputError, match="at least 2 images"):
        lookup_baseline(features, [2.0, 2.2], [0, 0])
