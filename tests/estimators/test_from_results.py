"""statsmodels: each model against its own class fitted again without a row, and its Newton step written out."""

from copy import copy

import numpy as np
import pandas as pd
import pytest
import torch

import upweight as uw
from tests.support.compare import assert_close_per_row

sm = pytest.importorskip("statsmodels.api")
smf = pytest.importorskip("statsmodels.formula.api")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not respect the domain")
F, L = sm.families, sm.families.links

N = 60
rng = np.random.default_rng(0)
X = pd.DataFrame(
    np.column_stack([np.ones(N), rng.normal(size=N), rng.uniform(size=N)]),
    columns=["const", "a", "b"],
    index=[f"r{i}" for i in range(N)],
)
ETA = X.to_numpy() @ [0.3, 0.25, 0.3]
CHANCE = 1 / (1 + np.exp(-ETA))
COUNT = rng.poisson(np.exp(ETA)).astype(float)
AMOUNT = rng.gamma(3, np.exp(ETA) / 3) + 0.1
BIT = (rng.uniform(size=N) < CHANCE).astype(float)
VALUE = ETA + 0.3 * rng.normal(size=N)
TRIALS = np.column_stack([done := rng.binomial(9, CHANCE), 9 - done]).astype(float)
WEIGHT, SHIFT = rng.uniform(0.5, 2, N), 0.2 * rng.normal(size=N)
COUNTS = rng.negative_binomial(1.5, 1 / (1 + np.exp(ETA))).astype(float)
NEWTON = {"disp": 0, "method": "newton", "tol": 1e-13, "maxiter": 300}


def glm(y, family, **known):
    return lambda r: sm.GLM(
        y[r], X.iloc[r], family=copy(family), **{name: values[r] for name, values in known.items()}
    ).fit(tol=1e-13, maxiter=500)


MODELS = {
    "OLS": lambda r: sm.OLS(VALUE[r], X.iloc[r]).fit(),
    "WLS": lambda r: sm.WLS(VALUE[r], X.iloc[r], weights=WEIGHT[r]).fit(),
    "GLS": lambda r: sm.GLS(VALUE[r], X.iloc[r], sigma=WEIGHT[r]).fit(),
    "Logit": lambda r: sm.Logit(BIT[r], X.iloc[r]).fit(**NEWTON),
    "Logit, offset": lambda r: sm.Logit(BIT[r], X.iloc[r], offset=SHIFT[r]).fit(**NEWTON),
    "Probit": lambda r: sm.Probit(BIT[r], X.iloc[r]).fit(**NEWTON),
    "Poisson, exposure": lambda r: sm.Poisson(COUNT[r], X.iloc[r], exposure=WEIGHT[r]).fit(**NEWTON),
    "MNLogit": lambda r: sm.MNLogit(np.digitize(VALUE, [0.3, 0.7])[r], X.iloc[r]).fit(**NEWTON),
    "gaussian log": glm(AMOUNT, F.Gaussian(L.Log())),
    "gaussian inverse": glm(AMOUNT, F.Gaussian(L.InversePower())),
    "poisson": glm(COUNT, F.Poisson()),
    "poisson identity": glm(COUNT, F.Poisson(L.Identity())),
    "poisson sqrt": glm(COUNT, F.Poisson(L.Sqrt())),
    "gamma": glm(AMOUNT, F.Gamma()),
    "gamma log": glm(AMOUNT, F.Gamma(L.Log())),
    "gamma identity": glm(AMOUNT, F.Gamma(L.Identity())),
    "gamma power": glm(AMOUNT, F.Gamma(L.Power(power=0.4), check_link=False)),
    "inverse gaussian": glm(AMOUNT, F.InverseGaussian()),
    "inverse gaussian log": glm(AMOUNT, F.InverseGaussian(L.Log())),
    "negative binomial log": glm(COUNT, F.NegativeBinomial(alpha=0.7)),
    "negative binomial sqrt": glm(COUNT, F.NegativeBinomial(L.Sqrt(), alpha=0.7, check_link=False)),
    "tweedie": glm(AMOUNT, F.Tweedie(var_power=1.5)),
    "tweedie 2.5": glm(AMOUNT, F.Tweedie(var_power=2.5)),
    "binomial": glm(BIT, F.Binomial()),
    "binomial probit": glm(BIT, F.Binomial(L.Probit())),
    "binomial cauchy": glm(BIT, F.Binomial(L.Cauchy())),
    "binomial cloglog": glm(BIT, F.Binomial(L.CLogLog())),
    "binomial loglog": glm(BIT, F.Binomial(L.LogLog())),
    "binomial trials": glm(TRIALS, F.Binomial()),
    "binomial trials log": glm(TRIALS, F.Binomial(L.Log())),
    "poisson, all weights": glm(
        COUNT, F.Poisson(), freq_weights=np.ceil(WEIGHT), var_weights=WEIGHT, offset=SHIFT
    ),
}
EXACT = ("OLS", "WLS", "GLS")
ROUGH = {"MNLogit": 0.1, "binomial cauchy": 0.15}
"""How far a Newton step is from refits here, where that is more than 6 %: these bend much."""


