"""Standard errors, t, p and bounds of intervals as measures: they see the weights of the rows beside the parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy import stats

from ..influence.unrolled import Answers
from ..measures import Measure, OfParameters
from ..measures.kinds import Look, SeesWeights
from ..objective import Objective
from ..types import Params, Tensor
from .conclusions import coefficient_of
from .general_fit import GeneralFit
from .standard_errors import Errors
from .weighted_fit import Told, WeightedFit

NUMBERS = ("standard error", "t", "p", "low", "high")
"""What can be asked of a coefficient."""


def inference_measure(
    influence: Answers,
    coefficient: str | int,
    what: str = "standard error",
    errors: Errors | None = None,
    *,
    level: float = 0.05,
) -> Measure:
    """A measure: the standard error, t or p of a coefficient, or a bound of its confidence interval.

    It depends on the weights of the rows twice: by itself, and through the parameters. `on_loss` has the derivative
    with both terms, dM / dw_i = partial M / partial w_i + grad M . dtheta / dw_i, and `of_each_removal` the change
    without each row: exact for least squares and instruments, by Newton steps for generalised linear models. Whole
    sets: `robustness` and `inference_without`.

    Args:
        influence: of least squares, two-stage least squares, or a generalised linear model of `from_results`, without
            a penalty.
        coefficient: the name or number of a column.
        what: which number; "low" and "high" are the bounds of the interval.
        errors: which standard errors, default the classical ones; `Errors.of(results)` reads those of results. Of
            generalised linear models "nonrobust" are of the expected information, as GLM of statsmodels has them, "HC0"
            and "cluster" of the observed one.
        level: one less the confidence of the interval.

    Raises:
        TypeError: for other models.
        ValueError: for an unknown coefficient, and errors that the model does not have.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> influence = Influence(
    ...     LinearProblem.fit(torch.ones(4, 1), torch.tensor([1.0, 2, 3, 6]), loss=Squared())
    ... )
    >>> error = inference_measure(influence, 0)
    >>> influence.of_each_removal((torch.ones(1, 1), torch.ones(1)), measure=error).changes.round(decimals=3)
    tensor([[ 0.1220,  0.3730,  0.4470, -0.5030]], dtype=torch.float64)
    """
    problem = influence.problem
    if what not in NUMBERS:
        raise ValueError(f"what must be one of {', '.join(NUMBERS)}, got {what!r}")
    fit = WeightedFit.of(problem) or GeneralFit.of(problem)
    if fit is None:
        raise TypeError(
            "standard errors are measures of least squares, two-stage least squares and generalised linear models "
            f"without a penalty, not of this {type(problem).__name__}"
        )
    errors = errors or Errors()
    errors.check_length(problem.n)
    if words := fit.refusal(errors):
        raise ValueError(words)
    return OfFit(problem, fit, coefficient_of(problem, coefficient), errors, what, level)


@dataclass(frozen=True, eq=False)
class OfFit(Measure):
    """A number of a fit that sees the weights of all rows: of the problem that it was made for, at its parameters."""

    problem: Objective
    fit: WeightedFit | GeneralFit
    gradient: Float[Tensor, " p"]
    errors: Errors
    what: str
    level: float
    single = True
    uses_batch = False
    smooth = True

    @property
    def function(self) -> OfFit:  # type: ignore[override]
        """Itself, which is called by a name."""
        return self

    @property
    def __name__(self) -> str:
        return self.what

    @property
    def sees_weights(self) -> SeesWeights:  # type: ignore[override]
        """What it does with the weights of the training rows."""
        ones = torch.ones(self.problem.n, dtype=torch.float64)
        held = OfParameters(
            lambda params: self._at(torch.cat([x.reshape(-1) for x in params.values()]), ones)
        )
        return SeesWeights(held, self._by_weight, self._changes)

    def number(self, params: Params, look: Look) -> Tensor:
        raise TypeError(
            f"the {self.what} of a coefficient depends on the weights of the rows beside the parameters: ask on_loss "
            "or of_each_removal; about sets robustness and inference_without"
        )

    def _by_weight(self) -> Float[Tensor, " n"]:
        with torch.enable_grad():
            omega = torch.ones(self.problem.n, dtype=torch.float64, requires_grad=True)
            return torch.autograd.grad(self._at(self.problem.theta, omega), omega)[0]

    def _changes(self, rows: Int[Tensor, " k"], thetas: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        omega = torch.ones(self.problem.n, dtype=torch.float64)
        now, found = self._at(self.problem.theta, omega), []
        for row, theta in zip(rows.tolist(), thetas, strict=True):
            left = omega.clone()
            left[row] = 0.0
            found.append(self._at(theta, left) - now)
        return torch.stack(found)

    def _at(self, theta: Float[Tensor, " p"], omega: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        told = self.fit.told(self.gradient, omega, self.errors, theta)
        return _number(told, self.what, self.level)


def _number(told: Told, what: str, level: float) -> Float[Tensor, ""]:
    """The number of an estimate and its error, differentiable; the degrees of freedom are held."""
    t, law = told.estimate / told.error, stats.t(float(told.freedom.detach()))
    if what == "standard error":
        return told.error
    if what == "t":
        return t
    if what == "p":
        size = t.abs()
        now = float(size.detach())
        return 2 * float(law.sf(now)) - 2 * float(law.pdf(now)) * (size - now)
    half = float(law.isf(level / 2)) * told.error
    return told.estimate - half if what == "low" else told.estimate + half
