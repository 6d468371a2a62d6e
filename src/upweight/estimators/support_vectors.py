"""Support vector machines: linear ones, and those with a kernel as linear models in its features."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import ApproximationWarning
from ..linear.kernel_features import LARGE, FeatureMap, Kernel
from ..losses import LinearLoss, SmoothHinge, SquaredHinge
from ..runtime.warned import warned
from .reading import Options, Reading, coefficients, intercept_of, refuse_penalty
from .sparse_models import Active

PAIRS = (
    "outputs are those of a machine for each pair of classes, trained on the rows of these two: votes decide between "
    "classes, and the loss of a row is the sum over the machines of its class"
)
HELD_NU = (
    "the {0} that nu={1:g} leads to, {2}, is held fixed by derivatives and single Newton steps: refits that held it "
    "were {3} % off those of the estimator on two data sets; effects that are shown (of_each_removal, of_removal) are "
    "refits of the estimator"
)
CORNERS = (
    "the loss has corners, which derivatives and single Newton steps see smoothed; effects that are shown "
    "(of_each_removal, of_removal) are refits of the estimator, and none where it does not see the row"
)
CORNER = 1e-3
"""How far beyond the corner of its loss, whose margin or target is of size 1, a row of liblinear's may lie that counts
as a support vector: more than its tolerance."""
VISIBLE, HOPELESS = 0.01, 0.5
"""Changes of an SVC's decision function (its margin is 1) that are warned of, and refused."""


def linear_svc(model: Any, X: Any, options: Options) -> Reading:
    """What LinearSVC minimises: C times the sum of hinges or squared hinges + 1/2 ||coef||^2, thus l2 = 1 / (C n).

    Classes are trained one against the rest; liblinear penalises the intercept too. A refit without rows keeps C.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` is that of the hinge; the squared hinge needs none.

    Raises:
        ValueError: for several classes with an l1 penalty and for multi_class="crammer_singer".
    """
    if model.penalty not in ("l1", "l2"):
        refuse_penalty(model, model.penalty, 'penalty="l2"')
    if model.multi_class != "ovr":
        raise ValueError(
            f'multi_class={model.multi_class!r} trains all classes with one loss of another kind; use "ovr"'
        )
    coef, l2 = coefficients(model), 1 / (model.C * X.shape[0])
    if model.penalty == "l1":
        found = Active.of(model, coef, l2).reading(
            intercept_of(model, 1), SquaredHinge(), 0.0, "total", l1_intercept=liblinear_l1(model, l2)
        )
        return replace(found, counts_weights=True)
    found = Reading(
        coef,
        intercept_of(model, len(coef)),
        SquaredHinge(),
        l2,
        "total",
        l2_intercept=liblinear_intercept(model, l2),
        counts_weights=True,
    )
    if model.loss == "hinge":
        of_class = np.asarray(options.targets)[:, None] == model.classes_[-len(coef) :]
        margins = np.where(of_class, 1, -1) * model.decision_function(X).reshape(X.shape[0], -1)
        found = replace(found, loss=SmoothHinge(options.smoothing))
        return with_corners(found, model, np.flatnonzero((margins < 1 + CORNER).any(1)), len(margins))
    return found


def with_corners(reading: Reading, model: Any, vectors: np.ndarray, n: int) -> Reading:
    """The reading of a machine whose loss has corners: refits tell what the removal of a support vector does.

    That of any other row does nothing, unless it moves the weights of classes or the width of the kernel.

    Args:
        reading: what it minimised, with a smooth loss in the place of its own.
        model: the fitted estimator.
        vectors: the numbers of its support vectors among the training rows.
        n: the number of training rows.
    """
    every = np.arange(n)
    kernel = getattr(model, "kernel", "linear")
    moves_width = kernel in ("rbf", "poly", "sigmoid") and model.gamma == "scale"
    if moves_width or getattr(model, "class_weight", None) == "balanced":
        vectors = every
    still = np.setdiff1d(every, vectors)
    return replace(reading, refitted=vectors, still=still, notes=(*reading.notes, CORNERS))


def liblinear_intercept(model: Any, l2: float) -> float:
    """The strength of the penalty on an intercept that liblinear trained, 0 where there is none.

    liblinear appends a column of `intercept_scaling` to X and penalises its weight, intercept / intercept_scaling, like
    any other: l2 / intercept_scaling^2.

    Args:
        model: the fitted estimator.
        l2: the strength on the coefficients.
    """
    return l2 / model.intercept_scaling**2 if model.fit_intercept else 0.0


