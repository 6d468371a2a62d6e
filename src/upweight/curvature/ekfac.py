"""EKFAC: the curvature of a layer as a Kronecker product of input and output bases with corrected eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from ..errors import StaleError
from ..linalg.factorizations import Factor
from ..linalg.kronecker import BlocksFactor, KroneckerFactor
from ..linalg.outer_products import Pairs
from ..linear.problem import LinearProblem
from ..network.layers.kronecker_statistics import (
    Added,
    Gathered,
    Recipe,
    add_leading,
    coverage,
    gather,
    restore,
)
from ..network.problem import Problem
from ..runtime.distributed import gather_objects, together
from ..runtime.fingerprint import content_hash
from ..runtime.tensor_files import read, write
from ..types import Operator, Tensor
from .base import OfProblem, check_damping
from .compression import Compressed, compress


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
    drawn from `seed`, equal in expectation. `damped` gives another damping without another look at the data; `relative`
    damps each layer by that multiple of its own mean eigenvalue as well (0.1 is customary).
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
    relative: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_damping(self.relative)
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
        return coverage(self.problem)

    @property
    def one_layer(self) -> tuple[int, int] | None:
        """Outputs and inputs of the layer that holds all parameters, if one does."""
        if isinstance(self.problem, LinearProblem):
            return self.problem.c, self.problem.d
        layers = self.problem.layered.layers
        if len(layers) != 1 or len(layers[0].index) != self.p:
            return None
        return layers[0].rows, layers[0].columns

    @cached_property
    def _shared(self) -> dict[str, Gathered]:
        """What was gathered from a network, the same object at every damping."""
        return {}

    @property
    def _gathered(self) -> Gathered:
        assert isinstance(self.problem, Problem)
        if "gathered" not in self._shared:
            self._shared["gathered"] = gather(self.problem, self._recipe)
        return self._shared["gathered"]

    @property
    def _recipe(self) -> Recipe:
        return Recipe(self.rows, self.leading, self.samples, self.seed)

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
        words = {"kind": "EKFAC", "n": self._gathered.n, "settings": self._recipe._asdict()}
        write(path, self._gathered.tensors(), {**words, "fingerprint": self._undamped()})

    def _undamped(self) -> str:
        return replace(self, damping=0.0, relative=0.0).fingerprint()

    @classmethod
    def load(cls, path: str | Path, problem: Problem, damping: float = 0.0, relative: float = 0.0) -> EKFAC:
        """Read what `save` wrote, for the same problem. Other weights, data or settings raise `StaleError`."""
        tensors, words = read(path, "a curvature file")
        if words.get("kind") != "EKFAC":
            raise ValueError(f"{path} is not a curvature file of upweight")
        curvature = cls(problem, damping, **words["settings"], relative=relative)
        found = curvature._undamped()
        if found != words["fingerprint"]:
            raise StaleError(
                f"{path} was gathered from other weights, data or settings ({words['fingerprint']}; this problem: "
                f"{found}): make the EKFAC anew"
            )
        curvature._shared["gathered"] = restore(problem, curvature._recipe, tensors, words["n"])
        return curvature

    def keep(self, folder: Path) -> None:
        """Take what was gathered from the file in `folder` that holds it, or gather it and write that file."""
        assert isinstance(self.problem, Problem)
        path = folder / f"factors-{content_hash([], self._undamped())}.safetensors"
        if not gather_objects(path.exists())[0]:
            with together():
                self.save(path)
        # Read also what was just written: tensors in the same layout give the same bits.
        self._shared["gathered"] = EKFAC.load(path, self.problem)._gathered

    @cached_property
    def _factors(self) -> dict[torch.dtype, Factor]:
        return {}

    def compress(self, pairs: Pairs, tolerance: float) -> Compressed:
        """A^-1 v for gradients v, as a few outer products per layer."""
        factor = self.factor()
        assert isinstance(factor, BlocksFactor)
        return compress(factor, pairs, tolerance)

    def quadratic(self, pairs: Pairs) -> Float[Tensor, " b"]:
        """v^T A^-1 v for gradients v, without forming them where they have one position."""
        factor = self.factor()
        assert isinstance(factor, BlocksFactor)
        sides: list[Any] = [*pairs.layers, pairs.rest]
        return torch.stack(
            [
                part.quadratic_outer(*side) if isinstance(part, KroneckerFactor) else part.quadratic(side)
                for (_, part), side in zip(factor.parts, sides, strict=False)
            ]
        ).sum(0)

    def fingerprint(self) -> str:
        return f"EKFAC({self.problem.fingerprint()}, damping={self.damping!r}, rows={self.rows}, " + (
            f"leading={self.leading}, samples={self.samples}, seed={self.seed}, relative={self.relative!r})"
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
                self._factors[dtype] = self._gathered.factor(
                    self.problem.l2, Added(self.damping, self.relative), dtype
                )
        return self._factors[dtype]


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
    inputs = torch.zeros(blocks[0].shape[1], blocks[0].shape[1], dtype=a.dtype)
    for j, X in enumerate(blocks):
        inputs += (X.T @ (X if plain else X * w[j])).to(a.dtype) / count
    outputs = torch.diag(a.mean(0)) - (0 if u is None else u.T @ u / count)
    right = eigenvectors(inputs).flip(1)  # the largest variance first
    left = eigenvectors(outputs)
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
    values = values.clamp(min=0) / count
    added = float(problem.l2[: problem.c * problem.d].mean()) + curvature.damping
    added += curvature.relative * float(values.mean())
    values = values + added
    floor = values.max() * torch.finfo(a.dtype).eps
    whole = (block / count).view(problem.c * r, problem.c * r)
    whole.diagonal().add_(max(added, float(floor)))
    return KroneckerFactor(
        left, right, values.clamp(min=float(floor)), whole, intercept=problem.has_intercept
    )


def eigenvectors(matrix: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    """Of a symmetric matrix, as columns; in float64 where LAPACK fails on a singular one in its own precision."""
    try:
        vectors = torch.linalg.eigh(matrix)[1]
    except RuntimeError:  # what LAPACK raises
        vectors = torch.full_like(matrix, torch.nan)
    if bool(vectors.isfinite().all()):
        return vectors
    return torch.linalg.eigh(matrix.double())[1].to(matrix)


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
