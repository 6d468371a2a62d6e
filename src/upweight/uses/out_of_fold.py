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
DRAWS = 3
"""How often small data are parted anew: the mean finds one or two in a hundred wrong labels more than a single one."""
SMALL = 5_000
"""Training rows up to which data are small."""


def outputs_out_of_fold(problem: Objective, model: OutputModel, seed: int) -> Float[Tensor, "n c"] | None:
    """The outputs of every training row by the estimator fitted on four fifths of the rows, the row not among them.

    Args:
        problem: of `from_estimator`; None is the answer where the estimator cannot be fitted again.
        model: the same problem, whose outputs are classes or values.
        seed: what the folds are drawn from; every class is spread over all of them.

    Returns:
        Outputs before any link, of small data the mean over three draws of folds; NaN for a row that is the only one of
        its class.
    """
    refit, given = problem.cache.get(OWN), problem.cache.get(GIVEN)
    if refit is None or given is None:
        return None
    drawn = folds(model, seed)
    found = torch.zeros(problem.n, model.c, dtype=torch.float64).masked_fill(drawn[0, :, None] < 0, torch.nan)
    everything, parts = torch.arange(problem.n), [(fold, part) for fold in drawn for part in range(FOLDS)]
    for fold, part in track(parts, "fitting without each fold", len(parts)):
        left = everything[fold == part]
        if len(left):
            there = refit(everything[fold != part]).output_model
            found[left] += there.outputs(there.prepared(given(left))[0]) / len(drawn)
    return found


def folds(model: OutputModel, seed: int) -> Int[Tensor, "d n"]:
    """Which fold each training row is in, by each of d draws; -1 for a row that is the only one of its class.

    Every class of `model` is spread over all folds; `seed` is what they are drawn from.
    """
    generator, n = torch.Generator().manual_seed(seed), len(model.y)
    classes, counts = torch.zeros(n, dtype=torch.long), torch.tensor([n])
    if model.loss.classifies:
        _, classes, counts = model.y.flatten().unique(return_inverse=True, return_counts=True)
    found = torch.empty(DRAWS if n <= SMALL else 1, n, dtype=torch.long)
    for fold in found:
        drawn = torch.randperm(n, generator=generator)
        fold[drawn[classes[drawn].argsort(stable=True)]] = torch.arange(n) % FOLDS
    return found.masked_fill(counts[classes] == 1, -1)