def liblinear_l1(model: Any, l1: float) -> float:
    """The strength of an l1 penalty on an intercept that liblinear trained: l1 / intercept_scaling (see above).

    Args:
        model: the fitted estimator.
        l1: the strength on the coefficients.
    """
    return l1 / model.intercept_scaling if model.fit_intercept else 0.0


def svc(model: Any, X: Any, options: Options) -> Reading:
    """What an SVC minimises: C times the sum of hinges + 1/2 ||f||^2 in the space of its kernel (R21).

    Of more than two classes that is so for the machine of each pair of them, over the rows of its two classes; the
    objective is the sum of all, the loss of a row the sum of the hinges of its class's own machines.

    In the features of the kernel (`FeatureMap`) f is linear and ||f|| is the length of its coefficients. The features
    are an eigendecomposition of the kernel matrix, n^3 operations; a rank and many points make it cheaper.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` is that of the hinge, `rank` the number of features that are kept.

    Raises:
        ValueError: for other training inputs than it was fitted on, a kernel that is not positive semi-definite, rows
            of weight zero with a kernel of one's own, and a rank that makes another model.

    Warns:
        ApproximationWarning: where `rank` changes the decision function visibly.
    """
    found = _classifier(model, X, options, np.full(len(model.intercept_), float(model.C)))
    return with_corners(found, model, support_of(model, options.sample_weight), X.shape[0])


def nu_svc(model: Any, X: Any, options: Options) -> Reading:
    """What a NuSVC minimises with the C that its nu led to held: that of an SVC with this C, for each pair its own.

    The dual coefficients sum to nu times the sum of the weights before libsvm divides them by rho, which makes the
    margin 1: C = 1 / rho is their sum over the other two. A removal moves rho, so that shown effects are refits.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: as `svc` takes them.

    Raises:
        ValueError: for class weights, which libsvm does not look at here, and as `svc` does.
    """
    if model.class_weight is not None:
        raise ValueError(
            "NuSVC trains as if class_weight were None: leave it out, or give the weights as sample_weight"
        )
    w = (
        np.ones(X.shape[0])
        if options.sample_weight is None
        else np.asarray(options.sample_weight, dtype=float)
    )
    of_class = [w[np.asarray(options.targets) == label].sum() for label in model.classes_]
    in_pair = np.array([a + b for a, b in combinations(of_class, 2)])
    C = np.abs(dual_of(model)).sum(1) / (model.nu * in_pair)
    found = _classifier(model, X, options, C)
    return replace(
        found,
        refitted=np.arange(X.shape[0]),
        notes=(*found.notes, HELD_NU.format("C", model.nu, _few(C), "7 to 36")),
    )


def _classifier(model: Any, X: Any, options: Options, C: np.ndarray) -> Reading:
    """An SVC's objective, or that of its machines for each pair of classes, each with its own C (c,).

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` and `rank`.
        C: what the losses of each machine are multiplied with.
    """
    loss = SmoothHinge(options.smoothing)
    if len(model.classes_) == 2:
        return in_kernel_space(model, X, loss, options, C)
    ties = "surest" if model.break_ties else "first"
    found = in_kernel_space(model, X, replace(loss, pairs=ties), options, C)  # type: ignore[arg-type]
    return replace(found, weighs_examples=True, notes=(*found.notes, PAIRS))


def _few(C: np.ndarray) -> str:
    return f"{C[0]:.4g}" if len(C) == 1 else f"{C.min():.4g} to {C.max():.4g}"


def in_kernel_space(
    model: Any, X: Any, loss: LinearLoss, options: Options, C: np.ndarray | None = None
) -> Reading:
    """What a machine of libsvm minimises: C times the sum of its losses + 1/2 ||f||^2 in the space of its kernel.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        loss: the loss of one example.
        options: `rank`, the number of features that are kept.
        C: what the losses of each machine are multiplied with (c,); None: the estimator's own.
    """
    n, name = X.shape[0], type(model).__name__
    if model.shape_fit_[0] != n:
        raise ValueError(f"X has {n} examples, the {name} was fitted on {model.shape_fit_[0]}")
    strengths = 1 / (np.array([model.C]) if C is None else C) / n
    if model.kernel == "linear":
        coef = coefficients(model)
        return Reading(coef, model.intercept_, loss, _each(strengths, coef.shape[1]), "total")
    phi = FeatureMap.of(
        _kernel(model), X, rank=options.rank, large=n if model.kernel == "precomputed" else LARGE
    )
    features = phi(X)
    coef = dual_of(model) @ features[support_of(model, options.sample_weight)]
    change = np.abs(features @ coef.T + model.intercept_ - _decisions(model, X)).max()
    notes = ("the kernel and its gamma are held fixed", *_approximated(float(change), options.rank, name))
    l2 = _each(strengths, coef.shape[1])
    return Reading(coef, model.intercept_, loss, l2, "total", phi=phi, notes=notes)


