"""From a fitted scikit-learn estimator to the `LinearProblem` that its training minimised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..data.names import by_position, same_order
from ..data.user_terms import Terms, batch_index, row_index
from ..likelihood import LikelihoodProblem
from ..linear.diagnostics import at_optimum
from ..linear.existence import check_identified, check_separable
from ..linear.problem import LinearProblem
from ..losses import LinearLoss
from ..moments import MomentProblem
from ..network.problem import Problem
from ..objective import LinearModel
from ..trees.problem import TreeProblem
from ..types import Keep, Tensor
from .chosen import Chosen, chosen
from .class_weights import class_weights, counted
from .gaussian_classes import MomentReader, moment_problem
from .networks import NetworkReader, network_problem
from .perceptrons import dense
from .readers import moment_reader_of, network_reader_of, reader_of, tree_reader_of
from .reading import Features, Options, Reading
from .refitting import GIVEN, OWN, check_finished, refitting, rows_as_given
from .sparse_models import with_kinks
from .survival_models import is_survival_model, survival_problem
from .transformers import check_transformers, scales_of
from .tree_models import Rows, TreeReader, tree_problem
from .user_data import HELD, Inputs, Targets, column_names, targets_of, with_columns_of


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
    follow_scaling: bool = False,
) -> Any:
    """The problem that a fitted scikit-learn estimator solved, R = (1/n) sum_i w_i l_i + 1/2 sum_j l2_j theta_j^2.

    For linear models, kernel machines and wrappers of scikit-learn (docs/estimators.md), and a Pipeline ending in one;
    discriminant analysis and GaussianNB are moments of their classes, whose removals have a closed form.
    CoxPHSurvivalAnalysis of scikit-survival, also in a Pipeline, is Cox's partial likelihood (`LikelihoodProblem`).
    Theta is the estimator's own `coef_` and `intercept_`. Fitted transformers, settings that a search or a
    cross-validation chose and a kernel's gamma are regarded as fixed: choosing them anew would move the answers.
    `problem.terms.notes` says what was. Class weights multiply into w; "balanced" ones follow the counts of the classes
    in every removal.

    The hinge has no second derivative: `SmoothHinge(smoothing)` stands in for it, at the weights that the true hinge
    found (Sec. 4.3). Losses of regressions with corners are smoothed over `smoothing` times the targets' deviation.

    Args:
        estimator: the fitted estimator; it is not changed.
        X: n rows as it was fitted on: array, DataFrame (pandas, polars, a table of Arrow), sparse, or what the pipeline
            takes. Test batches are given in the same form: a DataFrame with the same columns, labels as they are.
        y: n targets as it was fitted on.
        sample_weight: the weights (n,) that it was fitted with, one number for all, or None.
        keep: which retraining is predicted. By default it is what refitting the same estimator does: "total" where C or
            alpha weighs the sum of the losses (l2 = 1/(C n) or alpha/n), "mean" for SGDClassifier (l2 = alpha).
        smoothing: the temperature of the smooth hinge, > 0.
        polish: finishes the training (of the smoothed hinge, where there is one) before anything is answered.
        rank: how many leading features of an SVC's kernel are kept; None keeps all.
        follow_scaling: whether a StandardScaler, MinMaxScaler or MaxAbsScaler directly before the model is fitted anew
            in every predicted removal, as in a refit of the whole pipeline (Newton steps; first order holds it fixed).

    Returns:
        The problem, a `LinearProblem` at the estimator's parameters.

    Raises:
        TypeError: for estimators that are not supported, saying why.
        ValueError: for settings and data that are not, likewise, and for transformers that gave training other numbers.
        ImportError: without scikit-learn.
        NotConvergedError: where polishing fails.

    Warns:
        NotStationaryWarning: where the gradient is larger than one example's own contribution to it.
        ApproximationWarning: where `rank` changes the decision function visibly.

    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> X, y = np.arange(12.0).reshape(6, 2) ** 0.5, np.arange(6.0)
    >>> problem = from_estimator(Ridge(alpha=3.0).fit(X, y), X, y)
    >>> problem.keep, problem.l2.tolist(), bool(problem.gradient().norm() < 1e-12)
    ('total', [0.5, 0.5, 0.0], True)
    """
    return _problem(
        chosen(estimator), X, y, sample_weight, _Asked(keep, smoothing, polish, rank, follow_scaling)
    )


@dataclass(frozen=True)
class _Asked:
    """What a user of `from_estimator` chose."""

    keep: Keep | None
    smoothing: float
    polish: bool
    rank: int | None
    follow_scaling: bool
    again: bool = False
    """Whether it is a refit that is read, of which nobody is told whether it was finished."""


def _problem(
    settled: Chosen, X: Any, y: Any, sample_weight: Any, asked: _Asked
) -> LinearProblem | TreeProblem | MomentProblem | LikelihoodProblem | Problem:
    """The problem that an estimator without wrappers solved.

    Args:
        settled: the estimator and what it takes targets for.
        X: n rows as the user has them.
        y: their targets.
        sample_weight: their weights, or None.
        asked: the user's options.
    """
    estimator, (model, transform) = settled.estimator, _unwrap(settled.estimator)
    same_order(y, row_index(X), "y")
    same_order(sample_weight, row_index(X), "sample_weight")
    sample_weight = by_position(sample_weight)
    trained_on = settled.targets(y)
    if (network := network_reader_of(model)) is not None:
        return _network(settled, network, (X, y, sample_weight), asked)
    if (trees := tree_reader_of(model)) is not None:
        return _trees(settled, trees, (X, y, sample_weight), asked)
    if (moments := moment_reader_of(model)) is not None:
        return _moments(settled, moments, (X, y, sample_weight), asked)
    if is_survival_model(model):
        return _survival(settled, (X, y, sample_weight), asked)
    unknown = () if transform is None else check_transformers(transform, X, trained_on)
    inputs = Inputs(estimator, transform)
    features = whole = inputs(X)
    if sample_weight is not None and np.ndim(sample_weight) == 0:  # one for all, as scikit-learn takes it
        sample_weight = np.full(features.shape[0], float(sample_weight))
    options = Options(asked.smoothing, asked.rank, sample_weight, trained_on)
    reading = reader_of(model)(model, features, options)
    phi = reading.phi
    if asked.rank is not None and not (phi is not None and phi.of_kernel):
        raise ValueError(
            "rank is for an SVC whose kernel has features of its own, or another such model, not for a model on X "
            "itself"
        )
    if phi is not None:
        inputs, features = replace(inputs, phi=phi), phi(features)
    targets = targets_of(model, reading.loss.classifies)
    codes = targets(trained_on)
    problem = LinearProblem(
        features,
        codes,
        reading.coef,
        reading.intercept,
        loss=reading.loss,
        l2=reading.l2,
        l2_intercept=reading.l2_intercept,
        weights=sample_weight,
        class_weights=class_weights(model, codes, sample_weight, reading),
        slope=reading.slope,
        counted=counted(model, codes, sample_weight, reading),
        scales=scales_of(transform, whole, reading) if asked.follow_scaling else None,
        keep=asked.keep or reading.keep,
        terms=Terms(
            prepare=lambda X, y: (inputs(X), targets(settled.targets(y))),
            feature_names=_feature_names(estimator, transform, X, phi),
            train_index=batch_index((X, y)),
            classes=targets.classes,
            notes=(*settled.notes, *_notes(model, transform, reading, asked.follow_scaling), *unknown),
        ),
    )
    check_identified(problem)
    check_separable(problem)
    if asked.again:
        return problem
    found = with_kinks(at_optimum(problem, polish=asked.polish), reading, whole, transform is not None)
    read = partial(_read_again, replace(asked, again=True), found.loss)
    found.cache[OWN] = refitting(settled, X, y, sample_weight, read)
    return found


def _read_again(asked: _Asked, loss: LinearLoss, *fitted: Any) -> LinearModel:
    """The problem of the estimator fitted on other rows, asked about the same loss.

    A scale or smoothing that is found in the data is otherwise that of those rows.

    Args:
        asked: the user's options.
        loss: what is asked about.
        fitted: the estimator, its inputs, targets and weights.
    """
    settled, X, y, weights = fitted
    there = _problem(settled, X, y, weights, asked).linear
    assert there is not None
    return there.with_loss(loss)


def _trees(
    settled: Chosen, reader: tuple[str, TreeReader], data: tuple[Any, Any, Any], asked: _Asked
) -> TreeProblem:
    """The problem of an ensemble of trees in its leaf values.

    Args:
        settled: the estimator and what it takes targets for.
        reader: its library, and who reads it.
        data: n rows as the user has them, their targets and weights.
        asked: the user's options, which trees have none of.
    """
    (X, y, sample_weight), (model, transform) = data, _unwrap(settled.estimator)
    _refuse_options(asked, "trees")
    trained_on = settled.targets(y)
    unknown = () if transform is None else check_transformers(transform, X, trained_on)
    inputs = with_columns_of(X) if transform is None else transform.transform
    names = tuple(np.asarray(getattr(model, "classes_", ())).tolist())
    targets = Targets(names or None)
    codes, features = targets(trained_on), inputs(X)
    if sample_weight is not None:
        sample_weight = np.broadcast_to(np.asarray(sample_weight, dtype=np.float64), (len(codes),))
    reading = reader[1](model, Rows(features, codes, sample_weight))
    held = () if transform is None else (HELD,)
    terms = Terms(
        prepare=lambda X, y: (inputs(X), targets(settled.targets(y))),
        feature_names=column_names(settled.estimator, transform, X),
        train_index=batch_index((X, y)),
        classes=targets.classes,
        notes=(*settled.notes, *held, *reading.notes, *unknown),
    )
    found = tree_problem(reading, Rows(features, codes, sample_weight), terms, reader[0])
    found.cache[OWN] = refitting(settled, X, y, sample_weight, partial(_problem, asked=asked))
    found.cache[GIVEN] = rows_as_given(X, y)
    return found


def _moments(
    settled: Chosen, reader: MomentReader, data: tuple[Any, Any, Any], asked: _Asked
) -> MomentProblem:
    """The problem of a classifier by the moments of its classes.

    Args:
        settled: the estimator and what it takes targets for.
        reader: who reads it.
        data: n rows as the user has them, their targets and weights.
        asked: the user's options, which it has none of.
    """
    (X, y, sample_weight), (model, transform) = data, _unwrap(settled.estimator)
    _refuse_options(asked, "a classifier by moments")
    unknown = () if transform is None else check_transformers(transform, X, settled.targets(y))
    inputs, targets = Inputs(settled.estimator, transform), Targets(tuple(model.classes_.tolist()))
    reading, held = reader(model), () if transform is None else (HELD,)

    def prepare(X: Any, y: Any) -> tuple[Tensor, np.ndarray]:
        return dense(inputs(X)), targets(settled.targets(y))

    terms = Terms(
        prepare=prepare,
        feature_names=column_names(settled.estimator, transform, X),
        train_index=batch_index((X, y)),
        classes=targets.classes,
        notes=(*settled.notes, *held, *reading.notes, *unknown),
    )
    found = moment_problem(model, reading, (*prepare(X, y), sample_weight), terms)
    found.cache[OWN] = refitting(settled, X, y, sample_weight, partial(_problem, asked=asked))
    return found


def _survival(settled: Chosen, data: tuple[Any, Any, Any], asked: _Asked) -> LikelihoodProblem:
    """The problem of Cox's model of scikit-survival.

    Args:
        settled: the estimator and what it takes targets for.
        data: n rows as the user has them, their events and times, and None, as it takes no weights.
        asked: the user's options, of which it has `keep` and `polish`.
    """
    (X, y, sample_weight), (model, transform) = data, _unwrap(settled.estimator)
    if sample_weight is not None or asked.rank is not None or asked.follow_scaling:
        raise ValueError(
            "sample_weight, rank and follow_scaling are not for scikit-survival: leave them out; CoxPHFitter of "
            "lifelines takes weights"
        )
    found = survival_problem(settled, (model, transform), (X, y), asked.keep)
    if asked.again:
        return found
    if asked.polish:
        found = found.minimised()
    check_finished(found.off, "with a lower tol and a higher n_iter")
    read = partial(_problem, asked=replace(asked, again=True))
    found.cache[OWN] = refitting(settled, X, y, None, read)
    return found


def _refuse_options(asked: _Asked, model: str) -> None:
    """Raise ValueError for options that are about linear models alone; `model` says what it is."""
    if asked.keep == "mean" or asked.polish or asked.rank is not None or asked.follow_scaling:
        raise ValueError(
            f"keep, polish, rank and follow_scaling are about linear models: leave them out for {model}"
        )


def _network(settled: Chosen, reader: NetworkReader, data: tuple[Any, Any, Any], asked: _Asked) -> Problem:
    """The problem of a network that an estimator trained.

    Args:
        settled: the estimator and what it takes targets for.
        reader: who reads it.
        data: n rows as the user has them, their targets and weights.
        asked: the user's options, of which networks have `keep` alone.
    """
    (X, y, sample_weight), (model, transform) = data, _unwrap(settled.estimator)
    if asked.polish or asked.rank is not None or asked.follow_scaling:
        raise ValueError(
            "polish, rank and follow_scaling are about linear models: leave them out for a network"
        )
    trained_on, inputs = settled.targets(y), (lambda X: X) if transform is None else transform.transform
    if hasattr(model, "n_features_in_"):  # a net of skorch takes inputs of any form
        inputs = Inputs(settled.estimator, transform)
    unknown = () if transform is None else check_transformers(transform, X, trained_on)
    features, held = inputs(X), () if transform is None else (HELD,)
    return network_problem(
        reader(model, features, trained_on, sample_weight),
        (X, y),
        (features, trained_on, sample_weight),
        (inputs, settled.targets),
        (asked.keep, column_names(settled.estimator, transform, X), (*settled.notes, *held, *unknown)),
    )


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
        steps = [step for _, step in estimator.steps]
        model = steps[-1]
        _refuse_resampling(steps)
        transform = None if all(step in (None, "passthrough") for step in steps[:-1]) else estimator[:-1]
        if isinstance(model, Pipeline):
            raise TypeError("a Pipeline that ends in a Pipeline is not supported; make it one list of steps")
    others = (tree_reader_of, moment_reader_of, network_reader_of)
    if all(of(model) is None for of in others) and not is_survival_model(model):
        reader_of(model)
    if hasattr(model, "fit"):  # a Booster has none, it comes fitted
        check_is_fitted(model)
    return model, transform


def _refuse_resampling(steps: list[Any]) -> None:
    for step in steps:
        if hasattr(step, "fit_resample"):  # of imbalanced-learn
            raise TypeError(
                f"the pipeline's {type(step).__name__} trains on other rows than X: pass the final estimator, with the "
                "rows that fit_resample gave it"
            )


def _feature_names(estimator: Any, transform: Any, X: Any, phi: Features | None) -> tuple[str, ...] | None:
    """The names of the columns that the model is linear in, or None where nobody knows them."""
    names = column_names(estimator, transform, X)
    return names if phi is None else phi.named(names)


def _notes(model: Any, transform: Any, reading: Reading, follow_scaling: bool) -> tuple[str, ...]:
    """What was held fixed or approximated, one sentence each.

    Args:
        model: the final model.
        transform: the transformers before it, or None.
        reading: what it minimised.
        follow_scaling: whether scalers are fitted anew in removals.
    """
    notes = list(reading.notes)
    if follow_scaling:
        notes.append(
            "the scales of the columns follow removals by Newton steps, other transformers are held fixed; first order "
            "(Eq. 2) holds the scales fixed too"
        )
    elif transform is not None:
        notes.append(HELD)
    if getattr(model, "class_weight", None) == "balanced":
        notes.append(
            'the class weights of "balanced" follow the counts of the classes in removals by Newton steps; first order '
            "(Eq. 2) holds them fixed"
        )
    if reading.loss.note:
        notes.append(reading.loss.note)
    return tuple(notes)
