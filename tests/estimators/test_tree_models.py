"""What readers of all libraries share: rows as training saw them, and the check that leaves follow from them."""

import pandas as pd
import pytest

import upweight as uw
from upweight.errors import InfluenceError

from ..support.boosters import TARGETS, WEIGHTS, N, X, follows_weights

FAR = TARGETS["number"] + 1e4


def far_from_0(library):
    module = pytest.importorskip(library)
    if library == "xgboost":
        return module.XGBRegressor(n_estimators=30, n_jobs=1)
    return module.CatBoostRegressor(iterations=10, verbose=0, allow_writing_files=False)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("library", ["xgboost", "catboost"])
def test_leaves_whose_scores_were_rounded_far_from_0_are_followed_and_it_is_said(library, weight):
    model = far_from_0(library).fit(X[:N], FAR[:N], sample_weight=weight)
    problem = uw.from_estimator(model, X[:N], FAR[:N], sample_weight=weight)
    assert any("to float32" in note for note in problem.terms.notes)
    follows_weights(problem, (X[N:], FAR[N:]), rtol=1e-4)  # differences of losses of numbers of 1e4


@pytest.mark.parametrize("library", ["xgboost", "catboost"])
def test_other_labels_are_told_from_rounding(library):
    y = FAR[:N].copy()
    model = far_from_0(library).fit(X[:N], y)
    y[[3, 4]] = y[[4, 3]]
    with pytest.raises(InfluenceError, match=r"leaf \d+ of tree 0 of round \d+ has the value"):
        uw.from_estimator(model, X[:N], y)


@pytest.mark.parametrize("library", ["sklearn.ensemble", "xgboost", "lightgbm", "catboost"])
def test_other_columns_than_at_training_are_refused_whatever_the_library_takes(library):
    module, names = pytest.importorskip(library), list("abcd")
    table, y = pd.DataFrame(X, columns=names), TARGETS["number"]
    model = {
        "sklearn.ensemble": lambda: module.GradientBoostingRegressor(n_estimators=3),
        "xgboost": lambda: module.XGBRegressor(n_estimators=3, n_jobs=1),
        "lightgbm": lambda: module.LGBMRegressor(n_estimators=3, n_jobs=1, verbosity=-1),
        "catboost": lambda: module.CatBoostRegressor(iterations=3, verbose=0, allow_writing_files=False),
    }[library]()
    influence = uw.Influence(uw.from_estimator(model.fit(table[:N], y[:N]), table[:N], y[:N]))
    test = table[N:]
    for other, said in (
        (test[["b", "a", "c", "d"]], "reordered"),
        (test.drop(columns="c"), r"missing \['c'\]"),
        (test.assign(e=0.0), r"unexpected \['e'\]"),
        (test.to_numpy()[:, :3], "X has 3 columns"),
    ):
        with pytest.raises(ValueError, match=said):
            influence.on_loss((other, y[N:]))
