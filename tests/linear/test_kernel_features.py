"""Kernels as features: inner products are the kernel's, leading ones the best of their rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel

from tests.support.compare import assert_close_per_row
from upweight.linear import kernel_features as kernels
from upweight.linear.kernel_features import FeatureMap, eigenpairs

N = 60
X = np.random.default_rng(0).normal(size=(N + 10, 2))


@given(n=st.integers(2, 12), d=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_features_have_the_kernel_as_inner_products(n: int, d: int, seed: int):
    points = np.random.default_rng(seed).normal(size=(n + 3, d))
    points[1] = points[0]  # a repeated point: its eigenvalue is zero and is dropped
    phi = FeatureMap.of(lambda A, B: A @ B.T, points[:n])
    F = phi(points)
    assert F.shape[1] <= min(d, n - 1)
    assert_close_per_row(F[:n] @ F[:n].T + 1, points[:n] @ points[:n].T + 1, 1e-8)
    if d <= n - 1:  # new points lie in the span
        assert_close_per_row(F @ F.T + 1, points @ points.T + 1, 1e-6)


def test_the_leading_features_are_the_best_approximation():
    kernel = lambda A, B: rbf_kernel(A, B, gamma=0.5)  # noqa: E731
    K = kernel(X[:N], X[:N])
    values = np.linalg.eigvalsh(K)[::-1]
    for rank in (1, 5, 20):
        F = FeatureMap.of(kernel, X[:N], rank=rank)(X[:N])
        assert F.shape == (N, rank)
        assert np.linalg.norm(K - F @ F.T, 2) == pytest.approx(values[rank], rel=1e-6)
    for rank in (0, N + 1):
        with pytest.raises(ValueError, match=r"rank must lie in 1\.\.60"):
            FeatureMap.of(kernel, X[:N], rank=rank)


def test_landmarks_spare_the_full_matrix_and_depend_on_the_seed_alone():
    seen = []

    def kernel(A, B):
        seen.append((len(A), len(B)))
        return rbf_kernel(A, B, gamma=0.5)

    maps = [FeatureMap.of(kernel, X[:N], rank=8, large=40, seed=seed) for seed in (0, 0, 1)]
    assert set(seen) == {(32, 32)}
    assert np.array_equal(maps[0].landmarks, maps[1].landmarks)
    assert not np.array_equal(maps[0].landmarks, maps[2].landmarks)
    F, K = maps[0](X[:N]), rbf_kernel(X[:N], X[:N], gamma=0.5)
    assert np.linalg.norm(F @ F.T - K) < 0.1 * np.linalg.norm(K)  # an outlier may be far from all
    assert kernels.LARGE > N


@pytest.mark.parametrize(("K", "words"), [
    (np.ones((3, 2)), r"must be square, \(n, n\), got shape \(3, 2\)"),
    (np.array([[1.0, 0.5], [0.4, 1.0]]), "not symmetric: K and its transpose differ by 1.00e-01"),
    (np.array([[1.0, 2.0], [2.0, 1.0]]), "not positive semi-definite: its most negative eigenvalue is -1.000e"),
    (np.array([[1.0, np.nan], [np.nan, 1.0]]), "NaN"),
    (np.zeros((2, 2)), "the kernel matrix is zero"),
])  # fmt: skip
def test_what_is_no_kernel(K, words: str):
    with pytest.raises(ValueError, match=words):
        eigenpairs(K)
