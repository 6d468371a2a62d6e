"""Types and shapes are still checked where the checks of functions inside functions are remembered."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from tests.support.type_checks import remembered


@pytest.fixture
def made() -> list[Any]:
    """What a check was made for."""
    return []


@pytest.fixture
def checked(made: list[Any]) -> Callable[[Any], Any]:
    def make(function: Any) -> Any:
        made.append(function)
        return beartype(function)

    return jaxtyped(typechecker=remembered(make))


def test_functions_made_anew_are_checked_by_what_was_made_once(made, checked):
    for factor in (2, 3):

        @checked
        def scaled(x: Tensor, y: int) -> Tensor:
            return factor * x if y else None  # type: ignore[return-value]  # noqa: B023

        assert scaled(torch.ones(3), 1).tolist() == [factor] * 3
        with pytest.raises(TypeCheckError, match="checking the parameters"):
            scaled(torch.ones(3), "one")
        with pytest.raises(TypeCheckError, match="checking the return value"):
            scaled(torch.ones(3), 0)
    # With and without what is returned; others are made for the words of an error.
    assert sum(function.__qualname__.endswith(".scaled") for function in made) == 2


def test_shapes_are_checked_in_functions_made_anew(checked):
    for factor in (2, 3):

        @checked
        def scaled(x: Float[Tensor, " a"], y: Float[Tensor, " a"]) -> Float[Tensor, " a"]:
            return factor * x if len(y) < 4 else x[1:]  # noqa: B023

        assert scaled(torch.ones(3), torch.ones(3)).tolist() == [factor] * 3
        with pytest.raises(TypeCheckError, match="checking the parameters"):
            scaled(torch.ones(3), torch.ones(2))
        with pytest.raises(TypeCheckError, match="checking the return value"):
            scaled(torch.ones(4), torch.ones(4))


def test_other_types_under_the_same_name_have_their_own_check(checked):
    for kind, wrong in ((int, "a"), (str, 1)):

        def same(x):
            return x

        same.__annotations__ = {"x": kind}
        assert checked(same)(kind()) == kind()
        with pytest.raises(TypeCheckError, match="checking the parameters"):
            checked(same)(wrong)


def test_annotations_without_a_hash_are_checked_too(made):
    def function(x: int) -> None: ...

    def make(given: Any) -> Any:
        made.append(given)
        return given

    function.__annotations__["args"] = []
    keep = remembered(make)
    assert keep(keep(function)) is function
    assert made == [function] * 2
