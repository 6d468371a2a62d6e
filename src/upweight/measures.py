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

from .types import Params, Tensor

Look: TypeAlias = Callable[[], tuple[Any, Any]]
"""Evaluates the model on the whole test batch and gives (outputs, targets)."""


class Measure(ABC):
    """A quantity to ask about in place of the loss: one number per test example, or a single one.

    Influence needs its gradient in the parameters, so it must be differentiable. `PerExample`, `Overall` and
    `OfParameters` are the three kinds there are; a plain function is taken for the first.
    """

    single: bool
    """Whether there is one number in all, so that no test row has one of its own."""
    uses_batch: bool
    """Whether the test batch is looked at."""
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


@dataclass(frozen=True)
class PerExample(Measure):
    """One number per test example: `function(outputs, targets)` of a batch of one gives one number.

    Any plain function that is given as a measure becomes one of these. Scores have a row per test example.

    Args:
        function: of outputs (1, c) and targets (1,), as the loss gets them; one number.

    >>> import torch
    >>> as_measure(margin).function(torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([1]))
    tensor([2.])
    """

    function: Callable[[Any, Any], Tensor]
    single = False
    uses_batch = True

    def number(self, params: Params, look: Look) -> Tensor:
        raise TypeError(f"{self.name} gives a number per example: wrap it in Overall for one number of all")


@dataclass(frozen=True)
class Overall(Measure):
    """One number for the whole test batch: a mean over a slice, a fairness gap between groups.

    Scores have a single row. The function may mix examples as it likes.

    Args:
        function: of outputs (m, c) and targets (m,) of all test examples; one number.

    >>> import torch
    >>> Overall(lambda outputs, targets: outputs.mean()).function(torch.ones(3, 1), None)
    tensor(1.)
    """

    function: Callable[[Any, Any], Tensor]
    single = True
    uses_batch = True

    def number(self, params: Params, look: Look) -> Tensor:
        return self.function(*look()).reshape(())


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

    def number(self, params: Params, look: Look) -> Tensor:
        return self.function(params).reshape(())


MeasureLike: TypeAlias = Callable[[Any, Any], Tensor] | Measure
"""A measure as users give it: a plain function of outputs and targets is evaluated example by example."""


def as_measure(measure: MeasureLike | None) -> Measure | None:
    """The measure that a user means: a measure stays one, a plain function becomes a `PerExample`.

    None stands for the loss and stays None, since the loss has faster ways of its own.

    >>> as_measure(None) is None, as_measure(logit).name
    (True, 'logit')
    """
    return measure if measure is None or isinstance(measure, Measure) else PerExample(measure)


def name_of(measure: MeasureLike | None) -> str:
    """What a measure is called in headings: "loss" for None, else `Measure.name`.

    >>> name_of(None), name_of(margin), name_of(lambda outputs, targets: outputs.sum())
    ('loss', 'margin', 'measure')
    """
    found = as_measure(measure)
    return "loss" if found is None else found.name


def prediction(outputs: Tensor, targets: Any) -> Tensor:
    """The output of a model of one quantity, in the quantity's own unit: a price, where the loss has squared prices.

    The targets are not looked at: it can be asked about a row whose true value is not known. A positive removal effect
    says that the prediction rises when the training example is removed.

    Args:
        outputs: (b, 1), or (b,).
        targets: anything.

    Returns:
        One number per example, (b,).

    >>> import torch
    >>> prediction(torch.tensor([[3.0]]), None)
    tensor([3.])
    """
    if outputs.ndim > 2 or (outputs.ndim == 2 and outputs.shape[1] != 1):
        raise ValueError(
            f"prediction is the one output of a model of a quantity, got outputs of shape {tuple(outputs.shape)}: "
            "classes have probability, margin and logit; for several quantities write a measure of your own"
        )
    return outputs.flatten()


