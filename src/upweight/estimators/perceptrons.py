"""Multi-layer perceptrons of scikit-learn as networks of torch: the same weights, the same objective."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional as F

from ..types import Tensor
from .networks import MANY_OPTIMA, FittedNetwork, penalties
from .user_data import Targets

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}
PERCEPTRONS = ("MLPClassifier", "MLPRegressor")


def is_perceptron(model: Any) -> bool:
    """Whether it is a perceptron of scikit-learn, or of a class below one."""
    return any(
        kind.__name__ in PERCEPTRONS and kind.__module__.startswith("sklearn") for kind in type(model).__mro__
    )


def perceptron(model: Any, X: Any, y: Any, sample_weight: Any) -> FittedNetwork:
    """The network of a fitted MLPClassifier or MLPRegressor: the mean loss + alpha / (2 b) times the squared weights.

    b is the size of a batch: all n rows for lbfgs, whose refits keep the total penalty, else `batch_size`, whose refits
    keep it on the mean. Losses are log-losses, and half the squared error on average over the targets.

    Args:
        model: the fitted estimator.
        X: its n training inputs.
        y: not looked at.
        sample_weight: not looked at.

    Raises:
        ValueError: for early stopping, other losses, and labels of several classes at once.
    """
    n, name, classes = X.shape[0], type(model).__name__, getattr(model, "classes_", None)
    if model.early_stopping:
        raise ValueError(
            "early_stopping=True trains on a part of the data that is not recorded; use early_stopping=False"
        )
    if model.loss not in ("log_loss", "squared_error"):
        raise ValueError(f"{name} with loss={model.loss!r} is not supported; use squared_error")
    if classes is not None and model.out_activation_ == "logistic" and model.n_outputs_ > 1:
        raise ValueError(f"{name} with several labels per example is not supported; fit one for each label")
    layers: list[nn.Module] = []
    for weight, bias in zip(model.coefs_, model.intercepts_, strict=True):
        layer = nn.Linear(weight.shape[0], weight.shape[1], dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(weight.T))
            layer.bias.copy_(torch.as_tensor(bias))
        layers += [layer, ACTIVATIONS[model.activation]()]
    module = nn.Sequential(*layers[:-1])
    whole = model.solver == "lbfgs"
    batch = n if whole else min(200 if model.batch_size == "auto" else model.batch_size, n)
    kept = None if classes is None else tuple(classes.tolist())
    codes = Targets(kept)

    def targets(y: Any) -> Tensor:  # class numbers, signs of two classes as 0 and 1 (n, 1), numbers (n, c)
        found = torch.from_numpy(np.array(codes(y)))  # a copy
        return found if kept is not None and len(kept) > 2 else found.double().reshape(len(found), -1)

    return FittedNetwork(
        module,
        _loss_of(model, classes),
        penalties(module, lambda p: model.alpha / batch if p.ndim == 2 else 0.0),
        "total" if whole else "mean",
        kept,
        dense,
        targets,
        lambda X, y, weights: trained_further(model, X, y, weights),
        notes=(MANY_OPTIMA,),
    )


def dense(X: Any) -> Tensor:
    """Inputs as a tensor of their own in float64, sparse ones written out."""
    return torch.from_numpy(np.array(X.toarray() if sparse.issparse(X) else X, dtype=np.float64))


def trained_further(model: Any, X: Any, y: Any, sample_weight: Any) -> nn.Module:
    """The network of a perceptron that goes on from its weights with some of the rows alone.

    Args:
        model: the fitted estimator, which is not changed.
        X: its inputs (k, d).
        y: their targets as the estimator takes them.
        sample_weight: their weights (k,), or None.
    """
    further = copy.deepcopy(model).set_params(warm_start=True)
    extra = {} if sample_weight is None else {"sample_weight": sample_weight}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was said when it was fitted the first time
        further.fit(X, y, **extra)
    return perceptron(further, X, y, sample_weight).module


def _loss_of(model: Any, classes: Any) -> Callable[[Tensor, Tensor], Tensor]:
    if classes is None:
        return _half_squared
    return F.cross_entropy if model.out_activation_ == "softmax" else F.binary_cross_entropy_with_logits


def _half_squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets) / 2
