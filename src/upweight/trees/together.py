"""Leaves whose values for all outputs are solved for together: a matrix (c, c) in place of each denominator."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from ..types import Tensor
from .losses import Slopes


def leaf_sums(
    slopes: Slopes, w: Float[Tensor, " b"], where: Tensor, size: int
) -> tuple[Float[Tensor, "leaves c"], Float[Tensor, "leaves c c"]]:
    """The sums of w r and of w H over the rows of each leaf, H = diag(q) - q q'.

    Args:
        slopes: of the rows.
        w: their weights.
        where: their leaves.
        size: how many leaves there are.
    """
    assert slopes.q is not None
    weighed = w[:, None] * slopes.q
    H = torch.diag_embed(weighed) - weighed[:, :, None] * slopes.q[:, None, :]
    c = slopes.q.shape[1]
    G = w.new_zeros(size, c).index_add_(0, where, w[:, None] * slopes.r)
    return G, w.new_zeros(size, c, c).index_add_(0, where, H)


def with_damping(
    H: Float[Tensor, "leaves c c"], damping: Float[Tensor, " leaves"]
) -> Float[Tensor, "leaves c c"]:
    """H + L I of every leaf."""
    return H + torch.diag_embed(damping[:, None].expand(H.shape[:2]))


@dataclass(frozen=True, eq=False)
class Together:
    """The matrices (leaves, c, c) of each step, by the place where its first tree stands in theta."""

    blocks: dict[int, Tensor] = field(default_factory=dict)

    def solve(self, step: list[slice], sums: list[Tensor]) -> list[Tensor]:
        """The matrices' inverses times numbers (leaves, k) of each tree of a step, an output each."""
        found = torch.linalg.solve(self.blocks[step[0].start], torch.stack(sums, 1))
        return list(found.unbind(1))

    def multiply(self, step: list[slice], values: list[Tensor]) -> list[Tensor]:
        """The matrices times numbers (leaves, k) of each tree of a step."""
        return list((self.blocks[step[0].start] @ torch.stack(values, 1)).unbind(1))
