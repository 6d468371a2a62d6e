"""Losses of linear models against the textbook's formulas and automatic differentiation, and how targets are read."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import upweight as uw
from tests.support.cases import draw, plain_losses
from tests.support.compare import assert_close_per_row
from upweight import Logistic, SmoothHinge, Softmax, Squared, SquaredHinge
from upweight.losses import LinearLoss, Parts, SeveralLabels, next_token, signs

B = 6
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2])
LOSSES: dict[str, tuple[LinearLoss, int]] = {
    "softmax": (Softmax(), 3),
    "logistic": (Logistic(), 1),
    "logistic, one against the rest": (Logistic(), 3),
    "squared": (Squared(), 1),
    "squared, two outputs": (Squared(), 2),
    "smooth hinge": (SmoothHinge(0.3), 1),
    "smooth hinge, one against the rest": (SmoothHinge(0.3), 3),
    "squared hinge": (SquaredHinge(), 1),
    "squared hinge, one against the rest": (SquaredHinge(), 3),
    "squared hinge, one against one": (SquaredHinge(pairs="first"), 3),
    "logistic, several labels": (SeveralLabels(Logistic()), 3),
    "smooth hinge, several labels": (SeveralLabels(SmoothHinge(0.3)), 2),
    "logistic, one against one": (Logistic(pairs="surest"), 3),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def given_targets(loss: LinearLoss, c: int) -> torch.Tensor:
    """Targets as a user has them."""
    if isinstance(loss, Squared):
        return draw(B, c, seed=9) if c > 1 else draw(B, seed=9)
    if isinstance(loss, SeveralLabels):
        return (draw(B, c, seed=9) > 0).long()
    if c == 1:
        return torch.zeros(B).long() if isinstance(loss, Softmax) else CLASSES % 2
    return CLASSES


def asked(name: str, seed: int = 0) -> tuple[LinearLoss, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A loss, outputs away from its kinks, encoded targets, and the user's."""
    loss, c = LOSSES[name]
    y = given_targets(loss, c)
    return loss, draw(B, c, seed=seed), loss.encode(y, c), y


