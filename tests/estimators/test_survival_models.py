"""CoxPHSurvivalAnalysis of scikit-survival against its own refits; `make oracles` installs the library."""

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import upweight as uw
from tests.support.compare import assert_close_per_row

linear_model = pytest.importorskip("sksurv.linear_model", reason="`make oracles` installs scikit-survival")
datasets = pytest.importorskip("sksurv.datasets")

X, Y = datasets.load_whas500()  # myocardial infarctions
X = X.astype(float)
FITS = {
    "breslow": {},
    "efron": {"ties": "efron"},
    "ridge": {"alpha": 3.0},
    "ridge of each": {"alpha": np.arange(14.0), "ties": "efron"},
}


def fit(settings, kept=slice(None), X=X):
    return linear_model.CoxPHSurvivalAnalysis(tol=1e-13, **settings).fit(X[kept], Y[kept])


@pytest.fixture(params=FITS)
def settings(request):
    return FITS[request.param]


def test_removals_are_those_of_its_own_refits(settings):
    problem = uw.from_estimator(fit(settings), X, Y)
    assert problem.feature_names == tuple(X.columns)
    assert float(problem.gradient().norm()) < 1e-10
    for row in (0, 3, 44):
        kept, one = np.arange(500) != row, torch.tensor([row])
        moved = torch.from_numpy(fit(settings, kept).coef_) - problem.theta
        assert_close_per_row((problem.reduced.refitted(one)[0] - problem.theta)[None], moved[None], 1e-8)
        assert_close_per_row((problem.reduced.newton([one])[0] - problem.theta)[None], moved[None], 0.01)


def test_a_pipeline_is_asked_in_its_own_columns():
    pipeline = make_pipeline(StandardScaler(), linear_model.CoxPHSurvivalAnalysis(alpha=2.0, tol=1e-13))
    problem = uw.from_estimator(pipeline.fit(X, Y), X, Y)
    found = problem.evaluate((X[:5], None), uw.measures.prediction)
    assert_close_per_row(found[:, None], pipeline.predict(X[:5])[:, None], 1e-12)
    influence = uw.Influence(uw.from_estimator(fit({}), X, Y))
    verified = uw.verify(influence, (X[:3], None), k=3, measure=uw.measures.prediction)
    assert verified.estimator is not None
    assert verified.estimator < 1e-6


def test_what_is_not_supported_is_named_with_what_is():
    with pytest.raises(TypeError, match=r"kink; use CoxPHSurvivalAnalysis.*by_refitting"):
        uw.from_estimator(linear_model.CoxnetSurvivalAnalysis().fit(X, Y), X, Y)
    with pytest.raises(TypeError, match="structured array"):
        uw.from_estimator(fit({}), X, Y["lenfol"])
    with pytest.raises(ValueError, match="takes weights"):
        uw.from_estimator(fit({}), X, Y, sample_weight=np.ones(500))
    with pytest.raises(ValueError, match="lower tol"):
        uw.from_estimator(fit({}), X[:400], Y[:400])


def test_signs_of_breslows_ties_are_certified_by_risk_sets():
    """The numbers of docs/certificates.md, the found sets confirmed by the library's own refits."""
    rossi = pytest.importorskip("lifelines.datasets").load_rossi()
    outcome = pytest.importorskip("sksurv.util").Surv.from_arrays(rossi.arrest == 1, rossi.week)
    covariates = rossi.drop(columns=["week", "arrest"]).astype(float)
    model = linear_model.CoxPHSurvivalAnalysis(tol=1e-13).fit(covariates, outcome)
    influence = uw.Influence(uw.from_estimator(model, covariates, outcome))
    for name, expected in (("fin", (2, 19)), ("prio", (2, 12))):
        found = uw.robustness(influence, name)
        assert (found.certified, found.found) == expected
        assert found.rows is not None
        kept = np.setdiff1d(np.arange(len(rossi)), found.rows)
        again = linear_model.CoxPHSurvivalAnalysis(tol=1e-13).fit(covariates.iloc[kept], outcome[kept])
        assert again.coef_[list(covariates).index(name)] * found.estimate < 0
