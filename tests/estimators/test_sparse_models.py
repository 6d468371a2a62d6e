"""Models with an l1 penalty: their columns, and for which rows a removal is certified to leave them the same."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression
from sklearn.svm import LinearSVC

from tests.support.estimators import TIGHT, N
from upweight import Influence, diagnostics, from_estimator
from upweight.estimators.sparse_models import Columns, changed_support

RNG = np.random.default_rng(4)
WIDE = RNG.normal(size=(N, 12))
Y = WIDE[:, :4] @ np.array([2.0, -1.0, 0.5, 0.2]) + RNG.normal(size=N)
LABELS = np.where(Y > 0, "yes", "no")
NET = {"tol": 1e-13, "max_iter": 10**6}

MODELS = [
    (Lasso(alpha=0.15, **NET), Y),
    (ElasticNet(alpha=0.3, **NET), Y),
    (LogisticRegression(C=0.3, solver="liblinear", l1_ratio=1, tol=1e-7, max_iter=10**5), LABELS),
    (LogisticRegression(C=0.3, solver="saga", l1_ratio=0.6, **TIGHT), LABELS),
    (LinearSVC(C=0.1, penalty="l1", dual=False, random_state=0, tol=1e-7, max_iter=10**5), LABELS),
]


@pytest.mark.parametrize(("estimator", "y"), MODELS, ids=lambda one: type(one).__name__)
def test_certified_rows_keep_the_support_when_they_are_removed(estimator, y):
    model = clone(estimator).fit(WIDE, y)
    problem = from_estimator(model, WIDE, y)
    columns = np.flatnonzero(model.coef_.ravel())
    assert 0 < len(columns) < 12
    assert problem.d == len(columns)
    refits = [clone(estimator).fit(np.delete(WIDE, i, 0), np.delete(y, i)) for i in range(N)]
    held = not np.any(model.intercept_)  # liblinear's penalty is on the intercept too
    signs = [np.sign(np.append(one.coef_, one.intercept_ * held)) for one in (model, *refits)]
    moved = {i for i, its in enumerate(signs[1:]) if not np.array_equal(its, signs[0])}
    slope, note = problem.penalty.slope, problem.terms.notes[-1]
    assert slope is not None
    found = changed_support(problem, Columns(columns, 12, float(slope.abs().max()), float(held)), WIDE)
    assert found is not None
    said = set(found.tolist())
    assert note.startswith("no training row") == (not said)
    # A Newton step is not the refit: rows right at the edge may differ.
    assert len(moved ^ said) <= 5
    assert len(said) < N


def test_newton_predictions_of_certified_rows_are_exact_for_the_lasso():
    model = Lasso(alpha=0.15, **NET).fit(WIDE, Y)
    problem = from_estimator(model, WIDE, Y)
    fine = 0
    for i in range(12):
        again = Lasso(alpha=0.15, **NET).fit(np.delete(WIDE, i, 0), np.delete(Y, i))
        newton = Influence(problem).of_removal([[i]], (WIDE, Y)).newton
        assert newton is not None
        actual = 0.5 * ((again.predict(WIDE) - Y) ** 2 - (model.predict(WIDE) - Y) ** 2)
        if np.array_equal(np.sign(again.coef_), np.sign(model.coef_)):
            fine += 1
            assert float((newton[:, 0] - torch.from_numpy(actual)).norm()) < 1e-6 * np.linalg.norm(actual)
    assert fine > 5


def test_sparse_columns_and_names():
    model = Lasso(alpha=0.15, **NET).fit(sparse.csr_array(WIDE), Y)
    problem = from_estimator(model, sparse.csr_array(WIDE), Y)
    dense = from_estimator(model, WIDE, Y)
    assert float((problem.theta - dense.theta).abs().max()) == 0.0
    assert problem.terms.notes == dense.terms.notes
    assert "the columns that the l1 penalty left" in problem.terms.notes[0]


@pytest.mark.parametrize(
    ("estimator", "y", "words"),
    [
        (Lasso(alpha=100.0), Y, "all coefficients of this Lasso are zero.*weaker penalty"),
        (Lasso(alpha=0.1), np.stack([Y, Y**2], 1), "several outputs.*fit one model for each"),
        (ElasticNet(positive=True), Y, "positive=True is not supported"),
    ],
)
def test_what_is_refused(estimator, y, words: str):
    with pytest.raises(ValueError, match=words):
        from_estimator(estimator.fit(WIDE, y), WIDE, y)


def test_weights_that_differ_are_refused_beside_a_penalty_on_the_mean():
    w = RNG.uniform(0.5, 2.0, N)
    with pytest.raises(ValueError, match=r"divides by the sum of the sample weights.*use alpha=0"):
        from_estimator(Lasso(alpha=0.1).fit(WIDE, Y, sample_weight=w), WIDE, Y, sample_weight=w)
    same = np.full(N, 2.0)
    problem = from_estimator(
        Lasso(alpha=0.1, **NET).fit(WIDE, Y, sample_weight=same), WIDE, Y, sample_weight=same
    )
    assert float(problem.gradient().norm()) < 1e-6


def test_columns_without_names_go_by_their_number_among_all():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = x @ [0.0, 1.0, 0.0, -1.0, 0.0] + 0.1 * rng.normal(size=60)
    problem = from_estimator(Lasso(0.1, tol=1e-10).fit(x, y), x, y)
    assert problem.feature_names == ("column 1", "column 3")
    assert list(diagnostics(Influence(problem)).dfbetas.columns) == ["column 1", "column 3", "the intercept"]
