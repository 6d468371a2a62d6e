"""Failures of ours share one class that no wrong argument has, and warnings are warnings."""

import inspect
import pickle

import pytest

import upweight
from upweight import errors
from upweight.errors import IndefiniteError, InfluenceError

OURS: dict[str, type[Exception]] = {
    name: cls
    for name, cls in vars(errors).items()
    if inspect.isclass(cls) and issubclass(cls, Exception) and cls.__module__ == errors.__name__
}
FAILURES = [name for name, cls in OURS.items() if issubclass(cls, InfluenceError)]
WARNINGS = [name for name, cls in OURS.items() if issubclass(cls, Warning)]


def test_each_is_a_failure_or_a_warning():
    assert sorted([*FAILURES, *WARNINGS]) == sorted(OURS)
    assert len(FAILURES) == 8
    assert len(WARNINGS) == 4


@pytest.mark.parametrize("name", OURS)
def test_each_is_public(name: str):
    assert getattr(upweight, name) is OURS[name]
    assert name in upweight.__all__


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_caught_together_and_are_no_wrong_arguments(name: str):
    assert not issubclass(OURS[name], (ValueError, TypeError, Warning))
    with pytest.raises(InfluenceError, match="what happened and what to do"):
        raise OURS[name]("what happened and what to do")


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings_are_the_users(name: str):
    """`UserWarning` is shown by default, as `DeprecationWarning` is not."""
    assert issubclass(OURS[name], UserWarning)


def test_an_indefinite_curvature_carries_its_eigenvalue():
    assert IndefiniteError("words", -0.5).eigenvalue == -0.5
    assert IndefiniteError("words").eigenvalue is None
    assert str(IndefiniteError("words", -0.5)) == "words"


@pytest.mark.parametrize("name", OURS)
def test_they_pass_between_processes(name: str):
    """Processes of one job send each other what went wrong."""
    error = pickle.loads(pickle.dumps(OURS[name]("words")))
    assert type(error) is OURS[name]
    assert str(error) == "words"


def test_the_eigenvalue_passes_too():
    assert pickle.loads(pickle.dumps(IndefiniteError("words", -0.5))).eigenvalue == -0.5
