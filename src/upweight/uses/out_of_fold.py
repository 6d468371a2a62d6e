"""What the user's own estimator says of each training row, fitted again without the fold that the row is in."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from ..estimators.refitting import GIVEN, OWN
from ..objective import Objective
from ..outputs import OutputModel
from ..runtime.progress import track
from ..types import Tensor

FOLDS = 5
"""Parts of the training rows, each of which one fit leaves out."""


def outputs_out_of_fold(problem: Objective, model: OutputModel, seed: int) -> Float[Tensor, "n c"] | None:
    """The outputs of every training row by the estimator fitted on four fifths of the rows, the row not among them.

    Args:
        problem: of `from_estimator`; None is the answer where the estimator cannot be fitted again.
        model: the same problem, whose outputs are classes or values.
        seed: what the folds are drawn from; every class is spread over all of them.

    Returns:
        Outputs before any link, NaN for a row that is the only one of its class.
    """
    refit, given = problem.cache.get(OWN), problem.cache.get(GIVEN)
    if refit is None or given is None:
        return None
    found = torch.full((problem.n, model.c), torch.nan, dtype=torch.float64)
    fold, everything = folds(model, seed), torch.arange(problem.n)
    for part in track(range(FOLDS), "fitting without each fold", FOLDS):
        left = everything[fold == part]
        if len(left):
            there = refit(everything[fold != part]).output_model
            found[left] = there.outputs(there.prepared(given(left))[0])
    return found


def folds(model: OutputModel, seed: int) -> Int[Tensor, " n"]:
    """Which fold each training row is in, every class spread over all; -1 for a row that is the only one of its class.

    `model` has the targets, `seed` is what the folds are drawn from.
    """
    drawn = torch.randperm(len(model.y), generator=torch.Generator().manual_seed(seed))
    if not model.loss.classifies:
        return drawn % FOLDS
    _, classes, counts = model.y.flatten().unique(return_inverse=True, return_counts=True)
    order = drawn[classes[drawn].argsort(stable=True)]
    fold = torch.empty_like(drawn)
    fold[order] = torch.arange(len(drawn)) % FOLDS
    return fold.masked_fill(counts[classes] == 1, -1)