@pytest.fixture(params=MODELS)
def model(request):
    return request.param, MODELS[request.param], MODELS[request.param](np.arange(N))


def read(results):
    problem = uw.from_results(results).linear
    assert problem is not None
    return problem


def theta_of(results) -> np.ndarray:
    found = np.asarray(results.params)
    return found if found.ndim == 1 else found.T.ravel()


def scores_and_hessian(results):
    """Gradient (n, p) and Hessian (p, p) of minus the log-likelihood, by statsmodels."""
    own = results.model
    if isinstance(own, sm.GLM):
        gradient = -own.score_obs(results.params, scale=1.0)
        return gradient, -own.hessian(results.params, scale=1.0, observed=True)
    if isinstance(own, sm.MNLogit):
        order = np.arange(results.params.size).reshape(results.params.shape, order="F").T.ravel()
        hessian = own.hessian(results.params.to_numpy().ravel(order="F"))
        return -own.score_obs(results.params.to_numpy().ravel(order="F"))[:, order], -hessian[order][:, order]
    if hasattr(own, "score_obs"):
        return -own.score_obs(results.params), -own.hessian(results.params)
    return -own.wexog * (own.wendog - own.wexog @ np.asarray(results.params))[
        :, None
    ], own.wexog.T @ own.wexog


def test_derivatives_are_those_of_the_model(model):
    _, _, results = model
    problem = read(results)
    gradient, hessian = scores_and_hessian(results)
    assert np.array_equal(problem.theta.numpy(), theta_of(results))
    size = np.linalg.norm(gradient, axis=1).mean()
    assert np.abs(problem.train_gradients(torch.arange(N)).numpy() - gradient).max() < 1e-7 * size
    assert_close_per_row(problem.hessian.matrix() * N, hessian, 1e-7)


def test_each_removal_is_a_newton_step_of_the_rows_left_and_near_a_refit(model):
    name, fit, results = model
    problem = read(results)
    influence, every = uw.Influence(problem), np.arange(N)
    assert influence.row_steps is not None
    steps = influence.row_steps.parameters(torch.arange(N)) - problem.theta
    for row in (0, 17, 41):
        left = problem.without(torch.tensor([row]))
        newton = -torch.linalg.solve(left.hessian.matrix(), left.gradient())
        assert_close_per_row(steps[row][None], newton[None], 1e-6)
    refits = np.array([theta_of(fit(np.delete(every, row))) for row in range(15)]) - theta_of(results)
    off = np.linalg.norm(steps[:15].numpy() - refits) / np.linalg.norm(refits)
    first = np.linalg.norm(-influence.on_params(list(range(15))).numpy() / N - refits) / np.linalg.norm(
        refits
    )
    assert off < (1e-6 if name in EXACT else ROUGH.get(name, 0.06))
    assert off < first


