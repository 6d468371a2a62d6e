"""The equations of an ensemble's leaves, solved for few questions or for many."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int

from ..capabilities import Stages
from ..runtime.progress import track
from ..types import Tensor
from .matrix import derivatives, worth_writing
from .passes import fit, multiply, row_equations, row_products, solve_backwards, solve_forwards
from .rows import keep
from .seen import Fitted
from .trained import Trained

AT_ONCE = 64 << 20
"""Numbers of a state of all rows that are held at once: so many questions go through the rounds together."""


READ = "read"
"""What stands for examples in a batch whose leaves were looked up, with their targets."""


class Boosting(Stages):
    """The equations of an ensemble's leaves, per training row.

    Few questions go through the rounds; for many the matrix of the equations is written out, where it is not too large
    (`matrix.derivatives`).
    """

    def __init__(self, trained: Trained, fitted: Fitted) -> None:
        self.trained, self.fitted = trained, fitted

    @cached_property
    def known(self) -> Fitted:
        """The leaf values, with what rows add to their equations kept for all questions where that is not too much."""
        return replace(self.fitted, kept=keep(self.trained, self.fitted.theta, "equations of all rows"))

    @cached_property
    def matrix(self) -> Float[Tensor, "p p"]:
        """The derivatives of the total of the equations, written out."""
        return derivatives(self.trained, self.known)

    def _written(self, k: int) -> bool:
        """Whether k questions are answered by the matrix: where it is there, or costs less than k passes."""
        return "matrix" in vars(self) or worth_writing(self.trained, k)

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        if not self._written(len(rows)):
            return self._in_parts(solve_forwards, rows, "forwards through the rounds") * self.trained.n
        moves = (rows.double() * self.free()).T
        return torch.linalg.solve_triangular(self.matrix, moves, upper=False).T * self.trained.n

    def solve_transposed(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        if not self._written(len(rows)):
            return self._in_parts(solve_backwards, rows, "backwards through the rounds") * self.trained.n
        found = torch.linalg.solve_triangular(self.matrix.T, rows.double().T, upper=True).T
        return found * self.free() * self.trained.n

    def row_products(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k n"]:
        """S . c_i for every row s and training row i, c_i what the row adds to the equations."""
        return row_products(self.trained, self.known, rows, "products with all rows")

    def product(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        if not self._written(len(rows)):
            return self._in_parts(multiply, rows, "products through the rounds") / self.trained.n
        return rows.double() @ self.matrix.T / self.trained.n

    def recomputed(self, rows: Int[Tensor, " k"]) -> Float[Tensor, " p"]:
        w = self.trained.w.clone()
        w[rows] = 0
        found = fit(self.trained.with_weights(w))
        return found.theta.masked_fill(found.empty & ~self.fitted.empty, torch.nan)

    def parts(
        self, rows: Int[Tensor, " k"], solved: Float[Tensor, "1 p"], inputs: Tensor
    ) -> Float[Tensor, "k d_2"] | None:
        structure = self.trained.structure
        if structure.paths is None:
            return None
        each = -row_equations(self.trained.rows(rows), self.fitted.theta) * solved / self.trained.n
        direct = each * structure.met(inputs[:, 0])
        columns = torch.from_numpy(direct.numpy() @ structure.columns)
        start = each[:, : structure.c].sum(1)
        left = each.sum(1) - start - columns.sum(1)
        return torch.cat([columns, start[:, None], left[:, None]], dim=1)

    @property
    def smooth(self) -> bool:
        return self.trained.loss.quantiles is None

    def read(self, prepared: tuple[Tensor, Any]) -> Any:
        return {READ: prepared}

    @property
    def cost(self) -> int:
        return self.trained.n * len(self.trained.structure.leaf)

    def free(self) -> Float[Tensor, " p"]:
        return (~self.fitted.below.isinf()).double()

    def _in_parts(self, work: Any, rows: Tensor, title: str) -> Tensor:
        size = max(1, AT_ONCE // (self.trained.n * self.trained.structure.c))
        parts = rows.double().split(size)
        if len(parts) == 1:
            return work(self.trained, self.known, parts[0], title)
        return torch.cat([work(self.trained, self.known, part) for part in track(parts, title, len(parts))])
