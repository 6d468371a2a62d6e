"""Certificates of Poisson, Gamma, Tweedie and negative binomial regression against refits without every small set."""

from typing import Any

import numpy as np
import pytest
import torch

import upweight as uw
from experiments.exhaustive import RATE_KINDS, RATES, Case, kept_rows, rate_case, rate_fits
from upweight.linalg.units import Units
from upweight.losses import GeneralisedLinear, LinearLoss
from upweight.losses.offsets import WithOffset
from upweight.losses.proportions import Proportion
from upweight.uses.certificates import MomentBounds
from upweight.uses.conclusions import Direction
from upweight.uses.removals import Question

LOSSES: dict[str, LinearLoss] = {
    "poisson": uw.Tweedie(1),
    "gamma": uw.Tweedie(2),
    "tweedie": uw.Tweedie(1.5),
    "negative binomial": GeneralisedLinear("negative binomial", "log", 0.5),
}


def problem_of(model: str, case: Case) -> uw.LinearProblem:
    l2 = case.penalty / len(case.X)
    return uw.LinearProblem.fit(case.X, case.y, loss=LOSSES[model], weights=case.w, l2=l2, keep="total")


OTHERS: list[LinearLoss] = [
    GeneralisedLinear("poisson", "log"),
    GeneralisedLinear("gamma", "log"),
    GeneralisedLinear("tweedie", "log", 1.3),
    WithOffset(GeneralisedLinear("poisson", "log")),
    Proportion("logit"),
]


@pytest.mark.parametrize("loss", [*LOSSES.values(), *OTHERS], ids=repr)
def test_the_third_derivative_is_at_most_the_second(loss: LinearLoss) -> None:
    """(18) of docs/certificates.md, by differences of the curvature."""
    assert loss.self_concordant
    eta = torch.linspace(-4, 4, 161, dtype=torch.float64)[:, None]
    for target in (0.2, 0.7, 1.0) if isinstance(loss, Proportion) else (0.2, 1.0, 5.0, 40.0):
        y = torch.full_like(eta, target)
        if isinstance(loss, WithOffset):
            y = torch.cat([y, 0.3 * torch.ones_like(y)], 1)
        near = [loss.curvature(eta + step, y)[0] for step in (-1e-4, 0.0, 1e-4)]
        third = (near[2] - near[0]) / 2e-4
        assert (third.abs() <= near[1] * (1 + 1e-6)).all()


def test_links_without_that_bound_say_so() -> None:
    for family, link in (
        ("gamma", "inverse"),
        ("inverse gaussian", "log"),
        ("gaussian", "log"),
        ("poisson", "sqrt"),
    ):
        assert not GeneralisedLinear(family, link).self_concordant
    assert not Proportion("probit").self_concordant


@pytest.mark.parametrize("kind", RATE_KINDS)
@pytest.mark.parametrize("model", RATES)
def test_no_set_moves_further_than_its_bound(model: str, kind: str) -> None:
    """Inequalities 11 to 15 with (18): the change of a coefficient, refitted without every set."""
    held = 0
    for seed in range(3):
        case = rate_case(model, kind, seed)
        problem = problem_of(model, case)
        theta = rate_fits(model, case, np.ones((1, len(case.X)), dtype=bool))[0]
        np.testing.assert_allclose(problem.theta, theta, rtol=1e-5, atol=1e-7)
        for sign in (1.0, -1.0):
            asked = Direction(sign * torch.eye(problem.p, dtype=torch.float64)[0], "it")
            question = Question.of(problem, asked, torch.arange(problem.n).split(1), 1.0)
            whole = question.whole
            bounds = MomentBounds(question, Units.of(whole.rows), whole.rows @ question.direction, 3, 1 << 20)
            for k, most in enumerate(bounds.change.tolist()[: 3 if problem.n < 18 else 2], 1):
                if most == np.inf:
                    continue
                without = rate_fits(model, case, kept_rows(problem.n, k))
                assert not np.isnan(without).any()  # the optimum exists without every set
                assert (sign * (theta[0] - without[:, 0])).max() <= most
                held += 1
    assert held or kind in ("rare", "heavy tails")


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("model", RATES)
def test_no_set_undercuts_the_certificate_of_a_sign(model: str, grouped: bool) -> None:
    certified = 0
    for seed in range(3):
        case = rate_case(model, "plain", seed, n=48)
        groups = np.arange(48) // 4 if grouped else None
        problem = problem_of(model, case)
        found = uw.robustness(uw.Influence(problem), 0, groups=groups)
        for k in range(1, min(found.certified, 2) + 1):
            kept = kept_rows(12 if grouped else 48, k)
            without = rate_fits(model, case, np.repeat(kept, 4, axis=1) if grouped else kept)
            assert (without[:, 0] * found.estimate > 0).all()
        if found.rows is not None:
            kept = np.ones((1, 48), dtype=bool)
            kept[0, found.rows.numpy()] = False
            assert found.after is not None
            again = rate_fits(model, case, kept)[0, 0]
            np.testing.assert_allclose(again, found.after, rtol=1e-5, atol=1e-7)
            assert found.after * found.estimate <= 0
        certified += found.certified
    assert certified


def test_results_of_statsmodels_are_certified_and_receipts_hold() -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=(80, 2)), np.ones(80)]
    counts = rng.poisson(np.exp(0.4 * X[:, 0] + 1))
    exposure = rng.uniform(0.5, 2, 80)
    fits: list[Any] = [
        sm.GLM(counts, X, family=sm.families.Poisson()).fit(tol=1e-12),
        sm.GLM(counts, X, family=sm.families.Poisson(), exposure=exposure).fit(tol=1e-12),
        sm.GLM(counts + 1.0, X, family=sm.families.Gamma(sm.families.links.Log())).fit(tol=1e-12),
    ]
    for fitted in fits:
        influence = uw.Influence(uw.from_results(fitted))
        found = uw.robustness(influence, 0)
        assert found.certified >= 1
        kept = np.delete(np.arange(80), [3, 7])
        own = {"exposure": exposure[kept]} if fitted is fits[1] else {}
        again = sm.GLM(fitted.model.endog[kept], X[kept], family=fitted.model.family, **own).fit(tol=1e-13)
        receipt = uw.removal_receipt(influence, [3, 7])
        assert np.linalg.norm(receipt.theta.numpy() - again.params) <= receipt.distance + 1e-9
        assert receipt.distance < 1e-6
