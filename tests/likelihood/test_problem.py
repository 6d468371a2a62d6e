"""Whole likelihoods against what is written out plainly: Efron's ties, risk sets, refits with other weights."""

import numpy as np
import pytest
import torch
from scipy.stats import nbinom

from tests.support.compare import assert_close_per_row
from upweight import (
    Influence,
    NotConvergedError,
    OfParameters,
    Overall,
    diagnostics,
    measures,
    mislabeled,
    verify,
)
from upweight.data.user_terms import Terms
from upweight.likelihood import LikelihoodProblem, NegativeBinomial, PartialLikelihood
from upweight.likelihood.likelihood import differentiated
from upweight.validation.refits import change_without

N, rng = 40, np.random.default_rng(3)
X = torch.from_numpy(rng.normal(size=(N, 2)) * [1.0, 30.0])
TIME = torch.from_numpy(rng.integers(1, 9, N).astype(float))  # many ties
EVENT = torch.from_numpy((rng.uniform(size=N) < 0.7).astype(float))
STRATUM = torch.from_numpy(rng.integers(0, 2, N).astype(float))
WEIGHT = torch.from_numpy(rng.integers(1, 4, N).astype(float))
COUNT = torch.from_numpy(rng.negative_binomial(2, 0.4, N).astype(float))
SHIFT = torch.from_numpy(0.1 * rng.normal(size=N))
TERMS = Terms(prepare=lambda X, y: (X, torch.zeros(len(X), 3) if y is None else y))


def cox(l2=0.0, keep="mean") -> LikelihoodProblem:
    likelihood = PartialLikelihood(X, torch.stack([TIME, EVENT, STRATUM], dim=1))
    l2 = l2 * likelihood.spread
    start = LikelihoodProblem(likelihood, [0.0, 0.0], l2=l2, weights=WEIGHT, keep=keep, terms=TERMS)
    return start.minimised()


def negative_binomial(power=2) -> LikelihoodProblem:
    likelihood = NegativeBinomial(torch.cat([torch.ones(N, 1), X], 1), torch.stack([COUNT, SHIFT], 1), power)
    start = [float(COUNT.mean().log()), 0.0, 0.0, 0.5]
    return LikelihoodProblem(likelihood, start, weights=WEIGHT, keep="total", terms=TERMS).minimised()


PROBLEMS = {
    "cox": cox,
    "cox with a penalty": lambda: cox(0.1),
    "cox with its total kept": lambda: cox(0.1, "total"),
    "negative binomial": negative_binomial,
    "negative binomial 1": lambda: negative_binomial(1),
}


@pytest.fixture(params=PROBLEMS)
def problem(request) -> LikelihoodProblem:
    return PROBLEMS[request.param]()


def test_efrons_ties_are_those_of_the_textbook():
    theta, expected = torch.tensor([0.3, -0.02]).double(), torch.zeros(()).double()
    eta = X @ theta
    for stratum in (0, 1):
        for t in TIME.unique():
            dying = (t == TIME) & (EVENT == 1) & (stratum == STRATUM)
            at_risk = (t <= TIME) & (stratum == STRATUM)
            if not dying.any():
                continue
            d, risk = int(dying.sum()), WEIGHT * eta.exp()
            for k in range(d):
                left = risk[at_risk].sum() - k / d * risk[dying].sum()
                expected += WEIGHT[dying].mean() * left.log()
            expected -= (WEIGHT[dying] * eta[dying]).sum()
    found = cox().likelihood.total(theta, WEIGHT)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("efron", [True, False])
def test_rows_that_enter_late_are_at_risk_from_then_on(efron):
    theta, expected = torch.tensor([0.3, -0.02]).double(), torch.zeros(()).double()
    enters = (TIME - torch.from_numpy(rng.integers(1, 5, N))).clamp(min=0).double()
    for stratum in (0, 1):
        for t in TIME.unique():
            dying = (t == TIME) & (EVENT == 1) & (stratum == STRATUM)
            risk = WEIGHT * (X @ theta).exp() * ((t <= TIME) & (enters < t) & (stratum == STRATUM))
            for k in range(int(dying.sum())):
                left = risk.sum() - efron * k / int(dying.sum()) * risk[dying].sum()
                expected += WEIGHT[dying].mean() * left.log()
            expected -= (WEIGHT[dying] * (X @ theta)[dying]).sum()
    likelihood = PartialLikelihood(X, torch.stack([TIME, EVENT, STRATUM, enters], dim=1), efron=efron)
    assert float(likelihood.total(theta, WEIGHT)) == pytest.approx(float(expected), rel=1e-12)
    by_autograd = differentiated(lambda at: likelihood.total(at, WEIGHT), theta)
    for found, plain in zip(likelihood.derivatives(theta, WEIGHT), by_autograd, strict=True):
        assert_close_per_row(found.reshape(-1, 2), plain.reshape(-1, 2), 1e-11)


