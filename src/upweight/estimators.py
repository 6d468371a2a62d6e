"""From a fitted scikit-learn estimator to the `LinearProblem` that its training minimised."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from .errors import ApproximationWarning, NotStationaryWarning
from .kernels import LARGE, FeatureMap, Kernel
from .linear import LinearProblem
from .losses import LinearLoss, Logistic, MarginLoss, SmoothHinge, Softmax, Squared, SquaredHinge, signs
from .measures import margin
from .terms import Terms, batch_index
from .types import Keep

NULL = 1e-12
"""Columns of length 1 are dependent where their Gram matrix has an eigenvalue below this, times their number."""
GRAM = 3000
"""Up to this many unpenalised columns their dependence is looked for before anything is solved."""
CURE = "drop columns, or fit with a penalty"
ELEMENTS = 1 << 22
"""Numbers of X that are looked at densely at once."""
VISIBLE, HOPELESS = 0.01, 0.5
"""Changes of an SVC's decision function (its margin is 1) that are warned of, and refused."""


def from_estimator(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    keep: Keep | None = None,
    smoothing: float = 1e-3,
    polish: bool = False,
    rank: int | None = None,
) -> LinearProblem:
    """The problem that a fitted scikit-learn estimator solved: R = (1/n) sum_i w_i l_i + 1/2 sum_j l2_j theta_j^2.

    For LogisticRegression, LinearSVC, SGDClassifier (hinge, squared_hinge, log_loss), LinearRegression, Ridge, SVC with
    two classes, and a Pipeline ending in one of them. X (n rows: array, DataFrame, sparse, or what the pipeline takes),
    y and `sample_weight` (n,) are what it was fitted on. Test batches are given in the same form: a DataFrame with the
    same columns, labels as they are. Class weights multiply into w.

    Theta is the estimator's own `coef_` and `intercept_`. Fitted transformers, "balanced" class weights and a kernel's
    gamma are regarded as fixed: refitting them too would move the answers. `problem.terms.notes` says what was.

    `keep` says which retraining is predicted. By default it is what refitting the same estimator does: "total" where
    C or alpha weighs the sum of the losses (l2 = 1/(C n) or alpha/n), "mean" for SGDClassifier (l2 = alpha).

    The hinge has no second derivative: `SmoothHinge(smoothing)` stands in for it, at the weights that the true hinge
    found (Sec. 4.3). `polish=True` finishes the training (of the smoothed hinge, where there is one) before anything is
    answered. `rank` keeps that many leading features of an SVC's kernel.

    Raises TypeError for estimators that are not supported and ValueError for settings and data that are not, each
    saying why; ImportError without scikit-learn; `NotConvergedError` where polishing fails. Warns
    `NotStationaryWarning` where the gradient is larger than one example's own contribution to it, and
    `ApproximationWarning` where `rank` changes the decision function visibly.

    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> X, y = np.arange(12.0).reshape(6, 2) ** 0.5, np.arange(6.0)
    >>> problem = from_estimator(Ridge(alpha=3.0).fit(X, y), X, y)
    >>> problem.keep, problem.l2.tolist(), bool(problem.gradient().norm() < 1e-12)
    ('total', [0.5, 0.5, 0.0], True)
    """
    model, transform = _unwrap(estimator)
    inputs = Inputs(estimator, transform)
    features = inputs(X)
    reading = _reader(model)(model, features, smoothing, rank)
    phi = reading.phi
    if phi is not None:
        inputs, features = replace(inputs, phi=phi), phi(features)
    elif rank is not None:
        raise ValueError(
            "rank is for an SVC whose kernel has features of its own, not for a model on X itself"
        )
    targets = Targets(tuple(model.classes_.tolist()) if not isinstance(reading.loss, Squared) else None)
    codes = targets(y)
    problem = LinearProblem(
        features,
        codes,
        reading.coef,
        reading.intercept,
        loss=reading.loss,
        l2=reading.l2,
        l2_intercept=reading.l2_intercept,
        weights=_weights(model, codes, sample_weight, reading),
        keep=keep or reading.keep,
        terms=Terms(
            prepare=lambda X, y: (inputs(X), targets(y)),
            feature_names=None if phi is not None else _feature_names(estimator, transform, X),
            train_index=batch_index((X, y)),
            classes=targets.classes,
            notes=_notes(model, transform, reading),
        ),
    )
    check_identified(problem)
    check_separable(problem)
    return _finished(problem, polish=polish)


