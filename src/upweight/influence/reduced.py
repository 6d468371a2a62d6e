"""What removals do to an objective that knows what is left of it without some rows: few parameters, or moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float

from ..capabilities import Reduced
from ..measures import Measure
from ..objective import Objective
from ..runtime.progress import track
from ..types import Tensor
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
    if measure is None or measure.uses_batch:
        test = reduced.known(test)  # once, for all sets
    before = problem.evaluate(test, measure)
    thetas = _each(problem, sets, reduced.newton if steps == 1 else reduced.settled)
    found = [problem.evaluate(test, measure, theta) - before for theta in thetas]
    return torch.stack(found, dim=1)


def outputs_without(problem: Objective, reduced: Reduced) -> Float[Tensor, "n c"]:
    """The outputs of every training row at the parameters without it.

    `problem` has an output model, and `reduced` is what is left of it without rows.
    """
    found = []
    for i, theta in enumerate(_each(problem, list(torch.arange(problem.n).split(1)), reduced.settled)):
        model = problem.at(theta).output_model
        assert model is not None
        inputs, _ = model.prepared(problem.train_batch(torch.tensor([i])))
        found.append(model.outputs(inputs))
    return torch.cat(found)


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
