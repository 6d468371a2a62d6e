"""How flat parameters become the outputs of a linear model, and back: the products with X that all else is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..data.design import Block
from ..linalg.flat_vectors import Layout
from ..types import Tensor


@dataclass(frozen=True)
class OutputMap:
    """Parameters laid out as `torch.nn.Linear` orders them: coef (c, d) row by row, then, if any, intercepts (c,).

    The outputs of a row x are eta_k = coef_k . x + intercept_k.
    """

    c: int
    d: int
    intercept: bool

    @property
    def layout(self) -> Layout:
        """The names "weight" and "bias" with their shapes."""
        if self.intercept:
            return Layout(("weight", "bias"), ((self.c, self.d), (self.c,)))
        return Layout(("weight",), ((self.c, self.d),))

    def split(self, rows: Float[Tensor, "k p"]) -> tuple[Float[Tensor, "k c d"], Float[Tensor, "k c"] | None]:
        """Coefficients and intercepts of k parameter vectors."""
        cd = self.c * self.d
        return rows[:, :cd].view(len(rows), self.c, self.d), rows[:, cd:] if self.intercept else None

    def forward(self, block: Block, rows: Float[Tensor, "k p"]) -> Float[Tensor, "b c k"]:
        """The outputs of b rows of X for k parameter vectors."""
        weight, bias = self.split(rows)
        eta = block.forward(weight.transpose(0, 1).reshape(-1, self.d)).view(-1, self.c, len(rows))
        return eta if bias is None else eta + bias.T

    def backward(self, block: Block, Z: Float[Tensor, "b c k"]) -> Float[Tensor, "k p"]:
        """The transposed map: sum_i x_i (x) z_i for k stacks of b output vectors z."""
        k = Z.shape[2]
        weight = block.backward(Z.flatten(1)).view(self.c, k, self.d).transpose(0, 1).reshape(k, -1)
        return torch.cat([weight, Z.sum(0).T], dim=1) if self.intercept else weight

    def outer(self, r: Float[Tensor, "b *s c"], X: Float[Tensor, "b d"]) -> Float[Tensor, "b *s p"]:
        """The vectors r_i (x) x_i, one by one: gradients of r_i . eta_i."""
        weight = torch.einsum("b...c,bd->b...cd", r, X).flatten(-2)
        return torch.cat([weight, r], dim=-1) if self.intercept else weight

    def shifts(self, l2: Float[Tensor, " p"]) -> Float[Tensor, "q p"] | None:
        """Unit directions that move all outputs of an example alike and are not penalised, or None.

        A loss that does not see a shift of all outputs is flat along them: each unpenalised column (or the intercept)
        can be shifted freely.
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
