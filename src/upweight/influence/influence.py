"""Influence: the paper's formulas, over a problem and an inverse of its curvature."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float

from ..curvature.base import Curvature, EmpiricalCurvature
from ..curvature.ekfac import EKFAC
from ..data.row_sets import as_sets
from ..data.user_terms import batch_index
from ..linalg.outer_products import joined
from ..linear.problem import LinearProblem
from ..measures import Measure, OfParameters, Overall
from ..network.problem import Problem
from ..objective import Objective
from ..runtime.distributed import gather_rows, shard, sum_across, together
from ..runtime.fingerprint import content_hash
from ..runtime.progress import track
from ..solvers import Exact, Inverse, Solution, Solver
from ..types import Tensor
from . import checks
from .defaults import choose_curvature, choose_solver
from .removal import LeaveOneOut, Removal, Total, all_kernels, leave_one_out, of_sets
from .removal_bounds import intervals
from .score_store import ABOUT, Plan, ScoreStore, keep, recall
from .scores import Scores
from .top_k import strongest


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
        reasons: tuple[str, ...] = (why_curvature, why_solver)
        if isinstance(self.problem, Problem) and self.problem.autocast is not None:
            reasons = (
                *reasons,
                f"autocast: {str(self.problem.autocast).removeprefix('torch.')} for EKFAC's factors and training "
                f"examples, whose gradients it changes by up to {self.problem.autocast_error:.1%}",
            )
        return Settings(curvature, solver, reasons)

    @cached_property
    def inverse(self) -> Inverse:
        """The inverse curvature, digested once. Raises `IndefiniteError` where there is none."""
        checks.agreement(self.problem)
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

    def on_loss(
        self,
        test: Any,
        *,
        measure: Measure | None = None,
        top: int | None = None,
        compress: float | None = None,
        store: str | Path | None = None,
    ) -> Scores:
        """I_up,loss(z_i, z_test) of every training example on every test example (Eq. 2), (m, n).

        `measure` asks about any other differentiable function in place of the loss. With `top=k` only the k most
        helpful and the k most harmful training rows of each test row are kept while streaming: no (m, n) matrix.
        `compress=1e-2`, for many test rows and EKFAC: answers are kept as a few outer products per layer instead of p
        numbers each, with at most that relative error, in the norm of the curvature, stated as their residual.
        `store=folder` keeps factors, solves and blocks of scores on disk as they are finished: a job that was cut off
        goes on from there and gives the same bytes, and `ScoreStore(folder)` reads the scores of any test row. With
        `top` as well, the scores need not fit into memory.

        Raises `StaleError` for a folder with scores of other weights, data, settings or test rows.
        """
        if top is not None and top < 1:
            raise ValueError(f"top must be >= 1, got {top}")
        if store is not None:
            if compress is not None:
                raise ValueError("compress and store do not go together: leave one of them out")
            return self._stored(test, measure, top, Path(store))
        network = isinstance(self.problem, Problem)  # whose scores tell the drift as they pass
        if compress is None:
            solution = self.solve(self.problem.test_gradients(test, measure))
            rows: Any = -solution.value.to(solution.precision or solution.value.dtype)
            drift = torch.zeros(len(rows)) if network else checks.drift(self._gradient, solution.value)
            found = _Answer(drift, solution.residual, solution.verdict)
        else:
            rows, found = self._compressed(test, measure, compress)
        sums = torch.zeros(len(found.residual), dtype=torch.float64, device=self.problem.device)
        parts = track(self.problem.products(rows), "scores", None)
        parts = _tallied(parts, sums) if network else parts
        if top is None:
            values, columns = self._whole(len(found.residual), parts), None
        else:
            values, columns = strongest(parts, len(found.residual), top)
        if isinstance(self.problem, Problem):
            found = found._replace(drift=_mean_score(self.problem, rows, sum_across(sums)))
        return self._scores(values, found, test, measure, self.problem.train_index, columns=columns)

    def _stored(self, test: Any, measure: Measure | None, top: int | None, folder: Path) -> Scores:
        """The scores by way of a folder, see `store`."""
        problem = self.problem
        problem.check_current()
        checks.agreement(problem)
        recall(folder, problem)
        v = problem.test_gradients(test, measure)
        store = ScoreStore.begin(folder, content_hash([v], self.fingerprint), Plan.of(len(v), problem))
        keep(
            folder, problem, [self.settings.curvature, getattr(self.settings.solver, "preconditioner", None)]
        )
        solution = store.solved(v, self.solve)
        found = _Answer(checks.drift(self._gradient, solution.value), solution.residual, solution.verdict)
        rows = -solution.value.to(solution.precision or solution.value.dtype)
        scores = self._scores(
            v.new_empty(len(v), 0, dtype=torch.float64), found, test, measure, problem.train_index
        )
        with together():
            scores.save(folder / ABOUT)

        def block(part: slice) -> Tensor:
            products = [values for _, values in problem.products(rows, part)]
            return torch.cat(products, dim=1).to(problem.dtype).cpu()

        if top is not None:
            values, columns = strongest(store.fill(block), len(v), top)
            return dataclasses.replace(scores, values=values, columns=columns)
        for _ in store.fill(block):
            pass
        return dataclasses.replace(scores, values=store.values())

    def _compressed(self, test: Any, measure: Measure | None, tolerance: float) -> tuple[Any, _Answer]:
        """-A^-1 v as outer products, and what is known about it, but for the drift."""
        curvature, problem = self.settings.curvature, self.problem
        if (
            not isinstance(curvature, EKFAC)
            or not isinstance(problem, Problem)
            or isinstance(measure, (Overall, OfParameters))
        ):
            raise TypeError(
                "compress is for EKFAC of a Problem and measures of single examples: leave it out, or give "
                "curvature=EKFAC(problem, damping)"
            )
        problem.check_current()
        checks.determinism(problem)
        found = curvature.compress(joined(list(problem.test_pairs(test, measure))), tolerance)
        return -found.vectors, _Answer(torch.zeros_like(found.error), found.error, found.verdict)

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
        found = _Answer(checks.drift(self._gradient, solution.value), solution.residual, solution.verdict)
        return self._scores(values, found, test, measure, batch_index(before), edit="replaced")

    def on_inputs(
        self, batch: Any, test: Any, *, measure: Measure | None = None, at: str | None = None
    ) -> Float[Tensor, "m b *x"]:
        """I_pert,loss(z, z_test) of training examples z of `batch`, in the shape of their inputs (Eq. 5, as printed).

        The refitted measure changes by (1/n) I_pert . delta when x becomes x + delta. `at="embedding"` asks about the
        outputs of that layer of a network in place of the inputs: of word vectors (t, d), say, whose sizes
        `.norm(dim=-1)` tell which tokens matter.

        Raises TypeError for inputs without derivatives (whole numbers), ValueError for a layer that is not there or
        runs more than once.
        """
        solution = self.solve(self.problem.test_gradients(test, measure))
        return -self.problem.input_gradients(batch, solution.value, at)

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

    @cached_property
    def own(self) -> Scores:
        """`on_self()`, computed once."""
        return self.on_self()

    def on_self(self, *, block: int = 1024, samples: int | None = None, seed: int = 0) -> Scores:
        """I_up,loss(z_i, z_i) of every training example on its own loss (Sec. 5.4), (1, n).

        One pass of triangular solves with `Exact`, or of the small factors of each layer with EKFAC; with other solvers
        a solve per example, `block` at a time. `samples=k` estimates it from k solves for random right-hand sides,
        whatever n: without bias, with a relative standard error of sqrt(2 / k). Raises TypeError where the curvature is
        neither GaussNewton nor that of a convex problem.
        """
        # A zero right-hand side is solved by zero.
        constant = self.solve(self.problem.folded_penalty.view(1, -1)).value
        curvature = self.settings.curvature
        notes = list(self.settings.reasons)
        if samples is not None:
            parts = self._own_by_draws(constant, samples, seed)
            notes.append(
                f"self-influence: {samples} draws, relative standard error {(2 / samples) ** 0.5:.0%}"
            )
        elif isinstance(curvature, EKFAC) and isinstance(self.problem, Problem) and self.problem.by_layers:
            parts = self._own_by_layers(curvature, constant)
        else:
            parts = self._own_by_kernels(constant) or self._own_by_solves(constant, block)
        weights = self.problem.weights
        # The train gradient is w_i times the bare one plus the folded penalty.
        values = self._whole(
            1,
            (
                (part, -(weights[part].to(own.device) * own.double() + product.double())[None])
                for part, own, product in parts
            ),
        )
        provenance = {**self._provenance(), "settings": notes}
        return Scores(
            values, self.problem.n, measure="own loss", ids=self.problem.train_index, provenance=provenance
        )

    def _own_by_kernels(self, constant: Float[Tensor, "1 p"]) -> Iterator[Own] | None:
        """Of a linear model of one output solved on the dual side: r_i^2 x_i A^-1 x_i^T, from all leverages at once."""
        problem, curvature = self.problem, self.settings.curvature
        if not (isinstance(problem, LinearProblem) and isinstance(curvature, EmpiricalCurvature)):
            return None
        if not isinstance(self.settings.solver, Exact) or problem.c > 1:
            return None
        kernels = all_kernels(Total.of(curvature, 0))
        if kernels is None:
            return None
        bare = problem.loss.residual(problem._outputs(problem.design, problem.theta), problem.y)[:, 0]
        product = bare * problem._outputs(problem.design, constant[0])[:, 0]
        own = shard(problem.n)
        return iter([(own, (bare.square() * kernels * problem.n)[own], product[own])])

    def _own_by_solves(self, constant: Float[Tensor, "1 p"], block: int) -> Iterator[Own]:
        inverse = self.inverse
        # A closed form is this process's own work; a solve is everybody's, for the same rows.
        own = shard(self.problem.n) if inverse.quadratic is not None else slice(0, self.problem.n)
        starts = range(own.start, own.stop, block)
        for start in track(starts, "self-influence", len(starts)):
            part = slice(start, min(start + block, own.stop))
            bare = self.problem.test_gradients(self.problem.train_batch(torch.arange(part.start, part.stop)))
            solved = (
                (inverse(bare).value * bare).sum(1) if inverse.quadratic is None else inverse.quadratic(bare)
            )
            yield part, solved, bare @ constant[0]

    def _own_by_layers(self, curvature: EKFAC, constant: Float[Tensor, "1 p"]) -> Iterator[Own]:
        problem = self.problem
        assert isinstance(problem, Problem)
        for part, pairs, product in track(problem.train_pairs(constant), "self-influence", None):
            yield part, curvature.quadratic(pairs), product[0]

    def _own_by_draws(self, constant: Float[Tensor, "1 p"], samples: int, seed: int) -> Iterator[Own]:
        """g^T A^-1 g is the mean square of g . s over s = A^-1 x, the covariance of x being A."""
        curvature, problem = self.settings.curvature, self.problem
        if not isinstance(curvature, EmpiricalCurvature):
            raise TypeError(f"samples is for GaussNewton, not {type(curvature).__name__}: leave it out")
        if samples < 2:
            raise ValueError(f"samples must be >= 2, got {samples}")
        rows = torch.cat([self.solve(curvature.draws(samples, seed)).value, constant])
        for part, values in track(problem.products(rows), "self-influence", None):
            # Back to gradients without weight and penalty.
            weight = problem.weights[part].to(values)
            bare = (values - (rows @ problem.folded_penalty.to(rows))[:, None]) / torch.where(
                weight > 0, weight, 1.0
            )
            yield part, bare[:-1].square().mean(0), bare[-1]

    # --------------------------------------------------------------------------------------------------------------

    def _whole(self, m: int, parts: Iterable[tuple[slice, Float[Tensor, "m b"]]]) -> Float[Tensor, "m n"]:
        """The columns of all processes, from each one's parts."""
        found = torch.empty(m, self.problem.n, dtype=torch.float64)
        first, last = self.problem.n, 0
        for part, block in parts:
            found[:, part] = block.double().cpu()
            first, last = min(first, part.start), max(last, part.stop)
        # Where nothing was divided, every process has them all.
        return gather_rows(found[:, first:last].T).T if last - first < self.problem.n else found

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
        answer: _Answer,
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
            drift=answer.drift.double(),
            residual=answer.residual.double(),
            verdict=answer.verdict,
            provenance=self._provenance(),
            **fields,
        )


class _Answer(NamedTuple):
    """What is known about solved right-hand sides."""

    drift: Tensor
    residual: Tensor
    verdict: str


Own: TypeAlias = tuple[slice, Tensor, Tensor]
"""A block of training examples: g^T A^-1 g, and the product of g with A^-1 times the folded penalty."""


def _mean_score(problem: Problem, rows: Any, sums: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """The drift: -s . grad R for rows -s whose scores have these sums. It spares a pass for the gradient."""
    mean = sums / problem.n
    return mean if problem.keep == "mean" else mean + problem.dot(rows, problem.l2 * problem.theta).double()


def _tallied(
    parts: Iterable[tuple[slice, Float[Tensor, "m b"]]], sums: Float[Tensor, " m"]
) -> Iterator[tuple[slice, Float[Tensor, "m b"]]]:
    """The same parts, whose rows are added to `sums` as they pass."""
    for part, block in parts:
        sums += block.sum(1, dtype=torch.float64)
        yield part, block


def _name(measure: Measure | None) -> str:
    """What a measure is called in headings."""
    name = "loss" if measure is None else getattr(measure, "__name__", "measure")
    return "measure" if name == "<lambda>" else name
