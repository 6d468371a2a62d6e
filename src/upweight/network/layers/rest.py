"""Parameters outside weight matrices: the scales of norms in closed form, all others example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int

from ...types import Tensor
from ..evaluation import Evaluation
from ..output_curvature import through_outputs
from .layer import Calls
from .norm import Norm


@dataclass(frozen=True, eq=False)
class Rest:
    """The entries `index` of theta outside weight matrices.

    Args:
        index: those entries, in order.
        norms: the norms that hold some of them.
        loose: the places in `index` that no norm holds either.
    """

    index: Int[Tensor, " q"]
    norms: tuple[Norm, ...] = field(repr=False)
    loose: Int[Tensor, " l"]

    @classmethod
    def of(cls, size: int, weights: Sequence[Int[Tensor, " _"]], norms: Sequence[Norm], like: Tensor) -> Rest:
        """What is left of theta.

        Args:
            size: p.
            weights: the entries that weight matrices hold.
            norms: the norms in the model.
            like: a tensor on theta's device.
        """
        free = torch.ones(size, dtype=torch.bool, device=like.device)
        for index in weights:
            free[index] = False
        rest = free.nonzero()[:, 0]
        for norm in norms:
            free[norm.index] = False
        return cls(rest, tuple(norms), torch.searchsorted(rest, free.nonzero()[:, 0]))

    def scaled(self, calls: Calls, b: int, like: Tensor) -> Float[Tensor, "b q"]:
        """Their gradients from output derivatives, zero where no norm holds them.

        Args:
            calls: inputs and output derivatives of every layer.
            b: the number of examples.
            like: a tensor in theta's precision.
        """
        found = like.new_zeros(b, len(self.index))
        for norm in self.norms:
            found[:, torch.searchsorted(self.index, norm.index)] = norm.gradients(calls, b).to(found)
        return found

    def through(
        self, of: Evaluation, theta: Float[Tensor, " p"], batch: Any, V: Float[Tensor, "b k c"]
    ) -> Float[Tensor, "b k l"]:
        """The loose entries of the gradients of v . outputs, by differentiation example by example.

        Args:
            of: the model.
            theta: where the gradients are taken (p,).
            batch: b examples.
            V: k cotangents v of each example's outputs.
        """
        return through_outputs(of, theta, batch, V, self.index[self.loose])