def by_autograd(loss: LinearLoss, eta: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and second derivative of each example's textbook loss in its outputs."""
    first, second = [], []
    for i in range(len(eta)):

        def one(row: torch.Tensor, i: int = i) -> torch.Tensor:
            return plain_losses(loss, row[None], y[i : i + 1])[0]

        first.append(torch.autograd.functional.jacobian(one, eta[i]))
        second.append(torch.autograd.functional.hessian(one, eta[i]))
    return torch.stack(first), torch.stack(second)


@every_loss
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_derivatives_are_the_textbooks(name: str, seed: int):
    loss, eta, targets, y = asked(name, seed)
    assert_close_per_row(loss.value(eta, targets)[:, None], plain_losses(loss, eta, y)[:, None], 1e-12)
    first, second = by_autograd(loss, eta, y)
    assert_close_per_row(loss.residual(eta, targets), first, 1e-11)
    a, u = loss.curvature(eta, targets)
    whole = torch.diag_embed(a) - (0 if u is None else u[:, :, None] * u[:, None])
    assert_close_per_row(whole.flatten(1), second.flatten(1), 1e-11)


@every_loss
def test_residuals_of_several_parameter_vectors_at_once(name: str):
    loss, eta, targets, _ = asked(name)
    stack = torch.stack([eta, 2 * eta, -eta], dim=2)
    found = loss.residual(stack, targets)
    for k in range(3):
        assert_close_per_row(found[:, :, k], loss.residual(stack[:, :, k], targets), 1e-13)


@every_loss
def test_losses_are_not_negative_convex_and_keep_the_precision(name: str):
    loss, eta, targets, _ = asked(name)
    for dtype in (torch.float32, torch.float64):
        wide = 5 * eta.to(dtype)
        value, residual, (a, _) = (
            loss.value(wide, targets),
            loss.residual(wide, targets),
            loss.curvature(wide, targets),
        )
        assert {value.dtype, residual.dtype, a.dtype} == {dtype}
        assert bool((value >= 0).all())
        assert bool((a >= 0).all())


@every_loss
def test_what_is_given_is_not_written_to(name: str):
    loss, eta, targets, y = asked(name)
    before = eta.clone(), targets.clone(), y.clone()
    loss.value(eta, targets), loss.residual(eta, targets), loss.curvature(eta, targets)
    assert all(torch.equal(a, b) for a, b in zip((eta, targets, y), before, strict=True))


@pytest.mark.parametrize("loss", [Softmax(), Logistic(), SmoothHinge(1e-3), SquaredHinge()])
def test_huge_outputs_overflow_nowhere(loss: LinearLoss):
    c = 3 if isinstance(loss, Softmax) else 1
    targets = loss.encode(torch.tensor([0, 1]), c)
    for size in (1e4, 1e30):
        eta = size * torch.tensor([[1.0, -1.0, 0.5], [1.0, -1.0, 0.5]], dtype=torch.float64)[:, :c]
        a, u = loss.curvature(eta, targets)
        parts = [loss.residual(eta, targets), a] + ([] if u is None else [u])
        if size < 1e20:
            parts.append(loss.value(eta, targets))
        assert all(bool(part.isfinite().all()) for part in parts)


@given(temperature=st.floats(1e-4, 2.0), margin=st.floats(-5, 5))
@settings(max_examples=50)
def test_the_smooth_hinge_lies_above_the_hinge_by_at_most_its_temperature(temperature: float, margin: float):
    """At the kink by t log 2, away from it by less (R19)."""
    value = float(SmoothHinge(temperature).of_margin(torch.tensor(margin, dtype=torch.float64)))
    hinge = max(0.0, 1 - margin)
    assert -1e-12 <= value - hinge <= temperature * 0.6932


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none(temperature: float):
    with pytest.raises(ValueError, match="temperature must be > 0"):
        SmoothHinge(temperature)


def test_an_example_on_the_margin_of_the_squared_hinge_counts_as_outside():
    margin = torch.tensor([1.0 - 1e-12, 1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert SquaredHinge().second_derivative(margin).tolist() == [2.0, 0.0, 0.0]


def test_softmax_does_not_see_a_shift_and_others_do():
    loss, eta, targets, _ = asked("softmax")
    assert loss.shift_invariant
    assert_close_per_row(loss.value(eta + 3, targets)[:, None], loss.value(eta, targets)[:, None], 1e-12)
    other = Logistic()
    assert not other.shift_invariant
    assert not torch.allclose(other.value(eta + 3, targets), other.value(eta, targets))


def test_what_others_need_to_know_of_a_loss():
    classifying = [loss for loss, _ in LOSSES.values() if loss.classifies]
    assert not any(isinstance(loss, Squared) for loss in classifying)
    assert len(classifying) == len(LOSSES) - 4  # squares, and several labels at once
    assert not Squared().separable  # it has a minimum on any data
    assert [loss.self_concordant for loss in (Softmax(), Logistic(), Squared(), SquaredHinge())] == [
        1,
        1,
        0,
        0,
    ]
    assert SmoothHinge(0.01).note == "the hinge is smoothed with temperature 0.01"
    assert SmoothHinge(0.01).stands_in
    assert not any(loss.stands_in for loss in (Softmax(), Logistic(), Squared(), SquaredHinge()))
    assert not Softmax().separate_outputs
    assert all(loss.separate_outputs for loss in (Logistic(), Squared(), SmoothHinge(1.0), SquaredHinge()))


# -- targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [Logistic(), SmoothHinge(0.1), SquaredHinge()])
@pytest.mark.parametrize("y", [[0, 1, 1], [-1, 1, 1], [0.0, 1.0, 1.0], [False, True, True]])
def test_binary_targets_become_signs(loss: LinearLoss, y: list[Any]):
    assert loss.encode(torch.tensor(y), 1).tolist() == [-1, 1, 1]


@pytest.mark.parametrize("loss", [Softmax(), Logistic()])
def test_classes_may_be_written_as_real_numbers(loss: LinearLoss):
    found = loss.encode(torch.tensor([0.0, 2.0]), 3)
    assert found.dtype == torch.int64
    assert found.tolist() == [0, 2]


def test_one_class_of_binary_targets_is_enough():
    assert Logistic().encode(torch.tensor([1, 1]), 1).tolist() == [1, 1]
    assert Logistic().encode(torch.tensor([0, 0]), 1).tolist() == [-1, -1]


def test_numbers_of_one_output_become_a_column():
    assert Squared().encode(torch.tensor([1, 2]), 1).tolist() == [[1.0], [2.0]]
    assert Squared().encode(torch.tensor([[1, 2]]), 2).dtype == torch.float64


@pytest.mark.parametrize(
    ("loss", "y", "c", "said"),
    [
        (Softmax(), [0, 3], 3, r"target 3 of example 1 is out of range: .* targets must lie in 0\.\.2"),
        (Softmax(), [-1, 0], 3, "target -1 of example 0 is out of range"),
        (Softmax(), [0.5, 1.0], 3, "class targets must be whole numbers, got torch.float32"),
        (Softmax(), [[0], [1]], 3, r"class targets must have shape \(n,\), got \(2, 1\)"),
        (Logistic(), [[0], [1]], 3, r"class targets must have shape \(n,\)"),
        (Logistic(), [[0], [1]], 1, r"binary targets must have shape \(n,\), got \(2, 1\)"),
        (Logistic(), [0, 2], 1, r"binary targets must be 0/1 or -1/\+1, got the values \[0, 2\]"),
        (Logistic(), [-1, 0, 1], 1, r"got the values \[-1, 0, 1\]"),
        (Squared(), [[1.0, 2.0]], 3, "targets have 2 columns, the model has 3 outputs"),
    ],
)
def test_targets_that_a_loss_does_not_know(loss: LinearLoss, y: Any, c: int, said: str):
    with pytest.raises(ValueError, match=said):
        loss.encode(torch.tensor(y), c)


@pytest.mark.parametrize("k", [None, 2])
def test_signs_say_own_class_against_the_rest(k: int | None):
    eta = torch.zeros(2, 3) if k is None else torch.zeros(2, 3, k)
    found = signs(torch.tensor([2, 0]), eta)
    assert found.ndim == eta.ndim
    assert found.reshape(2, 3).tolist() == [[-1, -1, 1], [1, -1, -1]]
    binary = signs(torch.tensor([1.0, -1.0]), eta[:, :1])
    assert binary.ndim == eta.ndim
    assert binary.flatten().tolist() == [1, -1]


# -- parts ---------------------------------------------------------------------------------------------------------


def parts_of(name: str, weights: torch.Tensor) -> Parts:
    """The parts of a loss with weights folded in, as a linear model makes them."""
    loss, eta, targets, _ = asked(name)
    a, u = loss.curvature(eta, targets)
    w = weights[:, None]
    root = None if u is None else u * w.sqrt()
    return Parts(loss.value(eta, targets) * weights, a * w, root, loss.residual(eta, targets) * w)


WEIGHTS = torch.tensor([1.0, 0.5, 3.0, 0.0, 1.0, 2.0], dtype=torch.float64)


def explicit(parts: Parts) -> torch.Tensor:
    """W_i of every example."""
    whole = torch.diag_embed(parts.a)
    return whole if parts.u is None else whole - parts.u[:, :, None] * parts.u[:, None]


@every_loss
def test_the_curvature_times_changes_of_the_outputs(name: str):
    parts = parts_of(name, WEIGHTS)
    E = draw(B, parts.a.shape[1], 4, seed=2)
    assert_close_per_row(parts.curve(E), explicit(parts) @ E, 1e-12)


@every_loss
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
def test_the_root_of_the_curvature_in_every_precision(name: str, dtype: torch.dtype, error: float):
    """Also of an example of weight 0, whose probabilities cannot be told from the parts."""
    parts = parts_of(name, WEIGHTS)
    S = parts.to(dtype).root()
    assert S.dtype == dtype
    found = (S.double() @ S.double().mT).flatten(1)
    wanted = explicit(parts).flatten(1)
    assert not found[3].any()
    assert float((found - wanted).norm()) <= error * float(wanted.norm())


def test_examples_of_weight_0_do_not_stop_a_preconditioner():
    """EKFAC of lower precision, of a softmax model."""
    X, weights = draw(30, 4), torch.ones(30).double()
    weights[3] = 0
    y = torch.arange(30) % 3
    problem = uw.LinearProblem.fit(X, y, loss=Softmax(), outputs=3, l2=0.1, weights=weights)
    closed = uw.EKFAC(problem, damping=0.1)
    solver = uw.ConjugateGradient(rtol=1e-11, preconditioner=closed)
    found = uw.Influence(problem, curvature=uw.Hessian(problem), solver=solver).on_loss((X[:2], y[:2]))
    wanted = uw.Influence(problem, solver=uw.Exact()).on_loss((X[:2], y[:2]))
    assert_close_per_row(found.values, wanted.values, 1e-8)


@every_loss
def test_parts_of_some_examples_and_of_another_precision(name: str):
    parts = parts_of(name, WEIGHTS)
    index = torch.tensor([4, 0, 4])
    for some, rows in ((parts.take(index), index), (parts.take(slice(1, 3)), slice(1, 3))):
        for part, whole in zip(some, parts, strict=True):
            assert (part is None) == (whole is None)
            if part is not None and whole is not None:
                assert torch.equal(part, whole[rows])
    single = parts.to(torch.float32)
    assert all(part is None or part.dtype == torch.float32 for part in single)
    assert (single.u is None) == (parts.u is None)
    assert parts.to(torch.float64).a is parts.a


# -- language models -----------------------------------------------------------------------------------------------

LOGITS = draw(3, 5, 7, seed=4)
LABELS = torch.tensor([[1, 2, 3, 4, 5], [6, 5, -100, -100, -100], [0, -100, 3, -100, 1]])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_next_tokens_by_loops(reduction: Any):
    wanted = []
    for logits, labels in zip(LOGITS, LABELS.tolist(), strict=True):
        terms = [
            float(logits[t].exp().sum().log() - logits[t, labels[t + 1]])
            for t in range(4)
            if labels[t + 1] != -100
        ]
        wanted.append(sum(terms) / (len(terms) if reduction == "mean" else 1))
    found = next_token(SimpleNamespace(logits=LOGITS), {"labels": LABELS}, reduction)
    assert_close_per_row(found[:, None], torch.tensor(wanted, dtype=torch.float64)[:, None], 1e-12)


def test_a_sequence_of_padding_costs_nothing():
    labels = torch.full((1, 4), -100)
    for reduction in ("mean", "sum"):
        found = next_token(SimpleNamespace(logits=draw(1, 4, 3)), {"labels": labels}, reduction)
        assert found.tolist() == [0.0]


def test_the_first_token_and_the_last_logits_do_not_count():
    first = next_token(SimpleNamespace(logits=LOGITS), {"labels": LABELS})
    changed, labels = LOGITS.clone(), LABELS.clone()
    changed[:, -1] += 5
    labels[:, 0] = 3
    assert torch.equal(next_token(SimpleNamespace(logits=changed), {"labels": labels}), first)


def test_softmax_of_one_class_has_nothing_to_lose():
    eta, y = torch.randn(6, 1, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    loss = Softmax()
    a, u = loss.curvature(eta, y)
    assert u is not None
    for found in (loss.value(eta, y), loss.residual(eta, y), a - u.square()):
        assert float(found.abs().max()) <= 1e-15
