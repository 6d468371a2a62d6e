"""Measures of one example each, in place of its loss: the prediction, and how strongly a model speaks for a class."""

from __future__ import annotations

from typing import Any

import torch

from ..types import Tensor


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
    outputs, classes = by_class(outputs, targets)
    if outputs.shape[1] == 1:
        return outputs[:, 0] * sign(classes, outputs)
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
    outputs, classes = by_class(outputs, targets)
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
    outputs, classes = by_class(outputs, targets)
    if outputs.shape[1] == 1:
        return logit(outputs, classes)
    own = classes.long()[:, None]
    others = outputs.scatter(1, own, float("-inf"))
    return outputs.gather(1, own)[:, 0] - others.amax(1)


def by_class(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (b, c) and one class per example (b,), in whichever shape a network has them."""
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    targets = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if outputs.ndim != 2 or targets.ndim != 1:
        raise ValueError(
            "logit, probability and margin are of one class per example, outputs (b, c) and targets (b,), got shapes "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}: write a measure of your own"
        )
    return outputs, targets


def sign(classes: Tensor, outputs: Tensor) -> Tensor:
    """+1 for the second of two classes and -1 for the first; NaN for what is neither."""
    first, second = (classes == 0) | (classes == -1), classes == 1
    return torch.where(second, 1.0, torch.where(first, -1.0, torch.nan)).to(outputs.dtype)
