"""Which estimators are read, by whom, and what to use in place of those that are not."""

from __future__ import annotations

from typing import Any

from .catboost_trees import catboost
from .chosen import WRAPPERS
from .gaussian_classes import MomentReader, linear_discriminant, naive_bayes, quadratic_discriminant
from .least_squares import elastic_net, gaussian_process, kernel_ridge, least_squares, ridge_classifier
from .lightgbm_trees import lightgbm
from .logistic import logistic_regression, sgd
from .networks import NetworkReader
from .perceptrons import is_perceptron, perceptron
from .reading import Reader
from .regressions import generalised, huber, linear_svr, nu_svr, quantile, sgd_regressor, svr
from .scikit_trees import forest, gradient_boosting, hist_gradient_boosting
from .several import labels_of_each_target, one_against_one, one_against_the_rest, one_for_each_target
from .skorch_nets import is_skorch, skorch_net
from .support_vectors import linear_svc, nu_svc, svc
from .tree_models import TreeReader
from .xgboost_trees import xgboost

READERS: dict[str, Reader] = {
    "LogisticRegression": logistic_regression,
    "LinearSVC": linear_svc,
    "SGDClassifier": sgd,
    "LinearRegression": least_squares,
    "Ridge": least_squares,
    "RidgeClassifier": ridge_classifier,
    "Lasso": elastic_net,
    "ElasticNet": elastic_net,
    "KernelRidge": kernel_ridge,
    "GaussianProcessRegressor": gaussian_process,
    "PoissonRegressor": generalised,
    "GammaRegressor": generalised,
    "TweedieRegressor": generalised,
    "HuberRegressor": huber,
    "SGDRegressor": sgd_regressor,
    "QuantileRegressor": quantile,
    "LinearSVR": linear_svr,
    "SVC": svc,
    "SVR": svr,
    "NuSVC": nu_svc,
    "NuSVR": nu_svr,
    "OneVsRestClassifier": one_against_the_rest(lambda model: reader_of(model)),
    "OneVsOneClassifier": one_against_one(lambda model: reader_of(model)),
    "MultiOutputClassifier": labels_of_each_target(lambda model: reader_of(model)),
    "MultiOutputRegressor": one_for_each_target(lambda model: reader_of(model)),
}
"""Readers by the name of scikit-learn's class, so that none of these classes need be imported."""

TREES: dict[tuple[str, str], TreeReader] = {
    ("sklearn", "GradientBoostingClassifier"): gradient_boosting,
    ("sklearn", "GradientBoostingRegressor"): gradient_boosting,
    ("sklearn", "HistGradientBoostingClassifier"): hist_gradient_boosting,
    ("sklearn", "HistGradientBoostingRegressor"): hist_gradient_boosting,
    ("sklearn", "RandomForestClassifier"): forest,
    ("sklearn", "RandomForestRegressor"): forest,
    ("sklearn", "ExtraTreesClassifier"): forest,
    ("sklearn", "ExtraTreesRegressor"): forest,
    ("sklearn", "DecisionTreeClassifier"): forest,
    ("sklearn", "DecisionTreeRegressor"): forest,
    ("xgboost", "XGBClassifier"): xgboost,
    ("xgboost", "XGBRegressor"): xgboost,
    ("xgboost", "Booster"): xgboost,
    ("lightgbm", "LGBMClassifier"): lightgbm,
    ("lightgbm", "LGBMRegressor"): lightgbm,
    ("lightgbm", "Booster"): lightgbm,
    ("catboost", "CatBoostClassifier"): catboost,
    ("catboost", "CatBoostRegressor"): catboost,
    ("catboost", "CatBoost"): catboost,
}
"""Readers of trees by library and class."""

MOMENTS: dict[str, MomentReader] = {
    "LinearDiscriminantAnalysis": linear_discriminant,
    "QuadraticDiscriminantAnalysis": quadratic_discriminant,
    "GaussianNB": naive_bayes,
}
"""Readers of classifiers by the moments of their classes, by the name of scikit-learn's class."""

