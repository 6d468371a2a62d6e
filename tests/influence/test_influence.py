"""The paper's formulas against plain refits (`Case.up_weighted` shares no code with the library) and naive solves."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, make, newton, to_dense
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from tests.support.refits import central, losses_on_test, one
from upweight import (
    EKFAC,
    ConjugateGradient,
    Dense,
    Exact,
    GaussNewton,
    Hessian,
    Influence,
    LinearProblem,
    LiSSA,
    Logistic,
    OfParameters,
    Overall,
    Softmax,
    Squared,
)
from upweight.measures import logit
from upweight.solvers import Inverse, Solution, Solver

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


@every_case
def test_r1_on_params_is_the_derivative_of_refits(case: Case):
    picked = [0, case.n // 2, case.n - 1]
    naive = torch.stack([central(case, lambda t: t, *one(case, i)) for i in picked])
    found = Influence(case.problem).on_params((case.dense[picked], case.y[picked]), weights=torch.ones(3))
    assert_close_per_row(found, naive, 1e-5)


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_r1_with_the_librarys_own_refits(keep):
    case = make("r1", Logistic(), intercept=True, keep=keep)
    step, i = 1e-4, 7

    def refit(eps: float) -> torch.Tensor:
        w = torch.ones(case.n).double()
        w[i] += case.n * eps
        l2 = case.l2 * (1 + eps if keep == "mean" else 1)
        return LinearProblem.fit(
            case.X, case.y, loss=case.loss, intercept=True, l2=l2, weights=w, tolerance=1e-13
        ).theta

    naive = (refit(step) - refit(-step)) / (2 * step)
    assert_close_per_row(Influence(case.problem).on_params(one(case, i)), naive[None], 1e-5)


@every_case
def test_r2_on_loss_is_the_derivative_of_the_test_loss(case: Case):
    influence = Influence(case.problem)
    scores = influence.on_loss(case.test)
    assert scores.values.shape == (5, case.n)
    assert scores.values.dtype == torch.float64
    for i in (1, case.n - 2):
        naive = case.w[i] * central(case, lambda t: losses_on_test(case, t), *one(case, i))
        if case.keep == "mean":  # Footnote 1: the weight is the loss's own, the folded penalty has weight 1.
            s = torch.linalg.solve(case.hessian(case.problem.theta), case.penalty * case.problem.theta)
            naive = (
                naive + (case.w[i] - 1) * jacobian(lambda t: losses_on_test(case, t), case.problem.theta) @ s
            )
        assert_close_per_row(scores.values[:, i : i + 1].T, naive[None], 1e-5)


def leave_out(case: Case, i: int, keep: str) -> torch.Tensor:
    others = torch.arange(case.n) != i
    scale = case.n / (case.n - 1) if keep == "total" else 1.0

    def value(theta: torch.Tensor) -> torch.Tensor:
        losses = case.losses(theta, case.dense[others], case.y[others]) * case.w[others]
        return losses.mean() + scale * (0.5 * case.penalty * theta**2).sum()

    return newton(value, case.problem.theta)


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_r2_r3_removal_effects_against_refits_without_the_example(keep):
    case = make("loo", Logistic(), n=60, l2=0.3, keep=keep)
    base = losses_on_test(case, case.problem.theta)
    actual, other = (
        torch.stack([losses_on_test(case, leave_out(case, i, k)) - base for i in range(case.n)], 1)
        for k in (keep, "mean" if keep == "total" else "total")
    )
    predicted = Influence(case.problem).on_loss(case.test).removal_effect()
    assert_close_per_row(predicted, actual, 0.08)
    large = actual.abs() > 0.1 * actual.abs().amax(1, keepdim=True)
    assert bool((predicted.sign() == actual.sign())[large].all()), "helpful and harmful swapped"
    assert float((predicted - other).norm()) > 2 * float((predicted - actual).norm()), "not told apart"


@every_case
def test_r4_of_change_is_the_derivative_of_refits(case: Case):
    i = 2
    X, y = one(case, i)
    edited = X + 0.5
    zero_one = bool(((case.y == 0) | (case.y == 1)).all())
    classes = case.c > 1 and case.loss.classifies
    flipped = (y + 1) % 3 if classes else -y + zero_one
    influence = Influence(case.problem)
    for after in ((edited, y), (X, flipped)):
        naive = central(case, lambda t: losses_on_test(case, t), *after, less=(X, y))
        scores = influence.of_change((X, y), after, case.test, weights=[1.0])
        assert_close_per_row(scores.values.T, naive[None], 1e-5)
        assert_close_per_row(scores.effect(), scores.values / case.n, 1e-12)


@pytest.mark.parametrize("what", ["input", "label"])
def test_r4_effect_has_the_sign_and_size_of_a_refit(what: str):
    case = make("change", Logistic(), n=60, l2=0.3)
    base, i = losses_on_test(case, case.problem.theta), 4
    X, y = one(case, i)
    after = (X + 0.3, y) if what == "input" else (X, 1 - y)
    changed = dataclasses.replace(
        case,
        X=torch.cat([case.X[:i], after[0], case.X[i + 1 :]]),
        y=torch.cat([case.y[:i], after[1], case.y[i + 1 :]]),
    )
    actual = losses_on_test(changed, newton(changed.value, case.problem.theta)) - base
    predicted = Influence(case.problem).of_change((X, y), after, case.test).effect()[:, 0]
    assert_close_per_row(predicted[None], actual[None], 0.15)


def test_r4_many_changes_and_a_count_that_does_not_match():
    case = BY_NAME["softmax"]
    influence = Influence(case.problem)
    before, after = (case.X[:3], case.y[:3]), (case.X[:3] + 1, (case.y[:3] + 1) % 3)
    together = influence.of_change(before, after, case.test)
    for i in range(3):
        old, new = ((b[0][i : i + 1], b[1][i : i + 1]) for b in (before, after))
        part = influence.of_change(old, new, case.test)
        assert_close_per_row(together.values[:, i : i + 1], part.values, 1e-10)
    assert together.edit == "replaced"
    with pytest.raises(ValueError, match="replaced, not removed"):
        together.removal_effect()
    with pytest.raises(ValueError, match="`before` has 3 examples, `after` has 2"):
        influence.of_change(before, (after[0][:2], after[1][:2]), case.test)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.weights is None and isinstance(c.X, torch.Tensor)], ids=case_id
)
def test_r6_on_inputs_is_the_derivative_of_the_refitted_test_loss(case: Case):
    i, h = 3, 1e-4
    found = Influence(case.problem).on_inputs(one(case, i), case.test)
    assert found.shape == (5, 1, case.dense.shape[1])
    for j in (0, case.dense.shape[1] - 1):
        moved = []
        for sign in (1, -1):
            X = case.dense.clone()
            X[i, j] += sign * h
            there = dataclasses.replace(case, X=X)
            moved.append(losses_on_test(case, newton(there.value, case.problem.theta)))
        naive = case.n * (moved[0] - moved[1]) / (2 * h)
        assert_close_per_row(found[:, 0, j][None], naive[None], 1e-5)


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_r8_the_papers_closed_form_of_logistic_regression(keep):
    case = make("paper", Logistic(), zero_one=False, keep=keep)
    theta, X, y = case.problem.theta, case.dense, case.y.double()
    T, t = case.test[0], case.test[1].double()
    margin = X @ theta
    H = (X.T * (margin.sigmoid() * (-margin).sigmoid())) @ X / case.n + case.l2 * torch.eye(4).double()
    left = (-t * (-t * (T @ theta)).sigmoid())[:, None] * T
    right = (-y * (-y * margin).sigmoid())[:, None] * X
    right = right + (case.l2 * theta if keep == "mean" else 0)
    naive = -left @ torch.linalg.solve(H, right.T)
    assert_close_per_row(Influence(case.problem).on_loss(case.test).values, naive, 1e-10)


@every_case
def test_measures_in_place_of_the_loss(case: Case):
    theta, (given, y), influence = case.problem.theta, case.test, Influence(case.problem)
    X = to_dense(given)
    s = torch.linalg.solve(case.hessian(theta), jacobian(case.train_objective, theta).T)
    twins: list[tuple[Any, Any]] = [
        (
            Overall(lambda outputs, targets: outputs.square().mean()),
            lambda t: case.outputs(t, X).square().mean()[None],
        ),
        (OfParameters(lambda params: params["weight"][0, 0]), lambda t: t[:1]),
    ]
    if isinstance(case.loss, Softmax):
        twins.append((logit, lambda t: case.outputs(t, X)[torch.arange(5), y]))
    for measure, twin in twins:
        scores = influence.on_loss(case.test, measure=measure)
        assert_close_per_row(scores.values, -jacobian(twin, theta) @ s, 1e-8)


# -- what must not matter ---------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.sampled_from([c.name for c in CASES]))
def test_test_points_alongside_do_not_matter(picked: list[int], name: str):
    case = BY_NAME[name]
    influence = Influence(case.problem)
    X, y = case.test
    together = influence.on_loss((X[picked], y[picked])).values
    alone = torch.cat([influence.on_loss((X[i : i + 1], y[i : i + 1])).values for i in picked])
    assert_close_per_row(together, alone, 1e-8)


@settings(max_examples=10)
@given(st.permutations(range(40)), st.sampled_from(["softmax", "logistic sparse intercept weights"]))
def test_the_order_of_training_examples_permutes_the_scores(order: list[int], name: str):
    case = BY_NAME[name]
    index = torch.tensor(order)
    shuffled = Influence(case.problem.subset(index)).on_loss(case.test).values
    assert_close_per_row(shuffled, Influence(case.problem).on_loss(case.test).values[:, index], 1e-8)


@pytest.mark.parametrize("top", [0, -1])
def test_top_must_be_positive(top: int):
    with pytest.raises(ValueError, match="top must be >= 1"):
        Influence(BY_NAME["softmax"].problem).on_loss(BY_NAME["softmax"].test, top=top)


def test_tiny_gradients_are_answered_as_well_as_large_ones():
    """A test point far on its right side has a gradient of 1e-12 and below: nothing may underflow."""
    case = BY_NAME["softmax n < p"]
    direction = (
        torch.linalg.pinv(case.problem.theta.view(3, -1)) @ torch.tensor([-1.0, 2.0, -1.0]).double() / 3
    )
    X = torch.tensor([[10.0], [25.0], [45.0]]).double() * direction  # margins of 10, 25 and 45
    assert float(case.problem.test_gradients((X, torch.ones(3).long())).norm(dim=1).min()) < 1e-17
    test = (X, torch.ones(3, dtype=torch.long))
    wanted = Influence(case.problem, solver=Exact()).on_loss(test).values
    assert_close_per_row(
        Influence(case.problem, solver=ConjugateGradient(rtol=1e-10, max_steps=3000)).on_loss(test).values,
        wanted,
        1e-6,
    )


# -- settings and fingerprints ----------------------------------------------------------------------------------------


def test_the_fingerprint_follows_weights_data_damping_and_solver():
    case = BY_NAME["softmax"]
    theta = case.problem.theta
    coef = theta.view(3, 4)

    def fingerprint(X=case.X, y=case.y, coef=coef, damping=0.0, solver=None, **options) -> str:
        problem = LinearProblem(X, y, coef, **{"loss": Softmax(), "l2": 0.05, **options})
        return Influence(problem, curvature=Hessian(problem, damping), solver=solver).fingerprint

    moved, swapped, other = case.X.clone(), case.y.clone(), torch.ones(case.n)
    moved[3, 1] += 1e-9
    swapped[0] = (swapped[0] + 1) % 3
    other[2] = 2.0
    variants = [
        {},
        {"X": moved},
        {"y": swapped},
        {"coef": coef + 1e-9},
        {"damping": 1e-3},
        {"l2": 0.06},
        {"weights": other},
        {"keep": "total"},
        {"solver": ConjugateGradient()},
        {"solver": LiSSA(depth=7)},
    ]
    found = [fingerprint(**v) for v in variants]
    assert len(set(found)) == len(variants)
    assert found == [fingerprint(**v) for v in variants], "the same again"


def test_the_fingerprint_of_a_preconditioned_solver_is_the_same_in_another_process():
    def fingerprint() -> str:
        case = make("again", Softmax(), c=3)
        solver = ConjugateGradient(preconditioner=EKFAC(case.problem, rows=10))
        return Influence(case.problem, solver=solver).fingerprint

    assert fingerprint() == fingerprint()
    assert " at 0x" not in fingerprint()


def test_the_fingerprint_covers_the_curvatures_own_numbers():
    problem = BY_NAME["logistic"].problem
    one_, two = (
        Influence(problem, curvature=Dense(s * torch.eye(4).double())).fingerprint for s in (1.0, 2.0)
    )
    assert one_ != two
    other = Influence(problem, curvature=Hessian(BY_NAME["logistic"].elsewhere)).fingerprint
    assert other != Influence(problem, curvature=Hessian(problem)).fingerprint


@pytest.mark.parametrize("bad", ["curvature", "dense"])
def test_a_curvature_of_another_size(bad: str):
    problem = BY_NAME["logistic"].problem
    curvature = Hessian(BY_NAME["softmax"].problem) if bad == "curvature" else Dense(torch.eye(7).double())
    with pytest.raises(ValueError, match="the curvature has p = "):
        Influence(problem, curvature=curvature)


@pytest.mark.parametrize("bad", [None, "model", Squared()])
def test_influence_needs_a_problem(bad):
    with pytest.raises(TypeError, match=r"[Pp]roblem"):
        Influence(bad)


@dataclasses.dataclass(frozen=True)
class Loose(Solver):
    """Right up to 2 % of each answer's size, on any processor."""

    helper = None

    def prepare(self, curvature):
        exact = Exact().prepare(curvature)

        def solve(rows: torch.Tensor) -> Solution:
            found = exact(rows)
            noise = draw(*rows.shape)
            wrong = noise * (0.02 * found.value.norm(dim=1) / noise.norm(dim=1))[:, None]
            return dataclasses.replace(found, value=found.value + wrong)

        return Inverse(curvature, solve)


