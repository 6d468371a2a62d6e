"""Networks trained by skorch: the module as it is, and the objective that its fit really minimised.

skorch hands batches to a criterion and lets the optimiser add its weight decay. A classifier's `NLLLoss` is given
log(p + eps) of the probabilities that the module returns. By default a fifth of the rows is held out for validation,
the first rows of each class in the order of the data; they did not train.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..types import Tensor
from .networks import MANY_OPTIMA, FittedNetwork, penalties

NETS = ("NeuralNetClassifier", "NeuralNetBinaryClassifier", "NeuralNetRegressor")
OWN_STEPS = ("get_loss", "train_step", "train_step_single", "infer")
"""What decides on the objective of a net: a class of the user's own may train by anything in its place."""
COMPARED = 4096
"""Rows whose mean loss is held against the loss of all together."""
CHANGING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Criterion:
    """What skorch makes of outputs and targets of a batch, by the net's own criterion.

    Args:
        criterion: the module that was trained with.
        logarithm: whether it is given the logarithm of outputs, which are probabilities.
        flat: whether outputs (b, 1) are taken as (b,).
    """

    criterion: nn.Module
    logarithm: bool
    flat: bool

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = outputs.reshape(-1) if self.flat else outputs
        if self.logarithm:
            outputs = (outputs + torch.finfo(outputs.dtype).eps).log()
        return self.criterion(outputs, targets)


def is_skorch(model: Any) -> bool:
    """Whether it is a classifier or a regressor of skorch, or of a class below one."""
    return any(
        kind.__name__ in NETS and kind.__module__.partition(".")[0] == "skorch"
        for kind in type(model).__mro__
    )


def skorch_net(model: Any, X: Any, y: Any, sample_weight: Any) -> FittedNetwork:
    """What a fitted net of skorch minimised: the mean of the criterion over its training rows + its weight decay / 2.

    Args:
        model: the fitted net.
        X: its inputs (n, ...), an array or a tensor, those held out among them.
        y: their targets.
        sample_weight: none; skorch would hand them to the module.

    Raises:
        TypeError: for inputs that are no array.
        ValueError: for a net that trained by steps of the user's own or on rows that nobody knows, criteria that are no
            mean over examples, and decays that are no penalty.
    """
    name = type(model).__name__
    if not getattr(model, "initialized_", False):
        raise ValueError(f"the {name} is not fitted: call fit first")
    if sample_weight is not None:
        raise ValueError("skorch hands sample_weight to the module, its losses have no weights: leave it out")
    _check_own_steps(model)
    inputs, targets = _inputs(X), _targets(y)
    rows = _training_rows(model, X, y)
    module = copy.deepcopy(model.module_).eval()
    criterion = copy.deepcopy(model.criterion_).eval()
    loss = Criterion(
        criterion, _owner(model, "get_loss").__name__ == "NeuralNetClassifier" and isinstance(criterion, nn.NLLLoss),
        _owner(model, "infer").__name__ == "NeuralNetBinaryClassifier",
    )  # fmt: skip
    own = np.arange(len(inputs)) if rows is None else rows
    _check_mean(loss, module, inputs[own], targets[own])
    notes = [MANY_OPTIMA]
    if rows is not None:
        notes.append(
            f"{len(inputs) - len(rows)} of {len(inputs)} rows were held out by train_split and did not train: they are "
            "left out, and the others are called by their numbers in X"
        )
    if any(isinstance(part, CHANGING) for part in module.modules()):
        notes.append("dropout and batch norm are as in prediction, training had them otherwise")
    return FittedNetwork(
        module,
        loss,
        _decay(model, module),
        "mean",
        None,
        _inputs,
        _targets,
        lambda X, y, _: _trained_further(model, X, y),
        rows,
        tuple(notes),
    )


def _owner(model: Any, method: str) -> type:
    """The class of a net that defines a method."""
    return next(kind for kind in type(model).__mro__ if method in vars(kind))


