"""Standard errors, t, p and bounds as measures: against refits of statsmodels and central differences."""

from typing import Any

import numpy as np
import pytest
import torch

import upweight as uw
from upweight.uses.general_fit import GeneralFit
from upweight.uses.weighted_fit import WeightedFit

sm = pytest.importorskip("statsmodels.api")

N = 60
RNG = np.random.default_rng(0)
X = np.c_[RNG.normal(size=(N, 2)) * 0.6, np.ones(N)]
ETA = 0.5 * X[:, 0] + 0.3
CLUSTERS = np.arange(N) // 5
W = RNG.uniform(0.5, 2, N)
TARGETS = {
    "OLS": ETA + RNG.standard_t(4, N),
    "WLS": ETA + RNG.standard_t(4, N),
    "Poisson": RNG.poisson(np.exp(ETA)).astype(float),
    "Gamma": RNG.gamma(3, np.exp(ETA) / 3),
    "Logit": (RNG.random(N) < 1 / (1 + np.exp(-ETA))).astype(float),
}
FAMILIES = {
    "Poisson": sm.families.Poisson,
    "Gamma": lambda: sm.families.Gamma(sm.families.links.Log()),
    "Logit": sm.families.Binomial,
}
WHAT = ("standard error", "t", "p", "low", "high")


def fitted(model: str, kind: str, kept: np.ndarray) -> Any:
    how: dict[str, Any] = {"cov_type": kind}
    if kind == "cluster":
        how["cov_kwds"] = {"groups": CLUSTERS[kept]}
    y = TARGETS[model][kept]
    if model in FAMILIES:
        return sm.GLM(y, X[kept], family=FAMILIES[model]()).fit(tol=1e-12, maxiter=200, **how)
    return (sm.WLS(y, X[kept], W[kept]) if model == "WLS" else sm.OLS(y, X[kept])).fit(**how)


def told(results: Any) -> list[float]:
    return [results.bse[0], results.tvalues[0], results.pvalues[0], *results.conf_int()[0]]


CASES = [
    *((model, kind) for model in ("OLS", "WLS") for kind in ("nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster")),
    *((model, kind) for model in FAMILIES for kind in ("nonrobust", "HC0", "cluster")),
]  # fmt: skip


@pytest.mark.parametrize(("model", "kind"), CASES, ids=lambda part: part)
def test_changes_are_those_of_refits(model: str, kind: str) -> None:
    every = np.arange(N)
    influence = uw.Influence(uw.from_results(fitted(model, "nonrobust", every)))
    errors = uw.Errors(kind, CLUSTERS if kind == "cluster" else None)
    rows = every[::7]
    start = np.array(told(fitted(model, kind, every)))
    truth = np.array([told(fitted(model, kind, np.delete(every, row))) for row in rows]) - start
    for what, one in zip(WHAT, truth.T, strict=True):
        measure = uw.inference_measure(influence, 0, what, errors)
        changes = influence.of_each_removal(None, measure=measure).changes
        assert changes is not None
        found = changes[0].numpy()[rows]
        if model in FAMILIES:
            assert 0.99 < found @ one / (found @ found) < 1.01
            assert np.linalg.norm(found - one) < 0.01 * np.linalg.norm(one)
        else:
            np.testing.assert_allclose(found, one, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("model", "kind"), CASES, ids=lambda part: part)
