"""Bounds that retraining without a set of rows provably keeps, for logistic and softmax regression (requirement B3).

The derivation, by generalised self-concordance, is in docs/design.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from ..curvature.base import ExampleMean
from ..objective import LinearModel
from ..types import Tensor
from .leave_one_out import row_kernels
from .woodbury import TotalHessian, newton_steps


def _spread(u: Float[Tensor, "b c k"]) -> Float[Tensor, "b k"]:
    """What a change of outputs can do to curvature: |u| of one output, the largest difference of several."""
    return u[:, 0].abs() if u.shape[1] == 1 else u.amax(1) - u.amin(1)


def _largest_spread(problem: LinearModel, steps: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
    found = torch.zeros(len(steps), dtype=torch.float64)
    for _, moved in problem.outputs_at_each(steps):
        found = torch.maximum(found, _spread(moved).amax(0))
    return found


def _widest(total: TotalHessian) -> float:
    """The examples' largest norm in the inverse: max_j ||x_j||, or max_j max_kl ||(e_k - e_l) (x) x_j|| of several."""
    problem = total.problem
    found = 0.0
    for _, K, _ in row_kernels(total, "norms of the examples"):
        own = K.diagonal(dim1=1, dim2=2)
        square = K if problem.c == 1 else own[:, :, None] + own[:, None, :] - 2 * K
        found = max(found, float(square.max()))
    return math.sqrt(found)


@dataclass(frozen=True, eq=False)
class Enclosure:
    """How far the retrained models of G reduced objectives can be from parameters `theta` (G, p), provably.

    `inverse` is that of each total Hessian at a reference, and no change of outputs between it and theta exceeds
    `spread`, so that the Hessian at theta is at least exp(-spread) times that. With nu the gradient's norm and a the
    examples' largest, both in the inverse Hessian at theta, the retrained parameters are within -ln(1 - a nu) / a of
    theta in that Hessian's norm (generalised self-concordance: docs/design.md derives it, softmax included).
    """

    problem: LinearModel
    sets: list[Tensor]
    theta: Float[Tensor, "G p"]
    inverse: Callable[[Tensor], Tensor]
    spread: Float[Tensor, " G"]
    a: Float[Tensor, " G"]
    radius: Float[Tensor, " G"]

    @classmethod
    def around(
        cls,
        problem: LinearModel,
        sets: list[Tensor],
        steps: Float[Tensor, "G p"],
        start: Float[Tensor, "G p"],
        inverse: Callable[[Tensor], Tensor],
        widest: Float[Tensor, " G"],
        rounding: float,
    ) -> Enclosure:
        """The enclosures around start + steps, where the inverse Hessian and the largest norm are those at `start`.

        Args:
            problem: with all of its training examples.
            sets: the training rows that each of G reduced objectives lacks.
            steps: where each enclosure is centred, from `start` on (G, p).
            start: the parameters of reference (G, p).
            inverse: of each total Hessian at `start`.
            widest: the examples' largest norm in that inverse, (G,).
            rounding: the error of the sum of the residuals.
        """
        theta = start + steps
        spread = _largest_spread(problem, steps)
        gradient = problem.gradients_without(sets, theta)
        gradient *= torch.tensor([problem.n - len(rows) for rows in sets])[:, None]
        grown = (spread / 2).exp()
        # A rounding error of one example's residual moves the gradient by that much times at most `widest`.
        nu, a = grown * (_norms(inverse, gradient[:, None])[:, 0] + rounding * widest), widest * grown
        radius = torch.where(a * nu < 1, -torch.log1p(-(a * nu).clamp(max=1 - 1e-16)) / a, torch.inf)
        return cls(problem, sets, theta, inverse, spread, a, radius)

    def halfwidths(self, rows: Float[Tensor, "q p"]) -> Float[Tensor, "G q"]:
        """The most that v . theta can differ from v . (retrained parameters), for each row v and each of G models.

        Infinite where the set is too large for any statement, 0 for a row of zeros.
        """
        norms = _norms(self.inverse, rows.expand(len(self.theta), -1, -1))
        return torch.where(norms > 0, norms * (self.radius * (self.spread / 2).exp())[:, None], 0.0)

    def closer(self, curvature: ExampleMean, steps: int, rounding: float) -> Iterator[Enclosure]:
        """The enclosures after that many more Newton steps, set by set, each with its own factorised Hessian.

        A step squares the distance from the retrained parameters, at n p^2 operations per set.

        Args:
            curvature: the kind of Hessian.
            steps: how many, 0 gives these enclosures themselves.
            rounding: the error of the sum of the residuals.
        """
        if not steps:
            yield self
            return
        for j, rows in enumerate(self.sets):
            there = self.problem.without(rows).at(self.theta[j])
            inverse = TotalHessian.of(there, curvature.of(there), 0).solve
            step = -inverse(there.gradient()[None]) * there.n
            nearer = Enclosure.around(
                self.problem, [rows], step, self.theta[[j]], inverse, self.a[[j]], rounding
            )
            yield from nearer.closer(curvature, steps - 1, rounding)


