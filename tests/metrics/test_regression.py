import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler

from fgbench.metrics.regression import merge, moments, solve


def sklearn_predict(inputs, targets, queries):
    """The usual protocol: both sides standardised, no intercept."""
    left, right = StandardScaler().fit(inputs), StandardScaler().fit(targets)
    model = LinearRegression(fit_intercept=False).fit(left.transform(inputs), right.transform(targets))
    return right.inverse_transform(model.predict(left.transform(queries)))


def ours(inputs, targets, queries):
    rows = torch.from_numpy(np.concatenate([inputs, targets], 1))[:, None]
    packed = merge(
        torch.stack(
            [moments(part, torch.ones(len(part), 1, 1, dtype=torch.float64)) for part in rows.split(5)]
        ).double()
    )
    slopes, offsets = solve(packed, [slice(0, inputs.shape[1])])
    return (torch.from_numpy(queries) @ slopes[0, 0, 0] + offsets[0, 0, 0]).numpy()


@pytest.mark.parametrize(
    ("images", "inputs"), [(200, 10), (30, 10), (11, 10), (10, 10), (5, 10), (4, 10), (2, 10), (1, 10)]
)
def test_predictions_equal_scikit_learn_also_with_fewer_images_than_inputs(images, inputs):
    random = np.random.default_rng(images)
    x, y = random.uniform(0.2, 0.8, (images, inputs)), random.uniform(0, 1, (images, 2))
    queries = random.uniform(0.2, 0.8, (20, inputs))
    np.testing.assert_allclose(ours(x, y, queries), sklearn_predict(x, y, queries), atol=1e-6)


def test_constant_and_repeated_inputs_equal_scikit_learn():
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 1, (40, 6)), random.uniform(0, 1, (40, 2))
    x[:, 2], x[:, 4], x[:, 5] = 0.5, x[:, 0], 1 - x[:, 1]
    queries = random.uniform(0, 1, (20, 6))
    np.testing.assert_allclose(ours(x, y, queries), sklearn_predict(x, y, queries), atol=1e-6)


def test_far_from_the_origin_no_digit_is_lost():
    random = np.random.default_rng(1)
    x = random.uniform(0, 1, (60, 4))
    y = x[:, :2] @ random.normal(size=(2, 2)) + 3
    np.testing.assert_allclose(ours(x * 1e-3 + 1e4, y, x * 1e-3 + 1e4), y, atol=1e-6)


def test_inputs_that_differ_by_float32_noise_only_count_as_one():
    """scikit-learn would follow the noise: here slopes stay as small as for one input."""
    random = np.random.default_rng(2)
    x = random.uniform(0, 1, (50, 1))
    y = np.concatenate([2 * x, -x], 1)
    twice = np.concatenate([x, x + random.normal(size=x.shape) * 1e-8], 1)
    np.testing.assert_allclose(ours(twice, y, twice + np.array([[1e-4, -1e-4]])), y, atol=1e-3)


def test_one_image_predicts_itself_and_none_predicts_nothing():
    row = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]], dtype=torch.float64)
    slopes, offsets = solve(moments(row, torch.tensor([[[1.0], [0.0]]]).double()), [slice(0, 2), slice(2, 2)])
    assert offsets[0, 0, 0].tolist() == pytest.approx([0.3, 0.4])
    assert offsets[1, 0, 0].tolist() == pytest.approx([0.3, 0.4])
    assert (slopes[:, 0] == 0).all()
    assert offsets[:, 1].isnan().all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_moments_of_any_division_equal_those_of_the_whole(seed, sizes):
    random = torch.Generator().manual_seed(seed)
    rows = torch.rand(sum(sizes), 2, 3, generator=random, dtype=torch.float64)
    weights = (torch.rand(sum(sizes), 2, 2, generator=random) > 0.3).double()
    pieces = [moments(r, w) for r, w in zip(rows.split(sizes), weights.split(sizes), strict=True)]
    joined = merge(torch.stack(pieces))
    for group in range(2):
        for landmark in range(2):
            chosen = rows[weights[:, group, landmark] > 0, landmark].numpy()
            found = joined[group, landmark].numpy()
            assert found[0, 0] == len(chosen)
            if len(chosen):
                np.testing.assert_allclose(found[0, 1:], chosen.mean(0), atol=1e-12)
                np.testing.assert_allclose(found[1:, 1:], np.cov(chosen.T, bias=True) * len(chosen), atol=1e-12)
