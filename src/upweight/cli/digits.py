"""The digits of the demo, which stand inside the package, and a prediction of them that is wrong."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Integer, UInt8

from ..linear.problem import LinearProblem
from ..types import Tensor

CLASSES = 10


class Digits(NamedTuple):
    """Digits to learn from and to test with: grey images, 0..255, and their labels, 0..9."""

    train: UInt8[np.ndarray, "n h w"]
    train_labels: Integer[np.ndarray, " n"]
    test: UInt8[np.ndarray, "m h w"]
    test_labels: Integer[np.ndarray, " m"]


class Wrong(NamedTuple):
    """A wrong prediction: test row, true label, predicted label and the model's probability of the latter."""

    row: int
    label: int
    predicted: int
    probability: float

    @property
    def question(self) -> str:
        """What the demo answers, in words."""
        return (
            f"Test digit {self.row} is a {self.label}, but the model calls it a {self.predicted} with probability "
            f"{self.probability:.1%}. It is the most confident of the model's wrong test predictions. "
            "Which training digits are responsible?"
        )


def embedded_digits() -> Digits:
    """The digits inside the package, which are a part of MNIST: 5,500 to learn from, 28 x 28 pixels each.

    >>> embedded_digits().train.shape
    (5500, 28, 28)
    """
    with (files("upweight") / "data" / "mnist_small.npz").open("rb") as file, np.load(file) as data:
        return Digits(data["x_train"], data["y_train"], data["x_test"], data["y_test"])


def pixels(images: UInt8[np.ndarray, "n h w"]) -> Float32[Tensor, "n d"]:
    """Images as rows of numbers from 0 to 1, (n, d), one column per pixel."""
    return torch.from_numpy(images.reshape(len(images), -1)).float() / 255


def most_confident_error(problem: LinearProblem, digits: Digits) -> Wrong:
    """The test digit whose wrong prediction has the highest probability, in softmax regression on pixels."""
    weight = problem.theta.view(CLASSES, -1)
    probability = (pixels(digits.test).double() @ weight.T).softmax(1).numpy()
    predicted = probability.argmax(1)
    confidence = probability.max(1) * (predicted != digits.test_labels)
    row = int(confidence.argmax())
    return Wrong(row, int(digits.test_labels[row]), int(predicted[row]), float(confidence[row]))
