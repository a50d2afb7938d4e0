"""Covariance pooling against numpy and scipy; gradients against finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fgbench.layers.isqrt_cov import CHANNELS, CovariancePool, covariance, make_pool, matrix_sqrt


def test_covariance_is_numpys():
    x = torch.randn(2, 5, 30).double()
    for i in range(2):
        np.testing.assert_allclose(covariance(x)[i], np.cov(x[i].numpy(), bias=True), atol=1e-12)


def test_many_iterations_give_scipys_root():
    matrix = covariance(torch.randn(3, 6, 40).double())
    for found, given in zip(matrix_sqrt(matrix, 30), matrix, strict=True):
        np.testing.assert_allclose(found, scipy.linalg.sqrtm(given.numpy()), atol=1e-9)


def test_five_iterations_are_near_the_root_of_a_well_conditioned_matrix():
    a = torch.eye(8) * 2 + 0.1
    expected = scipy.linalg.sqrtm(a.double().numpy())
    assert np.abs(matrix_sqrt(a[None])[0].numpy() - expected).max() < 0.01 * np.abs(expected).max()


def test_five_iterations_on_a_scalar_are_those_by_hand():
    y, z = 1.0, 1.0  # one channel: the matrix over its trace is 1, a fixed point
    assert matrix_sqrt(torch.tensor([[[9.0]]]))[0, 0, 0] == pytest.approx(3.0 * y * z)
    # two equal eigenvalues, each half of the trace: the scalar recursion for the root of 1/2
    y, z = 0.5, 1.0
    for _ in range(5):
        step = 0.5 * (3 - z * y)
        y, z = y * step, step * z
    assert float(matrix_sqrt(torch.eye(2)[None] * 9)[0, 0, 0]) == pytest.approx(y * 18**0.5, rel=1e-6)


def test_gradients_are_those_of_finite_differences():
    x = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: matrix_sqrt(covariance(v)), x)


def test_gradients_approach_those_of_the_root_by_eigenvalues():
    """The root itself, of eigenvalues and vectors in float64: torch differentiates those on its own."""
    x = torch.randn(2, 6, 40, dtype=torch.float64)
    weight = torch.randn(2, 6, 6, dtype=torch.float64)

    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT

    found, expected, five = [], [], []
    for made, put in ((lambda m: matrix_sqrt(m, 30), found), (root, expected), (matrix_sqrt, five)):
        features = x.clone().requires_grad_()
        (made(covariance(features)) * weight).sum().backward()
        put.append(features.grad)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-8, atol=1e-10)
    # the paper's five iterations are not there yet for the small eigenvalues
    assert float((five[0] - expected[0]).norm() / expected[0].norm()) < 0.15


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0, 1e4])
def test_gradients_are_finite_for_any_size_of_features_and_fewer_cells_than_channels(scale):
    x = (scale * torch.randn(2, 64, 9)).requires_grad_()
    root = matrix_sqrt(covariance(x))
    root.sum().backward()
    assert bool(root.isfinite().all())
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize(("head", "dimensions"), [("isqrt_2k", 2080), ("isqrt_8k", 8256), ("isqrt_32k", 32896)])
def test_descriptors_have_the_papers_dimensions(head, dimensions):
    pool = make_pool(head, 16)
    assert pool.outputs == dimensions == CHANNELS[head] * (CHANNELS[head] + 1) // 2
    assert pool(torch.randn(2, 16, 5, 5)).shape == (2, dimensions)


def test_a_descriptor_is_the_upper_triangle_row_by_row_in_float32():
    pool = CovariancePool(4, 3).eval()
    x = torch.randn(1, 4, 6, 6)
    root = matrix_sqrt(covariance(pool.reduce(x).flatten(2)))[0]
    expected = [float(root[i, j]) for i in range(3) for j in range(i, 3)]
    assert pool(x)[0].tolist() == pytest.approx(expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert pool(x).dtype == torch.float32


def test_the_other_head_is_the_mean():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(make_pool("average", 3)(x), x.flatten(2).mean(2))
