"""Whether a replay ends where training ended, and where they part if not."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InfluenceError
from ..network.modules import unwrapped
from ..runtime.alone import differentiating
from ..types import Tensor
from .forward import Forward
from .start import State
from .steps import Step, own_streams

PARTED = 1e-3
"""How far a replay of less than float64 may end from the trained weights, as a share of the way these went."""
EXACT = 1e-10
"""The same in float64, of any weight against the largest."""
EXACT_OF_NOISE = 1e-6
"""The same of weights whose gradients are 0 but for rounding, which Adam makes steps of."""
LOOKED_AT = 16
"""Entries of theta that a recorder writes down after every step."""
CAUSES = (
    "something of the training is not as it was said to be: the order of batches, learning rates, clipping, random "
    "numbers of dropout, what the loss of a batch is (weights, counts, accumulation), autocast"
)


def places(p: int) -> Tensor:
    """The entries of theta that are looked at after every step, the same for every run of p parameters."""
    return torch.randperm(p, generator=torch.Generator().manual_seed(0))[:LOOKED_AT]


def check_end(forward: Forward, steps: tuple[Step, ...], end: State, trained: Any) -> float | None:
    """How far a replay ends from the trained weights, as a share of the way they went; None without such weights.

    Args:
        forward: takes single steps.
        steps: of the run.
        end: what the last one left.
        trained: the trained model, or its parameters by name, or None.

    Raises:
        InfluenceError: where it is more than rounding, with the step at which they part where that was recorded, and
            where two steps do not give the same again.
    """
    _check_repeats(forward, steps)
    if trained is None:
        return None
    start = forward.start
    layout, theta = start.base.layout, end.theta
    trained = unwrapped(trained)
    parts = dict(trained.named_parameters()) if isinstance(trained, torch.nn.Module) else dict(trained)
    there = layout.taken(parts).to(theta)
    off, way = (theta - there).norm(), (there - start.state.theta).norm()
    gap = float(off / way.clamp(min=torch.finfo(theta.dtype).tiny))
    if theta.dtype == torch.float64:
        bound = torch.where(start.groups.rule.noisy(end.memory, theta), EXACT_OF_NOISE, EXACT)
        good = bool(((theta - there).abs() <= bound * there.abs().max()).all())
    else:
        good = gap <= PARTED
    if good:
        return gap
    step = _parting(forward, steps)
    where = "" if step is None else f"; they part at step {step} (from 0)"
    raise InfluenceError(
        f"the replay does not end in the trained weights, but {gap:.1%} of the way that training went from them"
        f"{where}: {CAUSES}"
    )


def _check_repeats(forward: Forward, steps: tuple[Step, ...]) -> None:
    """Refuse a run whose first two steps give other weights when they are taken again."""
    ends, start = [], forward.start.state
    with differentiating(), own_streams():
        for _ in range(2):
            state = start
            for step in steps[:2]:
                state = forward.advanced(state, step)
            ends.append(state.theta)
    off, way = (ends[0] - ends[1]).norm(), (ends[0] - start.theta).norm()
    if not bool(off <= PARTED * way):
        raise InfluenceError(
            f"the first steps, taken twice, part by {float(off / way):.1%} of their way: something draws from random "
            "numbers that are not torch's (augmentation by numpy or random?), or a kernel is not deterministic: draw "
            "by torch, and set torch.use_deterministic_algorithms(True)"
        )


def _parting(forward: Forward, steps: tuple[Step, ...]) -> int | None:
    """The first step after which recorded entries of theta are not those of the replay; None: nothing was recorded."""
    state, looked = forward.start.state, places(forward.start.base.p)
    begun = state.theta[looked]
    with differentiating(), own_streams():
        for t, step in enumerate(steps):
            state = forward.advanced(state, step)
            if step.seen is None:
                return None
            off, way = (state.theta[looked] - step.seen).norm(), (step.seen - begun).norm()
            if not bool(off <= PARTED * way):
                return t
    return None
