"""Influence: the paper's formulas, over a problem and an inverse of its curvature."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float

from ..curvature.base import Curvature
from ..data.row_sets import as_sets
from ..measures import Measure, MeasureLike, as_measure, weights_held
from ..objective import Objective
from ..runtime.alone import each_alone
from ..runtime.fingerprint import content_hash
from ..solvers import Inverse, Solution, Solver
from ..types import ArrayLike, Tensor
from . import checks, self_influence
from .defaults import Settings, chosen
from .given_rows import given_rows
from .leave_one_out import LeaveOneOut, RowSteps
from .passes import Answer, as_scores, cheaper, compressed, provenance, streamed, underivable
from .recomputed import counted_anew, derivable, with_recomputed, with_shown
from .reduced import predicted_alone, with_reduced
from .removal import Removal, with_newton, with_refits
from .scores import Scores
from .shown import SHOWN, changes_shown
from .stored_pass import StoredPass


@each_alone
class Influence:
    """Answers about a trained model from its training data, without retraining.

    Factors and checks are kept for the next question. Every answer is for the *problem's* retraining convention
    (`keep`), with the sign of the paper: `on_loss` is the derivative of the test loss as a training example is
    up-weighted (Eq. 2); the effect of its removal is -1/n of it.

    Args:
        problem: what was minimised: a `Problem`, a `LinearProblem`, or what `from_estimator` gives.
        curvature: A, chosen where it is not given; `settings` says what and why.
        solver: how A s = v is solved, chosen likewise.

    Raises:
        TypeError: for something else than a problem.
        ValueError: for a curvature of another size.

    The last of four examples differs from the others, which helps its own kind and harms theirs:

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.ones(4, 1), torch.tensor([0.0, 0.0, 0.0, 4.0])
    >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=1.0))
    >>> influence.on_loss((X[2:], y[2:])).values
    tensor([[-0.2500, -0.2500, -0.2500,  0.7500],
            [ 1.7500,  1.7500,  1.7500, -5.2500]], dtype=torch.float64)
    """

    def __init__(
        self, problem: Objective, *, curvature: Curvature | None = None, solver: Solver | None = None
    ) -> None:
        checks.arguments(problem, curvature)
        self.problem, self._curvature, self._solver = problem, curvature, solver

    @property
    def formulas(self) -> Influence:
        """Itself: answers by derivatives, where others (`by_refitting`) have None."""
        return self

    @property
    def settings(self) -> Settings:
        """The curvature and solver in use, with reasons; choosing one for a network may look at its spectrum."""
        return self._chosen.saying(self.problem.remarks)

    @cached_property
    def _chosen(self) -> Settings:
        return chosen(self.problem, self._curvature, self._solver)

    @cached_property
    def inverse(self) -> Inverse:
        """The inverse of the curvature, digested once: what `solve` applies.

        Raises `IndefiniteError` where there is none, `NotDeterministicError` where two passes over the data differ,
        `RankError` where processes of a job hold different problems.
        """
        checks.agreement(self.problem)
        checks.determinism(self.problem)
        return self.settings.solver.prepare(self.settings.curvature)

    @cached_property
    def fingerprint(self) -> str:
        """A content hash of all that answers depend on, as score files carry it: a pass over the training data."""
        return content_hash([], f"{self.problem.fingerprint()} {self.settings.identity}")

    def solve(self, rows: Float[Tensor, "k p"]) -> Solution:
        """A^-1 v for every row v (k, p), with residual and status of each: what all questions begin with.

        Raises StaleError where model or data changed since the problem was made, InfluenceError where a solve fails.
        """
        checks.question(self.problem, rows, self.settings.curvature.damping)
        return self.inverse(rows)

    # -- the paper's formulas --------------------------------------------------------------------------------------

    def on_params(self, rows: Any, *, weights: ArrayLike | None = None) -> Float[Tensor, "b p"]:
        """I_up,params(z) = -H^-1 grad L(z): how the parameters move as a training example is up-weighted (Eq. 1).

        `rows` are b training examples, by number or as a batch (with its sample `weights`, where those of training
        differ); -1/n of a row is the predicted move of the parameters if that example is removed.

        >>> import torch
        >>> from upweight import Influence, LinearProblem, Squared
        >>> X, y = torch.ones(4, 1), torch.tensor([0.0, 0.0, 0.0, 4.0])
        >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=1.0))
        >>> influence.on_params([2, 3])
        tensor([[-0.5000],
                [ 1.5000]], dtype=torch.float64)
        """
        given = given_rows(self.problem, rows, weights)
        g = given.gradients(self.problem)
        checks.question(self.problem, g, self.settings.curvature.damping)
        return -self._moves(g).value

    @cached_property
    def _moves(self) -> Inverse:
        """What moves of the parameters are solved with: of a symmetric curvature what all else is solved with too."""
        transposed = self.settings.curvature.transposed
        return self.inverse if transposed.adjoint else self.settings.solver.prepare(transposed)

    def on_loss(
        self,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        top: int | None = None,
        compress: float | None = None,
        store: str | Path | None = None,
    ) -> Scores:
        """I_up,loss(z_i, z_test) = -grad L(z_test) . H^-1 grad L(z_i) of every training on every test example (Eq. 2).

        Args:
            test: m test examples, as the problem takes them.
            measure: asks about any other differentiable function in place of the loss.
            top: only the k most helpful and k most harmful training rows of each test row are kept while streaming.
            compress: for EKFAC: answers are a few outer products per layer, off by at most that share in the norm of
                the curvature (`residual`). None: 1e-3 where it saves most of a long pass; with solver=Exact() never.
            store: a folder that keeps all that is finished: a job that was cut off goes on from there to the same
                bytes, and `ScoreStore(folder)` reads any test row. With `top` they need not fit into memory.

        Returns:
            Scores (m, n), the derivative of each measure as an example is up-weighted; -1/n of it if it is removed.

        Raises:
            StaleError: for a folder with scores of others, and where the model or the data changed.
            InfluenceError: where a solve fails.
        """
        checks.options(top, compress, store)
        asked = as_measure(measure)
        if store is not None:
            return self._stored(test, asked, top, Path(store))
        if compress is not None:
            answer = compressed(self.problem, self.settings.curvature, test, asked, compress)
        elif self._solver is None and (found := cheaper(self.problem, self.settings.curvature, test, asked)):
            answer = found
        else:  # where the gradient costs a pass of its own, the scores tell the drift as they pass
            solution = self.solve(self.problem.test_gradients(test, weights_held(asked)))
            answer = self._known(solution, drift=self.problem.facts.closed_form)
        values, columns, drift = streamed(self.problem, answer, top, asked)
        return self._scores(values, answer._replace(drift=drift), test, asked, columns=columns)

    def _known(self, solution: Solution, *, drift: bool = True) -> Answer:
        moved = checks.drift(self._gradient, solution.value) if drift else None
        return Answer(-solution.rounded, moved, solution.off, solution.verdict)

    def _stored(self, test: Any, measure: Measure | None, top: int | None, folder: Path) -> Scores:
        """The scores by way of a folder, see `store`."""
        v = self.problem.test_gradients(test, measure)

        def about(solution: Solution) -> Scores:
            nothing = v.new_empty(len(v), 0).double()
            return self._scores(nothing, self._known(solution), test, measure)

        stored = StoredPass(folder, self.problem, self.settings, self.solve)
        return stored.scores(v, content_hash([v], self.fingerprint), about, top)

    @cached_property
    def _gradient(self) -> Tensor:
        return self.problem.gradient()

    def of_change(
        self,
        before: Any,
        after: Any,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        weights: ArrayLike | None = None,
        corrected: bool = False,
    ) -> Scores:
        """I(z_delta) - I(z) of replacing training examples z by z_delta, on each test example (Eq. 3).

        Any replacement: edited input, other label. The predicted change of the measure is `effect()` = +1/n of it.

        Args:
            before: b training examples as they are, by number or as a batch.
            after: b examples in their place, a batch. Class weights follow the labels.
            test: m test examples.
            measure: what is asked about, default the loss.
            weights: the sample weights (b,) of a batch `before`, where those of training differ.
            corrected: adds the dual-weighted residual t . (v - A s): the error of a loose solve then is a *product*
                of two residuals, at the price of a solve for the changes (B4).

        Gives Scores (m, b) whose `edit` is "replaced". Raises ValueError for another number of examples after.

        >>> import torch
        >>> from upweight import Influence, LinearProblem, Squared
        >>> X, y = torch.ones(4, 1), torch.tensor([0.0, 0.0, 0.0, 4.0])
        >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=1.0))
        >>> influence.of_change([3], (X[3:], y[:1]), (X[:1], y[:1])).effect()  # the last label becomes 0
        tensor([[-0.2500]], dtype=torch.float64)
        """
        given = given_rows(self.problem, before, weights)
        old, new = given.gradients(self.problem), given.replaced(self.problem, after)
        asked = as_measure(measure)
        v = self.problem.test_gradients(test, asked)
        solution = self.solve(v)
        values = -(solution.value @ (new - old).T).double()
        if corrected:
            left = v - self.settings.curvature.operator()(solution.value)
            values -= (left @ self.solve(new - old).value.T).double()
        return self._scores(values, self._known(solution), test, asked, ids=given.ids, edit="replaced")

    def on_inputs(
        self,
        rows: Any,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        weights: ArrayLike | None = None,
        at: str | None = None,
    ) -> Float[Tensor, "m b *x"]:
        """I_pert,loss(z, z_test) = -grad L(z_test) . H^-1 d(grad L(z))/dx of training examples z (Eq. 5, as printed).

        The refitted measure changes by (1/n) I_pert . delta when x becomes x + delta.

        Args:
            rows: b training examples, by number or as a batch.
            test: m test examples.
            measure: what is asked about, default the loss.
            weights: the sample weights (b,) of a batch, where those of training differ.
            at: a layer of a network whose outputs are the inputs then: `.norm(dim=-1)` of word vectors (t, d), say.

        Gives one derivative per test example, training example and number of its input, (m, b, ...). Raises TypeError
        for inputs without derivatives (whole numbers), ValueError for a layer that is not there or runs more than once.

        >>> import torch
        >>> from upweight import Influence, LinearProblem, Squared
        >>> X, y = torch.ones(4, 1), torch.tensor([0.0, 0.0, 0.0, 4.0])
        >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=1.0))
        >>> influence.on_inputs([3], (X[:1], y[:1]))
        tensor([[[0.7500]]], dtype=torch.float64)
        """
        given = given_rows(self.problem, rows, weights)
        solved = self.solve(self.problem.test_gradients(test, measure)).value
        return given.weighed(-self.problem.input_gradients(given.batch, solved, at))

    def of_each_removal(
        self,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        steps: int | None = None,
        top: int = SHOWN,
        rows: Any = None,
    ) -> Scores:
        """The change of each test measure if each training row is removed, alone: the best prediction at hand.

        Scores (m, n), whose `effect()` is for a linear model with a factorised Hessian the measure at the parameters of
        Newton steps without the row, with exact leverage (B2), less the measure as it is; of moments exact; for others
        of first order (Eq. 2), as `values` always are. Every row has as many steps as it needs of few data (n^2 p up to
        2^30); of more only those that are shown, the others one. `Scores.steps` and `left` tell.

        Args:
            test: m test examples.
            measure: what is asked about, default the loss; one number of a whole set need have no derivative.
            steps: Newton steps of all rows, at most: 1 costs least; None: as above.
            top: so many rows of either sign are shown of each test example, the strongest.
            rows: numbers of training rows that count as shown in any case.
        """
        asked = as_measure(measure)
        newton, reduced = (self.row_steps, self.problem.reduced) if self.inverse.exact else (None, None)
        first = self._first(test, asked, reduced is not None or newton is not None)
        if newton is not None:
            shown = changes_shown(newton, test, asked, most=steps, top=top, rows=rows)
            return dataclasses.replace(first, **shown._asdict())
        if (stages := self.problem.stages) is not None:
            return with_shown(first, self.problem, stages, (test, asked), top, rows)
        return first if reduced is None else with_reduced(first, self.problem, reduced, (test, asked), steps)

    def of_removal(
        self,
        groups: Any,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        guarantee: int = 0,
        steps: int | None = None,
    ) -> Removal:
        """The change of each test measure if whole sets of training rows are removed (Sec. 7 leaves this open).

        First order for all; for trees by leaves computed anew; of moments exact; for linear models also rescaled by
        leverage, and Newton steps, as many as each set needs, whatever other sets are asked along.

        Args:
            groups: row numbers (one set), a mask (n,), a pandas Index of row names, a list or mapping of these, or a
                column (n,) of labels, each value one set ("(missing)" of none). What has an index is paired by it.
            test: m test examples.
            measure: what is asked about, default the loss.
            guarantee: k adds bounds of the loss's exact change after k Newton steps (logistic and softmax regression).
            steps: Newton steps of all sets, at most: 1 costs least, for many sets of many data; None: as above.

        Gives changes (m, g) in the measure's unit; positive = the measure would rise. Raises ValueError for sets that
        are empty, unknown or everything, and for guarantees that cannot be given.
        """
        names, sets = as_sets(groups, self.problem.n, self.problem.train_index)
        asked, model, curvature = as_measure(measure), self.problem.linear, self.settings.curvature.examples
        given = test
        if model is not None and (asked is None or asked.uses_batch):
            test = model.prepared(test)  # once, for all that follows
        count = None if asked is None or asked.smooth else asked
        if (stages := self.problem.stages) and (count is not None or not stages.smooth):
            return counted_anew(self.problem, stages, (names, sets), (test, asked))
        if count is not None and model is not None and curvature is not None:
            found = Removal.counted(model, curvature, (names, sets), (test, count), steps)
        else:
            found = Removal.of_first_order(self._first(test, asked, bool(self.problem.reduced)), names, sets)
            found = with_recomputed(found, self.problem, sets, (test, asked))
            found = with_newton(found, self.problem, curvature, sets, (test, asked), guarantee, steps)
        return found if steps is not None else with_refits(found, self.problem, sets, (given, asked))

    def leave_one_out(self) -> LeaveOneOut:
        """Every training row predicted without itself: of a linear model from one factorisation (B5).

        One Newton step for each row, exact for least squares; `change` of it tells what any measure would become. Of
        Cox and negative binomial fits steps go on to the refit; of classifiers by moments it is exact.

        Raises TypeError for other models, and curvatures that are not the Hessian of a linear model.
        """
        self.problem.check_current()
        return predicted_alone(self.problem, self.row_steps)

    @cached_property
    def row_steps(self) -> RowSteps | None:
        """The Newton steps without each training row (B2), computed once; None for models that are not linear."""
        model, curvature = self.problem.linear, self.settings.curvature.examples
        return None if model is None or curvature is None else RowSteps.of(model, curvature)

    @cached_property
    def own(self) -> Scores:
        """What `on_self()` gives, computed once and kept: `explain` and `mislabeled` share it."""
        return self.on_self()

    def on_self(self, *, block: int = 1024, samples: int | None = None, seed: int = 0) -> Scores:
        """I_up,loss(z_i, z_i) of every training example on its own loss (Sec. 5.4).

        One pass of triangular solves with `Exact`, or of the small factors of each layer with EKFAC; with other
        solvers a solve per example.

        Args:
            block: examples that are solved for at a time.
            samples: k estimates it from k solves for random right-hand sides, whatever n: without bias, with a
                relative standard error of sqrt(2 / k).
            seed: of the random right-hand sides.

        Gives Scores (1, n); negative, since more weight on an example lowers its own loss. Raises ValueError for fewer
        than two samples, TypeError for some where the curvature is neither GaussNewton nor that of a convex problem.
        """
        problem, provenance = self.problem, self._provenance()
        values = self_influence.values_of(
            problem, self.settings.curvature, self.inverse, self.solve, block, samples, seed
        )
        if samples is not None:
            provenance["settings"].append(self_influence.in_words(samples))
        known: dict[str, Any] = {"ids": problem.train_index, "verdict": problem.facts.caution}
        return Scores(values, problem.n, measure="own loss", provenance=provenance, **known)

    def _first(self, test: Any, of: Measure | None, known: bool) -> Scores:
        """Eq. 2; NaN of a measure without a derivative, where more than first order is `known`."""
        if of is None or of.smooth or not known:
            return self.on_loss(test, measure=derivable(self.problem.stages, of))
        return underivable(self.problem, of, self._provenance())

    def _provenance(self) -> dict[str, Any]:
        return provenance(self.problem, self.settings, self.fingerprint)

    def _scores(self, values: Tensor, answer: Answer, test: Any, of: Measure | None, **fields: Any) -> Scores:
        return as_scores(self.problem, (test, of), values, answer, provenance=self._provenance(), **fields)
