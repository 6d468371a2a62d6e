"""What is asked of outputs: losses and measures of a model whose loss is one of `losses`, from its outputs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float

from .data.per_example import per_example
from .losses import LinearLoss, signs
from .measures import Measure, logit, margin, prediction, probability, share_of_sigmoids
from .runtime.described import described
from .types import Tensor, as_tensor


@runtime_checkable
class OutputModel(Protocol):
    """A model whose outputs (m, c) are classes or values with one of the losses of `losses`: linear, or trees.

    Objectives give it as `output_model`; networks, of whose outputs nobody knows what they are, have none.
    """

    @property
    def loss(self) -> LinearLoss:
        """What tells how outputs are read."""

    @property
    def y(self) -> Tensor:
        """The encoded targets of the training rows."""

    @property
    def c(self) -> int:
        """The number of outputs."""

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The names of the classes, where there are some."""

    def prepared(self, batch: Any) -> tuple[Any, Any]:
        """A test batch as the model computes with it, and its targets as the user has them."""

    def outputs(self, inputs: Any) -> Float[Tensor, "m c"]:
        """The outputs of prepared inputs."""

    def encode(self, targets: Any, count: int) -> Tensor:
        """Targets of `count` examples, checked, as the loss wants them."""


@runtime_checkable
class Editable(OutputModel, Protocol):
    """An `Objective` of classes that is trained here anew once rows are gone or bear other labels.

    What its methods give are such objectives too.
    """

    @property
    def n(self) -> int:
        """The number of training rows."""

    @property
    def train_index(self) -> pd.Index | None:
        """The ids of the training rows, where they came with some."""

    def without(self, rows: Tensor) -> Any:
        """It without those training rows, at the same parameters."""

    def relabelled(self, rows: Tensor, targets: Tensor) -> Any:
        """It with those encoded targets in place of the rows' own, at the same parameters."""

    def minimised(self) -> Any:
        """It at the optimum of its rows; NoOptimumError where there is none."""

    def test_gradients(self, batch: Any, measure: Any = None) -> Float[Tensor, "m p"]:
        """The gradient of the measure of each test example in the parameters."""

    def all_products(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k n"]:
        """The products of k rows with the gradients of all training rows."""


def one_per_example(y: Any, count: int) -> Tensor:
    """Targets as a tensor whose first dimension is the examples; nothing else about them is checked or changed.

    Raises ValueError, naming both numbers, where there are more or fewer targets than `count` examples.
    """
    targets = as_tensor(y)
    if targets.ndim == 0 or len(targets) != count:
        raise ValueError(f"X has {count} examples, y has {len(targets) if targets.ndim else 0}")
    return targets


def first_not_finite(values: Tensor) -> int:
    """The place of the first NaN or infinity among the numbers of a tensor, row by row; there must be one."""
    return int((~values.isfinite()).flatten().nonzero()[0, 0])


def encoded(loss: LinearLoss, y: Any, count: int, c: int) -> Tensor:
    """Targets in the form that the loss computes with (classes 0..c-1, signs or numbers), checked.

    Args:
        loss: the loss of a model with c outputs.
        y: the targets as the user has them, one per example.
        count: the number of examples.
        c: the number of outputs per example.

    Returns:
        A tensor (n,) or (n, c), as `LinearLoss.encode` documents it.

    Raises:
        ValueError: for another number of targets, NaN or infinity, and for what the loss refuses.
    """
    targets = one_per_example(y, count)
    if targets.is_floating_point() and not targets.isfinite().all():
        raise ValueError(f"y has a NaN or infinity, first in example {first_not_finite(targets)}")
    return loss.encode(targets, c)


def measured(loss: LinearLoss, eta: Tensor, y: Any, measure: Measure | None) -> Float[Tensor, " m"]:
    """The loss or measure of each example (m,), from its outputs alone: no pass over the data.

    Args:
        loss: that of the model.
        eta: the outputs (m, c).
        y: the targets as the user has them, m of them.
        measure: a measure that gives one number per example; None stands for the loss, without weight and penalty.
    """
    if measure is None:
        return loss.value(eta, encoded(loss, y, *eta.shape))
    if measure.function is prediction and loss.classifies:
        raise ValueError(
            "prediction is about quantities, and the targets of this model are classes: ask about "
            "measures.probability, margin or logit"
        )
    if measure.function not in (logit, probability, margin):
        return per_example(measure.function, eta, one_per_example(y, len(eta)))
    return per_example(_of_classes(loss, eta.shape[1], measure), eta, encoded(loss, y, *eta.shape))


def _of_classes(loss: LinearLoss, c: int, measure: Measure) -> Callable[..., Tensor]:
    """What a measure of classes means for the model's own loss.

    Raises ValueError where the model has no classes, or gives them no probabilities.
    """
    if not loss.classifies:
        raise ValueError(
            f"{measure.name} is about classes, and the targets of this model are numbers: ask about its output, "
            "measures.prediction"
        )
    if loss.pairs and measure.function is margin:
        return lambda outputs, targets: least_margin(loss, outputs, targets)
    if loss.pairs and measure.function is logit:
        raise ValueError(
            "a machine for each pair of classes has no output for a class alone: ask about measures.margin, the least "
            "margin of the class's own pairs, or about the pairs with a function of their outputs"
        )
    if measure.function is not probability:
        return measure.function
    if not loss.gives_probabilities:
        raise ValueError(
            f"a model trained with {type(loss).__name__} gives no probabilities: ask about measures.margin"
        )
    return share_of_sigmoids if loss.separate_outputs and c > 1 else probability


def least_margin(loss: LinearLoss, outputs: Float[Tensor, "m c"], targets: Tensor) -> Float[Tensor, " m"]:
    """The least margin of the pairs that each encoded target is in: where it is positive, the class wins all of them.

    Args:
        loss: of a machine for each pair of classes.
        outputs: those of all pairs.
        targets: classes (m,).
    """
    s = signs(targets, outputs, loss.pairs)
    return torch.where(s == 0, torch.inf, s * outputs).amin(1)


def measured_at_each(
    loss: LinearLoss, eta: Float[Tensor, "k m c"], targets: Any, measure: Measure | None
) -> Float[Tensor, "k _"]:
    """The loss or measure of each of m examples at k stacks of their outputs.

    Args:
        loss: that of the model.
        eta: the outputs.
        targets: the targets as the user has them, m of them.
        measure: a measure that gives one number per example; None stands for the loss.
    """
    k, m = eta.shape[:2]
    y = one_per_example(targets, m)
    repeated = y.repeat(k, *[1] * (y.ndim - 1))
    return measured(loss, eta.flatten(0, 1), repeated, measure).view(k, m)


def measure_slopes(
    loss: LinearLoss, eta: Float[Tensor, "m c"], y: Any, measure: Measure | None
) -> Float[Tensor, "m c"]:
    """The derivatives of each example's loss or measure in its own outputs, (m, c): of the loss in closed form.

    Args:
        loss: that of the model.
        eta: the outputs, m of them.
        y: the targets as the user has them.
        measure: a measure that gives one number per example, differentiated by autograd; None stands for the loss.
    """
    if measure is None:
        return loss.residual(eta, encoded(loss, y, *eta.shape))
    eta = eta.detach().requires_grad_()
    # Examples do not mix, so one gradient of the sum holds every row's own.
    return torch.autograd.grad(measured(loss, eta, y, measure).sum(), eta)[0]


def check_probabilities(loss: LinearLoss, measure: Measure) -> None:
    """Raises ValueError where a measure takes outputs for logits of probabilities and the model's loss gives none."""
    if measure.probabilities and not loss.gives_probabilities:
        raise ValueError(
            f"{measure.name} is about probabilities, and a model trained with {type(loss).__name__} gives "
            "none: ask about measures.auroc, accuracy or cohens_d"
        )


def in_bytes(loss: LinearLoss, class_weights: Tensor | None = None) -> Tensor:
    """A loss by its class, settings and class weights as bytes: what a fingerprint covers of it."""
    settings = repr(described(loss))
    settings += "" if class_weights is None else repr(class_weights.tolist())
    return torch.tensor(list(settings.encode()), dtype=torch.uint8)
