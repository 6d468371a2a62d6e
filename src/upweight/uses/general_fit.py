"""Generalised linear models as a function of parameters and of the rows' weights: a coefficient and its error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..losses import LinearLoss
from ..objective import Objective
from ..types import Tensor
from .standard_errors import Errors
from .weighted_fit import NORMAL, Told

STEPS = 100
"""Newton steps after which there is no optimum."""
FINISHED = 1e-16
"""The Newton decrement, in units of the loss, at which training ends."""
SMALLEST = 1e-6
"""The share of a Newton step below which it is taken as it is."""
DETERMINED = 1e-12
"""The least curvature in a direction, as a share of the largest, that determines parameters."""


@dataclass(frozen=True, eq=False)
class GeneralFit:
    """A generalised linear model of one output by its columns.

    Args:
        X: regressors (n, p), an intercept among them.
        y: targets as the loss takes them.
        loss: of a row.
        weights: the weights of the rows (n,).
        counted: what each row counts for (n,).
        fitted: the fitted parameters (p,), where training without some rows begins.
    """

    X: Float[Tensor, "n p"]
    y: Tensor
    loss: LinearLoss
    weights: Float[Tensor, " n"]
    counted: Float[Tensor, " n"]
    fitted: Float[Tensor, " p"]

    @classmethod
    def of(cls, problem: Objective) -> GeneralFit | None:
        """The model that a problem is, None where it is none without a penalty.

        Where the observed and the expected information differ and nothing is dispersed, packages differ too: None.
        """
        linear = problem.linear
        if linear is None or linear.c != 1 or bool((linear.l2 > 0).any()) or linear.penalty.slope is not None:
            return None
        loss, eta = linear.loss, linear.outputs()
        known = loss.likelihood or loss.expected_curvature is not None
        if not known or linear.counts is not None:
            return None
        own = None if loss.dispersed else loss.expected_curvature
        if own is not None and not torch.allclose(own(eta, linear.y), loss.curvature(eta, linear.y)[0]):
            return None
        X = linear.design.block(slice(None), torch.float64).dense()
        X = torch.cat([X, X.new_ones(len(X), 1)], 1) if linear.has_intercept else X
        counted = linear.weights if loss.repeated else (linear.weights > 0).double()
        return cls(X, linear.y, loss, linear.weights, counted, linear.theta)

    def refusal(self, errors: Errors) -> str:
        """Why such errors are none of this model, in a sentence; "" where they are."""
        if errors.kind in ("HC1", "HC2", "HC3"):
            return f"{errors.kind} of a generalised linear model is HC0 in statsmodels: ask for that"
        if self.loss.repeated and errors.kind != "nonrobust":
            return "robust errors with weights that count rows are not known: repeat the rows"
        return ""

    def trained(self, omega: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
        """The parameters at the optimum of the rows so weighted, differentiable in omega; NaN where there is none.

        The last Newton step is taken at an optimum that is held, which gives the derivative of the optimum itself.
        """
        theta, now = self.fitted, torch.inf
        with torch.no_grad():
            for _ in range(STEPS):
                step, decrement = self._newton(theta, self.weights * omega)
                if not decrement >= 0:
                    return torch.full_like(theta, torch.nan)
                if decrement < FINISHED:
                    break
                size, now = 1.0, self._value(theta, omega)
                while not self._value(theta + size * step, omega) <= now + FINISHED and size > SMALLEST:
                    size /= 2
                theta = theta + size * step
            else:
                return torch.full_like(theta, torch.nan)
        return theta + self._newton(theta, self.weights * omega)[0]

    def _value(self, theta: Float[Tensor, " p"], omega: Float[Tensor, " n"]) -> float:
        return float(self.weights * omega @ self.loss.value((self.X @ theta)[:, None], self.y))

    def _newton(self, theta: Float[Tensor, " p"], w: Float[Tensor, " n"]) -> tuple[Tensor, float]:
        """A Newton step from parameters, and the decrement; NaN where the Hessian is not positive definite."""
        eta = (self.X @ theta)[:, None]
        gradient = self.X.T @ (w * self.loss.residual(eta, self.y)[:, 0])
        H = self.X.T @ ((w * self.loss.curvature(eta, self.y)[0][:, 0])[:, None] * self.X)
        if not float(torch.linalg.eigvalsh(H.detach())[0]) > DETERMINED * float(H.detach().diagonal().max()):
            return torch.full_like(theta, torch.nan), float("nan")
        step = -torch.linalg.solve(H, gradient)
        return step, float((-step @ gradient).detach())

    def told(
        self,
        a: Float[Tensor, " p"],
        omega: Float[Tensor, " n"],
        errors: Errors,
        theta: Float[Tensor, " p"] | None = None,
    ) -> Told:
        """A linear function of the coefficients at parameters, and its error, differentiable in both.

        Args:
            a: its gradient.
            omega: what the weights of the rows are multiplied with; 0: the row is not there.
            errors: which standard errors.
            theta: the parameters; None: those that training with these weights arrives at.
        """
        theta = self.trained(omega) if theta is None else theta
        if not bool(torch.isfinite(theta.detach()).all()):
            return Told(*torch.full((3,), torch.nan, dtype=torch.float64))
        w, eta = self.weights * omega, (self.X @ theta)[:, None]
        r, observed = self.loss.residual(eta, self.y)[:, 0], self.loss.curvature(eta, self.y)[0][:, 0]
        expected = observed
        if self.loss.expected_curvature is not None and self.loss.dispersed:
            expected = self.loss.expected_curvature(eta, self.y)[:, 0]
        n, p = omega @ self.counted, self.X.shape[1]
        kept = (omega.detach() > 0).double()[:, None]
        counts = errors.counting.counts(kept, errors.codes, torch.tensor(float(p)).double(), self.counted)
        counts = counts._replace(rows=n[None])
        curvature = expected if errors.kind == "nonrobust" else observed
        q = torch.linalg.solve(self.X.T @ ((w * curvature)[:, None] * self.X), a)
        if errors.kind == "nonrobust":
            dispersion = torch.tensor(1.0).double()
            if self.loss.dispersed:
                dispersion = w @ (r.square() / torch.where(expected > 0, expected, 1.0)) / (n - p)
            return Told(a @ theta, (a @ q * dispersion).sqrt(), torch.tensor(NORMAL).double())
        scores = w * r * (self.X @ q)
        if errors.codes is not None:
            sums = scores.new_zeros(int(errors.codes.max()) + 1).index_add(0, errors.codes, scores)
            size = sums.square().sum() * errors.counting.factor(counts)[0]
        else:
            size = (scores.square() / torch.where(omega > 0, omega, 1.0)).sum()
        return Told(a @ theta, size.sqrt(), torch.tensor(NORMAL).double())
