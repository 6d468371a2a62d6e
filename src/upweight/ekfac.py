"""EKFAC: the curvature of a layer as a Kronecker product of input and output bases with corrected eigenvalues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float

from .curvature import OfProblem
from .derivatives import batched, examples
from .errors import StaleError
from .factor import BlocksFactor, CholeskyFactor, DiagonalFactor, Factor, KroneckerFactor
from .files import read, write
from .jacobians import through_outputs
from .layers import Calls, Layer, pseudo_gradients
from .linear import LinearProblem
from .objective import Operator
from .problem import Problem
from .progress import track
from .types import Tensor

DENSE_REST = 512
"""Parameters outside layers up to this many share one dense block."""
MOST_LEADING = 2048
"""Rows of the dense block of one layer's leading directions."""

GATHERED = ("left", "right", "values", "whole")
"""What a layer keeps of the data."""


@dataclass(frozen=True, eq=False)
class EKFAC(OfProblem):
    """Eigenvalue-corrected Kronecker-factored curvature (George et al., 2018) of the Gauss-Newton matrix.

    For each layer the bases are the eigenvectors of the mean x x^T of its inputs and of the mean outer product of its
    output derivatives; the eigenvalues are the diagonal of the layer's Gauss-Newton block in that basis. Covered are
    Linear, Conv1d, Conv2d and Embedding, used once or often (sequences, shared weights), each with its intercept as a
    constant input column. All other parameters share one dense block, or a diagonal if there are more than 512; what is
    covered how is in `coverage`. The penalty of a layer is the mean over its weights.

    `rows` bounds the training examples that are read (evenly spaced), for use as a preconditioner. `samples=None` takes
    the curvature in the outputs exactly, one backward pass per output; `samples=k` takes k random combinations of them,
    drawn from `seed`, equal in expectation. `damped` gives another damping without another look at the data.
    Of the `leading` input directions of largest variance the curvature is kept whole, across
    directions and outputs: (c leading)^2 numbers and one Cholesky factor, which a preconditioner pays back severalfold.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(4, 2), torch.zeros(4), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> EKFAC(problem).factor().solve(torch.ones(1, 2, dtype=torch.float64))
    tensor([[1.3333, 1.3333]], dtype=torch.float64)
    """

    problem: LinearProblem | Problem
    rows: int | None = None
    leading: int = 0
    samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.leading < 0 or (self.rows is not None and self.rows < 1):
            raise ValueError(f"leading must be >= 0 and rows >= 1, got {self.leading} and {self.rows}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be >= 1, or None for the exact curvature, got {self.samples}")
        if not isinstance(self.problem, (LinearProblem, Problem)):
            raise TypeError(f"EKFAC needs a Problem or LinearProblem, got {type(self.problem).__name__}")

    @property
    def semidefinite(self) -> bool:
        return True

    @property
    def coverage(self) -> dict[str, str]:
        """What covers each parameter: "Kronecker", "dense" or "diagonal"."""
        if isinstance(self.problem, LinearProblem):
            return dict.fromkeys(self.problem.layout.names, "Kronecker")
        return self._network.coverage

    @property
    def one_layer(self) -> tuple[int, int] | None:
        """Outputs and inputs of the layer that holds all parameters, if one does."""
        if isinstance(self.problem, LinearProblem):
            return self.problem.c, self.problem.d
        layers = self._network.layers
        if len(layers) != 1 or len(layers[0].index) != self.p:
            return None
        return layers[0].rows, layers[0].columns

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """The network and what was gathered from it, the same object at every damping."""
        return {}

    @property
    def _network(self) -> Network:
        assert isinstance(self.problem, Problem)
        if "network" not in self._shared:
            self._shared["network"] = Network(self.problem)
        return self._shared["network"]

    @property
    def _gathered(self) -> Gathered:
        if "gathered" not in self._shared:
            self._shared["gathered"] = self._network.gather(self)
        return self._shared["gathered"]

    def damped(self, damping: float) -> EKFAC:
        """The same with another damping; what is gathered from the data is shared."""
        other = replace(self, damping=damping)
        other.__dict__["_shared"] = self._shared
        return other

    def save(self, path: str | Path) -> None:
        """Write what was gathered from a network's training data: one safetensors file, any damping, no pickle."""
        if isinstance(self.problem, LinearProblem):
            raise TypeError(
                "a linear problem's factors take less time to compute than to read: nothing to save"
            )
        blocks, rest, n = self._gathered
        tensors = {f"{i}.{name}": getattr(block, name) for i, block in enumerate(blocks) for name in GATHERED}
        settings = {name: getattr(self, name) for name in ("rows", "leading", "samples", "seed")}
        words = {"kind": "EKFAC", "n": n, "settings": settings, "fingerprint": self.damped(0.0).fingerprint()}
        write(path, {**tensors, "rest": rest.total}, words)

    @classmethod
    def load(cls, path: str | Path, problem: Problem, damping: float = 0.0) -> EKFAC:
        """Read what `save` wrote, for the same problem. Other weights, data or settings raise `StaleError`."""
        tensors, words = read(path, "a curvature file")
        if words.get("kind") != "EKFAC":
            raise ValueError(f"{path} is not a curvature file of upweight")
        curvature = cls(problem, damping, **words["settings"])
        found = curvature.damped(0.0).fingerprint()
        if found != words["fingerprint"]:
            raise StaleError(
                f"{path} was gathered from other weights, data or settings ({words['fingerprint']}; this problem: "
                f"{found}): make the EKFAC anew"
            )
        blocks = [_Block(layer, curvature) for layer in curvature._network.layers]
        for i, block in enumerate(blocks):
            for name in GATHERED:
                setattr(block, name, tensors[f"{i}.{name}"].to(problem.device))
        rest = _Rest(curvature._network.rest)
        rest.total = tensors["rest"].to(problem.device)
        curvature._shared["gathered"] = Gathered(blocks, rest, words["n"])
        return curvature

    @cached_property
    def _factors(self) -> dict[torch.dtype, Factor]:
        return {}

    def fingerprint(self) -> str:
        return f"EKFAC({self.problem.fingerprint()}, damping={self.damping!r}, rows={self.rows}, " + (
            f"leading={self.leading}, samples={self.samples}, seed={self.seed})"
        )

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        product = self.factor(dtype).product
        assert product is not None
        return product

    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        # As an answer, not a preconditioner: bases orthogonal in float32 only would cost digits by the condition.
        dtype = dtype or torch.float64
        if dtype not in self._factors:
            if isinstance(self.problem, LinearProblem):
                self._factors[dtype] = kronecker(self, self.problem, dtype)
            else:
                self._factors[dtype] = self._network.factor(self._gathered, self.damping, dtype)
        return self._factors[dtype]


