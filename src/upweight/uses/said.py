"""What a model says of one row, beside what the row itself says: a class with its probability, or a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..measures import as_measure, probability
from ..objective import Objective
from ..outputs import OutputModel, measured
from ..retraining.trainable import Trainable
from ..runtime.terminal import plain
from ..types import Tensor
from .labels import decided, label_names


@dataclass(frozen=True)
class Said:
    """What a model says of one row, and what is known of it.

    `prediction` is a class or a value, None where nobody knows which of a model's outputs is one. `label` is the row's
    own class or value, None where it has none. `loss` is the row's loss before anything is removed, and
    `probabilities` are those of the predicted class and of the row's own, for models that give some. `quantity` says
    whether the two are values; `unit` is the name of the target, where it has one; `note` says what the outputs are
    where they are not in the unit of the target, as measures of them are not either.
    """

    prediction: Any = None
    label: Any = None
    loss: float | None = None
    probabilities: tuple[float, float] | None = None
    quantity: bool = False
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        """All of it in a sentence or two; nothing where nothing is known."""
        if self.prediction is None:
            return "" if self.loss is None else f"The loss is {self.loss:.4g}."
        words = self._of_value() if self.quantity else self._of_class()
        return plain(f"{words} ({self.note[0].upper()}{self.note[1:]}.)" if self.note else words)

    def _of_class(self) -> str:
        own = f"the label is {self.label!r}"
        if self.label is None:
            own = f"the row has no {self.unit or 'label'}: {self.prediction!r} is taken in its place"
        words = [f"The model says {self.prediction!r}, {own}."]
        after = [] if self.loss is None else [f"the loss is {self.loss:.4g}"]
        if self.probabilities is not None:
            given = [f"It gives {self.prediction!r} a probability of {self.probabilities[0]:.1%}"]
            if self.label is not None and self.label != self.prediction:
                given.append(f"{self.label!r} one of {self.probabilities[1]:.1%}")
            after = [", ".join(given), *after]
        if after:
            sentence = "; ".join(after)
            words.append(f"{sentence[0].upper()}{sentence[1:]}.")
        return " ".join(words)

    def _of_value(self) -> str:
        named = f"{self.unit} = " if self.unit else ""
        said = f"The model says {named}{self.prediction:,.6g}"
        if self.label is None:
            return f"{said}; the row has no {self.unit or 'true value'}."
        miss = self.prediction - self.label
        side = "exactly right" if miss == 0 else f"{abs(miss):,.4g} too {'high' if miss > 0 else 'low'}"
        return f"{said}, the true value is {self.label:,.6g}: {side}."


def said_of(problem: Objective, test: Any) -> Said:
    """What a model says of one row, and the row's own label; of networks only the loss is known.

    Of several rows it is nothing.

    Args:
        problem: the model.
        test: one test example, as the problem takes batches.
    """
    losses, model = problem.evaluate(test), problem.output_model
    if len(losses) != 1:  # of many rows together nothing is said
        return Said()
    loss = float(losses[0])
    if model is None:
        return Said(loss=loss)
    inputs, targets = model.prepared(test)
    outputs = model.outputs(inputs)
    if not model.loss.classifies:
        if model.c > 1:
            return Said(loss=loss)
        truth, means = model.encode(targets, 1), model.loss.means
        told = outputs if means is None else means(outputs, truth)
        note = "" if means is None else model.loss.note
        return Said(float(told[0, 0]), float(truth.flatten()[0]), loss, quantity=True, note=note)
    classes = {"prediction": decided(model.loss.by_class(outputs)), "label": model.encode(targets, 1)}
    names = {what: label_names(model, its)[0] for what, its in classes.items()}
    return Said(**names, loss=loss, probabilities=_probabilities(model, outputs, list(classes.values())))


def _probabilities(model: OutputModel, outputs: Tensor, classes: list[Any]) -> tuple[float, float] | None:
    """The probabilities of the predicted class and of the row's own; None where the loss is no likelihood (a hinge)."""
    if not model.loss.gives_probabilities:
        return None
    asked = as_measure(probability)
    first, second = (float(measured(model.loss, outputs, its, asked)[0]) for its in classes)
    return first, second


def said_by_refits(trained: Trainable, test: Any) -> Said:
    """What an estimator that was fitted on all rows says of one row, and the row's own label.

    Args:
        trained: the estimator.
        test: one test example (X, y), as the estimator takes it.
    """
    X, y = test
    prediction, label = trained.model.predict(X), np.asarray(y)
    if len(label) != 1 or label.size != 1:
        return Said()
    prediction, label = np.ravel(prediction).tolist()[0], np.ravel(label).tolist()[0]
    loss = float(trained.evaluate(test)[0])
    if trained.classes is None:
        return Said(float(prediction), float(label), loss, quantity=True)
    return Said(prediction, label, loss)
