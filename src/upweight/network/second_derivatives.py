"""The Hessian of a network's objective and its Gauss-Newton matrix, in every form that a solver asks for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch.utils._pytree import tree_map

from ..capabilities import SecondDerivative
from ..data.examples import count
from ..runtime.alone import alone
from ..runtime.distributed import own_seed, sum_across
from ..runtime.progress import track
from ..types import Operator, Tensor, wide
from .comparisons import within_rounding
from .curvature_products import Mode, gauss_newton_product, hessian_product
from .engines import COMPARED, gauss_newton_gap, hessian_gap, no_second_derivative, right_engine
from .gauss_newton_matrix import sum_of_squares
from .layers.gradients import NetworkLayers
from .output_curvature import FEW_OUTPUTS, cotangents, flat_outputs
from .passes import Passes

COLUMNS = 64
"""Columns of an explicit matrix that are taken at once where it comes from products."""


@dataclass(frozen=True, eq=False)
class NetworkCurvature(SecondDerivative):
    """A second derivative as a mean over training examples, plus diag(l2). `dtype` of products is theta's always."""

    passes: Passes
    l2: Float[Tensor, " p"]

    @abstractmethod
    def engine(self, wanted: Mode) -> Mode:
        """The engine that was asked for where it is right, else another that is: compared once per model.

        Raises DerivativeError where there is none.
        """

    @abstractmethod
    def block(self, batch: Any, weights: Float[Tensor, " b"], mode: Mode) -> Operator:
        """The product with what a batch adds to the sum over the data.

        Args:
            batch: b examples.
            weights: their weights w (b,).
            mode: which engine; "double" makes a graph once for many products.

        Returns:
            The function rows (k, p) -> rows (k, p), without penalty.
        """

    def few(self) -> Any:
        """The examples that engines are compared on."""
        return self.passes.data.take(slice(0, min(COMPARED, self.passes.n, self.passes.memory.size)))

    def product(self, dtype: torch.dtype | None = None) -> Operator:
        blocks = _Blocks(self)

        def product(rows: Tensor) -> Tensor:
            inner = rows.to(self.passes.theta)
            total = sum_across(self.passes.memory.patiently(lambda: blocks.sum(inner)))
            blocks.used = True
            return total.div_(self.passes.n).add_(self.l2 * inner).to(rows.dtype)

        return product

    @alone
    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        inner, b = rows.to(self.passes.theta), index.shape[1]
        samples = [(self.passes.data.take(i), self.passes.weights_of(i)) for i in index]

        def one(row: Tensor, sample: tuple[Any, Tensor], mode: Mode) -> Tensor:
            return self.block(*sample, mode)(row[None])[0]

        def fast() -> Tensor:
            stack = tree_map(lambda *leaves: torch.stack(leaves), *samples)
            return torch.vmap(lambda row, sample: one(row, sample, "forward"))(inner, stack)

        def slow() -> Tensor:
            pairs = zip(inner, samples, strict=True)
            return torch.stack([one(row, sample, self.engine("double")) for row, sample in pairs])

        def gap(found: Tensor) -> float:
            right = one(inner[0], samples[0], self.engine("double"))
            return within_rounding(found[0], right, self.passes.evaluation.coarsest)

        what = f"products of minibatches with {type(self).__name__}"
        found = self.passes.evaluation.shortcuts.go(what, f"{what} are taken one by one", fast, slow, gap)
        return (found / b + self.l2 * inner).to(rows.dtype)

    def root(self) -> None:
        return None

    def diagonal(self) -> None:
        return None

    def centred(self) -> None:
        return None


@dataclass(frozen=True, eq=False)
class NetworkHessian(NetworkCurvature):
    """The Hessian of R at theta, penalty included."""

    def engine(self, wanted: Mode) -> Mode:
        passes = self.passes
        found = right_engine(passes.evaluation, passes.theta, self.few, wanted, "Hessian", hessian_gap)
        if found is None:
            raise no_second_derivative(passes.evaluation, "Hessian")
        return found

    def block(self, batch: Any, weights: Float[Tensor, " b"], mode: Mode) -> Operator:
        return hessian_product(self.passes.evaluation, self.passes.theta, batch, weights, mode)

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        return from_products(self.product(), self.passes.theta, dtype)

    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        raise TypeError("a Hessian may have negative eigenvalues and then has no root: use GaussNewton")


