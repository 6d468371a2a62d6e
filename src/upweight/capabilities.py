"""What objectives can do, as typed objects: second derivatives, gradients by layers; and what defaults ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int

from .linalg.outer_products import Outer, Pairs, WeightLayout
from .measures import Measure
from .types import Operator, Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What defaults need to know about an objective.

    `n` training examples, `p` parameters, `c` outputs per example. `convex` says whether the Hessian is positive
    semi-definite at every theta, `linear` whether the outputs are linear in the parameters and the loss is convex in
    them, so that the Gauss-Newton matrix is the Hessian. `closed_form` problems differentiate without autograd: two
    passes over their data are equal by construction, and the gradient costs no pass of its own.
    """

    n: int
    p: int
    c: int
    convex: bool
    linear: bool
    closed_form: bool


class SecondDerivative(ABC):
    """The Hessian of R or its Gauss-Newton matrix, penalty included, in every form that a solver asks for."""

    @abstractmethod
    def product(self, dtype: torch.dtype | None = None) -> Operator:
        """Rows (k, p) -> rows (k, p), prepared once for many products, in the precision `dtype`."""

    @abstractmethod
    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The explicit matrix; p^2 numbers."""

    @abstractmethod
    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        """Row by row the product with the curvature of that row's own sample of training examples."""

    @abstractmethod
    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        """Random vectors whose covariance is this matrix without penalty, at the price of k gradients.

        Raises TypeError where it may have negative eigenvalues and thus no root, ValueError where the loss is not
        convex in its outputs.
        """

    @abstractmethod
    def root(self) -> Float[Tensor, "r p"] | None:
        """U (r, p) with this matrix = U^T U + diag(l2), where r < p and such a root is at hand, else None."""


class SidesPlan(NamedTuple):
    """How `LayerGradients.pulled_back` looks at the training data.

    `samples` random combinations of the outputs (None: every output), drawn from `seed`; numbers in `precision`.
    """

    samples: int | None
    seed: int
    precision: torch.dtype


class Sides(ABC):
    """One cotangent of the outputs of some examples, pulled back to every weight matrix.

    The gradient of cotangent . outputs in matrix i is sum_t left_t right_t^T, for each example.
    """

    @abstractmethod
    def left(self, i: int) -> Float[Tensor, "b t r"]:
        """The left factors of matrix i."""

    @abstractmethod
    def right(self, i: int) -> Float[Tensor, "b t s"]:
        """The right factors of matrix i; the constant of an intercept comes last."""

    @abstractmethod
    def rest(self) -> Float[Tensor, "b q"]:
        """The entries outside weight matrices."""


class LayerGradients(ABC):
    """Gradients of single examples as sums of outer products, weight matrix by weight matrix."""

    @property
    @abstractmethod
    def layout(self) -> WeightLayout:
        """The weight matrices inside theta, and the entries outside all of them."""

    @property
    @abstractmethod
    def parameters(self) -> frozenset[str]:
        """The names of the parameters that weight matrices hold."""

    @abstractmethod
    def shares_right(self, i: int) -> bool:
        """Whether the right factors of matrix i are the same for every cotangent (not so for embeddings)."""

    @property
    @abstractmethod
    def together(self) -> bool:
        """Whether gradients of many examples can be had at once this way, in agreement with plain differentiation."""

    @abstractmethod
    def train_pairs(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Pairs, Float[Tensor, "k b"]]]:
        """Bare gradients of training examples as small factors, and their products with `rows`.

        The examples are those `within`, by default this process's share. Only where `together`.
        """

    @abstractmethod
    def test_pairs(self, batch: Any, measure: Measure | None = None) -> Iterator[Pairs]:
        """The gradients of loss or measure of test examples as small factors, block by block.

        Raises TypeError where not `together`.
        """

    @abstractmethod
    def pulled_back(
        self, plan: SidesPlan, title: str
    ) -> Iterator[tuple[Iterator[Sides], Float[Tensor, " b"]]]:
        """This process's training examples, some at a time: one `Sides` per cotangent, and the weights w_i.

        The cotangents v of an example's outputs are such that sum_k v v^T is the loss's curvature in the outputs,
        exactly or in expectation. `title` names the pass in the progress bar. Raises ValueError where the loss is not
        convex in its outputs.
        """

    @abstractmethod
    def patiently(self, work: Callable[[], T]) -> T:
        """What `work` gives, tried again from the start in smaller blocks where memory runs out."""
