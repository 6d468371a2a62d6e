"""The map from flat parameters to the outputs of a linear model, and its transpose: all products with X."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..data.design import Block
from ..linalg.flat_vectors import Layout
from ..types import Tensor


@dataclass(frozen=True)
class OutputMap:
    """The map theta -> eta, eta_k = coef_k . x + intercept_k, for rows x of X.

    Parameters are laid out as `torch.nn.Linear` orders them: coef (c, d) row by row, then, if any, intercepts (c,).

    Args:
        c: the number of outputs.
        d: the number of columns of X.
        intercept: whether there are intercepts.

    >>> OutputMap(c=2, d=3, intercept=True).layout.size
    8
    """

    c: int
    d: int
    intercept: bool

    @property
    def layout(self) -> Layout:
        """The names and shapes of the parameters in the order of theta: "weight" and, with intercepts, "bias"."""
        if self.intercept:
            return Layout(("weight", "bias"), ((self.c, self.d), (self.c,)))
        return Layout(("weight",), ((self.c, self.d),))

    def split(self, rows: Float[Tensor, "k p"]) -> tuple[Float[Tensor, "k c d"], Float[Tensor, "k c"] | None]:
        """The coefficients (k, c, d) and intercepts (k, c), or None without, of k parameter vectors, as views."""
        cd = self.c * self.d
        return rows[:, :cd].view(len(rows), self.c, self.d), rows[:, cd:] if self.intercept else None

    def forward(self, block: Block, rows: Float[Tensor, "k p"]) -> Float[Tensor, "b c k"]:
        """The outputs eta (b, c, k) of some rows of X at k parameter vectors: one product with X for all of them.

        Args:
            block: b rows of X.
            rows: k parameter vectors (k, p), in the precision of the block.
        """
        weight, bias = self.split(rows)
        eta = block.forward(weight.transpose(0, 1).reshape(-1, self.d)).view(-1, self.c, len(rows))
        return eta if bias is None else eta + bias.T

    def backward(self, block: Block, Z: Float[Tensor, "b c k"]) -> Float[Tensor, "k p"]:
        """The transposed map, sum_i z_i (x) x_i: with residuals z it gives gradients of a sum of losses, (k, p).

        Args:
            block: b rows of X.
            Z: k stacks of output vectors, one per row (b, c, k).
        """
        k = Z.shape[2]
        weight = block.backward(Z.flatten(1)).view(self.c, k, self.d).transpose(0, 1).reshape(k, -1)
        return torch.cat([weight, Z.sum(0).T], dim=1) if self.intercept else weight

    def outer(self, r: Float[Tensor, "b *s c"], X: Float[Tensor, "b d"]) -> Float[Tensor, "b *s p"]:
        """The vectors r_i (x) x_i, one by one: the gradients in theta of r_i . eta_i. Memory: b s p numbers.

        Args:
            r: one or several vectors in the outputs for each row, (b, c) or (b, s, c).
            X: b rows of X, (b, d).
        """
        weight = torch.einsum("b...c,bd->b...cd", r, X).flatten(-2)
        return torch.cat([weight, r], dim=-1) if self.intercept else weight

    def shifts(self, l2: Float[Tensor, " p"]) -> Float[Tensor, "q p"] | None:
        """Unit directions (q, p) that move all outputs of an example alike and are not penalised, or None.

        A loss that does not see a shift of all outputs (softmax) is flat along them: each unpenalised column, and the
        intercepts where they have no penalty, can be shifted freely. The directions are orthogonal to each other.
        """
        weight, bias = self.split(l2.view(1, -1))
        free = [i for i in range(self.d) if not bool(weight[0, :, i].any())]
        identity = torch.eye(self.d, dtype=torch.float64)[free].repeat(1, self.c)
        if bias is None:
            return identity / self.c**0.5 if free else None
        rows = torch.cat([identity, torch.zeros(len(free), self.c, dtype=torch.float64)], dim=1)
        if not bool(bias.any()):
            shift = torch.zeros(1, len(l2), dtype=torch.float64)
            shift[0, self.c * self.d :] = 1.0
            rows = torch.cat([rows, shift])
        return rows / self.c**0.5 if len(rows) else None
