"""Which estimators are read, by whom, and what is said of the others."""

import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegressionCV, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVR
from sklearn.utils import all_estimators

from tests.support.estimators import TARGETS, N, X
from upweight import from_estimator
from upweight.estimators import least_squares, logistic, support_vectors
from upweight.estimators.readers import READERS, REFUSED, reader_of


@pytest.mark.parametrize(("estimator", "words"), [
    (SVR(), "use Ridge"),
    (ElasticNet(), "a kink at zero"),
    (LogisticRegressionCV(), "pass a LogisticRegression fitted"),
    (GridSearchCV(Ridge(), {"alpha": [1.0]}), "best_estimator_"),
    (RandomForestClassifier(3), "RandomForestClassifier is not supported: influence needs a smooth"),
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
        "LinearSVC": support_vectors.linear_svc,
        "SVC": support_vectors.svc,
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
    assert not READERS.keys() & REFUSED.keys()


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
    with pytest.raises(TypeError, match=r"^Searched is not supported: .*best_estimator_"):
        reader_of(Searched(Ridge(), {}))


def test_a_name_alone_is_not_enough():
    foreign = type("Ridge", (), {"__module__": "elsewhere.linear_model"})
    with pytest.raises(
        TypeError, match=r"^Ridge is not supported: influence needs a smooth objective.*LinearProblem"
    ):
        reader_of(foreign())
