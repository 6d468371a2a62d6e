"""What removals do to an objective that knows what is left of it without some rows: few parameters, or moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float

from ..capabilities import Reduced
from ..measures import Measure
from ..objective import Objective
from ..runtime.progress import track
from ..types import Tensor
from .leave_one_out import LeaveOneOut, RowSteps, leave_one_out
from .scores import Scores

HELD = 1 << 24
"""Numbers of parameters that are held at once."""


def with_reduced(
    scores: Scores,
    problem: Objective,
    reduced: Reduced,
    asked: tuple[Any, Measure | None],
    steps: int | None = None,
) -> Scores:
    """First-order scores with the changes as each training row is removed, alone.

    Args:
        scores: of all training rows.
        problem: the objective.
        reduced: what is left of it.
        asked: m test examples and the measure, None for the loss.
        steps: 1 for one Newton step; else as many as each row needs.
    """
    changes = reduced_changes(problem, reduced, list(torch.arange(problem.n).split(1)), asked, steps)
    return replace(scores, changes=changes, said=tuple(filter(None, [reduced.said])))


def reduced_changes(
    problem: Objective,
    reduced: Reduced,
    sets: list[Tensor],
    asked: tuple[Any, Measure | None],
    steps: int | None = None,
) -> Float[Tensor, "m g"]:
    """The change of each measure at the parameters without each set of rows.

    Args:
        problem: the objective.
        reduced: what is left of it.
        sets: the training rows of each of g sets.
        asked: m test examples and the measure, None for the loss.
        steps: 1 for one Newton step; else as many as each set needs.
    """
    test, measure = asked
    problem.check_current()
    seen = None if measure is None else measure.sees_weights
    if seen is not None and all(len(rows) == 1 for rows in sets):
        each = reduced.newton if steps == 1 else reduced.settled
        return seen.changes(torch.cat(sets), torch.stack(list(_each(problem, sets, each))))[None]
    if measure is None or measure.uses_batch:
        test = reduced.known(test)  # once, for all sets
    before = problem.evaluate(test, measure)
    thetas = _each(problem, sets, reduced.newton if steps == 1 else reduced.settled)
    found = [problem.evaluate(test, measure, theta) - before for theta in thetas]
    return torch.stack(found, dim=1)


@dataclass(frozen=True, eq=False)
class WithoutEach:
    """The parameters of an objective without each of its training rows, alone, by what is left of it."""

    problem: Objective
    reduced: Reduced

    @property
    def sets(self) -> list[Tensor]:
        """Each training row."""
        return list(torch.arange(self.problem.n).split(1))

    def changes(self, batch: Any, measure: Measure | None = None) -> Float[Tensor, "m n"]:
        """The change of each test measure without each training row.

        `batch` are m test examples, `measure` is what is asked about, None for the loss.
        """
        return reduced_changes(self.problem, self.reduced, self.sets, (batch, measure))


def predicted_alone(problem: Objective, steps: RowSteps | None) -> LeaveOneOut:
    """Every training row predicted without itself, from the Newton steps of a linear model or from what is left.

    Raises TypeError where there is neither; `steps` are None for models that are not linear.
    """
    if steps is not None:
        return leave_one_out(steps)
    reduced = problem.reduced
    if reduced is None:
        raise TypeError(
            "leave-one-out predictions are for linear models with their Hessian, models by their whole likelihood and "
            "those by moments: of others ask influence.of_removal, or by_refitting(estimator, X, y).out_of_bag()"
        )
    each = WithoutEach(problem, reduced)
    found = [reduced.alone(i, theta) for i, theta in enumerate(_each(problem, each.sets, reduced.settled))]
    outputs, losses = (torch.stack(part) for part in zip(*found, strict=True))
    return LeaveOneOut(outputs, losses, reduced.leverages(), each)


def check_left(reduced: Reduced, sets: list[Tensor]) -> None:
    """Refuse sets without which there is nothing to train, with the reason; `sets` are the rows of each of them."""
    for rows in sets:
        if said := reduced.refusal(rows):
            raise ValueError(
                f"without {len(rows)} of the training rows nothing can be fitted: {said}; remove others"
            )


def _each(
    problem: Objective, sets: list[Tensor], moved: Callable[[list[Tensor]], Tensor]
) -> Iterator[Float[Tensor, " p"]]:
    """The parameters without each set, of which not all are held at once.

    Args:
        problem: the objective.
        sets: the training rows of each set.
        moved: from some of them to the parameters (g, p) without each.
    """
    size = max(1, HELD // problem.p)
    parts = [sets[start : start + size] for start in range(0, len(sets), size)]
    for part in track(parts, "removing", len(parts)):
        yield from moved(part)
