"""Dense layers: the input times the derivative in the output."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int

from ...types import Tensor
from .layer import Layer, with_constant


class AnyDense(Layer):
    """A dense layer, whichever way round its weight is stored."""

    def left(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t r"]:
        return slope.reshape(b, -1, self.matrix.rows)

    def right(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t s"]:
        return with_constant(x.reshape(b, -1, self.matrix.columns), self.matrix, 1.0)


class Dense(AnyDense):
    """`nn.Linear`: a weight (out, in)."""

    @staticmethod
    def entries(module: Any, index: Int[Tensor, " q"]) -> Int[Tensor, "g r s"]:
        return index.view(1, *module.weight.shape)


class TransposedDense(AnyDense):
    """The `Conv1D` of transformers, in GPT-2: a weight (in, out)."""

    @staticmethod
    def entries(module: Any, index: Int[Tensor, " q"]) -> Int[Tensor, "g r s"]:
        return index.view(1, *module.weight.shape).mT
