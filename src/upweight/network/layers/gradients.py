"""What the layers of a network say of its training and test data: gradients as outer products, in passes over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float

from ...capabilities import LayerGradients, Sides, SidesPlan
from ...data.examples import batched, count, examples
from ...data.per_example import Loss
from ...linalg.outer_products import Outer, Pairs, WeightLayout
from ...measures import Measure
from ...runtime.alone import ALONE
from ...runtime.distributed import rank
from ...runtime.fallback import attempt
from ...runtime.progress import track
from ...types import Tensor
from ..loss_curvature import check_convex_curvature
from ..output_curvature import cotangents, flat_outputs
from ..passes import Passes
from ..trial import Trial
from .layer import Calls
from .layered import Layered
from .recorder import pull_back, record

OUTSIDE = 0.1
"""Share of the parameters outside layers up to which gradients are taken layer by layer."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class NetworkLayers(LayerGradients):
    """The gradients of a network's examples, layer by layer.

    Args:
        passes: the training examples at theta.
        trial: a few of them, which find the layers.
        autocast: what the model computes in where training examples are taken many at a time; None: theta's precision.
    """

    passes: Passes
    trial: Trial
    autocast: torch.dtype | None

    @property
    def layered(self) -> Layered:
        """The model's layers, as far as they explain its gradients."""
        with ALONE:
            return self.trial.layered

    @cached_property
    def rounded(self) -> Layered:
        """The layers with a model that computes in `autocast`, if they see the examples of a batch together."""
        return self.layered.rounded(self.autocast if self.layered.example_first else None)

    @cached_property
    def layout(self) -> WeightLayout:
        return self.layered.layout

    @cached_property
    def parameters(self) -> frozenset[str]:
        return frozenset(name for weight in self.layered.weights for name in weight.names)

    def shares_right(self, i: int) -> bool:
        return self.layered.weights[i].shares_right

    @cached_property
    def together(self) -> bool:
        found = self.layered
        apart = found.apart(OUTSIDE)
        if apart:
            return self._slowly(apart)

        def agrees() -> bool:
            batch = self.passes.data.take(slice(0, min(self.passes.n, self.passes.memory.layered_size)))
            return attempt(lambda: found.agrees(batch), lambda: False)

        if self.patiently(agrees):
            return True
        return self._slowly(
            "layers do not add up to the model's gradients (a parameter used past its layer?)"
        )

    def _slowly(self, why: str) -> bool:
        """Say among the remarks that, and why, examples are taken one by one; False."""
        self.passes.evaluation.shortcuts.say(f"gradients are taken example by example: {why}", loud=False)
        return False

    @property
    def rounding_error(self) -> float:
        """The largest relative error that `autocast` makes in the gradient of one of the trial examples.

        0 where it is not used; infinite where numbers overflow.
        """
        if self.autocast is None or not self.layered.example_first:
            return 0.0
        exact = self.layered.gradients(self.trial.batch)
        off = (self.rounded.gradients(self.trial.batch) - exact).norm(dim=1)
        if not bool(off.isfinite().all()):
            return math.inf
        return float((off / exact.norm(dim=1).clamp(min=torch.finfo(exact.dtype).tiny)).max())

    def gradients(self, batch: Any, function: Loss | None = None) -> Float[Tensor, "b p"]:
        """The gradient of every example's loss (or measure), in theta's precision. Only where `together`."""
        return self.layered.gradients(batch, function)

    def train_pairs(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Pairs, Float[Tensor, "k b"]]]:
        like = self.passes.theta
        vectors = self.layout.take_apart(rows.to(like))

        def work(batch: Any) -> tuple[Pairs, Tensor]:
            pairs = self.rounded.pairs(batch)
            return pairs, vectors.products(pairs)

        memory = self.passes.memory
        for part, (pairs, values) in self.passes.streamed(work, lambda: memory.layered_size, within):
            yield part, pairs, values

    def test_pairs(self, batch: Any, measure: Measure | None = None) -> Iterator[Pairs]:
        if not self.together:
            raise TypeError(
                "this model's gradients are not taken layer by layer (its layers do not see examples one by one, or "
                "hold few of its parameters): ask without compress="
            )
        function = None if measure is None else measure.function
        for _, part in self.passes.test_rows(batch).blocks(self.passes.memory.layered_size):
            yield self.layered.pairs(part, function)

    def pulled_back(
        self, plan: SidesPlan, title: str
    ) -> Iterator[tuple[Iterator[Sides], Float[Tensor, " b"]]]:
        check_convex_curvature(self.trial, self.passes)
        generator = torch.Generator().manual_seed(plan.seed + rank())
        for batch, w in track(self.passes.blocks(), title, self.passes.block_count):
            chunks = [(batch, w)]
            if not self.layered.example_first:
                self._slowly(self.layered.apart(OUTSIDE))
                chunks = [(batched(z), w[[i]]) for i, z in enumerate(examples(batch))]
            for chunk, weight in chunks:
                yield self._sides(chunk, plan, generator), weight

    def _sides(self, batch: Any, plan: SidesPlan, generator: torch.Generator) -> Iterator[Sides]:
        """One forward pass, then a backward pass per cotangent."""
        of, theta = self.rounded.of, self.passes.theta
        outputs, calls = record(of, theta, batch)
        known = outputs if of.strategy == "batch" else None
        V = cotangents(of, theta, batch, plan.samples, generator, known)
        flat, cotangent = flat_outputs(outputs, count(batch)), _Cotangents(self.layered, batch, V)
        return (
            NetworkSides(cotangent, j, pull_back(flat, calls, v), plan.precision) for j, v in enumerate(V)
        )

    def patiently(self, work: Callable[[], T]) -> T:
        return self.passes.memory.patiently(work)


@dataclass(frozen=True, eq=False)
class _Cotangents:
    """Cotangents V (k, b, c) of the outputs of a batch."""

    layered: Layered
    batch: Any
    V: Float[Tensor, "k b c"]

    @cached_property
    def loose(self) -> Float[Tensor, "b k l"]:
        """What lies outside layers and norms, of all cotangents at once."""
        return self.layered.through(self.batch, self.V.transpose(0, 1))


@dataclass(frozen=True, eq=False)
class NetworkSides(Sides):
    """Cotangent `j` of a batch, pulled back to every layer: `calls` are inputs and output derivatives."""

    cotangents: _Cotangents
    j: int
    calls: Calls
    precision: torch.dtype

    def left(self, i: int) -> Float[Tensor, "b t r"]:
        return self.cotangents.layered.weights[i].left(self.calls, self._b).to(self.precision)

    def right(self, i: int) -> Float[Tensor, "b t s"]:
        return self.cotangents.layered.weights[i].right(self.calls, self._b).to(self.precision)

    def rest(self) -> Float[Tensor, "b q"]:
        layered = self.cotangents.layered
        found = layered.rest.scaled(self.calls, self._b, layered.theta)
        if len(layered.rest.loose):
            found[:, layered.rest.loose] = self.cotangents.loose[:, self.j]
        return found.to(self.precision)

    @property
    def _b(self) -> int:
        return self.cotangents.V.shape[1]
