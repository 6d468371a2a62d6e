"""Copies of estimators that are fitted again: boosted trees with the rounds that they kept, in silence."""

from __future__ import annotations

import copy
from typing import Any

SAYING = ("verbose", "logging_level", "silent", "verbose_eval", "metric_period")
"""CatBoost's parameters about what it prints, of which only one may be given."""
ROUNDS = ("iterations", "n_estimators", "num_boost_round", "num_trees")
"""What CatBoost calls the number of rounds."""


def settings_of(model: Any) -> dict[str, Any] | None:
    """What is set in a copy of a model so that it trains like the model: the rounds that early stopping kept, say.

    None where no copy can: boosters, and models from a file, no longer know what they were trained with, and a model
    that went on from another does not know that one.
    """
    if not hasattr(model, "fit") or not hasattr(model, "get_params"):
        return None
    library, given = library_of(model), model.get_params()
    if library == "xgboost":
        if given["early_stopping_rounds"]:
            return {"early_stopping_rounds": None, "n_estimators": model.best_iteration + 1}
        rounds = model.get_booster().num_boosted_rounds()
        return {} if rounds == model.get_num_boosting_rounds() else None
    if library == "lightgbm":
        if model.best_iteration_:
            return {"n_estimators": model.best_iteration_}
        booster = model.booster_
        return None if booster.current_iteration() > booster.params["num_iterations"] else {}
    if library == "catboost":
        return _of_catboost(model, given)
    return {}


def _of_catboost(model: Any, given: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of a copy of a CatBoost model, which writes no files."""
    trained, rounds = model.get_all_params(), model.tree_count_
    asked = next((given[name] for name in ROUNDS if name in given), 1000)
    if trained["iterations"] != asked or rounds > asked:
        return None
    found: dict[str, Any] = {"verbose": 0, "allow_writing_files": False}
    if "cat_features" not in given:
        found["cat_features"] = model.get_cat_feature_indices()
    if rounds < asked:  # the other two follow from the number of rounds
        kept = ("learning_rate", "leaf_estimation_iterations")
        found |= {"iterations": rounds, **{name: trained[name] for name in kept}}
    return found


def library_of(model: Any) -> str:
    """The library that a model is of, subclasses of its classes too."""
    names = [kind.__module__.partition(".")[0] for kind in type(model).__mro__]
    return next((name for name in names if name in ("xgboost", "lightgbm", "catboost", "sklearn")), names[0])


def unfitted(estimator: Any, settings: dict[str, Any]) -> Any:
    """A copy of an estimator that can be fitted, with some settings of its model, the last step of a Pipeline.

    `settings` are those of `settings_of`.
    """
    from sklearn.base import clone

    if hasattr(estimator, "steps"):
        try:
            found = clone(estimator)
        except RuntimeError:  # CatBoost copies a list of cat_features, which clone takes for a change of it
            found = copy.deepcopy(estimator)
        found.steps[-1] = (found.steps[-1][0], unfitted(estimator.steps[-1][1], settings))
        return found
    if library_of(estimator) != "catboost":
        return clone(estimator).set_params(**settings)
    given = {name: value for name, value in estimator.get_params().items() if name not in (*SAYING, *ROUNDS)}
    rounds = {name: value for name, value in estimator.get_params().items() if name in ROUNDS}
    both = {**given, **(rounds if "iterations" not in settings else {}), **settings}
    return type(estimator)(both) if type(estimator).__name__ == "CatBoost" else type(estimator)(**both)
