"""Embeddings: one-hot words times the derivative in the output."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch.nn import functional as F

from ...types import Tensor
from .layer import Layer, with_constant

MOST_WORDS = 4096
"""Rows of an embedding that is treated as a layer; it needs a square matrix of them."""


class Embedding(Layer):
    """`nn.Embedding`: a weight (words, width)."""

    shares_right = False
    looks_up = True

    @staticmethod
    def entries(module: Any, index: Int[Tensor, " q"]) -> Int[Tensor, "g r s"] | None:
        return None if module.num_embeddings > MOST_WORDS else index.view(1, *module.weight.shape)

    def left(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t r"]:
        words = x.reshape(b, -1).long()
        left = F.one_hot(words, self.module.num_embeddings).to(slope)
        if self.module.padding_idx is not None:
            left[words == self.module.padding_idx] = 0
        return left

    def right(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t s"]:
        # A head that shares the weight may have an intercept, in which the embedding has no part.
        return with_constant(slope.reshape(b, -1, self.matrix.columns), self.matrix, 0.0)
