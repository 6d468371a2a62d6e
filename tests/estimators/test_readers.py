"""Which estimators are read, by whom, and what is said of the others."""

import pytest
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LinearRegression, MultiTaskLasso, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import RadiusNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import all_estimators

from tests.support.estimators import TARGETS, N, X
from upweight import from_estimator
from upweight.estimators import least_squares, logistic, regressions, several, support_vectors
from upweight.estimators.chosen import WRAPPERS
from upweight.estimators.readers import MOMENTS, READERS, REFUSED, reader_of


@pytest.mark.parametrize(("estimator", "words"), [
    (MultiTaskLasso(), "use Lasso for each"),
    (RadiusNeighborsClassifier(), "is not supported: influence needs a smooth.*XGBClassifier.*by_refitting"),
    (BaggingClassifier(), "BaggingClassifier is not supported: it averages.*by_refitting"),
    (AdaBoostClassifier(), "AdaBoostClassifier is not supported: it trains each.*by_refitting"),
    (VotingClassifier([]), "VotingClassifier is not supported: it averages.*estimators_.*by_refitting"),
    (StackingClassifier([]), "StackingClassifier is not supported: its last model.*by_refitting"),
    (LinearRegression, "ABCMeta is not supported"),
    (Pipeline([("a", make_pipeline(Ridge()))]), "ends in a Pipeline"),
])  # fmt: skip
def test_estimators_that_are_refused(estimator, words: str):
    with pytest.raises(TypeError, match=words):
        from_estimator(estimator, X[:N], TARGETS["two"][:N])


def test_every_reader_is_that_of_its_family():
    families = {
        "LogisticRegression": logistic.logistic_regression,
        "SGDClassifier": logistic.sgd,
        "LinearRegression": least_squares.least_squares,
        "Ridge": least_squares.least_squares,
        "RidgeClassifier": least_squares.ridge_classifier,
        "Lasso": least_squares.elastic_net,
        "ElasticNet": least_squares.elastic_net,
        "KernelRidge": least_squares.kernel_ridge,
        "GaussianProcessRegressor": least_squares.gaussian_process,
        "PoissonRegressor": regressions.generalised,
        "GammaRegressor": regressions.generalised,
        "TweedieRegressor": regressions.generalised,
        "HuberRegressor": regressions.huber,
        "SGDRegressor": regressions.sgd_regressor,
        "QuantileRegressor": regressions.quantile,
        "LinearSVR": regressions.linear_svr,
        "LinearSVC": support_vectors.linear_svc,
        "SVC": support_vectors.svc,
        "SVR": regressions.svr,
        "NuSVC": support_vectors.nu_svc,
        "NuSVR": regressions.nu_svr,
        "OneVsRestClassifier": several.one_against_the_rest(reader_of),
        "OneVsOneClassifier": several.one_against_one(reader_of),
        "MultiOutputClassifier": several.labels_of_each_target(reader_of),
        "MultiOutputRegressor": several.one_for_each_target(reader_of),
    }
    # Imported with instrumentation in tests, so that functions are compared by name.
    assert {key: found.__qualname__ for key, found in READERS.items()} == {
        key: found.__qualname__ for key, found in families.items()
    }


def test_names_are_those_of_scikit_learn():
    """A class that is renamed there would be read no longer, or refused without a word on what to use."""
    known = dict(all_estimators())
    assert READERS.keys() <= known.keys()
    assert REFUSED.keys() <= known.keys()
    assert MOMENTS.keys() <= known.keys()
    assert WRAPPERS.keys() - {"BaseSearchCV"} <= known.keys()
    assert not READERS.keys() & REFUSED.keys()
    assert not MOMENTS.keys() & (READERS.keys() | REFUSED.keys())
    # A Gaussian process chooses its kernel, and is then read with it.
    assert WRAPPERS.keys() & (READERS.keys() | REFUSED.keys()) == {"GaussianProcessRegressor"}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_is_refused_says_what_to_use(kind: str):
    model = object.__new__(dict(all_estimators())[kind])
    with pytest.raises(TypeError, match=rf"^{kind} is not supported: .*\b(use|pass) ") as caught:
        reader_of(model)
    assert str(caught.value).endswith(REFUSED[kind])


def test_a_class_of_ones_own_is_read_as_the_scikit_learn_class_below_it():
    class Mine(Ridge):
        """With a method more."""

    class Searched(GridSearchCV):
        """With a method more."""

    assert reader_of(Mine()) is READERS["Ridge"]
    search = Searched(Mine(), {"alpha": [2.0]}, cv=3).fit(X[:N], TARGETS["number"][:N])
    assert from_estimator(search, X[:N], TARGETS["number"][:N]).theta[0] == search.best_estimator_.coef_[0]


def test_a_name_alone_is_not_enough():
    foreign = type("Ridge", (), {"__module__": "elsewhere.linear_model"})
    with pytest.raises(
        TypeError, match=r"^Ridge is not supported: influence needs a smooth objective.*LinearProblem"
    ):
        reader_of(foreign())
