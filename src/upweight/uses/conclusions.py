"""Conclusions that a model supports: the sign of a coefficient, its significance, on which side a prediction is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from ..objective import Objective
from ..types import Tensor
from .parts import INTERCEPT, coefficient_names
from .standard_errors import Errors


class Moments(NamedTuple):
    """What a conclusion looks at; each may be a stack of numbers.

    `estimate` is above 0 where it is on the side that it was on. Its variance is `variance` times `squares`, the
    residuals' sum of squares, over `freedom`, the degrees of freedom.
    """

    estimate: Float[Tensor, "*k"]
    variance: Float[Tensor, "*k"]
    squares: Float[Tensor, "*k"]
    freedom: Float[Tensor, "*k"]

    @property
    def error(self) -> Float[Tensor, "*k"]:
        """The classical standard error of the estimate: the root of variance times squares over freedom.

        It is NaN where no degree of freedom is left, so that nothing is significant there.
        """
        return (self.variance * self.squares / torch.where(self.freedom > 0, self.freedom, torch.nan)).sqrt()


class Conclusion(ABC):
    """A statement about a fitted model that holds while its `margin` is positive.

    It is about one number that is linear in the parameters, held against a bar, and may look at its standard error too.
    """

    uses_error: ClassVar[bool] = False
    """Whether the standard error has a part in it: such conclusions are for fits without a penalty alone."""
    errors: Errors | None = None
    """Which standard error; None: the classical one."""

    @abstractmethod
    def gradient(self, problem: Objective) -> tuple[Float[Tensor, " p"], float]:
        """The gradient of the number that it is about in the parameters, and the bar that it is held against.

        Raises:
            ValueError: where the model has no such number.
        """

    @abstractmethod
    def margin(self, now: Moments) -> Float[Tensor, "*k"]:
        """How far the conclusion is from not holding, in the unit of the number that it is about.

        It is 0 or negative where it does not hold, and NaN where no standard error exists.
        """

    @property
    @abstractmethod
    def says(self) -> str:
        """What holds, in words, such as "the coefficient of age is positive".

        The word {side} stands for the side of the bar that the number is on, which only the fit knows.
        """


@dataclass(frozen=True)
class Sign(Conclusion):
    """The sign of a coefficient, or on which side of a bar it is.

    Args:
        coefficient: the name of its column, or the column's number.
        bar: what it is held against.

    >>> Sign("age").says.format(side="positive")
    'the coefficient of age is positive'
    """

    coefficient: str | int
    bar: float | int = 0.0

    def gradient(self, problem: Objective) -> tuple[Float[Tensor, " p"], float]:
        return coefficient_of(problem, self.coefficient), self.bar

    def margin(self, now: Moments) -> Float[Tensor, "*k"]:
        return now.estimate

    @property
    def says(self) -> str:
        side = "{side}" if self.bar == 0 else f"on the {{side}} side of {self.bar:g}"
        return f"the coefficient of {self.coefficient} is {side}"


@dataclass(frozen=True)
class CoefficientTest(Conclusion):
    """What a t test of a coefficient says, its standard error the classical one of least squares unless given.

    Args:
        coefficient: the name of its column, or the column's number.
        level: of the test, two-sided.
        errors: other standard errors, as `Errors.of(results)` reads them: their test is searched, and not certified.
    """

    uses_error: ClassVar[bool] = True
    coefficient: str | int
    level: float | int = 0.05
    errors: Errors | None = None

    def __post_init__(self) -> None:
        _check_level(self.level)

    def gradient(self, problem: Objective) -> tuple[Float[Tensor, " p"], float]:
        return coefficient_of(problem, self.coefficient), 0.0


@dataclass(frozen=True)
class Significant(CoefficientTest):
    """A coefficient is significant: its confidence interval at a level does not contain 0.

    The standard error is the classical one of least squares, with the degrees of freedom of Student's t, unless given;
    of Cox's model and NegativeBinomial that of the inverse information, with the normal distribution.

    Args:
        coefficient: the name of its column, or the column's number.
        level: of the test, two-sided.
        errors: other standard errors, as `Errors.of(results)` reads them: their test is searched, and not certified.

    >>> Significant("age").says.format(side="positive")
    'the coefficient of age is positive and significant at 5%'
    """

    def margin(self, now: Moments) -> Float[Tensor, "*k"]:
        return now.estimate - _critical(now.freedom, self.level) * now.error

    @property
    def says(self) -> str:
        return f"the coefficient of {self.coefficient} is {{side}} and significant at {100 * self.level:g}%"


@dataclass(frozen=True)
class NotReversed(CoefficientTest):
    """A coefficient is not significant with the other sign: what takes this away overturns a study's result.

    Args:
        coefficient: the name of its column, or the column's number.
        level: of the test, two-sided.
        errors: other standard errors, as `Errors.of(results)` reads them: their test is searched, and not certified.

    >>> NotReversed("age").says.format(side="positive")
    'the coefficient of age is positive, or not significant at 5%'
    """

    def margin(self, now: Moments) -> Float[Tensor, "*k"]:
        return now.estimate + _critical(now.freedom, self.level) * now.error

    @property
    def says(self) -> str:
        return (
            f"the coefficient of {self.coefficient} is {{side}}, or not significant at {100 * self.level:g}%"
        )


@dataclass(frozen=True, eq=False)
class MeanPrediction(Conclusion):
    """On which side of a bar the prediction of some rows is in the mean, or the gap between two groups of them.

    Args:
        inputs: the rows (m, d), as the model takes them.
        bar: what the mean is held against.
        groups: the group of each row (m,), two of them: the mean of the second less that of the first, in the order of
            their names, takes the place of the mean.
    """

    inputs: Any
    bar: float | int = 0.0
    groups: Any = None

    def gradient(self, problem: Objective) -> tuple[Float[Tensor, " p"], float]:
        linear = problem.linear
        if linear is None:
            raise TypeError("a mean prediction is asked of a linear model: ask about a coefficient")
        targets = linear.y.new_zeros(len(self.inputs), *linear.y.shape[1:])
        rows = linear.output_gradients((self.inputs, targets))[:, 0]
        if self.groups is None:
            return rows.mean(0), self.bar
        names, codes = np.unique(np.asarray(self.groups), return_inverse=True)
        if len(names) != 2 or len(codes) != len(rows):
            raise ValueError(
                f"groups must name one of two groups for each of {len(rows)} rows, got {len(codes)} entries of "
                f"{len(names)}"
            )
        second = torch.from_numpy(codes) == 1
        return rows[second].mean(0) - rows[~second].mean(0), self.bar

    def margin(self, now: Moments) -> Float[Tensor, "*k"]:
        return now.estimate

    @property
    def says(self) -> str:
        many = len(self.inputs)
        what = f"the mean prediction of {many} rows" if many > 1 else "the prediction"
        if self.groups is not None:
            what = f"the gap between the mean predictions of two groups of {many} rows"
        side = "{side}" if self.bar == 0 else f"on the {{side}} side of {self.bar:g}"
        return f"{what} is {side}"


@dataclass(frozen=True, eq=False)
class Direction(Conclusion):
    """On which side of 0 a linear function of the parameters is, given by its gradient (p,) and what it is in words."""

    vector: Float[Tensor, " p"]
    words: str

    def gradient(self, problem: Objective) -> tuple[Float[Tensor, " p"], float]:
        return self.vector, 0.0

    def margin(self, now: Moments) -> Float[Tensor, "*k"]:
        return now.estimate

    @property
    def says(self) -> str:
        return f"{self.words} is {{side}}"


def coefficient_of(problem: Objective, name: str | int) -> Float[Tensor, " p"]:
    """The unit vector of a coefficient. Raises ValueError where there is none of that name."""
    columns = coefficient_names(problem)
    if isinstance(name, str) and name in columns:
        place = columns.index(name)
    elif not isinstance(name, str) and 0 <= name < len(columns) - (INTERCEPT in columns):
        place = int(name)
    else:
        known = ", ".join(n for n in columns[:20] if n != INTERCEPT) + ", ..." * (len(columns) > 20)
        raise ValueError(f"there is no coefficient {name!r}: the model's columns are {known}")
    return torch.eye(problem.p, dtype=torch.float64)[place]


def _critical(freedom: Tensor, level: float) -> Tensor:
    """The value of |t| above which a coefficient is significant."""
    values = stats.t.isf(level / 2, freedom.clamp(min=1).numpy())
    return torch.as_tensor(values, dtype=torch.float64)


def _check_level(level: float | int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, as 0.05, got {level}")
