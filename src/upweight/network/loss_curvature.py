"""Whether a loss has curvature in the model's outputs, without which there is no influence function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import DerivativeError
from ..runtime.distributed import sum_across
from ..runtime.fallback import attempt, out_of_memory
from ..types import Tensor
from .comparisons import central, gap_to_differences, head, in_float64
from .evaluation import LOSS, Evaluation
from .output_curvature import slopes
from .passes import Passes
from .trial import Trial

CHECKED = "curvature of the loss"
STRAIGHT = "a loss that is linear in the outputs"
FAR = 1e9
"""How far away, over the size of the outputs, slopes are looked at: kinks lie between, whatever the data's unit."""


def is_straight(trial: Trial) -> bool:
    """Whether the loss is linear in the model's outputs, with the same slopes wherever these are.

    `NLLLoss` of a model that ends in LogSoftmax is: all curvature of the objective is then in the model. L1, pinball
    and hinge losses are linear piece by piece only, their slopes change at kinks.
    """
    held = trial.of.shortcuts.held
    if STRAIGHT not in held:
        held[STRAIGHT] = attempt(lambda: _is_straight(trial), lambda: False)
    return held[STRAIGHT]


def _is_straight(trial: Trial) -> bool:
    wide = in_float64(trial.of, trial.theta, head(trial.batch))
    if not _is_flat(*wide):  # looked at first: some losses fail at outputs of another kind
        return False
    of, theta, batch = wide
    here, slope = slopes(of, theta, batch)
    far = FAR * (1 + here.abs()) * _along(here)
    return all(torch.equal(slope(of, here + side * far, batch), slope(of, here, batch)) for side in (1, -1))


def check_convex_curvature(trial: Trial, passes: Passes) -> None:
    """Refuse, for the Gauss-Newton matrix and what is made of it, also a loss that is linear in the outputs.

    Args:
        trial: a few examples, on which it is seen.
        passes: all of them.

    Raises:
        DerivativeError: for losses without curvature in the outputs, as `check_curved`.
    """
    if is_straight(trial):
        raise DerivativeError(
            "the loss is linear in the model's outputs (as NLLLoss of log-probabilities is), so its Gauss-Newton "
            "matrix is zero and all curvature is in the model: use Hessian(problem), or a model of logits with "
            "torch.nn.functional.cross_entropy, whose outputs have the same loss and a Gauss-Newton matrix"
        )
    check_curved(trial, passes)


def check_curved(trial: Trial, passes: Passes) -> None:
    """Refuse a loss that is linear piece by piece; take its derivatives example by example where vmap's are wrong.

    Args:
        trial: a few examples, on which it is seen.
        passes: all of them, looked through where those few have no curvature.

    Raises:
        DerivativeError: for a loss that is linear in the outputs piece by piece, and one without a second derivative.
    """
    shortcuts = trial.of.shortcuts
    if CHECKED in shortcuts.held or is_straight(trial):
        return
    wide = in_float64(trial.of, trial.theta, head(trial.batch))
    if _is_flat(*wide) and _are_flat(trial.of, trial.theta, passes):
        raise DerivativeError(
            "the loss has no curvature in the model's outputs (it is linear in them piece by piece, as L1, pinball and "
            "hinge losses are), so its minimum lies in kinks where no influence function exists: train and ask with a "
            "smooth loss, torch.nn.functional.smooth_l1_loss or huber_loss for L1, a squared or a smooth hinge "
            "(upweight.SmoothHinge of a linear model)"
        )
    off = _gap(*wide)
    if off and shortcuts.held.get(LOSS, True):
        shortcuts.held[LOSS] = False
        rest = _gap(*wide)
        if not rest:
            shortcuts.say(
                "losses are differentiated example by example: torch's second derivative of several is wrong"
            )
        off = rest
    if off:
        shortcuts.say(
            f"the loss's second derivative in the outputs is {off:.0%} off the differences of its first (.detach() in "
            "the loss?): the curvature is that of what the loss passes on"
        )
    shortcuts.held[CHECKED] = True


def _bent(slope: Callable[[Tensor], Tensor], flat: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes of a batch's losses in the outputs (b, c), and their derivatives along a random direction."""
    at = flat.detach().requires_grad_()
    try:
        there = slope(at)
        if not there.requires_grad:
            return there, torch.zeros_like(there)
        return there.detach(), torch.autograd.grad(there, at, _along(flat), materialize_grads=True)[0]
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        raise DerivativeError(
            f"torch has no second derivative of the loss in the model's outputs ({error}): write it with operations "
            "that have one, or take a smooth loss that has"
        ) from error


def _along(flat: Tensor) -> Tensor:
    return torch.randn(flat.shape, generator=torch.Generator().manual_seed(0)).to(flat)


def _is_flat(of: Evaluation, theta: Tensor, batch: Any) -> bool:
    """Whether the losses have slopes in the outputs and no curvature, in float64 where that goes.

    In lower precisions a softmax that is sure has none either.
    """
    of, theta, batch = in_float64(of, theta, batch)
    flat, slope_of = slopes(of, theta, batch)
    slope, bend = _bent(lambda at: slope_of(of, at, batch), flat)
    return bool((slope != 0).any()) and not bool((bend != 0).any())


def _are_flat(of: Evaluation, theta: Tensor, passes: Passes) -> bool:
    """Whether all training examples, of all processes, are like that."""
    bent = sum(not _is_flat(of, theta, batch) for batch, _ in passes.blocks())
    return not bool(sum_across(theta.new_tensor([float(bent)])))


def _gap(of: Evaluation, theta: Tensor, batch: Any) -> float:
    """How far the second derivative is off differences of the first."""
    flat, slope = slopes(of, theta, batch)
    _, bend = _bent(lambda at: slope(of, at, batch), flat)
    differences = central(lambda at: slope(of, at, batch).detach(), flat.detach(), _along(flat))
    return gap_to_differences(bend, differences, coarsest=of.coarsest)
