"""Transformers whose numbers in training are not those they give later are found by measuring, and refused by name."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder

import upweight as uw
from tests.support.compare import assert_close_per_row
from upweight.estimators.transformers import check_transformers

# What random_state of a target encoder will become is not what this is about.
pytestmark = pytest.mark.filterwarnings("ignore:.*random_state.*deprecated:FutureWarning")
RNG = np.random.default_rng(0)
TOWN = RNG.integers(0, 8, 124)
FRAME = pd.DataFrame({"town": TOWN.astype(str), "age": RNG.normal(size=124)})
Y = (RNG.normal(size=8)[TOWN] + RNG.normal(size=124) > 0).astype(int)
TRAIN = slice(120)
TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 10**4}
ENCODER = ColumnTransformer(
    [("town", TargetEncoder(random_state=0), ["town"]), ("age", StandardScaler(), ["age"])]
)


@pytest.mark.parametrize("polish", [False, True])
@pytest.mark.parametrize("encoder", [ENCODER, make_pipeline(ENCODER), FeatureUnion([("both", ENCODER)])])
def test_a_target_encoder_is_refused_by_name(encoder, polish: bool):
    model = make_pipeline(encoder, LogisticRegression(**TIGHT)).fit(FRAME[TRAIN], Y[TRAIN])
    with pytest.raises(
        ValueError, match=r"pipeline's TargetEncoder gives training other.*pipeline\[:-1\]\.trans"
    ):
        uw.from_estimator(model, FRAME[TRAIN], Y[TRAIN], polish=polish)


def test_what_the_refusal_advises_gives_what_refits_give():
    model = make_pipeline(ENCODER, LogisticRegression(C=0.1, **TIGHT)).fit(FRAME[TRAIN], Y[TRAIN])
    seen = clone(model[:-1]).fit_transform(FRAME[TRAIN], Y[TRAIN])
    test = model[:-1].transform(FRAME[120:]), Y[120:]
    influence = uw.Influence(uw.from_estimator(model[-1], seen, Y[TRAIN]))
    found = influence.of_removal([[i] for i in range(12)], test).newton
    assert found is not None

    def losses(kept: np.ndarray) -> np.ndarray:
        there = clone(model[-1]).fit(seen[kept], Y[TRAIN][kept])
        return -np.log(there.predict_proba(test[0])[np.arange(4), test[1]])

    every = np.arange(120)
    naive = np.stack([losses(np.delete(every, i)) - losses(every) for i in range(12)], 1)
    assert_close_per_row(found, naive, 1e-2)


@pytest.mark.parametrize(
    "transformer",
    [
        PCA(2, svd_solver="randomized"),
        TruncatedSVD(2),
        make_pipeline(StandardScaler(), PCA(1)),
        OneHotEncoder(handle_unknown="ignore"),
        "passthrough",
    ],
)
def test_transformers_that_give_what_they_gave_are_taken(transformer):
    X = RNG.normal(size=(60, 3)).round()
    pipeline = Pipeline([("first", transformer), ("second", StandardScaler(with_mean=False))])
    assert check_transformers(pipeline.fit(X), X, Y[:60]) == ()


def test_sparse_text_is_compared_without_making_it_dense():
    texts = np.array(["a bad film", "a good film", "good", "bad bad"] * 10)
    assert check_transformers(make_pipeline(CountVectorizer()).fit(texts), texts, Y[:40]) == ()


class Shifted(TransformerMixin, BaseEstimator):
    """Adds noise to what it was fitted on: its `fit_transform` is its own."""

    def __init__(self, size: float = 0.0, fails: bool = False) -> None:
        self.size, self.fails = size, fails

    def fit(self, X: Any, y: Any = None) -> "Shifted":
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> Any:
        return X

    def fit_transform(self, X: Any, y: Any = None, **options: Any) -> Any:
        if self.fails:
            raise RuntimeError("only once")
        self.fit(X, y)
        return X + self.size * np.random.default_rng(0).normal(size=X.shape)


def test_a_users_own_transformer_is_measured_too():
    X = RNG.normal(size=(50, 3))
    assert check_transformers(make_pipeline(Shifted()), X, Y[:50]) == ()
    with pytest.raises(ValueError, match="pipeline's Shifted gives training other numbers"):
        check_transformers(make_pipeline(Shifted(0.1)), X, Y[:50])
    (note,) = check_transformers(make_pipeline(Shifted(fails=True)), X, Y[:50])
    assert note == "whether Shifted gave training other numbers than now is not known (only once)"


def test_samplers_are_refused():
    class Doubled(Shifted):
        def fit_resample(self, X: Any, y: Any) -> Any:
            return X, y

    with pytest.raises(ValueError, match="pipeline's Doubled changes the training rows themselves"):
        check_transformers(make_pipeline(Doubled()), np.eye(3), np.arange(3))
