"""Classes as Gaussians: from the moments of each class to the rule that tells them apart, and to scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float

from ..types import Tensor
from .sums import Moments

Rule: TypeAlias = tuple[Tensor, ...]
"""What scores are computed with, differentiable in the moments that it comes from."""
SINGULAR = 1e-12
"""The eigenvalue of a correlation, over its size, below which it is rounding, where it has to be inverted."""


class Gaussians(ABC):
    """How a classifier tells classes apart by their moments: it takes each class for a Gaussian.

    `priors` are the shares of the classes (k,), or None where they are those of the rows.
    """

    priors: Float[Tensor, " k"] | None
    crossed: bool
    """Whether it looks at products of different columns."""

    @abstractmethod
    def rule(self, at: Moments) -> Rule:
        """What scores are computed with, from moments without trouble."""

    @abstractmethod
    def scores(self, rule: Rule, X: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        """The score of each class, its logarithmic probability up to a number that all classes share."""

    @abstractmethod
    def trouble(self, at: Moments) -> str:
        """Why the classifier cannot be fitted to such moments, in words, or "" where it can.

        That every class has rows is not looked at.
        """

    @abstractmethod
    def numbers(self, d: int) -> int:
        """How many numbers tell a class from the first one, of d columns."""

    def shares(self, at: Moments) -> Float[Tensor, " k"]:
        """The share that each class is expected to have."""
        return at.total / at.total.sum() if self.priors is None else self.priors


@dataclass(frozen=True, eq=False)
class SharedScaled(Gaussians):
    """Gaussians of one covariance, whose columns are brought to unit variance within classes and then decorrelated.

    Directions whose deviation is then at most `tolerance` are left out: LinearDiscriminantAnalysis by "svd".

    Args:
        priors: as `Gaussians` has them.
        tolerance: the least deviation of a direction.
        taken: how many degrees of freedom the covariance divides less than the number of rows by.
    """

    priors: Float[Tensor, " k"] | None
    tolerance: float
    taken: int
    crossed = True

    def rule(self, at: Moments) -> Rule:
        shares, n, within = self.shares(at), at.total.sum(), at.scatter.sum(0)
        center = shares @ at.mean
        square = within.diagonal() / n
        unit = torch.where(square > 0, square, 1.0).sqrt()
        unit = unit[:, None] * unit
        correlation = within / (n - self.taken) / unit
        inverse = _inverse(correlation, self.tolerance**2) / unit
        away = at.mean - center
        coef = away @ inverse
        return center, coef, shares.log() - (coef * away).sum(1) / 2

    def scores(self, rule: Rule, X: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        return _linear(rule, X)

    def numbers(self, d: int) -> int:
        return 1 + d

    def trouble(self, at: Moments) -> str:
        few = bool(at.total.sum() <= max(self.taken, len(at.total)))
        return "there are no more rows than classes" if few else ""


@dataclass(frozen=True, eq=False)
class SharedGaussians(Gaussians):
    """Gaussians of one covariance, the mean of those of the classes: LinearDiscriminantAnalysis by "lsqr" or "eigen".

    Args:
        priors: as `Gaussians` has them.
        shrinkage: the share of the covariance that is replaced by the mean variance of all columns.
    """

    priors: Float[Tensor, " k"] | None
    shrinkage: float
    crossed = True

    def rule(self, at: Moments) -> Rule:
        shares = self.shares(at)
        coef = torch.linalg.solve(self._covariance(at), at.mean.T).T
        return torch.zeros_like(at.mean[0]), coef, shares.log() - (at.mean * coef).sum(1) / 2

    def scores(self, rule: Rule, X: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        return _linear(rule, X)

    def numbers(self, d: int) -> int:
        return 1 + d

    def trouble(self, at: Moments) -> str:
        return _singular(self._covariance(at), "the covariance within classes")

    def _covariance(self, at: Moments) -> Float[Tensor, "d d"]:
        each = at.scatter / at.total[:, None, None]
        return shrunk((self.shares(at)[:, None, None] * each).sum(0), self.shrinkage)


@dataclass(frozen=True, eq=False)
class FullGaussians(Gaussians):
    """Gaussians of a covariance each: QuadraticDiscriminantAnalysis.

    Args:
        priors: as `Gaussians` has them.
        shrinkage: the share of each covariance that is replaced by the mean variance of its columns.
        ridge: the share of each covariance that is replaced by the unit matrix.
        tolerance: the least eigenvalue of a covariance.
        taken: how many degrees of freedom a covariance divides less than the rows of its class by.
    """

    priors: Float[Tensor, " k"] | None
    shrinkage: float
    ridge: float
    tolerance: float
    taken: int
    crossed = True

    def rule(self, at: Moments) -> Rule:
        lower = torch.linalg.cholesky(self._covariances(at))
        size = lower.diagonal(dim1=1, dim2=2).log().sum(1)
        return at.mean, torch.cholesky_inverse(lower), self.shares(at).log() - size

    def scores(self, rule: Rule, X: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        mean, inverse, offset = rule
        U = X - mean[:, None]
        return offset - ((U @ inverse) * U).sum(2).T / 2

    def numbers(self, d: int) -> int:
        return 1 + d + d * (d + 1) // 2

    def trouble(self, at: Moments) -> str:
        if bool((at.total <= 1).any()):
            return "a class has a single row"
        if not _exceeds(self._covariances(at), self.tolerance):
            return "the covariance of a class is not of full rank: take a larger reg_param"
        return ""

    def _covariances(self, at: Moments) -> Float[Tensor, "k d d"]:
        found = shrunk(at.scatter / (at.total - self.taken)[:, None, None], self.shrinkage)
        return (1 - self.ridge) * found + self.ridge * torch.eye(found.shape[-1]).to(found)


@dataclass(frozen=True, eq=False)
class NaiveGaussians(Gaussians):
    """Gaussians whose columns are independent, with a variance each per class: GaussianNB.

    `priors` are as `Gaussians` has them.
    """

    priors: Float[Tensor, " k"] | None
    crossed = False

    def rule(self, at: Moments) -> Rule:
        variance = at.scatter / at.total[:, None] + at.smoothing
        return at.mean, 1 / variance, self.shares(at).log() - (2 * torch.pi * variance).log().sum(1) / 2

    def scores(self, rule: Rule, X: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        mean, precision, offset = rule
        return offset - ((X[:, None] - mean).square() * precision).sum(2) / 2

    def numbers(self, d: int) -> int:
        return 1 + 2 * d

    def trouble(self, at: Moments) -> str:
        flat = bool((at.scatter / at.total[:, None] + at.smoothing <= 0).any())
        return "a column does not vary within a class, and var_smoothing adds nothing" if flat else ""


def shrunk(covariance: Float[Tensor, "*k d d"], share: float) -> Float[Tensor, "*k d d"]:
    """A covariance of which a share is replaced by the mean of its variances, as scikit-learn shrinks it."""
    if share == 0:
        return covariance
    mean = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return (1 - share) * covariance + share * mean * torch.eye(covariance.shape[-1]).to(covariance)


def _linear(rule: Rule, X: Tensor) -> Tensor:
    center, coef, offset = rule
    return (X - center) @ coef.T + offset


def _singular(covariance: Tensor, name: str) -> str:
    unit = covariance.diagonal().clamp(min=0).sqrt()
    known = bool((unit > 0).all()) and _exceeds(covariance / (unit[:, None] * unit), SINGULAR * len(unit))
    return "" if known else f'{name} is singular: take solver="svd", or some shrinkage'


def _exceeds(matrices: Float[Tensor, "*k d d"], least: float) -> bool:
    """Whether all eigenvalues are above `least`, by a factorisation of the matrix less that."""
    shifted = matrices.detach() - least * torch.eye(matrices.shape[-1]).to(matrices)
    return not bool(torch.linalg.cholesky_ex(shifted)[1].any())


def _inverse(matrix: Float[Tensor, "d d"], least: float) -> Float[Tensor, "d d"]:
    """The inverse over the directions whose eigenvalues are above `least`, differentiable while these stay the same."""
    if _exceeds(matrix, least):
        return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return torch.linalg.pinv(matrix, atol=least, rtol=0.0, hermitian=True)
