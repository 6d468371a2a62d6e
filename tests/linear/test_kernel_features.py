"""Kernels as features, and SVMs on them against scikit-learn's own decisions and refits."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tests.support.compare import assert_close_per_row
from upweight import ApproximationWarning, Hessian, Influence, SmoothHinge, from_estimator
from upweight.linear import kernel_features as kernels
from upweight.linear.kernel_features import FeatureMap, eigenpairs
from upweight.validation.refits import refit_without

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N + 10, 2))
Y = np.where(X[:, 0] ** 2 + X[:, 1] + 0.7 * RNG.normal(size=N + 10) > 0.8, "in", "out")


def cosine(A, B):
    """A kernel of the user's own."""
    return (1 + A @ B.T) ** 3


SVMS = [
    SVC(C=0.5, tol=1e-9),
    SVC(C=0.5, tol=1e-9, gamma=0.7, class_weight={"in": 3.0}),
    SVC(C=0.1, tol=1e-9, kernel="poly", degree=2, coef0=1.0, gamma="auto"),
    SVC(C=0.1, tol=1e-9, kernel="linear"),
    SVC(C=0.01, tol=1e-9, kernel=cosine),
]


def decision(problem, batch_X) -> torch.Tensor:
    """f(x) as the problem has it: the margin of the class "out"."""
    batch = (batch_X, np.full(len(batch_X), "out"))
    return problem.evaluate(batch, lambda outputs, targets: outputs[:, 0])


@pytest.mark.parametrize("estimator", SVMS, ids=lambda svm: str(svm).partition(" at 0x")[0])
def test_decisions_are_the_estimators_own(estimator):
    model = clone(estimator).fit(X[:N], Y[:N])
    problem = from_estimator(model, X[:N], Y[:N])
    assert isinstance(problem.loss, SmoothHinge)
    assert problem.keep == "total"
    assert problem.classes == ("in", "out")
    assert_close_per_row(decision(problem, X), model.decision_function(X), 1e-8)
    assert_close_per_row(problem.l2[:-1], np.full(problem.d, 1 / (model.C * N)), 1e-12)
    assert float(problem.l2[-1]) == 0


@pytest.mark.parametrize("estimator", SVMS[:3], ids=str)
def test_refits_of_the_smoothed_problem_are_the_svms_own(estimator):
    model = clone(estimator).fit(X[:N], Y[:N])
    sharp = from_estimator(model, X[:N], Y[:N], smoothing=1e-3, polish=True)
    smooth = from_estimator(model, X[:N], Y[:N], smoothing=0.1)
    # gamma="scale" is held fixed, so the judge's is too.
    judge = clone(estimator).set_params(gamma=model._gamma)
    base = model.decision_function(X[N:])
    test = (X[N:], Y[N:])
    predicted = Influence(smooth).on_loss(test, measure=lambda outputs, targets: outputs[:, 0])
    changes = []
    for i in range(N):
        kept = np.delete(np.arange(N), i)
        changes.append(clone(judge).fit(X[kept], Y[kept]).decision_function(X[N:]) - base)
    actual = torch.tensor(np.array(changes))
    effects = predicted.removal_effect().T
    assert np.corrcoef(actual.flatten(), effects.flatten())[0, 1] > 0.6
    rows = actual.norm(dim=1).topk(3).indices
    thetas, _ = refit_without(sharp, rows.split(1), Hessian(sharp).factor(), 1e-7)
    start = decision(sharp, X[N:])
    outputs = lambda outputs, targets: outputs[:, 0]  # noqa: E731
    ours = torch.stack([sharp.evaluate(test, outputs, theta) for theta in thetas]) - start
    assert_close_per_row(ours, actual[rows], 0.1)


def test_precomputed_kernels_and_pipelines_agree_with_plain_ones():
    K = rbf_kernel(X, X[:N], gamma=0.5)
    plain = from_estimator(SVC(gamma=0.5, tol=1e-9).fit(X[:N], Y[:N]), X[:N], Y[:N])
    given = from_estimator(SVC(kernel="precomputed", tol=1e-9).fit(K[:N], Y[:N]), K[:N], Y[:N])
    smooth = [
        from_estimator(SVC(kernel="precomputed", tol=1e-9).fit(K[:N], Y[:N]), K[:N], Y[:N], smoothing=0.1)
    ]
    smooth.append(from_estimator(SVC(gamma=0.5, tol=1e-9).fit(X[:N], Y[:N]), X[:N], Y[:N], smoothing=0.1))
    assert_close_per_row(decision(given, K[N:]), decision(plain, X[N:]), 1e-6)
    a = Influence(smooth[0]).on_loss((K[N:], Y[N:])).values
    assert_close_per_row(a, Influence(smooth[1]).on_loss((X[N:], Y[N:])).values, 1e-4)
    with pytest.raises(ValueError, match="X has 10 columns, the estimator was fitted on 60"):
        decision(given, K[N:, :10])
    sparse_X = sparse.csr_array(X[:N])
    of_sparse = from_estimator(SVC(gamma=0.5, tol=1e-9).fit(sparse_X, Y[:N]), sparse_X, Y[:N])
    assert_close_per_row(decision(of_sparse, X[N:]), decision(plain, X[N:]), 1e-6)
    pipeline = make_pipeline(StandardScaler(), SVC(tol=1e-9)).fit(X[:N], Y[:N])
    problem = from_estimator(pipeline, X[:N], Y[:N])
    assert_close_per_row(decision(problem, X[N:]), pipeline.decision_function(X[N:]), 1e-8)
    assert problem.feature_names is None
    assert "the kernel and its gamma are held fixed" in problem.terms.notes


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


def test_a_rank_states_its_price():
    model = SVC(gamma=0.5, tol=1e-9).fit(X[:N], Y[:N])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine = from_estimator(model, X[:N], Y[:N], rank=45)
    assert fine.d == 45
    assert any(note.startswith("rank=45 changes the decision function") for note in fine.terms.notes)
    with pytest.warns(ApproximationWarning, match=r"rank=12 changes .* by up to .*raise rank"):
        coarse = from_estimator(model, X[:N], Y[:N], rank=12)
    off = np.abs(decision(coarse, X[:N]).numpy() - model.decision_function(X[:N])).max()
    assert any(f"{off:.1e}" in note for note in coarse.terms.notes)
    with pytest.raises(ValueError, match="that is another model"):
        from_estimator(model, X[:N], Y[:N], rank=1)


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


def test_svms_that_are_refused():
    model = SVC(kernel="sigmoid", gamma=2.0, coef0=-1.0).fit(X[:N], Y[:N])
    with pytest.raises(ValueError, match="most negative eigenvalue"):
        from_estimator(model, X[:N], Y[:N])
    model = SVC().fit(X[:N], Y[:N])
    with pytest.raises(ValueError, match="X has 59 examples, the SVC was fitted on 60"):
        from_estimator(model, X[: N - 1], Y[: N - 1])
    with pytest.raises(ValueError, match="X is not what the SVC was fitted on"):
        from_estimator(model, X[N - 1 :: -1].copy(), Y[:N])
    with pytest.raises(ValueError, match="rank is for an SVC whose kernel"):
        from_estimator(SVC(kernel="linear").fit(X[:N], Y[:N]), X[:N], Y[:N], rank=1)
