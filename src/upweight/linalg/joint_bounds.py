"""The most that k rows can change a least squares answer, bounded for all sets at once by one quadratic function.

`subset_bounds` adds up what single rows, pairs and a rest do, each at its worst. Here all of it has to be the worst for
the same set, which is what makes the bound of many rows tight: docs/certificates.md, whose numbers stand at the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..types import Tensor

STAGES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""Weights of the barrier, over the bound and the number of directions."""
NEAR = 0.01
"""The weight of the barrier from which on it is told whether the rest of the way can still lead to the target."""
GAP = 30.0
"""How far above the lowest bound a stage ends at most, as a share, over its weight (2 where it ends at its minimum)."""
STEPS = 200
"""Of descent at most, for each weight of the barrier."""
MEMORY = 10
"""Steps that the descent remembers of the curvature."""
FLAT = 1e-7
"""The relative gain of a step at which a stage ends."""
ROUNDING = 1e-9
"""The share that is added for what rounding may have taken off."""
WIDTH = 1e-10
"""The least square, as a share of the largest, that anything solved with may have: so many digits are left."""
ROOM = 1e-4
"""The least share of the square that stands in the denominator of (31) that may be left of it, for the same reason."""
SLACK = 1e-6
"""The share that is added to the rows' own parts for what rounding took of that denominator."""


class Settings(NamedTuple):
    """What may be chosen freely: every choice gives a bound, the best the least.

    Args:
        width: a lower triangle L, Theta = L L^T is what k rows are allowed each.
        back: v, where what the difference of both sides takes off is evaluated.
        balance: log beta, the weight of one side against the other.
        turn: how far the direction of each row's own part is from the row.
    """

    width: Float[Tensor, "p1 p1"]
    back: Float[Tensor, " p"]
    balance: Float[Tensor, ""]
    turn: Float[Tensor, "n p1"]


@dataclass(frozen=True, eq=False)
class JointBound:
    """max z_T^T (I - G_T)^-1 r_T over the sets T of at most k rows, from above; G_T = X_T X_T^T.

    Args:
        X: whitened rows: X^T X is at most the identity.
        left: z (n,).
        right: r (n,).
        k: rows of a set, at most.
    """

    X: Float[Tensor, "n p"]
    left: Float[Tensor, " n"]
    right: Float[Tensor, " n"]
    k: int

    def value(self, settings: Settings) -> float:
        """The bound that some settings give; infinite where they give none: (32)."""
        found = self._ceiling(settings)
        if found is None:
            return torch.inf
        P, beside = found
        factor, failed = torch.linalg.cholesky_ex(self._identity - P[1:, 1:])
        if failed or float(factor.diagonal().min()) ** 2 < WIDTH:
            return torch.inf
        rest = torch.linalg.solve_triangular(factor, P[1:, :1], upper=False).square().sum()
        return float((P[0, 0] + rest + beside) / 4 * (1 + ROUNDING))

    def start(self) -> Settings | None:
        """The best of some simple settings, every direction alike; None where none of them gives a bound."""
        n, p = self.X.shape
        alone = self.left * self.right / (1 - self.X.square().sum(1)).clamp(min=WIDTH)
        least = float(alone.topk(min(self.k, n)).values[-1].clamp(min=1e-6 * float(alone.abs().max())))
        balance = (self.right.square().sum() / self.left.square().sum()).sqrt().log()
        best, found = torch.inf, None
        for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
            for times in (0.3, 1.0, 3.0, 10.0, 100.0):
                squares = torch.full((p + 1,), share / self.k, dtype=self.X.dtype)
                squares[0] = 4 * times * least
                none = self.X.new_zeros(n, p + 1)
                tried = Settings(squares.sqrt().diag(), none[0, 1:], balance, none)
                if (value := self.value(tried)) < best:
                    best, found = value, tried
        return found

    def near(self, settings: Settings) -> Settings | None:
        """The settings of another k, as wide as is best here; None where no width gives a bound."""
        best, found = torch.inf, None
        for share in torch.logspace(-0.5, 0.05, 24, dtype=self.X.dtype):
            for times in (1.0, 2.0, 4.0):
                width = settings.width * share
                width[0] = width[0] * times
                tried = settings._replace(width=width)
                if (value := self.value(tried)) < best:
                    best, found = value, tried
        return found

    def tightened(self, settings: Settings, target: float = -torch.inf) -> tuple[Settings, float]:
        """Settings that give a lower bound, and the bound: by descent along a barrier that keeps it a bound.

        Args:
            settings: that give one.
            target: a bound below it is low enough.
        """
        best = self.value(settings)
        at = [*settings, settings.back.new_tensor(4 * best * 1.5)]
        for share in STAGES:
            weight = share * 4 * best / (self.X.shape[1] + 1)
            at = _descended(partial(self._barrier, weight), at, 4 * target)
            now = Settings(*at[:-1])
            if (value := self.value(now)) < best:
                best, settings = value, now
            if best < target or (share <= NEAR and best * (1 - GAP * share) > target > 0):
                break
        return settings, best

    @property
    def _identity(self) -> Tensor:
        return torch.eye(self.X.shape[1], dtype=self.X.dtype)

    def _ceiling(self, settings: Settings) -> tuple[Float[Tensor, "p1 p1"], Float[Tensor, ""]] | None:
        """P and c: 4 times what a set changes is at most h^T P h - |u|^2 + c at some h = (1, u), by (28) to (31)."""
        L, v = settings.width.tril(), settings.back
        widths = L.diagonal().detach()
        if bool((widths.square() < WIDTH * widths.square().max()).any()) or bool((widths <= 0).any()):
            return None
        root = (settings.balance / 2).exp()
        plus, minus = root * self.left + self.right / root, root * self.left - self.right / root
        rows = torch.cat([plus[:, None], self.X], 1)
        taken = (minus + self.X @ v).square()
        own = rows + settings.turn
        first = torch.zeros(len(L), 1, dtype=L.dtype)
        first[0] = 1
        solved = torch.linalg.solve_triangular(L, torch.cat([rows.T, own.T, first], 1), upper=False)
        A, B, e = solved[:, : len(rows)], solved[:, len(rows) : -1], solved[:, -1]
        # Products with (Theta + taken E)^-1, E of the first direction alone, from those with Theta^-1.
        less = taken / (1 + taken * e.square().sum())
        a, b = e @ A, e @ B
        aa = A.square().sum(0) - less * a.square()
        ab = (A * B).sum(0) - less * a * b
        bb = B.square().sum(0) - less * b.square()
        over = aa > 1 - ROUNDING
        room = ab.square() - (aa - 1) * bb
        if bool((over & (room <= ROOM * ab.square())).any()):
            return None
        needed = (aa * (1 + ROUNDING) - 1 + ROUNDING) * (1 + SLACK)
        parts = torch.where(over, needed / torch.where(over, room, 1.0), 0.0)  # (31)
        P = self.k * (L @ L.T) + (own * parts[:, None]).T @ own  # (30)
        return P, v.square().sum()

    def _barrier(self, weight: float, parts: Sequence[Tensor]) -> Tensor | None:
        """A bound less the logarithms of what keeps it one; None outside."""
        settings, bound = Settings(*parts[:-1]), parts[-1]
        found = self._ceiling(settings)
        if found is None:
            return None
        P, beside = found
        H = torch.block_diag((bound - beside)[None, None], self._identity) - P
        factor, failed = torch.linalg.cholesky_ex(H)
        if failed:
            return None
        inside = factor.diagonal().log().sum() + settings.width.diagonal().log().sum()
        return bound - 2 * weight * inside


