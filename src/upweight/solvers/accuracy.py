"""How far answers may be off, whatever the units: residuals beside the curvature's diagonal, and a bound of the error.

With e = s - A^-1 v and the residual r = v - A s, the error in the norm of A is ||e||_A = sqrt(r^T A^-1 r). By
Cauchy-Schwarz a score g . s is off by at most ||e||_A sqrt(g^T A^-1 g), so ||e||_A / ||s||_A is the relative error of a
row of scores. It is bounded by the factor of A where A is small, and by a diagonal matrix below A where one is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..curvature.base import Curvature
from ..linalg.factorizations import Factor
from ..types import Operator, Tensor

ACCURATE = 1e-3
"""The largest relative error in the norm of A that counts as converged, unless a looser `rtol` was asked for."""
SMALL = 64
"""Up to this many parameters errors are bounded by a factor of the curvature."""
AFFORDABLE = 2000
"""Up to this many they are where nothing else is known."""
FREE = 64
"""Parameters without a known floor up to which their part of the curvature is written out."""
NO_FLOOR = 1e-12
"""A floor below this, beside a diagonal of 1, counts as none."""

Energy = Callable[[Tensor, Tensor], Tensor]
"""Residuals (k, p) and answers (k, p) -> a bound of r^T A^-1 r (k,), rounding included."""


class Checked(NamedTuple):
    """What is known of k answers: the residual vectors (k, p), their relative size (k,), a bound of the error (k,).

    The bound is NaN where there is none.
    """

    left: Tensor
    residual: Tensor
    error: Tensor


def relative_size(left: Float[Tensor, "k p"], rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
    """The sizes ||r|| / ||v|| of residuals beside their right-hand sides (k,); 0 for a zero row solved by zero.

    Args:
        left: the residual vectors r = v - A s (k, p).
        rows: the right-hand sides v (k, p).
    """
    norm = rows.norm(dim=1)
    return left.norm(dim=1) / torch.where(norm > 0, norm, torch.ones_like(norm))


def relative_residual(operator: Operator, value: Tensor, rows: Tensor) -> Float[Tensor, " k"]:
    """The relative residual ||v - A s|| / ||v|| of every row (k,), recomputed; 0 for a zero row solved by zero.

    Args:
        operator: rows -> A times rows, damping included.
        value: the answers s (k, p).
        rows: the right-hand sides v (k, p).
    """
    return relative_size(rows - operator(value), rows)


def checked(operator: Operator, energy: Energy | None, value: Tensor, rows: Tensor) -> Checked:
    """Answers looked at anew: their residuals, and how far they may be off.

    Args:
        operator: rows -> A times rows, damping included.
        energy: bounds r^T A^-1 r; None: nothing does.
        value: the answers s (k, p).
        rows: the right-hand sides v (k, p).
    """
    unit = rows.abs().amax(1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)  # so that no square leaves the range of the numbers
    value, rows = value / unit, rows / unit
    left = rows - operator(value)
    residual = relative_size(left, rows)
    if energy is None:
        return Checked(left * unit, residual, torch.full_like(residual, torch.nan))
    size = (value.double() * rows.double()).sum(1)
    error = (energy(left, value).double().clamp(min=0) / size.clamp(min=0)).sqrt()
    error = torch.where(rows.any(1), error.nan_to_num(torch.inf, torch.inf), 0.0)
    return Checked(left * unit, residual, error.to(residual))


def of_factor(factor: Factor) -> Energy:
    """The bound that a factor of A gives, in the coordinates of its core: r^T A^-1 r itself, and rounding."""
    core = factor.core
    unit = torch.ones(()) if core.diagonal is None else core.diagonal.clamp(min=0).sqrt()

    def energy(left: Tensor, value: Tensor) -> Tensor:
        noise = core.rounding * (value.double() * unit).norm(dim=1)
        return core.quadratic(left.double()) + noise.square()

    return energy


def own_operator(curvature: Curvature, dtype: torch.dtype | None = None) -> Operator:
    """The product of a curvature in its `coordinates`, rows -> T^T A T rows, damping included.

    Args:
        curvature: A.
        dtype: the precision of the products, as `Curvature.operator` takes it.
    """
    there, product = curvature.coordinates, curvature.operator(dtype)
    return lambda rows: there.inward(product(there.outward(rows)))


def bound(curvature: Curvature, operator: Operator) -> Energy | None:
    """The cheapest bound of r^T A^-1 r in a curvature's own coordinates, or None where nothing is known of A.

    Args:
        curvature: A.
        operator: its product in its `coordinates`, damping included.
    """
    if curvature.p <= SMALL:
        return by_factor(curvature)
    found = by_floor(curvature, operator)
    return by_factor(curvature) if found is None and curvature.p <= AFFORDABLE else found


def by_factor(curvature: Curvature) -> Energy:
    """The bound that a factor of the curvature gives, for residuals and answers in its `coordinates`."""
    there, factor = curvature.coordinates, curvature.factor()
    energy = of_factor(factor)

    def of(left: Tensor, value: Tensor) -> Tensor:
        left, value = there.derivatives(left.double()), there.outward(value.double())
        return energy(factor.coordinates.inward(left), factor.coordinates.parameters(value))

    return of


def by_floor(curvature: Curvature, operator: Operator) -> Energy | None:
    """The bound sum_j r_j^2 / floor_j; a few parameters without a floor are eliminated by a Schur complement.

    Where A exceeds diag(floor), the Schur complement of its other part does so too. None where too many have no floor.
    """
    if curvature.floor is None:
        return None
    scale = curvature.coordinates.scale
    floor = curvature.floor.double() * (1.0 if scale is None else scale.double().square())
    none = floor <= (0.0 if scale is None else NO_FLOOR)
    free, held = none.nonzero()[:, 0], (~none).nonzero()[:, 0]
    if len(free) > FREE:
        return None
    inverse = 1 / floor[held]
    noise = torch.finfo(torch.float64).eps if scale is not None else 0.0
    if not len(free):
        return lambda left, value: _over(left.double(), inverse) + _noise(noise, value, inverse)
    unit = torch.zeros(len(free), curvature.p, dtype=curvature.dtype, device=curvature.device)
    unit[torch.arange(len(free)), free] = 1
    images = operator(unit).double()
    values, vectors = torch.linalg.eigh((images[:, free] + images[:, free].T) / 2)
    kept = (
        values > 1e-10 * values[-1]
    )  # shifts that the loss does not see are flat, and no residual goes there
    root = vectors[:, kept] / values[kept].sqrt()

    def energy(left: Tensor, value: Tensor) -> Tensor:
        inside = left.double()[:, free] @ root
        rest = left.double()[:, held] - inside @ (root.T @ images[:, held])
        return inside.square().sum(1) + _over(rest, inverse) + _noise(noise, value, inverse)

    return energy


def _over(left: Tensor, inverse: Tensor) -> Tensor:
    return left.square() @ inverse


def _noise(eps: float, value: Tensor, inverse: Tensor) -> Tensor:
    """What rounding in the products of a matrix with diagonal 1 may add."""
    return (eps * value.double().norm(dim=1)).square() * inverse.sum()
