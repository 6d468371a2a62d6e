"""The one pass over X that losses, derivatives and the gradient of a linear model cost."""

from __future__ import annotations

import torch
from jaxtyping import Float

from ..losses import Parts
from ..objective import LinearModel
from ..runtime.distributed import gather_rows, shard, sum_across
from ..types import Tensor
from .output_map import OutputMap
from .second_derivative import rows_at_once


def first_pass(problem: LinearModel, to_outputs: OutputMap) -> tuple[Parts, Float[Tensor, " p"]]:
    """Losses, derivatives in the outputs and the sum of all gradients, in float64."""
    rows = problem.theta.view(1, -1)
    total = torch.zeros(1, problem.p, dtype=torch.float64)
    own = shard(problem.n)
    size = own.stop - own.start
    loss, a, r = (torch.empty(size, *more, dtype=torch.float64) for more in ((), (problem.c,), (problem.c,)))
    u: Tensor | None = None
    for part, block in problem.design.blocks(rows_at_once(problem.d), torch.float64, own):
        here = slice(part.start - own.start, part.stop - own.start)
        eta, y, w = to_outputs.forward(block, rows)[:, :, 0], problem.y[part], problem.weights[part, None]
        loss[here], r[here] = problem.loss.value(eta, y), problem.loss.residual(eta, y) * w
        bend, low = problem.loss.curvature(eta, y)
        a[here] = bend * w
        if low is not None:
            u = torch.empty_like(a) if u is None else u
            u[here] = low * w.sqrt()
        total += to_outputs.backward(block, r[here, :, None])
    parts = Parts(gather_rows(loss), gather_rows(a), None if u is None else gather_rows(u), gather_rows(r))
    return parts, sum_across(total)[0]