# -- which estimator, and what it is fed -----------------------------------------------------------------------------


def _unwrap(estimator: Any) -> tuple[Any, Any]:
    """The final model and the fitted transformers before it (or None)."""
    try:
        from sklearn.pipeline import Pipeline
        from sklearn.utils.validation import check_is_fitted
    except ImportError as missing:
        raise ImportError('from_estimator needs scikit-learn: pip install "upweight[sklearn]"') from missing
    model, transform = estimator, None
    if isinstance(estimator, Pipeline):
        model = estimator.steps[-1][1]
        transform = estimator[:-1] if len(estimator.steps) > 1 else None
        if isinstance(model, Pipeline):
            raise TypeError("a Pipeline that ends in a Pipeline is not supported; make it one list of steps")
    _reader(model)
    check_is_fitted(model)
    return model, transform


def _reader(model: Any) -> Reader:
    for kind in type(model).__mro__:
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in REFUSED:
            raise TypeError(f"{type(model).__name__} is not supported: {REFUSED[kind.__name__]}")
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in READERS:
            return READERS[kind.__name__]
    raise TypeError(
        f"{type(model).__name__} is not supported: influence needs a smooth objective in a vector of parameters, and "
        f"from_estimator knows those of {', '.join(READERS)} and of a Pipeline ending in one of them; describe other "
        "linear models with LinearProblem and other differentiable ones with Problem"
    )


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs as the user has them -> the numbers (m, d) that the linear model computes with."""

    estimator: Any
    transform: Any
    phi: FeatureMap | None = None

    def __call__(self, X: Any) -> Any:
        """Check the columns, apply the fitted transformers and then the feature map."""
        if not sparse.issparse(X) and not isinstance(X, (pd.DataFrame, pd.Series)):
            X = X.numpy() if isinstance(X, torch.Tensor) else np.asarray(X)
        check_columns(self.estimator, X)
        if self.transform is not None:
            X = self.transform.transform(X)
        if not sparse.issparse(X):
            X = np.asarray(X)
            X = X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
        return X if self.phi is None else self.phi(X)


@dataclass(frozen=True, eq=False)
class Targets:
    """Labels as the user has them -> classes 0..c-1; numbers stay numbers where there are no classes."""

    classes: tuple[Any, ...] | None

    def __call__(self, y: Any) -> np.ndarray:
        """Raises ValueError naming labels that the estimator has never seen."""
        given = y.numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
        if self.classes is None:
            return given.astype(np.float64)
        given = given.ravel() if given.ndim == 2 and given.shape[1] == 1 else given
        if given.ndim != 1:
            raise ValueError(f"y must have shape (n,), got {given.shape}")
        codes = pd.Index(self.classes).get_indexer(pd.Index(given))
        if (codes < 0).any():
            unseen = list(dict.fromkeys(given[codes < 0].tolist()))
            raise ValueError(
                f"y has labels that the estimator was not fitted on: {unseen[:5]}, first in example "
                f"{int(np.argmin(codes))}; it knows {list(self.classes)[:10]}"
            )
        return codes.astype(np.int64)


def check_columns(estimator: Any, X: Any) -> None:
    """Raise ValueError, naming the columns, unless X has those that the estimator was fitted on."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None and isinstance(X, pd.DataFrame):
        expected, found = list(names), list(X.columns)
        missing = [name for name in expected if name not in found]
        unexpected = [name for name in found if name not in expected]
        parts = [f"missing {missing[:10]}"] if missing else []
        parts += [f"unexpected {unexpected[:10]}"] if unexpected else []
        if not parts and expected != found:
            parts = [f"reordered: {found[:10]} instead of {expected[:10]}"]
        if parts:
            raise ValueError(f"X has other columns than at fit: {'; '.join(parts)}")
        return
    count = getattr(estimator, "n_features_in_", None)
    if count is not None and len(X.shape) == 2 and X.shape[1] != count:
        raise ValueError(f"X has {X.shape[1]} columns, the estimator was fitted on {count}")


