"""What is asked of a linear model about test examples: measures, and their derivatives in outputs and inputs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from ..data.design import Design
from ..data.per_example import per_example
from ..losses import Parts
from ..measures import Measure
from ..objective import LinearModel
from ..types import Tensor
from .arguments import as_many
from .output_map import OutputMap
from .second_derivative import rows_at_once


def look(problem: LinearModel, batch: Any, theta: Tensor) -> tuple[Float[Tensor, "m c"], Tensor]:
    """Outputs and targets of a whole batch, as a measure of all of it wants them.

    Args:
        problem: the model.
        batch: m test examples.
        theta: the parameters (p,).
    """
    design, y = problem.prepared(batch)
    return problem.outputs(design, theta), as_many(y, design.shape[0])


def measured(problem: LinearModel, eta: Tensor, y: Any, measure: Measure | None) -> Float[Tensor, " m"]:
    """The loss or measure of each example from its outputs.

    Args:
        problem: the model.
        eta: the outputs (m, c).
        y: the targets as the user has them.
        measure: one number per example; None: the loss.
    """
    if measure is None:
        return problem.loss.value(eta, problem.encode(y, len(eta)))
    return per_example(measure.function, eta, as_many(y, len(eta)))


def output_slopes(
    problem: LinearModel, batch: tuple[Design, Any], measure: Measure | None
) -> Float[Tensor, "m c"]:
    """The derivatives of loss or measure in the outputs.

    Args:
        problem: the model.
        batch: m prepared examples.
        measure: one number per example; None: the loss.
    """
    design, y = batch
    eta = problem.outputs(design)
    if measure is None:
        return problem.loss.residual(eta, problem.encode(y, len(eta)))
    eta.requires_grad_()
    # Examples do not mix, so one gradient of the sum holds every row's own.
    return torch.autograd.grad(measured(problem, eta, y, measure).sum(), eta)[0]


def gradient_of_number(
    problem: LinearModel, to_outputs: OutputMap, batch: Any, measure: Measure
) -> Float[Tensor, "1 p"]:
    """The gradient of a single number: directly in the parameters, and through the outputs if it looks at them.

    Args:
        problem: the model.
        to_outputs: how its parameters become outputs.
        batch: the test examples.
        measure: one number in all.
    """
    theta = problem.theta.clone().requires_grad_()
    seen: list[tuple[Design, Tensor]] = []

    def look_once() -> tuple[Tensor, Tensor]:
        design, y = problem.prepared(batch)
        seen.append((design, problem.outputs(design).requires_grad_()))
        return seen[-1][1], as_many(y, design.shape[0])

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
    """The derivative of s . grad l(x, y) in x: r_i S + sum_j W_ij (S x)_j theta_j, for every row s.

    Args:
        problem: the model.
        to_outputs: how its parameters become outputs.
        batch: b examples.
        rows: k vectors s (k, p).
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
