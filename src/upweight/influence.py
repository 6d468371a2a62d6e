"""Influence: the paper's formulas, over a problem and an inverse of its curvature."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from . import checks
from .choices import choose_curvature, choose_solver
from .curvature import Curvature, EmpiricalCurvature
from .enclosure import intervals
from .groups import as_sets
from .linear import LinearProblem
from .measures import Measure, OfParameters, Overall
from .objective import Objective, content_hash
from .progress import track
from .removal import LeaveOneOut, Removal, leave_one_out, of_sets
from .scores import Scores
from .solvers import Inverse, Solution, Solver
from .terms import batch_index
from .types import Tensor


@dataclass(frozen=True)
class Settings:
    """What was chosen, and why."""

    curvature: Curvature
    solver: Solver
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.reasons)


class Influence:
    """Answers about a trained model from its training data, without retraining.

    `problem` says what was minimised. `curvature` and `solver` are chosen where they are not given; `settings` says
    what and why. Nothing is computed before the first question.

    Every answer is for the *problem's* retraining convention (`keep`), with the sign of the paper: `on_loss` is the
    derivative of the test loss as a training example is up-weighted (Eq. 2); the effect of its removal is -1/n of it.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 4.0])
    >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.1))
    >>> influence.on_loss((X[:1], y[:1])).values.shape
    torch.Size([1, 3])
    """

    def __init__(
        self, problem: Objective, *, curvature: Curvature | None = None, solver: Solver | None = None
    ) -> None:
        if not isinstance(problem, Objective):
            raise TypeError(f"Influence needs a Problem or LinearProblem, got {type(problem).__name__}")
        if curvature is not None and curvature.p != problem.p:
            raise ValueError(f"the curvature has p = {curvature.p}, the problem p = {problem.p}")
        self.problem = problem
        self._curvature, self._solver = curvature, solver

    @cached_property
    def settings(self) -> Settings:
        """The curvature and solver in use, each with its reason."""
        curvature, why_curvature = self._curvature, "curvature: as given"
        if curvature is None:
            curvature, why_curvature = choose_curvature(self.problem)
        solver, why_solver = self._solver, "solver: as given"
        if solver is None:
            solver, why_solver = choose_solver(self.problem, curvature)
        return Settings(curvature, solver, (why_curvature, why_solver))

    @cached_property
    def inverse(self) -> Inverse:
        """The inverse curvature, digested once. Raises `IndefiniteError` where there is none."""
        checks.determinism(self.problem)
        return self.settings.solver.prepare(self.settings.curvature)

    @cached_property
    def _gradient(self) -> Tensor:
        """What is left of grad R at theta."""
        return self.problem.gradient()

    @property
    def fingerprint(self) -> str:
        """A content hash of weights, data and settings, as score files carry it."""
        solver = self.settings.solver
        words = {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}  # type: ignore[arg-type]
        plain = {name: v.fingerprint() if isinstance(v, Curvature) else v for name, v in words.items()}
        settings = f"{self.settings.curvature.fingerprint()} {type(solver).__name__} {plain!r}"
        return content_hash([], f"{self.problem.fingerprint()} {settings}")

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """A^-1 v for every row v, checked."""
        self.problem.check_current()
        return self.inverse(rows)

    # -- the paper's formulas --------------------------------------------------------------------------------------

    def on_params(self, batch: Any) -> Float[Tensor, "b p"]:
        """I_up,params(z) = -H^-1 grad L(z) for every training example z of `batch` (Eq. 1); -1/n of it is removal."""
        return -self.solve(self.problem.gradients_as_train(batch)).value

    def on_loss(self, test: Any, *, measure: Measure | None = None, top: int | None = None) -> Scores:
        """I_up,loss(z_i, z_test) of every training example on every test example (Eq. 2), (m, n).

        `measure` asks about any other differentiable function in place of the loss. With `top=k` only the k most
        helpful and the k most harmful training rows of each test row are kept while streaming: no (m, n) matrix.
        """
        if top is not None and top < 1:
            raise ValueError(f"top must be >= 1, got {top}")
        solution = self.solve(self.problem.test_gradients(test, measure))
        rows = solution.value.to(solution.precision or solution.value.dtype)
        parts = ((part, -products) for part, products in track(self.problem.products(rows), "scores", None))
        if top is None:
            values = torch.empty(len(solution.value), self.problem.n, dtype=torch.float64)
            for part, block in parts:
                values[:, part] = block.double()
            return self._scores(values, solution, test, measure, self.problem.train_index)
        values, columns = _keep_extremes(parts, top)
        return self._scores(values, solution, test, measure, self.problem.train_index, columns=columns)

    def of_change(
        self, before: Any, after: Any, test: Any, *, measure: Measure | None = None, corrected: bool = False
    ) -> Scores:
        """I(z_delta) - I(z) of replacing training examples `before` (b) by `after` (b), on each test example (Eq. 3).

        Any replacement: edited input, other label. The predicted change of the measure is `effect()` = +1/n of it.
        `corrected=True` solves for the changes as well and adds t . (v - A s), the dual-weighted residual: the error of
        a loose solve then is the *product* of the two residuals (B4).
        """
        old, new = self.problem.gradients_as_train(before), self.problem.gradients_as_train(after)
        if old.shape != new.shape:
            raise ValueError(f"`before` has {len(old)} examples, `after` has {len(new)}")
        v = self.problem.test_gradients(test, measure)
        solution = self.solve(v)
        values = -(solution.value @ (new - old).T).double()
        if corrected:
            left = v - self.settings.curvature.operator()(solution.value)
            values -= (left @ self.solve(new - old).value.T).double()
        return self._scores(values, solution, test, measure, batch_index(before), edit="replaced")

    def on_inputs(self, batch: Any, test: Any, *, measure: Measure | None = None) -> Float[Tensor, "m b *x"]:
        """I_pert,loss(z, z_test) of training examples z of `batch`, in the shape of their inputs (Eq. 5, as printed).

        The refitted measure changes by (1/n) I_pert . delta when x becomes x + delta.
        """
        solution = self.solve(self.problem.test_gradients(test, measure))
        return -self.problem.input_gradients(batch, solution.value)

    def of_removal(
        self, groups: Any, test: Any, *, measure: Measure | None = None, guarantee: int = 0
    ) -> Removal:
        """The change of each test measure if whole sets of training rows are removed (Sec. 7 leaves this open).

        `groups` is a list of row numbers (one set), a mask (n,), a list of lists, a mapping of names to either, or a
        column (n,) of labels, each value one set. Positive = the measure would rise. First order for every model; for
        linear ones also rescaled by leverage and the Newton step. `guarantee=k` adds bounds of the loss's exact change
        after k Newton steps, for logistic and softmax regression.
        Raises ValueError for sets that are empty, unknown or everything.
        """
        names, sets = as_sets(groups, self.problem.n)
        if isinstance(self.problem, LinearProblem) and not isinstance(measure, OfParameters):
            test = self.problem._test(test)
        first = self._summed(sets, test, measure)
        sizes = torch.tensor([len(rows) for rows in sets])
        found = Removal(names, sizes, first, measure=_name(measure))
        curvature = self.settings.curvature
        if guarantee and measure is not None:
            raise ValueError("guaranteed intervals are about the loss: leave `measure` out")
        if not (isinstance(self.problem, LinearProblem) and isinstance(curvature, EmpiricalCurvature)):
            if guarantee:
                raise ValueError("guaranteed intervals are for logistic and softmax regression")
            return found
        rescaled, newton = of_sets(curvature, sets, test, measure)
        found = dataclasses.replace(found, rescaled=rescaled, newton=newton)
        if not guarantee:
            return found
        low, high = intervals(curvature, sets, test, guarantee)
        return dataclasses.replace(found, low=low, high=high)

    def _summed(self, sets: list[Tensor], test: Any, measure: Measure | None) -> Float[Tensor, "m g"]:
        """-1/n times the sum of the members' influence."""
        effect = self.on_loss(test, measure=measure).removal_effect()
        return torch.stack([effect[:, rows].sum(1) for rows in sets], dim=1)

    def leave_one_out(self) -> LeaveOneOut:
        """Every training row of a linear model predicted without itself, from one factorisation (B5)."""
        curvature = self.settings.curvature
        if not (isinstance(self.problem, LinearProblem) and isinstance(curvature, EmpiricalCurvature)):
            raise TypeError("approximate leave-one-out predictions need a linear problem and its Hessian")
        return leave_one_out(curvature)

    def on_self(self, *, block: int = 1024) -> Scores:
        """I_up,loss(z_i, z_i) of every training example on its own loss (Sec. 5.4), (1, n).

        One pass of triangular solves with `Exact`; with other solvers a solve per example.
        """
        penalty = self.problem.folded_penalty.view(1, -1)
        # A zero right-hand side is solved by zero.
        constant = self.solve(penalty).value[0]
        inverse = self.inverse
        values = torch.empty(1, self.problem.n, dtype=torch.float64)
        starts = range(0, self.problem.n, block)
        for start in track(starts, "self-influence", len(starts)):
            index = torch.arange(start, min(start + block, self.problem.n))
            bare = self.problem.test_gradients(self.problem.train_batch(index))
            weight = self.problem.weights[index.to(bare.device)].to(bare.dtype)
            # The train gradient is w_i times the bare one plus the folded penalty.
            if inverse.quadratic is None:
                trained = weight[:, None] * bare + penalty
                values[0, index] = -(inverse(bare).value * trained).sum(1).double().cpu()
            else:
                values[0, index] = -(weight * inverse.quadratic(bare) + bare @ constant).double().cpu()
        ids = self.problem.train_index
        return Scores(values, self.problem.n, measure="own loss", ids=ids, provenance=self._provenance())

    # --------------------------------------------------------------------------------------------------------------

    def _provenance(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "settings": list(self.settings.reasons),
            "keep": self.problem.keep,
            "notes": list(self.problem.terms.notes),
        }

    def _scores(
        self,
        values: Tensor,
        solution: Solution,
        test: Any,
        measure: Measure | None,
        ids: pd.Index | None,
        **fields: Any,
    ) -> Scores:
        test_ids = batch_index(test)
        return Scores(
            values,
            self.problem.n,
            measure=_name(measure),
            ids=ids,
            # A measure of a whole batch, or of the parameters alone, has no test row to be named after.
            test_ids=None if isinstance(measure, (Overall, OfParameters)) else test_ids,
            drift=checks.drift(self._gradient, solution.value).double(),
            residual=solution.residual.double(),
            verdict=solution.verdict,
            provenance=self._provenance(),
            **fields,
        )


def _name(measure: Measure | None) -> str:
    """What a measure is called in headings."""
    name = "loss" if measure is None else getattr(measure, "__name__", "measure")
    return "measure" if name == "<lambda>" else name


def _keep_extremes(parts: Any, top: int) -> tuple[Tensor, Tensor]:
    """The `top` largest and `top` smallest values of each row, streamed; sorted from helpful to harmful."""
    values = columns = None
    for part, block in parts:
        ids = torch.arange(part.start, part.stop).expand(len(block), -1)
        values = block.double() if values is None else torch.cat([values, block.double()], dim=1)
        columns = ids if columns is None else torch.cat([columns, ids], dim=1)
        values, order = values.sort(dim=1)
        columns = columns.gather(1, order)
        if values.shape[1] > 2 * top:
            values = torch.cat([values[:, :top], values[:, -top:]], dim=1)
            columns = torch.cat([columns[:, :top], columns[:, -top:]], dim=1)
    assert values is not None
    assert columns is not None
    return values, columns