class Network:
    """The layers of a problem's model, and how their curvature is gathered from the training data."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.layers, self.rest = problem.layered.layers, problem.layered.rest

    @property
    def coverage(self) -> dict[str, str]:
        """What covers each parameter."""
        names = {name for layer in self.layers for name in (layer.weight, layer.bias)}
        other = "dense" if len(self.rest) <= DENSE_REST else "diagonal"
        return {name: "Kronecker" if name in names else other for name in self.problem.layout.names}

    def gather(self, curvature: EKFAC) -> Gathered:
        """Bases, then eigenvalues, in two passes over (a sample of) the training data."""
        problem, found = self.problem, [_Block(layer, curvature) for layer in self.layers]
        sample = problem
        if curvature.rows is not None and curvature.rows < problem.n:
            even = torch.linspace(0, problem.n - 1, curvature.rows, dtype=torch.float64)
            sample = problem.subset(even.long())
        for found_calls, w in self._passes(curvature, sample, "bases"):
            for j, calls in enumerate(found_calls):
                for block in found:
                    block.add_moments(calls, w, first=j == 0)
        for block in found:
            block.diagonalise()
        rest = _Rest(self.rest)
        for found_calls, w in self._passes(curvature, sample, "eigenvalues", rest):
            for calls in found_calls:
                for block in found:
                    block.add_values(calls, w)
            for block in found:
                block.flush()
        return Gathered(found, rest, sample.n)

    def factor(self, gathered: Gathered, damping: float, dtype: torch.dtype) -> BlocksFactor:
        """The matrix, from what was gathered."""
        blocks, rest, n = gathered
        parts: list[tuple[Tensor, Factor]] = [
            (block.layer.index, block.factor(n, damping, dtype)) for block in blocks
        ]
        if len(self.rest):
            added = self.problem.l2[self.rest].double() + damping
            parts.append((self.rest, rest.factor(n, added, dtype)))
        return BlocksFactor(parts, self.problem.p, dtype)

    def _passes(
        self, curvature: EKFAC, sample: Problem, title: str, rest: _Rest | None = None
    ) -> Iterator[tuple[Iterator[Calls], Tensor]]:
        """Per block of examples the layers' calls for one cotangent after the other, and the examples' weights."""
        generator = torch.Generator().manual_seed(curvature.seed)
        of, theta = sample.evaluation, sample.theta
        for batch, w in track(sample.blocks(), title, sample.block_count):
            chunks = [(batch, w)]
            if not self.problem.layered.together:
                chunks = [(batched(z), w[[i]]) for i, z in enumerate(examples(batch))]
            for chunk, weight in chunks:
                V, slopes = pseudo_gradients(of, theta, chunk, curvature.samples, generator)
                if rest is not None and len(rest.index):
                    rest.add(through_outputs(of, theta, chunk, V.transpose(0, 1), rest.index), weight)
                yield slopes, weight


class _Block:
    """The bases and eigenvalues of one layer, gathered in two passes over the data."""

    def __init__(self, layer: Layer, curvature: EKFAC) -> None:
        self.layer, self.curvature = layer, curvature
        e = layer.columns + layer.intercept
        wide: dict[str, Any] = {"dtype": torch.float64, "device": curvature.problem.device}
        self.outputs = torch.zeros(layer.rows, layer.rows, **wide)
        self.inputs = torch.zeros(e, e, **wide)
        self.leading = min(curvature.leading, e, MOST_LEADING // layer.rows)
        self.values = torch.zeros(layer.rows, e, **wide)
        self.whole = torch.zeros((layer.rows, self.leading) * 2, **wide)
        self.seen: _Seen | None = None

    def add_moments(self, calls: Calls, w: Tensor, first: bool) -> None:
        self.outputs += _moment(self.layer.left(calls, len(w)), w)
        if first or self.layer.words:
            self.inputs += _moment(self.layer.right(calls, len(w)), w)

    def diagonalise(self) -> None:
        """Eigenvectors of both sides, the largest variance first."""
        self.left = torch.linalg.eigh(self.outputs)[1]
        self.right = torch.linalg.eigh(self.inputs)[1].flip(1)

    def add_values(self, calls: Calls, w: Tensor) -> None:
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

    def factor(self, n: int, damping: float, dtype: torch.dtype) -> KroneckerFactor:
        """The layer's part of the matrix, with penalty and damping."""
        weights = self.layer.index[: self.layer.rows * self.layer.columns]
        added = float(self.curvature.problem.l2[weights].double().mean()) + damping
        values = self.values / n + added
        floor = max(float(values.max()) * torch.finfo(dtype).eps, torch.finfo(dtype).tiny)
        size = self.layer.rows * self.leading
        whole = (self.whole / n).view(size, size)
        whole.diagonal().add_(max(added, floor))
        left, right = self.left.to(dtype), self.right.to(dtype)
        values = values.clamp(min=floor).to(dtype)
        return KroneckerFactor(left, right, values, whole.to(dtype), intercept=self.layer.intercept)


