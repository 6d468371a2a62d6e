"""Which search a model has where nothing is proven of a conclusion, and why nothing is."""

from __future__ import annotations

import torch
from jaxtyping import Float

from ..linear.whitened import is_least_squares
from ..objective import Objective
from ..types import Tensor
from .by_refits import Tested
from .conclusions import Conclusion
from .estimates_robustness import Fitted
from .general_fit import GeneralFit
from .removals import Question
from .weighted_fit import WeightedFit


def no_proof(problem: Objective, asked: Conclusion) -> str:
    """Why nothing is known to be proven of a conclusion that can be searched for all the same; "" where it is."""
    reduced = problem.reduced
    if reduced is not None and reduced.squares is not None and reduced.squares.instruments is not None:
        return "No certificate is known for instruments (two-stage least squares): nothing is proven."
    if asked.errors is not None and problem.linear is not None and not is_least_squares(problem.linear):
        return "No certificate is known for tests of generalised linear models: nothing is proven."
    if asked.errors is not None and not asked.errors.classical:
        return f"No certificate is known for {asked.errors.kind} standard errors: nothing is proven."
    if reduced is not None and reduced.estimates is not None:
        return "No certificate of larger sets exists for this kind of fit"
    return ""


def search_of(problem: Objective, asked: Conclusion, members: list[Tensor]) -> Tested | Fitted:
    """The search for a set that changes a conclusion about a model without a certificate.

    Args:
        problem: the model.
        asked: the conclusion.
        members: the rows of each unit.
    """
    reduced, plain_errors = problem.reduced, asked.errors is None or asked.errors.classical
    if reduced is not None and reduced.estimates is not None and plain_errors:
        check_no_penalty(reduced.estimates.problem.l2, asked)
        gradient, bar = asked.gradient(problem)
        return Fitted(reduced.estimates, asked, gradient, bar, 1.0, members, torch.arange(problem.n))
    fit = WeightedFit.of(problem) or GeneralFit.of(problem)
    if fit is None:
        raise TypeError(
            "tests with these standard errors are for least squares and generalised linear models without a penalty"
        )
    if asked.errors is not None:
        asked.errors.check_length(problem.n)
        if words := fit.refusal(asked.errors):
            raise ValueError(words)
    gradient, bar = asked.gradient(problem)
    return Tested(fit, asked, gradient, bar, 1.0, members)


def check_no_penalty(l2: Float[Tensor, " p"], asked: Conclusion) -> None:
    """Raise ValueError for standard errors of a fit with a penalty."""
    if asked.uses_error and bool((l2 > 0).any()):
        raise ValueError(
            "significance has no meaning with a penalty, which biases estimates: ask about the sign, or fit without"
        )


def side_of(question: Question | Tested | Fitted) -> str:
    if question.bar == 0:
        return "positive" if question.side > 0 else "negative"
    return "upper" if question.side > 0 else "lower"
