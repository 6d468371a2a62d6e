"""Several models of one kind, one for each output: one class against the rest, one for each target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .reading import Options, Reader, Reading


def one_against_the_rest(reader_of: Callable[[Any], Reader]) -> Reader:
    """The reader of OneVsRestClassifier: its models side by side, each with the same loss and penalty.

    Args:
        reader_of: from one of its models to the reader of that.
    """

    def read(model: Any, X: Any, options: Options) -> Reading:
        if model.multilabel_:
            raise ValueError(
                "OneVsRestClassifier with several labels per example is not supported; pass each of its estimators_ "
                "with its own column of y"
            )
        return _stacked(model, X, options, reader_of)

    return read


def one_for_each_target(reader_of: Callable[[Any], Reader]) -> Reader:
    """The reader of MultiOutputRegressor: its models side by side, one for each column of y.

    Args:
        reader_of: from one of its models to the reader of that.
    """
    return lambda model, X, options: _stacked(model, X, options, reader_of)


def _stacked(model: Any, X: Any, options: Options, reader_of: Callable[[Any], Reader]) -> Reading:
    """The readings of a model's estimators as one with as many outputs."""
    name, inner = type(model).__name__, model.estimators_
    if any(type(one).__name__ == "_ConstantPredictor" for one in inner):
        raise ValueError(
            f"{name} met a class that all examples or none have, and trained nothing for it: leave it out"
        )
    if getattr(inner[0], "class_weight", None) is not None:
        raise ValueError(f"class_weight inside {name} weighs each model's own two classes; fit without it")
    parts = [reader_of(one)(one, X, options) for one in inner]
    first = parts[0]
    if len(parts) == 1:
        return first
    if any((part.phi is not None and first.phi is None) or part.slope is not None for part in parts):
        raise ValueError(
            f"{name} of models with an l1 penalty is not supported: each has columns of its own; use l2"
        )
    if not first.loss.separate_outputs or any(
        part.loss != first.loss or len(part.coef) > 1 for part in parts
    ):
        raise ValueError(
            f"{name} of {type(inner[0]).__name__} with these settings is not supported; use others"
        )
    intercept = None
    if first.intercept is not None:
        intercept = np.concatenate([np.ravel(part.intercept) for part in parts if part.intercept is not None])
    return replace(
        first, coef=np.concatenate([part.coef for part in parts]), intercept=intercept, l2=_l2(parts)
    )


def _l2(parts: list[Reading]) -> Any:
    """The strengths of all outputs, in the order of the parameters: coefficients by output, then intercepts."""
    first = parts[0]
    if np.ndim(first.l2) == 0:
        return first.l2
    d = first.coef.shape[1]
    each = [np.asarray(part.l2) for part in parts]
    return np.concatenate([*(l2[:d] for l2 in each), *(l2[d:] for l2 in each)])
