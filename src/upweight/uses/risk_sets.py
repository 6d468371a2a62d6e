"""Proofs about Cox's model: no set of so many rows or subjects moves a coefficient to a bar (docs/certificates.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from ..likelihood import RiskShares
from ..types import Tensor

ROUNDING = 1e-9
"""The share that is added to bounds for what rounding may have taken off."""
TURNS = 50
"""Steps by which the largest change of a difference of outputs is bounded more tightly."""
WIDE = 32
"""The most parameters."""


class RiskSetBounds:
    """How far a^T theta can fall by the removal of k units, for Breslow's ties: (19) to (25).

    All is in coordinates in which the Hessian of the total is the identity.

    Args:
        shares: the terms of the likelihood at the optimum.
        X: the covariates (n, p).
        hessian: of the total, the penalty included.
        asked: a, so that a removal counts that makes a^T theta fall, and the gradient of the total that is left.
        units: the rows of each unit.
    """

    def __init__(
        self,
        shares: RiskShares,
        X: Float[Tensor, "n p"],
        hessian: Float[Tensor, "p p"],
        asked: tuple[Float[Tensor, " p"], Float[Tensor, " p"]],
        units: Sequence[Tensor],
    ) -> None:
        root = torch.linalg.cholesky(hessian).mT  # H = R^T R

        def whitened(rows: Tensor) -> Tensor:
            return torch.linalg.solve_triangular(root, rows, upper=True, left=False)

        self.X = whitened(X - X.mean(0))
        self.v, self.pull = whitened(asked[0][None])[0], float(whitened(asked[1][None]).norm())
        self.owner, self.count = torch.empty(len(X), dtype=torch.long), len(units)
        for unit, rows in enumerate(units):
            self.owner[rows] = unit
        self.w, self.strata = shares.weights, shares.strata
        self.own = self.owner[shares.rows]
        self.means = shares.share @ self.X
        share = shares.share.masked_fill(self.owner[None] == self.own[:, None], 0.0)
        self.share, self.q = share, self._by_unit(share)
        self.spread = self._spread(shares.share)
        off = share * torch.cdist(self.means, self.X)
        self.off = self._by_unit(off)  # sums of norms, with the share
        along = self.X @ -self.v
        self.along = self._by_unit(share * (along - (self.means @ -self.v)[:, None]))
        self.kappa = self.w[:, None] / (1 - self.q)
        self.pulls = self._pulls(shares.rows)
        self.widest = max(float(torch.cdist(self.X[rows], self.X[rows]).max()) for rows in self._by_stratum())

    def _by_unit(self, values: Float[Tensor, "e n"]) -> Float[Tensor, "e u"]:
        return values.new_zeros(len(values), self.count).index_add(1, self.owner, values)

    def _by_stratum(self) -> list[Tensor]:
        return [(self.strata == one).nonzero()[:, 0] for one in self.strata.unique()]

    def _spread(self, share: Float[Tensor, "e n"]) -> Float[Tensor, "e p p"]:
        """The variance of the covariates in each risk set."""
        p = self.X.shape[1]
        second = share @ (self.X[:, :, None] * self.X[:, None, :]).view(-1, p * p)
        return second.view(-1, p, p) - self.means[:, :, None] * self.means[:, None, :]

    def _pulls(self, rows: Int[Tensor, " e"]) -> Float[Tensor, "u p"]:
        """What each unit by itself takes off the gradient, exactly: (20)."""
        each = (self.share * self.kappa[:, self.owner]).sum(0)
        found = self.X.new_zeros(self.count, self.X.shape[1])
        found.index_add_(0, self.owner, each[:, None] * self.X)
        found -= (self.kappa * self.q).T @ self.means
        return found.index_add_(0, self.own, self.w[:, None] * (self.means - self.X[rows]))

    def change(self, k: int) -> float:
        """The bound for sets of k units; infinite where there is none."""
        gone = self.q.topk(min(k, self.count), dim=1).values.sum(1)
        if bool((gone >= 1 - 1e-9).any()):
            return torch.inf
        lost, gained = self._curvature(k, gone)
        if lost >= 1:
            return torch.inf
        low, high = 1 / (1 + gained), 1 / (1 - lost)
        newton, pull, rest = self._gradient(k, gone)
        reach = self.widest * pull
        step = self._outputs(k, rest)
        far = _farthest(low, high, min(step, reach), reach)
        middle, half = _inverses(low, high, far)
        found = middle * newton + half * float(self.v.norm()) * pull
        return found + ROUNDING * (abs(middle * newton) + half * pull) if far < torch.inf else torch.inf

    def _curvature(self, k: int, gone: Float[Tensor, " e"]) -> tuple[float, float]:
        """How much less, and more, the Hessian without k units can be, as a share: (19)."""
        p = self.X.shape[1]
        weight = self.share * (self.w / (1 - gone))[:, None]
        each, first = weight.sum(0), weight.T @ self.means
        outer = self.means[:, :, None] * self.means[:, None, :]
        X = self.X
        C = each[:, None, None] * X[:, :, None] * X[:, None, :]
        C -= X[:, :, None] * first[:, None, :] + first[:, :, None] * X[:, None, :]
        C += (weight.T @ outer.view(-1, p * p)).view(-1, p, p)
        C = C.new_zeros(self.count, p, p).index_add(0, self.owner, C)
        C.index_add_(0, self.own, self.w[:, None, None] * self.spread)
        traces = C.diagonal(dim1=1, dim2=2).sum(1)
        flat = C.reshape(-1, p * p)
        apart = flat - (traces / p)[:, None] * torch.eye(p, dtype=C.dtype).reshape(1, -1)
        lost = min(
            float(torch.linalg.eigvalsh(C)[:, -1].topk(k).values.sum()),
            (k * _largest(flat)) ** 0.5,
            float(traces.topk(k).values.sum()) / p + (k * (1 - 1 / p) * _largest(apart)) ** 0.5,
        )
        more = torch.einsum("e,eij->ij", self.w * gone / (1 - gone), self.spread)
        return lost * (1 + ROUNDING), float(torch.linalg.eigvalsh(more)[-1]) * (1 + ROUNDING)

    def _gradient(self, k: int, gone: Float[Tensor, " e"]) -> tuple[float, float, float]:
        """Bounds of v . u_T, of the norm of u_T, and of the norm of what is not a sum of single pulls: (21), (22)."""
        extra = (self.w[:, None] / (1 - gone)[:, None] - self.kappa).clamp(min=0)
        share = torch.where(self.q > 0, extra, 0.0)
        along, off = (share * self.along.clamp(min=0)).sum(0), (share * self.off).sum(0)
        if k > 1:
            for found, taken in ((along, (-self.along).clamp(min=0)), (off, self.off)):
                most = (self.kappa * taken).topk(k - 1, dim=1).values.sum(1)
                found.index_add_(0, self.own, most)
        rest = float(off.topk(k).values.sum()) + self.pull
        newton = float((self.pulls @ -self.v + along).topk(k).values.sum()) + float(self.v.norm()) * self.pull
        norms = min(float(self.pulls.norm(dim=1).topk(k).values.sum()), (k * _largest(self.pulls)) ** 0.5)
        return newton, norms + rest, rest

    def _outputs(self, k: int, rest: float) -> float:
        """The largest |(x_j - x_i) . u_T| of rows of one stratum: (23)."""
        largest = 0.0
        for rows in self._by_stratum():
            X = self.X[rows] - self.X[rows].mean(0)
            products, beyond = X @ self.pulls.T, rest * X.norm(dim=1)
            sides = (
                side.clamp(min=0).topk(k, dim=1).values.sum(1) + beyond for side in (products, -products)
            )
            largest = max(largest, sum(float(side.max()) for side in sides))
        return largest


def _largest(rows: Float[Tensor, "u m"]) -> float:
    """The largest eigenvalue of sum_u r_u r_u^T."""
    return float(torch.linalg.eigvalsh(rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T)[-1])


def _inverses(low: float, high: float, far: float) -> tuple[float, float]:
    """The middle and half the width of the eigenvalues of the mean Hessian's inverse: (25)."""
    if far == torch.inf:
        return torch.inf, torch.inf
    far = max(far, 1e-6)  # both grow with it
    lowest = low * far / torch.tensor(far).double().expm1().item()
    highest = -high * far / torch.tensor(-far).double().expm1().item()
    return (lowest + highest) / 2, (highest - lowest) / 2


def _farthest(low: float, high: float, step: float, reach: float) -> float:
    """The largest change of a difference of outputs on the way to the minimum: (24); infinite where none is proven.

    Args:
        low: the least eigenvalue of the inverse Hessian where the way begins.
        high: the largest.
        step: the bound of (23).
        reach: the widest difference of rows times the norm of the pull.
    """
    a, b = high * (step + reach) / 2, low * (reach - step) / 2
    if b <= 1e-12 * a:
        far = -torch.log1p(torch.tensor(-a)).item() if a < 1 else torch.inf
    else:
        slow, fast = b**0.5, a**0.5
        left = (fast - slow) / (fast + slow) * torch.tensor(2 * fast * slow).exp().item()
        far = torch.tensor(slow / fast * (1 + left) / (1 - left)).log().item() if left < 1 else torch.inf
    far *= 1 + ROUNDING
    for _ in range(TURNS):
        middle, half = _inverses(low, high, far)
        far = min(far, middle * step + half * reach)
    return far
