"""The inverse Hessian of a linear model without some training examples, from the factorised one of all of them.

With A the Hessian of the *total* objective and S the removed set, a Newton step moves the parameters by
(A - A_S)^-1 g_S, where A_S and g_S are the set's own curvature and gradient (Woodbury; requirement B2).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from ..curvature.base import ExampleMean
from ..linalg.factorizations import Factor
from ..linear.following import scale_factors
from ..objective import LinearModel
from ..runtime.progress import track
from ..types import Tensor

UNDETERMINED = 1e-12
"""What is left of the curvature of a direction without a set, as a share: below this it counts as nothing."""
DIGITS = 100
"""What is left must be so many times its rounding: two digits."""
ALIKE = 0.02
"""Weights and scales that differ by less than this share are those of one Hessian."""
HELD_BYTES = 128 << 20
"""Bytes of the vectors of length p that are held at once."""


@dataclass(frozen=True, eq=False)
class TotalHessian:
    """The Hessian of the total objective, n * A, factorised once, of which `size` examples will be removed.

    With keep="mean" every example brings its share of the penalty, which leaves with it: sets of another size need
    another factor. With keep="total" the penalty stays, and one factor serves all sets.
    """

    problem: LinearModel
    factor: Factor
    size: int

    @classmethod
    def of(cls, problem: LinearModel, curvature: ExampleMean, size: int) -> TotalHessian:
        """The factor for all sets of `size` examples: n p^2 operations, the one great cost of a removal.

        Args:
            problem: the model.
            curvature: its Hessian.
            size: how many examples will be removed; where their share of the penalty stays, 0 will do.

        Raises:
            IndefiniteError: where the Hessian is singular.
        """
        if size == 0:  # the curvature itself, which may be factorised already
            return cls(problem, curvature.factor(torch.float64), 0)
        kept = problem.changed(l2=problem.penalty.left_in_total(size, problem.n).l2)
        return cls(problem, curvature.of(kept).factor(torch.float64), size)

    def rounding(self, F: Float[Tensor, "G q p"]) -> Float[Tensor, " G"]:
        """The error (G,) that rounding may leave in C (n A)^-1 C^T, for the solved rows F = C (n A)^-1 of G sets.

        A is known to an epsilon of its diagonal D in units of it, which moves C (n A)^-1 C^T by up to n F D F^T times p
        epsilons: little where answers are small in these units, however small some eigenvalue is.
        """
        inside = self.factor.coordinates.parameters(F.flatten(0, 1)).square()
        return self.rounding_of(inside.view(F.shape).sum(1), slice(None))

    def rounding_of(
        self, squares: Float[Tensor, "G k"], piece: Int[Tensor, " k"] | slice
    ) -> Float[Tensor, " G"]:
        """What the numbers in some places of F add to its `rounding`.

        Args:
            squares: sums over q of their squares, in the coordinates in which A was factorised.
            piece: their places among the p.
        """
        diagonal = self.factor.core.diagonal
        if diagonal is None:
            return squares.new_zeros(len(squares))
        eps = torch.finfo(torch.float64).eps * self.problem.p * self.problem.n
        return eps * (squares @ diagonal[piece].clamp(min=0))

    def solve(self, rows: Float[Tensor, "*k p"]) -> Float[Tensor, "*k p"]:
        """The inverse of the total Hessian, nothing removed but the penalty's share, applied to every row."""
        return self.factor.solve(rows.reshape(-1, rows.shape[-1])).view(rows.shape) / self.problem.n