def test_corrected_change_errs_by_the_product_of_the_residuals() -> None:
    case = BY_NAME["softmax total intercept"]
    before, after = (case.dense[:6], case.y[:6]), (case.dense[6:12], case.y[6:12])
    exact = Influence(case.problem, solver=Exact()).of_change(before, after, case.test).values
    loose = Influence(case.problem, solver=Loose())
    plain = loose.of_change(before, after, case.test).values
    corrected = loose.of_change(before, after, case.test, corrected=True).values
    error = [float((found - exact).norm() / exact.norm()) for found in (plain, corrected)]
    assert error[0] > 1e-3
    assert error[1] < 0.05 * error[0]


@pytest.mark.parametrize("strategy", ["batch", "vmapped", "loop"])
@pytest.mark.parametrize(("name", "layer"), [("words", "embedding"), ("signal", "conv")])
def test_on_inputs_of_a_layer_is_that_of_the_rest_of_the_network(name: str, layer: str, strategy: Any):
    problem = problem_of(name)
    problem = problem._copy(evaluation=dataclasses.replace(problem.evaluation, strategy=strategy))
    model, theta = problem.evaluation.model, problem.theta
    influence = Influence(problem, curvature=GaussNewton(problem, 0.1))
    batch = problem.train_batch(torch.arange(4))
    found = influence.on_inputs(batch, batch, weights=torch.ones(4), at=layer)
    solved = influence.solve(problem.test_gradients(batch)).value

    def after(params, x):  # the forward passes of tests/networks.py from that layer on
        if name == "signal":
            return params["scale"] * F.linear(x.relu().flatten(1), params["head.weight"], params["head.bias"])
        h = torch.tanh(F.linear(x, params["mix.weight"], params["mix.bias"]))
        return F.linear(
            F.layer_norm(h, (4,), params["norm.weight"], params["norm.bias"]).mean(1), params["head.weight"]
        )

    def total(x, row):
        at = theta.clone().requires_grad_()
        loss = F.cross_entropy(after(problem.layout.unpack(at), x), batch[1], reduction="sum")
        first = torch.autograd.grad(loss, at, create_graph=True, materialize_grads=True)[0]
        return torch.autograd.grad(first @ row, x)[0]

    held: dict[str, torch.Tensor] = {}
    hook = dict(model.named_modules())[layer].register_forward_hook(lambda *a: held.update(x=a[2].detach()))
    problem.evaluation.call(theta, batch)
    hook.remove()
    wanted = torch.stack([total(held["x"].clone().requires_grad_(), row) for row in solved])
    assert found.shape == wanted.shape
    assert_close_per_row(found.flatten(0, 1), -wanted.flatten(0, 1), 1e-9)
    assert not dict(model.named_modules())[layer]._forward_hooks


@pytest.mark.parametrize(
    ("name", "at", "error", "message"),
    [
        ("words", None, TypeError, 'at="embedding"'),
        ("words", "embeding", ValueError, "closest: embedding"),
        ("twice", "layer", ValueError, "it ran 2 times"),
    ],
)
def test_layers_that_are_no_inputs(name: str, at: str | None, error: type[Exception], message: str):
    problem = problem_of(name)
    influence = Influence(problem, curvature=GaussNewton(problem, 0.1))
    batch = problem.train_batch(torch.arange(2))
    with pytest.raises(error, match=message):
        influence.on_inputs(batch, batch, weights=torch.ones(2), at=at)
