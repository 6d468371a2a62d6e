"""Losses of many examples and their first two derivatives in the outputs, as linear models compute with them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float

from ..types import Tensor

WHOLE = 1 - 1e-10
"""A sum of probabilities from which on it counts as 1."""


class Parts(NamedTuple):
    """Losses of n examples and their derivatives in the outputs, with the weights w_i folded in.

    W_i = diag(a_i) - u_i u_i^T is the curvature of example i in its c outputs. A linear model's Hessian is (1/n) sum_i
    W_i (x) x_i x_i^T, so that these few numbers are all it needs beside X.
    """

    loss: Tensor
    """w_i l_i, (n,)."""
    a: Tensor
    """(n, c), >= 0 where the loss is convex."""
    u: Tensor | None
    """(n, c), or None where outputs do not share their curvature."""
    r: Tensor
    """The first derivatives w_i dl_i/d eta, (n, c)."""

    def to(self, dtype: torch.dtype) -> Parts:
        """All of it in another precision; numbers that have it already are shared."""
        loss, a, u, r = self
        return Parts(loss.to(dtype), a.to(dtype), None if u is None else u.to(dtype), r.to(dtype))

    def take(self, index: Tensor | slice) -> Parts:
        """The parts of some examples, by their numbers (b,) or a slice, in that order."""
        loss, a, u, r = self
        return Parts(loss[index], a[index], None if u is None else u[index], r[index])

    def root(self) -> Float[Tensor, "b c c"]:
        """S_i with S_i S_i^T = W_i, for every example of a convex loss.

        diag(sqrt(a)) where u is absent, else diag(sqrt(a)) - t u q^T with q = u / sqrt(a), s = |q|^2 <= 1 and t = (1 -
        sqrt(1 - s)) / s: of softmax s = t = 1 and q is the root of the probabilities. An example of weight 0 has S = 0.
        """
        S = torch.diag_embed(self.a.sqrt())
        if self.u is None:
            return S
        q = self.u / self.a.clamp(min=torch.finfo(self.a.dtype).tiny).sqrt()
        s = q.square().sum(1).clamp(min=torch.finfo(self.a.dtype).tiny, max=1)
        t = (1 - torch.where(s > WHOLE, 0.0, 1 - s).sqrt()) / s
        return S - self.u[:, :, None] * (t[:, None] * q)[:, None]

    def signed_root(self) -> tuple[Float[Tensor, "b c c"], Float[Tensor, "b c"]]:
        """S_i and signs d_i with S_i diag(d_i) S_i^T = W_i, for every example of any loss."""
        if self.u is None:
            return torch.diag_embed(self.a.abs().sqrt()), torch.where(self.a < 0, -1.0, 1.0).to(self.a)
        W = torch.diag_embed(self.a) - self.u[:, :, None] * self.u[:, None]
        values, vectors = torch.linalg.eigh(W)
        return vectors * values.abs().sqrt()[:, None], torch.where(values < 0, -1.0, 1.0).to(self.a)

    def curve(self, E: Float[Tensor, "b c k"]) -> Float[Tensor, "b c k"]:
        """W_i E_i, example by example: the curvature's product with k changes of the outputs each."""
        Z = self.a[:, :, None] * E
        if self.u is None:
            return Z
        return Z.addcmul_(self.u[:, :, None], torch.bmm(self.u[:, None], E), value=-1)