class Downdated:
    """The inverses (n A - C^T D C)^-1 of the Hessians without each of G sets, all at once (Woodbury).

    C (G, q, p), q <= p, are roots of the sets' own curvature and D signs: C^T D C is the Hessian of the set's summed
    losses, D = I where these are convex. What is factorised is D - C (n A)^-1 C^T, of the size q of the set. Where it
    is singular to rounding, or has other signs than D, some direction of the parameters is fitted by the set alone:
    `determined` (G,) is False, and answers are NaN.
    """

    def __init__(
        self, total: TotalHessian, C: Float[Tensor, "G q p"], signs: Float[Tensor, "G q"] | None = None
    ) -> None:
        self.total, self.C, self.signs = total, C, signs
        self.F = total.solve(C)
        self.overlap = C @ self.F.mT
        self.left = torch.diag_embed(self._signs) - self.overlap
        error = total.rounding(self.F)
        self.determined = (
            is_determined(self.left, error) if signs is None else keeps_signs(self.left, signs, error)
        )
        self.left = identity_where(self.left, ~self.determined)
        self.lower = None if signs is not None else torch.linalg.cholesky(self.left)

    @property
    def _signs(self) -> Float[Tensor, "G q"]:
        return torch.ones_like(self.C[:, :, 0]) if self.signs is None else self.signs

    def solve(self, rows: Float[Tensor, "G s p"]) -> Float[Tensor, "G s p"]:
        """(n A - C^T D C)^-1 v for s rows v of each set, each set with its own inverse; NaN where undetermined."""
        base = self.total.solve(rows)
        right = self.C @ base.mT
        lower, left = self.lower, self.left
        inside = torch.linalg.solve(left, right) if lower is None else torch.cholesky_solve(right, lower)
        return torch.where(self.determined[:, None, None], base + inside.mT @ self.F, torch.nan)

    @property
    def own(self) -> Float[Tensor, " G"]:
        """The leverage of each set: the trace of its share of the curvature, summed over its rows."""
        return (self._signs * self.overlap.diagonal(dim1=1, dim2=2)).sum(1)

    @property
    def share_left(self) -> Float[Tensor, " G"]:
        """What is left of the determinant of the Hessian without each set, as a share."""
        eye = torch.eye(self.overlap.shape[1], dtype=self.overlap.dtype)
        return torch.linalg.det(eye - self._signs[:, :, None] * self.overlap)

    def of(self, sets: Tensor) -> Downdated:
        """The inverses of some of the sets, by a mask (G,) or by number."""
        some = copy(self)
        for name in ("C", "signs", "F", "overlap", "left", "determined", "lower"):
            whole = getattr(self, name)
            setattr(some, name, None if whole is None else whole[sets])
        return some

    @property
    def leverage(self) -> Float[Tensor, " G"]:
        """The largest share of a direction's curvature that each set carries, < 1: first order is too small by it."""
        return torch.linalg.eigvalsh(self.overlap)[:, -1]


def is_determined(left: Float[Tensor, "G q q"], rounding: Float[Tensor, " G"]) -> Tensor:
    """Where I - C A^-1 C^T is positive definite beyond rounding (G,): what is left of the curvature without a set.

    Args:
        left: symmetric matrices with eigenvalues of at most 1.
        rounding: the error of the entries of each (G,).
    """
    lower, failed = torch.linalg.cholesky_ex(left)
    pivots = lower.diagonal(dim1=1, dim2=2).square().amin(1)
    return (failed == 0) & (pivots > (DIGITS * rounding).clamp(min=UNDETERMINED))


def keeps_signs(
    left: Float[Tensor, "G q q"], signs: Float[Tensor, "G q"], rounding: Float[Tensor, " G"]
) -> Tensor:
    """Where A - C^T D C is positive definite beyond rounding (G,): D - C A^-1 C^T then has the signs of D.

    Args:
        left: the matrices D - C A^-1 C^T.
        signs: the diagonals of D, 1 or -1.
        rounding: the error of the entries of each (G,).
    """
    values = torch.linalg.eigvalsh(left)
    least = (DIGITS * rounding).clamp(min=UNDETERMINED)
    return ((values < 0).sum(1) == (signs < 0).sum(1)) & (values.abs().amin(1) > least)


def identity_where(left: Float[Tensor, "G q q"], where: Tensor) -> Float[Tensor, "G q q"]:
    """Matrices of which some are replaced by the identity, so that all of them can be inverted at once.

    Args:
        left: the matrices.
        where: which are replaced (G,).
    """
    return torch.where(where[:, None, None], torch.eye(left.shape[1], dtype=left.dtype), left)


