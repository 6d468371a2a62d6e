"""Which directions, how many outer products and which precision an index keeps: tried on a sample before the pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..curvature.eigenbases import Choice, Eigenbases
from ..curvature.separable import separated
from ..linalg.outer_products import Pairs
from ..types import Tensor
from .index_encoding import HALF, Encoding, Spread

GRID = [1.0, *(1 - k / 20 for k in range(1, 14)), *(10 ** (-k / 4) for k in range(2, 34))]
"""Shares of the squared scores that are left out, tried from the largest to the smallest."""
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
LEAST = 1e-5
"""The relative error below which nothing is cut off."""
SMALLER = 0.3
"""The error of inverse eigenvalues as sums of outer products, as a share of that of the directions left out."""
MARGIN = 0.7
"""The share of the error wanted that sampled questions may have: others may be worse than they."""


class Carried(NamedTuple):
    """The mean squares of what questions multiply gradients with, and of the products: the squared scores."""

    spread: Spread
    energy: Spread


class Target(NamedTuple):
    """What is wanted of an index: a relative error of the worst question, or bytes per example."""

    error: float | None
    bytes: int | None

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision that is enough for it; None: that of the problem."""
        if self.error is None or self.error >= 2e-3:
            return HALF
        return torch.float32 if self.error >= LEAST else None