@dataclass
class _Seen:
    """Of one block of examples: the rotated right side, and sums over the cotangents."""

    right: Tensor
    spread: Any = 0.0
    outer: Any = 0.0


class Gathered(NamedTuple):
    """What two passes over n training examples leave: all that the matrix needs at any damping."""

    blocks: list[_Block]
    rest: _Rest
    n: int


class _Rest:
    """The parameters outside layers: a dense block, or a diagonal."""

    def __init__(self, index: Tensor) -> None:
        self.index = index
        few = len(index) <= DENSE_REST
        shape = (len(index),) * (2 if few else 1)
        self.total = torch.zeros(shape, dtype=torch.float64, device=index.device)

    def add(self, P: Float[Tensor, "b k q"], w: Tensor) -> None:
        P = (P * w.sqrt()[:, None, None]).flatten(0, 1)
        self.total += P.T @ P if self.total.ndim == 2 else P.square().sum(0)

    def factor(self, n: int, added: Float[Tensor, " q"], dtype: torch.dtype) -> Factor:
        """The part of the matrix, with penalty and damping."""
        diagonal = self.total if self.total.ndim == 1 else self.total.diagonal()
        floor = max(float(diagonal.max()) / n * torch.finfo(dtype).eps, torch.finfo(dtype).tiny)
        added = added.clamp(min=floor)
        if self.total.ndim == 1:
            return DiagonalFactor((self.total / n + added).to(dtype))
        matrix = self.total / n
        matrix.diagonal().add_(added)
        return CholeskyFactor(matrix.to(dtype))


