"""What every problem offers to curvatures, influence and verification: the objective's values and derivatives.

R(theta) = (1/n) sum_i w_i l(z_i, theta) + 1/2 sum_j l2_j theta_j^2
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int

from .data.user_terms import Terms
from .linalg.flat_vectors import Layout
from .measures import Measure
from .runtime.distributed import gather_rows
from .runtime.fingerprint import content_hash
from .types import Keep, Operator, Params, Tensor, as_tensor


class Objective(ABC):
    """The objective that training minimised, at the parameters it arrived at.

    Every gradient of a *training* example is that of w_i l(z_i, theta), plus l2 * theta where `keep="mean"` (the
    penalty is folded into every L, footnote 1). Gradients of *test* examples have neither weight nor penalty.
    """

    n: int
    layout: Layout
    theta: Float[Tensor, " p"]
    l2: Float[Tensor, " p"]
    weights: Float[Tensor, " n"]
    keep: Keep
    convex: bool
    """Whether the Hessian is known to be positive semi-definite at every theta."""
    deterministic: bool = False
    """Whether two passes over the data are equal by construction, so that nobody needs to look."""
    terms: Terms = Terms()
    """The user's own terms: the form of their batches and the names of rows, columns and classes."""

    @property
    def p(self) -> int:
        """The number of parameters."""
        return self.layout.size

    @property
    def dtype(self) -> torch.dtype:
        """The precision of parameters and answers."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where parameters and answers live."""
        return self.theta.device

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        """The precisions that products can be evaluated in, from the fastest to `dtype`."""
        return (self.dtype,)

    @property
    def folded_penalty(self) -> Float[Tensor, " p"]:
        """The penalty's part of one training example's gradient: l2 * theta, or 0 where the total is kept."""
        return self.l2 * self.theta if self.keep == "mean" else torch.zeros_like(self.theta)

    @property
    def gauge(self) -> Float[Tensor, "q p"] | None:
        """Unit directions along which R is flat whatever the data (softmax without penalty), or None.

        Gradients of losses are orthogonal to them, so answers are well defined although the curvature is singular.
        """
        return None

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The columns of X as the model sees them (after a pipeline's transformers), where they have names."""
        return self.terms.feature_names

    @property
    def train_index(self) -> pd.Index | None:
        """The ids of the training rows, where they came with some."""
        return self.terms.train_index

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The class names by their number, where there are some."""
        return self.terms.classes

    @property
    def params(self) -> Params:
        """Theta by name."""
        return self.layout.unpack(self.theta)

    @abstractmethod
    def gradient(self) -> Float[Tensor, " p"]:
        """The gradient of R at theta, penalty included."""

    @abstractmethod
    def train_losses(self) -> Float[Tensor, " n"]:
        """l(z_i, theta) of every training example, without weight and penalty."""

    @abstractmethod
    def train_batch(self, index: Int[Tensor, " b"]) -> Any:
        """Those training examples, as a batch."""

    @abstractmethod
    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """The gradients of those training examples, weights and folded penalty included."""

    @abstractmethod
    def gradients_as_train(self, batch: Any) -> Float[Tensor, "b p"]:
        """The gradients that examples of `batch` would have in training (weight 1, folded penalty)."""

    @abstractmethod
    def products(
        self, rows: Float[Tensor, "k p"], within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        """S . g_i for every row s and training example i: the streamed pass behind all scores.

        The examples are those `within`, by default this process's share of all.
        """

    def all_products(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k n"]:
        """The products of all training examples, of all processes."""
        own = [values.T for _, values in self.products(rows)]
        return gather_rows(torch.cat([rows.new_zeros(0, len(rows)), *own])).T

    @abstractmethod
    def evaluate(
        self, batch: Any, measure: Measure | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        """The measure (default: the loss) of each test example, at theta or other parameters."""

    @abstractmethod
    def test_gradients(self, batch: Any, measure: Measure | None = None) -> Float[Tensor, "m p"]:
        """The gradients of the measure (default: the loss) in the parameters."""

    @abstractmethod
    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        """The derivative of s . grad L(z) in the inputs of z, for every row s and example z of `batch`.

        `at` names a layer of a network, whose outputs then take the place of the inputs.
        """

    @abstractmethod
    def operator(self, *, gauss_newton: bool = False, dtype: torch.dtype | None = None) -> Operator:
        """The Hessian (or Gauss-Newton matrix) of R, penalty included, prepared once for many products."""

    @abstractmethod
    def sampled(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"], *, gauss_newton: bool = False
    ) -> Float[Tensor, "k p"]:
        """Row by row the product with the curvature of that row's own sample of training examples."""

    @abstractmethod
    def draws(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        """Random vectors whose covariance is the Gauss-Newton matrix without penalty, at the price of k gradients.

        Raises ValueError where the loss is not convex in its outputs.
        """

    @abstractmethod
    def matrix(self, *, gauss_newton: bool = False, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The explicit matrix of `operator`."""

    @abstractmethod
    def root(self, *, gauss_newton: bool = False) -> Float[Tensor, "r p"] | None:
        """U (r, p) with curvature = U^T U + diag(l2) where r < p and such a root is at hand, else None."""

    @abstractmethod
    def subset(self, index: Int[Tensor, " b"]) -> Objective:
        """The same parameters and penalty on some of the training examples."""

    @abstractmethod
    def _hashed(self) -> list[Tensor]:
        """The data that the fingerprint covers."""

    def check_current(self) -> None:  # noqa: B027 - an optional hook: only problems that alias a live model need it
        """Raise `StaleError` if the user's model has moved since this problem was made."""

    @property
    def spectra(self) -> dict[bool, tuple[float, float]]:
        """The ends of the spectrum of the Hessian (False) and the Gauss-Newton matrix (True), once somebody looked."""
        return self.__dict__.setdefault("_spectra", {})

    def _forget(self) -> None:
        """Drop what was derived from theta and data, in a copy that gets others."""
        for name in ("_fingerprint", "_spectra"):
            self.__dict__.pop(name, None)

    def fingerprint(self) -> str:
        """A content hash of weights, data and settings: equal problems give equal answers."""
        if not hasattr(self, "_fingerprint"):
            settings = repr((self.n, self.keep, self.layout))
            self._fingerprint = content_hash([self.theta, self.l2, *self._hashed()], settings)
        return self._fingerprint


def expand_l2(l2: Any, theta: Tensor) -> Tensor:
    """A number or one number per parameter -> (p,), checked."""
    strength = torch.as_tensor(l2, dtype=theta.dtype, device=theta.device)
    if strength.ndim not in (0, 1) or (strength.ndim == 1 and len(strength) != len(theta)):
        raise ValueError(
            f"l2 must be a number or have shape ({len(theta)},), got shape {tuple(strength.shape)}"
        )
    bad = ~((strength >= 0) & strength.isfinite())
    if bool(bad.any()):
        raise ValueError(f"l2 must be >= 0 and finite, got {float(strength[bad].flatten()[0])}")
    return strength.expand(len(theta)).clone()


def check_keep(keep: str) -> None:
    """Refuse anything but the two conventions."""
    if keep not in ("mean", "total"):
        raise ValueError(f'keep must be "mean" or "total", got {keep!r}')


def check_weights(weights: Any, n: int) -> Tensor:
    """Per-example weights (n,), finite and >= 0, or ones."""
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    w = as_tensor(weights).to(torch.float64)
    if w.shape != (n,):
        raise ValueError(f"weights must have shape ({n},), got {tuple(w.shape)}")
    if not bool((w >= 0).all() and w.isfinite().all()):
        raise ValueError("weights must be finite and >= 0")
    if not bool(w.any()):
        raise ValueError("weights are all zero: nothing was trained on")
    return w
