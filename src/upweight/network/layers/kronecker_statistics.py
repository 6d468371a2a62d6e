"""What EKFAC keeps of a network's training data: per layer two bases and the eigenvalues in them, in two passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float

from ...data.examples import batched, examples
from ...linalg.factorizations import CholeskyFactor, DiagonalFactor, Factor
from ...linalg.kronecker import BlocksFactor, KroneckerFactor
from ...runtime.distributed import rank, sum_across
from ...runtime.progress import track
from ...types import Tensor
from ..problem import Problem
from .gradients import Layered
from .layer import Layer, pseudo_gradients
from .norm import Calls

DENSE_REST = 512
"""Parameters outside layers up to this many share one dense block."""
MOST_LEADING = 2048
"""Rows of the dense block of one layer's leading directions."""

KEPT = ("left", "right", "values", "whole")
"""What a layer keeps of the data."""


class Recipe(NamedTuple):
    """Which examples, directions and cotangents are looked at, as `EKFAC` explains them."""

    rows: int | None
    leading: int
    samples: int | None
    seed: int


class Added(NamedTuple):
    """Damping: the same everywhere, and a multiple of each block's mean eigenvalue."""

    damping: float
    relative: float


class Gathered(NamedTuple):
    """What two passes over n training examples leave: all that the matrix needs at any damping."""

    blocks: list[Block]
    rest: Rest
    n: int

    def factor(self, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> BlocksFactor:
        """The matrix: a part per layer, then the rest."""
        parts: list[tuple[Tensor, Factor]] = [
            (block.layer.index, block.factor(self.n, l2, added, dtype)) for block in self.blocks
        ]
        if len(self.rest.index):
            parts.append((self.rest.index, self.rest.factor(self.n, l2, added, dtype)))
        return BlocksFactor(parts, len(l2), dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        blocks = {f"{i}.{name}": getattr(block, name) for i, block in enumerate(self.blocks) for name in KEPT}
        return {**blocks, "rest": self.rest.total}


def coverage(problem: Problem) -> dict[str, str]:
    """What covers each parameter."""
    names = {name for layer in problem.layered.layers for name in (layer.weight, layer.bias)}
    other = "dense" if len(problem.layered.rest) <= DENSE_REST else "diagonal"
    return {name: "Kronecker" if name in names else other for name in problem.layout.names}


def gather(problem: Problem, recipe: Recipe) -> Gathered:
    """Bases, then eigenvalues, in two passes over (a sample of) the training data."""
    sample = problem
    if recipe.rows is not None and recipe.rows < problem.n:
        even = torch.linspace(0, problem.n - 1, recipe.rows, dtype=torch.float64)
        sample = problem.subset(even.long())
    blocks, rest = sample.patiently(lambda: _moments(sample, recipe))
    for block in blocks:
        block.diagonalise()
    sample.patiently(lambda: _values(sample, recipe, blocks, rest))
    for total in (rest.total, *(total for block in blocks for total in (block.values, block.whole))):
        sum_across(total)
    return Gathered(blocks, rest, sample.n)


def _moments(sample: Problem, recipe: Recipe) -> tuple[list[Block], Rest]:
    """The first pass, over this process's share."""
    blocks, rest = _empty(sample, recipe)
    for found_calls, w in _passes(sample, recipe, "bases"):
        for j, calls in enumerate(found_calls):
            for block in blocks:
                block.add_moments(calls, w, first=j == 0)
    return blocks, rest


def _values(sample: Problem, recipe: Recipe, blocks: list[Block], rest: Rest) -> None:
    """The second pass, from the start."""
    rest.total.zero_()
    for block in blocks:
        block.clear()
    for found_calls, w in _passes(sample, recipe, "eigenvalues", rest):
        for calls in found_calls:
            for block in blocks:
                block.add_values(calls, w)
        for block in blocks:
            block.flush()


def restore(problem: Problem, recipe: Recipe, tensors: dict[str, Tensor], n: int) -> Gathered:
    """What `Gathered.tensors` gave, for the same problem."""
    blocks, rest = _empty(problem, recipe)
    for i, block in enumerate(blocks):
        for name in KEPT:
            setattr(block, name, tensors[f"{i}.{name}"].to(problem.device))
    rest.total = tensors["rest"].to(problem.device)
    return Gathered(blocks, rest, n)


def _empty(problem: Problem, recipe: Recipe) -> tuple[list[Block], Rest]:
    layered = problem.layered
    return [Block(layer, recipe.leading) for layer in layered.layers], Rest(layered.rest)


def _passes(
    sample: Problem, recipe: Recipe, title: str, rest: Rest | None = None
) -> Iterator[tuple[Iterator[Calls], Tensor]]:
    """Per block of examples the layers' calls for one cotangent after the other, and the examples' weights."""
    generator = torch.Generator().manual_seed(recipe.seed + rank())
    of, theta = sample.evaluation, sample.theta
    for batch, w in track(sample.blocks(), title, sample.block_count):
        chunks = [(batch, w)]
        if not sample.layered.together:
            chunks = [(batched(z), w[[i]]) for i, z in enumerate(examples(batch))]
        for chunk, weight in chunks:
            with sample.rounded():
                V, slopes = pseudo_gradients(of, theta, chunk, recipe.samples, generator)
            if rest is not None and len(rest.index):
                slopes = _outside(sample.layered, chunk, V.transpose(0, 1), slopes, rest, weight)
            yield slopes, weight


def _outside(
    layered: Layered,
    chunk: Any,
    V: Float[Tensor, "b k c"],
    slopes: Iterator[Calls],
    rest: Rest,
    w: Tensor,
) -> Iterator[Calls]:
    """The calls, one cotangent after the other; on the way what lies outside layers is added to `rest`."""
    loose = layered.through(chunk, V).unbind(1) if len(layered.loose) else None
    for j, calls in enumerate(slopes):
        found = layered.scaled(calls, len(w))
        if loose is not None:
            found[:, layered.loose] = loose[j]
        rest.add(found, w)
        yield calls


class Block:
    """The bases and eigenvalues of one layer, gathered in two passes over the data."""

    def __init__(self, layer: Layer, leading: int) -> None:
        self.layer = layer
        e = layer.columns + layer.intercept
        wide: dict[str, Any] = {"dtype": torch.float64, "device": layer.index.device}
        self.outputs = torch.zeros(layer.rows, layer.rows, **wide)
        self.inputs = torch.zeros(e, e, **wide)
        self.leading = min(leading, e, MOST_LEADING // layer.rows)
        self.values = torch.zeros(layer.rows, e, **wide)
        self.whole = torch.zeros((layer.rows, self.leading) * 2, **wide)
        self.seen: _Seen | None = None

    def add_moments(self, calls: Calls, w: Tensor, first: bool) -> None:
        """Add the mean outer products of both sides; inputs only for the first cotangent, being the same for all."""
        self.outputs += _moment(self.layer.left(calls, len(w)), w)
        if first or self.layer.words:
            self.inputs += _moment(self.layer.right(calls, len(w)), w)

    def diagonalise(self) -> None:
        """Eigenvectors of both sides over all processes, the largest variance first."""
        self.left = torch.linalg.eigh(sum_across(self.outputs))[1]
        self.right = torch.linalg.eigh(sum_across(self.inputs))[1].flip(1)

    def clear(self) -> None:
        """Forget all squares."""
        self.values.zero_()
        self.whole.zero_()
        self.seen = None

    def add_values(self, calls: Calls, w: Tensor) -> None:
        """Add squares in the bases, for one cotangent."""
        left = self.layer.left(calls, len(w)) * w.sqrt()[:, None, None]
        if self.seen is None or self.layer.words:
            right = self.layer.right(calls, len(w))
            # The same for every cotangent, but that of embeddings.
            self.seen = _Seen(right @ self.right.to(right.dtype))
        seen = self.seen
        if left.shape[1] != 1 or self.layer.words:
            self._add_gradients(left, seen.right)
            return
        # One position: the left sides may be summed over the cotangents first.
        left = left[:, 0]
        seen.spread += (left @ self.left.to(left.dtype)).square()
        if self.leading:
            seen.outer += left[:, :, None] * left[:, None]

    def flush(self) -> None:
        """Add what has been gathered over the cotangents of a block of examples."""
        seen, self.seen = self.seen, None
        if seen is None or not isinstance(seen.spread, Tensor):
            return
        right = seen.right[:, 0]
        self.values += seen.spread.T @ right.square()
        if self.leading:
            add_leading(self.whole, right[:, : self.leading], lambda i: seen.outer[:, i, i:])

    def _add_gradients(self, left: Tensor, right: Tensor) -> None:
        self.values += ((left @ self.left.to(left.dtype)).mT @ right).square().sum(0)
        if self.leading:
            G = (left.mT @ right[:, :, : self.leading]).flatten(1)
            self.whole += (G.T @ G).view_as(self.whole)

    def factor(self, n: int, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> KroneckerFactor:
        """The layer's part of the matrix, with penalty and damping."""
        weights = self.layer.index[: self.layer.rows * self.layer.columns]
        more = float(l2[weights].double().mean()) + added.damping
        more += added.relative * float(self.values.mean()) / n
        values = self.values / n + more
        floor = max(float(values.max()) * torch.finfo(dtype).eps, torch.finfo(dtype).tiny)
        size = self.layer.rows * self.leading
        whole = (self.whole / n).view(size, size)
        whole.diagonal().add_(max(more, floor))
        left, right = self.left.to(dtype), self.right.to(dtype)
        values = values.clamp(min=floor).to(dtype)
        return KroneckerFactor(left, right, values, whole.to(dtype), intercept=self.layer.intercept)


@dataclass
class _Seen:
    """Of one block of examples: the rotated right side, and sums over the cotangents."""

    right: Tensor
    spread: Any = 0.0
    outer: Any = 0.0


class Rest:
    """The parameters outside layers: a dense block, or a diagonal."""

    def __init__(self, index: Tensor) -> None:
        self.index = index
        few = len(index) <= DENSE_REST
        shape = (len(index),) * (2 if few else 1)
        self.total = torch.zeros(shape, dtype=torch.float64, device=index.device)

    def add(self, P: Float[Tensor, "b q"], w: Tensor) -> None:
        """Add the outer products of these entries of gradients."""
        P = P * w.sqrt()[:, None]
        self.total += P.T @ P if self.total.ndim == 2 else P.square().sum(0)

    def factor(self, n: int, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> Factor:
        """The part of the matrix, with penalty and damping."""
        diagonal = self.total if self.total.ndim == 1 else self.total.diagonal()
        more = l2[self.index].double() + added.damping + added.relative * float(diagonal.mean()) / n
        floor = max(float(diagonal.max()) / n * torch.finfo(dtype).eps, torch.finfo(dtype).tiny)
        more = more.clamp(min=floor)
        if self.total.ndim == 1:
            return DiagonalFactor((self.total / n + more).to(dtype))
        matrix = self.total / n
        matrix.diagonal().add_(more)
        return CholeskyFactor(matrix.to(dtype))


def _moment(X: Float[Tensor, "b t r"], w: Float[Tensor, " b"]) -> Float[Tensor, "r r"]:
    """sum_i w_i sum_t x x^T."""
    flat = (X * w.sqrt()[:, None, None]).flatten(0, 1)
    return flat.T @ flat


def add_leading(
    block: Float[Tensor, "c r c r"], P: Float[Tensor, "b r"], weights: Callable[[int], Tensor]
) -> None:
    """Add sum_e W_e (x) p_e p_e^T, output by output; weights(i) is row i of every W_e from its diagonal on, (b, *)."""
    for i in range(len(block)):
        W = weights(i)
        last = i + W.shape[1]
        pairs = P.T @ (W[:, :, None] * P[:, None]).flatten(1)
        block[i, :, i:last] += pairs.view(len(pairs), last - i, -1)
        block[i:last, :, i] = block[i, :, i:last].permute(1, 2, 0).clone()
