"""What removals do to an objective that knows what is left of it without some rows: few parameters, or moments."""

from __future__ import annotations

from collections.abc import Iterator
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
    scores: Scores, problem: Objective, reduced: Reduced, test: Any, measure: Measure | None
) -> Scores:
    """First-order scores with the changes as each training row is removed, alone.

    Args:
        scores: of all training rows.
        problem: the objective.
        reduced: what is left of it.
        test: m test examples.
        measure: what is asked about, None for the loss.
    """
    changes = reduced_changes(problem, reduced, list(torch.arange(problem.n).split(1)), test, measure)
    return replace(scores, changes=changes, said=tuple(filter(None, [reduced.said])))


def reduced_changes(
    problem: Objective, reduced: Reduced, sets: list[Tensor], test: Any, measure: Measure | None
) -> Float[Tensor, "m g"]:
    """The change of each measure at the parameters without each set of rows.

    Args:
        problem: the objective.
        reduced: what is left of it.
        sets: the training rows of each of g sets.
        test: m test examples.
        measure: what is asked about, None for the loss.
    """
    problem.check_current()
    if measure is None or measure.uses_batch:
        test = reduced.known(test)  # once, for all sets
    before = problem.evaluate(test, measure)
    found = [problem.evaluate(test, measure, theta) - before for theta in _each(problem, reduced, sets)]
    return torch.stack(found, dim=1)


def outputs_without(problem: Objective, reduced: Reduced) -> Float[Tensor, "n c"]:
    """The outputs of every training row at the parameters without it.

    `problem` has an output model, and `reduced` is what is left of it without rows.
    """
    found = []
    for i, theta in enumerate(_each(problem, reduced, list(torch.arange(problem.n).split(1)))):
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


def _each(problem: Objective, reduced: Reduced, sets: list[Tensor]) -> Iterator[Float[Tensor, " p"]]:
    """The parameters without each set, of which not all are held at once."""
    size = max(1, HELD // problem.p)
    parts = [sets[start : start + size] for start in range(0, len(sets), size)]
    for part in track(parts, "removing", len(parts)):
        yield from reduced.newton(part)
