"""Every training row of a linear model predicted without itself, from one factorisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from ..curvature.base import ExampleMean
from ..objective import LinearModel
from ..runtime.progress import track
from ..types import Tensor
from .woodbury import HELD_BYTES, TotalHessian, identity_where, is_determined

FLAT = 1e-10
"""A share of the largest curvature of an example in its output: below it leverages do not tell kernel values."""


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Each training row predicted without itself, from one factorisation (B5): approximate leave-one-out.

    `outputs` (n, c) are the logits or values without the row, `loss` (n,) is the row's own loss there, `leverage` (n,)
    is the share of its own fit that the row itself carries, w x^T A^-1 x (a trace for c > 1; the sum over rows is the
    effective number of parameters). A large loss that was small with the row is the mark of a doubtful label. Where a
    row alone fits some direction of the parameters (a leverage of 1: the only row of its category), nothing determines
    what would be predicted without it: `outputs` and `loss` are NaN there, and `undetermined` has its number.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.ones(4, 1), torch.tensor([0.0, 0.0, 0.0, 4.0])
    >>> alone = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=1.0)).leave_one_out()
    >>> (
    ...     alone.loss[3],
    ...     alone.leverage.sum(),
    ... )  # trained on three zeros alone it would say 0, where the label is 4
    (tensor(8., dtype=torch.float64), tensor(0.5714, dtype=torch.float64))
    """

    outputs: Float[Tensor, "n c"]
    loss: Float[Tensor, " n"]
    leverage: Float[Tensor, " n"]

    @property
    def undetermined(self) -> Int[Tensor, " u"]:
        """The rows that alone fit some direction of the parameters: without them it would be anything."""
        return self.loss.isnan().nonzero()[:, 0]


def own_kernels(total: TotalHessian, E: Float[Tensor, "b c p"]) -> Float[Tensor, "b c c"]:
    """K_i = X_i A^-1 X_i^T (c, c) of each example, from the gradients X_i (c, p) of its outputs: c solves each."""
    if E.shape[1] == 1:
        return (total.factor.quadratic(E[:, 0]) / total.problem.n)[:, None, None]
    return E @ total.solve(E).mT


def all_kernels(total: TotalHessian) -> Float[Tensor, " n"] | None:
    """K_i = x_i A^-1 x_i^T of all training examples at once, where a model of one output is solved on the dual side.

    The leverages w_i K_i come with the factor, at the price of one inverse; where w_i is next to nothing they do not
    tell K_i, and it is solved for. None where there is no such factor.
    """
    problem = total.problem
    leverages = total.factor.leverages if problem.c == 1 else None
    if leverages is None:
        return None
    w = problem.derivatives().a[:, 0]
    flat = (w < FLAT * w.max()).nonzero()[:, 0]
    found = leverages / w
    if len(flat):
        E = problem.output_gradients(problem.train_batch(flat))
        found[flat] = own_kernels(total, E)[:, 0, 0]
    return found


def leave_one_out(problem: LinearModel, curvature: ExampleMean) -> LeaveOneOut:
    """Every training row of a linear model predicted without itself, by a Newton step for each (B5).

    The outputs are eta_i + z_i with z_i = (I - K W)^-1 (K r + X_i b), K = X_i A^-1 X_i^T (c, c), r and W the first and
    second derivatives of the row's loss, b the step that the penalty's share alone makes (`keep="mean"`). It is NaN
    where I - K W is singular to rounding. Memory is bounded: rows are taken some at a time.
    """
    total = TotalHessian.of(problem, curvature, 1 if problem.penalty.leaves_with_examples else 0)
    b = total.solve(problem.folded_penalty[None])[0]
    parts = problem.derivatives()
    eta = problem.outputs()
    pulled = problem.outputs(theta=b)
    kernels = all_kernels(total)
    shift = torch.empty_like(eta)
    leverage = torch.empty(problem.n, dtype=torch.float64)
    held = max(1, HELD_BYTES // (8 * problem.p * problem.c))
    starts = range(0, problem.n, held)
    for start in track(starts, "leave-one-out", len(starts)):
        index = torch.arange(start, min(start + held, problem.n))
        if kernels is None:
            E = problem.output_gradients(problem.train_batch(index))
            solved = total.solve(E)
            K = E @ solved.mT
        else:
            K, solved = kernels[index, None, None], None
        own = parts.take(index)
        KW, root, eye = own.curve(K).mT, own.root(), torch.eye(problem.c, dtype=K.dtype)
        right = K @ own.r[:, :, None] + pulled[index, :, None]
        error = right.new_zeros(len(K)) if solved is None else total.rounding(root.mT @ solved)
        determined = is_determined(eye - root.mT @ K @ root, error)
        found = torch.linalg.solve(identity_where(eye - KW, ~determined), right)[:, :, 0]
        shift[index] = torch.where(determined[:, None], found, torch.nan)
        leverage[index] = KW.diagonal(dim1=1, dim2=2).sum(1)
    outputs = eta + shift
    return LeaveOneOut(outputs, problem.loss.value(outputs, problem.y), leverage)
