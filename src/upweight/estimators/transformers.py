"""Transformers in front of an estimator: whether training saw the numbers that they give now."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ..data.column_scales import LARGEST, RANGE, STANDARD, ColumnScales
from .reading import Reading

PROBED = 1000
"""Training rows on which transformers are fitted once more to see what they give in training."""
APART = 0.01
"""The largest share of a column's size by which what they give later may differ from it."""


def check_transformers(transform: Any, X: Any, y: Any) -> tuple[str, ...]:
    """Refuse transformers that give other numbers in training (`fit_transform`) than afterwards (`transform`).

    A target encoder that is fitted across folds is one: the model was trained on numbers that nobody has any more. A
    copy of the transformers is fitted on some training rows and both are compared; only those are looked at that do not
    take `fit_transform` over from scikit-learn, where it is `fit` and then `transform`.

    Args:
        transform: the fitted transformers before the estimator, as a pipeline.
        X: the training rows as the user has them.
        y: their targets.

    Returns:
        A note where the copy could not be fitted, else nothing.

    Raises:
        ValueError: naming the transformers, and for samplers, which change the rows themselves.
    """
    from sklearn.base import clone
    from sklearn.utils import resample

    leaves = list(_leaves(transform))
    samplers = [type(leaf).__name__ for leaf in leaves if hasattr(leaf, "fit_resample")]
    if samplers:
        raise ValueError(
            f"the pipeline's {', '.join(samplers)} changes the training rows themselves, which are then not those of "
            "X: pass the last step of the pipeline with the rows and labels that it was trained on"
        )
    names = sorted({type(leaf).__name__ for leaf in leaves if _own_fit_transform(leaf)})
    if not names:
        return ()
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            copy = clone(transform)
            some, labels = resample(X, y, replace=False, n_samples=min(n, PROBED), random_state=0)
            apart = _apart(copy.fit_transform(some, labels), copy.transform(some))
        except Exception as error:  # a user's own transformer may fail on other rows in any way
            return (
                f"whether {' and '.join(names)} gave training other numbers than now is not known ({error})",
            )
    if apart > APART:
        raise ValueError(
            f"the pipeline's {' or '.join(names)} gives training other numbers (fit_transform) than afterwards "
            f"(transform), {apart:.0%} apart: what X becomes now is not what the model was trained on. Pass the last "
            "step with the numbers that it was trained on: from_estimator(pipeline[-1], clone(pipeline[:-1])."
            "fit_transform(X, y), y), where random_state is fixed, and test rows as pipeline[:-1].transform gives them"
        )
    return ()


SCALERS = {"StandardScaler": STANDARD, "MinMaxScaler": RANGE, "MaxAbsScaler": LARGEST}
"""Scalers that are followed as rows are removed, and what each divides a column by."""


def scales_of(transform: Any, features: Any, reading: Reading) -> ColumnScales:
    """The columns of the model that a scaler has divided by their own scale, just before the model.

    Where a scaler moves columns as well, the intercept takes that up, so that only the scales matter: to the penalty.

    Args:
        transform: the fitted transformers before the model, or None.
        features: what they give (n, d), before any feature map of the model.
        reading: what the model minimised.

    Raises:
        ValueError: where there is no such column, and for models whose penalty does not tell scales from each other.
    """
    found = {} if transform is None else _scaled(transform, features.shape[1])
    if not found:
        raise ValueError(
            "follow_scaling=True follows a StandardScaler, MinMaxScaler or MaxAbsScaler directly before the model, and "
            "there is none: leave follow_scaling out, and what is there is held fixed"
        )
    phi = reading.phi
    if phi is not None and phi.of_kernel:
        raise ValueError(
            "follow_scaling=True is for models that are linear in the scaled columns, a kernel is not: leave it out"
        )
    strengths = [np.ravel(reading.l2_intercept)]
    for part in (reading.l2, reading.slope):
        if isinstance(part, np.ndarray) and part.ndim and reading.intercept is not None:
            strengths.append(part[-len(reading.coef) :])
    moves = any(moved for _, moved in found.values())
    if moves and (reading.intercept is None or any(part.any() for part in strengths)):
        raise ValueError(
            "follow_scaling=True needs an intercept without a penalty, which takes up how the scaler moves columns: "
            "this model has none; leave follow_scaling out"
        )
    kept = range(features.shape[1]) if phi is None else phi.kept  # type: ignore[attr-defined]
    places = [(place, int(j)) for place, j in enumerate(kept) if int(j) in found]
    numbers = [j for _, j in places]
    values = (
        sparse.csc_array(features)[:, numbers].toarray()
        if sparse.issparse(features)
        else features[:, numbers]
    )
    return ColumnScales(
        torch.as_tensor(np.asarray(values, dtype=np.float64)),
        torch.tensor([place for place, _ in places]),
        tuple(found[j][0] for j in numbers),
        len(kept),
    )


def _scaled(transform: Any, d: int) -> dict[int, tuple[str, bool]]:
    """What divides each column of a transformer's d outputs, and whether it is moved as well."""
    steps = getattr(transform, "steps", None)
    if steps is not None:
        last = [step for _, step in steps if step not in (None, "passthrough")]
        return _scaled(last[-1], d) if last else {}
    if hasattr(transform, "output_indices_"):
        found: dict[int, tuple[str, bool]] = {}
        for name, part, _ in transform.transformers_:
            own = transform.output_indices_[name]
            inside = {} if isinstance(part, str) else _scaled(part, own.stop - own.start)
            found |= {own.start + j: kind for j, kind in inside.items()}
        return found
    kind = SCALERS.get(type(transform).__name__)
    if kind is None or getattr(transform, "with_std", True) is False:
        return {}
    moved = kind == RANGE or (kind == STANDARD and bool(transform.with_mean))
    return dict.fromkeys(range(d), (kind, moved))


def _leaves(transform: Any) -> Iterator[Any]:
    """The transformers inside pipelines, unions and column transformers, however they are nested."""
    inside = next(
        (
            getattr(transform, name)
            for name in ("steps", "transformers_", "transformer_list")
            if hasattr(transform, name)
        ),
        None,
    )
    if inside is None:
        if not (transform is None or isinstance(transform, str)):  # "passthrough", "drop"
            yield transform
        return
    for part in inside:
        yield from _leaves(part[1])


def _own_fit_transform(leaf: Any) -> bool:
    from sklearn.base import TransformerMixin

    return getattr(type(leaf), "fit_transform", None) is not TransformerMixin.fit_transform


def _apart(trained: Any, later: Any) -> float:
    """The largest difference of two feature matrices, column by column, as a share of the column's size."""
    a, b = (
        sparse.csc_array(part) if sparse.issparse(part) else np.asarray(part) for part in (trained, later)
    )
    if a.shape != b.shape:
        return np.inf
    if sparse.issparse(a) or sparse.issparse(b):
        off, size = sparse.csc_array(a - b), sparse.csc_array(a)
        lengths = [np.sqrt(np.asarray(part.multiply(part).sum(0))).ravel() for part in (off, size)]
    else:
        a, b = a.astype(np.float64), b.astype(np.float64)
        spread = a - a.mean(0)  # a column's offset says nothing of the size of what it tells
        lengths = [np.linalg.norm(a - b, axis=0), np.linalg.norm(spread, axis=0)]
    moved = lengths[0] > 1e-12 * (1 + lengths[1])
    return float((lengths[0][moved] / np.maximum(lengths[1][moved], 1e-300)).max(initial=0.0))
