"""What happens when sets of training examples are removed from a linear model, without retraining.

With A the Hessian of the *total* objective and S the removed set, a Newton step moves the parameters by
(A - A_S)^-1 g_S, where A_S and g_S are the set's own curvature and gradient (Woodbury; requirement B2). First order
(Eq. 2) replaces (A - A_S)^-1 by A^-1, which shrinks effects by about one minus the set's leverage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from ..curvature.base import ExampleMean
from ..measures import Measure
from ..objective import LinearModel, Objective
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .forecasts import unsettled
from .kinks import Kinks
from .reduced import check_left, reduced_changes
from .removal_bounds import intervals
from .scores import Scores
from .settling import MOST, UNSETTLED, Changes, Settled, least_length, rows_held, settled
from .stationarity import far_away, finishing
from .woodbury import newton_steps

LEFT = (
    "Beware: {} do not settle: more than {:.0%} of the move is left (of the worst {:.0%}), so that newton says little "
    "of what training again without them gives. Verify by retraining."
)


@dataclass(frozen=True, eq=False)
class Removal:
    """Predicted changes (m, g) of m test measures if each of g sets of training rows is removed.

    Positive = the measure rises, so for a loss the set is helpful. In the measure's unit, 1/n included.
    `first_order` is the sum of the members' -I/n (Eq. 2). `rescaled` sums what each member's removal *alone* does, its
    leverage accounted for (B1), the measure linearised. `newton` is the set's own Newton step, the measure evaluated
    at the shifted parameters (B2): its distance from `rescaled` is what the members do only together. The last two are
    None for models that are not linear, and NaN where the set alone fits some direction of the parameters, so that
    nothing determines it without the set (`undetermined`). `low` and `high` enclose the exact change by retraining
    (B3), if asked for.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.ones(4, 1), torch.tensor([0.0, 0.0, 0.0, 4.0])
    >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=1.0))
    >>> found = influence.of_removal({"two zeros": [0, 1]}, (X[:1], y[:1]))
    >>> found.first_order, found.newton  # retrained without them the output is 1, the loss 1/2 instead of 1/8
    (tensor([[0.1250]], dtype=torch.float64), tensor([[0.3750]], dtype=torch.float64))
    """

    groups: pd.Index
    sizes: Int[Tensor, " g"]
    first_order: Float[Tensor, "m g"]
    rescaled: Float[Tensor, "m g"] | None = None
    newton: Float[Tensor, "m g"] | None = None
    steps: Int[Tensor, "m g"] | None = None
    left: Float[Tensor, "m g"] | None = None
    recomputed: Float[Tensor, "m g"] | None = None
    """By stages computed anew without the set, for models that were trained in stages (the leaves of trees)."""
    low: Float[Tensor, "m g"] | None = None
    high: Float[Tensor, "m g"] | None = None
    measure: str = "loss"
    drift: Float[Tensor, " m"] | None = None
    """Predicted change of each measure if training were finished: effects below it are not to be trusted."""
    away: str = ""
    """How far the model is from the optimum of its training data (`Facts.away`), where it is far."""
    behind: str = ""
    """What the effects were read from and how far they may be off, a sentence; "" where they were computed."""

    @classmethod
    def of_first_order(cls, scores: Scores, names: pd.Index, sets: list[Tensor]) -> Removal:
        """The sums of single effects.

        Args:
            scores: of all training rows.
            names: what the sets are called (g,).
            sets: the training rows of each.
        """
        effect = scores.removal_effect()
        first = torch.stack([effect[:, rows].sum(1) for rows in sets], dim=1)
        sizes = torch.tensor([len(rows) for rows in sets])
        away = scores.provenance.get("away", "")
        return cls(names, sizes, first, measure=scores.measure, drift=scores.drift, away=away)

    @classmethod
    def counted(
        cls,
        problem: LinearModel,
        curvature: ExampleMean,
        groups: tuple[pd.Index, list[Tensor]],
        asked: tuple[Any, Measure],
        most: int | None = None,
    ) -> Removal:
        """The Newton predictions of a measure that has no derivative; those of first order are NaN.

        Args:
            problem: the model.
            curvature: its Hessian.
            groups: the names of the sets (g,) and the training rows of each.
            asked: the reference set, and one number of it.
            most: Newton steps of each set, at most; None: as `newton_changes` takes it.
        """
        names, sets = groups
        problem.check_current()
        changes = newton_changes(problem, curvature, sets, asked, most)
        unknown = torch.full_like(changes.changes, torch.nan)
        sizes = torch.tensor([len(rows) for rows in sets])
        found = cls(names, sizes, unknown, unknown, measure=asked[1].name, away=problem.facts.away)
        return found.shown(changes)

    def shown(self, changes: Changes) -> Removal:
        """A copy with these Newton predictions in place of its own."""
        return replace(self, newton=changes.changes, steps=changes.steps, left=changes.left)

    @property
    def known(self) -> Bool[Tensor, " m"]:
        """The test rows whose changes are known for all groups: none is in a leaf that a group empties."""
        return ~self.best.isnan().any(1)

    def of_rows(self, rows: Bool[Tensor, " m"]) -> Removal:
        """The changes of some of the test rows, by a mask."""
        fields = ("first_order", "rescaled", "newton", "recomputed", "low", "high", "drift", "steps", "left")
        each = {name: values[rows] for name in fields if (values := getattr(self, name)) is not None}
        return replace(self, **each)

    @property
    def averaged(self) -> Removal:
        """The changes (1, g) of the mean of the measure over the test rows, with the drift of that mean.

        Of a measure that is one number anyway they stay as they are.
        """
        if len(self.first_order) == 1:
            return self
        fields = ("first_order", "rescaled", "newton", "recomputed", "low", "high", "drift")
        each = {name: values for name in fields if (values := getattr(self, name)) is not None}
        means = {name: values.mean(0, keepdim=True) for name, values in each.items()}
        if (
            self.steps is not None and self.left is not None
        ):  # of a set that was shown for one row, one step counts
            means.update(steps=self.steps.amin(0, keepdim=True), left=self.left.amax(0, keepdim=True))
        return replace(self, measure=f"mean {self.measure}", **means)

    @property
    def undetermined(self) -> pd.Index:
        """The groups that alone fit some direction of the parameters, as all rows of a category or of a leaf do."""
        unknown = self.best.isnan()
        return self.groups[(unknown.all(0) if self.recomputed is None else unknown.any(0)).numpy()]

    @property
    def best(self) -> Float[Tensor, "m g"]:
        """The changes by the best of the predictions that are there."""
        return getattr(self, self.named.replace(" ", "_"))

    @property
    def named(self) -> str:
        """What the best of the predictions that are there is called: "recomputed", "newton" or "first order"."""
        if self.recomputed is not None:
            return "recomputed"
        return "first order" if self.newton is None else "newton"

    @property
    def restless(self) -> pd.Index:
        """The groups whose Newton steps do not settle: training again without them gives something else."""
        lines = (
            torch.zeros(1, len(self.groups), dtype=torch.bool) if self.left is None else unsettled(self.left)
        )
        return self.groups[lines.any(0).numpy()]

    @property
    def remarks(self) -> list[str]:
        """What to beware of, a sentence each: unfinished training, unsettled sets, nothing determined, an index."""
        return [*self._of_training, *self._of_steps, *self._of_undetermined, *filter(None, [self.behind])]

    @property
    def _of_steps(self) -> list[str]:
        if not len(self.restless) or self.left is None:
            return []
        most = float(self.left.nan_to_num(0).max())
        return [LEFT.format(_few(self.restless), UNSETTLED, most)]

    @property
    def _of_training(self) -> list[str]:
        if self.away:
            return [far_away(self.away)]
        return [] if self.drift is None else [finishing(self.measure, self.drift, self.best)]

    @property
    def _of_undetermined(self) -> list[str]:
        if not len(self.undetermined):
            return []
        why = (
            "Some direction of the parameters is fitted by such a set alone; train with a penalty (l2 > 0) or remove "
            "fewer rows"
            if self.recomputed is None
            else "A leaf that test rows are in has no other rows, so that a retraining splits otherwise; fit with more "
            "rows in a leaf (min_samples_leaf) or remove fewer"
        )
        return [f"undetermined (NaN): {_few(self.undetermined)}. {why}"]

    def to_frame(self) -> pd.DataFrame:
        """A table with a line per test row and group: size, the predictions, the interval where there is one.

        "only together" is newton less rescaled: what the rows do together beyond the sum of what each does alone. It is
        in the measure's unit, so that means over test rows stay right, and where it is large beside newton, no sum of
        single effects (first order, rescaled) is to be believed.
        """
        m, g = self.first_order.shape
        table = {
            "test row": np.repeat(np.arange(m), g),
            "group": np.tile(self.groups.to_numpy(), m),
            "size": np.tile(self.sizes.numpy(), m),
        }
        for name in ("newton", "recomputed", "low", "high", "rescaled", "first_order"):  # the best first
            values = getattr(self, name)
            if values is not None:
                table[name.replace("_", " ")] = values.flatten().numpy()
        if self.steps is not None:
            table["steps"] = self.steps.flatten().numpy()
        frame = pd.DataFrame(table)
        if self.rescaled is not None:
            frame["only together"] = frame["newton"] - frame["rescaled"]
        return frame

    def __repr__(self) -> str:
        m, g = self.first_order.shape
        head = f"Removal of {g} groups: predicted change of the {self.measure} of {m} "
        table = self.to_frame().head(10).to_string(index=False)
        return plain("\n".join([f"{head}test rows (positive = it would rise)", table, *self.remarks]))

    def _repr_html_(self) -> str:
        head = f"Predicted change of the {self.measure}; positive = it would rise."
        return as_html(head, self.to_frame(), *self.remarks)


def _few(names: pd.Index) -> str:
    return ", ".join(map(str, names[:5])) + ", ..." * (len(names) > 5)


def with_newton(
    found: Removal,
    objective: Objective,
    curvature: ExampleMean | None,
    sets: list[Tensor],
    asked: tuple[Any, Measure | None],
    guarantee: int,
    most: int | None = None,
) -> Removal:
    """A first-order prediction with what linear models have beside it: leverage, the Newton step, bounds.

    Args:
        found: of first order.
        objective: what was asked; of linear models, and those with `reduced`, there is more than first order.
        curvature: its Hessian, None where there is none.
        sets: the training rows of each of g sets.
        asked: m test examples and the measure, None for the loss.
        guarantee: Newton steps behind the bounds; 0: no bounds.
        most: Newton steps of each set, at most; None: as `newton_changes` takes it.

    Raises:
        ValueError: for guarantees that cannot be given.
    """
    (test, measure), problem = asked, objective.linear
    if guarantee and measure is not None:
        raise ValueError("guaranteed intervals are about the loss: leave `measure` out")
    if problem is None or curvature is None:
        if guarantee:
            raise ValueError("guaranteed intervals are for logistic and softmax regression")
        if objective.reduced is None:
            return found
        check_left(objective.reduced, sets)
        return replace(
            found, newton=reduced_changes(objective, objective.reduced, sets, (test, measure), most)
        )
    rescaled, changes = of_sets(problem, curvature, sets, asked, most)
    low, high = intervals(problem, curvature, sets, test, guarantee) if guarantee else (None, None)
    return replace(found, rescaled=rescaled, low=low, high=high).shown(changes)


def with_refits(
    found: Removal, problem: Objective, sets: list[Tensor], asked: tuple[Any, Measure | None]
) -> Removal:
    """Predictions, but by refits where an l1 penalty would leave other columns (`Kinks`).

    Args:
        found: the predictions.
        problem: the model.
        sets: the training rows of each of g sets.
        asked: m test examples as the user has them, and the measure, None for the loss.
    """
    if found.newton is None or found.steps is None or found.left is None:
        return found
    kinks = Kinks(problem, asked, Changes(found.newton, found.steps, found.left), sets)
    return found.shown(kinks.changes(torch.arange(len(sets))) if kinks.can_be_refitted else kinks.marked)


def of_sets(
    problem: LinearModel,
    curvature: ExampleMean,
    sets: list[Tensor],
    asked: tuple[Any, Measure | None],
    most: int | None = None,
) -> tuple[Float[Tensor, "m g"], Changes]:
    """The rescaled (B1) and the Newton (B2) prediction of each measure's change as sets are removed.

    Args:
        problem: the model.
        curvature: its Hessian.
        sets: the training rows of each of g sets.
        asked: m test examples and the measure, None for the loss.
        most: Newton steps of each set, at most; None: as `newton_changes` takes it.

    Returns:
        Both changes, (m, g) each, in the measure's unit; positive = it would rise. NaN where some direction of the
        parameters is fitted by a set alone (Newton), or by a member alone (rescaled).
    """
    V = problem.test_gradients(*asked)
    changes = newton_changes(problem, curvature, sets, asked, most)
    members = torch.cat(sets).unique()
    singles = list(members.split(1))
    alone = torch.empty(len(V), problem.n, dtype=torch.float64)
    for batch, _, step in newton_steps(problem, curvature, singles, "removing members alone"):
        alone[:, members[batch]] = V @ step.T
    rescaled = torch.stack([alone[:, rows].sum(1) for rows in sets], dim=1)
    return rescaled, changes


def newton_changes(
    problem: LinearModel,
    curvature: ExampleMean,
    sets: list[Tensor],
    asked: tuple[Any, Measure | None],
    most: int | None = None,
) -> Changes:
    """The Newton prediction (B2) of each measure's change as sets are removed: evaluated, not differentiated.

    Args:
        problem: the model.
        curvature: its Hessian.
        sets: the training rows of each of g sets.
        asked: m test examples and the measure, None for the loss.
        most: Newton steps of each set, at most; None: `settling.MOST`. What a set has is not up to the others.
    """
    test, measure = asked
    before = problem.evaluate_each(test, problem.theta[None], measure)[0]

    def walked(index: list[int], most: int) -> Changes:
        known, here = torch.empty(3, len(before), len(index), dtype=torch.float64), [sets[j] for j in index]
        for columns, found in walks(problem, curvature, here, most):
            known[0][:, columns] = (problem.evaluate_each(test, found.theta, measure) - before).T
            known[1][:, columns], known[2][:, columns] = found.steps.double(), found.left
        return Changes(known[0], known[1].long(), known[2])

    return walked(list(range(len(sets))), MOST if most is None else most)


def walks(
    problem: LinearModel, curvature: ExampleMean, sets: list[Tensor], most: int
) -> Iterator[tuple[list[int], Settled]]:
    """The places of some sets in `sets`, and the parameters without each after as many Newton steps as each needs.

    Args:
        problem: the model.
        curvature: its Hessian.
        sets: the training rows of each set.
        most: steps in all.
    """
    for batch, inverse, step in newton_steps(problem, curvature, sets):
        smallest = 0.0 if most == 1 else least_length(inverse.total)
        for part in torch.arange(len(batch)).split(len(batch) if most == 1 else rows_held(problem)):
            places, start = [batch[j] for j in part.tolist()], problem.theta + step[part]
            if most == 1:
                one = torch.ones(len(part), dtype=torch.long)
                yield places, Settled(start, one, torch.full(one.shape, torch.nan).double())
                continue
            own = [sets[j] for j in places]
            yield places, settled(problem, inverse.of(part), own, start, most=most, smallest=smallest)
