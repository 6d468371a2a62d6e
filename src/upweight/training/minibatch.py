"""The loss of one step, with a weight for each of its examples, and its gradient: what an optimiser gets."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float

from ..data.examples import Rows, targets_of
from ..data.per_example import Loss, per_example
from ..linalg.flat_vectors import Layout
from ..network.evaluation import Evaluation, close
from ..network.outputs import asked, opened
from ..types import Params, Tensor
from .statistics import Running
from .steps import Averaging, Step
from .taps import Tapped, Taps

Augment = Callable[[Any], Any]
"""What training does to a batch before the model sees it, at random perhaps."""


@dataclass(frozen=True, eq=False)
class StepLoss:
    """The loss of a step as training computed it: the model in train mode, on whole batches.

    Args:
        evaluation: the model in train mode, with its loss.
        data: the training examples.
        averaging: how their losses become one number.
        plain: the loss of each of b examples from the outputs of a batch.
        augment: what is done to batches, or None.
        moving: the buffers that batch norm keeps up.
    """

    evaluation: Evaluation
    data: Rows
    averaging: Averaging
    plain: Loss
    augment: Augment | None = None
    moving: Layout = field(default_factory=lambda: Layout((), ()))

    def value(
        self, params: Params, buffers: Params, factor: Float[Tensor, " b"], batch: Any, differentiable: bool
    ) -> tuple[Float[Tensor, ""], Params]:
        """What the examples of one part add to the step's loss, the model in train mode, and its buffers after it.

        Args:
            params: the parameters, by name.
            buffers: the buffers, by name; the model may write into them.
            factor: what the loss of each example is multiplied by.
            batch: the examples.
            differentiable: whether the buffers after it are functions, not written into: to the same numbers but for
                rounding.
        """
        with Running() if differentiable and self.moving.names else nullcontext() as running:
            outputs = self.evaluation.called({**params, **buffers}, batch)
        buffers = buffers if running is None else running.after(buffers)
        losses = self.plain(opened(outputs), targets_of(batch))
        return losses @ factor.to(losses), buffers

    def batch(self, index: Tensor) -> Any:
        """The examples of one part of a step, augmented."""
        found = self.data.take(index)
        return found if self.augment is None else self.augment(found)

    def gradient(
        self, leaves: Params, buffers: Params, w: Float[Tensor, " b"], step: Step
    ) -> tuple[dict[str, Tensor | None], Params]:
        """The gradient of the step's loss in each parameter, None in those that it does not depend on; the buffers.

        Args:
            leaves: the parameters, by name.
            buffers: the model's buffers, by name, which it may write into.
            w: the weights of the step's examples, 1 as trained.
            step: the step.
        """
        found: dict[str, Tensor | None] = dict.fromkeys(leaves)
        for number, (index, factor) in enumerate(
            zip(step.parts, self.averaging.factors(step, w), strict=True)
        ):
            step.begin(number)
            total, buffers = self.value(leaves, buffers, factor, self.batch(index), False)
            own = torch.autograd.grad(total, [*leaves.values()], allow_unused=True)
            for name, part in zip(leaves, own, strict=True):
                before = found[name]
                found[name] = before if part is None else part if before is None else before + part
        return found, buffers

    def tapped(
        self, leaves: Params, buffers: Params, w: Float[Tensor, " b"], step: Step, weights: Sequence[str]
    ) -> tuple[dict[str, Tensor | None], list[Tapped], Params]:
        """What `gradient` gives, to be differentiated in turn, with the products of some weights apart.

        Args:
            leaves: the parameters, by name.
            buffers: the model's buffers.
            w: the weights of the step's examples.
            step: the step.
            weights: the names of parameters that stand in one product of a dense layer each.

        Returns:
            The gradient in each parameter, without a graph in those; every product with the derivative in it; buffers.
        """
        found: dict[str, Tensor | None] = dict.fromkeys(leaves)
        products: list[Tapped] = []
        others = [name for name in leaves if name not in weights]
        for number, (index, factor) in enumerate(
            zip(step.parts, self.averaging.factors(step, w), strict=True)
        ):
            step.begin(number)
            with Taps({name: leaves[name] for name in weights}) as taps:
                total, buffers = self.value(leaves, buffers, factor, self.batch(index), True)
            at = [*(leaves[name] for name in others), *(tap.e for tap in taps.found.values())]
            own = torch.autograd.grad(total, at, create_graph=True, allow_unused=True)
            parts = dict(zip(others, own, strict=False))
            for (name, tap), delta in zip(taps.found.items(), own[len(others) :], strict=True):
                if delta is not None:
                    products.append(Tapped(name, tap, delta))
                    parts[name] = tap.gradient(delta)
            for name, part in parts.items():
                before = found[name]
                found[name] = before if part is None else part if before is None else before + part
        return found, products, buffers

    def gradients(
        self, stacked: Params, buffers: Params, w: Float[Tensor, "r b"], step: Step
    ) -> tuple[Params, Params]:
        """The gradient of the step's loss in each parameter for each of r runs at once, and their buffers after it.

        Args:
            stacked: the parameters by name, each with a leading dimension r.
            buffers: the model's buffers by name, each with a leading dimension r.
            w: the weights of the step's examples in each run.
            step: the step, whose random numbers are those of every run.

        Raises:
            RuntimeError: for models that torch cannot vectorise.
        """
        total: Params = {}
        for number, (index, factor) in enumerate(
            zip(step.parts, self.averaging.factors(step, w), strict=True)
        ):
            batch = self.batch(index)

            def value(
                params: Params, own: Params, factor: Tensor, batch: Any = batch
            ) -> tuple[Tensor, Params]:
                return self.value(
                    params, {name: one.clone() for name, one in own.items()}, factor, batch, True
                )

            step.begin(number)
            each = torch.func.vmap(torch.func.grad(value, has_aux=True), randomness="same")
            found, buffers = each(stacked, buffers, factor)
            total = {name: total[name].add_(part) for name, part in found.items()} if total else found
        return total, buffers


def plain_loss(of: Evaluation, theta: Tensor, batch: Any) -> Loss:
    """The loss of each example from the outputs of a batch: by the loss itself where it gives that, else one by one.

    A mean or sum over the batch is undone by `reduction="none"`, where the loss has it.

    Args:
        of: the model with its loss.
        theta: where all ways are compared (p,).
        batch: a few examples.
    """
    loss = asked(of.loss)

    def one_by_one(outputs: Any, targets: Any) -> Tensor:
        return per_example(loss, outputs, targets)

    with torch.no_grad():
        outputs = opened(of.call(theta, batch))
        known = one_by_one(outputs, targets_of(batch))

        def agrees(short: Loss) -> bool:
            found = short(outputs, targets_of(batch))
            return found.shape == known.shape and close(found, known, torch.finfo(known.dtype).eps)

        for short in _short_ways(of.loss):
            try:
                if agrees(short):
                    return short
            except (RuntimeError, TypeError, ValueError, NotImplementedError):  # no such way for this loss
                continue
    return one_by_one


def _short_ways(loss: Any) -> Iterator[Loss]:
    """The loss as it is, and without its mean over the batch."""
    yield loss
    unreduced: Any = copy.copy(loss)
    if isinstance(loss, torch.nn.Module):
        unreduced.reduction = "none"
    else:
        unreduced = functools.partial(loss, reduction="none")
    yield unreduced
    yield lambda outputs, targets: unreduced(outputs, targets).flatten(1).mean(1)
