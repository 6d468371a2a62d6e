"""Boosted trees of XGBoost, as they are read from the models that it keeps and saves."""

import numpy as np
import pytest
from sklearn.base import clone

import upweight as uw
from upweight.errors import InfluenceError

from ..support.boosters import (
    HOLES,
    SWITCHED,
    TARGETS,
    WEIGHTS,
    N,
    X,
    as_retrained,
    fitted,
    follows_weights,
    numbered,
    read,
)

xgboost = pytest.importorskip("xgboost")
SMALL = {"n_estimators": 8, "max_depth": 3, "n_jobs": 1}


CODED = numbered(TARGETS)
CASES = {
    "logistic": (xgboost.XGBClassifier(**SMALL), "two"),
    "every penalty": (
        xgboost.XGBClassifier(reg_alpha=0.2, reg_lambda=3, max_delta_step=0.4, scale_pos_weight=2.0, **SMALL),
        "two",
    ),
    "softmax": (xgboost.XGBClassifier(**SMALL), "three"),
    "squared": (xgboost.XGBRegressor(**SMALL), "number"),
    "a start that was given": (xgboost.XGBRegressor(base_score=2.5, **SMALL), "number"),
    "gamma": (xgboost.XGBRegressor(objective="reg:gamma", **SMALL), "amounts"),
    "tweedie": (xgboost.XGBRegressor(objective="reg:tweedie", **SMALL), "amounts"),
    "parallel trees": (xgboost.XGBClassifier(num_parallel_tree=2, colsample_bynode=0.5, **SMALL), "three"),
    "poisson": (xgboost.XGBRegressor(objective="count:poisson", **SMALL), "counts"),
}


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_the_derivative_is_that_of_leaves_fitted_with_other_weights(name, weight):
    estimator, task = CASES[name]
    follows_weights(*read(estimator, HOLES, task, weight, CODED))


@pytest.mark.parametrize("name", sorted(set(CASES) - {"parallel trees"}))
def test_leaves_fitted_without_rows_are_those_of_a_retraining_that_splits_as_before(name):
    estimator, task = CASES[name]
    estimator = clone(estimator).set_params(max_depth=2, min_child_weight=0, n_estimators=3)
    as_retrained(estimator, task, targets=numbered(SWITCHED), rtol=1e-6)
    as_retrained(estimator, task, WEIGHTS, targets=numbered(SWITCHED), rtol=1e-6)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize(
    "settings",
    [{"objective": "reg:absoluteerror"}, {"objective": "reg:quantileerror", "quantile_alpha": 0.3}],
    ids=lambda one: one["objective"],
)
def test_leaves_that_are_quantiles_are_computed_anew_without_rows(settings, weight, tmp_path):
    estimator = xgboost.XGBRegressor(**settings, **{**SMALL, "max_depth": 2, "min_child_weight": 0})
    as_retrained(estimator, "number", weight)
    problem, test = read(estimator, HOLES, "number", weight)
    with pytest.raises(ValueError, match=r"have no derivative.*of_removal"):
        uw.Influence(problem).on_loss(test)
    y = TARGETS["number"][:N]
    slow = clone(estimator).set_params(learning_rate=0.2)
    fitted(slow, X[:N], y, weight).save_model(tmp_path / "model.ubj")
    loaded = xgboost.Booster(model_file=tmp_path / "model.ubj")
    again = uw.from_estimator(loaded, X[:N], y, sample_weight=weight)
    assert again.trained.structure.rounds[0].rate == pytest.approx(0.2, rel=1e-5)
    assert any("eta = 0.2" in note for note in again.terms.notes)


