"""What is asked about in place of the loss: any differentiable function of the parameters.

A plain function `(outputs, targets) -> number per example` is evaluated example by example, like the loss: it is a
`PerExample`. Wrap it to ask about a whole batch at once (`Overall`) or about the parameters alone (`OfParameters`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float

from ..errors import DerivativeError
from ..types import Params, Tensor

Look: TypeAlias = Callable[[], tuple[Any, Any]]
"""Evaluates the model on the whole test batch and gives (outputs, targets)."""


Nearby: TypeAlias = Callable[[Tensor, Tensor, Any, Tensor], Tensor]
"""From the outputs (m,) of one model, low to high, the float32 shifts (m, k) of those of k others, the targets, and the
error of each other's shifts (k,) to the number of each (k,), NaN where it is in doubt."""


@dataclass(frozen=True, eq=False)
class SeesWeights:
    """What a measure of the parameters and of the weights of all training rows can be asked.

    Args:
        held: the measure with all weights as they are, of the parameters alone.
        by_weight: gives its derivative in the weight of each row (n,), the parameters held.
        changes: from k rows and the parameters (k, p) without each to its change without each (k,).
    """

    held: Measure
    by_weight: Callable[[], Tensor]
    changes: Callable[[Tensor, Tensor], Tensor]


class Measure(ABC):
    """A quantity to ask about in place of the loss: one number per test example, or a single one.

    First order needs its gradient in the parameters; where there is none (`smooth`), it is evaluated at shifted
    parameters alone. `PerExample`, `Overall` and `OfParameters` are the three kinds there are; a plain function is
    taken for the first.
    """

    single: bool
    """Whether there is one number in all, so that no test row has one of its own."""
    uses_batch: bool
    """Whether the test batch is looked at."""
    smooth: bool
    """Whether it has a derivative that says how it moves; a count such as an accuracy has none."""
    probabilities: bool = False
    """Whether it takes outputs for logits of probabilities, which not every classifier has."""
    nearby: Nearby | None = None
    """A faster way for many models that differ little from one, or None."""
    by_class: bool = False
    """Whether it looks which class has the largest output, so that outputs of pairs of classes are to be votes."""
    sees_weights: SeesWeights | None = None
    """What it does with the weights of the training rows, where it depends on these beside the parameters; or None."""
    function: Callable[..., Tensor]
    """What computes it, of torch operations."""

    @property
    def name(self) -> str:
        """What the measure is called in headings of tables and pictures: its function's own name.

        A function without one (a lambda, a partial) is called "measure".
        """
        name = getattr(self.function, "__name__", "measure")
        return "measure" if name == "<lambda>" else name

    @abstractmethod
    def number(self, params: Params, look: Look) -> Tensor:
        """The single number, shape (), that the measure is.

        Args:
            params: the parameters by name.
            look: gives outputs and targets of the whole test batch; not called where they are not needed.

        Raises:
            TypeError: for a measure that is not `single`.
        """

    def numbers(self, outputs: Float[Tensor, "k m c"], targets: Any) -> Float[Tensor, " k"]:
        """The number of each of k models, from their outputs for the same test examples.

        Args:
            outputs: of k models for m examples.
            targets: of the m examples.

        Raises:
            TypeError: for a measure that is not one number of outputs and targets.
        """
        raise TypeError(
            f"{self.name} is no number of all outputs and targets: wrap a function of them in Overall"
        )

    def check_smooth(self) -> None:
        """Raises DerivativeError where there is no derivative that could be asked for."""
        if not self.smooth:
            raise DerivativeError(
                f"{self.name} has no derivative, so that first order says nothing of it: ask a linear model what the "
                "removal of rows does, influence.leave_one_out().change(test, measure=...) or influence.of_removal"
            )


@dataclass(frozen=True)
class PerExample(Measure):
    """One number per test example: `function(outputs, targets)` of a batch of one gives one number.

    Any plain function that is given as a measure becomes one of these. Scores have a row per test example.

    Args:
        function: of outputs (1, c) and targets (1,), as the loss gets them; one number.

    >>> import torch
    >>> from upweight.measures import margin
    >>> as_measure(margin).function(torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([1]))
    tensor([2.])
    """

    function: Callable[[Any, Any], Tensor]
    single = False
    uses_batch = True
    smooth = True

    def number(self, params: Params, look: Look) -> Tensor:
        raise TypeError(f"{self.name} gives a number per example: wrap it in Overall for one number of all")


