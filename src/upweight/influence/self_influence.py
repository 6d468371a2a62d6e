"""I_up,loss(z_i, z_i) of every training example on its own loss (Sec. 5.4), in the way that suits model and solver.

g^T A^-1 g of the bare gradient g of every example, and the product of g with A^-1 times the folded penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float

from ..capabilities import LayerGradients
from ..curvature.base import Curvature, OuterInverse
from ..objective import LinearModel, Objective
from ..runtime.distributed import shard
from ..runtime.progress import track
from ..solvers import Inverse, Solution
from ..types import Tensor
from .leave_one_out import all_kernels
from .passes import all_columns
from .woodbury import TotalHessian

HELD = 1 << 27
"""Numbers of gradients of rows that are held at once where there may be many parameters for few data: 1 GB."""
Own: TypeAlias = tuple[slice, Tensor, Tensor]
"""A block of training examples: g^T A^-1 g, and the product of g with A^-1 times the folded penalty."""


def values_of(
    problem: Objective,
    curvature: Curvature,
    inverse: Inverse,
    solve: Callable[[Tensor], Solution],
    block: int,
    samples: int | None,
    seed: int,
) -> Float[Tensor, "1 n"]:
    """The scores of all training examples on their own losses, in the way that suits model and solver.

    Args:
        problem: whose training examples.
        curvature: A.
        inverse: of A.
        solve: applies the inverse, and raises where it fails.
        block: examples that are solved for at a time.
        samples: how many random right-hand sides estimate them, or None.
        seed: of those.
    """
    # A zero right-hand side is solved by zero.
    penalty = solve(problem.folded_penalty.view(1, -1)).value
    if samples is not None:
        drawn = solve(draws(curvature, samples, seed)).value
        return scores_of(problem, by_draws(problem, drawn, penalty))
    closed = closed_form(problem, curvature, inverse, penalty)
    return scores_of(problem, closed or by_solves(problem, inverse, penalty, block))


def scores_of(problem: Objective, parts: Iterator[Own]) -> Float[Tensor, "1 n"]:
    """The scores -g^T A^-1 (w g + folded penalty) of all training examples, from what each block gives.

    `parts` come from one of the three ways below: `closed_form`, `by_solves`, `by_draws`.
    """
    # The train gradient is w_i times the bare one plus the folded penalty.
    return all_columns(
        (
            (part, -(problem.weights[part].to(own.device) * own.double() + product.double())[None])
            for part, own, product in parts
        ),
        1,
        problem.n,
    )


def closed_form(
    problem: Objective, curvature: Curvature, inverse: Inverse, penalty: Float[Tensor, "1 p"]
) -> Iterator[Own] | None:
    """The way without a solve per example: EKFAC layer by layer, or all leverages of a linear model at once.

    Args:
        problem: whose training examples.
        curvature: A.
        inverse: of A.
        penalty: A^-1 times the folded penalty, (1, p).

    Returns:
        Blocks of training examples, or None where there is no such way.
    """
    layers, outer, model, mean = problem.layers, curvature.outer, problem.linear, curvature.examples
    if outer is not None and layers is not None and layers.together:
        return _by_layers(layers, outer, penalty)
    if model is None or mean is None or not inverse.exact or model.c > 1:
        return None
    kernels = all_kernels(TotalHessian.of(model, mean, 0))
    return None if kernels is None else iter([_by_kernels(model, kernels, penalty)])


def _by_kernels(model: LinearModel, kernels: Float[Tensor, " n"], penalty: Float[Tensor, "1 p"]) -> Own:
    """r_i^2 x_i A^-1 x_i^T of a linear model of one output solved on the dual side, from all leverages at once."""
    bare = model.loss.residual(model.outputs(), model.y)[:, 0]
    product = bare * model.outputs(theta=penalty[0])[:, 0]
    own = shard(model.n)
    return own, (bare.square() * kernels * model.n)[own], product[own]


def _by_layers(layers: LayerGradients, outer: OuterInverse, penalty: Float[Tensor, "1 p"]) -> Iterator[Own]:
    for part, pairs, product in track(layers.train_pairs(penalty), "self-influence", None):
        yield part, outer.quadratic(pairs), product[0]


def by_solves(
    problem: Objective, inverse: Inverse, penalty: Float[Tensor, "1 p"], block: int
) -> Iterator[Own]:
    """The way for any solver: a solve per example, or a closed quadratic form where the solver has one.

    Args:
        problem: whose training examples.
        inverse: of the curvature A.
        penalty: A^-1 times the folded penalty, (1, p).
        block: examples that are taken at once.
    """
    # A closed form is this process's own work; a solve is everybody's, for the same rows.
    own = shard(problem.n) if inverse.quadratic is not None else slice(0, problem.n)
    if not problem.facts.own_loss:  # of many parameters
        block = max(1, min(block, HELD // problem.p))
    starts = range(own.start, own.stop, block)
    for start in track(starts, "self-influence", len(starts)):
        part = slice(start, min(start + block, own.stop))
        batch = problem.train_batch(torch.arange(part.start, part.stop))
        bare = given = problem.test_gradients(batch)
        if not problem.facts.own_loss:
            given = problem.gradients_as_train(batch, torch.ones(len(bare), dtype=torch.float64))
        closed = inverse.quadratic if given is bare else None
        solved = (inverse(bare).value * given).sum(1) if closed is None else closed(bare)
        yield part, solved, bare @ penalty[0]


def draws(curvature: Curvature, samples: int, seed: int) -> Float[Tensor, "k p"]:
    """Random right-hand sides x whose covariance is the curvature A, for `by_draws`.

    Args:
        curvature: A, with a root: a Gauss-Newton matrix, or the Hessian of a convex problem.
        samples: k of them.
        seed: what they are drawn from.

    Raises:
        TypeError: for curvatures without a root.
        ValueError: for fewer than two.
    """
    if curvature.examples is None:
        raise TypeError(f"samples is for GaussNewton, not {type(curvature).__name__}: leave it out")
    if not curvature.examples.problem.facts.own_loss:
        raise TypeError("samples is for models that minimise the loss of their rows: leave it out")
    if samples < 2:
        raise ValueError(f"samples must be >= 2, got {samples}")
    return curvature.examples.sample(samples, seed)


def in_words(samples: int) -> str:
    """What the settings say of an estimate by so many draws, with its standard error."""
    return f"self-influence: {samples} draws, relative standard error {(2 / samples) ** 0.5:.0%}"


def by_draws(
    problem: Objective, solved: Float[Tensor, "k p"], penalty: Float[Tensor, "1 p"]
) -> Iterator[Own]:
    """The way of estimates: g^T A^-1 g is the mean square of g . s over s = A^-1 x, the covariance of x being A.

    Args:
        problem: whose training examples.
        solved: the k draws s, solved from `draws`.
        penalty: A^-1 times the folded penalty, (1, p).
    """
    rows = torch.cat([solved, penalty])
    folded = (rows @ problem.folded_penalty.to(rows))[:, None]
    for part, values in track(problem.products(rows), "self-influence", None):
        # Back to gradients without weight and penalty.
        weight = problem.weights[part].to(values)
        bare = (values - folded) / torch.where(weight > 0, weight, 1.0)
        absent = (weight == 0).nonzero()[:, 0]
        if len(absent):  # their products say nothing of their gradients, which meet the penalty all the same
            batch = problem.train_batch(absent.cpu() + part.start)
            bare[:, absent] = rows @ problem.test_gradients(batch).to(rows).T
        yield part, bare[:-1].square().mean(0), bare[-1]