def _moment(X: Float[Tensor, "b t r"], w: Float[Tensor, " b"]) -> Float[Tensor, "r r"]:
    """sum_i w_i sum_t x x^T."""
    flat = (X * w.sqrt()[:, None, None]).flatten(0, 1)
    return flat.T @ flat


def kronecker(curvature: EKFAC, problem: LinearProblem, dtype: torch.dtype) -> KroneckerFactor:
    """The factors, from (a sample of) the training examples; below the problem's precision, read in its fastest."""
    dtype = dtype if dtype == problem.dtype else problem.precisions[0]
    count = min(problem.n, curvature.rows or problem.n)
    index = torch.linspace(0, problem.n - 1, count, dtype=torch.float64).long()
    sample = problem.subset(index)
    _, a, u, _ = sample._derivatives(dtype)
    blocks = [block.dense() for _, block in sample.design.blocks(4096, dtype)]
    if problem.has_intercept:
        blocks = [torch.cat([X, X.new_ones(len(X), 1)], dim=1) for X in blocks]
    w = sample.weights[:, None].to(dtype).split([len(X) for X in blocks])
    plain = bool((sample.weights == 1).all())  # spares a copy of every block
    inputs = sum((X.T @ (X if plain else X * w[j])).to(a.dtype) for j, X in enumerate(blocks)) / count
    outputs = torch.diag(a.mean(0)) - (0 if u is None else u.T @ u / count)
    right = torch.linalg.eigh(inputs)[1].flip(1)  # the largest variance first
    left = torch.linalg.eigh(outputs)[1]
    spread = a @ left.square() - (0 if u is None else (u @ left).square())
    r = min(curvature.leading, right.shape[1])
    values = torch.zeros(problem.c, right.shape[0], dtype=a.dtype)
    block = torch.zeros(problem.c, r, problem.c, r, dtype=a.dtype)
    start = 0
    for X in blocks:
        part = slice(start, start + len(X))
        rotated = (X @ right.to(X.dtype)).to(a.dtype)
        values += spread[part].T @ rotated.square()
        if r:
            weights = _outputs_curvature(a[part], None if u is None else u[part])
            add_leading(block, rotated[:, :r], weights)
        start += len(X)
    added = float(problem.l2[: problem.c * problem.d].mean()) + curvature.damping
    values = values.clamp(min=0) / count + added
    floor = values.max() * torch.finfo(a.dtype).eps
    whole = (block / count).view(problem.c * r, problem.c * r)
    whole.diagonal().add_(max(added, float(floor)))
    return KroneckerFactor(
        left, right, values.clamp(min=float(floor)), whole, intercept=problem.has_intercept
    )


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


def _outputs_curvature(a: Float[Tensor, "b c"], u: Float[Tensor, "b c"] | None) -> Callable[[int], Tensor]:
    """Row i of diag(a) - u u^T from the diagonal on."""

    def row(i: int) -> Tensor:
        if u is None:
            return a[:, i, None]
        # Difference first, product second: p - p^2 cancels where a probability is near one.
        W = -u[:, i, None] * u[:, i:]
        W[:, 0] += a[:, i]
        return W

    return row