def _check_own_steps(model: Any) -> None:
    for method in OWN_STEPS:
        if _owner(model, method).__module__.partition(".")[0] != "skorch":
            raise ValueError(
                f"{type(model).__name__} has a {method} of its own, so that nobody knows what it minimised: describe "
                "it with Problem(net.module_, loss, (X, y), l2=...)"
            )
    if any(True for _ in model.criterion_.parameters()):
        raise ValueError("the criterion has parameters of its own, which were trained along: use Problem")


def _inputs(X: Any) -> Tensor:
    """Inputs as the module is given them, in their own precision."""
    if isinstance(X, Tensor):
        return X
    if not isinstance(X, np.ndarray):
        raise TypeError(
            f"inputs of a net must be an array or a tensor, got {type(X).__name__}: give what the module sees (of a "
            "DataFrame X.to_numpy(np.float32), fitted on that), or describe the net with Problem"
        )
    return torch.from_numpy(np.array(X))  # a copy


def _targets(y: Any) -> Tensor:
    """Targets as the criterion is given them: class numbers, or numbers in the shape that they were given in."""
    return y if isinstance(y, Tensor) else torch.from_numpy(np.array(y))


def _training_rows(model: Any, X: Any, y: Any) -> np.ndarray | None:
    """The numbers of the rows that trained, or None for all.

    Raises ValueError where they cannot be known: drawn anew at each fit, or as a data set of the user's own.
    """
    if not model.train_split:
        return None
    drawn = [model.get_split_datasets(X, y)[0] for _ in range(2)]
    if not all(hasattr(found, "indices") for found in drawn):
        if len(drawn[0]) == len(X):  # another data set was given for validation
            return None
        raise ValueError("train_split gives rows of its own making: use Problem with the rows that trained")
    first, second = (np.asarray(found.indices) for found in drawn)
    if not np.array_equal(first, second):
        raise ValueError(
            "train_split draws other rows at each fit, and which ones trained is not recorded: give it a random_state, "
            "or train_split=None, and fit again"
        )
    return np.sort(first)


def _check_mean(loss: Criterion, module: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Refuse a criterion that is not the mean of its examples: with class weights, a sum, or shapes that broadcast."""
    some = torch.linspace(0, len(inputs) - 1, min(len(inputs), COMPARED)).long()
    with torch.no_grad():
        outputs = module(inputs[some])
        whole = loss(outputs, targets[some])
        each = [loss(outputs[i : i + 1], targets[some[i : i + 1]]) for i in range(len(some))]
    mean = torch.stack([one.reshape(()) for one in each]).mean() if whole.ndim == 0 else whole
    if whole.ndim or not torch.allclose(whole, mean, rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"{type(loss.criterion).__name__} of a batch is not the mean of its examples: give it neither weights nor "
            'another reduction than "mean", and regression targets in the shape of the outputs, y.reshape(-1, 1) for '
            "(n, 1)"
        )


def _decay(model: Any, module: nn.Module) -> Tensor:
    """The optimiser's weight decay on each number of the parameters: that of Adam and SGD is the slope of a penalty."""
    groups = model.optimizer_.param_groups
    if any(group.get("weight_decay", 0) and group.get("decoupled_weight_decay", False) for group in groups):
        raise ValueError(
            f"{type(model.optimizer_).__name__} shrinks weights beside the loss, which is no penalty that training "
            "minimised: use optimizer__weight_decay=0, or torch.optim.Adam or SGD with a weight decay"
        )
    of_parameter = {id(p): group.get("weight_decay", 0) for group in groups for p in group["params"]}
    own = {
        id(copied): id(p) for copied, p in zip(module.parameters(), model.module_.parameters(), strict=True)
    }
    return penalties(module, lambda p: of_parameter.get(own[id(p)], 0.0))


def _trained_further(model: Any, X: Any, y: Any) -> nn.Module:
    """The module of a net that goes on from its weights with some of the rows alone, as many epochs as it was set to.

    Nothing is held out, no callback acts, and the order of the rows comes from a seed of its own.
    """
    further = copy.deepcopy(model)
    further.train_split, further.verbose, further.callbacks_ = None, 0, []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        further.partial_fit(X, y)
    return further.module_.eval()