def test_labels_that_it_was_not_trained_on_are_refused_with_the_place():
    y = CODED["two"].copy()
    model = fitted(xgboost.XGBClassifier(**SMALL), X[:N], y[:N])
    y[3] = 1 - y[3]
    with pytest.raises(InfluenceError, match=r"leaf \d+ of tree 0 of round \d+ has the value"):
        uw.from_estimator(model, X[:N], y[:N])


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(("objective", "task"), [("binary:logistic", "two"), ("count:poisson", "counts")])
def test_a_model_from_a_file_has_lost_its_settings_and_gets_them_back_from_its_first_tree(
    objective, task, alpha, tmp_path
):
    settings = {"objective": objective, "eta": 0.2, "lambda": 2.5, "alpha": alpha, "nthread": 1}
    y = CODED[task]
    xgboost.train(settings, xgboost.DMatrix(HOLES[:N], y[:N]), 5).save_model(tmp_path / "model.ubj")
    loaded = xgboost.Booster(model_file=tmp_path / "model.ubj")
    problem = uw.from_estimator(loaded, HOLES[:N], y[:N])
    one = problem.trained.structure.rounds[0]
    assert one.rate == pytest.approx(0.2, rel=1e-4)
    assert float(one.trees[0].damping[0]) == pytest.approx(2.5, rel=1e-3)
    assert one.trees[0].l1 == pytest.approx(alpha, rel=1e-3)
    assert any("eta = 0.2" in note for note in problem.terms.notes)


def test_of_a_model_that_stopped_early_the_trees_that_predict_are_read():
    y, test = CODED["two"], X[N:]
    model = xgboost.XGBClassifier(**{**SMALL, "n_estimators": 60}, early_stopping_rounds=3, learning_rate=0.5)
    model.fit(X[:N], y[:N], eval_set=[(test, y[N:])], verbose=False)
    for one, rounds in ((model, model.best_iteration + 1), (model.get_booster(), model.best_iteration + 4)):
        problem = uw.from_estimator(one, X[:N], y[:N])
        assert len(problem.trained.structure.rounds) == rounds
    own = uw.from_estimator(model, X[:N], y[:N])
    scores = own.outputs(own.prepared((test, y[N:]))[0]).flatten().numpy()
    assert np.abs(scores - model.predict(test, output_margin=True)).max() < 1e-6


def test_trees_that_do_not_split_are_rounding_and_are_read():
    follows_weights(*read(xgboost.XGBClassifier(gamma=1e9, **SMALL), X, "two", targets=CODED))


def test_leaves_of_a_vector_and_models_without_trees_are_refused():
    linear = xgboost.XGBRegressor(n_estimators=3, booster="gblinear")
    with pytest.raises(ValueError, match=r"booster='gblinear', which is a linear model.*by_refitting"):
        read(linear, X, "number")
    model = xgboost.XGBClassifier(multi_strategy="multi_output_tree", **SMALL)
    with pytest.raises(ValueError, match=r"multi_output_tree.*by_refitting"):
        read(model, X, "three", targets=CODED)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"booster": "dart"}, "booster='dart'"),
        ({"subsample": 0.5}, "subsample=0.5"),
        ({"monotone_constraints": (1, 0, 0, 0)}, "monotone_constraints"),
        ({"objective": "reg:quantileerror", "quantile_alpha": [0.3, 0.6]}, "several targets at once"),
        ({"objective": lambda y, p: (p - y.mean(), np.ones_like(y))}, "objective of your own"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else one,
)
def test_settings_that_do_not_determine_the_leaves_are_refused_in_a_sentence(settings, said):
    y = TARGETS["number"][:N]
    model = xgboost.XGBRegressor(**settings, **SMALL).fit(X[:N], y)
    with pytest.raises(ValueError, match=f"{said}.*by_refitting"):
        uw.from_estimator(model, X[:N], y)


def test_a_start_and_learning_rates_of_ones_own_are_refused_with_the_place():
    y = TARGETS["number"][:N]
    rates = xgboost.callback.LearningRateScheduler(lambda i: 0.3 * 0.8**i)
    models = (
        xgboost.XGBRegressor(**SMALL).fit(X[:N], y, base_margin=np.linspace(0, 1, N)),
        xgboost.XGBRegressor(callbacks=[rates], **SMALL).fit(X[:N], y),
    )
    for model in models:
        with pytest.raises(InfluenceError, match=r"has the value .*base_margin"):
            uw.from_estimator(model, X[:N], y)


def test_whether_the_start_follows_the_data_is_known_of_a_loaded_model_too(tmp_path):
    y = CODED["two"]
    for given in (None, 0.4):
        xgboost.XGBClassifier(base_score=given, **SMALL).fit(X[:N], y[:N]).save_model(tmp_path / "model.ubj")
        loaded = xgboost.XGBClassifier()
        loaded.load_model(tmp_path / "model.ubj")
        problem = uw.from_estimator(loaded, X[:N], y[:N])
        moves = bool(problem.trained.start_slopes().abs().max() > 0)
        assert moves is (given is None)