def test_sets_are_removed_by_newton_steps_too(model):
    _, _, results = model
    problem = read(results)
    influence, rows = uw.Influence(problem), torch.arange(5, 17)
    left = problem.without(rows)
    newton = problem.theta - torch.linalg.solve(left.hessian.matrix(), left.gradient())
    test = problem.train_batch(torch.arange(4))
    expected = problem.evaluate(test, theta=newton) - problem.evaluate(test)
    found = influence.of_removal([rows], test, steps=1)
    assert found.newton is not None
    assert_close_per_row(found.newton[:, 0], expected, 1e-6)


def test_verify_fits_the_users_own_class_again(model):
    name, _, results = model
    y = {"Logit": BIT, "MNLogit": np.digitize(VALUE, [0.3, 0.7])}.get(name)
    problem = read(results)
    if problem.loss.classifies:
        y = BIT
    inputs = (X.iloc[:4], SHIFT[:4]) if "offset" in problem.loss.note else X.iloc[:4]
    targets = problem.y.reshape(N, -1)[:4, 0].numpy() if y is None else y[:4]
    found = uw.verify(uw.Influence(problem), (inputs, targets), k=6)
    assert found.estimator is not None
    assert found.estimator < 1e-5
    assert found.top.relative_error < 0.2


@pytest.mark.filterwarnings("ignore:Maximum Likelihood optimization failed")
@pytest.mark.parametrize(
    "settings", [{}, {"offset": SHIFT}, {"loglike_method": "nb1"}], ids=["nb2", "offset", "nb1"]
)
def test_the_alpha_of_a_negative_binomial_is_a_parameter(settings):
    def fit(r):
        own = {name: value if isinstance(value, str) else value[r] for name, value in settings.items()}
        model = sm.NegativeBinomial(COUNTS[r], X.iloc[r], **own)
        return model.fit(disp=0, gtol=1e-10, maxiter=5000)

    fitted = fit(np.arange(N))
    problem = uw.from_results(fitted)
    params = np.asarray(fitted.params)
    assert_close_per_row(problem.hessian.matrix() * N, -fitted.model.hessian(params), 1e-6)
    scores = problem.train_gradients(torch.arange(N))
    assert np.abs(scores.numpy() + fitted.model.score_obs(params)).max() < 1e-8
    assert problem.reduced is not None
    for row in (0, 11, 30):
        theta, _ = problem.reduced.refitted(torch.tensor([row]))
        again = np.asarray(fit(np.delete(np.arange(N), row)).params) - params
        assert_close_per_row(theta[None] - problem.theta, again[None], 1e-4)  # its bfgs ends near the optimum
    inputs = (X.iloc[:3], SHIFT[:3]) if "offset" in settings else X.iloc[:3]
    found = uw.verify(uw.Influence(problem), (inputs, COUNTS[:3]), k=5)
    assert found.estimator is not None
    assert found.estimator < 1e-4
    assert found.top.relative_error < 0.35


def test_a_formula_gives_names_of_rows_and_columns_and_drops_what_is_missing():
    table = X.assign(y=VALUE, town=["north", "south", "west"] * 20)
    table.loc["r3", "a"] = np.nan
    fitted = smf.ols("y ~ a + np.exp(b) + C(town)", table).fit()
    problem = uw.from_results(fitted)
    assert problem.train_index is not None
    assert problem.train_index.tolist() == [name for name in X.index if name != "r3"]
    assert problem.feature_names == tuple(fitted.params.index)
    scores = uw.Influence(problem).on_loss((table[-3:], table["y"][-3:]), measure=uw.measures.prediction)
    assert scores.test_ids is not None
    assert scores.test_ids.tolist() == ["r57", "r58", "r59"]
    without = fitted.model.data.frame.drop(index="r3")
    again = smf.ols("y ~ a + np.exp(b) + C(town)", without.drop(index="r8")).fit()
    predicted = uw.Influence(problem).of_each_removal(
        (table[-3:], table["y"][-3:]), measure=uw.measures.prediction
    )
    change = again.predict(table[-3:]) - fitted.predict(table[-3:])
    assert_close_per_row(predicted.effect()[:, problem.train_index.get_loc("r8")], change.to_numpy(), 1e-8)
    with pytest.raises(ValueError, match="1 rows of the batch have missing values"):
        problem.evaluate((table[2:5], table["y"][2:5]))


