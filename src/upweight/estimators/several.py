"""Several models of one kind, one for each output: one class against the rest, one pair, one for each target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np

from ..losses import MarginLoss, SeveralLabels
from .reading import Options, Reader, Reading
from .support_vectors import PAIRS


def one_against_the_rest(reader_of: Callable[[Any], Reader]) -> Reader:
    """The reader of OneVsRestClassifier: its models side by side, each with the same loss and penalty.

    Args:
        reader_of: from one of its models to the reader of that.
    """

    def read(model: Any, X: Any, options: Options) -> Reading:
        found = _stacked(model, X, options, reader_of)
        return _of_labels(model, found) if model.multilabel_ else found

    return read


def one_for_each_target(reader_of: Callable[[Any], Reader]) -> Reader:
    """The reader of MultiOutputRegressor: its models side by side, one for each column of y.

    Args:
        reader_of: from one of its models to the reader of that.
    """
    return lambda model, X, options: _stacked(model, X, options, reader_of)


def one_against_one(reader_of: Callable[[Any], Reader]) -> Reader:
    """The reader of OneVsOneClassifier: a model for each pair of classes, trained on the rows of these two.

    Args:
        reader_of: from one of its models to the reader of that.
    """

    def read(model: Any, X: Any, options: Options) -> Reading:
        if hasattr(model.estimators_[0], "support_vectors_"):
            raise ValueError(
                "OneVsOneClassifier of kernel machines is not supported; fit an SVC by itself: it is one against one"
            )
        if options.sample_weight is not None and not _hands_on_weights(model):
            raise ValueError(
                "OneVsOneClassifier takes no sample_weight in its fit unless sklearn.set_config("
                "enable_metadata_routing=True) holds and its model has set_fit_request(sample_weight=True): leave it "
                "out, or fit so"
            )
        found = _stacked(model, X, options, reader_of)
        if found.keep != "total":
            raise ValueError(
                "OneVsOneClassifier of models whose penalty is on the mean loss is not supported: each pair has a mean "
                "of its own; use LogisticRegression, LinearSVC or RidgeClassifier inside it"
            )
        if len(model.estimators_) == 1:
            return found
        return replace(  # scikit-learn's speak for the second class of a pair
            found,
            coef=-found.coef,
            intercept=None if found.intercept is None else -found.intercept,
            loss=replace(cast(MarginLoss, found.loss), pairs="surest"),
            notes=(*found.notes, PAIRS),
        )

    return read


def _hands_on_weights(model: Any) -> bool:
    """Whether the fit of a model of several hands sample weights on to them."""
    from sklearn import get_config

    if not get_config()["enable_metadata_routing"]:
        return False
    return bool(model.estimator.get_metadata_routing().fit.requests.get("sample_weight"))


def labels_of_each_target(reader_of: Callable[[Any], Reader]) -> Reader:
    """The reader of MultiOutputClassifier: its models side by side, one for each column of y, of two classes each.

    Args:
        reader_of: from one of its models to the reader of that.
    """

    def read(model: Any, X: Any, options: Options) -> Reading:
        many = [k for k, names in enumerate(model.classes_) if len(names) > 2]
        if many:
            raise ValueError(
                f"MultiOutputClassifier with more than two classes (in column {many[0]} of y) is not supported: pass "
                "each of its estimators_ with its own column"
            )
        return _of_labels(model, _stacked(model, X, options, reader_of))

    return read


def _of_labels(model: Any, found: Reading) -> Reading:
    """The reading of models side by side as that of several labels."""
    if len(model.estimators_) == 1:
        raise ValueError(
            f"{type(model).__name__} of a single column is not supported: pass its estimators_[0] with that column"
        )
    return replace(found, loss=SeveralLabels(cast(MarginLoss, found.loss)))


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
