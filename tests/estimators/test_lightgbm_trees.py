"""Boosted trees of LightGBM, as they are read from the text of the model."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import upweight as uw
from upweight.errors import InfluenceError

from ..support.boosters import (
    HOLES,
    TARGETS,
    TOTAL,
    WEIGHTS,
    N,
    X,
    as_retrained,
    fitted,
    follows_weights,
    read,
)

lightgbm = pytest.importorskip("lightgbm")
SMALL = {"n_estimators": 8, "num_leaves": 6, "n_jobs": 1, "verbosity": -1}
LGBM, LGBMR = lightgbm.LGBMClassifier, lightgbm.LGBMRegressor
CASES = {
    "logistic": (LGBM(**SMALL), "two"),
    "every penalty": (
        LGBM(reg_alpha=0.5, reg_lambda=2.0, max_delta_step=0.4, scale_pos_weight=2.0, **SMALL),
        "two",
    ),
    "unbalanced": (LGBM(is_unbalance=True, **SMALL), "two"),
    "softmax": (LGBM(class_weight="balanced", **SMALL), "three"),
    "against the rest": (LGBM(objective="multiclassova", **SMALL), "three"),
    "squared": (LGBMR(**SMALL), "number"),
    "gamma": (LGBMR(objective="gamma", **SMALL), "amounts"),
    "tweedie": (LGBMR(objective="tweedie", **SMALL), "amounts"),
    "poisson": (LGBMR(objective="poisson", **SMALL), "counts"),
}
BAGS = LGBM(bagging_fraction=0.5, bagging_freq=2, min_child_samples=5, **SMALL)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", [*CASES, "bags"])
def test_the_derivative_is_that_of_leaves_fitted_with_other_weights(name, weight):
    estimator, task = (BAGS, "two") if name == "bags" else CASES[name]
    follows_weights(*read(estimator, HOLES, task, weight))


@pytest.mark.parametrize("name", CASES)
def test_leaves_fitted_without_rows_are_those_of_a_retraining_that_splits_as_before(name):
    estimator, task = CASES[name]
    if name in ("unbalanced", "softmax"):
        pytest.skip("the weights of classes follow their counts in a retraining")
    estimator = clone(estimator).set_params(min_child_samples=1, num_leaves=4)
    as_retrained(estimator, task)
    as_retrained(estimator, task, WEIGHTS)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("settings", [{"objective": "l1"}, {"objective": "quantile", "alpha": 0.3}], ids=str)
def test_leaves_that_are_quantiles_are_computed_anew_without_rows(settings, weight):
    estimator = LGBMR(**settings, **{**SMALL, "num_leaves": 4, "min_child_samples": 1})
    as_retrained(estimator, "amounts", weight)
    bags = LGBMR(bagging_fraction=0.5, bagging_freq=2, **settings, **SMALL)
    problem, test = read(bags, HOLES, "number", weight)
    with pytest.raises(ValueError, match=r"have no derivative.*of_removal"):
        uw.Influence(problem).on_loss(test)
    assert uw.Influence(problem).of_removal([1, 2], test).best.isfinite().all()


def test_labels_that_it_was_not_trained_on_are_refused_with_the_place():
    y = TARGETS["two"].copy()
    model = fitted(LGBM(**SMALL), X[:N], y[:N])
    y[3] = "no" if y[3] == "yes" else "yes"
    with pytest.raises(InfluenceError, match=r"leaf \d+ of tree 0 of round \d+ has the value"):
        uw.from_estimator(model, X[:N], y[:N])


def test_a_model_from_its_text_is_read_like_the_one_that_was_fitted(tmp_path):
    estimator, task = CASES["every penalty"]
    y = (TARGETS[task] == "yes").astype(int)
    model = fitted(estimator, X[:N], y[:N])
    model.booster_.save_model(tmp_path / "model.txt")
    loaded = lightgbm.Booster(model_file=tmp_path / "model.txt")
    own, again = (uw.from_estimator(one, X[:N], y[:N]) for one in (model, loaded))
    assert own.fingerprint() == again.fingerprint()


def test_categories_of_many_against_many_have_a_damping_of_their_own():
    city = np.random.default_rng(2).integers(0, 12, TOTAL)
    table = pd.DataFrame(X, columns=list("abcd")).assign(city=pd.Categorical(city))
    y = TARGETS["number"] + 2.0 * np.isin(city, [1, 4, 7, 9])
    model = LGBMR(min_data_per_group=5, cat_smooth=1, cat_l2=4.0, **SMALL).fit(table[:N], y[:N])
    problem = uw.from_estimator(model, table[:N], y[:N])
    found = {float(v) for one in problem.trained.structure.rounds for t in one.trees for v in t.damping}
    assert found == {0.0, 4.0}
    follows_weights(problem, (table[N:], y[N:]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"boosting_type": "dart"}, "boosting='dart'"),
        ({"data_sample_strategy": "goss"}, "GOSS"),
        ({"objective": "huber"}, "objective 'huber'"),
        ({"linear_tree": True}, "linear_tree"),
        ({"path_smooth": 1.0}, "path_smooth"),
        ({"monotone_constraints": [1, 0, 0, 0]}, "monotone_constraints"),
        ({"use_quantized_grad": True}, "use_quantized_grad"),
        ({"reg_sqrt": True}, "reg_sqrt"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_settings_that_do_not_determine_the_leaves_are_refused_in_a_sentence(settings, said):
    with pytest.raises(ValueError, match=f"{said}.*by_refitting"):
        read(LGBMR(**settings, **SMALL), X, "number")


def test_a_start_of_ones_own_is_refused_with_the_place():
    y = TARGETS["number"][:N]
    model = LGBMR(**SMALL).fit(X[:N], y, init_score=np.linspace(0, 1, N))
    with pytest.raises(InfluenceError, match=r"round 0 has the value .*init_score"):
        uw.from_estimator(model, X[:N], y)


def test_classes_that_are_weighed_twice_are_refused():
    for more in ({"is_unbalance": True}, {"scale_pos_weight": 2.0}):
        with pytest.raises(ValueError, match=r"class_weight beside.*by_refitting"):
            read(LGBM(class_weight="balanced", **more, **SMALL), X, "two")


def test_class_weights_by_the_counts_are_said_to_be_held_fixed():
    for estimator in (LGBM(class_weight="balanced", **SMALL), LGBM(is_unbalance=True, **SMALL)):
        problem, _ = read(estimator, X, "two")
        assert any("counts of the classes are held fixed" in note for note in problem.terms.notes)