@pytest.mark.parametrize("power", [1, 2])
def test_counts_have_the_likelihood_of_scipy(power):
    problem = negative_binomial(power)
    X, y = problem.likelihood.X, problem.likelihood.y
    mu, alpha = (X @ problem.theta[:-1] + y[:, 1]).exp(), problem.theta[-1]
    size = 1 / alpha if power == 2 else mu / alpha
    expected = -nbinom.logpmf(COUNT, size, size / (size + mu))
    assert_close_per_row(problem.train_losses()[:, None], expected[:, None], 1e-9)


def test_gradients_of_rows_add_up_and_are_derivatives_of_refits_in_the_weight(problem):
    gradients = problem.train_gradients(torch.arange(N))
    kept = problem.penalty.gradient(problem.theta) - problem.folded_penalty  # what no row takes along
    assert float((gradients.mean(0) + kept - problem.gradient()).abs().max()) < 1e-12
    rows, h = [0, 7, 21], 1e-4
    found = Influence(problem).on_params(rows)
    for row, influence in zip(rows, found, strict=True):
        moved = []
        for step in (h, -h):
            weights = problem.weights.clone()
            weights[row] *= 1 + step
            there = problem.changed(weights=weights)
            if problem.keep == "mean":  # the penalty is folded into every row (footnote 1)
                there = there.changed(l2=problem.l2 * (1 + step / N))
            moved.append(there.minimised().theta)
        assert_close_per_row(influence[None] / N, ((moved[0] - moved[1]) / (2 * h))[None], 1e-6)


def test_a_newton_step_is_that_of_the_rows_left_and_steps_end_at_the_refit(problem):
    rows = torch.tensor([3, 4, 11])
    kept = torch.ones(N, dtype=torch.bool)
    kept[rows] = False
    index = kept.nonzero()[:, 0]
    left = problem.subset(index)
    l2 = left.l2 * (N / len(index) if problem.keep == "total" else 1)
    left = left.changed(l2=l2)
    newton = left.theta - torch.linalg.solve(left.hessian.matrix(), left.gradient())
    assert_close_per_row(problem.reduced.newton([rows]), newton[None], 1e-8)
    theta, norm = problem.reduced.refitted(rows)
    assert norm < 1e-8
    assert_close_per_row(theta[None], left.minimised().theta[None], 1e-8)


def test_the_penalty_of_cox_follows_the_deviations_of_the_rows_left():
    problem, rows = cox(0.1), torch.tensor([int(X[:, 1].abs().argmax())])
    left = problem.without(rows)
    kept = [i for i in range(N) if i != int(rows)]
    assert_close_per_row(left.l2[None], 0.1 * X[kept].var(0)[None], 1e-12)


