"""What goes into and comes out of every layer of a model, and derivatives in what comes out."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from ...data.examples import batched, count, examples
from ...linalg.outer_products import Pair
from ...runtime.alone import alone
from ...runtime.fallback import attempt, out_of_memory
from ...types import Tensor
from ..evaluation import Evaluation
from .kinds import layer_of, norm_of
from .layer import Calls

FOLDING: WeakSet[nn.Module] = WeakSet()
"""Models that have more or fewer rows inside than examples: choices folded into the batch, prompts laid around it."""
SHARED: WeakSet[nn.Module] = WeakSet()
"""Tables that are asked once for all examples, in one dimension: positions 0, 1, ... of a text, say."""


@alone
def record(of: Evaluation, theta: Tensor, batch: Any) -> tuple[Any, Calls]:
    """The model's outputs, and what goes into and comes out of every supported layer on the way to them.

    Args:
        of: the model.
        theta: where it is evaluated (p,).
        batch: b examples.

    Returns:
        The outputs with their graph, and per module the pairs (input, output).
    """
    b = count(batch)
    if of.strategy != "batch" or of.model in FOLDING:
        return _recorded(of, theta, batch, None)
    try:
        return _recorded(of, theta, batch, b)
    except Exception as error:  # what a model says of a shape that it did not expect
        if out_of_memory(error):
            raise
        found = _recorded(of, theta, batch, None)
        FOLDING.add(of.model)
        return found


def _recorded(of: Evaluation, theta: Tensor, batch: Any, b: int | None) -> tuple[Any, Calls]:
    """What `record` gives; what is looked up once for all is looked up b times, unless that is None."""
    calls: Calls = {}

    def spread(module: nn.Module, args: Any) -> Any:
        """Positions that all examples share are looked up by each."""
        x = args[0] if args else None
        if not isinstance(x, Tensor) or b is None:
            return None
        if module in SHARED and x.ndim == 1:
            x = x[None]
        return (x.expand(b, *x.shape[1:]), *args[1:]) if x.ndim > 1 and len(x) == 1 else None

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        x = next((part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)), None)
        first, rest = (output[0], output[1:]) if type(output) is tuple and output else (output, None)
        if x is None or not isinstance(first, Tensor):
            return None  # no layer of that kind, whatever its class
        calls.setdefault(module, []).append((x.detach(), first))
        mine = first.clone()  # what follows may write into it
        return mine if rest is None else (mine, *rest)

    hooks: list[Any] = []
    for module in of.model.modules():
        kind = layer_of(module)
        if kind is not None or norm_of(module) is not None:
            hooks.append(module.register_forward_hook(keep, with_kwargs=True))
        if kind is not None and kind.looks_up:
            hooks.append(module.register_forward_pre_hook(spread))
    try:
        with torch.enable_grad():
            outputs = of.call(theta.detach().requires_grad_(), batch)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, calls


def pull_back(outputs: Tensor, calls: Calls, v: Tensor | None = None) -> Calls:
    """The inputs of every layer, and the derivatives of v . outputs in its outputs.

    Args:
        outputs: the model's outputs (b, c), or a single number.
        calls: what `record` gave with them.
        v: cotangents (b, c); None for a single number.

    Returns:
        Per module the pairs (input, derivative in the output), in the precision of `outputs`.
    """
    flat = [(module, x, out) for module, found in calls.items() for x, out in found if out.requires_grad]
    slopes: Calls = {}
    if flat:
        leaves = [out for _, _, out in flat]
        found = torch.autograd.grad(outputs, leaves, v, retain_graph=True, materialize_grads=True)
        for (module, x, _), slope in zip(flat, found, strict=True):
            x = x.to(outputs.dtype) if x.is_floating_point() else x  # what autocast has rounded
            slopes.setdefault(module, []).append((x, slope.to(outputs.dtype)))
    return slopes


def example_first(of: Evaluation, theta: Tensor, batch: Any) -> set[nn.Module]:
    """The modules that see the examples of a batch along their first dimension, compared with batches of one.

    Args:
        of: the model.
        theta: where it is evaluated (p,).
        batch: a few examples to compare on.
    """
    if of.strategy != "batch":
        return set()

    def calls() -> tuple[Calls, list[Calls]]:
        nothing: Calls = {}
        # Choices may be folded into the batch.
        together = attempt(lambda: record(of, theta, batch)[1], lambda: nothing)
        return together, [record(of, theta, batched(example))[1] for example in examples(batch)]

    together, alone = calls()
    shared = {module for module, found in together.items() if _is_shared(module, found, alone)}
    if shared and len(alone) > 1 and of.model not in FOLDING:
        SHARED.update(shared)
        together, alone = calls()
    found = set(together)
    for i, own in enumerate(alone):
        for module in own.keys() | together.keys():
            if not _same(own.get(module, []), together.get(module, []), i, count(batch)):
                found.discard(module)
    return found


def _is_shared(module: nn.Module, together: list[Pair], alone: list[Calls]) -> bool:
    """Whether a table is asked the same in one dimension for every example and for all of them."""
    kind = layer_of(module)
    if kind is None or not kind.looks_up or any(x.ndim != 1 for x, _ in together):
        return False
    asked = [[x for x, _ in own.get(module, [])] for own in alone]
    return all(
        len(xs) == len(together) and all(torch.equal(x, y) for x, (y, _) in zip(xs, together, strict=True))
        for xs in asked
    )


def _same(alone: list[Pair], together: list[Pair], i: int, b: int) -> bool:
    """Whether what a module saw of example i is the i-th part of what it saw of a batch of b.

    One row, or as many as it saw of that example alone: texts and windows may be laid behind one another.
    """
    if len(alone) != len(together):
        return False
    for (x, out), (xs, outs) in zip(alone, together, strict=True):
        if x.ndim == 0 or x.shape[1:] != xs.shape[1:] or out.shape[1:] != outs.shape[1:]:
            return False
        m = len(x)
        if len(xs) != m * b or len(out) * b != len(outs):
            return False
        if not torch.allclose(x.double(), xs[m * i : m * (i + 1)].double(), rtol=1e-3, atol=1e-5):
            return False
    return True
