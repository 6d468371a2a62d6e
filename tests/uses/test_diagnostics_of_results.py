"""Diagnostics of generalised linear models by their definitions: fits of statsmodels without each group or row."""

import numpy as np
import pytest

import upweight as uw
from tests.support.compare import assert_close_per_row

sm = pytest.importorskip("statsmodels.api")
F, L = sm.families, sm.families.links
N, rng = 28, np.random.default_rng(1)
X = np.column_stack([np.ones(N), rng.normal(size=N), rng.uniform(size=N)])
MEAN = np.exp(X @ [0.3, 0.25, 0.3])
AMOUNT, COUNT = rng.gamma(3, MEAN / 3) + 0.1, rng.poisson(MEAN).astype(float)
SHIFT, TIMES, WEIGHT = 0.1 * rng.normal(size=N), rng.integers(1, 4, N).astype(float), rng.uniform(0.5, 2, N)
GROUP = np.arange(N) // 4
MODELS = {
    "gamma log": (AMOUNT, lambda: F.Gamma(L.Log()), {}),
    "gamma": (AMOUNT, F.Gamma, {"var_weights": WEIGHT}),
    "gaussian log": (AMOUNT, lambda: F.Gaussian(L.Log()), {}),
    "inverse gaussian": (AMOUNT, lambda: F.InverseGaussian(L.Log()), {}),
    "tweedie": (AMOUNT, lambda: F.Tweedie(var_power=1.5), {}),
    "poisson with an offset": (COUNT, F.Poisson, {"offset": SHIFT}),
    "gaussian with an offset": (AMOUNT, F.Gaussian, {"offset": SHIFT}),
    "negative binomial": (COUNT, lambda: F.NegativeBinomial(alpha=0.7), {}),
    "binomial cloglog": ((COUNT > 1).astype(float), lambda: F.Binomial(L.CLogLog()), {}),
    "rows that stand for several": (AMOUNT, lambda: F.Gamma(L.Log()), {"freq_weights": TIMES}),
    "squares that stand for several": (AMOUNT, F.Gaussian, {"freq_weights": TIMES}),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*does not respect the domain")


def fit(name, rows):
    y, family, known = MODELS[name]
    own = {key: values[rows] for key, values in known.items()}
    return sm.GLM(y[rows], X[rows], family=family(), **own).fit(
        tol=1e-12, tol_criterion="params", maxiter=300
    )


@pytest.fixture(params=MODELS)
def model(request):
    return request.param, fit(request.param, np.arange(N))


@pytest.mark.parametrize("grouped", [False, True])
def test_of_refits_they_are_what_their_names_mean(model, grouped):
    name, results = model
    influence = uw.Influence(uw.from_results(results))
    found = uw.diagnostics(influence, GROUP if grouped else None, refitted=True)
    covariance = results.cov_params() / results.scale
    assert found.scale == pytest.approx(results.scale**0.5, rel=1e-8)
    for k in range(0, len(found.table), 3 if grouped else 9):
        other = fit(name, np.flatnonzero(k != GROUP) if grouped else np.delete(np.arange(N), k))
        move = results.params - other.params
        betas = move / np.sqrt(other.scale * np.diag(covariance))
        assert_close_per_row(found.dfbetas.to_numpy()[[k]], betas[None], 1e-6)
        cook = move @ np.linalg.inv(covariance) @ move / (3 * results.scale)
        assert found.table["cooks distance"].iloc[k] == pytest.approx(cook, rel=1e-6)
        ratio = np.linalg.det(other.cov_params()) / np.linalg.det(results.cov_params())
        assert found.table["covratio"].iloc[k] == pytest.approx(ratio, rel=1e-6)


def test_of_one_step_they_are_near_and_leverages_add_up(model):
    name, results = model
    influence = uw.Influence(uw.from_results(results))
    step, exact = uw.diagnostics(influence), uw.diagnostics(influence, refitted=True)
    assert float(step.table["leverage"].sum()) == pytest.approx(3, rel=1e-9)
    assert step.parameters == pytest.approx(3, rel=1e-9)
    off = np.linalg.norm(step.dfbetas - exact.dfbetas) / np.linalg.norm(exact.dfbetas)
    assert off < (1e-8 if name.startswith(("squares", "gaussian with")) else 0.15)
    several = np.sqrt(MODELS[name][2].get("freq_weights", 1.0))
    assert step.table["residual"].to_numpy() == pytest.approx(
        several * results.resid_pearson, rel=1e-7, abs=1e-9
    )
    if "deviance" in step.table and "freq_weights" not in MODELS[name][2]:
        assert step.table["deviance"].to_numpy() == pytest.approx(results.resid_deviance, rel=1e-7, abs=1e-9)
    if "log" not in name:
        return
    assert step.table["leverage"].to_numpy() == pytest.approx(
        results.get_influence(observed=False).hat_matrix_diag, rel=1e-6
    )


def test_the_likelihood_residual_is_near_the_fall_of_the_deviance():
    results = fit("negative binomial", np.arange(N))
    found = uw.diagnostics(uw.Influence(uw.from_results(results))).table["likelihood"]
    falls = [
        results.deviance - fit("negative binomial", np.delete(np.arange(N), row)).deviance for row in range(N)
    ]
    assert found.to_numpy() ** 2 == pytest.approx(np.array(falls), rel=0.1, abs=0.02)


def test_weights_of_both_kinds_are_refused():
    both = sm.GLM(AMOUNT, X, family=F.Gamma(L.Log()), freq_weights=TIMES, var_weights=WEIGHT).fit()
    with pytest.raises(ValueError, match="freq_weights and var_weights together"):
        uw.from_results(both)