REFIT = "by_refitting(estimator, X, y), which trains it again"
DRAWN = f"it averages models of rows and columns that each of them drew; use {REFIT}"
REWEIGHTED = f"it trains each model on weights that those before it set; use {REFIT}"
AVERAGED = f"it averages several models: pass one of its estimators_, or use {REFIT}"
STACKED = f"its last model was trained on predictions of models of folds; use {REFIT}"
RESULTS = ("statsmodels", "lifelines", "linearmodels", "pyfixest")
"""Packages whose fitted results `from_results` reads."""
REFUSED = {
    "Perceptron": 'it has no optimum that it would end at; use SGDClassifier with loss="hinge"',
    "MultiTaskLasso": "its penalty ties the targets together; use Lasso for each target",
    "MultiTaskElasticNet": "its penalty ties the targets together; use ElasticNet for each target",
    "RANSACRegressor": "it trains on rows drawn at random; use HuberRegressor, or pass its estimator_ with those rows",
    "TheilSenRegressor": "it takes a median of fits to rows drawn at random; use HuberRegressor",
    "GaussianProcessClassifier": f"its approximation has no loss of single rows; use SVC, or {REFIT}",
    "KNeighborsClassifier": f"it has no parameters; use {REFIT}",
    "KNeighborsRegressor": f"it has no parameters; use {REFIT}",
    **dict.fromkeys(("BaggingClassifier", "BaggingRegressor", "IsolationForest"), DRAWN),
    **dict.fromkeys(("AdaBoostClassifier", "AdaBoostRegressor"), REWEIGHTED),
    **dict.fromkeys(("VotingClassifier", "VotingRegressor"), AVERAGED),
    **dict.fromkeys(("StackingClassifier", "StackingRegressor"), STACKED),
}
"""Estimators that are not supported by the name of their class, and what to use in their place."""


def reader_of(model: Any) -> Reader:
    """The reader of an estimator's family, by the names of its scikit-learn class and of the bases of that.

    Raises:
        TypeError: for an estimator that is not supported, with what to use in its place.

    >>> from sklearn.linear_model import Ridge
    >>> reader_of(Ridge()).__name__
    'least_squares'
    """
    for kind in type(model).__mro__:
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in REFUSED:
            raise TypeError(f"{type(model).__name__} is not supported: {REFUSED[kind.__name__]}")
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in MOMENTS:
            raise TypeError(
                f"{type(model).__name__} inside another estimator is not supported: it minimises no loss; pass it by "
                f"itself with its rows, or use {REFIT}"
            )
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in READERS:
            return READERS[kind.__name__]
    if tree_reader_of(model) is not None:
        raise TypeError(
            f"{type(model).__name__} inside another estimator is not supported: pass it by itself, as it was fitted, "
            f"with its rows; libraries of trees tell several classes apart themselves; or use {REFIT}"
        )
    known = ", ".join((*READERS, *MOMENTS, *dict.fromkeys(name for _, name in TREES)))
    if any(kind.__module__.partition(".")[0] in RESULTS for kind in type(model).__mro__):
        raise TypeError(
            f"{type(model).__name__} is no estimator of scikit-learn: pass fitted results to from_results"
        )
    raise TypeError(
        f"{type(model).__name__} is not supported: influence needs a smooth objective in a vector of parameters, and "
        f"from_estimator knows those of {known}, of a Pipeline ending in one of them and of "
        f"{', '.join(WRAPPERS)} around one; describe other "
        "linear models with LinearProblem, other differentiable ones with Problem; uw.by_refitting(estimator, X, y) "
        "answers of any other by retraining"
    )


def moment_reader_of(model: Any) -> MomentReader | None:
    """The reader of a classifier by the moments of its classes, or None for other models.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> moment_reader_of(GaussianNB()).__name__
    'naive_bayes'
    """
    for kind in type(model).__mro__:
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in MOMENTS:
            return MOMENTS[kind.__name__]
    return None


def tree_reader_of(model: Any) -> tuple[str, TreeReader] | None:
    """The library of a fitted ensemble of trees and its reader, or None for other models.

    >>> from sklearn.ensemble import RandomForestRegressor
    >>> tree_reader_of(RandomForestRegressor())[0]
    'sklearn'
    """
    for kind in type(model).__mro__:
        key = kind.__module__.partition(".")[0], kind.__name__
        if key in TREES:
            return key[0], TREES[key]
    return None


def network_reader_of(model: Any) -> NetworkReader | None:
    """The reader of a fitted estimator that trained a network, or None for other models.

    >>> from sklearn.neural_network import MLPClassifier
    >>> network_reader_of(MLPClassifier()).__name__
    'perceptron'
    """
    if is_perceptron(model):
        return perceptron
    return skorch_net if is_skorch(model) else None
