"""Certificates of signs by the bound of all sets of rows at once, where single rows, pairs and a rest prove no more."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float

from ..linalg.joint_bounds import JointBound, Settings
from ..linalg.units import Units
from ..runtime.progress import gauge
from ..types import Tensor
from .removals import Question

LARGEST = 1 << 18
"""Rows times squared columns up to which it is tried: seconds for each number of rows."""
FAR = 3.0
"""A start is far where its bound is so many times the distance."""
STRIDES = 8
"""The first step is that share of the numbers of rows that are open."""


@dataclass(frozen=True, eq=False)
class JointCertificate:
    """How many rows are certified to leave a linear number on its side of the bar, by `JointBound`.

    Args:
        X: whitened rows, without directions that one row alone determines.
        left: what the number takes of each row (n,), in a unit in which its norm is 1.
        right: the residuals (n,), likewise.
        distance: of the number from its bar, in the product of both units.
    """

    X: Float[Tensor, "n p"]
    left: Float[Tensor, " n"]
    right: Float[Tensor, " n"]
    distance: float

    @classmethod
    def of(cls, question: Question, units: Units) -> JointCertificate | None:
        """That of a question, or None: for groups, standard errors, losses that are not squared, or much data."""
        rows, residual = question.whole.rows, question.whole.residual
        n, p = rows.shape
        plain = units.single and not (question.curved or question.asked.uses_error)
        z = question.side * (rows @ question.direction)
        size = float(z.norm() * residual.norm())
        if not plain or n * (p + 1) ** 2 > LARGEST or not size:
            return None
        X = rows.masked_fill(units.alone[:, None], 0.0)  # (4)
        distance = float(question.moments().estimate) / size
        z, residual = (side.masked_fill(units.alone, 0.0) / side.norm() for side in (z, residual))
        return cls(X, z, residual, distance)

    def beyond(self, sure: int, most: int) -> int:
        """The largest number of rows that is certified so, or what is sure already.

        Args:
            sure: certified otherwise.
            most: the largest number that is tried.
        """
        at, settings = self._begun(max(1, min(sure, most)))
        step, polished = max(1, (most - at) // STRIDES), False
        with gauge("proving what few rows cannot do together") as reached:
            while settings is not None and step and at < most:
                reached(max(0, at - sure) / max(1, most - sure))
                bound = self._bound(min(at + step, most))
                found = bound.near(settings)
                far = found is None or bound.value(found) > FAR * self.distance
                if far and not polished:  # settings that just met the target may be no start for more
                    settings, polished = self._bound(at).tightened(settings)[0], True
                    continue
                if found is not None:
                    found, value = bound.tightened(found, self.distance)
                    if value < self.distance:
                        at, settings, polished = bound.k, found, False
                        continue
                step //= 2
        return max(sure, at) if settings is not None else sure

    def _begun(self, k: int) -> tuple[int, Settings | None]:
        """The first settings, of as many rows as have some, and how many these are."""
        while (found := self._bound(k).start()) is None and k > 1:
            k //= 2
        if found is None:
            return k, None
        found, value = self._bound(k).tightened(found, self.distance)
        return (k, found) if value < self.distance else (0, None)

    def _bound(self, k: int) -> JointBound:
        return JointBound(self.X, self.left, self.right, k)
