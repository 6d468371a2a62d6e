"""Gaussian processes and relevance determination: what their fit chose is held, and removals are exact refits."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import ARDRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.compare import assert_close_per_row
from upweight import Influence, from_estimator

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(50, 4)), columns=["a", "b", "c", "d"])
Y = np.sin(X.a) + 0.5 * X.b + 0.2 * RNG.normal(size=50)
KERNEL = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.1)
ROWS = [0, 7, 31]


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (GaussianProcessRegressor(KERNEL, random_state=0), "the kernel that was fitted is held fixed"),
        (
            GaussianProcessRegressor(RBF(1.5), alpha=0.2, optimizer=None),
            "the kernel and its gamma are held fixed",
        ),
        (
            TransformedTargetRegressor(
                GaussianProcessRegressor(RBF(1.0), alpha=0.1), transformer=StandardScaler()
            ),
            "the transformer of the targets is held fixed",
        ),
        (ARDRegression(), "the precisions that the data chose are held fixed"),
        (
            make_pipeline(StandardScaler(), ARDRegression()),
            "the precisions that the data chose are held fixed",
        ),
    ],
    ids=str,
)
def test_removals_are_refits_with_what_was_chosen(estimator, said):
    estimator.fit(X, Y)
    problem, test = from_estimator(estimator, X, Y), (X[:6], Y[:6])
    assert any(note.startswith(said) for note in problem.terms.notes)
    assert float(problem.gradient().norm()) < 1e-8
    eta = problem.outputs(problem.prepared(test)[0])[:, 0].numpy()
    if not isinstance(estimator, TransformedTargetRegressor):
        assert np.allclose(eta, estimator.predict(X[:6]), atol=1e-7)
    refit, base, everything = problem.cache["own estimator"], problem.evaluate(test), torch.arange(50)
    if isinstance(getattr(estimator, "steps", [[0, estimator]])[0][1], StandardScaler):
        return  # its own refits scale anew
    actual = torch.stack([refit(everything[everything != row]).evaluate(test) - base for row in ROWS])
    assert_close_per_row(Influence(problem).of_each_removal(test).effect()[:, ROWS].T, actual, 1e-5)


def test_what_has_no_one_noise_is_refused():
    model = GaussianProcessRegressor(RBF(1.0), alpha=np.linspace(0.1, 0.2, 50), optimizer=None).fit(X, Y)
    with pytest.raises(ValueError, match="differs between rows"):
        from_estimator(model, X, Y)
    model = GaussianProcessRegressor(RBF(1.0), alpha=0.1, optimizer=None, normalize_y=True).fit(X, Y)
    with pytest.raises(ValueError, match="TransformedTargetRegressor"):
        from_estimator(model, X, Y)
    model = GaussianProcessRegressor(RBF(1.0), alpha=0.1, optimizer=None).fit(X[:40], Y[:40])
    with pytest.raises(ValueError, match="was fitted on 40"):
        from_estimator(model, X, Y)