def _norms(inverse: Callable[[Tensor], Tensor], rows: Float[Tensor, "G q p"]) -> Float[Tensor, "G q"]:
    return (rows * inverse(rows)).sum(2).clamp(min=0).sqrt()


def intervals(
    problem: LinearModel, curvature: ExampleMean, sets: list[Tensor], test: Any, steps: int = 1
) -> tuple[Float[Tensor, "m g"], Float[Tensor, "m g"]]:
    """Bounds of the change of each test loss by retraining without each set, for logistic and softmax regression (B3).

    The change is from the loss of the given model to that of the exactly retrained one. The first Newton step uses one
    factorisation for all sets; each further one factorises every reduced Hessian and squares the distance.
    Infinite where the set is too large for any statement.

    Args:
        problem: the model.
        curvature: its Hessian, without damping.
        sets: the training rows of each of g sets.
        test: m test examples.
        steps: Newton steps, >= 1.

    Returns:
        The lowest and the highest change of each loss, (m, g) each.

    Raises:
        ValueError: for other losses or damped curvatures.
    """
    if not (problem.loss.self_concordant and problem.loss.classifies):
        raise ValueError("guaranteed intervals are for logistic and softmax regression")
    if problem.c > 1 and problem.loss.separate_outputs:
        raise ValueError("guaranteed intervals are not offered for one-vs-rest models")
    if curvature.damping:
        raise ValueError(
            "guaranteed intervals are about the objective itself: use a curvature without damping"
        )
    if problem.counts is not None or problem.scales is not None:
        raise ValueError(
            'guaranteed intervals hold class weights and scales fixed, which "balanced" and follow_scaling do not: fit '
            "with the class weights as numbers, and leave follow_scaling out"
        )
    if steps < 1:
        raise ValueError(f"a guarantee takes at least 1 Newton step, got {steps}")
    y = problem.prepared(test)[1]
    encoded = problem.encode(y, len(y))
    rows = _deciding_outputs(problem, test, encoded)
    baseline = problem.evaluate(test)
    widest = _widest(TotalHessian.of(problem, curvature, 0))
    residual = problem.derivatives().r
    rounding = float(residual.abs().sum()) * torch.finfo(torch.float64).eps
    low = torch.empty(len(baseline), len(sets), dtype=torch.float64)
    high = torch.empty_like(low)
    left = problem.gradient() * problem.n
    for batch, inverse, step in newton_steps(problem, curvature, sets, "guaranteed intervals"):
        if not bool(inverse.determined.all()):
            place = batch[int((~inverse.determined).nonzero()[0, 0])]
            raise ValueError(
                f"set {place} alone fits some direction of the parameters: nothing bounds predictions without it; "
                "train with a penalty (l2 > 0), or leave the set or `guarantee` out"
            )
        chosen = [sets[j] for j in batch]
        start = problem.theta.expand(len(batch), -1)
        step = step - inverse.solve(left.expand(len(batch), 1, -1))[:, 0]
        # The penalty's share that leaves with the set (keep="mean") lowers the Hessian by at most k/n.
        kept = (1 - len(chosen[0]) / problem.n) * (1 - inverse.leverage)
        widest_left = widest / kept.sqrt()
        first = Enclosure.around(problem, chosen, step, start, inverse.solve, widest_left, rounding)
        # One by one: each further enclosure holds a factorised Hessian.
        bounds = [
            _loss_bounds(e, rows, encoded, baseline) for e in first.closer(curvature, steps - 1, rounding)
        ]
        low[:, batch], high[:, batch] = (torch.cat(side, dim=1) for side in zip(*bounds, strict=True))
    return low, high


def _deciding_outputs(problem: LinearModel, test: Any, y: Tensor) -> Float[Tensor, "q p"]:
    """Gradients of the outputs that a loss depends on: the one output, or each output less that of the target."""
    E = problem.output_gradients(test)
    if problem.c > 1:
        E = E - E[torch.arange(len(E)), y][:, None]
    return E.flatten(0, 1)


def _loss_bounds(
    enclosure: Enclosure, rows: Float[Tensor, "q p"], y: Tensor, baseline: Float[Tensor, " m"]
) -> tuple[Float[Tensor, "m G"], Float[Tensor, "m G"]]:
    """Losses rise with every output but the target's: their bounds are those of the outputs."""
    m = len(baseline)
    centre = (enclosure.theta @ rows.T).view(-1, m, len(rows) // m)
    width = enclosure.halfwidths(rows).view(centre.shape)
    if centre.shape[2] == 1:
        centre = -y[:, None] * centre
        bounds = [torch.nn.functional.softplus(centre + sign * width)[:, :, 0] for sign in (-1, 1)]
    else:
        bounds = [(centre + sign * width).logsumexp(2) for sign in (-1, 1)]
    rounding = 8 * torch.finfo(torch.float64).eps * (1 + baseline)
    return (bounds[0] - baseline - rounding).T, (bounds[1] - baseline + rounding).T
