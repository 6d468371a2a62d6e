"""The Hessian of a linear model in closed form, H = (1/n) X^T W X + diag(l2): products, matrix, samples and root."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int

from ..capabilities import SecondDerivative
from ..data.design import CentredDesign, Design
from ..linalg.coordinates import Coordinates
from ..linalg.rows import Rows
from ..objective import LinearModel
from ..runtime.distributed import own_seed, shard, sum_across
from ..types import Operator, Tensor, wide
from .output_map import OutputMap

BLOCK_ELEMENTS = 1 << 18
"""Numbers of a block (of X, or rows x outputs x vectors of a product): they stay in cache until they are read again."""
BLOCK_ROWS = 2048
"""The least rows of a block of X."""
LOST = 1e-9
"""The relative error of a variance from which on sparse columns are centred."""
DIGITS = 1e-3
"""The relative error of a diagonal, of which the size is all that matters."""


def rows_at_once(d: int) -> int:
    """How many rows of X, of d columns, are read at once: a quarter million numbers, within 2,048 to 8,192 rows.

    >>> rows_at_once(10), rows_at_once(1000)
    (8192, 2048)
    """
    return max(BLOCK_ROWS, min(8192, BLOCK_ELEMENTS // d))


def product_rows(k: int, c: int) -> int:
    """How many rows of X are read at once in a product with k vectors: k c numbers per row stay in cache.

    Args:
        k: the number of vectors.
        c: the number of outputs per row and vector.

    >>> product_rows(1, 1), product_rows(100, 10)
    (8192, 1024)
    """
    return max(1024, min(8192, BLOCK_ELEMENTS // max(1, k * c)))


@dataclass(frozen=True, eq=False)
class LinearHessian(SecondDerivative):
    """The Hessian of a linear model, H = (1/n) sum_i W_i (x) x_i x_i^T + diag(l2), also its Gauss-Newton matrix.

    W_i = diag(a_i) - u_i u_i^T is the curvature of w_i l_i in the outputs (see `losses`). A product with k vectors
    reads X once; several processes share the training rows.

    Args:
        problem: the linear model, at whose theta it is taken.
        map: how its parameters become outputs.
        columns: the inputs, where they are others than the problem's own.
        known: the diagonal, where somebody has found it already.
    """

    problem: LinearModel
    map: OutputMap
    columns: Design | None = None
    known: Float[Tensor, " p"] | None = None

    @property
    def design(self) -> Design:
        """The inputs X (n, d) whose second moments the matrix is made of."""
        return self.problem.design if self.columns is None else self.columns

    def product(self, dtype: torch.dtype | None = None) -> Operator:
        problem, dtype = self.problem, dtype or self.problem.dtype
        parts, l2 = problem.derivatives(dtype), problem.l2.to(wide(dtype))

        def product(rows: Tensor) -> Tensor:
            total = torch.zeros_like(rows)
            size = min(product_rows(len(rows), problem.c), rows_at_once(problem.d))
            for part, block in self.design.blocks(size, dtype, shard(problem.n)):
                total += self.map.backward(block, parts.take(part).curve(self.map.forward(block, rows)))
            return sum_across(total).div_(problem.n).add_(l2 * rows)

        return product

    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        problem, (k, b) = self.problem, index.shape
        flat = index.flatten()
        X = self.design.take(flat).block(slice(None), rows.dtype).dense().view(k, b, problem.d)
        weight, bias = self.map.split(rows)
        eta = X @ weight.transpose(1, 2)
        eta = eta if bias is None else eta + bias[:, None]
        parts = problem.derivatives(rows.dtype).take(flat)
        Z = parts.curve(eta.view(k * b, problem.c, 1)).view(k, b, problem.c) / b
        out = (Z.transpose(1, 2) @ X).flatten(1)
        out = torch.cat([out, Z.sum(1)], dim=1) if self.map.intercept else out
        return out + problem.l2.to(rows.dtype) * rows

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The Hessian (p, p), penalty included, from symmetric products X^T diag(w) X, one per pair of outputs.

        The cost is n d^2 c (c + 1) / 2 operations where outputs share their curvature (softmax), n d^2 c where each
        has its own; memory p^2 numbers and two blocks of X.
        """
        problem, dtype = self.problem, dtype or self.problem.dtype
        _, a, u, _ = problem.derivatives(dtype)
        c, d = problem.c, problem.d
        H = torch.zeros(problem.p, problem.p, dtype=dtype)
        weight, cross, corner = H[: c * d, : c * d].view(c, d, c, d), H[: c * d, c * d :], H[c * d :, c * d :]
        pairs = [(i, j) for i in range(c) for j in range(i, c if u is not None else i + 1)]
        for part, block in self.design.blocks(rows_at_once(d), dtype, shard(problem.n)):
            for i, j in pairs:
                w = a[part, i] if i == j else torch.zeros_like(a[part, i])
                if u is not None:
                    w = w - u[part, i] * u[part, j]
                block.gram(w, weight[i, :, j])
                if self.map.intercept:
                    cross.view(c, d, c)[i, :, j] += block.backward(w[:, None])[0]
                    corner[i, j] += w.sum()
        sum_across(H)
        for i, j in pairs:
            upper = weight[i, :, j].triu()
            weight[i, :, j] = upper + upper.triu(1).T
            weight[j, :, i] = weight[i, :, j]
            if self.map.intercept:
                cross.view(c, d, c)[j, :, i] = cross.view(c, d, c)[i, :, j]
                corner[j, i] = corner[i, j]
        H[c * d :, : c * d] = cross.T
        H.div_(problem.n).diagonal().add_(problem.l2.to(dtype))
        return H

    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        problem = self.problem
        if not problem.loss.convex:
            raise ValueError("the loss is not convex in the outputs: its curvature has no root to draw from")
        generator = torch.Generator().manual_seed(own_seed(generator))
        parts, total = problem.derivatives(), torch.zeros(k, problem.p, dtype=torch.float64)
        size = product_rows(k, problem.c)
        for part, block in self.design.blocks(size, torch.float64, shard(problem.n)):
            S = parts.take(part).root()
            noise = torch.randn(*S.shape[:2], k, generator=generator, dtype=S.dtype)
            total += self.map.backward(block, S @ noise)
        return sum_across(total) / problem.n**0.5

    def root(self) -> Float[Tensor, "r p"] | Rows | None:
        problem = self.problem
        if problem.n * problem.c >= problem.p or not problem.loss.convex:
            return None
        if problem.c == 1 and problem.design.is_sparse and self.columns is None:
            bend = (self._bend[:, 0] / problem.n).sqrt()
            return problem.design.block(slice(None), torch.float64).weighted(bend, self.map.intercept)
        X = self.design.block(slice(None), torch.float64).dense()
        return self.map.outer(problem.derivatives().root().mT, X).flatten(0, 1) / problem.n**0.5

    def diagonal(self) -> Float[Tensor, " p"]:
        return self._around(None) if self.known is None else self.known

    def centred(self) -> tuple[SecondDerivative, Coordinates] | None:
        center = self._center
        if center is None:
            return None
        there = replace(self, columns=CentredDesign(self.problem.design, center), known=self._around(center))
        return there, Coordinates(center=center)

    @property
    def _bend(self) -> Float[Tensor, "n c"]:
        """The curvature of each training example in each of its outputs: the diagonal of W_i."""
        parts = self.problem.derivatives()
        return parts.a if parts.u is None else parts.a - parts.u.square()

    @cached_property
    def _moments(self) -> tuple[Float[Tensor, " c"], Float[Tensor, "c d"], Float[Tensor, "c d"]]:
        """Sums over the training rows, for each output: of its curvature w, of w x and of w x^2, by one pass over X."""
        problem, bend = self.problem, self._bend
        first, second = torch.zeros(2, problem.c, problem.d, dtype=torch.float64)
        for part, block in problem.design.blocks(rows_at_once(problem.d), torch.float64, shard(problem.n)):
            first += block.backward(bend[part])
            second += block.squares(bend[part])
        return bend.sum(0), sum_across(first), sum_across(second)

    def _around(self, center: Float[Tensor, " d"] | None) -> Float[Tensor, " p"]:
        """The diagonal where `center` is subtracted from the columns; from moments where these have the digits."""
        problem, (mass, first, second) = self.problem, self._moments
        if center is not None:
            raw, mean = second, mass[:, None] * center
            second = raw - center * (2 * first - mean)
            if bool((torch.finfo(raw.dtype).eps * raw > DIGITS * second).any()):
                second = self._second_around(center)
        weight = second.flatten()
        found = torch.cat([weight, mass]) if self.map.intercept else weight
        return found / problem.n + problem.l2

    def _second_around(self, center: Float[Tensor, " d"]) -> Float[Tensor, "c d"]:
        """Sums of w (x - center)^2 for each output, by another pass over X."""
        problem, bend = self.problem, self._bend
        total = torch.zeros(problem.c, problem.d, dtype=torch.float64)
        blocks = CentredDesign(problem.design, center).blocks(
            rows_at_once(problem.d), torch.float64, shard(problem.n)
        )
        for part, block in blocks:
            total += block.squares(bend[part])
        return sum_across(total)

    @cached_property
    def _center(self) -> Float[Tensor, " d"] | None:
        """The mean of every column, weighted by the curvature of its examples, where intercepts are free."""
        problem = self.problem
        if not self.map.intercept or bool(problem.l2[-problem.c :].any()):
            return None
        mass, first, second = (part.sum(0) for part in self._moments)
        if not float(mass) > 0:
            return None
        center = first / mass
        if problem.design.is_sparse:  # written out to be centred: only where rounding would take digits
            left = second - mass * center.square()
            if bool((torch.finfo(left.dtype).eps * second <= LOST * left).all()):
                return None
        return center
