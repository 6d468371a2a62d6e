"""The penalty and what a retraining keeps of it, each against the sums written out."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.penalty import Penalty

THETA = draw(3)
L2 = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
KEEPS: list[Any] = ["mean", "total"]


@pytest.mark.parametrize(
    "given_",
    [0.5, 1, np.float64(0.5), [0.5, 0.0, 2.0], np.array([0.5, 0.0, 2.0]), L2],
    ids=lambda l2: type(l2).__name__,
)
def test_strengths_of_every_form(given_: Any):
    penalty = Penalty.of(given_, THETA, "mean")
    assert penalty.l2.dtype == THETA.dtype
    wanted = torch.as_tensor(given_, dtype=torch.float64).expand(3)
    assert torch.equal(penalty.l2, wanted)


def test_later_edits_of_the_users_strengths_change_nothing():
    mine = L2.clone()
    penalty = Penalty.of(mine, THETA, "mean")
    mine.zero_()
    assert torch.equal(penalty.l2, L2)


def test_strengths_have_the_precision_of_the_parameters():
    assert Penalty.of(0.1, torch.zeros(2), "mean").l2.dtype == torch.float32
    assert Penalty.of(L2, THETA.float(), "mean").l2.dtype == torch.float32


def test_value_and_gradient():
    penalty = Penalty.of(L2, THETA, "mean")
    leaf = THETA.clone().requires_grad_()
    value = sum(0.5 * float(l2) * float(x) ** 2 for l2, x in zip(L2, THETA, strict=True))
    assert float(penalty.value(THETA)) == pytest.approx(value, rel=1e-14)
    (gradient,) = torch.autograd.grad(penalty.value(leaf), leaf)
    assert_close_per_row(penalty.gradient(THETA), gradient, 1e-14)
    rows = draw(4, 3, seed=1)
    assert torch.equal(penalty.gradient(rows), torch.stack([penalty.gradient(row) for row in rows]))


@given(n=st.integers(2, 30), data=st.data())
def test_a_retraining_keeps_the_mean_or_the_total(n: int, data: st.DataObject):
    """Objectives of n - k examples, whose losses are 0: what is left is the penalty."""
    k = data.draw(st.integers(0, n - 1))
    for keep in KEEPS:
        penalty = Penalty.of(L2, THETA, keep)
        whole = float(penalty.value(THETA))
        left = penalty.without(k, n)
        assert left.keep == keep
        if keep == "mean":
            assert float(left.value(THETA)) == pytest.approx(whole)
        else:
            assert (n - k) * float(left.value(THETA)) == pytest.approx(n * whole)
        assert torch.equal(left.l2, penalty.l2 * penalty.factor(k, n))
        # The same total, on the mean over all n.
        assert n * float(penalty.left_in_total(k, n).value(THETA)) == pytest.approx(
            (n - k) * float(left.value(THETA))
        )


@pytest.mark.parametrize("keep", KEEPS)
def test_the_gradient_of_an_example_sums_to_what_leaves_with_it(keep: Any):
    """n times the mean's penalty is the sum of what is folded into the examples, if it leaves with them at all."""
    n, k = 10, 3
    penalty = Penalty.of(L2, THETA, keep)
    before, after = n * penalty.gradient(THETA), n * penalty.left_in_total(k, n).gradient(THETA)
    assert_close_per_row((before - after)[None], k * penalty.folded(THETA)[None], 1e-12)
    assert penalty.leaves_with_examples == bool(penalty.folded(THETA).any())


def test_nothing_removed_is_nothing_changed():
    for keep in KEEPS:
        penalty = Penalty.of(L2, THETA, keep)
        assert penalty.factor(0, 7) == 1.0
        assert torch.equal(penalty.without(0, 7).l2, L2)
        assert torch.equal(penalty.left_in_total(0, 7).l2, L2)


@pytest.mark.parametrize(
    ("l2", "keep", "said"),
    [
        (0.1, "median", 'keep must be "mean" or "total", got \'median\''),
        (-0.1, "mean", "l2 must be >= 0 and finite, got -0.1"),
        ([0.1, -1.0, 0.0], "mean", "got -1.0"),
        (float("inf"), "mean", "got inf"),
        (float("nan"), "total", "got nan"),
        ([0.1, 0.2], "mean", r"a number or have shape \(3,\), got shape \(2,\)"),
        ([[0.1, 0.2, 0.3]], "mean", r"got shape \(1, 3\)"),
    ],
)
def test_what_is_no_penalty(l2: Any, keep: str, said: str):
    with pytest.raises(ValueError, match=said):
        Penalty.of(l2, THETA, keep)
