"""What is asked about in place of the loss: any differentiable function of the parameters.

A plain function `(outputs, targets) -> number per example` is evaluated example by example, like the loss. Wrap it to
ask about a whole batch at once (`Overall`) or about the parameters alone (`OfParameters`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .types import Params, Tensor


@dataclass(frozen=True)
class Overall:
    """One number for the whole test batch: a mean over a slice, a fairness gap. `function(outputs, targets)` -> ().

    >>> import torch
    >>> Overall(lambda outputs, targets: outputs.mean()).function(torch.ones(3, 1), None)
    tensor(1.)
    """

    function: Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class OfParameters:
    """One number of the parameters alone: a coefficient, a norm. `function(params)` -> (); the batch is not used.

    >>> import torch
    >>> OfParameters(lambda params: params["weight"][0, 0]).function({"weight": torch.tensor([[2.0]])})
    tensor(2.)
    """

    function: Callable[[Params], Tensor]


Measure: TypeAlias = Callable[[Any, Any], Tensor] | Overall | OfParameters


def logit(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output of the target class, outputs (b, c), targets (b,) -> (b,).

    >>> import torch
    >>> logit(torch.tensor([[1.0, 5.0]]), torch.tensor([1]))
    tensor([5.])
    """
    return outputs.gather(1, targets.long()[:, None])[:, 0]


def probability(outputs: Tensor, targets: Tensor) -> Tensor:
    """The softmax probability of the target class, outputs (b, c), targets (b,) -> (b,).

    >>> import torch
    >>> probability(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([0.5000])
    """
    return logit(outputs.softmax(1), targets)


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output of the target class less the largest other one, outputs (b, c), targets (b,) -> (b,).

    >>> import torch
    >>> margin(torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([1]))
    tensor([2.])
    """
    own = targets.long()[:, None]
    others = outputs.scatter(1, own, float("-inf"))
    return outputs.gather(1, own)[:, 0] - others.amax(1)
