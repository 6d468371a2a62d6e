"""`LinearProblem` against torch.autograd on the objective written out plainly."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.autograd.functional import jacobian

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, to_dense
from tests.support.compare import assert_close_per_row
from upweight import LinearProblem, Logistic, Overall, Softmax, Squared, StaleError
from upweight.data.design import as_design
from upweight.data.user_terms import Terms

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
TIGHT = 1e-10


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


@every_case
def test_derivatives_of_training_examples_carry_their_weights(case: Case):
    """Losses without, residuals and curvatures in the outputs with the weight w_i."""
    problem = case.elsewhere
    parts = problem.derivatives()
    eta = case.outputs(problem.theta, case.dense)
    residual = jacobian(lambda e: case.losses_of(e).sum(), eta) * case.w[:, None]
    assert_close_per_row(parts.r, residual, TIGHT)
    assert_close_per_row(parts.loss, case.losses_of(eta), TIGHT)
    for i in (0, case.n - 1):
        W = torch.autograd.functional.hessian(
            lambda e, i=i: case.losses_of(torch.cat([eta[:i], e[None], eta[i + 1 :]]))[i] * case.w[i], eta[i]
        )
        root = parts.take(slice(i, i + 1)).root()[0]
        assert_close_per_row(root @ root.T, W, 1e-9)
    single = problem.derivatives(torch.float32)
    assert single.r.dtype == torch.float32
    assert_close_per_row(single.r, residual, 1e-5)
    assert problem.derivatives(torch.float32) is single, "kept for the next question"


@every_case
def test_outputs_of_training_and_of_other_rows(case: Case):
    problem, other = case.elsewhere, draw(case.p, seed=6)
    X = to_dense(case.test[0])
    assert_close_per_row(problem.outputs(), case.outputs(problem.theta, case.dense), TIGHT)
    assert_close_per_row(problem.outputs(theta=other), case.outputs(other, case.dense), TIGHT)
    assert_close_per_row(problem.outputs(as_design(X)), case.outputs(problem.theta, X), TIGHT)
    thetas = torch.stack([problem.theta, other])
    blocks = list(problem.outputs_at_each(thetas, size=7))
    assert [part.start for part, _ in blocks] == list(range(0, case.n, 7))
    found = torch.cat([eta for _, eta in blocks])
    for j, theta in enumerate(thetas):
        assert_close_per_row(found[:, :, j], case.outputs(theta, case.dense), TIGHT)


def spread(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.square().sum(1)


@every_case
@pytest.mark.parametrize("elements", [None, 1])
def test_measures_at_many_parameters_are_those_at_each(case: Case, elements, monkeypatch):
    if elements is not None:
        monkeypatch.setattr("upweight.linear.questions.BLOCK_ELEMENTS", elements)  # one vector at a time
    problem, thetas = case.elsewhere, draw(5, case.p, seed=3)
    for measure in (None, spread, Overall(lambda outputs, targets: outputs.std())):
        found = problem.evaluate_each(case.test, thetas, measure)
        wanted = torch.stack([problem.at(theta).evaluate(case.test, measure) for theta in thetas])
        assert_close_per_row(found, wanted, 1e-12)
        other = torch.stack([problem.evaluate(case.test, measure, theta) for theta in thetas])
        assert_close_per_row(found, other, 1e-12)


@every_case
def test_gradients_of_outputs_and_roots_of_single_curvatures(case: Case):
    problem, X = case.elsewhere, to_dense(case.test[0])
    naive = jacobian(lambda t: case.outputs(t, X), problem.theta)
    assert_close_per_row(problem.output_gradients(case.test).flatten(0, 1), naive.flatten(0, 1), TIGHT)
    index = torch.tensor([2, 0, 2])
    roots = problem.hessian_roots(index)

    def one(i: int) -> torch.Tensor:
        def value(theta: torch.Tensor) -> torch.Tensor:
            return case.w[i] * case.losses(theta, case.dense[i : i + 1], case.y[i : i + 1]).sum()

        return torch.autograd.functional.hessian(value, problem.theta)

    for root, i in zip(roots, index.tolist(), strict=True):
        assert_close_per_row(root.T @ root + 1, one(i) + 1, 1e-9)


@every_case
def test_what_defaults_ask_of_it(case: Case):
    facts = case.problem.facts
    assert (facts.n, facts.p, facts.c) == (case.n, case.p, case.c)
    assert facts.convex
    assert facts.linear
    assert facts.closed_form
    assert case.problem.linear is case.problem
    assert case.problem.hessian is case.problem.gauss_newton
    assert case.problem.has_intercept == case.intercept
    assert (case.problem.gauge is not None) == (
        isinstance(case.loss, Softmax) and not bool(case.penalty.all())
    )


@pytest.mark.parametrize("name", ["softmax total intercept", "logistic sparse intercept weights"])
def test_without_some_rows_it_is_the_problem_of_the_others(name: str):
    case, rows = BY_NAME[name], torch.tensor([4, 0, 39])
    problem = case.elsewhere.without(rows)
    kept = [i for i in range(case.n) if i not in rows.tolist()]
    factor = case.n / len(kept) if case.keep == "total" else 1.0

    def value(theta: torch.Tensor) -> torch.Tensor:
        losses = case.w[kept] * case.losses(theta, case.dense[kept], case.y[kept])
        return losses.mean() + factor * (0.5 * case.penalty * theta**2).sum()

    assert problem.n == len(kept)
    assert torch.equal(problem.theta, case.elsewhere.theta)
    assert problem.value() == pytest.approx(float(value(problem.theta)), rel=TIGHT)
    assert_close_per_row(problem.gradient(), jacobian(value, problem.theta), TIGHT)
    assert_close_per_row(
        problem.hessian.matrix(), torch.autograd.functional.hessian(value, problem.theta), TIGHT
    )


def test_other_labels_and_other_inputs_leave_the_first_problem_alone():
    case = BY_NAME["softmax"]
    problem, rows = case.elsewhere, torch.tensor([1, 5])
    before = problem.gradient().clone()
    y = case.y.clone()
    y[rows] = (y[rows] + 1) % 3
    other = problem.relabelled(rows, y[rows])
    plain = LinearProblem(case.X, y, problem.params["weight"], loss=Softmax(), l2=case.l2)
    assert_close_per_row(other.gradient(), plain.gradient(), 1e-13)
    X = case.dense + 0.1
    moved = problem.with_design(as_design(X))
    plain = LinearProblem(X, case.y, problem.params["weight"], loss=Softmax(), l2=case.l2)
    assert_close_per_row(moved.gradient(), plain.gradient(), 1e-13)
    assert torch.equal(problem.gradient(), before)
    assert len({p.fingerprint() for p in (problem, other, moved)}) == 3


def test_inputs_that_move_are_seen_by_the_problem_that_has_them():
    X = draw(8, 3)
    problem = LinearProblem(X, torch.arange(8) % 2, draw(3), loss=Logistic(), l2=0.1)
    fewer, other = problem.subset(torch.arange(4)), draw(8, 3, seed=3)
    moved = problem.with_design(as_design(other))
    X[7, 1] += 1
    with pytest.raises(StaleError, match=r"X changed in place.*make the problem anew"):
        problem.check_data()
    fewer.check_data()  # a copy of its rows
    moved.check_data()
    other += 1
    with pytest.raises(StaleError, match="X changed in place"):
        moved.check_data()


# -- in the user's own terms -----------------------------------------------------------------------------------------


def test_batches_are_prepared_once_and_prepared_ones_stay_as_they_are():
    case = BY_NAME["logistic"]
    calls: list[int] = []

    def prepare(inputs, targets):
        calls.append(len(inputs))
        return [[float(word)] * 4 for word in inputs], [target == "yes" for target in targets]

    problem = case.elsewhere.changed(terms=Terms(prepare=prepare))
    found = problem.evaluate((["1", "2"], ["yes", "no"]))
    X = torch.tensor([[1.0] * 4, [2.0] * 4]).double()
    assert_close_per_row(found, case.losses(problem.theta, X, torch.tensor([1, 0])), TIGHT)
    assert calls == [2]
    design, y = problem.train_batch(torch.tensor([3, 1]))
    assert problem.prepared((design, y)) == (design, y)
    assert_close_per_row(problem.evaluate((design, y)), problem.train_losses()[[3, 1]], TIGHT)
    assert calls == [2]


def test_a_frozen_network_stands_in_front_of_the_batch_and_derivatives_go_back_through_it():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh()).eval()
    images, y = torch.randn(5, 2, 3), torch.arange(5) % 3
    case = BY_NAME["softmax"]
    problem, rows = case.elsewhere.changed(terms=Terms(network=network)), draw(2, case.p)
    with torch.no_grad():
        X = network(images).double()
    assert_close_per_row(problem.evaluate((images, y)), case.losses(problem.theta, X, y), 1e-6)
    found = problem.input_gradients((images, y), rows)
    assert found.shape == (2, 5, 2, 3)
    inner = case.elsewhere.feature_gradients((X, y), rows)
    for k in range(2):
        for i in range(5):
            J = jacobian(lambda image: network(image[None])[0], images[i])  # (4, 2, 3)
            wanted = torch.einsum("d,dxy->xy", inner[k, i].float(), J)
            assert_close_per_row(found[k, i].flatten(), wanted.flatten(), 1e-4)
    at_features = problem.input_gradients(problem.train_batch(torch.tensor([0])), rows)
    assert at_features.shape == (2, 1, 4)  # training rows are features already


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        (draw(3, 4), TypeError, r"a batch is \(inputs, targets\), got Tensor"),
        ((draw(3, 4),), TypeError, r"a batch is \(inputs, targets\), got tuple"),
        ((draw(3, 5), [0, 1, 1]), ValueError, "the batch has 5 columns, the model was trained on 4"),
        ((draw(3, 4), [0, 1]), ValueError, "X has 3 examples, y has 2"),
    ],
)
def test_batches_that_do_not_fit(batch, error, words: str):
    with pytest.raises(error, match=words):
        BY_NAME["logistic"].problem.evaluate(batch)


def test_layers_are_a_networks():
    case = BY_NAME["logistic"]
    with pytest.raises(ValueError, match="a linear problem has no layer 'conv': leave out at="):
        case.problem.input_gradients(case.test, draw(1, case.p), at="conv")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_the_penalty_of_intercepts_is_checked(value: float):
    with pytest.raises(ValueError, match="l2_intercept must be >= 0 and finite"):
        LinearProblem(draw(4, 2), draw(4), draw(2), [0.0], loss=Squared(), l2_intercept=value)


def test_a_penalty_for_every_parameter_covers_the_intercept():
    X, y, l2 = draw(9, 2), draw(9, seed=1), torch.tensor([0.1, 0.2, 0.3])
    problem = LinearProblem.fit(X, y, loss=Squared(), intercept=True, l2=l2)
    assert_close_per_row(problem.l2, l2, 1e-7)
    with pytest.raises(ValueError, match="l2 per parameter already covers the intercept"):
        LinearProblem.fit(X, y, loss=Squared(), intercept=True, l2=l2, l2_intercept=0.1)
    by_number = LinearProblem.fit(X, y, loss=Squared(), intercept=True, l2=0.1, l2_intercept=0.3)
    assert by_number.l2.tolist() == pytest.approx([0.1, 0.1, 0.3])
    bare = LinearProblem.fit(X, y, loss=Squared(), l2=0.1, l2_intercept=0.3)
    assert bare.l2.tolist() == pytest.approx([0.1, 0.1])  # no intercept, and nothing that it would penalise


@pytest.mark.parametrize("form", [np.asarray, lambda X: sparse.csr_matrix(X.numpy()), lambda X: X.tolist()])
def test_inputs_in_every_form_are_the_same_problem(form):
    case = BY_NAME["logistic"]
    problem = LinearProblem(form(case.dense), case.y, case.problem.params["weight"], loss=Logistic(), l2=0.05)
    assert_close_per_row(problem.gradient() + 1, case.problem.gradient() + 1, 1e-13)
    assert_close_per_row(problem.hessian.matrix(), case.problem.hessian.matrix(), 1e-13)
    assert_close_per_row(problem.evaluate(case.test), case.problem.evaluate(case.test), 1e-13)
