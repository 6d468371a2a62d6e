"""Retraining without some of the training examples, many times: the judge shares no solver with the accused.

For linear problems many refits run at once as a block: the gradient of each reduced objective is computed from the
outputs of that refit's own parameters, steps are taken with one fixed factorised Hessian, and a refit counts only when
the norm of that gradient is below the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float

from ..capabilities import Reduced, Replays
from ..curvature.hessian import Hessian
from ..errors import InfluenceError, NoOptimumError, NotConvergedError
from ..estimators.refitting import OWN, Refitting, by_refits_alone
from ..linalg.factorizations import Factor
from ..linear.gradient_scale import AIM, ENOUGH, GradientScale
from ..measures import Measure, MeasureLike
from ..objective import LinearModel, Objective
from ..runtime.progress import track
from ..types import Tensor

Refit = Callable[[Tensor], Any]
"""Kept training rows (index) -> what was retrained: a module, parameters alone as a flat (p,) tensor, or a problem."""

BLOCK = 64
"""Refits that run at once."""
STEPS = 60
"""Steps with the fixed factor after which a refit is finished alone."""


def measured_refits(
    problem: Objective,
    test: Any,
    measure: Measure | None,
    removed: Tensor,
    *,
    refit: Refit | None,
    tolerance: float | None,
) -> tuple[Float[Tensor, "r m"], Float[Tensor, " r"], bool]:
    """The change of each measure by retraining without each row, less what a refit that removes nothing changes.

    Args:
        problem: what was trained.
        test: m test examples.
        measure: what is measured, default the loss.
        removed: r training rows, each removed alone.
        refit: trains on the kept rows; None for linear problems, which are refitted here.
        tolerance: the gradient norm at which a refit counts; None: as `refit_without` has it.

    Returns:
        Changes (r, m), gradient norms (r,) (NaN for a user's refits), and whether all ran: after Ctrl-C what was
        finished is kept. Changes are NaN where a refit has no optimum.

    Raises:
        ValueError: for other than linear problems without `refit`.
    """
    if refit is not None:
        found = _by_user(problem, test, measure, removed, refit)
    elif problem.linear is not None and not by_refits_alone(problem):
        found = _by_blocks(problem.linear, test, measure, removed, tolerance)
    elif problem.reduced is not None:
        found = _by_reduced(problem, problem.reduced, test, measure, removed)
    elif problem.replays is not None:
        found = _by_replays(problem, problem.replays, test, measure, removed)
    elif (own := problem.cache.get(OWN)) is not None:
        each = track(_by_estimator(problem, own, test, measure, removed), "refitting", len(removed))
        found = ((change, float("nan")) for change in each)
    else:
        raise ValueError(
            "verify retrains linear problems and fitted estimators by itself; for other models give refit=, a function "
            "of the kept training rows (index tensor) that returns the retrained parameters or module, or, of boosters "
            "and models from a file, which no longer know what they were trained with, from_estimator of a new one"
        )
    changes: list[Tensor] = []
    norms: list[float] = []
    complete = True
    try:
        for change, norm in found:
            changes.append(change)
            norms.append(norm)
    except KeyboardInterrupt:
        if not changes:
            raise
        complete = False
    return torch.stack(changes), torch.tensor(norms), complete


def change_without(
    problem: Objective,
    test: Any,
    rows: Tensor,
    refit: Refit | None = None,
    measure: MeasureLike | None = None,
) -> Float[Tensor, " m"]:
    """The change of each test measure by retraining without a whole set of rows, less what training on changes anyway.

    Args:
        problem: what was trained.
        test: m test examples.
        rows: the training rows that are removed together.
        refit: trains on the kept rows; None for linear problems, which are refitted here.
        measure: what is asked about, default the loss.

    Raises:
        ValueError: for other than linear problems without `refit`.
        NotConvergedError: where a linear problem's refit does not get to its optimum.
    """
    if refit is not None:
        everything = torch.arange(problem.n)
        kept = everything[~torch.isin(everything, rows)]
        whole, there = (_retrained(problem, refit(left)) for left in (everything, kept))
    elif problem.linear is not None and not by_refits_alone(problem):
        whole, there = problem.linear.minimised(), problem.linear.without(rows).minimised()
        # One loss is asked about, also where training fits its scale.
        whole, there = (one.with_loss(problem.linear.loss) for one in (whole, there))
    elif problem.reduced is not None:
        thetas = [problem.reduced.refitted(gone)[0] for gone in (rows[:0], rows)]
        whole, there = (problem.at(theta) for theta in thetas)
    elif problem.replays is not None:
        whole, there = problem, next(iter(problem.replays.without([rows])))
    elif (own := problem.cache.get(OWN)) is not None:
        everything = torch.arange(problem.n)
        whole, there = own(everything), own(everything[~torch.isin(everything, rows)])
    else:
        raise ValueError(
            "only linear models are trained again here: for others give refit, a function of the kept training rows "
            "(index tensor) that returns the retrained parameters or module"
        )
    return there.evaluate(test, measure) - whole.evaluate(test, measure)


def _by_blocks(
    model: LinearModel, test: Any, measure: Measure | None, removed: Tensor, tolerance: float | None
) -> Iterator[tuple[Tensor, float]]:
    """Changes and gradient norms, from refits that run as blocks."""
    if measure is None or measure.uses_batch:
        test = model.prepared(test)  # once, not per block of refits
    # The first removes nothing: the baseline, by the same code.
    sets = [removed[:0], *removed.split(1)]
    jobs = [sets[start : start + BLOCK] for start in range(0, len(sets), BLOCK)]
    factor = Hessian(model).factor(torch.float32)
    baseline: Tensor | None = None
    for job in track(jobs, f"refitting {len(removed)} times", len(jobs)):
        thetas, reached = refit_without(model, job, factor, tolerance)
        values = list(model.evaluate_each(test, thetas, measure))
        if baseline is None:
            baseline, values, reached = values[0], values[1:], reached[1:]
        yield from ((value - baseline, norm) for value, norm in zip(values, reached.tolist(), strict=True))


def _by_reduced(
    problem: Objective, reduced: Reduced, test: Any, measure: Measure | None, removed: Tensor
) -> Iterator[tuple[Tensor, float]]:
    """Changes and gradient norms, from refits one after the other by what is left of the objective."""
    start = problem.evaluate(test, measure, reduced.refitted(removed[:0])[0])
    for row in track(removed.split(1), "refitting", len(removed)):
        theta, norm = reduced.refitted(row)
        yield problem.evaluate(test, measure, theta) - start, norm


def _by_replays(
    problem: Objective, replays: Replays, test: Any, measure: Measure | None, removed: Tensor
) -> Iterator[tuple[Tensor, float]]:
    """Changes from replays of a recorded training, whose baseline is the run itself; they have no gradient norm."""
    start = problem.evaluate(test, measure)
    for after in replays.without(list(removed.split(1))):
        yield (after.evaluate(test, measure) - start).double().cpu(), float("nan")


def against_estimator(
    problem: Objective, test: Any, measure: Measure | None, removed: Tensor, measured: Float[Tensor, "r m"]
) -> float | None:
    """How far changes by refits are from those of the user's own estimator, fitted again: the relative L2 difference.

    Args:
        problem: of `from_estimator`; None is the answer for any other.
        test: m test examples as the user has them.
        measure: what is measured, default the loss.
        removed: training rows, each removed alone.
        measured: their changes (r, m) by refits.
    """
    refit = problem.cache.get(OWN)
    if (
        refit is None or not len(removed) or not hasattr(test[0], "__getitem__")
    ):  # rows that are prepared already
        return None
    actual = torch.stack(list(_by_estimator(problem, refit, test, measure, removed)))
    known = actual.isfinite().all(1)
    if not bool(known.any()):
        return None
    return float((measured - actual)[known].norm() / actual[known].norm().clamp(min=1e-300))


def whole_pipeline(
    problem: Objective, test: Any, measure: Measure | None, removed: Tensor
) -> Float[Tensor, "r m"]:
    """The changes of each measure by refits of the user's estimator without each row, its transformers too.

    Args:
        problem: of `from_estimator`.
        test: m test examples as the user has them.
        measure: what is measured, default the loss.
        removed: training rows, each removed alone.

    Returns:
        Changes (r, m); NaN where the estimator refuses the rows that are left.

    Raises:
        ValueError: for any other problem, and for data whose rows cannot be picked.
    """
    refit = problem.cache.get(OWN)
    if refit is None or not hasattr(test[0], "__getitem__"):
        raise ValueError(
            "pipeline=True refits the user's own estimator, which only a problem of from_estimator has, in memory and "
            "without a precomputed kernel: leave it out"
        )
    found = track(
        _by_estimator(problem, refit, test, measure, removed), "refitting the pipeline", len(removed)
    )
    return torch.stack(list(found))


def _by_estimator(
    problem: Objective, refit: Refitting, test: Any, measure: Measure | None, removed: Tensor
) -> Iterator[Float[Tensor, " m"]]:
    """Changes by the user's own estimator, fitted again without one row after the other."""
    everything = torch.arange(problem.n)
    start = refit(everything).evaluate(test, measure)
    for row in removed.tolist():
        try:
            yield refit(everything[everything != row]).evaluate(test, measure) - start
        except (ValueError, InfluenceError):  # nothing is left to fit: all coefficients zero, a class gone
            yield torch.full_like(start, torch.nan)


def _by_user(
    problem: Objective, test: Any, measure: Measure | None, removed: Tensor, refit: Refit
) -> Iterator[tuple[Tensor, float]]:
    """Changes from a user's own training, one after the other."""
    everything = torch.arange(problem.n)
    start = _retrained(problem, refit(everything)).evaluate(test, measure)
    for row in track(removed.tolist(), "refitting", len(removed)):
        there = _retrained(problem, refit(everything[everything != row]))
        yield there.evaluate(test, measure) - start, float("nan")


def _retrained(problem: Objective, trained: Any) -> Objective:
    """The problem at what the user's training returned: a module as a whole, parameters alone, or a problem itself."""
    if isinstance(trained, torch.nn.Module):
        return problem.retrained(trained)
    if hasattr(trained, "evaluate"):
        return trained
    flat = torch.as_tensor(trained)
    if flat.shape != (problem.p,):
        raise ValueError(
            f"refit must return a module or a flat ({problem.p},) tensor, got shape {tuple(flat.shape)}"
        )
    return problem.at(flat)


def refit_without(
    problem: LinearModel, sets: Sequence[Tensor], factor: Factor, tolerance: float | None = None
) -> tuple[Float[Tensor, "g p"], Float[Tensor, " g"]]:
    """Refit once without each of g sets of training rows, all at once.

    A refit that the fixed factor does not bring there (very high leverage, a large set) is finished alone by
    `minimised`.

    Args:
        problem: a linear model.
        sets: the training rows of each set; an empty one removes nothing.
        factor: of the Hessian, in any precision.
        tolerance: the norm of the reduced objective's gradient at which a refit is finished; None: 1e-8 of what one
            example contributes to the gradient, whatever the units (`GradientScale`).

    Returns:
        The parameters (g, p) and the gradient norms (g,) of the reduced objectives; NaN where these have no optimum.

    Raises:
        NotConvergedError: where a refit misses twice the tolerance, or 1e-6 of one example's contribution.
    """
    scale = GradientScale.of(problem) if tolerance is None else None

    def left(gradients: Tensor) -> Tensor:  # 1 where a refit is finished
        return gradients.norm(dim=1) / tolerance if scale is None else scale.share(gradients) / AIM

    # The first step needs no pass over the data: at theta only the removed rows' gradients are missing from the sum.
    thetas = problem.theta - factor.solve(problem.gradients_without(sets).to(factor.dtype)).double()
    norms, far = (torch.full((len(sets),), torch.inf, dtype=torch.float64) for _ in range(2))
    active = torch.arange(len(sets))
    for _ in range(STEPS):
        gradient = problem.gradients_without([sets[j] for j in active.tolist()], thetas[active])
        norms[active], far[active] = gradient.norm(dim=1), left(gradient)
        unfinished = ~(far[active] <= 1)
        if not bool(unfinished.any()):
            break
        active = active[unfinished]
        thetas[active] -= factor.solve(gradient[unfinished].to(factor.dtype)).double()
    for j in (~(far <= 1)).nonzero()[:, 0].tolist():
        try:
            thetas[j] = problem.without(sets[j]).minimised(tolerance).theta
        except NoOptimumError:
            thetas[j], norms[j], far[j] = torch.nan, torch.nan, 0
            continue
        gradient = problem.gradients_without([sets[j]], thetas[[j]])
        norms[j], far[j] = gradient.norm(), left(gradient)[0]
    if not bool((far <= (2 if scale is None else 2 * ENOUGH / AIM)).all()):
        worst = int(far.argmax())
        raise NotConvergedError(
            f"a refit stopped at gradient norm {float(norms[worst]):.1e}, wanted {float(norms[worst] / far[worst]):.0e}"
        )
    return thetas, norms
