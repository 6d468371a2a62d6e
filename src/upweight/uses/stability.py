"""Would other training rows of the same kind name the same rows? The ranking under resampling, from one factorisation.

Infinitesimal bootstrap: the training rows are reweighted at random, w_i exponential with mean 1 (Bayesian bootstrap:
Rubin, 1981), parameters move by one Newton step theta - H^-1 grad R_w, and the effects are taken anew there, with
s = H^-1 grad M corrected once for the Hessian of the reweighted rows, s + H^-1 (grad M - H_w s). Nothing is refitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..influence.leave_one_out import RowSteps, own_kernels
from ..influence.unrolled import Answers
from ..influence.woodbury import identity_where
from ..losses import Parts
from ..measures import Measure, MeasureLike, as_measure
from ..objective import LinearModel
from ..types import Tensor

RESAMPLES = 100
"""Resamples of the training rows."""
STEPS = 2
"""Steps with the one factor, of the parameters and of s."""
NUMBERS = 1 << 21
"""Numbers that are held of a block of rows."""
SMALL = 2_000_000
"""Numbers in X, times outputs, up to which `explain` resamples unasked: about a second."""


@dataclass(frozen=True, eq=False, repr=False)
class Stability:
    """How often each training row stands among the k strongest of its side, when the training rows are resampled.

    `counts` (2, n) are those among the helpful and among the harmful rows, of `resamples`. A row that is among the k in
    nearly all of them is so because of what it is, one that is in few because of which others happened to be drawn.
    """

    counts: Int[Tensor, "2 n"]
    resamples: int
    k: int

    def __repr__(self) -> str:
        often = (self.counts >= 0.9 * self.resamples).sum(1).tolist()
        return (
            f"Stability: {often[0]} helpful and {often[1]} harmful rows stay among the {self.k} strongest of their "
            f"side in nine of ten of {self.resamples} resamples"
        )

    @property
    def heading(self) -> str:
        """What the shares are called in tables.

        >>> Stability(torch.tensor([[5], [0]]), 100, 10).heading
        'stays in top 10 (%)'
        """
        return f"stays in top {self.k} (%)"

    def shares(self, side: int, rows: Tensor) -> np.ndarray:
        """In how many of a hundred resamples rows (k,) are there, on the side 0 (helpful) or 1 (harmful)."""
        return (100 * self.counts[side, rows] / self.resamples).round().long().numpy()

    def summary(self, sides: tuple[Tensor, Tensor]) -> str:
        """How many of the rows that are shown stand there nearly always, in a sentence.

        Args:
            sides: the numbers of the rows shown, helpful and harmful ones.
        """
        counts = torch.cat([self.counts[side, rows] for side, rows in enumerate(sides)])
        firm, loose = (
            int((test).sum()) for test in (counts >= 0.9 * self.resamples, counts < 0.5 * self.resamples)
        )
        return (
            f"If the training rows were resampled ({self.resamples} times, by weights), {firm} of these {len(counts)} "
            f"rows would stay among the {self.k} strongest of their side nine times in ten, {loose} less than every "
            "other time."
        )


def stability(
    influence: Answers,
    test: Any,
    *,
    k: int = 10,
    measure: MeasureLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Stability:
    """How often each training row is among the k most helpful and the k most harmful, when training rows are resampled.

    The effect of a row is that of one copy of it, also where the resample gives it more or less weight. It costs three
    passes over X for each resample, and no factorisation.

    Args:
        influence: of a linear model.
        test: one test example, as the problem takes batches.
        k: rows of each side.
        measure: what is asked about, default the loss; of one example.
        resamples: how often rows are resampled.
        seed: of the resamples.

    Raises:
        TypeError: for models that are not linear.
        ValueError: for more than one test row, and a measure of a whole set.

    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0], [1.0], [1.0], [1.0]]), torch.tensor([0.0, 0.1, 0.0, 9.0])
    >>> found = stability(Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.1)), (X[:1], y[:1]), k=1)
    >>> int(found.counts[1, 3])  # the odd one always harms the others most
    100
    """
    model, steps, asked = influence.problem.linear, influence.row_steps, as_measure(measure)
    if model is None or steps is None:
        raise TypeError("stability under resampling is known for linear models with their Hessian alone")
    if asked is not None and asked.single:
        raise ValueError(f"{asked.name} is of a whole set: stability is about a measure of one example")
    design, y = model.prepared(test)
    if design.shape[0] != 1 or min(k, resamples) < 1:
        raise ValueError(
            f"stability is about one test row, k >= 1 and resamples >= 1, got {design.shape[0]}, {k} and {resamples}"
        )
    generator, k = torch.Generator().manual_seed(seed), min(k, model.n)
    drawn = torch.rand(resamples, model.n, generator=generator, dtype=torch.float64).log().neg()
    drawn *= model.n / drawn.sum(1, keepdim=True)
    counts = torch.zeros(2, model.n, dtype=torch.long)
    for effect in _effects(model, steps, (design, y), asked, drawn):
        known = effect.nan_to_num(0)
        for side, rows in enumerate((known.topk(k).indices, known.topk(k, largest=False).indices)):
            counts[side, rows] += 1
    return Stability(counts, resamples, k)


def _effects(
    model: LinearModel,
    steps: RowSteps,
    test: tuple[Any, Any],
    measure: Measure | None,
    drawn: Float[Tensor, "w n"],
) -> Float[Tensor, "w n"]:
    """The effect of each row's removal among the rows of each resample, where it is once itself.

    With K = X_i A^-1 X_i^T and W the row's curvature, at the resample's outputs W' and residual r': a row of weight w
    that gets weight v moves its own outputs by z = (w - v)(K^-1 - W + v W')^-1 r', all others' by the pull
    u = (w - v)(r' + W' z) (Newton, its own weight exact, B2). The effect is the measure at v = 0 less that at v = 1.

    Args:
        model: the problem.
        steps: the Newton steps of its rows, with the factor.
        test: one prepared test example.
        measure: what is asked about.
        drawn: weights of the rows, of mean 1.
    """
    outputs, count = model.output_gradients(test)[0], len(drawn)
    thetas = model.theta.expand(count, -1)
    for _ in range(STEPS):
        sums = torch.zeros_like(thetas)
        for rows in _blocks(model, count):
            sums += rows.sums(drawn, rows.at(thetas).r[:, :, None])[:, 0]
        gradients = sums + model.n * model.penalty.gradient(thetas)
        thetas = thetas - steps.total.solve(gradients)
    solved = (model.n * steps.total.solve(outputs)).expand(count, -1, -1)
    for _ in range(STEPS):
        products = model.n * model.l2 * solved
        for rows in _blocks(model, count):
            bent = rows.at(thetas).curve(rows.outputs(solved).flatten(0, 1))
            products = products + rows.sums(drawn, bent)
        left = outputs - products / model.n
        solved = solved + model.n * steps.total.solve(left.flatten(0, 1)).view_as(left)
    found = []
    for rows in _blocks(model, count):
        here, across = rows.at(thetas), rows.outputs(solved).flatten(0, 1) / model.n
        said = (thetas @ outputs.T)[:, None].expand(-1, len(rows.number), -1).flatten(0, 1)
        inner, known = rows.inner(steps).repeat(count, 1, 1), []
        for v in (0, 1):
            less = (drawn[:, rows.number].flatten() - v)[:, None]
            z = inner @ (less * here.r)[:, :, None]
            if v:
                z = _solved(torch.eye(model.c).double() + here.curve(inner).mT, z)
            pull = less * (here.r + here.curve(z)[:, :, 0])
            known.append(model.measured((said + (pull[:, None] @ across)[:, 0])[:, None], test[1], measure))
        found.append((known[0] - known[1]).view(count, -1))
    return torch.cat(found, dim=1)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some training rows of a model, at the parameters of several resamples at once."""

    model: LinearModel
    number: Int[Tensor, " b"]
    gradients: Float[Tensor, "b c p"]
    """Of their outputs."""

    def outputs(self, vectors: Float[Tensor, "w k p"]) -> Float[Tensor, "w b c k"]:
        """The outputs at k parameter vectors of each resample."""
        return torch.einsum("bcp,wkp->wbck", self.gradients, vectors)

    def at(self, thetas: Float[Tensor, "w p"]) -> Parts:
        """Derivatives in the outputs at the parameters of each resample, the rows' own weights folded in."""
        loss, eta = self.model.loss, self.outputs(thetas[:, None])[..., 0].flatten(0, 1)
        y = self.model.y[self.number]
        y = y.repeat(len(thetas), *[1] * (y.ndim - 1))
        w = self.model.weights[self.number].repeat(len(thetas))[:, None]
        bend, low = loss.curvature(eta, y)
        r = loss.residual(eta, y) * w
        return Parts(r[:, 0], bend * w, None if low is None else low * w.sqrt(), r)

    def sums(self, drawn: Float[Tensor, "w n"], Z: Float[Tensor, "wb c k"]) -> Float[Tensor, "w k p"]:
        """The sums over rows of vectors in their outputs, weighted as the resamples have it, as gradients."""
        weighted = Z.view(len(drawn), len(self.number), *Z.shape[1:]) * drawn[:, self.number, None, None]
        return torch.einsum("wbck,bcp->wkp", weighted, self.gradients)

    def inner(self, steps: RowSteps) -> Float[Tensor, "b c c"]:
        """(K^-1 - W)^-1 = (I - K W)^-1 K of each row, at the own parameters; 0 where undetermined."""
        K = own_kernels(steps.total, self.gradients)
        left = torch.eye(self.model.c).double() - self.model.derivatives().take(self.number).curve(K).mT
        lost = steps.own[self.number].isnan().any(1)
        return torch.where(lost[:, None, None], 0.0, _solved(identity_where(left, lost), K))


def _blocks(model: LinearModel, resamples: int) -> Iterator[_Rows]:
    """All training rows, so many at once that what all resamples make of them fits."""
    size = max(1, NUMBERS // max(resamples * model.c**2, model.c * model.p))
    for number in torch.arange(model.n).split(size):
        yield _Rows(model, number, model.output_gradients(model.train_batch(number)))


def _solved(left: Float[Tensor, "n c c"], right: Float[Tensor, "n c k"]) -> Float[Tensor, "n c k"]:
    """Left^-1 right of each row; of one output it is a division, which is much faster."""
    return right / left if left.shape[1] == 1 else torch.linalg.solve(left, right)
