"""The smallest set of training rows whose removal, or relabelling, changes a prediction (Sec. 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch
from jaxtyping import Float, Int

from ..errors import NoOptimumError
from ..estimators.refitting import OWN
from ..influence.influence import Influence
from ..influence.unrolled import Answers
from ..objective import LinearModel, Objective
from ..outputs import Editable
from ..runtime.progress import gauge
from ..solvers import Exact
from ..trees.problem import TreeProblem
from ..types import Batch, Tensor
from .certificates import certificate, provable
from .conclusions import Direction
from .flip_trees import TreeSearch
from .labels import decided, editable, label_names, row_names
from .removals import Question
from .verdicts import SaidClass, shortest_that, verdict_of

CERTIFIED_ROWS = 2000
"""Up to so many training rows flip sets come with a certificate, unless said otherwise."""


@dataclass(frozen=True, eq=False)
class FlipSet:
    """Training rows whose removal or relabelling flips the prediction, as retraining confirmed.

    `rows` are row numbers (None if no set was found) and `names` their ids. Without the last of them the model still
    says `before`; with all of them it says `after`. `refits` counts retrainings. No set of `certified` rows or fewer
    flips it when removed, which is proven (docs/certificates.md); None where there is no proof: for losses other than
    the logistic one, several outputs, relabelling, and where none was asked for (`certify`). With one row more the set
    is a smallest one (`smallest`).
    """

    rows: Int[Tensor, " k"] | None
    names: pd.Index
    edit: str
    before: Any
    after: Any
    refits: int
    certified: int | None = None
    at_fixed_splits: Int[Tensor, " f"] | None = None

    @property
    def smallest(self) -> bool:
        """Whether the set is proven to be as small as any."""
        return self.rows is not None and self.certified is not None and len(self.rows) == self.certified + 1

    def __repr__(self) -> str:
        said, after = (
            f"{one:.6g}" if isinstance(one, float) else repr(one) for one in (self.before, self.after)
        )
        words = [f"{self.refits} refits"]
        if self.at_fixed_splits is not None:
            words.append(_where_splits_are_held(len(self.at_fixed_splits)))
        if self.rows is None:
            words += [self._proof] * bool(self.certified)
            return f"No set found whose being {self.edit} changes the prediction {said} ({'; '.join(words)})"
        words = ["confirmed by retraining", *words, *[self._proof] * bool(self._proof)]
        return (
            f"{len(self.rows)} training rows {self.edit} change the prediction from {said} to {after} "
            f"({'; '.join(words)}): {self.names.tolist()[:20]}"
        )

    @property
    def _proof(self) -> str:
        """What is known of smaller sets."""
        if self.smallest:
            return "no smaller set does"
        if self.certified:
            return f"no set of {self.certified} or fewer does, which is proven"
        return "" if self.at_fixed_splits is None else "no smaller set is excluded"


def _where_splits_are_held(count: int) -> str:
    """What is said of sets whose removal flips it where trees split as before."""
    found = "no set is found" if not count else "1 row does it" if count == 1 else f"{count} rows do it"
    return f"where trees split as before, {found}"


def flip_set(
    influence: Answers,
    test: Batch,
    *,
    relabel: bool = False,
    most: int | None = None,
    certify: bool | None = None,
    past: float | int | None = None,
    refit: Callable[[Tensor], Objective] | None = None,
) -> FlipSet:
    """A small set of training rows whose removal (or relabelling to the rival class) flips one prediction (R26).

    Greedy and adaptive: rows are taken in the order of their predicted effect on the margin, half of those that seem
    needed at a time, then the model is retrained and influence computed anew. Once flipped, bisection over that order
    finds the shortest part of it that still flips, each length judged by retraining. For removals from logistic
    regression of two classes a certificate says how many rows no set can undercut (`FlipSet.certified`).

    Of boosted trees and forests rows are taken at fixed splits, leaf values computed anew, until that flips the
    prediction; then the user's own estimator is trained again, with its seed. Where that does not confirm it, the
    search goes on from the new trees. The bisection is over retrainings.

    Args:
        influence: of a linear classifier, one by moments (discriminant analysis, naive Bayes), or trees; its own
            curvature and solver are not used.
        test: one test example, (inputs, targets); the targets are not looked at.
        relabel: gives the rows the rival's label in place of removing them.
        most: the largest size of the set, default half of the rows.
        certify: whether the certificate is computed, which takes n^2 p operations, far more than the search; default
            up to 2,000 training rows, in seconds.
        past: of trees that predict a quantity, the value that the prediction is to pass, in the unit of the target.
        refit: for trees whose estimator is not known (a Booster): trains on the kept rows (an index tensor) and returns
            `from_estimator` of the new trees. The same seed, and nothing else, should be drawn each time.

    Raises:
        TypeError: for other models, and for relabelling with trees.
        ValueError: for more than one test row, where finishing the training alone changes the prediction, and for trees
            that cannot be trained again.
        NotConvergedError: where a retraining fails.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Logistic
    >>> X = torch.tensor([[1.0], [1.0], [1.0], [-1.0], [-1.0]]).double()
    >>> problem = LinearProblem.fit(X, torch.tensor([1, 1, 0, 0, 0]), loss=Logistic(), l2=0.1)
    >>> len(flip_set(Influence(problem), (X[:1], [1]), relabel=True).rows)
    2
    """
    if influence.problem.stages is not None:
        return _of_trees(influence.problem, test, relabel, (past, most), refit)
    if past is not None or refit is not None:
        raise TypeError(
            "past and refit are for trees: of a linear regression ask robustness(influence, MeanPrediction(rows, bar))"
        )
    problem = editable(influence.problem)
    if problem is None:
        raise TypeError(
            "flip_set is for linear classifiers with an output for each class (or one for two), those by moments, and "
            "trees, which it retrains many times: ask influence.of_removal about sets of your own"
        )
    reduced = influence.problem.reduced
    batch = problem.prepared(test) if reduced is None else reduced.known(test)
    inputs = problem.prepared(batch)[0]
    if inputs.shape[0] != 1:
        raise ValueError(f"flip_set answers for one test row, got {inputs.shape[0]}")
    start: Editable = problem.minimised()
    said, says = (label_names(problem, decided(p.outputs(inputs)))[0] for p in (problem, start))
    if said != says:
        raise ValueError(
            f"the model says {said!r} about this row, and {says!r} once its training is finished, with nothing edited: "
            "no set of rows can be blamed; use from_estimator(..., polish=True), or train longer"
        )
    search = Search(start, batch, relabel)
    chosen = search.greedy(min(most or problem.n // 2, problem.n - 1))
    if chosen is not None:
        chosen = search.shortest(chosen)
    edit = "relabelled" if relabel else "removed"
    final = start if chosen is None else search.retrained(chosen)
    names = row_names(influence.problem, torch.empty(0, dtype=torch.long) if chosen is None else chosen)
    after = label_names(problem, decided(search.outputs(final)))[0]
    certify = problem.n <= CERTIFIED_ROWS if certify is None else certify
    proven = certify and not relabel and reduced is None
    certified = _certified(cast(LinearModel, start), batch, chosen) if proven else None
    return FlipSet(chosen, names, edit, said, after, search.refits, certified)


def _of_trees(
    problem: Objective,
    test: Batch,
    relabel: bool,
    limits: tuple[float | None, int | None],
    refit: Callable[[Tensor], Objective] | None,
) -> FlipSet:
    """The flip set of boosted trees or a forest.

    Args:
        problem: the trees.
        test: one test example.
        relabel: is refused.
        limits: the bar of a quantity and the largest size of the set, or None.
        refit: the user's way to train them again.
    """
    retrain = refit or problem.cache.get(OWN)
    if relabel:
        raise TypeError("flip_set removes rows from trees and does not relabel them: leave relabel out")
    if retrain is None:
        raise ValueError(
            "flip_set trains trees again, and these no longer know what they were trained with: give refit=, a "
            "function of the kept training rows (index tensor) that returns from_estimator of the new trees"
        )
    trees = cast(TreeProblem, problem)
    inputs = trees.prepared(test)[0]
    if inputs.shape[1] != 1:
        raise ValueError(f"flip_set answers for one test row, got {inputs.shape[1]}")
    verdict = verdict_of(trees, trees.outputs(inputs), limits[0])
    search = TreeSearch(trees, test, verdict, retrain)
    said = verdict.told(trees, trees.outputs(inputs))
    search.check_start(said)
    rows, after, fixed = search.found(min(limits[1] or trees.n // 2, trees.n - 1))
    names = row_names(trees, torch.empty(0, dtype=torch.long) if rows is None else rows)
    return FlipSet(rows, names, "removed", said, said if rows is None else after, search.refits, None, fixed)


def _certified(problem: LinearModel, batch: Any, chosen: Tensor | None) -> int | None:
    """The number of rows that no set can undercut; None where there is no proof for such a model.

    Args:
        problem: the model at its optimum.
        batch: the test row.
        chosen: the rows that were found, None for none.
    """
    if provable(problem):
        return None
    asked = Direction(problem.output_gradients(batch)[0, 0], "the output")
    every = torch.arange(problem.n)
    try:
        question = Question.of(problem, asked, every.split(1))
    except ValueError:  # collinear columns: the coefficients are one choice of many
        return None
    return certificate(
        question, row_names(problem, every), problem.n if chosen is None else len(chosen) - 1
    ).certified


class Search:
    """One search: the trained problem, the test row, what is done to rows, and how often it was retrained."""

    def __init__(self, problem: Editable, batch: Any, relabel: bool) -> None:
        self.problem, self.batch, self.relabel = problem, batch, relabel
        self.said = decided(self.outputs(problem))
        self.refits = 0

    def outputs(self, problem: Editable) -> Float[Tensor, "1 c"]:
        """The outputs of the test row under `problem`."""
        return problem.outputs(problem.prepared(self.batch)[0])

    def margin(self, outputs: Float[Tensor, "b c"], targets: Any = None) -> Float[Tensor, " b"]:
        """The output of the class first predicted, less the strongest rival's; negative = flipped.

        It is a measure (its `targets` are not used): what influence is asked about.
        """
        return SaidClass(self.said).margin(outputs)

    def flipped(self, problem: Editable) -> bool:
        """Whether `problem` says something else about the test row than the original model."""
        return bool(self.margin(self.outputs(problem)) < 0)

    def retrained(self, rows: Tensor) -> Editable:
        """The model trained with those rows removed or relabelled, from the original parameters; counted."""
        self.refits += 1
        return self.edited(self.problem, rows).minimised()

    def edited(self, problem: Editable, rows: Tensor) -> Editable:
        """The problem with those rows removed or given the rival's label, not yet trained."""
        if not self.relabel:
            return problem.without(rows)
        return problem.relabelled(rows, self.rival(problem).expand(len(rows)))

    def rival(self, problem: Editable) -> Tensor:
        """The label that rows are given: the other one, or the strongest rival's."""
        outputs = self.outputs(problem)
        if outputs.shape[1] == 1:
            return -self.said
        return outputs.scatter(1, self.said[:, None], float("-inf")).argmax(1)

    def effects(self, here: Editable) -> Float[Tensor, " n"]:
        """The predicted change of the margin if each row of `here` is edited as well, alone and to first order."""
        influence = Influence(cast(Objective, here), solver=Exact())
        found = influence.on_loss(self.batch, measure=self.margin)
        if not self.relabel:
            return found.removal_effect()[0]
        every = torch.arange(here.n)
        # The gradients with the rival's label, under the curvature of the model as it is.
        solved = influence.solve(here.test_gradients(self.batch, self.margin)).value
        other = here.relabelled(every, self.rival(here).expand(here.n))
        return -(found.values[0] + other.all_products(solved)[0]) / here.n

    def greedy(self, most: int) -> Tensor | None:
        """Rows in the order they were taken, which together flip the prediction, or None.

        None where no row is left that lowers the margin, or where `most` rows do not flip it.
        """
        chosen = torch.empty(0, dtype=torch.long)
        here, start = self.problem, float(self.margin(self.outputs(self.problem)))
        with gauge("searching a flip set") as reached:
            while len(chosen) < most:
                free = torch.ones(self.problem.n, dtype=torch.bool)
                free[chosen] = False
                effect = torch.full((self.problem.n,), torch.inf, dtype=torch.float64)
                current = self.effects(here)
                effect[free] = current[free] if self.relabel else current
                order = effect.argsort()
                useful = int((effect < 0).sum())
                if not useful:
                    return None
                ahead = float(self.margin(self.outputs(here)))
                reached(1 - ahead / start)
                enough = int((effect[order][:useful].cumsum(0) > -ahead).sum()) + 1
                take = max(1, min(enough // 2, useful, most - len(chosen)))
                found = self.trainable(chosen, order[:take])
                if found is None:
                    return None
                chosen, here = found
                if self.flipped(here):
                    return chosen
        return None

    def trainable(self, chosen: Tensor, more: Tensor) -> tuple[Tensor, Editable] | None:
        """As many of `more` rows beside those `chosen` as leave something to train, half of them at worst half again.

        None where the first of them leaves nothing, as where it is the last of its class.
        """
        while len(more):
            both = torch.cat([chosen, more])
            try:
                return both, self.retrained(both)
            except NoOptimumError:
                more = more[: len(more) // 2]
        return None

    def shortest(self, chosen: Tensor) -> Tensor:
        """The shortest beginning of `chosen` that flips the prediction, by bisection: log2(k) retrainings."""
        return chosen[: shortest_that(chosen, lambda rows: self.flipped(self.retrained(rows)))]
