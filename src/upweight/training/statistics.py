"""Batch norm in train mode: its running statistics as functions of what it sees, which can be differentiated.

They are part of what a step hands to the next, and the trained model computes with them in eval mode.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..data.examples import targets_of
from ..linalg.flat_vectors import Layout
from ..measures import Measure
from ..network.example_gradients import example_gradients
from ..network.problem import Problem
from ..types import Params, Tensor

ARGUMENTS = inspect.signature(F.batch_norm)
KEPT = (
    "a training example of weight 0 loses its term in the loss, but stays in the batch statistics of batch norm, as it "
    "does in the replays that effects are compared with"
)
"""What is said of models with batch norm in train mode."""


class Running(TorchFunctionMode):
    """Inside it batch norm is computed of plain operations, also of its running statistics, and writes into none.

    `after(buffers)` are the buffers as they would be then.

    >>> layer = torch.nn.BatchNorm1d(1)
    >>> with Running() as running:
    ...     _ = layer(torch.tensor([[1.0], [3.0]]))
    >>> layer.running_mean, running.after({"mean": layer.running_mean})["mean"]
    (tensor([0.]), tensor([0.2000]))
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            bound = ARGUMENTS.bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            if bound.arguments["running_mean"] is not None:
                return self._normalised(**bound.arguments)
        return func(*args, **(kwargs or {}))

    def _normalised(
        self,
        input: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """What `F.batch_norm` gives; of it the arguments."""
        over, shape = [0, *range(2, input.ndim)], [1, -1, *[1] * (input.ndim - 2)]
        mean, var = (
            (input.mean(over), input.var(over, correction=0)) if training else (running_mean, running_var)
        )
        several = input.numel() / input.shape[1]
        for running, now in (
            ((running_mean, mean), (running_var, var * (several / (several - 1)))) if training else ()
        ):
            before = self._found.get(id(running), (running, running))[1]
            self._found[id(running)] = running, (1 - momentum) * before + momentum * now
        out = (input - mean.view(shape)) / (var.view(shape) + eps).sqrt()
        out = out if weight is None else out * weight.view(shape)
        return out if bias is None else out + bias.view(shape)

    def after(self, buffers: Params) -> Params:
        """The buffers, by name, after all that was computed."""
        return {name: self._found.get(id(value), (value, value))[1] for name, value in buffers.items()}


def mixes(model: torch.nn.Module) -> bool:
    """Whether batch norm in train mode lets the examples of a batch see each other."""
    return any(
        isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
        for module in model.modules()
    )


def running_statistics(model: torch.nn.Module) -> Layout:
    """The buffers that batch norm in train mode keeps up, as `named_buffers` calls them."""
    found = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
        for name in ("running_mean", "running_var")
        if getattr(module, name) is not None
    ]
    there = dict(model.named_buffers())
    names = tuple(name for name in found if name in there)
    return Layout(names, tuple(tuple(there[name].shape) for name in names))


def gradients_in_buffers(
    problem: Problem, held: Layout, test: Any, measure: Measure | None
) -> Float[Tensor, "m q"]:
    """The gradient of test measures in some of the model's buffers, which it computes with in eval mode.

    Args:
        problem: the trained model.
        held: the buffers.
        test: m test examples.
        measure: what is asked about, None: the loss.
    """
    of = problem.evaluation
    at, parameters = held.pack(of.fixed), problem.layout.unpack(problem.theta)
    fixed = {**{name: value for name, value in of.fixed.items() if name not in held.names}, **parameters}
    beside = replace(of, layout=held, fixed=fixed)
    rows = problem.passes.test_rows(test)
    if measure is None or not measure.single:
        function = None if measure is None else measure.function
        blocks = rows.blocks(problem.memory.gradient_size)
        with Running():
            return torch.cat([example_gradients(beside, at, part, function) for _, part in blocks])
    at = at.clone().requires_grad_()

    def look() -> tuple[Any, Any]:
        whole = rows.take(slice(0, len(rows)))
        with Running():
            return beside.joint_outputs(at, whole), targets_of(whole)

    value = measure.number(parameters, look)
    found = torch.autograd.grad(value, at, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(at)[None] if found is None else found[None]
