"""Questions to a linear model about test examples: losses and measures, and their derivatives in outputs and inputs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from ..data.design import Design, distinct_rows
from ..losses import Parts
from ..measures import Measure, Nearby
from ..objective import LinearModel
from ..outputs import check_probabilities, measure_slopes, measured, measured_at_each, one_per_example
from ..types import Tensor
from .output_map import OutputMap
from .second_derivative import BLOCK_ELEMENTS, rows_at_once

OUTPUTS_AT_ONCE, SHIFTS_AT_ONCE = 1 << 20, 1 << 22
"""Outputs of a batch at several parameters that are held at once, and shifts of them in float32."""
MANY = 1 << 20
"""So many outputs from which on a measure takes the way of those that differ little."""


def outputs_and_targets(
    problem: LinearModel, batch: Any, theta: Tensor, measure: Measure | None = None
) -> tuple[Float[Tensor, "m _"], Tensor]:
    """The outputs (m, c) and targets of a whole batch: what a measure of all of it, such as a mean, is a function of.

    Args:
        problem: the model.
        batch: m test examples, as (inputs, targets).
        theta: the parameters to look at (p,).
        measure: what they are for, where that wants votes in place of the outputs of pairs of classes.

    Raises:
        TypeError: for a batch of another form.
        ValueError: for other columns than in training, or another number of targets.
    """
    design, y = problem.prepared(batch)
    eta = problem.outputs(design, theta)
    eta = problem.loss.by_class(eta) if measure is not None and measure.by_class else eta
    return eta, one_per_example(y, design.shape[0])


def evaluated(
    problem: LinearModel, batch: Any, theta: Tensor, measure: Measure | None
) -> Float[Tensor, " m"]:
    """The loss or measure of each example, or the single number that a measure is, (1,).

    Args:
        problem: the model.
        batch: m test examples, as (inputs, targets).
        theta: the parameters to look at (p,).
        measure: what is asked about; None stands for the loss.
    """
    if measure is not None and measure.single:
        check_probabilities(problem.loss, measure)
        params = problem.layout.unpack(theta)
        return measure.number(params, lambda: outputs_and_targets(problem, batch, theta, measure)).view(1)
    design, y = problem.prepared(batch)
    return measured(problem.loss, problem.outputs(design, theta), y, measure)


def evaluated_at_each(
    problem: LinearModel,
    to_outputs: OutputMap,
    batch: Any,
    thetas: Float[Tensor, "k p"],
    measure: Measure | None,
) -> Float[Tensor, "k m"]:
    """The loss or measure of each example at each of k parameter vectors, some vectors at a time.

    Args:
        problem: the model.
        to_outputs: how its parameters become outputs.
        batch: m test examples, as (inputs, targets).
        thetas: parameters (k, p).
        measure: what is asked about; None stands for the loss.
    """
    if measure is not None and measure.single:
        return _numbers_at_each(problem, to_outputs, batch, thetas, measure)[:, None]
    design, y = problem.prepared(batch)
    found = []
    for part in thetas.split(max(1, BLOCK_ELEMENTS // (design.shape[0] * problem.c))):
        blocks = design.blocks(rows_at_once(problem.d), torch.float64)
        eta = torch.cat([to_outputs.forward(block, part) for _, block in blocks]).permute(2, 0, 1)
        found.append(measured_at_each(problem.loss, eta, y, measure))
    return torch.cat(found)


def _numbers_at_each(
    problem: LinearModel, to_outputs: OutputMap, batch: Any, thetas: Float[Tensor, "k p"], measure: Measure
) -> Float[Tensor, " k"]:
    """A single number at each of k parameter vectors.

    A count moves only where two outputs swap, so outputs are the problem's own plus what the parameters' difference
    makes of each *distinct* row of the batch: parameters that do not differ change nothing, equal rows stay equal.
    """
    if not measure.uses_batch:
        return torch.stack([problem.evaluate(batch, measure, theta)[0] for theta in thetas])
    check_probabilities(problem.loss, measure)
    design, y = problem.prepared(batch)
    y = one_per_example(y, design.shape[0])
    first, place = distinct_rows(design)
    rows = design if len(first) == len(place) else design.take(first)
    eta, unknown = problem.outputs(rows), thetas.isnan().any(1)
    steps = torch.where(unknown[:, None], 0, thetas - problem.theta)
    found, parts = torch.full((len(steps),), torch.nan, dtype=torch.float64), OUTPUTS_AT_ONCE // eta.numel()
    if measure.nearby is not None and rows is design and problem.c == 1 and len(steps) * len(y) >= MANY:
        found = _nearby(to_outputs, (rows, y), eta[:, 0], steps, measure.nearby)
    left = found.isnan().nonzero()[:, 0]
    for index in left.split(max(1, parts)) if len(left) else ():
        part = steps[index]
        moved = torch.empty(*eta.shape, len(part), dtype=torch.float64)
        for at, block in rows.blocks(rows_at_once(problem.d), torch.float64):
            torch.add(to_outputs.forward(block, part), eta[at, :, None], out=moved[at])
        moved = moved.permute(2, 0, 1)
        moved = problem.loss.by_class(moved) if measure.by_class else moved
        found[index] = measure.numbers(moved if rows is design else moved[:, place], y)
    return torch.where(unknown, torch.nan, found)


def _nearby(
    to_outputs: OutputMap, batch: tuple[Design, Any], eta: Tensor, steps: Float[Tensor, "k p"], number: Nearby
) -> Float[Tensor, " k"]:
    """A number at parameters that differ little, from shifts of the outputs in float32; NaN where it is in doubt.

    Steps of like length meet, so that few outputs are near enough to swap for most of them. The rounding of x . s in
    float32 is about that of one product |x| |s|, since roundings cancel; twice that is counted as doubt.
    """
    order, lengths = eta.argsort(), steps.norm(dim=1)
    rows, y, eta = batch[0].take(order), batch[1][order], eta[order]
    found, size = torch.empty(len(steps), dtype=torch.float64), rows_at_once(to_outputs.d)
    longest = max(float(block.dense().norm(dim=1).max()) for _, block in rows.blocks(size, torch.float64))
    rounding = torch.finfo(torch.float32).eps * (longest + to_outputs.intercept)
    for index in lengths.argsort().split(max(1, SHIFTS_AT_ONCE // len(eta))):
        part = steps[index].float()
        shifts = torch.cat(
            [to_outputs.forward(block, part)[:, 0] for _, block in rows.blocks(size, part.dtype)]
        )
        found[index] = number(eta, shifts, y, rounding * lengths[index])
    return found


def output_derivatives(
    problem: LinearModel, batch: tuple[Design, Any], measure: Measure | None
) -> Float[Tensor, "m c"]:
    """The derivatives of each example's loss or measure in its own outputs, (m, c): of the loss in closed form.

    The gradient in theta of example i is the outer product of row i with x_i.

    Args:
        problem: the model, at whose theta they are taken.
        batch: m prepared examples, X and targets.
        measure: a measure that gives one number per example, differentiated by autograd; None stands for the loss.
    """
    design, y = batch
    return measure_slopes(problem.loss, problem.outputs(design), y, measure)


def gradient_of_number(
    problem: LinearModel, to_outputs: OutputMap, batch: Any, measure: Measure
) -> Float[Tensor, "1 p"]:
    """The gradient (1, p) of a single number: directly in the parameters, and through the outputs if it looks at them.

    Autograd differentiates the measure only; from outputs to parameters the way is X^T, block by block.

    Args:
        problem: the model, at whose theta it is taken.
        to_outputs: how its parameters become outputs.
        batch: the test examples, as (inputs, targets).
        measure: a measure that gives one number in all.
    """
    measure.check_smooth()
    check_probabilities(problem.loss, measure)
    theta = problem.theta.clone().requires_grad_()
    seen: list[tuple[Design, Tensor]] = []

    def look_once() -> tuple[Tensor, Tensor]:
        design, y = problem.prepared(batch)
        seen.append((design, problem.outputs(design).requires_grad_()))
        return seen[-1][1], one_per_example(y, design.shape[0])

    value = measure.number(problem.layout.unpack(theta), look_once)
    leaves = [theta, *(eta for _, eta in seen)]
    direct, *through = torch.autograd.grad(value, leaves, materialize_grads=True)
    total = direct.view(1, -1)
    for (design, _), slopes in zip(seen, through, strict=True):
        blocks = design.blocks(rows_at_once(problem.d), torch.float64)
        pulled = [to_outputs.backward(block, slopes[part, :, None]) for part, block in blocks]
        total = total + torch.stack(pulled).sum(0)
    return total


def feature_gradients(
    problem: LinearModel, to_outputs: OutputMap, batch: Any, rows: Float[Tensor, "k p"]
) -> Float[Tensor, "k b d"]:
    """The derivative of s . grad l(x, y) in x: S^T r + theta^T W (S x), for every row s and example; see Eq. 5 (R6).

    S and theta stand for their coefficients (c, d); r (c,) and W (c, c) are the first two derivatives of the loss in
    the outputs. Neither the example's weight nor the penalty has a part in it.

    Args:
        problem: the model, at whose theta it is taken.
        to_outputs: how its parameters become outputs.
        batch: b examples, as (inputs, targets).
        rows: k vectors s (k, p).

    Returns:
        One derivative per vector and example, (k, b, d), in the columns of X as the model sees them.
    """
    design, y = problem.prepared(batch)
    eta = problem.outputs(design)
    encoded = problem.encode(y, len(eta))
    r = problem.loss.residual(eta, encoded)
    parts = Parts(r[:, 0], *problem.loss.curvature(eta, encoded), r)
    tangents = to_outputs.forward(design.block(slice(None), torch.float64), rows.to(torch.float64))
    weight, _ = to_outputs.split(rows.to(torch.float64))
    theta, _ = to_outputs.split(problem.theta.view(1, -1))
    through = torch.einsum("bck,cd->kbd", parts.curve(tangents), theta[0])
    return torch.einsum("bc,kcd->kbd", r, weight) + through
