"""Layers as curvature sees them: weights whose gradient is a sum of outer products of two small vectors.

The gradient of a weight (r, s) for one example is sum_t left_t right_t^T over the positions t where it was used:
for a dense layer right is the input and left the derivative in the output, for a convolution right is a patch, for an
embedding left is one-hot and right the derivative. An intercept is one more column of right, constantly one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional as F

from ...linalg.outer_products import Pair, WeightMatrix
from ...types import Tensor

Calls: TypeAlias = dict[nn.Module, list[tuple[Tensor, Tensor]]]
"""Of each module the input and the output (or the derivative in the output), use by use."""


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """How a module uses a weight matrix. A subclass is a kind of layer, in the table of `kinds`.

    Args:
        module: the module.
        matrix: the weight with its intercept inside flat vectors (or one group of it), which other modules may share.
        group: which group of a convolution this is.
    """

    module: Any = field(repr=False)
    matrix: WeightMatrix = field(repr=False)
    group: int = 0

    shares_right: ClassVar[bool] = True
    """Whether `right` is made of the inputs alone, the same for every derivative."""
    looks_up: ClassVar[bool] = False
    """Whether the inputs are places in a table, which a model may give once for all examples of a batch."""

    @staticmethod
    @abstractmethod
    def entries(module: Any, index: Int[Tensor, " q"]) -> Int[Tensor, "g r s"] | None:
        """The entries `index` of a module's weight as g groups of matrices; None where it is not to be taken as one."""

    @abstractmethod
    def left(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t r"]:
        """The left factors of b examples, r numbers at each of t places where the module used the weight.

        Args:
            x: the module's input.
            slope: the derivative in its output.
            b: the number of examples.
        """

    @abstractmethod
    def right(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t s"]:
        """The right factors of b examples, s numbers at each place; the constant of an intercept comes last.

        Args:
            x: the module's input.
            slope: the derivative in its output.
            b: the number of examples.
        """


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight matrix (or one group of a convolution's) with everything that uses it.

    Args:
        names: the parameters that it holds: the weight, and the intercept if it has one.
        matrix: its place inside flat vectors.
        layers: one per module that uses it.
    """

    names: tuple[str, ...]
    matrix: WeightMatrix = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)

    @property
    def index(self) -> Int[Tensor, " q"]:
        """The entries of theta that it has."""
        return self.matrix.index

    @property
    def shares_right(self) -> bool:
        """Whether right factors are the same for every derivative, which those of embeddings are not."""
        return all(layer.shares_right for layer in self.layers)

    def pair(self, calls: Calls, b: int) -> Pair:
        """Left and right of all places where b examples used the weight, from inputs and output derivatives."""
        return self.left(calls, b), self.right(calls, b)

    def left(self, calls: Calls, b: int) -> Float[Tensor, "b t r"]:
        """One-hot words of an embedding, else the derivatives in the outputs."""
        return self._all(calls, b, lambda layer, *call: layer.left(*call, b), self.matrix.rows)

    def right(self, calls: Calls, b: int) -> Float[Tensor, "b t s"]:
        """Derivatives in the outputs of an embedding, else the inputs; the constant of an intercept comes last."""
        width = self.matrix.columns + self.matrix.intercept
        return self._all(calls, b, lambda layer, *call: layer.right(*call, b), width)

    def gradients(self, calls: Calls, b: int) -> Float[Tensor, "b q"]:
        """The gradients of b examples, in the order of `index`."""
        left, right = self.pair(calls, b)
        return self.matrix.flat(left.mT @ right)

    def _all(self, calls: Calls, b: int, side: Callable[..., Tensor], width: int) -> Tensor:
        found = [side(layer, *call) for layer in self.layers for call in calls.get(layer.module, [])]
        if not found:  # a model that did not come this way
            return next(self.layers[0].module.parameters()).new_zeros(b, 0, width)
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def with_constant(
    right: Float[Tensor, "b t s"], matrix: WeightMatrix, value: float
) -> Float[Tensor, "b t e"]:
    """Right factors with the column of an intercept, where the matrix has one.

    Args:
        right: the factors of the weight alone (b, t, s).
        matrix: the weight.
        value: what stands in that column: 1 where the intercept was added, 0 where it was not.
    """
    return F.pad(right, (0, 1), value=value) if matrix.intercept else right
