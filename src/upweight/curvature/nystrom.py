"""The Nystrom approximation of a curvature: its leading directions from a few products, at any number of parameters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from ..linalg.coordinates import Coordinates
from ..linalg.factorizations import Factor, MovedFactor
from ..linalg.lanczos import indefinite
from ..linalg.low_rank import LowRankFactor
from ..types import Operator
from .base import Curvature


@dataclass(frozen=True, eq=False)
class Nystrom(Curvature):
    """A randomised approximation of rank `rank` of a positive semi-definite curvature (Frangella et al., 2023).

    A - shift I, shift the damping and the smallest penalty, is replaced by its Nystrom approximation on `rank` random
    directions; all other directions get the smallest eigenvalue kept. Cost: `rank` products, many at once; memory:
    rank p numbers. As a preconditioner it shares the Krylov space of all right-hand sides: it pays for many of them,
    and where the curvature is concentrated on fewer than `rank` directions.

    Args:
        of: the curvature that is approximated, with its damping.
        rank: how many directions are kept, at most p.
        seed: of the random directions.
        there: coordinates in which directions are found, default the curvature's own where units differ.

    Raises:
        IndefiniteError: where the curvature is not positive semi-definite, at the first use.
        ValueError: for rank < 1.

    >>> import torch
    >>> from upweight import Dense
    >>> Nystrom(Dense(torch.diag(torch.tensor([4.0, 0.0, 0.0])), damping=1.0), rank=1).factor().solve(
    ...     torch.eye(3)[:1]
    ... )
    tensor([[0.2000, 0.0000, 0.0000]])
    """

    of: Curvature
    rank: int = 100
    seed: int = 0
    there: Coordinates | None = None
    cache: dict[torch.dtype, Factor] = field(default_factory=dict, init=False, repr=False)
    """Factors by their precision."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be >= 1, got {self.rank}")

    @property
    def damping(self) -> float:  # type: ignore[override]
        """The damping of the curvature that is approximated, with which this one has it too."""
        return self.of.damping

    def damped(self, damping: float) -> Nystrom:
        return replace(self, of=self.of.damped(damping))

    def scaled(self, factor: float) -> Nystrom:
        return replace(self, of=self.of.scaled(factor))

    @property
    def remarks(self) -> tuple[str, ...]:
        return ()

    @property
    def p(self) -> int:
        return self.of.p

    @property
    def dtype(self) -> torch.dtype:
        return self.of.dtype

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return (self.dtype,)

    @property
    def device(self) -> torch.device:
        return self.of.device

    @property
    def shift(self) -> float:
        return self.of.shift

    @property
    def semidefinite(self) -> bool:
        return True

    @property
    def closed(self) -> bool:
        return True

    def fingerprint(self) -> str:
        return f"Nystrom({self.of.fingerprint()}, rank={self.rank}, seed={self.seed})"

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        product = self.factor(dtype).product
        assert product is not None
        return product

    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        dtype = dtype or self.dtype
        if dtype not in self.cache:
            inner = self._found if dtype == self._found.dtype else self._found.to(dtype)
            self.cache[dtype] = MovedFactor(inner, self._there)
        return self.cache[dtype]

    @property
    def leading(self) -> LowRankFactor:
        """The directions that are kept with their eigenvalues, in the coordinates where they were found."""
        return self._found

    @cached_property
    def _found(self) -> LowRankFactor:
        """The approximation in the coordinates of the curvature, where its parameters have comparable units."""
        generator, there = torch.Generator().manual_seed(self.seed), self._there
        dtype = self.of.fast_dtype if there.ordinary else self.dtype
        random = torch.randn(min(self.rank, self.p), self.p, generator=generator, dtype=dtype)
        basis = torch.linalg.qr(random.to(self.of.device).T)[0].T
        product, shift = self.of.operator(dtype), self._shift
        image = there.inward(product(there.outward(basis))) - shift * basis
        # Lifted by its rounding, so that the small matrix has a Cholesky factor.
        lift = self.p**0.5 * torch.finfo(dtype).eps * there.reach * float(image.norm(dim=1).max())
        image += lift * basis
        small = image @ basis.T
        lower, failed = torch.linalg.cholesky_ex((small + small.T) / 2)
        if int(failed):
            known = bool(small.isfinite().all())
            lowest = float(torch.linalg.eigvalsh((small + small.T) / 2)[0]) + shift if known else torch.nan
            raise indefinite(lowest)
        _, sizes, vectors = torch.linalg.svd(
            torch.linalg.solve_triangular(lower, image, upper=False), full_matrices=False
        )
        values = (sizes.square() - lift).clamp(min=0) + shift
        return LowRankFactor(vectors, values.clamp(min=lift))

    @cached_property
    def _there(self) -> Coordinates:
        """The coordinates of the curvature, where units differ; else its own; or those that were given."""
        if self.there is not None:
            return self.there
        return Coordinates() if self.of.coordinates.ordinary else self.of.coordinates

    @property
    def _shift(self) -> float:
        """What every direction has at least."""
        scale = self._there.scale
        if scale is None:
            return self.of.shift
        return 0.0 if self.of.floor is None else float((self.of.floor * scale.square()).min())
