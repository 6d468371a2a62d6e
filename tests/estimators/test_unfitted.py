"""Boosted trees are fitted again as they were trained, or it is said that they cannot be."""

import numpy as np
import pytest
import torch

import upweight as uw
from upweight.estimators.refitting import OWN
from upweight.estimators.unfitted import settings_of, unfitted

from ..support.boosters import TARGETS, N, X

Y = (TARGETS["two"] == "yes").astype(int)
TRAIN, TEST = (X[:N], Y[:N]), (X[N:], Y[N:])


def early(library):
    """A classifier that stopped early."""
    module = pytest.importorskip(library)
    if library == "xgboost":
        model = module.XGBClassifier(n_estimators=60, learning_rate=0.5, early_stopping_rounds=3, n_jobs=1)
        return model.fit(*TRAIN, eval_set=[TEST], verbose=False)
    if library == "lightgbm":
        model = module.LGBMClassifier(n_estimators=60, learning_rate=0.5, n_jobs=1, verbosity=-1)
        return model.fit(*TRAIN, eval_set=[TEST], callbacks=[module.early_stopping(3, verbose=False)])
    model = module.CatBoostClassifier(
        iterations=300, depth=4, od_wait=3, thread_count=1, allow_writing_files=False
    )
    return model.fit(*TRAIN, eval_set=TEST, verbose=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_a_model_that_stopped_early_is_fitted_again_with_the_rounds_that_it_kept(library, capfd):
    model = early(library)
    settings = settings_of(model)
    assert settings is not None
    again = unfitted(model, settings).fit(*TRAIN)
    assert np.abs(again.predict_proba(TEST[0]) - model.predict_proba(TEST[0])).max() < 1e-6
    problem = uw.from_estimator(model, *TRAIN)
    refitted = problem.cache[OWN](torch.arange(N))
    assert (refitted.evaluate(TEST) - problem.evaluate(TEST)).abs().max() < 1e-5
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("library", ["lightgbm", "catboost"])
def test_a_model_that_went_on_from_another_is_not_fitted_again_alone(library):
    module = pytest.importorskip(library)
    if library == "lightgbm":
        made = module.LGBMClassifier(n_estimators=4, n_jobs=1, verbosity=-1)
    else:
        made = module.CatBoostClassifier(iterations=4, verbose=0, thread_count=1, allow_writing_files=False)
    first = unfitted(made, {}).fit(*TRAIN)
    assert settings_of(first) is not None
    model = unfitted(made, {}).fit(*TRAIN, init_model=first)
    assert settings_of(model) is None
    problem = uw.from_estimator(model, *TRAIN)
    assert problem.cache[OWN] is None


def test_models_that_do_not_know_what_they_were_trained_with_need_refit(tmp_path):
    xgboost = pytest.importorskip("xgboost")

    def trained(kept):
        rows = np.asarray(kept)
        booster = xgboost.train(
            {"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X[rows], Y[rows]), 5
        )
        return uw.from_estimator(booster, X[rows], Y[rows])

    problem = trained(range(N))
    influence, test = uw.Influence(problem), (X[N : N + 1], Y[N : N + 1])
    with pytest.raises(ValueError, match="refit="):
        uw.verify(influence, test, k=2, random=2)
    assert uw.verify(influence, test, k=2, random=2, refit=trained).ceiling is not None
    xgboost.XGBClassifier(n_estimators=5).fit(*TRAIN).save_model(tmp_path / "model.ubj")
    loaded = xgboost.XGBClassifier()
    loaded.load_model(tmp_path / "model.ubj")
    assert settings_of(loaded) is None
