"""Measures of test examples and their derivatives, against torch.autograd on models written out plainly."""

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, plain_losses, to_dense
from tests.support.compare import assert_close_per_row
from upweight import OfParameters, Overall, Softmax
from upweight.linear import questions
from upweight.measures import as_measure, logit, margin, probability

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
TIGHT = 1e-10


@every_case
def test_input_gradients(case: Case):
    problem, rows = case.elsewhere, draw(2, case.p)
    X, y = to_dense(case.test[0]), case.test[1]

    def directional(inputs: torch.Tensor) -> torch.Tensor:
        theta = problem.theta.clone().requires_grad_()
        gradient = [
            torch.autograd.grad(
                case.losses(theta, inputs[i : i + 1], y[i : i + 1]).sum(), theta, create_graph=True
            )[0]
            for i in range(len(y))
        ]
        return rows @ torch.stack(gradient).T

    full = jacobian(directional, X)  # (k, b, b, d)
    naive = torch.stack([full[:, i, i] for i in range(len(y))], dim=1)
    assert_close_per_row(problem.input_gradients(case.test, rows).flatten(0, 1), naive.flatten(0, 1), TIGHT)


def spread(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.square().sum(1)


@every_case
def test_test_gradients_of_loss_custom_overall_and_parameters(case: Case):
    problem, (given, y) = case.elsewhere, case.test
    X = to_dense(given)
    twins = {
        None: lambda t: case.losses(t, X, y),
        spread: lambda t: case.outputs(t, X).square().sum(1),
        Overall(lambda outputs, targets: outputs.std()): lambda t: case.outputs(t, X).std().view(1),
        OfParameters(lambda params: params["weight"][0, 1] ** 3): lambda t: (t[1] ** 3).view(1),
    }
    for measure, twin in twins.items():
        assert_close_per_row(problem.evaluate(case.test, measure), twin(problem.theta), TIGHT)
        assert_close_per_row(problem.test_gradients(case.test, measure), jacobian(twin, problem.theta), TIGHT)


@pytest.mark.parametrize("case", [c for c in CASES if isinstance(c.loss, Softmax)], ids=case_id)
def test_test_gradients_of_class_measures(case: Case):
    problem, (given, y) = case.elsewhere, case.test
    X, at = to_dense(given), torch.arange(len(y))

    def plain_margin(theta: torch.Tensor) -> torch.Tensor:
        eta = case.outputs(theta, X)
        return torch.stack(
            [e[t] - max(e[k] for k in range(case.c) if k != t) for e, t in zip(eta, y, strict=True)]
        )

    twins = {
        logit: lambda t: case.outputs(t, X)[at, y],
        probability: lambda t: (case.outputs(t, X).exp() / case.outputs(t, X).exp().sum(1, True))[at, y],
        margin: plain_margin,
    }
    for measure, twin in twins.items():
        assert_close_per_row(problem.evaluate(case.test, measure), twin(problem.theta), TIGHT)
        assert_close_per_row(problem.test_gradients(case.test, measure), jacobian(twin, problem.theta), TIGHT)


@pytest.mark.parametrize("name", ["softmax", "logistic sparse intercept weights", "squared two outputs"])
def test_a_number_of_outputs_and_parameters_has_both_derivatives(name: str):
    case = BY_NAME[name]
    problem, (given, _) = case.elsewhere, case.test
    X = to_dense(given)

    class Both(Overall):
        """The size of the coefficients times the mean output."""

        def number(self, params, look):
            return params["weight"].square().sum() * look()[0].exp().mean()

    def plain(theta: torch.Tensor) -> torch.Tensor:
        weight = theta[: case.c * X.shape[1]]
        return (weight.square().sum() * case.outputs(theta, X).exp().mean()).view(1)

    measure = Both(lambda outputs, targets: outputs.mean())
    assert_close_per_row(problem.evaluate(case.test, measure), plain(problem.theta), TIGHT)
    assert_close_per_row(problem.test_gradients(case.test, measure), jacobian(plain, problem.theta), TIGHT)


def test_a_number_may_look_twice_or_not_at_all():
    case = BY_NAME["softmax total intercept"]
    problem, X = case.elsewhere, to_dense(case.test[0])

    class Twice(Overall):
        """The square of a mean, by two looks at the batch."""

        def number(self, params, look):
            return look()[0].mean() * look()[0].mean()

    twice = problem.test_gradients(case.test, Twice(lambda outputs, targets: outputs.mean()))
    plain = jacobian(lambda t: (case.outputs(t, X).mean() ** 2).view(1), problem.theta)
    assert_close_per_row(twice, plain, TIGHT)
    size = OfParameters(lambda params: params["bias"].square().sum())
    wanted = torch.zeros(case.p).double()
    wanted[-3:] = 2 * problem.theta[-3:]
    assert_close_per_row(problem.test_gradients("not a batch", size), wanted[None], TIGHT)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_gradients_of_a_number_do_not_depend_on_the_block_size(size: int, monkeypatch: pytest.MonkeyPatch):
    case, measure = BY_NAME["softmax"], Overall(lambda outputs, targets: outputs.std())
    whole = case.elsewhere.test_gradients(case.test, measure)
    monkeypatch.setattr(questions, "rows_at_once", lambda d: size)
    assert_close_per_row(case.elsewhere.test_gradients(case.test, measure), whole, 1e-12)


@every_case
def test_derivatives_in_the_outputs_are_those_of_the_loss(case: Case):
    problem, (given, y) = case.elsewhere, case.test
    eta = case.outputs(problem.theta, to_dense(given))
    found = questions.output_derivatives(problem, problem.prepared(case.test), None)
    plain = jacobian(lambda e: plain_losses(case.loss, e, y).sum(), eta)
    assert_close_per_row(found, plain, TIGHT)
    measured = questions.output_derivatives(problem, problem.prepared(case.test), as_measure(spread))
    assert_close_per_row(measured, 2 * eta, TIGHT)
    assert not problem.theta.requires_grad


def test_measures_see_the_targets_as_the_user_has_them():
    """Only the loss encodes targets: a measure of a binary model may be given anything, one per example."""
    case = BY_NAME["logistic"]
    test = (case.test[0], torch.tensor([[0.5, 2.0]] * 5).double())
    found = case.elsewhere.evaluate(test, lambda outputs, targets: outputs[:, 0] * targets[:, 1])
    assert_close_per_row(found, 2 * case.outputs(case.elsewhere.theta, to_dense(test[0]))[:, 0], TIGHT)
    with pytest.raises(ValueError, match="X has 5 examples, y has 4"):
        case.elsewhere.evaluate((test[0], test[1][:4]), Overall(lambda outputs, targets: outputs.mean()))
    outputs, targets = questions.outputs_and_targets(case.elsewhere, test, case.problem.theta)
    assert_close_per_row(outputs, case.outputs(case.problem.theta, to_dense(test[0])), TIGHT)
    assert torch.equal(targets, test[1])


@every_case
def test_mixed_derivatives_equal_central_differences_of_gradients(case: Case):
    """Eq. 5's grad_x grad_theta L, by moving the input (R6)."""
    problem, rows = case.elsewhere, draw(2, case.p, seed=8)
    X, y = to_dense(case.test[0]), np.asarray(case.test[1])
    found = problem.input_gradients(case.test, rows)
    h, step = 1e-5, torch.zeros_like(X)
    for j in range(X.shape[1]):
        step.zero_()[:, j] = h
        moved = [problem.test_gradients((X + sign * step, y)) for sign in (1, -1)]
        assert_close_per_row(found[:, :, j], rows @ ((moved[0] - moved[1]) / (2 * h)).T, 1e-6)