def _feature_names(estimator: Any, transform: Any, X: Any) -> tuple[str, ...] | None:
    if transform is not None:
        try:
            return tuple(transform.get_feature_names_out())
        except (AttributeError, ValueError):  # a transformer that gives no names
            return None
    if isinstance(X, pd.DataFrame):
        return tuple(str(name) for name in X.columns)
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else tuple(names)


def _notes(model: Any, transform: Any, reading: Reading) -> tuple[str, ...]:
    notes = list(reading.notes)
    if transform is not None:
        notes.append("the pipeline's transformers are applied as fitted and held fixed")
    if getattr(model, "class_weight", None) == "balanced":
        notes.append('the class weights of "balanced" are held fixed')
    if isinstance(reading.loss, SmoothHinge):
        notes.append(f"the hinge is smoothed with temperature {reading.loss.temperature:g}")
    return tuple(notes)


# -- what each estimator minimised -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reading:
    """What an estimator minimised, in the words of `LinearProblem`."""

    coef: np.ndarray
    intercept: np.ndarray | None
    loss: LinearLoss
    l2: Any
    keep: Keep
    l2_intercept: float = 0.0
    counts_weights: bool = False
    """Whether "balanced" counts examples by their sample weights."""
    phi: FeatureMap | None = None
    """The features that the model is linear in, where they are not its inputs."""
    notes: tuple[str, ...] = ()


def _coef(model: Any) -> np.ndarray:
    coef = model.coef_.toarray() if sparse.issparse(model.coef_) else np.asarray(model.coef_)
    return coef.reshape(1, -1) if coef.ndim == 1 else coef


def _intercept(model: Any, outputs: int) -> np.ndarray | None:
    if not model.fit_intercept:
        return None
    return np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64).ravel(), (outputs,)).copy()


def _refuse_penalty(model: Any, name: str, instead: str) -> None:
    raise ValueError(
        f"{type(model).__name__} with an {name} penalty is not supported: it has a kink at zero, where the optimum "
        f"sits, so that no Hessian describes a refit; use {instead}"
    )


