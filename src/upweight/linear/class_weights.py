"""Class weights: the part of an example's weight that comes from its label, and goes where the label goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..data.class_counts import ClassCounts
from ..data.weights import check_weights
from ..losses import LinearLoss
from ..objective import LinearModel
from ..types import Tensor, as_tensor


def check_class_weights(given: Any, loss: LinearLoss, outputs: int) -> Float[Tensor, " k"] | None:
    """The weight of each class as a tensor of its own in float64, checked; None stays None.

    Args:
        given: one number >= 0 per class, or None.
        loss: of the model, between whose classes its outputs decide.
        outputs: the number of the model's outputs.

    Raises:
        ValueError: for a model without classes, another number of them, negative ones and such that are not finite.

    >>> from upweight.losses import Logistic
    >>> check_class_weights([1, 4], Logistic(), 1)
    tensor([1., 4.], dtype=torch.float64)
    """
    if given is None:
        return None
    if not loss.classifies:
        raise ValueError("class_weights are for classifiers, whose targets are classes: leave them out")
    found, classes = as_tensor(given).to(torch.float64, copy=True), loss.classes(outputs)
    if found.shape != (classes,) or not bool((found >= 0).all() and found.isfinite().all()):
        raise ValueError(
            f"class_weights must be {classes} finite numbers >= 0, one per class, got {found.tolist()}"
        )
    return found


def of_labels(class_weights: Float[Tensor, " k"] | None, targets: Tensor) -> Float[Tensor, " b"]:
    """The class weight of each of b encoded targets: classes 0..k-1, or signs of a model of one output; else 1.

    >>> of_labels(torch.tensor([1.0, 4.0]), torch.tensor([-1.0, 1.0]))
    tensor([1., 4.])
    """
    if class_weights is None:
        return torch.ones(len(targets), dtype=torch.float64)
    return class_weights[codes_of(targets)]


def codes_of(targets: Tensor) -> Int[Tensor, " b"]:
    """The classes 0..k-1 of encoded targets: whole numbers, or signs of a model of one output.

    >>> codes_of(torch.tensor([-1.0, 1.0])), codes_of(torch.tensor([2, 0]))
    (tensor([0, 1]), tensor([2, 0]))
    """
    return (targets > 0).long() if targets.is_floating_point() else targets


def counts_of(counted: Any, targets: Tensor, classes: int) -> ClassCounts | None:
    """The counts behind class weights that follow them; None stays None.

    Args:
        counted: what each example counts for (n,), or None.
        targets: the encoded targets of the n examples.
        classes: how many classes there are.
    """
    if counted is None:
        return None
    return ClassCounts(codes_of(targets), check_weights(counted, len(targets)), classes)


def of_batch(
    problem: LinearModel, class_weights: Float[Tensor, " k"] | None, batch: Any
) -> Float[Tensor, " b"]:
    """The class weight of each example of a batch.

    Args:
        problem: the model, which prepares the batch; its inputs are not looked at where there are no class weights.
        class_weights: the weight of each class, or None.
        batch: b examples, as (inputs, targets).
    """
    if class_weights is None and isinstance(batch, (tuple, list)) and len(batch) == 2:
        return torch.ones(np.shape(batch[1])[:1], dtype=torch.float64)
    design, y = problem.prepared(batch)
    return of_labels(class_weights, problem.encode(y, design.shape[0]))


def without_labels(
    weights: Float[Tensor, " n"], class_weights: Float[Tensor, " k"] | None, targets: Tensor
) -> Float[Tensor, " n"]:
    """What is left of the weights of n examples when the class weights are divided out: their sample weights.

    Where a class weighs nothing its examples do not tell. They are given what all others have, or NaN where those
    differ.

    Args:
        weights: the weights w_i (n,), sample weight times class weight.
        class_weights: the weight of each class, or None.
        targets: the encoded targets of the n examples.
    """
    if class_weights is None:
        return weights
    factor = of_labels(class_weights, targets)
    silent = factor == 0
    found = weights / torch.where(silent, 1.0, factor)
    if bool(silent.any()):
        others = found[~silent]
        found[silent] = others[0] if len(others) and alike(others) else torch.nan
    return found


def alike(weights: Float[Tensor, " n"]) -> bool:
    """Whether all weights are equal up to rounding."""
    return bool(torch.allclose(weights, weights[:1].expand(len(weights)), rtol=1e-12, atol=0.0))


def followed(
    problem: LinearModel, factors: Float[Tensor, " k"], y: Tensor, weights: Tensor
) -> dict[str, Any]:
    """The fields of a problem whose class weights are multiplied with these factors.

    Args:
        problem: the model.
        factors: one for each class.
        y: the encoded targets of b examples.
        weights: what they weigh before (b,).
    """
    found = {"weights": weights * of_labels(factors, y)}
    own = problem.class_weights
    return found if own is None else {**found, "class_weights": own * factors}


def relabelled(problem: LinearModel, rows: Int[Tensor, " r"], targets: Tensor) -> dict[str, Any]:
    """The fields of a problem with other targets of some rows.

    Args:
        problem: the model.
        rows: their numbers.
        targets: the encoded targets in place of their own.
    """
    y = problem.y.clone()
    y[rows] = targets.to(y)
    weights = relabelled_weights(problem.weights, problem.class_weights, problem.y, y, rows)
    if problem.counts is None:
        return {"y": y, "weights": weights}
    counts, factors = problem.counts.relabelled(rows, codes_of(y[rows]))
    return {"y": y, "counts": counts, **followed(problem, factors, y, weights)}


def relabelled_weights(
    weights: Float[Tensor, " n"],
    class_weights: Float[Tensor, " k"] | None,
    before: Tensor,
    after: Tensor,
    rows: Int[Tensor, " r"],
) -> Float[Tensor, " n"]:
    """The weights of n examples when some of them have other labels: the old label's class weight gives way.

    Args:
        weights: the weights w_i (n,), sample weight times class weight.
        class_weights: the weight of each class, or None, where nothing changes.
        before: the encoded targets of the n examples.
        after: those in their place.
        rows: the examples whose label changes.

    Raises:
        ValueError: where the old label weighs nothing, so that nobody knows the example's own weight.
    """
    if class_weights is None:
        return weights
    own = without_labels(weights, class_weights, before)[rows]
    if bool(own.isnan().any()):
        raise ValueError(
            f"row {int(rows[own.isnan()][0])} has a class of weight 0, so that its own weight is not known: give that "
            "class a small weight above 0"
        )
    found = weights.clone()
    found[rows] = own * of_labels(class_weights, after[rows])
    return found
