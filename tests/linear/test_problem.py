"""`LinearProblem` against torch.autograd on the objective written out plainly."""

import pytest
import torch
from torch.autograd.functional import jacobian

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, to_dense
from tests.support.compare import assert_close_per_row
from upweight import LinearProblem, Logistic, NotConvergedError, OfParameters, Overall, Softmax, Squared
from upweight.measures import logit, margin, probability

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
TIGHT = 1e-10


@every_case
def test_fit_reaches_the_optimum_of_the_plain_objective(case: Case):
    theta = case.problem.theta.clone().requires_grad_()
    gradient = torch.autograd.grad(case.value(theta), theta)[0]
    assert float(gradient.norm()) < 1e-10


@every_case
def test_value_losses_and_gradient(case: Case):
    problem = case.elsewhere
    theta = problem.theta.clone().requires_grad_()
    value = case.value(theta)
    assert problem.value() == pytest.approx(value.item(), rel=TIGHT)
    assert_close_per_row(problem.train_losses(), case.losses(theta, case.dense, case.y), TIGHT)
    assert_close_per_row(problem.gradient(), torch.autograd.grad(value, theta)[0], TIGHT)


@every_case
def test_train_gradients_and_products(case: Case):
    problem = case.elsewhere
    naive = jacobian(case.train_objective, problem.theta)
    assert_close_per_row(problem.train_gradients(torch.arange(case.n)), naive, TIGHT)
    index = torch.tensor([3, 0, 3, case.n - 1])
    assert_close_per_row(problem.train_gradients(index), naive[index], TIGHT)
    rows = draw(3, case.p)
    found = torch.cat([block for _, block in problem.products(rows)], dim=1)
    assert_close_per_row(found, rows @ naive.T, TIGHT)


@every_case
def test_gradients_as_train_have_weight_one(case: Case):
    X, y = case.test
    folded = case.penalty * case.elsewhere.theta * (case.keep == "mean")
    naive = jacobian(lambda t: case.losses(t, to_dense(X), y), case.elsewhere.theta) + folded
    assert_close_per_row(case.elsewhere.gradients_as_train((X, y)), naive, TIGHT)


@every_case
def test_operator_matrix_and_root(case: Case):
    problem = case.elsewhere
    H = case.hessian(problem.theta)
    rows = draw(2 * case.p + 1, case.p)  # more right-hand sides than parameters
    for second in (problem.hessian, problem.gauss_newton):
        assert_close_per_row(second.product()(rows), rows @ H, TIGHT)
        assert_close_per_row(second.matrix(), H, TIGHT)
    U = problem.hessian.root()
    assert (U is None) == (case.n * case.c >= case.p)
    if U is not None:
        assert_close_per_row(U.T @ U + torch.diag(case.penalty), H, TIGHT)


@every_case
def test_sampled_is_the_curvature_of_its_own_examples(case: Case):
    problem = case.elsewhere
    rows = draw(4, case.p)
    index = torch.randint(case.n, (4, 3), generator=torch.Generator().manual_seed(0))

    def one(i: int) -> torch.Tensor:
        def value(theta: torch.Tensor) -> torch.Tensor:
            picked = case.w[index[i]] * case.losses(theta, case.dense[index[i]], case.y[index[i]])
            return picked.mean() + (0.5 * case.penalty * theta**2).sum()

        return rows[i] @ torch.autograd.functional.hessian(value, problem.theta)

    assert_close_per_row(
        problem.hessian.minibatch_product(rows, index), torch.stack([one(i) for i in range(4)]), TIGHT
    )


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


@pytest.mark.parametrize("size", [1, 2, 7, 39, 40, 100])
@pytest.mark.parametrize("name", ["softmax weights float32", "logistic sparse intercept weights"])
def test_answers_do_not_depend_on_the_block_size(name: str, size: int, monkeypatch: pytest.MonkeyPatch):
    problem, rows = BY_NAME[name].elsewhere, draw(3, BY_NAME[name].p)
    whole = torch.cat([b for _, b in problem.products(rows)], 1), problem.hessian.product()(rows)
    for module in ("problem", "second_derivative"):
        monkeypatch.setattr(f"upweight.linear.{module}.product_rows", lambda k, c: size)
    parts = torch.cat([b for _, b in problem.products(rows)], 1), problem.hessian.product()(rows)
    for found, wanted in zip(parts, whole, strict=True):
        assert_close_per_row(found, wanted, 1e-12)


@every_case
def test_subset_is_the_problem_of_those_examples(case: Case):
    index = torch.tensor([5, 1, 4])
    small = case.elsewhere.subset(index)

    def value(theta: torch.Tensor) -> torch.Tensor:
        picked = case.w[index] * case.losses(theta, case.dense[index], case.y[index])
        return picked.mean() + (0.5 * case.penalty * theta**2).sum()

    H = torch.autograd.functional.hessian(value, small.theta)
    assert_close_per_row(small.hessian.matrix(), H, TIGHT)
    assert_close_per_row(small.hessian.product()(torch.eye(case.p).double()), H, TIGHT)
    assert small.fingerprint() != case.elsewhere.fingerprint()


def test_later_edits_of_the_given_coefficients_change_nothing():
    X, y, coef = draw(8, 2), draw(8, seed=1), torch.ones(1, 2, dtype=torch.float64)
    problem = LinearProblem(X, y, coef, loss=Squared(), l2=0.1)
    before = problem.gradient().clone()
    coef += 1
    fresh = LinearProblem(X, y, torch.ones(1, 2), loss=Squared(), l2=0.1)
    assert torch.equal(problem.gradient(), before)
    assert problem.fingerprint() == fresh.fingerprint()


def test_separable_data_without_a_penalty_do_not_converge():
    X = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]])
    with pytest.raises(NotConvergedError, match="l2 > 0"):
        LinearProblem.fit(X, torch.tensor([1, 1, 0, 0]), loss=Logistic(), tolerance=1e-100)
