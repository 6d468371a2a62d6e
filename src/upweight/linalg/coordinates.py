"""Changes of variables in which parameters have comparable units: answers do not depend on dollars or yen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ..types import Tensor

ORDINARY = 64.0
"""Units within this factor of each other are comparable as they are."""
SQUARED = 1e6
"""Numbers up to this have second moments whose squares are far from float32's largest."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """A linear change of variables theta = T phi: parameters are scaled, and columns of inputs are centred.

    A curvature A becomes T^T A T, a right-hand side T^T v, and an answer T s. With `center` the parameters are the
    coefficients (c, d) row by row and then c intercepts, and each intercept takes over coef . center: the outputs are
    those of inputs from which `center` was subtracted. Without both, phi is theta.

    Args:
        scale: what each parameter phi is multiplied with (p,), > 0; None: 1.
        center: what is subtracted from the columns of the inputs (d,); None: nothing.

    >>> there = Coordinates(center=torch.tensor([10.0]))  # outputs a (x - 10) + b
    >>> there.outward(torch.tensor([[2.0, 1.0]])), there.inward(torch.tensor([[12.0, 1.0]]))
    (tensor([[  2., -19.]]), tensor([[2., 1.]]))
    """

    scale: Float[Tensor, " p"] | None = None
    center: Float[Tensor, " d"] | None = None

    @property
    def ordinary(self) -> bool:
        """Whether there is little to change: units within a factor of 64, no column far from zero beside its spread.

        Where all numbers are so large or small that their squares leave float32, there is.
        """
        if self.scale is None:
            return True
        low, high = float(self.scale.min()), float(self.scale.max())
        return high <= ORDINARY * low and low > 1 / SQUARED and high < SQUARED and self.reach <= ORDINARY

    @property
    def reach(self) -> float:
        """How far from zero the columns are, in units of their spread: what rounding in raw products grows by."""
        if self.center is None or self.scale is None:
            return 1.0
        d = len(self.center)
        scale = self.scale[: len(self.scale) // (d + 1) * d].view(-1, d)
        return max(1.0, float((self.center.to(scale) * scale).abs().max()))

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of coefficients (k, c, d) and intercepts (k, c) of a copy of the rows, and the copy itself."""
        assert self.center is not None
        d = len(self.center)
        c = rows.shape[1] // (d + 1)
        rows = rows.clone()
        return rows[:, : c * d].view(len(rows), c, d), rows[:, c * d :], rows

    def outward(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """T phi, the parameters theta of k rows phi."""
        rows = rows if self.scale is None else rows * self.scale.to(rows)
        if self.center is None:
            return rows
        weight, bias, rows = self._split(rows)
        bias -= weight @ self.center.to(rows)
        return rows

    def inward(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """T^T v, the derivatives in phi of k rows v of derivatives in theta."""
        if self.center is not None:
            weight, bias, rows = self._split(rows)
            weight -= bias[:, :, None] * self.center.to(rows)
        return rows if self.scale is None else rows * self.scale.to(rows)

    def parameters(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """T^-1 theta, the phi of k rows of parameters theta."""
        if self.center is not None:
            weight, bias, rows = self._split(rows)
            bias += weight @ self.center.to(rows)
        return rows if self.scale is None else rows / self.scale.to(rows)

    def derivatives(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """T^-T g, the derivatives in theta of k rows g of derivatives in phi."""
        rows = rows if self.scale is None else rows / self.scale.to(rows)
        if self.center is None:
            return rows
        weight, bias, rows = self._split(rows)
        weight += bias[:, :, None] * self.center.to(rows)
        return rows


def power_of_two(sizes: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """1 / sizes, rounded to powers of two, so that products with them are exact; 1 where a size is not > 0.

    >>> power_of_two(torch.tensor([4.0, 0.0, 0.017]))
    tensor([ 0.2500,  1.0000, 64.0000])
    """
    good = (sizes > 0) & sizes.isfinite()
    exponent = torch.where(good, -sizes.double().log2(), torch.zeros((), dtype=torch.float64)).round()
    # torch's exp2 is off by a last bit.
    exact = np.ldexp(1.0, exponent.clamp(-1000, 1000).int().cpu().numpy())
    return torch.from_numpy(exact).to(sizes)