def test_questions_of_all_kinds_are_answered(problem):
    influence, test = Influence(problem), (problem.likelihood.X[:3], problem.likelihood.y[:3])
    found = influence.of_each_removal(test, measure=measures.prediction, steps=1)
    newton = problem.reduced.newton(list(torch.arange(N).split(1)))
    outputs = problem.likelihood.outputs
    change = torch.cat([outputs(theta, test[0]) - outputs(problem.theta, test[0]) for theta in newton], 1)
    assert_close_per_row(found.effect(), change, 1e-8)
    refits = torch.stack([problem.reduced.refitted(row)[0] for row in torch.arange(N).split(1)])
    change = torch.cat([outputs(theta, test[0]) - outputs(problem.theta, test[0]) for theta in refits], 1)
    further = influence.of_each_removal(test, measure=measures.prediction)
    assert_close_per_row(further.effect(), change, 1e-5)
    groups = influence.of_removal(np.arange(N) // 10, test, measure=measures.prediction)
    assert groups.newton is not None
    assert groups.newton.shape == (3, 4)
    for rows, column in zip(torch.arange(N).split(10), groups.newton.T, strict=True):
        try:
            theta = problem.reduced.refitted(rows)[0]
        except NotConvergedError:  # without them there is no optimum
            assert bool(column.isnan().all())
            continue
        change = outputs(theta, test[0]) - outputs(problem.theta, test[0])
        assert_close_per_row(column[None], change.T, 1e-5)
    first = influence.on_loss(test, measure=OfParameters(lambda params: params["weight"][0, 0]))
    assert_close_per_row(first.values[0], influence.on_params(list(range(N)))[:, 0], 1e-10)
    mean = influence.on_loss(test, measure=Overall(lambda outputs, _: outputs.mean()))
    each = influence.on_loss(test, measure=measures.prediction)
    assert_close_per_row(mean.values[0], each.values.mean(0), 1e-10)
    assert verify(influence, test, k=5, measure=measures.prediction).top.pearson > 0.9


@pytest.mark.parametrize("refitted", [False, True])
def test_dfbetas_are_moves_in_standard_errors(problem, refitted: bool):
    groups = np.arange(N) // 8
    found = diagnostics(Influence(problem), groups, refitted=refitted)
    sets = list(torch.arange(N).split(8))
    thetas = torch.stack([problem.reduced.refitted(rows)[0] for rows in sets])
    thetas = thetas if refitted else problem.reduced.newton(sets)
    H = problem.hessian.matrix() * N
    moves, errors = problem.theta - thetas, torch.linalg.inv(H).diagonal().sqrt()
    assert_close_per_row(found.dfbetas.to_numpy(), moves / errors, 1e-9)
    cook = torch.einsum("gi,ij,gj->g", moves, H, moves) / problem.p
    assert_close_per_row(found.table[["cooks distance"]].to_numpy(), cook[:, None], 1e-9)
    assert len(diagnostics(Influence(problem)).table) == N


def test_the_change_without_a_set_is_that_of_a_refit(problem):
    rows, test = torch.arange(6), (problem.likelihood.X[:3], problem.likelihood.y[:3])
    found = change_without(problem, test, rows, measure=measures.prediction)
    theta, _ = problem.reduced.refitted(rows)
    outputs = problem.likelihood.outputs
    expected = outputs(theta, test[0]) - outputs(problem.theta, test[0])
    assert_close_per_row(found[:, None], expected, 1e-6)


def test_rows_predicted_without_themselves_are_those_of_refits(problem):
    influence = Influence(problem)
    alone, likelihood = influence.leave_one_out(), problem.likelihood
    for i in (0, 5, 21, 39):
        theta, _ = problem.reduced.refitted(torch.tensor([i]))
        kept = torch.arange(N) != i
        left = likelihood.take(kept.nonzero()[:, 0])
        added = likelihood.total(theta, WEIGHT) - left.total(theta, WEIGHT[kept])
        assert float(alone.outputs[i]) == pytest.approx(
            float(likelihood.X[i] @ theta[: X.shape[1] + likelihood.rows_apart]), rel=1e-6
        )
        assert float(alone.loss[i]) == pytest.approx(float(added / WEIGHT[i]), rel=1e-6)
        if likelihood.rows_apart:
            own = likelihood.losses(theta, likelihood.X[[i]], likelihood.y[[i]])
            assert float(alone.loss[i]) == pytest.approx(float(own[0]), rel=1e-8)
    bare = problem.hessian.matrix() - torch.diag(problem.l2)
    effective = torch.linalg.solve(problem.hessian.matrix(), bare).trace()
    assert float(alone.leverage.sum()) == pytest.approx(float(effective), rel=1e-9)
    for i in (3, 8):  # the share of the curvature that is the row's own
        there = problem.changed(weights=torch.where(torch.arange(N) == i, WEIGHT * (1 + 1e-6), WEIGHT))
        own = (there.total[1] - problem.total[1]) / 1e-6
        share = torch.linalg.solve(problem.hessian.matrix() * N, own).trace()
        assert float(alone.leverage[i]) == pytest.approx(float(share), rel=1e-4, abs=1e-6)
    test = likelihood.X[:3], likelihood.y[:3]
    changes = alone.change(test, measure=measures.prediction)
    expected = influence.of_each_removal(test, measure=measures.prediction).effect()
    assert_close_per_row(changes, expected, 1e-12)


def test_labels_of_cox_are_ranked_by_what_they_add_without_themselves():
    influence = Influence(cox())
    assert mislabeled(influence).table.index[0] == int(influence.leave_one_out().loss.argmax())


def test_cox_has_no_loss_of_a_row():
    with pytest.raises(ValueError, match=r"no loss of its own.*measures.prediction"):
        Influence(cox()).on_loss((X[:2], None))
    with pytest.raises(TypeError, match=r"a batch is \(inputs, targets\)"):
        cox().evaluate(X[:2], measures.prediction)


def test_what_has_no_optimum_says_so():
    likelihood = PartialLikelihood(
        torch.arange(6.0)[:, None].double(),
        torch.stack([torch.arange(6.0), torch.ones(6), torch.zeros(6)], 1).double(),
    )
    problem = LikelihoodProblem(likelihood, [0.0], weights=torch.ones(6), keep="mean", terms=TERMS)
    with pytest.raises(NotConvergedError, match="did not arrive"):
        problem.minimised()
