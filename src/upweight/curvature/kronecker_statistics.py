"""What EKFAC keeps of the training data: per weight matrix two bases and the eigenvalues in them, in two passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..capabilities import LayerGradients, SidesPlan
from ..linalg.kronecker import BlocksFactor, Spectrum
from ..linalg.outer_products import WeightLayout
from ..objective import Objective
from ..runtime.distributed import sum_across
from ..types import Tensor, wide
from .kronecker_blocks import Added as Added
from .kronecker_blocks import Block, Rest

DENSE_REST = 512
"""Parameters outside weight matrices up to this many share one dense block."""


class Recipe(NamedTuple):
    """Which examples, directions and cotangents are looked at, as `EKFAC` explains them, and in which precision.

    Sums are in float64 where `precision` is the problem's own; below it, for a preconditioner, at least in float32.
    """

    rows: int | None
    leading: int
    samples: int | None
    seed: int
    precision: torch.dtype


class Gathered(NamedTuple):
    """What two passes over n training examples leave: all that the matrix needs at any damping."""

    blocks: list[Block]
    rest: Rest
    n: int

    def factor(self, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> BlocksFactor:
        """The matrix: a part per weight matrix, then the rest.

        Args:
            l2: the penalty of every parameter (p,).
            added: the damping.
            dtype: the precision of all parts.
        """
        layers = [(block.matrix.index, block.factor(self.n, l2, added, dtype)) for block in self.blocks]
        rest = None
        if len(self.rest.index):
            rest = self.rest.index, self.rest.factor(self.n, l2, added, dtype)
        return BlocksFactor(layers, rest, len(l2), dtype)

    def spectrum(self, like: Float[Tensor, " p"]) -> Spectrum:
        """The matrix without penalty and damping, by its eigenvalues, for functions of it; no leading directions.

        Args:
            like: a flat vector.
        """
        zeros, none = torch.zeros_like(like), Added(0.0, 0.0)
        layers = [
            (block.matrix.index, block.factor(self.n, zeros, none, torch.float64)) for block in self.blocks
        ]
        return Spectrum(
            layers, (self.rest.index, self.rest.spectrum(self.n)) if len(self.rest.index) else None
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        found = {
            f"{block.i}.{name}": value for block in self.blocks for name, value in block.tensors().items()
        }
        return {**found, "rest": self.rest.total}


def coverage(problem: Objective) -> dict[str, str]:
    """What covers each parameter, by name: "Kronecker", "dense" or "diagonal". Raises TypeError as `gather`."""
    layers = _layers(problem)
    other = "dense" if _is_dense(layers.layout) else "diagonal"
    return {name: "Kronecker" if name in layers.parameters else other for name in problem.layout.names}


def gather(problem: Objective, recipe: Recipe, others: Sequence[Objective] = ()) -> Gathered:
    """Bases, then eigenvalues, in two passes over (a sample of) the training data.

    Args:
        problem: whose training data.
        recipe: which examples are looked at, and how.
        others: the same at other parameters, such as those of earlier checkpoints: the mean over all is taken.

    Raises:
        TypeError: for a problem without layers.
        ValueError: where the loss is not convex in its outputs.
    """
    samples = [_sampled(one, recipe) for one in (problem, *others)]
    plan = SidesPlan(recipe.samples, recipe.seed, recipe.precision)
    blocks, rest = _moments_of(samples[0], plan, problem, recipe)
    for sample in samples[1:]:
        for block, other in zip(blocks, _moments_of(sample, plan, problem, recipe)[0], strict=True):
            block.join_moments(other)
    for block in blocks:
        block.diagonalise()
    _values_of(samples[0], plan, blocks, rest)
    for sample in samples[1:]:
        twins, outside = _empty(problem, recipe)
        for twin, block in zip(twins, blocks, strict=True):
            twin.left, twin.right = block.left, block.right
        _values_of(sample, plan, twins, outside)
        rest.total += outside.total
        for block, twin in zip(blocks, twins, strict=True):
            block.join_values(twin)
    for total in (rest.total, *(total for block in blocks for total in (block.values, block.whole))):
        sum_across(total)
    return Gathered(blocks, rest, sum(sample.n for sample in samples))


def _sampled(problem: Objective, recipe: Recipe) -> Objective:
    """The problem of the examples that are looked at."""
    if recipe.rows is None or recipe.rows >= problem.n:
        return problem
    even = torch.linspace(0, problem.n - 1, recipe.rows, dtype=torch.float64)
    return problem.subset(even.long())


def restore(problem: Objective, recipe: Recipe, tensors: dict[str, Tensor], n: int) -> Gathered:
    """What `Gathered.tensors` gave, for the problem that it was gathered from.

    Args:
        problem: with the same weight matrices.
        recipe: by which it was gathered.
        tensors: what was kept.
        n: the number of examples that were gathered.
    """
    blocks, rest = _empty(problem, recipe)
    for block in blocks:
        own = f"{block.i}."
        block.restore({key.removeprefix(own): value for key, value in tensors.items() if key.startswith(own)})
    rest.total = tensors["rest"].to(problem.device)
    return Gathered(blocks, rest, n)


def _moments_of(
    sample: Objective, plan: SidesPlan, problem: Objective, recipe: Recipe
) -> tuple[list[Block], Rest]:
    """The first pass over this process's share of the training data, which fills the moments of empty blocks."""
    layers = _layers(sample)

    def work() -> tuple[list[Block], Rest]:
        blocks, rest = _empty(problem, recipe)
        for cotangents, w in layers.pulled_back(plan, "bases"):
            for j, sides in enumerate(cotangents):
                for block in blocks:
                    block.add_moments(sides, w, first=j == 0)
        return blocks, rest

    return layers.patiently(work)


def _values_of(sample: Objective, plan: SidesPlan, blocks: list[Block], rest: Rest) -> None:
    """The second pass, which fills the squares of blocks, from the start."""
    layers = _layers(sample)

    def work() -> None:
        rest.total.zero_()
        for block in blocks:
            block.clear()
        for cotangents, w in layers.pulled_back(plan, "eigenvalues"):
            for sides in cotangents:
                if len(rest.index):
                    rest.add(sides, w)
                for block in blocks:
                    block.add_values(sides, w)
            for block in blocks:
                block.flush()

    layers.patiently(work)


def _layers(problem: Objective) -> LayerGradients:
    """What gives gradients as outer products, or TypeError."""
    if problem.layers is None:
        raise TypeError(
            f"EKFAC needs gradients that are outer products, weight matrix by weight matrix; a "
            f"{type(problem).__name__} has none: use another curvature"
        )
    return problem.layers


def _empty(problem: Objective, recipe: Recipe) -> tuple[list[Block], Rest]:
    """Blocks of a problem's weight matrices, and what is outside, before any data."""
    layers = _layers(problem)
    dtype = torch.float64 if recipe.precision == problem.dtype else wide(recipe.precision)
    blocks = [
        Block(i, matrix, layers.shares_right(i), recipe.leading, dtype)
        for i, matrix in enumerate(layers.layout.matrices)
    ]
    return blocks, Rest(layers.layout.rest, _is_dense(layers.layout), dtype)


def _is_dense(layout: WeightLayout) -> bool:
    """Whether the entries outside weight matrices share one dense block."""
    return len(layout.rest) <= DENSE_REST
