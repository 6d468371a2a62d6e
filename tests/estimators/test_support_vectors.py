"""Readings of support vector machines: objectives term by term, and refits by scikit-learn's own hinge."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics.pairwise import pairwise_kernels, rbf_kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from tests.support import estimators as plain
from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, fitted, name
from tests.support.refits import one_contribution
from upweight import ApproximationWarning, Hessian, Influence, SmoothHinge, SquaredHinge, from_estimator
from upweight.estimators.support_vectors import liblinear_intercept
from upweight.validation.refits import refit_without

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N + 10, 2))
Y = np.where(X[:, 0] ** 2 + X[:, 1] + 0.7 * RNG.normal(size=N + 10) > 0.8, "in", "out")


def cubic(A, B):
    """A kernel of the user's own."""
    return (1 + A @ B.T) ** 3


SVMS = [
    SVC(C=0.5, tol=1e-9),
    SVC(C=0.5, tol=1e-9, gamma=0.7, class_weight={"in": 3.0}),
    SVC(C=0.1, tol=1e-9, kernel="poly", degree=2, coef0=1.0, gamma="auto"),
    SVC(C=0.1, tol=1e-9, kernel="linear"),
    SVC(C=0.01, tol=1e-9, kernel=cubic),
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
    assert problem.feature_names is not None
    assert problem.feature_names[:2] == ("feature 0 of the kernel", "feature 1 of the kernel")
    assert "the kernel and its gamma are held fixed" in problem.terms.notes


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


# -- linear ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        LinearSVC(C=0.3, loss="hinge", tol=1e-9, max_iter=1_000_000),
        LinearSVC(C=0.3, loss="hinge", tol=1e-9, max_iter=1_000_000, class_weight={"no": 2.0}),
        SVC(C=0.3, kernel="linear", tol=1e-9),
    ],
    ids=name,
)
def test_true_hinges_are_refitted_and_predicted_by_smooth_ones(estimator):
    """The weights are the true hinge's, and so are the refits that the smooth one is judged by."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not at the smooth optimum, and that is no cause for a warning
        problem = fitted(estimator, "two", smoothing=0.05)
    test = (plain.X[N:], TARGETS["two"][N:])
    base = problem.evaluate(test)
    refits = [fitted(estimator, "two", np.delete(np.arange(N), i)).theta for i in range(N)]
    actual = torch.stack([problem.evaluate(test, theta=theta) for theta in refits]) - base
    predicted = Influence(problem).on_loss(test).removal_effect().T
    # A removal moves the margin over a few examples out of 60: only the trend is of first order.
    assert np.corrcoef(actual.flatten(), predicted.flatten())[0, 1] > 0.6
    assert 0.5 < float((actual * predicted).sum() / predicted.square().sum()) < 2

    # The penalty convention: refits of the (hardly) smoothed objective are the estimator's own.
    sharp = fitted(estimator, "two", smoothing=1e-3, polish=True)
    rows = actual.norm(dim=1).topk(3).indices
    thetas, _ = refit_without(sharp, rows.split(1), Hessian(sharp).factor(), 1e-7)
    ours = torch.stack([theta - sharp.theta for theta in thetas])
    assert_close_per_row(ours, torch.stack([refits[i] - problem.theta for i in rows.tolist()]), 0.1)


def test_smoothing_polishes_to_the_smoothed_optimum():
    estimator = LinearSVC(loss="hinge", tol=1e-9, max_iter=1_000_000)
    rough, polished = (fitted(estimator, "two", smoothing=0.01, polish=polish) for polish in (False, True))
    assert isinstance(polished.loss, SmoothHinge)
    assert float(polished.gradient().norm()) <= 1e-6 * one_contribution(rough)
    assert 0 < float((polished.theta - rough.theta).norm()) < 0.1


@given(
    C=st.floats(0.01, 10),
    scaling=st.floats(0.3, 10),
    task=st.sampled_from(["two", "three"]),
    intercept=st.booleans(),
)
@settings(max_examples=15)
def test_liblinear_at_any_penalty(C: float, scaling: float, task: str, intercept: bool):
    estimator = LinearSVC(
        C=C, intercept_scaling=scaling, fit_intercept=intercept, dual=False, tol=1e-11, max_iter=100_000
    )
    problem = fitted(estimator, task)
    assert float(problem.gradient().norm()) < 1e-4 * one_contribution(problem)


@pytest.mark.parametrize(("estimator", "words"), [
    (LinearSVC(penalty="l1", dual=False), "an l1 penalty"),
    (LinearSVC(multi_class="crammer_singer"), "crammer_singer"),
])  # fmt: skip
def test_settings_that_are_refused(estimator, words: str):
    X, y = plain.X[:N], TARGETS["three"][:N]
    with pytest.raises(ValueError, match=words):
        from_estimator(estimator.fit(X, y), X, y)


def smooth_hinges(margins: np.ndarray, t: float) -> np.ndarray:
    return t * np.logaddexp(0, (1 - margins) / t)


@pytest.mark.parametrize("task", ["two", "three"])
@pytest.mark.parametrize(
    "estimator",
    [
        LinearSVC(C=0.2, loss="hinge", max_iter=100_000, intercept_scaling=3.0),
        LinearSVC(C=0.2, dual=False),
        LinearSVC(C=0.2, dual=False, fit_intercept=False),
    ],
    ids=name,
)
def test_the_objective_of_a_linear_machine(estimator, task: str):
    """C times the sum of (smooth or squared) hinges + 1/2 ||coef||^2, which is C n R, the intercept by its scaling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not at the optimum: any coefficients do
        problem = fitted(estimator, task, smoothing=0.3)
    hinge = estimator.loss == "hinge"
    assert problem.loss == (SmoothHinge(0.3) if hinge else SquaredHinge())
    assert problem.keep == "total"
    codes, c = np.unique(TARGETS[task][:N], return_inverse=True)[1], problem.c
    signs = np.where(codes[:, None] == np.arange(c) if c > 1 else codes[:, None] > 0, 1.0, -1.0)
    for seed in range(3):
        theta = draw(problem.p, seed=seed)
        coef = theta[: 3 * c].view(c, 3).numpy()
        intercept = theta[3 * c :].numpy() if estimator.fit_intercept else np.zeros(c)
        margins = signs * (plain.X[:N] @ coef.T + intercept)
        losses = smooth_hinges(margins, 0.3) if hinge else np.maximum(0, 1 - margins) ** 2
        size = (coef**2).sum() + ((intercept / estimator.intercept_scaling) ** 2).sum()
        wanted = estimator.C * losses.sum() + size / 2
        assert problem.at(theta).value() * estimator.C * N == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("fit", "scaling", "wanted"), [(True, 1.0, 0.4), (True, 2.0, 0.1), (False, 2.0, 0.0)]
)
def test_the_intercepts_penalty_is_that_of_its_column(fit: bool, scaling: float, wanted: float):
    assert liblinear_intercept(LinearSVC(fit_intercept=fit, intercept_scaling=scaling), 0.4) == wanted


@pytest.mark.parametrize("estimator", SVMS[:4], ids=str)
def test_the_objective_of_a_kernel_machine(estimator):
    """C times the sum of hinges + 1/2 a^T K a for f = K a + b: the penalty is that of f in the kernel's space."""
    model = clone(estimator).set_params(class_weight=None).fit(X[:N], Y[:N])
    problem = from_estimator(model, X[:N], Y[:N], smoothing=0.1)
    settings_ = {"gamma": model._gamma, "degree": model.degree, "coef0": model.coef0}
    K = pairwise_kernels(X[:N], metric=model.kernel, filter_params=True, **settings_)
    a = np.zeros(N)
    a[model.support_] = model.dual_coef_[0]
    f = K @ a + model.intercept_[0]
    assert_close_per_row(f, model.decision_function(X[:N]), 1e-8)
    hinges = smooth_hinges(np.where(Y[:N] == "out", 1, -1) * f, 0.1)
    assert problem.value() * model.C * N == pytest.approx(model.C * hinges.sum() + a @ K @ a / 2, rel=1e-7)
    assert_close_per_row(problem.l2, np.append(np.full(problem.d, 1 / (model.C * N)), 0.0), 1e-12)
