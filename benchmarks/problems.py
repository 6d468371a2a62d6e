"""What the libraries are asked about: trained models and their data.

    softmax    softmax regression, `nn.Linear(784, 10, bias=False)`, l2 = 0.01, 55,000 digits of MNIST
    cnn        the paper's network (p = 2,616), l2 = 0.001 on weights and not on biases, 5,500 digits
    mlp        784-512-256-10 (p = 535,818), no penalty, 55,000 digits
    text       GPT-2 of 4 layers and width 64 on sequences of 32 characters of Enron's mails

Nothing here imports upweight, so that a process that measures another library does not hold it in memory.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments import data
from experiments.texts import TEXT, Texts, without_torchvision

Test = tuple[Any, Tensor]


@dataclass(frozen=True)
class Task:
    """A trained model, its training data (inputs X, labels y) and the objective that it was trained on:

        R(theta) = (1/n) sum_i loss(model(x_i), y_i) + 1/2 l2 ||weights||^2, biases left out of the penalty.

    The loss is cross entropy, of texts the mean of their tokens'. Wanted of every library, whatever its own sign and
    scale, is the (m, n) float64 table

        -grad loss(test)^T A^-1 (grad loss(train_i) [+ l2 weights]),

    A the Hessian of R, or what the library puts in its place, with `damping` on its diagonal. The term in brackets is
    there only where the library has a place for it: its `penalty_in_train_gradient` says so.
    """

    model: nn.Module
    X: Any
    y: Tensor
    l2: float = 0.0
    damping: float = 0.0

    @property
    def n(self) -> int:
        """The number of training examples."""
        return len(self.y)

    def network(self) -> nn.Module:
        """The model in the precision of the data."""
        return self.model.to(self.X.dtype)

    def first(self, rows: int) -> Task:
        """The question about the first training examples alone, for a first run that is not timed."""
        return replace(self, X=head(self.X, rows), y=self.y[:rows])

    def own(self) -> Task:
        """The question with a model that a library may change."""
        return replace(self, model=copy.deepcopy(self.model).eval())


def head(X: Any, rows: int) -> Any:
    """The first rows of a tensor or of columns."""
    return {name: part[:rows] for name, part in X.items()} if isinstance(X, dict) else X[:rows]


@dataclass(frozen=True)
class Digits:
    """MNIST divided by 255: training images from the 5,000th on, test digit 8 first."""

    shape: tuple[int, ...]
    rows: int
    l2: float
    file = "mnist.npz"

    def load(self, m: int, rows: int | None = None, path: Path | None = None) -> tuple[Tensor, Tensor, Test]:
        """Training images and labels, and m test images with theirs."""
        X, y, X_test, y_test = data.digits(False, path)
        # Index 8 once only: two equal right-hand sides would be an unfair trap for a block solver.
        tests = [8, *(i for i in range(m) if i != 8)][:m]
        n = rows or self.rows
        test = X_test[tests].view(-1, *self.shape), y_test[tests]
        return X[:n].clone().view(-1, *self.shape), y[:n].clone(), test


SOFTMAX = Digits((784,), 55_000, 0.01)
CNN = Digits((1, 28, 28), 5500, 0.001)
MLP = Digits((784,), 55_000, 0.0)
PROBLEMS: dict[str, Digits | Texts] = {"softmax": SOFTMAX, "cnn": CNN, "mlp": MLP, "text": TEXT}


def linear_model(theta: Tensor) -> nn.Linear:
    """A linear layer without biases, with the weights (classes, features) and in their precision."""
    model = nn.Linear(theta.shape[1], theta.shape[0], bias=False).to(theta.dtype)
    with torch.no_grad():
        model.weight.copy_(theta)
    return model.eval()


def read_model(path: Path) -> nn.Module:
    """A whole module from its file."""
    without_torchvision()
    return torch.load(path, weights_only=False).eval()


def trained(path: Path | None, experiment: str) -> Tensor:
    """Weights from a file, or those that an experiment keeps."""
    path = path or Path("experiments/out") / KEPT[experiment]
    if not path.exists():
        raise SystemExit(
            f"there is no {path}: run python -m experiments {experiment} first, or give --weights"
        )
    return torch.load(path)


KEPT = {"fig2_linear": "theta_55000.pt", "fig2_cnn": "cnn_5500_2500.pt"}
