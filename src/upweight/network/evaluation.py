"""A model with its loss as functions of one flat parameter vector, without touching the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, final

import torch
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten, tree_map

from ..data.examples import batched, count, examples, targets_of, tensors
from ..data.per_example import Loss, each, number, per_example
from ..linalg.flat_vectors import Layout
from ..runtime.alone import ALONE
from ..runtime.fallback import attempt, out_of_memory
from ..types import Params, Tensor
from .modules import Precisions, put_back, rebound, twice_differentiable
from .outputs import asked, held, opened
from .shortcuts import Shortcuts
from .transformers import arguments, counted

Strategy: TypeAlias = Literal["batch", "vmapped", "loop"]
"""The model on the whole "batch", or on batches of one, "vmapped" or in a "loop"."""

ROWS_AT_ONCE = 16
"""Right-hand sides per vmapped call: bounds memory, more gain nothing."""
LOSS = "losses of many examples by vmap"
"""The short way by which a loss of one example is taken of many."""
MOST_OUTPUTS = 1024
"""Outputs per example whose curvature matrix is formed, and of which a loss is computed in float64."""
TOLD = 4
"""Losses that an error shows."""


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model with its loss at any theta: everything is a functional call, the model stays as it is.

    `layout` and `fixed` are the parameters in question and all others. `strategy` says how outputs of a batch come
    about. `autocast` is what the model computes in, where that is less than theta's precision; outputs have theta's.
    `leaves` are attributes of the model in which a call leaves tensors, `writes` says that model or loss write into
    their inputs: the first are put back, the second get copies. `shortcuts` remembers which short ways to derivatives
    are right for it. `finely` says that the loss is computed in float64 from outputs of less: of a model that is sure
    p - 1 cancels. `rounding` is the error of the coarsest precision in which the model computes, `coarsest` of that
    in which the model or the loss does.
    """

    model: torch.nn.Module = field(repr=False)
    loss: Loss
    layout: Layout
    fixed: Params = field(repr=False)
    strategy: Strategy = "loop"
    autocast: torch.dtype | None = None
    leaves: tuple[tuple[torch.nn.Module, str], ...] = field(default=(), repr=False)
    writes: bool = False
    shortcuts: Shortcuts = field(default_factory=Shortcuts, repr=False)
    finely: bool = False
    rounding: float = 0.0
    coarsest: float = 0.0

    def rounded(self, dtype: torch.dtype | None) -> Evaluation:
        """A copy whose model computes in that precision; None: in theta's."""
        return replace(self, autocast=dtype)

    @cached_property
    def rows_at_once(self) -> int:
        """Cotangents that go through double backward at once."""
        # Many cotangents at once make the weight gradient of a convolution a grouped one, slower than one by one.
        convolves = any(isinstance(module, torch.nn.modules.conv._ConvNd) for module in self.model.modules())
        return 1 if convolves else ROWS_AT_ONCE

    def call(self, theta: Tensor, batch: Any, cast: bool = True) -> Any:
        """The model's outputs for a batch.

        Args:
            theta: where it is evaluated (p,).
            batch: b examples.
            cast: whether they get theta's precision; else they have the model's.
        """
        outputs = self.called(self.layout.unpack(theta), batch)
        return tree_map(lambda leaf: _like(leaf, theta), outputs) if cast else outputs

    def called(self, params: Params, batch: Any) -> Any:
        """The model's outputs for a batch, as it gives them.

        Args:
            params: the parameters in question, by name; all others are `fixed`.
            batch: b examples.
        """
        values = {**self.fixed, **params}
        state = {place: values[name] for place, name in self.places.items()}
        batch = self.own(batch)
        args = ((), arguments(self.model, batch)) if isinstance(batch, dict) else ((batch[0],),)
        with ALONE, put_back(self.leaves), twice_differentiable(self.model):
            lower = (
                nullcontext()
                if self.autocast is None
                else torch.autocast(next(iter(params.values())).device.type, self.autocast)
            )
            with lower:
                return held(counted(functional_call(self.model, state, *args, tie_weights=False)))

    @cached_property
    def places(self) -> dict[str, str]:
        """Every place of a parameter or buffer in the model, once, and what that is called in `layout` and `fixed`.

        `functional_call` ties places of one parameter by itself, but leaves a module that stands at two places with
        the parameters of the call (torch 2.13).
        """
        every = [*self.model.named_parameters(), *self.model.named_buffers()]
        names = {id(value): name for name, value in every}
        return {
            f"{path}.{key}" if path else key: names[id(value)]
            for path, module in self.model.named_modules()
            for key, value in [*module._parameters.items(), *module._buffers.items()]
            if value is not None
        }

    def own(self, batch: Any) -> Any:
        """A batch to be written into."""
        return tree_map(_cloned, batch) if self.writes else batch

    def one(self, theta: Tensor, example: Any, function: Loss | None = None) -> Tensor:
        """The loss of one example.

        Args:
            theta: where the model is evaluated (p,).
            example: one example, without its batch dimension.
            function: what is asked about in place of the loss.

        Returns:
            A number ().
        """
        batch = batched(example)
        outputs, targets = self._fine(function, self.call(theta, batch), self.own(targets_of(batch)))
        return number(asked(function or self.loss)(outputs, targets)).to(theta.dtype)

    def _fine(self, function: Loss | None, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Outputs and targets as the loss takes them; any other function takes them as they are."""
        return doubled((outputs, targets)) if self.finely and function is None else (outputs, targets)

    def outputs(self, theta: Tensor, batch: Any) -> Any:
        """Outputs with the example first; batches of one keep their own dimension of 1 behind it."""
        if self.strategy == "batch":
            return self.call(theta, batch)
        if self.strategy == "vmapped":
            return vmap(lambda example: self.call(theta, batched(example)))(batch)
        parts = [self.call(theta, batched(example)) for example in examples(batch)]
        return tree_map(lambda *leaves: torch.stack(leaves), *parts)

    def joint_outputs(self, theta: Tensor, batch: Any) -> Any:
        """Outputs as a loss of the whole batch takes them."""
        outputs = self.outputs(theta, batch)
        if self.strategy != "batch":
            outputs = tree_map(lambda leaf: leaf.flatten(0, 1), outputs)
        return opened(outputs)

    def measured(self, outputs: Any, batch: Any, function: Loss | None = None) -> Tensor:
        """The loss of each example from the outputs that are there already.

        Args:
            outputs: what `outputs` gave for the batch.
            batch: b examples.
            function: what is asked about in place of the loss.

        Returns:
            A number per example, (b,).
        """
        real = (leaf.dtype for leaf in tree_flatten(outputs)[0] if leaf.is_floating_point())
        outputs, targets = self._fine(function, outputs, targets_of(self.own(batch)))
        function, vectorised = asked(function or self.loss), self.shortcuts.held.get(LOSS, True)
        if self.strategy == "batch":
            found = per_example(function, outputs, targets, vectorised)
        else:
            found = each(lambda o, y: number(function(o, batched(y))), outputs, targets, vectorised)
        # Outputs have theta's precision; the loss may have its own.
        return found.to(next(real, found.dtype))

    def losses(self, theta: Tensor, batch: Any, function: Loss | None = None) -> Tensor:
        """The loss of each example.

        Args:
            theta: where the model is evaluated (p,).
            batch: b examples.
            function: what is asked about in place of the loss.

        Returns:
            A number per example, (b,).
        """
        return self.measured(self.outputs(theta, batch), batch, function)


def with_strategy(of: Evaluation, theta: Tensor, batch: Any) -> Evaluation:
    """The evaluation by the first strategy that agrees with the loop on a batch.

    Args:
        of: the model with its loss, with whichever strategy.
        theta: where they are tried (p,).
        batch: a few examples to try them on.

    Returns:
        A copy of `of` with that strategy.

    Raises:
        ValueError: for models and losses that mix examples, and for those that fail on a batch of one.
    """
    of = replace(of, strategy="loop")
    try:
        of = _careful(of, theta, batched(next(examples(batch))))
        parts = [of.call(theta, batched(example)) for example in examples(batch)]
        singles = torch.stack([of.one(theta, example) for example in examples(batch)])
    except Exception as error:
        raise ValueError(
            f"model and loss could not be evaluated on a batch of one example: {type(error).__name__}: {error}"
        ) from error
    if not bool(singles.isfinite().all()):
        raise ValueError("the loss is not finite for some of the first examples tried: check model and data")
    together = _together(lambda: of.call(theta, batch), parts, count(batch), of.rounding)
    if together is not None:
        check_loss(of.loss, together, of.own(batch), singles)
        return replace(of, strategy="batch")
    vmapped = replace(of, strategy="vmapped")
    return attempt(
        lambda: vmapped if close(vmapped.losses(theta, batch), singles, of.rounding) else of, lambda: of
    )


def _careful(of: Evaluation, theta: Tensor, batch: Any) -> Evaluation:
    """A copy that knows what a call leaves in the model, and whether model or loss write into their inputs."""
    mine = tree_map(_cloned, batch)
    before = [leaf._version for leaf in tensors(mine) if not leaf.is_inference()]

    seen = Precisions()

    def call() -> None:
        with seen:
            outputs = of.call(theta, mine)
        given.append(seen.coarsest)
        with seen:
            asked(of.loss)(outputs, targets_of(mine))

    given = [torch.finfo(part.dtype).eps for part in (theta, *of.fixed.values()) if part.is_floating_point()]
    leaves = rebound(of.model, call)
    after = [leaf._version for leaf in tensors(mine) if not leaf.is_inference()]
    rounding = max(given)
    return replace(
        of,
        finely=theta.dtype != torch.float64
        and attempt(lambda: _has_derivatives_in_float64(of, theta, batch), lambda: False),
        leaves=leaves,
        writes=before != after,
        rounding=rounding,
        coarsest=max(rounding, seen.coarsest),
    )


def _has_derivatives_in_float64(of: Evaluation, theta: Tensor, batch: Any) -> bool:
    """Whether the loss of few outputs, given in float64, has two derivatives in them; raises where it takes none."""
    with torch.no_grad():
        outputs, targets = doubled((of.call(theta, batch), of.own(targets_of(batch))))
    leaves, spec = tree_flatten(outputs)
    if sum(leaf.numel() for leaf in leaves) > MOST_OUTPUTS:
        return False
    at = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
    with torch.enable_grad():
        value = number(asked(of.loss)(spec.unflatten(leaves), targets))
        slopes = torch.autograd.grad(value, at, create_graph=True, materialize_grads=True)
        total = sum((slope.sum() for slope in slopes), value.new_zeros(()))
        if total.requires_grad:
            torch.autograd.grad(total, at, materialize_grads=True)
    return value.dtype == torch.float64


def check_loss(loss: Loss, outputs: Any, batch: Any, singles: Tensor) -> None:
    """Refuse a loss that mixes examples: loss(batch) must be the losses of its examples, their mean or their sum.

    Args:
        loss: the loss.
        outputs: of the b examples together.
        batch: the examples.
        singles: the loss of each by itself (b,).

    Raises:
        ValueError: with what the loss gives for the batch, and what its examples give.
    """
    try:
        with Precisions() as seen:
            direct = asked(loss)(outputs, targets_of(batch)).flatten()
    except Exception:
        return  # a loss for single examples only
    rounding = max(seen.coarsest, torch.finfo(direct.dtype).eps) if direct.is_floating_point() else 0.0
    if direct.numel() == len(singles):
        right, given = close(direct, singles, rounding), f"{direct[:TOLD].tolist()}"
        wanted = f"{singles[:TOLD].tolist()}"
    elif direct.numel() == 1:
        right = any(close(direct[0], one, rounding, 1.0) for one in (singles.mean(), singles.sum()))
        given, wanted = f"{float(direct):.6g}", f"{float(singles.mean()):.6g} in the mean"
    else:
        return
    if not right:
        raise ValueError(
            f"the loss mixes examples: for {len(singles)} examples it gives {given}, one by one they give {wanted}; "
            "influence needs a loss that is a sum or mean over examples, so write what was trained as a loss of one "
            "example and weights=: upweight.class_weighted(targets, weight) for class weights and "
            "upweight.token_mean(train) for a mean over all tokens give both, as in "
            "Problem(model, train=train, **token_mean(train)); else reduction='none'"
        )


def _together(call: Callable[[], Any], parts: list[Any], b: int, rounding: float) -> Any:
    """Outputs of the whole batch if they are those of its examples, None if they cannot be compared."""
    try:
        outputs = call()
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
    leaves, spec = tree_flatten(outputs)
    singles = [tree_flatten(part)[0] for part in parts]
    if tree_flatten(parts[0])[1] != spec or not all(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    for place, leaf in enumerate(leaves):
        shapes = {tuple(single[place].shape) for single in singles}
        if shapes != {(1, *leaf.shape[1:])} or len(leaf) != b:
            return None
        if not close(leaf, torch.cat([single[place] for single in singles]), rounding):
            raise ValueError(
                "the model's outputs for an example depend on the other examples of its batch (batch statistics?), so "
                "no example has a loss of its own: call model.eval(), or replace such layers (BatchNorm without "
                "running statistics by GroupNorm)"
            )
    return outputs


def close(a: Tensor, b: Tensor, rounding: float = 0.0, times: float = 10.0) -> bool:
    """Whether two ways to the same numbers agree.

    Args:
        a: numbers.
        b: the same, found another way.
        rounding: the error of the precision in which they were found, if that is not their own.
        times: how many times the root of the rounding error, relative to the largest, they may part.
    """
    if not b.is_floating_point():
        return bool((a == b).all())
    eps = max(rounding, torch.finfo(b.dtype).eps)
    return bool((a - b).abs().max() <= times * eps**0.5 * b.abs().max() + 1000 * eps)


def doubled(values: Any) -> Any:
    """Real numbers in float64, whatever they stand in; anything else as it is."""
    return tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, values
    )


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _like(leaf: Any, theta: Tensor) -> Any:
    """Numbers in theta's precision, anything else as it is."""
    return leaf.to(theta.dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