@dataclass(frozen=True, eq=False)
class NetworkGaussNewton(NetworkCurvature):
    """J^T H_out J of R at theta, penalty included; `layers` gives Jacobians of many examples, `c` counts outputs."""

    layers: NetworkLayers
    c: int

    def engine(self, wanted: Mode) -> Mode:
        passes = self.passes
        found = right_engine(
            passes.evaluation, passes.theta, self.few, wanted, "GaussNewton", gauss_newton_gap
        )
        return found or "loop"

    def block(self, batch: Any, weights: Float[Tensor, " b"], mode: Mode) -> Operator:
        return gauss_newton_product(self.passes.evaluation, self.passes.theta, batch, weights, mode)

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        if self.c > FEW_OUTPUTS:
            return from_products(self.product(), self.passes.theta, dtype)
        found = self.passes.memory.patiently(lambda: sum_of_squares(self.passes, self.layers, self.c))
        total = sum_across(found).div_(self.passes.n)
        total = total.triu() + total.triu(1).T
        total.diagonal().add_(self.l2.double())
        return total.to(dtype or self.passes.theta.dtype)

    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        seed = own_seed(generator)
        total = sum_across(self.passes.memory.patiently(lambda: self._sampled(k, seed)))
        return total.div_(self.passes.n**0.5).to(self.passes.theta.dtype)

    def _sampled(self, k: int, seed: int) -> Float[Tensor, "k p"]:
        """sum_i J_i^T v_i for k random cotangents v_i of each of this process's examples, in float64."""
        of, theta = self.passes.evaluation, self.passes.theta
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(k, len(theta), dtype=torch.float64, device=theta.device)
        for batch, w in track(self.passes.blocks(), "random right-hand sides", self.passes.block_count):
            V = k**0.5 * cotangents(of, theta, batch, k, generator) * w.sqrt()[:, None]
            at = theta.detach().clone().requires_grad_()
            with torch.enable_grad():
                outputs = flat_outputs(of.outputs(at, batch), count(batch))
            for row, v in zip(total, V, strict=True):
                row += torch.autograd.grad(outputs, at, v, retain_graph=True, materialize_grads=True)[0]
        return total


class _Blocks:
    """The sum of all blocks' products; their graphs are kept from the second product on, where memory suffices."""

    def __init__(self, of: NetworkCurvature) -> None:
        self.of, self.used = of, False
        self.fits = of.passes.keeps_graphs
        self.kept: list[Operator] = []

    def made(self) -> Iterator[Operator]:
        """The blocks, one after the other."""
        mode = self.of.engine("double")
        for batch, w in self.of.passes.blocks():
            yield self.of.block(batch, w, mode)

    def sum(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """The products with this process's blocks, added up."""
        try:
            if self.fits and self.used and not self.kept:  # one product alone does not pay for the memory
                self.kept.extend(self.made())
            total = torch.zeros(rows.shape, dtype=wide(rows.dtype), device=rows.device)
            for block in self.kept or self.made():
                total += block(rows)
        except RuntimeError:
            self.kept.clear()
            self.fits = False
            raise
        return total


def from_products(
    product: Operator, like: Float[Tensor, " p"], dtype: torch.dtype | None
) -> Float[Tensor, "p p"]:
    """The explicit matrix of a product, made symmetric.

    Args:
        product: rows (k, p) -> rows (k, p).
        like: a flat vector (p,), whose precision and device the products have.
        dtype: the precision of the matrix, by default that of `like`.

    Returns:
        The matrix (p, p).
    """
    eye = torch.eye(len(like), dtype=like.dtype, device=like.device)
    H = torch.cat([product(part) for part in eye.split(COLUMNS)])
    H = (H + H.T) / 2
    return H if dtype is None else H.to(dtype)