def _each(strengths: np.ndarray, columns: int) -> float | np.ndarray:
    """The strength of each parameter, by output, then 0 of the intercepts; one number where all machines share it."""
    if (strengths == strengths[0]).all():
        return float(strengths[0])
    return np.concatenate([strengths.repeat(columns), np.zeros(len(strengths))])


def dual_of(model: Any) -> np.ndarray:
    """The dual coefficients of each machine, one for each pair of classes, at all support vectors (c, q).

    libsvm keeps those of all pairs in K - 1 rows: a support vector of class i has its coefficient against class j in
    row j - 1 if j comes later, else in row j.
    """
    dual = model.dual_coef_.toarray() if sparse.issparse(model.dual_coef_) else model.dual_coef_
    if len(model.intercept_) == 1:
        return dual
    ends = np.cumsum(model.n_support_)
    of_class = [slice(end - count, end) for end, count in zip(ends, model.n_support_, strict=True)]
    found = np.zeros((len(model.intercept_), dual.shape[1]))
    for own, (i, j) in zip(found, combinations(range(len(of_class)), 2), strict=True):
        own[of_class[i]], own[of_class[j]] = dual[j - 1, of_class[i]], dual[i, of_class[j]]
    return found


def _decisions(model: Any, X: Any) -> np.ndarray:
    """What a machine says of rows (m, c): its decision function, for each pair of classes, or its prediction."""
    if not hasattr(model, "decision_function"):
        return model.predict(X)[:, None]
    in_pairs = copy.copy(model)
    in_pairs.decision_function_shape = "ovo"
    return in_pairs.decision_function(X).reshape(X.shape[0], -1)


def support_of(model: Any, sample_weight: Any) -> np.ndarray:
    """The numbers of the support vectors among the training rows: libsvm counts them without rows of weight zero.

    Raises ValueError for such rows with a kernel of the user's own, where scikit-learn takes other rows in their place.
    """
    kept = None if sample_weight is None else np.flatnonzero(np.asarray(sample_weight) > 0)
    if kept is None or len(kept) == len(np.asarray(sample_weight)):
        return model.support_
    if callable(model.kernel) or model.kernel == "precomputed":
        raise ValueError(
            "rows of sample weight zero with a kernel of your own: scikit-learn then predicts by other rows than its "
            "support vectors; fit without these rows"
        )
    return kept[model.support_]


def _kernel(model: Any) -> Kernel:
    """The kernel of a fitted SVC or SVR, with the gamma that it was fitted with."""
    if callable(model.kernel):
        return lambda A, B: np.asarray(model.kernel(A, B))
    if model.kernel == "precomputed":  # a point is its row of kernel values with the training points
        return lambda A, B: A
    from sklearn.metrics.pairwise import pairwise_kernels

    # What fit made of gamma="scale" or "auto" is kept in `_gamma` alone.
    settings = {"gamma": model._gamma, "degree": model.degree, "coef0": model.coef0}
    return lambda A, B: pairwise_kernels(A, B, metric=model.kernel, filter_params=True, **settings)


def _approximated(change: float, rank: int | None, name: str) -> tuple[str, ...]:
    """How far the decision function in features is from the estimator's, in words; refused or warned of where far."""
    if rank is None:
        if change > 1e-5:
            raise ValueError(
                f"X is not what the {name} was fitted on: its decision function there is off by {change:.1e}"
            )
        return ()
    note = f"rank={rank} changes the decision function at training points by up to {change:.1e} (the margin is 1)"
    if change > HOPELESS:
        raise ValueError(f"{note}: that is another model; raise rank or leave it out")
    if change > VISIBLE:
        warned(f"{note}; raise rank for closer answers", ApproximationWarning)
    return (note,)