@dataclass(frozen=True)
class Overall(Measure):
    """One number for the whole test batch: a mean over a slice, a fairness gap between groups.

    Scores have a single row. The function may mix examples as it likes. `upweight.measures` has the usual ones.

    Args:
        function: of outputs (m, c) and targets (m,) of all test examples; one number.
        smooth: False for a count, such as the share of right answers, and for functions of another library: they are
            only evaluated, at the outputs that the model would have (`LeaveOneOut.change`, `Removal.newton`).
        batched: whether the function takes outputs (k, m, c) of k models as well and gives k numbers.
        probabilities: whether it takes outputs for logits of probabilities, which not every classifier has.
        nearby: a faster way for many models that differ little from one.
        by_class: whether the largest output is that of the class decided for; a machine for each pair of classes then
            gives its votes in place of its outputs.

    >>> import torch
    >>> Overall(lambda outputs, targets: outputs.mean()).function(torch.ones(3, 1), None)
    tensor(1.)
    """

    function: Callable[[Any, Any], Any]
    smooth: bool = True
    batched: bool = False
    probabilities: bool = False
    nearby: Nearby | None = None
    by_class: bool = False
    single = True
    uses_batch = True

    def number(self, params: Params, look: Look) -> Tensor:
        return as_number(self.function(*look()))

    def numbers(self, outputs: Float[Tensor, "k m c"], targets: Any) -> Float[Tensor, " k"]:
        if self.batched:
            return self.function(outputs, targets).double()
        return torch.stack([as_number(self.function(one, targets)).double() for one in outputs])


@dataclass(frozen=True)
class OfParameters(Measure):
    """One number of the parameters alone: a coefficient, a norm. The test batch is not used.

    Scores have a single row: how up-weighting each training example moves that number, Eq. 1 seen along one direction.

    Args:
        function: of the parameters by name; one number.

    >>> import torch
    >>> OfParameters(lambda params: params["weight"][0, 0]).function({"weight": torch.tensor([[2.0]])})
    tensor(2.)
    """

    function: Callable[[Params], Tensor]
    single = True
    uses_batch = False
    smooth = True

    def number(self, params: Params, look: Look) -> Tensor:
        return self.function(params).reshape(())


def as_number(value: Any) -> Tensor:
    """The one number that a function gave, as a tensor of shape (); functions of other libraries give no tensor.

    >>> as_number(2.5)
    tensor(2.5000, dtype=torch.float64)
    """
    return (value if isinstance(value, Tensor) else torch.tensor(float(value)).double()).reshape(())


def weights_held(measure: Measure | None) -> Measure | None:
    """The measure with the weights of the training rows as they are: itself, unless it sees them.

    >>> weights_held(None) is None
    True
    """
    return measure if measure is None or measure.sees_weights is None else measure.sees_weights.held


MeasureLike: TypeAlias = Callable[[Any, Any], Tensor] | Measure
"""A measure as users give it: a plain function of outputs and targets is evaluated example by example."""


def as_measure(measure: MeasureLike | None) -> Measure | None:
    """The measure that a user means: a measure stays one, a plain function becomes a `PerExample`.

    None stands for the loss and stays None, since the loss has faster ways of its own.

    >>> from upweight.measures import logit
    >>> as_measure(None) is None, as_measure(logit).name
    (True, 'logit')
    """
    return measure if measure is None or isinstance(measure, Measure) else PerExample(measure)


def name_of(measure: MeasureLike | None) -> str:
    """What a measure is called in headings: "loss" for None, else `Measure.name`.

    >>> from upweight.measures import margin
    >>> name_of(None), name_of(margin), name_of(lambda outputs, targets: outputs.sum())
    ('loss', 'margin', 'measure')
    """
    found = as_measure(measure)
    return "loss" if found is None else found.name