def test_derivatives_have_both_terms(model: str, kind: str) -> None:
    """Central differences of the number itself, the model trained anew at each weight."""
    problem: Any = uw.from_results(fitted(model, "nonrobust", np.arange(N)))
    influence, errors = uw.Influence(problem), uw.Errors(kind, CLUSTERS if kind == "cluster" else None)
    first, ones = torch.eye(3, dtype=torch.float64)[0], torch.ones(N, dtype=torch.float64)
    fit = WeightedFit.of(problem) or GeneralFit.of(problem)
    assert fit is not None
    scores = [
        influence.on_loss(None, measure=uw.inference_measure(influence, 0, what, errors)).values[0] / N
        for what in ("standard error", "t")
    ]
    for row in (0, 7, 31):
        ends = []
        for eps in (1e-4, -1e-4):
            omega = ones.clone()
            omega[row] += eps
            theta = problem.changed(weights=problem.sample_weights * omega).minimised(1e-13).theta
            found = fit.told(first, omega, errors, theta)
            ends.append([float(found.error), float(found.estimate / found.error)])
        slopes = (np.array(ends[0]) - np.array(ends[1])) / 2e-4
        np.testing.assert_allclose([float(one[row]) for one in scores], slopes, rtol=1e-6, atol=1e-9)
    if model in ("OLS", "WLS"):
        known = uw.inference_without(influence, 0, errors).table["derivative"]
        np.testing.assert_allclose(scores[0], known, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("kind", ["nonrobust", "HC0", "cluster"])
@pytest.mark.parametrize("model", FAMILIES)
def test_tests_of_generalised_linear_models_are_searched_by_refits(model: str, kind: str) -> None:
    every = np.arange(N)
    influence = uw.Influence(uw.from_results(fitted(model, "nonrobust", every)))
    errors = uw.Errors(kind, CLUSTERS if kind == "cluster" else None)
    start = fitted(model, kind, every)
    sign = np.sign(start.params[0])
    level, confirmed = 0.3 if start.pvalues[0] < 0.3 else 0.9, 0
    for groups in (None, CLUSTERS):
        for asked in (uw.Significant(0, level, errors), uw.NotReversed(0, level, errors)):
            found = uw.robustness(influence, asked, groups=groups)
            assert found.certified == 0
            assert "generalised linear models" in repr(found)
            if found.rows is None:  # a reversal may not be had
                continue
            confirmed += 1
            again = fitted(model, kind, np.setdiff1d(every, found.rows.numpy()))
            assert found.after is not None
            assert found.error_after is not None
            np.testing.assert_allclose(found.after, again.params[0], rtol=1e-6)
            np.testing.assert_allclose(found.error_after, again.bse[0], rtol=1e-6)
            same = again.params[0] * sign > 0
            if isinstance(asked, uw.Significant):
                assert not (same and again.pvalues[0] < level)
            else:
                assert not same
                assert again.pvalues[0] <= level
    assert confirmed >= 2


@pytest.mark.parametrize("kind", ["nonrobust", "HC0", "cluster"])
@pytest.mark.parametrize("model", FAMILIES)
def test_inference_without_rows_is_that_of_refits_too(model: str, kind: str) -> None:
    every = np.arange(N)
    influence = uw.Influence(uw.from_results(fitted(model, "nonrobust", every)))
    errors = uw.Errors(kind, CLUSTERS if kind == "cluster" else None)
    found = uw.inference_without(influence, 0, errors)
    np.testing.assert_allclose(list(found.whole.values())[1:], told(fitted(model, kind, every)), rtol=1e-7)
    for row in (0, 20, 59):
        truth = told(fitted(model, kind, np.delete(every, row)))
        np.testing.assert_allclose(found.table.iloc[row, 1:6].to_numpy(float), truth, rtol=1e-6)
    measure = uw.inference_measure(influence, 0, "standard error", errors)
    slopes = influence.on_loss(None, measure=measure).values[0] / N
    np.testing.assert_allclose(found.table["derivative"], slopes, rtol=1e-6, atol=1e-9)


def test_two_stage_least_squares_and_effects_have_them_too() -> None:
    from upweight.data.user_terms import Terms
    from upweight.likelihood import LikelihoodProblem, PartialledSquares

    rng = np.random.default_rng(1)
    Z = torch.from_numpy(rng.normal(size=(40, 2)))
    R = (Z @ torch.tensor([[1.0], [0.5]]).double()) + torch.from_numpy(rng.normal(size=(40, 1)))
    y = R + torch.from_numpy(rng.normal(size=(40, 1)))
    codes = torch.arange(40)[:, None] // 6
    likelihood = PartialledSquares(R, y, codes, 1.0, Z)
    problem = LikelihoodProblem(
        likelihood, [0.0], weights=np.ones(40), keep="total", terms=Terms(feature_names=("x",))
    )
    problem = problem.at(problem.newton_step())
    influence, fit = uw.Influence(problem), WeightedFit.of(problem)
    assert fit is not None
    one = torch.ones(1, dtype=torch.float64)
    errors = uw.Errors("cluster", codes[:, 0].numpy())
    measure = uw.inference_measure(influence, 0, "standard error", errors)
    slopes = influence.on_loss(None, measure=measure).values[0] / 40
    changes = influence.of_each_removal(None, measure=measure).changes
    assert changes is not None
    for row in (0, 17, 39):
        ends = []
        for value in (1 + 1e-5, 1 - 1e-5, 0.0, 1.0):
            omega = torch.ones(40, dtype=torch.float64)
            omega[row] = value
            ends.append(float(fit.told(one, omega, errors).error))
        np.testing.assert_allclose(slopes[row], (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
        np.testing.assert_allclose(changes[0, row], ends[2] - ends[3], rtol=1e-9)


def test_what_does_not_follow_the_weights_refuses() -> None:
    influence = uw.Influence(uw.from_results(fitted("OLS", "nonrobust", np.arange(N))))
    error = uw.inference_measure(influence, 0)
    assert error.name == "standard error"
    asked = (X[:1], TARGETS["OLS"][:1])
    with pytest.raises(TypeError, match="depends on the weights"):
        influence.of_removal({"some": [1, 2]}, asked, measure=error)
    with pytest.raises(TypeError, match="depends on the weights"):
        influence.of_change([3], (X[:1], TARGETS["OLS"][:1]), asked, measure=error)
    with pytest.raises(TypeError, match="depends on the weights"):
        uw.verify(influence, asked, measure=error, k=2)
    with pytest.raises(ValueError, match="what must be"):
        uw.inference_measure(influence, 0, "F")
    with pytest.raises(ValueError, match="one for each of 60 rows"):
        uw.inference_measure(influence, 0, errors=uw.Errors("cluster", [1, 2]))
    counts = uw.Influence(uw.from_results(fitted("Poisson", "nonrobust", np.arange(N))))
    with pytest.raises(ValueError, match="is HC0 in statsmodels"):
        uw.inference_measure(counts, 0, errors=uw.Errors("HC1"))
    ridge = uw.Influence(uw.LinearProblem.fit(X, TARGETS["OLS"], loss=uw.Squared(), l2=0.1))
    with pytest.raises(TypeError, match="without a penalty"):
        uw.inference_measure(ridge, 0)
