"""What a run begins with: the model, its optimiser, and what a step's loss is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float

from ..data.weights import check_weights
from ..network.copies import copied, keep_activations
from ..network.modules import unwrapped
from ..network.problem import Problem
from ..types import ArrayLike, Params, Tensor
from .groups import Groups, groups_of, memory_of
from .minibatch import StepLoss, plain_loss
from .rules import Memory
from .statistics import running_statistics
from .steps import Averaging, Streams, own_streams
from .taps import dense_weights

LARGE = 1024
"""Numbers in a weight from which on its second derivatives are taken as outer products."""


class State(NamedTuple):
    """What one step hands to the next.

    `counted` tells how many steps each parameter has seen, `buffers` are the model's own (batch norm's statistics), and
    `streams` where random numbers stand, where steps have no seeds of their own.
    """

    theta: Float[Tensor, " p"]
    memory: Memory
    counted: tuple[int, ...]
    buffers: Params
    streams: Streams | None

    def begin(self) -> None:
        """Let torch's random numbers stand where the step began, where its own seeds do not say so."""
        if self.streams is not None:
            self.streams.set()


@dataclass(frozen=True)
class Meaning:
    """What the loss of a step is, beyond the loss of an example.

    Args:
        weights: what the loss of each example was multiplied by (n,), default 1.
        counts: what it counted in the denominator of its batch's mean (n,), default 1: its number of tokens, say.
        accumulation: of several batches in a step "mean" takes the mean of their means, "sum" the sum, "together" one
            mean over all; a number divides the sum of the means.
        removal: what weight 0 of an example does to the denominator: "kept", or "lowered".
        augment: what was done to each batch, at random, before the model saw it.
    """

    weights: ArrayLike | None = None
    counts: ArrayLike | None = None
    accumulation: Any = "mean"
    removal: Any = "kept"
    augment: Any = None

    def __post_init__(self) -> None:
        if self.removal not in ("kept", "lowered"):
            raise ValueError(f'removal must be "kept" or "lowered", got {self.removal!r}')
        if self.accumulation not in ("mean", "sum", "together") and not (
            isinstance(self.accumulation, int) and self.accumulation > 0
        ):
            raise ValueError(
                f'accumulation must be "mean", "sum", "together" or a number of batches, got {self.accumulation!r}'
            )

    def averaging(self, n: int, device: torch.device) -> Averaging:
        """How the losses of a step's examples become one number."""
        weights, counts = (check_weights(one, n).to(device) for one in (self.weights, self.counts))
        return Averaging(weights, counts, self.accumulation, self.removal)


@dataclass(frozen=True, eq=False)
class Start:
    """The model before the first step, and the loss and the optimiser of every step.

    Args:
        base: the model at its start, in eval mode.
        objective: the loss of a step, the model in train mode.
        groups: the optimiser's rule and its parameter groups.
        state: what the first step begins with.
        dense: the weights that stand in one product of a dense layer each, and are large.
    """

    base: Problem
    objective: StepLoss
    groups: Groups
    state: State
    dense: tuple[str, ...] = ()

    def model_at(self, state: State) -> torch.nn.Module:
        """A copy of the model, in eval mode, with what a step has left."""
        model = copied(self.base.evaluation.model)
        parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for name, value in {**state.buffers, **self.base.layout.unpack(state.theta)}.items():
                parts[name].copy_(value)
        return model

    def problem_at(self, state: State) -> Problem:
        """The model with what a step has left, as a problem."""
        return self.base.retrained(self.model_at(state))

    @classmethod
    def of(cls, model: Any, loss: Any, train: Any, *, optimizer: Any, params: Any, meaning: Meaning) -> Start:
        """A start from what a user has.

        Args:
            model: the model before the first step.
            loss: the loss of an example.
            train: the training examples.
            optimizer: an optimiser over the model's parameters, or a function from parameters to one.
            params: the parameters that are trained, by name or pattern; None: that require a gradient.
            meaning: what a step's loss is.
        """
        model = unwrapped(model)
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        resting, training = copied(model).eval(), copied(model).train()
        for one in (resting, training):
            keep_activations(one)
        for one, other in zip(training.modules(), model.modules(), strict=True):
            one.training = other.training or not model.training  # parts that stay in eval mode, frozen ones
        averaging = meaning.averaging(_length(train), next(model.parameters()).device)
        weights = averaging.weights * (len(averaging.counts) / averaging.counts.sum())
        base = Problem(resting, loss, train, params=params, weights=weights)
        names = {id(value): name for name, value in model.named_parameters()}
        moved = [value for name, value in model.named_parameters() if name in base.layout.names]
        made = optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer(moved)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(
                "optimizer must be a torch optimiser over the model's parameters, or a function from parameters to "
                f"one (functools.partial(torch.optim.SGD, lr=0.1)), got {type(made).__name__}"
            )
        groups = groups_of(made, names, base.layout, base.theta)
        held, seen = memory_of(made, names, base.layout, groups.rule)
        evaluation = replace(base.evaluation, model=training, strategy="batch")
        plain = plain_loss(replace(base.evaluation, strategy="batch"), base.theta, base.trial.batch)
        buffers = {name: value.detach().clone() for name, value in training.named_buffers()}
        state = State(base.theta, held(base.theta), seen, buffers, None)
        objective = StepLoss(
            evaluation, base.data, averaging, plain, meaning.augment, running_statistics(training)
        )
        leaves = dict(base.params)
        with torch.no_grad(), own_streams():
            own = {name: value.clone() for name, value in buffers.items()}
            dense = dense_weights(leaves, lambda: evaluation.called({**leaves, **own}, base.trial.batch))
        large = tuple(name for name in dense if leaves[name].numel() >= LARGE)
        return cls(base, objective, groups, state, large)


def _length(train: Any) -> int:
    from ..data.examples import as_rows

    return len(as_rows(train, torch.device("cpu"), None))
