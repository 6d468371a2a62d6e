"""A linear model seen as one dense layer: its gradients are the outer products r_i (x) x_i."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float

from ..capabilities import LayerGradients, Sides, SidesPlan
from ..data.design import Block
from ..linalg.outer_products import Outer, Pairs, WeightLayout, WeightMatrix
from ..measures import Measure
from ..objective import LinearModel
from ..runtime.distributed import shard
from ..runtime.progress import track
from ..types import Tensor, wide
from .output_map import OutputMap
from .questions import output_derivatives

T = TypeVar("T")
ROWS = 4096
"""Examples whose factors are formed at a time."""


@dataclass(frozen=True, eq=False)
class OneLayer(LayerGradients):
    """A linear model as the one dense layer that it is, for EKFAC and for gradients as outer products.

    The weight matrix is (c, d), or (c, d + 1) with the intercept as a last column. With the residuals r_i (c,) the
    gradient of example i is r_i x_i^T: one position, left factor r_i, right factor x_i.

    Args:
        problem: the linear model.
        map: how its parameters become outputs.
    """

    problem: LinearModel
    map: OutputMap

    @property
    def layout(self) -> WeightLayout:
        index = torch.arange(self.problem.p)
        return WeightLayout((WeightMatrix(index, self.map.c, self.map.d),), index[:0])

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(self.problem.layout.names)

    def shares_right(self, i: int) -> bool:
        return True

    @property
    def together(self) -> bool:
        return True

    def _with_constant(self, block: Block) -> Float[Tensor, "b 1 s"]:
        """Rows of X, with the constant of the intercept as a last column."""
        X = block.dense()
        X = torch.cat([X, X.new_ones(len(X), 1)], dim=1) if self.map.intercept else X
        return X[:, None]

    def _pairs(self, left: Float[Tensor, "b c"], block: Block) -> Pairs:
        return Pairs([(left[:, None], self._with_constant(block))], left[:, :0])

    def train_pairs(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Pairs, Float[Tensor, "k b"]]]:
        problem = self.problem
        vectors = self.layout.take_apart(rows)
        theta = problem.theta[None]
        for part, block in problem.design.blocks(ROWS, problem.dtype, within or shard(problem.n)):
            eta = self.map.forward(block, theta)[:, :, 0]
            pairs = self._pairs(problem.loss.residual(eta, problem.y[part]), block)
            yield part, pairs, vectors.products(pairs)

    def test_pairs(self, batch: Any, measure: Measure | None = None) -> Iterator[Pairs]:
        design, targets = self.problem.prepared(batch)
        left = output_derivatives(self.problem, (design, targets), measure)
        for part, block in design.blocks(ROWS, self.problem.dtype):
            yield self._pairs(left[part], block)

    def pulled_back(
        self, plan: SidesPlan, title: str
    ) -> Iterator[tuple[Iterator[Sides], Float[Tensor, " b"]]]:
        problem = self.problem
        if not problem.loss.convex:
            raise ValueError("the loss is not convex in the outputs: take Hessian, which needs no root of it")
        parts, own = problem.derivatives(plan.precision), shard(problem.n)
        weights = problem.weights.to(wide(plan.precision))
        generator = torch.Generator().manual_seed(plan.seed + own.start)
        blocks = problem.design.blocks(ROWS, plan.precision, own)
        for part, block in track(blocks, title, -(-(own.stop - own.start) // ROWS)):
            w = weights[part]
            # The derivatives carry the weights: without them, C_i C_i^T is the curvature of l_i itself.
            C = parts.take(part).root() / w.sqrt().clamp(min=torch.finfo(w.dtype).tiny)[:, None, None]
            if plan.samples is not None:
                signs = torch.randint(0, 2, (len(C), self.map.c, plan.samples), generator=generator) * 2 - 1
                C = C @ signs.to(C) / plan.samples**0.5
            right = self._with_constant(block)
            yield (_Side(cotangent, right) for cotangent in C.unbind(2)), w

    def patiently(self, work: Callable[[], T]) -> T:
        return work()


@dataclass(frozen=True, eq=False)
class _Side(Sides):
    """One cotangent (b, c) of the outputs, beside the rows of X."""

    cotangent: Float[Tensor, "b c"]
    inputs: Float[Tensor, "b 1 s"]

    def left(self, i: int) -> Float[Tensor, "b t r"]:
        return self.cotangent[:, None]

    def right(self, i: int) -> Float[Tensor, "b t s"]:
        return self.inputs

    def rest(self) -> Float[Tensor, "b q"]:
        return self.cotangent[:, :0]