def _logistic(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    penalty = getattr(model, "penalty", "deprecated")
    share = {"l1": 1.0, "elasticnet": model.l1_ratio, "deprecated": model.l1_ratio}.get(penalty)
    if share:
        _refuse_penalty(model, "l1" if share == 1 else "elasticnet", "the l2 penalty")
    coef, liblinear = _coef(model), model.solver == "liblinear"
    scheme = getattr(model, "multi_class", "auto")  # gone since scikit-learn 1.8
    if scheme == "multinomial" and len(coef) == 1 and not liblinear:
        raise ValueError(
            'multi_class="multinomial" with two classes penalises its coefficients twice; leave multi_class out'
        )
    l2 = 0.0 if penalty in (None, "none") or math.isinf(model.C) else 1 / (model.C * X.shape[0])
    separate = len(coef) == 1 or liblinear or scheme == "ovr"
    return Reading(
        coef,
        _intercept(model, len(coef)),
        Logistic() if separate else Softmax(),
        l2,
        "total",
        l2_intercept=_liblinear_intercept(model, l2) if liblinear else 0.0,
        counts_weights=True,
    )


def _linear_svc(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    if model.penalty != "l2":
        _refuse_penalty(model, model.penalty, 'penalty="l2"')
    if model.multi_class != "ovr":
        raise ValueError(
            f'multi_class={model.multi_class!r} trains all classes with one loss of another kind; use "ovr"'
        )
    coef, l2 = _coef(model), 1 / (model.C * X.shape[0])
    return Reading(
        coef,
        _intercept(model, len(coef)),
        SmoothHinge(smoothing) if model.loss == "hinge" else SquaredHinge(),
        l2,
        "total",
        l2_intercept=_liblinear_intercept(model, l2),
        counts_weights=True,
    )


def _liblinear_intercept(model: Any, l2: float) -> float:
    # liblinear appends a column of `intercept_scaling` and penalises its weight, b / intercept_scaling, like any other.
    return l2 / model.intercept_scaling**2 if model.fit_intercept else 0.0


def _sgd(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    losses = {"hinge": SmoothHinge(smoothing), "squared_hinge": SquaredHinge(), "log_loss": Logistic()}
    if model.loss not in losses:
        raise ValueError(f"loss={model.loss!r} is not supported; use one of {', '.join(losses)}")
    if model.penalty not in ("l2", None):
        _refuse_penalty(model, model.penalty, 'penalty="l2"')
    if model.early_stopping:
        raise ValueError(
            "early_stopping=True trains on a part of the data that is not recorded; use early_stopping=False"
        )
    coef = _coef(model)
    l2 = 0.0 if model.penalty is None else model.alpha
    return Reading(coef, _intercept(model, len(coef)), losses[model.loss], l2, "mean")


def _least_squares(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    if model.positive:
        raise ValueError("positive=True is not supported: coefficients at the bound do not follow a Hessian")
    coef = _coef(model)
    intercept = _intercept(model, len(coef))
    alpha = np.asarray(getattr(model, "alpha", 0.0), dtype=np.float64).ravel()  # LinearRegression has none
    l2 = np.broadcast_to(alpha / X.shape[0], (len(coef),)).repeat(coef.shape[1])
    if intercept is not None:
        l2 = np.concatenate([l2, np.zeros(len(coef))])
    return Reading(coef, intercept, Squared(), l2, "total")


def _svc(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    if len(model.classes_) != 2:
        raise ValueError(
            f"SVC with {len(model.classes_)} classes trains a model for every pair of them (one against one), with no "
            "objective in common; use LinearSVC (one against the rest), or an SVC on two of the classes"
        )
    n = X.shape[0]
    if model.shape_fit_[0] != n:
        raise ValueError(f"X has {n} examples, the SVC was fitted on {model.shape_fit_[0]}")
    loss, l2 = SmoothHinge(smoothing), 1 / (model.C * n)
    if model.kernel == "linear":
        return Reading(_coef(model), model.intercept_, loss, l2, "total")
    phi = FeatureMap.of(_kernel(model), X, rank=rank, large=n if model.kernel == "precomputed" else LARGE)
    features = phi(X)
    dual = model.dual_coef_.toarray() if sparse.issparse(model.dual_coef_) else model.dual_coef_
    coef = dual @ features[model.support_]
    change = np.abs(features @ coef[0] + model.intercept_[0] - model.decision_function(X)).max()
    notes = ("the kernel and its gamma are held fixed", *_approximated(float(change), rank))
    return Reading(coef, model.intercept_, loss, l2, "total", phi=phi, notes=notes)


def _kernel(model: Any) -> Kernel:
    if callable(model.kernel):
        return lambda A, B: np.asarray(model.kernel(A, B))
    if model.kernel == "precomputed":  # a point is its row of kernel values with the training points
        return lambda A, B: A
    from sklearn.metrics.pairwise import pairwise_kernels

    # What fit made of gamma="scale" or "auto" is kept in `_gamma` alone.
    settings = {"gamma": model._gamma, "degree": model.degree, "coef0": model.coef0}
    return lambda A, B: pairwise_kernels(A, B, metric=model.kernel, filter_params=True, **settings)


def _approximated(change: float, rank: int | None) -> tuple[str, ...]:
    """How far the decision function in features is from the estimator's, in words; refused or warned of where far."""
    if rank is None:
        if change > 1e-5:
            raise ValueError(
                f"X is not what the SVC was fitted on: its decision function there is off by {change:.1e}"
            )
        return ()
    note = f"rank={rank} changes the decision function at training points by up to {change:.1e} (the margin is 1)"
    if change > HOPELESS:
        raise ValueError(f"{note}: that is another model; raise rank or leave it out")
    if change > VISIBLE:
        warnings.warn(f"{note}; raise rank for closer answers", ApproximationWarning, stacklevel=4)
    return (note,)


Reader = Callable[[Any, Any, float, int | None], Reading]

READERS: dict[str, Reader] = {
    "LogisticRegression": _logistic,
    "LinearSVC": _linear_svc,
    "SGDClassifier": _sgd,
    "LinearRegression": _least_squares,
    "Ridge": _least_squares,
    "SVC": _svc,
}
"""By the name of scikit-learn's class, so that none of them need be imported."""

_REGRESSION = "its loss has kinks or is not a likelihood's; use Ridge or LinearRegression"
_SEARCH = (
    "its settings were chosen on the same data; pass the fitted model of those settings (best_estimator_)"
)
_REFIT = "its penalty was chosen by cross-validation on the same data; pass a {} fitted with the chosen one"
_KINK = "an l1 penalty has a kink at zero, where the optimum sits; use Ridge"
REFUSED = {
    "SVR": _REGRESSION,
    "NuSVR": _REGRESSION,
    "LinearSVR": _REGRESSION,
    "SGDRegressor": "use Ridge, which minimises the same squared loss",
    "NuSVC": "its penalty is set by the data through nu; use SVC",
    "Lasso": _KINK,
    "ElasticNet": _KINK,
    "LogisticRegressionCV": _REFIT.format("LogisticRegression"),
    "RidgeCV": _REFIT.format("Ridge"),
    "RidgeClassifier": "use Ridge on targets -1 and +1, which is what it fits",
    "GridSearchCV": _SEARCH,
    "RandomizedSearchCV": _SEARCH,
    "OneVsRestClassifier": "pass each of its estimators_ with the labels of that class against the rest",
    "OneVsOneClassifier": "it trains a model for every pair of classes; pass one of its estimators_ with those two",
}


# -- weights, and whether there is an optimum to speak of ------------------------------------------------------------


def _weights(model: Any, codes: np.ndarray, sample_weight: Any, reading: Reading) -> Any:
    """Sample weights times class weights, or None."""
    class_weight = getattr(model, "class_weight", None)  # regressions have none
    if class_weight is None:
        return sample_weight
    if isinstance(reading.loss, MarginLoss) and len(reading.coef) > 1:
        raise ValueError(
            "class_weight with more than two classes, one against the rest, is not supported: each of the models "
            "weighs its own class alone, so that an example has no one weight; fit with sample_weight instead"
        )
    from sklearn.utils.class_weight import compute_class_weight

    options: dict[str, Any] = {"classes": np.asarray(model.classes_), "y": np.asarray(model.classes_)[codes]}
    # Until scikit-learn 1.7 nobody counted by weights.
    if reading.counts_weights and "sample_weight" in inspect.signature(compute_class_weight).parameters:
        options["sample_weight"] = sample_weight
    each = compute_class_weight(class_weight, **options)[codes]
    return each if sample_weight is None else each * np.asarray(sample_weight, dtype=np.float64)


def check_identified(problem: LinearProblem) -> None:
    """Raise ValueError, naming the columns, where unpenalised columns are linearly dependent: no unique optimum."""
    cd = problem.c * problem.d
    bare = (problem.l2[:cd].view(problem.c, problem.d) == 0).any(0).nonzero()[:, 0]
    if not 0 < len(bare) <= GRAM:
        return
    used = (problem.weights > 0).double()
    if len(bare) > int(used.sum()):
        raise ValueError(
            f"{len(bare)} columns without a penalty and {int(used.sum())} examples: the optimum is not unique; {CURE}"
        )
    names = [_name(problem, int(j)) for j in bare]
    gram, sums = torch.zeros(problem.d, problem.d, dtype=torch.float64), torch.zeros(problem.d).double()
    for rows, block in problem.design.blocks(8192, torch.float64):
        block.gram(used[rows], gram)
        sums += block.backward(used[rows, None])[0]
    gram = (gram.triu() + gram.triu(1).T)[bare][:, bare]
    if problem.has_intercept:
        edge = sums[bare, None]
        gram = torch.cat([torch.cat([gram, edge], 1), torch.cat([edge.T, used.sum().view(1, 1)], 1)])
        names.append("the intercept")
    length = gram.diagonal().sqrt()
    zero = [name for name, size in zip(names, length.tolist(), strict=True) if size == 0]
    if zero:
        raise ValueError(f"columns that are all zero and have no penalty: {', '.join(zero[:10])}; {CURE}")
    values, vectors = torch.linalg.eigh(gram / length / length[:, None])
    null = vectors[:, values < NULL * len(gram)]
    involved = [name for name, size in zip(names, null.norm(dim=1).tolist(), strict=True) if size > 1e-5]
    if involved:
        raise ValueError(f"linearly dependent columns without a penalty: {', '.join(involved[:10])}; {CURE}")


def _name(problem: LinearProblem, column: int) -> str:
    return str(column) if problem.feature_names is None else repr(problem.feature_names[column])


def check_separable(problem: LinearProblem) -> None:
    """Raise ValueError where nothing is penalised and the training data are separated: no finite optimum."""
    if isinstance(problem.loss, Squared) or bool(problem.l2[: problem.c * problem.d].any()):
        return
    eta = problem._outputs(problem.design, problem.theta)[problem.weights > 0]
    y = problem.y[problem.weights > 0]
    if isinstance(problem.loss, Softmax):
        separated = bool((margin(eta, y) > 0).all())
    else:  # each output is a model of its own
        separated = bool((signs(y, eta) * eta > 0).all(0).any())
    if separated:
        raise ValueError(
            "no finite optimum: the model separates the training data and has no penalty, so that its loss falls for "
            "as long as its weights grow; fit with a penalty (a finite C, or alpha > 0)"
        )


def _finished(problem: LinearProblem, *, polish: bool) -> LinearProblem:
    """At its optimum if asked; else as it is, with a warning where that is far from one."""
    own = own_contribution(problem)
    if polish:
        return problem.minimised(1e-6 * own)
    off = float(problem.gradient().norm())
    # At the true hinge's optimum the smooth one has a gradient by construction.
    if off > own and not isinstance(problem.loss, SmoothHinge):
        warnings.warn(
            f"the estimator is not at its optimum: the gradient of its objective has norm {off:.1e}, {off / own:.1f} "
            "times what one example contributes, so that effects of single examples are uncertain; pass polish=True, "
            "or fit with a lower tol and a higher max_iter (if X, y and weights are those it was fitted on)",
            NotStationaryWarning,
            stacklevel=3,
        )
    return problem


def own_contribution(problem: LinearProblem) -> float:
    """The root mean square over examples of ||w_i grad l_i|| / n, or what rounding leaves of it."""
    residual = problem._derivatives(torch.float64).r.norm(dim=1)
    rounding = 1e-12 * (1 + problem._outputs(problem.design, problem.theta).norm(dim=1))
    lengths = torch.cat(
        [
            block.dense().square().sum(1) + problem.has_intercept
            for _, block in problem.design.blocks(max(1, ELEMENTS // problem.d), torch.float64)
        ]
    )
    return float((lengths * torch.maximum(residual, rounding).square()).mean().sqrt()) / problem.n