def logit(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output (logit) of the target class: a measure of how strongly the model speaks for it.

    Of a model with one output, which decides between two classes by its sign, it is the output for the second class
    and its negative for the first. Unlike the loss it does not saturate where the model is sure. A positive removal
    effect says that the output rises when the training example is removed.

    Args:
        outputs: (b, c), or (b,) of a model with one output.
        targets: classes 0..c-1, (b,); 0/1 or -1/+1 for one output.

    Returns:
        One number per example, (b,).

    >>> import torch
    >>> logit(torch.tensor([[1.0, 5.0]]), torch.tensor([1])), logit(torch.tensor([[3.0]]), torch.tensor([0]))
    (tensor([5.]), tensor([-3.]))
    """
    outputs, classes = _by_class(outputs, targets)
    if outputs.shape[1] == 1:
        return outputs[:, 0] * _sign(classes, outputs)
    return outputs.gather(1, classes.long()[:, None])[:, 0]


def probability(outputs: Tensor, targets: Tensor) -> Tensor:
    """The probability of the target class, between 0 and 1: exp(-loss) of cross-entropy or of the logistic loss.

    The softmax of several outputs, the sigmoid of one. A linear model of one class against the rest gives what
    scikit-learn's `predict_proba` does, the share of each class's own sigmoid.

    Args:
        outputs: logits (b, c), or (b,) of a model with one output.
        targets: classes 0..c-1, (b,); 0/1 or -1/+1 for one output.

    Returns:
        One number per example, (b,).

    >>> import torch
    >>> (
    ...     probability(torch.tensor([[0.0, 0.0]]), torch.tensor([1])),
    ...     probability(torch.zeros(1, 1), torch.tensor([0])),
    ... )
    (tensor([0.5000]), tensor([0.5000]))
    """
    outputs, classes = _by_class(outputs, targets)
    if outputs.shape[1] == 1:
        return logit(outputs, classes).sigmoid()
    return logit(outputs.softmax(1), classes)


def share_of_sigmoids(outputs: Tensor, targets: Tensor) -> Tensor:
    """The probability of the target class where each class has a model of its own, one against the rest.

    The sigmoid of its output, divided by the sum over all classes, as scikit-learn does it.

    Args:
        outputs: (b, c), c > 1.
        targets: classes 0..c-1, (b,).

    >>> import torch
    >>> share_of_sigmoids(torch.zeros(1, 4), torch.tensor([2]))
    tensor([0.2500])
    """
    alone = outputs.sigmoid()
    return logit(alone / alone.sum(1, keepdim=True), targets)


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output of the target class less the largest other one: positive exactly where the model is right.

    Of a model with one output it is the `logit`. Where another class becomes the largest, the measure has a kink,
    which its gradient does not see.

    Args:
        outputs: (b, c), or (b,) of a model with one output.
        targets: classes 0..c-1, (b,); 0/1 or -1/+1 for one output.

    Returns:
        One number per example, (b,).

    >>> import torch
    >>> margin(torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([1]))
    tensor([2.])
    """
    outputs, classes = _by_class(outputs, targets)
    if outputs.shape[1] == 1:
        return logit(outputs, classes)
    own = classes.long()[:, None]
    others = outputs.scatter(1, own, float("-inf"))
    return outputs.gather(1, own)[:, 0] - others.amax(1)


def _by_class(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (b, c) and one class per example (b,), in whichever shape a network has them."""
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    targets = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if outputs.ndim != 2 or targets.ndim != 1:
        raise ValueError(
            "logit, probability and margin are of one class per example, outputs (b, c) and targets (b,), got shapes "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}: write a measure of your own"
        )
    return outputs, targets


def _sign(classes: Tensor, outputs: Tensor) -> Tensor:
    """+1 for the second of two classes and -1 for the first; NaN for what is neither."""
    first, second = (classes == 0) | (classes == -1), classes == 1
    return torch.where(second, 1.0, torch.where(first, -1.0, torch.nan)).to(outputs.dtype)