def _batches(
    problem: LinearModel, sets: list[Tensor]
) -> Iterator[tuple[list[int], Tensor, tuple[Tensor, Tensor | None]]]:
    """Sets of equal size in batches: their places, gradients (G, p), curvature roots C (G, q, p) and signs (G, q)."""
    held = max(1, HELD_BYTES // (8 * problem.p * problem.c))
    by_size: dict[int, list[int]] = {}
    for j, rows in enumerate(sets):
        by_size.setdefault(len(rows), []).append(j)
    for size, places in sorted(by_size.items()):
        for start in range(0, len(places), max(1, held // size)):
            batch = places[start : start + max(1, held // size)]
            if size <= held:
                index = torch.cat([sets[j] for j in batch])
                g = problem.train_gradients(index).reshape(len(batch), size, -1).sum(1)
                found = roots_of(problem, index, len(batch))
            else:
                parts = sets[batch[0]].split(held)
                g = torch.stack([problem.train_gradients(part).sum(0) for part in parts]).sum(0, keepdim=True)
                found = roots_of(problem, parts[0], 1)
                for part in parts[1:]:
                    C, signs = _thin(*found)
                    more, more_signs = roots_of(problem, part, 1)
                    signs = None if signs is None or more_signs is None else torch.cat([signs, more_signs], 1)
                    found = torch.cat([C, more], 1), signs
            yield batch, g, _thin(*found)


def roots_of(
    problem: LinearModel, index: Tensor, count: int
) -> tuple[Float[Tensor, "G q p"], Float[Tensor, "G q"] | None]:
    """The curvature roots of `count` sets of equal size, whose rows follow each other, and their signs.

    Args:
        problem: the model.
        index: the rows of all sets, set by set.
        count: how many sets there are.
    """
    signs = None if problem.loss.convex else problem.derivatives().take(index).signed_root()[1]
    C = problem.hessian_roots(index).reshape(count, -1, problem.p)
    return C, None if signs is None else signs.reshape(count, -1)


def _thin(
    C: Float[Tensor, "G q p"], signs: Float[Tensor, "G q"] | None
) -> tuple[Float[Tensor, "G s p"], Float[Tensor, "G s"] | None]:
    """A root with the C^T D C of `C` from at most p rows: by QR, or where signs differ by its eigenvalues."""
    if C.shape[1] <= C.shape[2]:
        return C, signs
    if signs is None:
        return torch.linalg.qr(C, mode="r").R, None
    size = C.norm(dim=1, keepdim=True).clamp(min=torch.finfo(C.dtype).tiny)
    values, vectors = torch.linalg.eigh((C / size).mT @ (signs[:, :, None] * (C / size)))
    thin = values.abs().sqrt()[:, :, None] * vectors.mT * size
    return thin, torch.where(values < 0, -1.0, 1.0).to(C)


def newton_steps(
    problem: LinearModel, curvature: ExampleMean, sets: list[Tensor], title: str = "removing sets"
) -> Iterator[tuple[list[int], Downdated, Float[Tensor, "G p"]]]:
    """The Newton steps of the parameters as each set is removed, (n A - A_S)^-1 g_S (B2), sets of equal size at once.

    Args:
        problem: the model.
        curvature: its Hessian.
        sets: the training rows of each set.
        title: of the progress bar.

    Yields:
        Batches of sets: their places in `sets`, their downdated inverses, the steps (G, p); a step is NaN where some
        direction of the parameters is fitted by the set alone.
    """
    if problem.counts is not None or problem.scales is not None:
        yield from _followed_steps(problem, curvature, sets, title)
        return
    totals: dict[int, TotalHessian] = {}
    for batch, g, (C, signs) in track(_batches(problem, sets), title, None):
        size = len(sets[batch[0]]) if problem.penalty.leaves_with_examples else 0
        if size not in totals:
            totals = {size: TotalHessian.of(problem, curvature, size)}
        inverse = Downdated(totals[size], C, signs)
        yield batch, inverse, inverse.solve(g[:, None])[:, 0]


def _followed_steps(
    problem: LinearModel, curvature: ExampleMean, sets: list[Tensor], title: str
) -> Iterator[tuple[list[int], Downdated, Float[Tensor, "G p"]]]:
    """The Newton steps where class weights or scales follow a removal (`LinearModel.counts`, `LinearModel.scales`).

    The gradients are exact. Sets that change weights and scales alike, to `ALIKE`, share the factor of a Hessian.

    Args:
        problem: the model.
        curvature: its Hessian.
        sets: the training rows of each of G sets.
        title: of the progress bar.
    """
    known = (problem.counts.factors(sets) if problem.counts else None, scale_factors(problem, sets))
    factors = torch.cat([part for part in known if part is not None], dim=1)
    alike: dict[tuple[int, ...], list[int]] = {}
    for j, rows in enumerate(sets):
        alike.setdefault((len(rows), *(factors[j].log() / ALIKE).round().int().tolist()), []).append(j)
    for places in track(list(alike.values()), title, len(alike)):
        there = _at_its_start(problem, sets[places[0]])
        size = len(sets[places[0]]) if problem.penalty.leaves_with_examples else 0
        total = TotalHessian.of(there, curvature.of(there), size)
        for batch, _, (C, signs) in _batches(there, [sets[j] for j in places]):
            here = [places[j] for j in batch]
            inverse = Downdated(total, C, signs)
            gone = problem.gradients_without([sets[j] for j in here]) * (problem.n - len(sets[here[0]]))
            step = problem.gradient() * problem.n - gone
            yield here, inverse, inverse.solve(step[:, None])[:, 0]


def _at_its_start(problem: LinearModel, rows: Tensor) -> LinearModel:
    """The problem with all of its rows, but with the class weights and penalties that it has without some."""
    there, scaled = problem, scale_factors(problem, [rows])
    if problem.counts is not None:
        factors = problem.counts.factors([rows])[0]
        there = there.changed(weights=problem.weights * factors[problem.counts.codes])
    return there if scaled is None else there.changed(l2=problem.l2 * scaled[0])
