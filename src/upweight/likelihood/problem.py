"""The objective of a model of few parameters that is known by its whole likelihood: Cox, negative binomial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int

from ..capabilities import Facts, LayerGradients, Reduced, SecondDerivative
from ..data.per_example import per_example
from ..data.user_terms import Terms
from ..errors import NotConvergedError
from ..linalg.outer_products import Outer, written_out
from ..measures import MeasureLike, as_measure
from ..objective import LinearModel, Objective
from ..penalty import Penalty
from ..runtime.distributed import shard
from ..runtime.unchanging import derived
from ..types import Keep, Operator, Tensor, as_tensor
from .estimates import Estimates
from .likelihood import Likelihood

STEPS = 50
"""Newton steps after which training has failed."""
FINISHED = 1e-9
"""The Newton decrement, as a share of one row's own, at which it ends."""


class LikelihoodProblem(Objective):
    """A model by its whole likelihood: R = (1/n) (minus the log-likelihood, rows weighted) + 1/2 sum_j l2_j theta_j^2.

    The gradient of row i is w_i times the derivative, in w_i, of the gradient of all rows; these add up to it. For few
    parameters: gradients of all rows take p passes, those of a Newton step without a row as many, of what is left.

    Args:
        likelihood: what was maximised.
        theta: the fitted parameters (p,).
        l2: the strength of the penalty on the mean loss, a number or one per parameter (p,).
        weights: the weight of each row (n,).
        keep: which retraining is predicted.
        terms: the user's form of batches, and names.
    """

    likelihood: Likelihood

    def __init__(
        self, likelihood: Likelihood, theta: Any, *, l2: Any = 0.0, weights: Any, keep: Keep, terms: Terms
    ) -> None:
        at = torch.as_tensor(theta, dtype=torch.float64).clone()
        super().__init__(
            likelihood=likelihood,
            theta=at,
            layout=likelihood.layout,
            penalty=Penalty.of(l2, at, keep),
            weights=torch.as_tensor(weights, dtype=torch.float64).clone(),
            terms=terms,
        )

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return len(self.weights)

    @property
    def facts(self) -> Facts:
        return Facts(self.n, self.p, 1, convex=False, linear=False, closed_form=True)

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return (torch.float64,)

    @property
    def gauge(self) -> None:
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        return ()

    @property
    def linear(self) -> LinearModel | None:
        return None

    @property
    def layers(self) -> LayerGradients | None:
        return None

    @property
    def hessian(self) -> SecondDerivative:
        return DenseHessian(self.total[1] / self.n + torch.diag(self.l2))

    @property
    def gauss_newton(self) -> SecondDerivative:
        return self.hessian

    @property
    def reduced(self) -> Reduced:  # type: ignore[override]
        """Newton steps and refits without some of the rows."""
        return Without(self)

    # -- the objective ---------------------------------------------------------------------------------------------

    @derived
    def total(self) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]]:
        """The gradient and the Hessian of the total of all rows, without penalty."""
        return self.likelihood.derivatives(self.theta, self.weights)

    @derived
    def _by_weight(self) -> Float[Tensor, "n p"]:
        """The derivative of the gradient of the total in the weight of each row."""
        theta, w = self.theta.clone().requires_grad_(), self.weights.clone().requires_grad_()
        gradient = torch.autograd.grad(self.likelihood.total(theta, w), theta, create_graph=True)[0]
        each = [torch.autograd.grad(one, w, retain_graph=True)[0] for one in gradient]
        return torch.stack(each, dim=1)

    def gradient(self) -> Float[Tensor, " p"]:
        return self.total[0] / self.n + self.penalty.gradient(self.theta)

    def train_losses(self) -> Float[Tensor, " n"]:
        return self.likelihood.losses(self.theta, self.likelihood.X, self.likelihood.y)

    def train_batch(self, index: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        return self.likelihood.X[index], self.likelihood.y[index]

    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        return self._by_weight[index] * self.weights[index, None] + self.folded_penalty

    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        within = within or shard(self.n)
        yield within, written_out(rows) @ self.train_gradients(torch.arange(within.start, within.stop)).T

    @property
    def sample_weights(self) -> Float[Tensor, " n"]:
        return self.weights

    # -- test examples ---------------------------------------------------------------------------------------------

    def label_weights(self, batch: Any) -> Float[Tensor, " b"]:
        return torch.ones(len(self.prepared(batch)[0]), dtype=torch.float64)

    def prepared(self, batch: Any) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b _"]]:
        """A batch as the likelihood computes with it: columns, and what else it knows of each row."""
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a batch is (inputs, targets), got {type(batch).__name__}")
        X, y = batch
        if isinstance(X, Tensor) and isinstance(y, Tensor):  # rows of `train_batch`: nothing to prepare
            return X, y
        X, y = (self.terms.prepare or (lambda *both: both))(X, y)
        return as_tensor(X).double(), as_tensor(y).double()

    def evaluate(
        self, batch: Any, measure: MeasureLike | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        return self._measured(batch, measure, self.theta if theta is None else theta).detach()

    def _measured(self, batch: Any, measure: MeasureLike | None, theta: Tensor) -> Float[Tensor, " m"]:
        asked = as_measure(measure)
        if asked is not None and asked.single:
            params = self.layout.unpack(theta)
            return asked.number(params, lambda: self._looked_at(batch, theta)).view(1)
        X, y = self.prepared(batch)
        if asked is None:
            return self.likelihood.losses(theta, X, y)
        return per_example(asked.function, self.likelihood.outputs(theta, X), y)

    def _looked_at(self, batch: Any, theta: Tensor) -> tuple[Tensor, Tensor]:
        X, y = self.prepared(batch)
        return self.likelihood.outputs(theta, X), y

    def test_gradients(self, batch: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        asked = as_measure(measure)
        if asked is not None:
            asked.check_smooth()
        theta = self.theta.clone().requires_grad_()
        values = self._measured(batch, measure, theta)
        zero = torch.zeros_like(theta)
        each = [torch.autograd.grad(one, theta, retain_graph=True, allow_unused=True)[0] for one in values]
        return torch.stack([zero if one is None else one for one in each])

    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        raise TypeError("derivatives in the inputs are for linear models and networks")

    # -- other problems ----------------------------------------------------------------------------------------------

    def subset(self, index: Int[Tensor, " b"]) -> LikelihoodProblem:
        return self._of_rows(index, self.penalty)

    def _of_rows(self, index: Int[Tensor, " b"], penalty: Penalty) -> LikelihoodProblem:
        """The problem on some of the rows; a penalty that is measured in what they spread follows that."""
        part = self.likelihood.take(index)
        units = part.spread / self.likelihood.spread.clamp(min=1e-300)
        return self._copy(
            likelihood=part,
            weights=self.weights[index],
            terms=self.terms.take(index),
            penalty=replace(penalty, l2=penalty.l2 * units),
        )

    def without(self, rows: Int[Tensor, " k"]) -> LikelihoodProblem:
        """The problem of the rows that are left, at the same parameters; the penalty as a refit has it."""
        kept = torch.ones(self.n, dtype=torch.bool)
        kept[rows] = False
        left = self._of_rows(kept.nonzero()[:, 0], self.penalty.without(len(rows), self.n))
        if (
            self.likelihood.rows_apart and len(rows) < self.n // 2
        ):  # what leaves is less to look at than what is left
            gone = zip(self.total, self.subset(rows).total, strict=True)
            left.cache["total"] = tuple(whole - part for whole, part in gone)
        return left

    def newton_step(self) -> Float[Tensor, " p"]:
        """What a Newton step adds to theta; NaN where the Hessian is not positive definite."""
        H, size = self.hessian.matrix(), self.hessian.matrix().diagonal()
        if not bool((size > 0).all()):
            return torch.full_like(self.theta, torch.nan)
        unit = size.rsqrt()
        lower, failed = torch.linalg.cholesky_ex(unit[:, None] * H * unit)
        if int(failed):
            return torch.full_like(self.theta, torch.nan)
        return -unit * torch.cholesky_solve((unit * self.gradient())[:, None], lower)[:, 0]

    def minimised(self) -> LikelihoodProblem:
        """The problem at its optimum, by Newton steps that are halved while they leave the domain.

        Raises:
            NotConvergedError: where they do not arrive.
        """
        here = self
        for _ in range(STEPS):
            step = here.newton_step()
            decrement = float(-step @ here.gradient())
            if 0 <= decrement * here.n <= FINISHED**2 * here.p:
                return here.at(here.theta + step)
            size, value = 1.0, here.value()
            there = here.at(here.theta + step)
            while not there.value() <= value + 1e-12 * abs(value) and size > 1e-6:
                size /= 2
                there = here.at(here.theta + size * step)
            here = there
        raise NotConvergedError(
            f"Newton steps did not arrive: the gradient has norm {float(here.gradient().norm()):.1e}"
        )

    @property
    def off(self) -> float:
        """The gradient of the objective in the norm of H^-1, in what one row contributes to it: 1 hides single rows."""
        step = self.newton_step()
        ones = self._by_weight * self.weights[:, None] / self.n
        sizes = (ones * torch.linalg.solve(self.hessian.matrix(), ones.T).T).sum(1)
        return float((-step @ self.gradient()).clamp(min=0).sqrt() / sizes.mean().sqrt())

    def value(self) -> float:
        """The objective R(theta), penalty included."""
        total = self.likelihood.total(self.theta, self.weights) / self.n
        return float(total + self.penalty.value(self.theta))

    def retrained(self, module: torch.nn.Module) -> LikelihoodProblem:
        return self.at(self.layout.taken(dict(module.named_parameters())))

    # -- what tells that it is still the one that was asked about -----------------------------------------------------

    def check_data(self) -> None:
        """Nothing can have changed: data were copied when the problem was made."""

    def hashed(self) -> list[Tensor]:
        return [self.likelihood.X, self.likelihood.y, self.weights]


@dataclass(frozen=True, eq=False)
class Without(Reduced):
    """What is left of a problem without some of its rows, by the gradient and the Hessian of the rest."""

    problem: LikelihoodProblem

    @property
    def squares(self) -> Likelihood | None:
        """The likelihood, where it is half a sum of squares."""
        return self.problem.likelihood if self.problem.likelihood.squares else None

    def known(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.problem.prepared(batch)

    def newton(self, sets: list[Tensor]) -> Float[Tensor, "g p"]:
        found = []
        for rows in sets:
            left = self.problem.without(rows)
            found.append(left.theta + left.newton_step())
        return torch.stack(found)

    def settled(self, sets: list[Tensor]) -> Float[Tensor, "g p"]:
        if self.problem.likelihood.squares:  # quadratic: one step arrives
            return self.newton(sets)
        return torch.stack([_settled(self.problem.without(rows)) for rows in sets])

    def refitted(self, rows: Tensor) -> tuple[Float[Tensor, " p"], float]:
        left = self.problem.without(rows).minimised()
        return left.theta, float(left.gradient().norm())

    def refusal(self, rows: Tensor) -> str:
        return ""

    def alone(self, row: int, theta: Float[Tensor, " p"]) -> tuple[Float[Tensor, " c"], Float[Tensor, ""]]:
        whole, one = self.problem, torch.tensor([row])
        left = whole.without(one)
        added = whole.likelihood.total(theta, whole.weights) - left.likelihood.total(theta, left.weights)
        outputs = whole.likelihood.outputs(theta, whole.likelihood.X[one])
        return outputs[0], added / whole.weights[row]

    def leverages(self) -> Float[Tensor, " n"]:
        problem = self.problem
        inverse = torch.linalg.inv(problem.hessian.matrix()) / problem.n
        theta, w = problem.theta.clone().requires_grad_(), problem.weights.clone().requires_grad_()
        total = problem.likelihood.total(theta, w)
        gradient = torch.autograd.grad(total, theta, create_graph=True)[0]
        H = [torch.autograd.grad(one, theta, create_graph=True)[0] for one in gradient]
        trace = (torch.stack(H) * inverse).sum()
        return torch.autograd.grad(trace, w)[0] * problem.weights

    @property
    def editable(self) -> None:
        return None

    @property
    def estimates(self) -> Estimates | None:
        return Estimates(self.problem) if self.problem.likelihood.scale_known else None

    def parts(self, rows: Int[Tensor, " k"], gradient: Float[Tensor, "1 p"]) -> None:
        return None

    @property
    def numbers(self) -> int:
        return self.problem.p


def _settled(left: LikelihoodProblem) -> Float[Tensor, " p"]:
    """The parameters where Newton steps end; NaN where they do not, as where there is no optimum."""
    try:
        return left.minimised().theta
    except NotConvergedError:
        return torch.full_like(left.theta, torch.nan)


@dataclass(frozen=True, eq=False)
class DenseHessian(SecondDerivative):
    """A Hessian that is known as a matrix, penalty included."""

    known: Float[Tensor, "p p"]

    def product(self, dtype: torch.dtype | None = None) -> Operator:
        return lambda rows: rows @ self.known.to(rows.dtype)

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        return self.known.to(dtype or torch.float64).clone()

    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        raise TypeError("the likelihood of a few rows says nothing of the curvature of all: use Exact")

    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        raise TypeError("this Hessian may have negative eigenvalues and has no root to draw from")

    def root(self) -> None:
        return None

    def diagonal(self) -> Float[Tensor, " p"]:
        return self.known.diagonal().clone()

    def centred(self) -> None:
        return None
