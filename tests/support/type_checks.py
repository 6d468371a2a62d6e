"""Types and shapes are checked in every test run; this keeps what a check is made of."""

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

Function = TypeVar("Function", bound=FunctionType)


def remembered(decorate: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """`decorate`, which is called once for functions that it cannot tell apart.

    jaxtyping decorates a function inside another one anew in every call of that one, and beartype writes and compiles
    the check each time, which is two thirds of the time of a test of a network. What jaxtyping hands over is a function
    without a body, made of the signature alone: where names and annotations are the same, the first check serves. (A
    shape is another class each time that its annotation is read, so a function with shapes has a check of its own.)
    """
    known: dict[object, Function] = {}

    def found(function: Function) -> Function:
        key = (
            function.__module__,
            function.__qualname__,
            function.__code__,
            *function.__annotations__.items(),
        )
        try:
            if key not in known:
                known[key] = decorate(function)
            return known[key]
        except TypeError:  # an annotation without a hash, as P.args
            return decorate(function)

    return found