def test_tables_are_read_by_their_columns():
    problem = uw.from_results(MODELS["OLS"](np.arange(N)))
    turned = X[["b", "const", "a"]].iloc[:2]
    assert torch.equal(
        problem.evaluate((turned, VALUE[:2])), problem.evaluate((X.iloc[:2].to_numpy(), VALUE[:2]))
    )
    with pytest.raises(ValueError, match=r"lacks columns .*\['const'\]"):
        problem.evaluate((X[["a", "b"]].iloc[:2], VALUE[:2]))
    with pytest.raises(ValueError, match="has no offset"):
        problem.evaluate(((X.iloc[:2], SHIFT[:2]), VALUE[:2]))
    with_offset = uw.from_results(MODELS["Logit, offset"](np.arange(N)))
    with pytest.raises(ValueError, match="has an offset"):
        with_offset.evaluate((X.iloc[:2], BIT[:2]))


REFUSED = {
    "the gradient at the fitted parameters": lambda: sm.GLM(COUNT, X, family=F.Poisson()).fit_constrained(
        "a=1"
    ),
    "fit_regularized are not supported": lambda: sm.Logit(BIT, X).fit_regularized(alpha=1.0, disp=0),
    "results of fit_regularized": lambda: sm.OLS(VALUE, X).fit_regularized(alpha=0.1),
    "correlated rows": lambda: sm.GLS(VALUE, X, sigma=np.eye(N) + 0.1).fit(),
    "use HuberRegressor": lambda: sm.RLM(VALUE, X).fit(),
    "use QuantileRegressor": lambda: sm.QuantReg(VALUE, X).fit(),
    "working correlation": lambda: sm.GEE(VALUE, X, groups=np.arange(N) // 3).fit(),
    "with a column for each group": lambda: sm.MixedLM(VALUE, X, groups=np.arange(N) // 3).fit(),
    "parameters of dispersion": lambda: sm.GeneralizedPoisson(COUNT, X).fit(disp=0),
    "lagged columns": lambda: sm.tsa.SARIMAX(VALUE, order=(1, 0, 0)).fit(disp=0),
    "linearly dependent columns": lambda: sm.OLS(VALUE, X.assign(twice=2 * X["a"])).fit(),
    "takes what a model's fit gave": lambda: sm.OLS(VALUE, X),
    "is not supported; links are": lambda: sm.GLM(
        0.2 + 0.5 * BIT, X, family=F.Poisson(L.CLogLog(), check_link=False)
    ).fit(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", REFUSED)
def test_what_is_not_supported_is_named_with_what_is(said):
    results = REFUSED[said]()
    with pytest.raises((TypeError, ValueError), match=said):
        uw.from_results(results)


def test_a_fit_that_stopped_early_is_refused_or_finished():
    early = sm.GLM(COUNT, X, family=F.Poisson()).fit(maxiter=1, start_params=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="times what one row contributes"):
        uw.from_results(early)
    assert_close_per_row(
        uw.from_results(early, polish=True).theta, theta_of(MODELS["poisson"](np.arange(N))), 1e-6
    )


def test_separated_data_are_refused_whatever_the_link():
    y = (X["a"] > 0).astype(float)
    with pytest.warns(match="Perfect"):
        fitted = sm.GLM(y, X, family=F.Binomial(L.Probit())).fit()
    with pytest.raises(ValueError, match="no finite optimum"):
        uw.from_results(fitted)


def test_fitted_results_given_to_from_estimator_are_sent_to_from_results() -> None:
    results = sm.OLS(BIT, X).fit()
    with pytest.raises(TypeError, match=r"RegressionResults.* pass fitted results to from_results"):
        uw.from_estimator(results, X, BIT)
