"""Every training row of a linear model predicted without itself, from one factorisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int

from ..curvature.base import ExampleMean
from ..data.design import CentredDesign, Design
from ..linalg.coordinates import Coordinates
from ..linear.following import class_gradients, column_gradients
from ..losses import Parts
from ..measures import Measure, MeasureLike, as_measure
from ..objective import LinearModel
from ..runtime.progress import track
from ..types import Tensor, as_tensor
from .settling import MOST, Settled, least_length, rows_held, settled
from .woodbury import HELD_BYTES, Downdated, TotalHessian, identity_where, is_determined, roots_of

FLAT = 1e-10
"""A share of the largest curvature of an example in its output: below it leverages do not tell kernel values."""
ROWS, NUMBERS = (256, 1024), 1 << 19
"""Rows that meet a piece of the inverse at once: so many that what is solved stays in cache, within bounds."""

ALL = 1 << 30
"""n^2 p up to which all rows are settled: about a second."""

RowKernels: TypeAlias = tuple[slice, Tensor, Tensor]
"""A block of training rows: its place, K (b, c, c), the error (b,) of S^T K S."""


@runtime_checkable
class Changed(Protocol):
    """What knows the parameters without each training row, alone."""

    def changes(self, batch: Any, measure: Measure | None = None) -> Float[Tensor, "m n"]:
        """The change of each test measure without each training row."""


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Each training row predicted without itself, from one factorisation (B5): approximate leave-one-out.

    `outputs` (n, c) are the logits or values without the row, `loss` (n,) is the row's own loss there, `leverage` (n,)
    is the share of its own fit that the row itself carries, w x^T A^-1 x (a trace for c > 1; the sum over rows is the
    effective number of parameters). A large loss that was small with the row is the mark of a doubtful label. Where a
    row alone fits some direction of the parameters (a leverage of 1: the only row of its category), nothing determines
    what would be predicted without it: `outputs` and `loss` are NaN there, and `undetermined` has its number.

    Of Cox's model `loss` is what the row adds to minus the partial likelihood at the parameters without it (Verweij and
    van Houwelingen, 1993), over its weight. Classifiers by moments have no leverage: it is NaN.

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
    steps: Changed

    def change(self, test: Any, *, measure: MeasureLike | None = None) -> Float[Tensor, "m n"]:
        """The change of each test measure if each training row is removed alone, positive = it would rise.

        The measure is evaluated at the outputs that the row's Newton step gives, so that it need not have a derivative:
        `measures.auroc`, an accuracy, a gap between groups. A count changes by exactly 0 where nothing swaps.

        Args:
            test: m test examples, as the problem takes them: the reference set of a measure of all of them.
            measure: what is asked about, default the loss of each; of a whole set it is one number, m = 1.

        Returns:
            Changes in the measure's unit; NaN for rows that are `undetermined`.

        >>> import torch
        >>> from upweight import Influence, LinearProblem, Squared, measures
        >>> X, y = torch.ones(4, 1), torch.tensor([0.0, 0.0, 0.0, 4.0])
        >>> alone = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=1.0)).leave_one_out()
        >>> alone.change((X[:1], y[:1]), measure=measures.prediction)  # 1/2 with all rows
        tensor([[ 0.1667,  0.1667,  0.1667, -0.5000]], dtype=torch.float64)
        """
        return self.steps.changes(test, as_measure(measure))

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


def row_kernels(total: TotalHessian, title: str) -> Iterator[RowKernels]:
    """K_i of all training rows, some at a time: places, K (b, c, c), the error (b,) that rounding may leave in S^T K S.

    S S^T is the curvature of the row's own loss. Where the factor has all leverages at once, they are taken; where
    there are fewer parameters than outputs of rows, the inverse is written out once and X multiplies it; else every
    output of every row is solved for.

    Args:
        total: the factor of the total Hessian.
        title: of the progress bar.
    """
    problem, found = total.problem, all_kernels(total)
    if found is not None:
        return iter([(slice(0, problem.n), found[:, None, None], torch.zeros_like(found))])
    if problem.p <= problem.n * problem.c:
        size = min(max(ROWS[0], NUMBERS // problem.p), ROWS[1])
        return track(_by_inverse(total, size), title, -(-problem.n // size))
    size = max(1, HELD_BYTES // (8 * problem.p * problem.c))
    return track(_by_solves(total, size), title, -(-problem.n // size))


def _by_inverse(total: TotalHessian, size: int) -> Iterator[RowKernels]:
    """The way of products of X with the inverse, in the coordinates in which the Hessian was factorised.

    The inverse is taken piece by piece, the columns of one output each: b p solved numbers are held, not b c p.
    """
    problem, core, parts = total.problem, total.factor.core, total.problem.derivatives()
    center, units = total.factor.coordinates.center, Coordinates(total.factor.coordinates.scale)
    columns = problem.design if center is None else CentredDesign(problem.design, center)
    scale, inverse = units.inward(torch.ones(1, problem.p).double())[0], torch.eye(problem.p).double()
    for rows in inverse.split(ROWS[0]):
        rows.copy_(units.inward(core.solve(rows)) / problem.n)
    pieces = torch.arange(problem.c * problem.d).view(problem.c, problem.d)
    if problem.has_intercept:
        pieces = torch.cat([pieces, torch.arange(problem.p - problem.c, problem.p)[:, None]], dim=1)
    for start in range(0, problem.n, size):
        part = slice(start, min(start + size, problem.n))
        own, there = parts.take(part), columns.take(torch.arange(part.start, part.stop))
        X = there.block(slice(None), torch.float64).dense()
        X = torch.cat([X, X.new_ones(len(X), 1)], dim=1) if problem.has_intercept else X
        K, error = X.new_empty(len(X), problem.c, problem.c), X.new_zeros(len(X))
        for k, piece in enumerate(pieces):
            _, solved = next(problem.outputs_at_each(inverse[piece], there))
            K[:, :, k] = (solved @ (scale[piece] * X)[:, :, None])[:, :, 0]
            error += total.rounding_of((solved * own.curve(solved)).sum(1), piece)
        yield part, K, error


def _by_solves(total: TotalHessian, size: int) -> Iterator[RowKernels]:
    """The way of a solve for each output of each row."""
    problem, parts = total.problem, total.problem.derivatives()
    for start in range(0, problem.n, size):
        part = slice(start, min(start + size, problem.n))
        E = problem.output_gradients(problem.train_batch(torch.arange(part.start, part.stop)))
        solved = total.solve(E)
        roots, _ = parts.take(part).signed_root()
        yield part, E @ solved.mT, total.rounding(roots.mT @ solved)


def _share(problem: LinearModel, here: Parts, K: Float[Tensor, "b c c"]) -> Float[Tensor, "b c c"]:
    """The share that each row has in the curvature of its own outputs, symmetric: S^T K S, or R W R with R = K^1/2."""
    if problem.loss.convex:
        root = here.root()
        return root.mT @ K @ root
    values, vectors = torch.linalg.eigh(K)
    R = vectors * values.clamp(min=0).sqrt()[:, None] @ vectors.mT
    return R @ here.curve(R)


@dataclass(frozen=True, eq=False)
class Following:
    """What the removal of a row does besides taking its own loss away (`LinearModel.counts`, `LinearModel.scales`).

    With the factors f_ik that the removal of row i puts on the weight of class k, or on the penalty of a column, the
    gradient at theta changes by the sum over k of (f_ik - 1) G_k, G_k the gradient of that class's losses or of that
    penalty. The Hessian is not changed along: it would change the effect by about f_ik - 1 of itself.
    """

    problem: LinearModel
    shares: Float[Tensor, "n k"]
    """1 - f_ik."""
    solved: Float[Tensor, "k p"]
    """A^-1 G_k."""
    own: Float[Tensor, " n"]
    """The factor of the weight of the row's own class."""

    @classmethod
    def of(cls, total: TotalHessian) -> Following | None:
        """What follows each row of the problem, or None where nothing does."""
        problem, counts, scales = total.problem, total.problem.counts, total.problem.scales
        if counts is None and scales is None:
            return None
        alone, own = torch.arange(problem.n).split(1), torch.ones(problem.n, dtype=torch.float64)
        factors, gradients = [], []
        if counts is not None:
            factors.append(counts.factors(alone))
            gradients.append(class_gradients(problem, counts))
            own = factors[0].gather(1, counts.codes[:, None])[:, 0]
        if scales is not None:
            factors.append(scales.factors(alone)[:, scales.columns])
            gradients.append(column_gradients(problem, scales))
        return cls(problem, 1 - torch.cat(factors, 1), total.solve(torch.cat(gradients)), own)

    def steps(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """What it adds to the step of theta without each of some training rows."""
        return self.shares[rows] @ self.solved

    def outputs(self, design: Design, rows: Int[Tensor, " b"], each: bool = False) -> Tensor:
        """What it adds to the outputs of m rows of `design` without each of some training rows, (b, m, c).

        Args:
            design: the rows that are predicted.
            rows: the training rows that are removed.
            each: whether row i of `design` is predicted without row i alone, (b, c).
        """
        moved = torch.stack([self.problem.outputs(design, theta=row) for row in self.solved])
        return torch.einsum("bk,kbc->bc" if each else "bk,kmc->bmc", self.shares[rows], moved)


@dataclass(frozen=True, eq=False)
class RowSteps:
    """The Newton step of the parameters as each training row is removed, alone: A^-1 X_i^T u_i + A^-1 b (B2).

    u_i = r_i + W_i z_i (c,) is the row's residual with its leverage accounted for, where z_i = (I - K W)^-1 (K r +
    X_i A^-1 b) is the move of the row's own outputs, K = X_i A^-1 X_i^T, b the penalty's share that leaves with a row.
    No step (p,) is ever written out: what follows from all of them needs u alone. Rows that alone fit some direction of
    the parameters have NaN.
    """

    total: TotalHessian
    pull: Float[Tensor, "n c"]
    own: Float[Tensor, "n c"]
    """z: how the outputs of each row itself move."""
    leverage: Float[Tensor, " n"]
    shared: Float[Tensor, " p"]
    """A^-1 b, the part of the step that is the same for all rows."""
    following: Following | None = None
    """What a removal adds by what follows it: class weights of the other rows, scales of columns."""

    @classmethod
    def of(cls, problem: LinearModel, curvature: ExampleMean) -> RowSteps:
        """The steps of all training rows from one factorisation, about as much work again; rows some at a time."""
        total = TotalHessian.of(problem, curvature, 1 if problem.penalty.leaves_with_examples else 0)
        shared = total.solve(problem.folded_penalty[None])[0]
        parts, pulled = problem.derivatives(), problem.outputs(theta=shared)
        following = Following.of(total)
        if following is not None:
            pulled = pulled + following.outputs(problem.design, torch.arange(problem.n), each=True)
            parts = parts._replace(r=parts.r * following.own[:, None])
        own, pull = torch.empty_like(pulled), torch.empty_like(pulled)
        leverage = torch.empty(problem.n, dtype=torch.float64)
        eye = torch.eye(problem.c, dtype=torch.float64)
        for part, K, error in row_kernels(total, "leave-one-out"):
            here = parts.take(part)
            KW = here.curve(K).mT
            right = K @ here.r[:, :, None] + pulled[part, :, None]
            determined = is_determined(eye - _share(problem, here, K), error)
            z = torch.linalg.solve(identity_where(eye - KW, ~determined), right)
            own[part] = torch.where(determined[:, None], z[:, :, 0], torch.nan)
            pull[part] = here.r + here.curve(own[part][:, :, None])[:, :, 0]
            leverage[part] = KW.diagonal(dim1=1, dim2=2).sum(1)
        return cls(total, pull, own, leverage, shared, following)

    def parameters(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """Theta without each of some training rows: a solve for each."""
        problem = self.total.problem
        E = problem.output_gradients(problem.train_batch(rows))
        found = problem.theta + self.total.solve((self.pull[rows, None] @ E)[:, 0]) + self.shared
        return found if self.following is None else found + self.following.steps(rows)

    @property
    def few(self) -> bool:
        """Whether there are so few data that all rows are settled in about a second, and their parameters held."""
        n, p = self.total.problem.n, self.total.problem.p
        return n * n * p <= ALL and 8 * n * p <= HELD_BYTES

    @cached_property
    def all_settled(self) -> Settled:
        """All rows after as many Newton steps as each needs, kept for the next question."""
        parts = zip(*self.settled(torch.arange(self.total.problem.n)), strict=True)
        return Settled(*(torch.cat(of_all) for of_all in parts))

    def settled(self, rows: Int[Tensor, " k"], most: int = MOST) -> Iterator[Settled]:
        """Some training rows after as many Newton steps as each needs, at most `most`; some rows at a time."""
        blocks = rows.split(rows_held(self.total.problem))
        for some in track(blocks, "further steps", len(blocks)):
            inverse = Downdated(self.total, *roots_of(self.total.problem, some, len(some)))
            sets, start = list(some.split(1)), self.parameters(some)
            yield settled(self.total.problem, inverse, sets, start, most=most, smallest=self._smallest)

    @cached_property
    def _smallest(self) -> float:
        return least_length(self.total)

    def outputs(self, batch: Any) -> Iterator[tuple[slice, Float[Tensor, "b m c"]]]:
        """The outputs of m test examples without each training row, all n of them, some rows at a time.

        m c solves, and a product of X with c m vectors: n m c^2 d operations. Memory: m c p numbers, and what a block
        gives.
        """
        problem = self.total.problem
        design, _ = batch = problem.prepared(batch)
        here = problem.outputs(design) + problem.outputs(design, theta=self.shared)
        solved = self.total.solve(problem.output_gradients(batch).flatten(0, 1))
        size = min(1024, max(1, HELD_BYTES // (8 * problem.c * max(1, len(solved)))))
        for start in range(0, problem.n, size):
            part = slice(start, min(start + size, problem.n))
            rows = problem.design.take(torch.arange(part.start, part.stop))
            _, moved = next(problem.outputs_at_each(solved, rows))
            shift = (self.pull[part, None] @ moved)[:, 0]
            found = here + shift.view(-1, *here.shape)
            if self.following is not None:
                found += self.following.outputs(design, torch.arange(part.start, part.stop))
            yield part, found

    def changes(self, batch: Any, measure: Measure | None = None) -> Float[Tensor, "m n"]:
        """The change of each test measure without each training row, at the parameters that the row's step gives.

        Args:
            batch: m test examples.
            measure: what is asked about, one number in all or one per example; default the loss.
        """
        problem = self.total.problem
        if measure is not None and measure.single:
            blocks = torch.arange(problem.n).split(max(1, HELD_BYTES // (8 * problem.p * problem.c)))
            if (seen := measure.sees_weights) is not None:
                return torch.cat([seen.changes(rows, self.parameters(rows)) for rows in blocks])[None]
            batch = problem.prepared(batch) if measure.uses_batch else batch
            before = problem.evaluate_each(batch, problem.theta[None], measure)
            each = [problem.evaluate_each(batch, self.parameters(rows), measure) for rows in blocks]
            return (torch.cat(each) - before).T
        before = problem.evaluate(batch, measure)[:, None]
        design, y = problem.prepared(batch)
        found = []
        for rows in torch.arange(design.shape[0]).split(max(1, HELD_BYTES // (8 * problem.p * problem.c))):
            some = design.take(rows), as_tensor(y)[rows]
            each = [problem.measured(eta, some[1], measure) for _, eta in self.outputs(some)]
            found.append(torch.cat(each).T)
        return torch.cat(found) - before


def leave_one_out(steps: RowSteps) -> LeaveOneOut:
    """Every training row of a linear model predicted without itself: the outputs are eta_i + z_i (B5)."""
    problem = steps.total.problem
    outputs = problem.outputs() + steps.own
    return LeaveOneOut(outputs, problem.loss.value(outputs, problem.y), steps.leverage, steps)
