"""Sets of rows that overturn what trees say: searched with splits held fixed, confirmed by retraining."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int

from ..errors import InfluenceError
from ..influence.influence import Influence
from ..measures import as_measure
from ..objective import Objective
from ..outputs import measure_slopes
from ..runtime.progress import gauge
from ..trees.problem import TreeProblem
from ..types import Batch, Tensor
from .verdicts import Verdict, shortest_that

AT_ONCE = 8
"""Rows that are taken at once at most, or as many as were before: sums of single effects say little of many rows."""
GROWTH = 10
"""A set that a training does not confirm grows by at least one row in so many, and at most to its double."""


class FoundOfTrees(NamedTuple):
    """What a search came to: the rows whose removal retraining confirms, None for none, and what is said after it.

    `at_fixed_splits` are the rows that do it where leaf values are computed anew and trees split as before; empty where
    no rows do.
    """

    rows: Int[Tensor, " k"] | None
    after: Any
    at_fixed_splits: Int[Tensor, " f"]


class TreeSearch:
    """One search: the trees, the row that they are asked about, how they are trained again, and how often they were.

    Rows are taken in the order of their predicted effect on the margin, half of those that seem needed at a time; then
    leaf values are computed anew without them, and influence of these. Where the verdict is overturned so, the trees
    are trained again without the rows. Where that does not overturn it, the search goes on from the new trees.

    Args:
        problem: the trees.
        batch: the row that is asked about, (inputs, targets) as the user has them.
        verdict: what the trees say of it.
        retrain: trains on the kept rows (index) and gives the problem of the new trees.
    """

    def __init__(
        self, problem: TreeProblem, batch: Batch, verdict: Verdict, retrain: Callable[[Tensor], Objective]
    ) -> None:
        self.problem, self.batch, self.verdict, self.retrain = problem, batch, verdict, retrain
        self.refits = 0

    def check_start(self, said: Any) -> None:
        """Raises ValueError where training again on all rows says something else than `said`."""
        self.refits += 1
        trained = cast(TreeProblem, self.retrain(torch.arange(self.problem.n)))
        if self.overturned(trained):
            raise ValueError(
                f"the trees say {said!r} about this row, and {self.told(trained)!r} once they are trained again on all "
                "rows: no set of rows can be blamed; give the estimator a seed (random_state), and the rows that it "
                "was trained on"
            )

    def found(self, most: int) -> FoundOfTrees:
        """The shortest set of at most so many rows that the search comes to."""
        here, kept = self.problem, torch.arange(self.problem.n)
        more, enough = self.at_fixed_splits(here, 1, most)
        chosen, fixed = kept[:0], more[: enough or 0]
        more = more[:AT_ONCE] if enough is None else fixed
        with gauge("searching a flip set") as reached:
            while len(more):
                chosen = torch.cat([chosen, kept[more]])
                trained = self.retrained(chosen)
                if trained is None:  # nothing is left to train on, as where it was the last of its class
                    return FoundOfTrees(None, None, fixed)
                if self.overturned(trained):
                    break
                here, kept, held = trained, _others(self.problem.n, chosen), len(chosen)
                reached(math.log1p(held) / math.log1p(most))  # sets double at most
                least, left = max(1, held // GROWTH), min(most - held, max(AT_ONCE, held))
                more, _ = self.at_fixed_splits(here, min(least, left), left)
            else:
                return FoundOfTrees(None, None, fixed)
        return FoundOfTrees(*self.shortest(chosen, self.told(trained)), fixed)

    def at_fixed_splits(
        self, here: TreeProblem, least: int, most: int
    ) -> tuple[Int[Tensor, " k"], int | None]:
        """Rows of `here` to remove, by leaf values computed anew, and how many of them overturn the verdict so.

        Args:
            here: trees of some of the rows.
            least: rows that are taken also where fewer do.
            most: rows that are taken at most.

        Returns:
            Their numbers among the rows of `here`: as many as do it, or all that help; the count is None then.
        """
        gone = torch.empty(0, dtype=torch.long)
        there, ahead = self.without(here, gone)
        while len(gone) < most and (ahead >= 0 or len(gone) < least):
            effect = self.effects(there, gone)
            order = effect.argsort()
            useful = int((effect < 0).sum())
            if not useful:
                break
            needed = int((effect[order][:useful].cumsum(0) > -ahead).sum()) + 1
            wanted = max(1, least - len(gone), min(needed // 2, max(AT_ONCE, len(gone))))
            gone = torch.cat([gone, order[: min(wanted, useful, most - len(gone))]])
            there, ahead = self.without(here, gone)
        if not ahead < 0:
            return gone, None
        enough = shortest_that(gone, lambda rows: self.without(here, rows)[1] < 0)
        return gone[: max(enough, least)], enough

    def effects(self, there: TreeProblem, gone: Int[Tensor, " k"]) -> Float[Tensor, " n"]:
        """The predicted change of the margin if each row goes as well, alone; 0 for those that are gone.

        It is of first order. Where that finds no row that helps, a forest's rows are ranked by what they carry: leaves
        of one label do not move as they lose rows, but once trees split anew others' labels take their place.

        Args:
            there: the trees, leaf values computed without the rows that are gone.
            gone: these rows.
        """
        effect = Influence(there).on_loss(self.batch, measure=self.verdict.margin).removal_effect()[0]
        if not bool((effect.index_fill(0, gone, 0) < 0).any()) and len(there.trained.structure.rounds) == 1:
            effect = carried(there, self.batch, self.verdict)
        return effect.index_fill(0, gone, 0)

    def without(self, here: TreeProblem, rows: Int[Tensor, " k"]) -> tuple[TreeProblem, float]:
        """Trees without some of their rows, the splits held fixed, and their margin: NaN in a leaf without rows."""
        there = here.refitted(here.weights.index_fill(0, rows, 0))
        theta = there.theta.masked_fill(there.fitted.empty & ~here.fitted.empty, torch.nan)
        return there, float(here.evaluate(self.batch, self.verdict.margin, theta)[0])

    def retrained(self, rows: Int[Tensor, " k"]) -> TreeProblem | None:
        """The trees trained anew without those rows; None where that cannot be, or a class is gone with them."""
        self.refits += 1
        try:
            found = cast(TreeProblem, self.retrain(_others(self.problem.n, rows)))
        except (ValueError, InfluenceError):
            return None
        return found if found.classes == self.problem.classes else None

    def overturned(self, trained: TreeProblem) -> bool:
        """Whether trees say something else of the row."""
        return float(trained.evaluate(self.batch, self.verdict.margin)[0]) < 0

    def told(self, trained: TreeProblem) -> Any:
        """What trees say of the row."""
        return self.verdict.told(trained, trained.outputs(trained.prepared(self.batch)[0]))

    def shortest(self, chosen: Int[Tensor, " k"], after: Any) -> tuple[Int[Tensor, " j"], Any]:
        """The shortest beginning of a set whose removal retraining confirms, and what is said after it, by bisection.

        Args:
            chosen: rows whose removal overturns the verdict.
            after: what is said then.
        """
        told = {len(chosen): after}

        def does(rows: Tensor) -> bool:
            trained = self.retrained(rows)
            if trained is None or not self.overturned(trained):
                return False
            told[len(rows)] = self.told(trained)
            return True

        count = shortest_that(chosen, does)
        return chosen[:count], told[count]


def _others(n: int, rows: Int[Tensor, " k"]) -> Int[Tensor, " j"]:
    """The numbers of all n rows but those."""
    return torch.ones(n, dtype=torch.bool).index_fill(0, rows, False).nonzero()[:, 0]


def carried(forest: TreeProblem, batch: Batch, verdict: Verdict) -> Float[Tensor, " n"]:
    """How the margin changes if each training row's share of a forest's prediction is gone and nothing replaces it.

    A prediction of a forest is a mean of training targets, weighted by how often, and among how many, a row is in the
    leaves of the row asked about.

    Args:
        forest: trees of a single round.
        batch: the row that is asked about.
        verdict: whose margin.
    """
    trained, (leaf, y) = forest.trained, forest.prepared(batch)
    slope = measure_slopes(forest.loss, forest.outputs(leaf), y, as_measure(verdict.margin))[0]
    everything = slice(None)
    residuals = trained.slopes_at(forest.theta[: forest.c].repeat(forest.n, 1), everything).r
    found = torch.zeros(forest.n, dtype=torch.float64)
    for tree, place, share in trained.structure.shares():
        own = int(leaf[tree.leaf, 0])
        inside = trained.places_of(tree, everything) == own
        weight = share * slope[tree.output] / forest.fitted.below[place.start + own]
        found -= weight * inside * trained.weights_of(tree, everything) * residuals[:, tree.output]
    return found
