"""Classifiers that uses are tried on: blobs with some labels flipped, and a fitted estimator with names of its own."""

import numpy as np
import pandas as pd
import pytest
import torch

import upweight as uw

from .cases import draw

N = 120
FLIPPED = [3, 17, 40, 77, 101]


def blobs(c: int, l2: float = 0.01, flipped: bool = False) -> uw.LinearProblem:
    """c blobs with overlap; some labels flipped."""
    y = torch.arange(N) % c
    X = draw(N, 3, seed=1) + 2.5 * torch.eye(c, 3, dtype=torch.float64)[y]
    if flipped:
        y[FLIPPED] = (y[FLIPPED] + 1) % c
    loss, outputs = (uw.Logistic(), 1) if c == 2 else (uw.Softmax(), c)
    return uw.LinearProblem.fit(X, y, loss=loss, outputs=outputs, intercept=True, l2=l2)


def estimator(names: tuple[str, ...] = ("yes", "no")) -> tuple[uw.LinearProblem, pd.DataFrame, pd.Series]:
    """A fitted scikit-learn classifier on a DataFrame with string labels and ids."""
    linear = pytest.importorskip("sklearn.linear_model")
    X = pd.DataFrame(draw(60, 3, seed=4).numpy(), columns=["age", "dose", "noise"])
    X.index = [f"patient {i}" for i in range(60)]
    y = pd.Series(np.where(X["dose"] + 0.3 * X["noise"] > 0, *names), index=X.index)
    model = linear.LogisticRegression(tol=1e-10, max_iter=1000).fit(X, y)
    return uw.from_estimator(model, X, y), X, y


def network(n: int = 20) -> tuple[uw.Problem, tuple[torch.Tensor, torch.Tensor]]:
    """A regression by a layer, which nobody knows to be linear, and its data."""
    torch.manual_seed(0)
    X, y = draw(n, 3), draw(n, 1, seed=2)
    return uw.Problem(torch.nn.Linear(3, 1).double(), torch.nn.MSELoss(), (X, y), l2=0.1), (X, y)


def weighted_softmax(keep: str = "mean", n: int = 40) -> uw.LinearProblem:
    """A small softmax regression at its optimum."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=generator)
    weights = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    return uw.LinearProblem.fit(
        X,
        y,
        loss=uw.Softmax(),
        outputs=3,
        intercept=True,
        l2=0.05,
        l2_intercept=0.01,
        weights=weights,
        keep=keep,
    )