@dataclass(frozen=True, eq=False)
class Trial:
    """A sample of training gradients and some others in the place of questions, both turned: what choices are tried on.

    Args:
        bases: the curvature.
        sample: gradients.
        questions: gradients of other examples.
    """

    bases: Eigenbases
    sample: Pairs
    questions: Pairs

    def chosen(self, target: Target) -> tuple[Encoding, float]:
        """The shortest encoding that meets the target, and the error of the worst question with it."""
        if target.error == 0:
            return self._everything(), 0.0
        dtype = target.dtype or self.sample.rest.dtype
        truth = self.bases.answers(self.questions, [None] * len(self.bases.layers)).products(self.sample)
        carried = self._carried(truth)
        best: tuple[Encoding, float] | None = None
        most = max((left.shape[1] for left, _ in self.sample.layers), default=1)
        for rank in (c for c in RANKS if c == 1 or c < 2 * most):
            found = self._shortest(truth, carried, (rank, dtype), target)
            if found is not None and (best is None or _better(found, best, target)):
                best = found
        if best is not None:
            encoding = self._separated(best[0], carried, max(best[1], LEAST))
            return encoding, self.error(encoding, truth)
        if target.bytes is not None:
            raise ValueError(
                f"bytes_per_example={target.bytes} is too little for a gradient of this model: one direction of each "
                f"layer takes {self._encoding(carried, 1.0, (1, dtype)).bytes}"
            )
        return self._everything(), 0.0

    def error(self, encoding: Encoding, truth: Float[Tensor, "k b"]) -> float:
        """||difference|| / ||scores|| of the worst question over the sample."""
        kept = encoding.decoded(encoding.encoded(self.sample), truth.dtype)
        found = encoding.answers(encoding.kept(self.bases), self.questions).products(kept)
        return float(relative(found, truth).max())

    def _separated(self, encoding: Encoding, carried: Carried, error: float) -> Encoding:
        """The encoding with inverse eigenvalues as sums of outer products, of single positions.

        Args:
            encoding: which directions are kept.
            carried: what they carry.
            error: of the scores by leaving out the others; that of these sums is a share of it.
        """
        inverses, references = [], []
        total = float(sum(own.sum() for own in carried.energy.layers) + carried.energy.rest.sum())
        each = total / max(1, len(self.bases.layers))
        for own, energy, (rows, columns), (left, _) in zip(
            self.bases.layers, carried.energy.layers, encoding.choices, self.sample.layers, strict=True
        ):
            single = left.shape[1] == 1
            values, part = own.values[rows][:, columns], energy[rows][:, columns]
            allowed = each * (SMALLER * error) ** 2
            inverses.append(separated(values, part, allowed) if single else None)
            references.append(separated(own.values, energy, allowed * SMALLER**2) if single else None)
        return replace(encoding, inverses=tuple(inverses), references=tuple(references))

    def _everything(self) -> Encoding:
        """All directions and positions, in the problem's precision."""
        choices = [
            Choice(torch.arange(len(b.values)), torch.arange(b.values.shape[1])) for b in self.bases.layers
        ]
        spread = Spread(
            [torch.ones_like(b.values) for b in self.bases.layers], torch.ones_like(self.bases.values)
        )
        dtype, none = self.sample.rest.dtype, (None,) * len(choices)
        rest = torch.arange(len(self.bases.values))
        return Encoding(choices, rest, (0,) * len(choices), dtype, spread, none, none, True)

    def _shortest(
        self, truth: Tensor, carried: Carried, form: tuple[int, torch.dtype], target: Target
    ) -> tuple[Encoding, float] | None:
        """The shortest encoding of a rank that meets the target, by bisection; None where none does."""
        if target.bytes is not None:
            tried = [self._encoding(carried, share, form) for share in GRID]
            fitting = [encoding for encoding in tried if encoding.bytes <= target.bytes]
            return (fitting[-1], self.error(fitting[-1], truth)) if fitting else None
        assert target.error is not None
        found, low, high = None, 0, len(GRID)
        while low < high:
            middle = (low + high) // 2
            encoding = self._encoding(carried, GRID[middle], form)
            error = self.error(encoding, truth)
            if error <= MARGIN * target.error:
                found, high = (encoding, error), middle
            else:
                low = middle + 1
        return found

    def _encoding(self, carried: Carried, share: float, form: tuple[int, torch.dtype]) -> Encoding:
        """The directions that carry most, all but a share of the squared scores, those that carry most first."""
        (spread, energy), (rank, dtype) = carried, form
        sides = [side for own in energy.layers for side in (own.sum(1), own.sum(0))] + [energy.rest]
        every = torch.cat(sides)
        order = every.argsort()
        out = torch.zeros(len(every), dtype=torch.bool)
        out[order[: int((every[order].cumsum(0) <= share * every.sum()).sum())]] = True
        kept = []
        for side, left_out in zip(sides, out.split([len(side) for side in sides]), strict=True):
            if len(side) and side is not energy.rest:
                left_out[side.argmax()] = False  # no layer without any
            index = (~left_out).nonzero()[:, 0]
            kept.append(index[side[index].argsort(descending=True)])
        choices = [Choice(*kept[2 * i : 2 * i + 2]) for i in range(len(energy.layers))]
        layers = [
            own[choice.rows][:, choice.columns] for own, choice in zip(spread.layers, choices, strict=True)
        ]
        ranks = tuple(
            1 if left.shape[1] == 1 else min(rank, len(choice.rows), len(choice.columns))
            for (left, _), choice in zip(self.sample.layers, choices, strict=True)
        )
        known, none = Spread(layers, spread.rest[kept[-1]]), (None,) * len(choices)
        return Encoding(choices, kept[-1], ranks, dtype, known, none, none)

    def _carried(self, truth: Float[Tensor, "k b"]) -> Carried:
        """What directions carry of the scores, each question alike."""
        size = truth.square().sum(1).clamp(min=torch.finfo(truth.dtype).tiny)
        layers, energy = [], []
        for own, asked, (left, right) in zip(
            self.bases.layers, self.questions.layers, self.sample.layers, strict=True
        ):
            inverse = (1 / own.values).to(left)
            square = inverse.square() * _mean_square(*asked, 1 / size)
            layers.append(square)
            energy.append(square * _mean_square(left, right, torch.ones_like(left[:, 0, 0])))
        square = (self.questions.rest / self.bases.values.to(self.questions.rest)).square()
        rest = (square / size[:, None]).mean(0)
        return Carried(Spread(layers, rest), Spread(energy, rest * self.sample.rest.square().mean(0)))


def _mean_square(
    left: Float[Tensor, "b t r"], right: Float[Tensor, "b t s"], weights: Float[Tensor, " b"]
) -> Float[Tensor, "r s"]:
    """The weighted mean square of every entry of gradients."""
    if left.shape[1] == 1:
        return (left[:, 0].square() * weights[:, None]).T @ right[:, 0].square() / len(left)
    total = left.new_zeros(left.shape[2], right.shape[2])
    for a, b, w in zip(left, right, weights, strict=True):
        total += (a.T @ b).square() * w
    return total / len(left)


def _better(found: tuple[Encoding, float], best: tuple[Encoding, float], target: Target) -> bool:
    """Whether an encoding with its error is better: shorter, or nearer where the length is given."""
    return found[0].bytes < best[0].bytes if target.bytes is None else found[1] < best[1]


def relative(found: Float[Tensor, "k b"], truth: Float[Tensor, "k b"]) -> Float[Tensor, " k"]:
    """||found - truth|| / ||truth|| of each row; 0 where both are 0."""
    size = truth.double().norm(dim=1)
    return (found.double() - truth.double()).norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny)