def _descended(
    value: Callable[[Sequence[Tensor]], Tensor | None], parts: Sequence[Tensor], target: float
) -> list[Tensor]:
    """Where a function is lower, by L-BFGS with steps that never leave where it has a value.

    Args:
        value: of some tensors, and None where there is none.
        parts: where to start, the last of them a number.
        target: it ends where the last of the parts is below that.
    """
    sizes, shapes = [part.numel() for part in parts], [part.shape for part in parts]

    def apart(x: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(x.split(sizes), shapes, strict=True)]

    def at(x: Tensor) -> tuple[Tensor, Tensor] | None:
        x = x.clone().requires_grad_()
        found = value(apart(x))
        if found is None or not bool(found.isfinite()):
            return None
        return found.detach(), torch.autograd.grad(found, x)[0]

    x = torch.cat([part.reshape(-1) for part in parts])
    here = at(x)
    assert here is not None
    pairs: list[tuple[Tensor, Tensor]] = []
    for turn in range(STEPS):
        f, g = here
        step = _direction(g, pairs)
        slope = step @ g
        if slope >= 0:
            pairs, step = [], -1e-3 * g / g.norm()
            slope = step @ g
        while (there := at(x + step)) is None or there[0] > f + 1e-4 * slope:
            shorter = 0.5 if there is not None else 0.25
            step, slope = step * shorter, slope * shorter
            if float(step.abs().max()) < 1e-14:
                break
        if there is None or there[0] > f + 1e-4 * slope:
            if not pairs:
                break
            pairs = []  # what it remembered misled it
            continue
        change = there[1] - g
        if step @ change > 1e-12 * step.norm() * change.norm():
            pairs = [*pairs[1 - MEMORY :], (step, change)]
        x, here = x + step, there
        if float(x[-1]) < target or (turn > 20 and f - there[0] < FLAT * there[0].abs()):
            break
    return apart(x)


def _direction(g: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Minus the inverse Hessian, as far as the pairs of steps and changes of the gradient tell, times the gradient."""
    if not pairs:
        return -1e-3 * g / g.norm()
    q, taken = g, []
    for step, change in reversed(pairs):
        taken.append((step @ q) / (step @ change))
        q = q - taken[-1] * change
    step, change = pairs[-1]
    q = q * ((step @ change) / change.square().sum())
    for (step, change), share in zip(pairs, reversed(taken), strict=True):
        q = q + step * (share - (change @ q) / (step @ change))
    return -q
