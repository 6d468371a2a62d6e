"""A run in a few segments, in each of which gradients and curvature are held at their means: SOURCE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int

from ..curvature.ekfac import EKFAC
from ..curvature.hessian import GaussNewton
from ..curvature.kronecker_statistics import gather
from ..curvature.nystrom import Nystrom
from ..linalg.coordinates import Coordinates
from ..linalg.kronecker import Spectrum
from ..linalg.low_rank import LowRankFactor
from ..measures import MeasureLike
from ..network.problem import Problem
from ..runtime.alone import alone, differentiating
from ..runtime.fingerprint import content_hash
from ..runtime.progress import track
from ..types import Tensor
from .journal import Begun, Journal
from .probes import Probe
from .reverse import Cotangents
from .rules import Descent
from .run import TrainingRun
from .steps import Step, own_streams

SAID = (
    "Effects approximate derivatives through the recorded run of training (its start, order of batches and settings), "
    "of first order in the change: {0}."
)

SOME = 500
"""Training examples that leading directions are found from, at least."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Steps in a row that are taken for equal ones: s steps of rate r along the mean of the examples' gradients.

    Args:
        problems: the model at some of them, whose gradients and curvature are averaged.
        curvature: the mean curvature, without decay.
        steps: how many there are, s.
        rate: their mean rate, r.
        decay: of the weights.
        scale: what the loss of a step is of the problems' objective.
        share: what the gradient of each example, as the problems have it, counts in the loss of a step (n,), the mean.
        root: of what each entry of the gradient is multiplied by (p,), D: the curvature is then D H D. None: 1.
    """

    problems: tuple[Problem, ...]
    curvature: Spectrum | LowRankFactor
    steps: int
    rate: float
    decay: float
    scale: float
    share: Float[Tensor, " n"]
    root: Float[Tensor, " p"] | None = None

    @property
    def there(self) -> Coordinates:
        """The coordinates in which the steps are plain descent."""
        return Coordinates(self.root)

    def moved(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """What the steps leave of a move of the parameters before them: (1 - r h)^s of it, h the curvature."""
        return self.there.outward(self._shrunk(self.there.parameters(rows)))

    def kept(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """What derivatives in the parameters after the steps are before them."""
        return self.there.derivatives(self._shrunk(self.there.inward(rows)))

    def _shrunk(self, rows: Tensor) -> Tensor:
        return self.curvature.mapped(rows, lambda values: self._left(values).exp())

    def gained(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """What the steps make of a gradient that is there at each of them: (1 - (1 - r h)^s) / h of it."""

        def gain(values: Tensor) -> Tensor:
            h = self.scale * values + self.decay
            return torch.where(h == 0, self.rate * self.steps, -torch.expm1(self._left(values)) / h)

        return self.there.outward(self.curvature.mapped(self.there.inward(rows), gain))

    def _left(self, values: Tensor) -> Tensor:
        """The logarithm of (1 - r h)^s. A step that is too long for a direction is taken to end at its minimum."""
        h = self.scale * values + self.decay
        return self.steps * torch.log1p(-(self.rate * h).clamp(max=1.0))


@dataclass(frozen=True, eq=False)
class Segments:
    """A recorded run in a few segments, much cheaper to go back through than step by step: `Unrolled(Segments(run))`.

    This is SOURCE (Bae et al. 2024, "Training Data Attribution via Approximate Unrolled Differentiation"). Within a
    segment the Gauss-Newton matrix and the gradient of each example are held at their means over some checkpoints;
    every step takes the segment's mean rate, every example the weight that the recorded batches gave it. Of the matrix
    the leading directions decide: along the others parameters hardly move back while a segment lasts. EKFAC, as in the
    published form, needs no room for them, and is less accurate. With segments l of s_l steps of rate r_l, curvature
    H_l and gradients g_l the derivative of a measure q in the weight of an example is

        - sum_l  grad q . product over later segments k of (1 - r_k H_k)^s_k . (1 - (1 - r_l H_l)^s_l) H_l^-1 g_l

    Nothing is damped. SGD with momentum counts as SGD of rate lr / (1 - momentum). Adam and AdamW multiply the gradient
    by P, the segment's mean of 1 / (sqrt(v) + eps): H_l becomes P^1/2 H_l P^1/2, g_l and grad q P^1/2 of themselves;
    that an example also moves v is left out. In EKFAC's bases P counts by its mean along each pair of directions.
    Clipping multiplies the rate by its mean factor. Dropout and augmentation are left out of the means. `verify` and
    `replayed` replay the run itself, and show what the approximation costs.

    Args:
        recorded: the run, of SGD, Adam or AdamW.
        count: segments, of equally many steps each.
        checkpoints: in each of them, whose states come from replaying the run.
        rank: how many leading directions of the Gauss-Newton matrix are kept, p numbers each; None: EKFAC.
        rows: of how many training examples, evenly spaced, the matrix is; default all with EKFAC, else a tenth of them
            and at least 500.

    Raises:
        ValueError: for numbers below 1, and more checkpoints than there are steps.
        TypeError: for runs that have no such form, with what to do instead.
    """

    recorded: TrainingRun
    count: int = 3
    checkpoints: int = 2
    rank: int | None = 100
    rows: int | None = None

    def __post_init__(self) -> None:
        steps = len(self.recorded.steps)
        if self.count < 1 or self.checkpoints < 1 or self.count * self.checkpoints > steps:
            raise ValueError(
                f"count and checkpoints must be at least 1, and together no more than the {steps:,} steps of the run, "
                f"got {self.count} segments with {self.checkpoints} checkpoints each"
            )
        if any(number is not None and number < 1 for number in (self.rank, self.rows)):
            raise ValueError(f"rank and rows must be at least 1, or None, got {self.rank} and {self.rows}")
        check_descent(self.recorded)

    def __repr__(self) -> str:
        return f"{self.held}, of a {self.recorded!r}"

    @property
    def held(self) -> str:
        """What is held at which means, in words."""
        many = "1 segment" if self.count == 1 else f"{self.count} segments, each"
        by = "by EKFAC" if self.rank is None else f"along {min(self.rank, self.problem.p)} directions"
        return f"{many} held at the mean of {self.checkpoints} of its states, its curvature {by}"

    # -- what Unrolled asks a run ----------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """The number of training examples."""
        return self.recorded.n

    @property
    def problem(self) -> Problem:
        """The trained model."""
        return self.recorded.problem

    @property
    def said(self) -> str:
        """What its numbers are, in a sentence."""
        return SAID.format(self.held)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What needs saying of it among the settings."""
        return self.recorded.remarks

    def fingerprint(self) -> str:
        """A content hash of all that answers depend on."""
        return content_hash(
            [], f"{self.count} {self.checkpoints} {self.rank} {self.rows} {self.recorded.fingerprint()}"
        )

    def named(self, index: pd.Index) -> Segments:
        """Segments whose training examples (n,) have names, as tables of scores show them."""
        return replace(self, recorded=self.recorded.named(index))

    def gradients(self, test: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        """The gradient of test measures in the trained parameters.

        Args:
            test: m test examples.
            measure: what is asked about, default the loss.
        """
        return self.recorded.gradients(test, measure)

    @alone
    def derivatives(self, v: Float[Tensor, "m p"], store: str | Path | None = None) -> Float[Tensor, "m n"]:
        """The derivative of each test measure in the weight of each training example, segment by segment.

        Args:
            v: what `gradients` gives of m measures.
            store: a folder that keeps how far the pass has come, or None.

        Raises:
            StaleError: where the training data changed since.
        """
        self.recorded.check_current()
        key = "" if store is None else content_hash([v], self.fingerprint())
        journal = Journal(None if store is None else Path(store) / f"through_{key}.safetensors")
        total = torch.zeros(len(v), self.n, dtype=torch.float64)
        begun = journal.read(Begun(self.count, Cotangents(v.double(), (), {}), total))
        total, held = begun.total, begun.held.theta
        for number in track(reversed(range(begun.left)), "through segments", begun.left):
            segment = self.segments[number]
            for problem in segment.problems:
                found = problem.all_products(segment.gained(held)).double().cpu()
                total -= found * (segment.share / self.checkpoints)
            held = segment.kept(held)
            journal.write(Begun(number, Cotangents(held, (), {}), total))
        return total

    @alone
    def own(self, rows: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The derivative of the own loss of each of b training examples in its weight: no pass over the others."""
        self.recorded.check_current()
        held = self.gradients(self.problem.train_batch(rows)).double()
        total = torch.zeros(len(rows), dtype=torch.float64)
        for segment in reversed(self.segments):
            gained = segment.gained(held)
            for g in self._mean_gradients(segment, rows):
                total -= (gained * g).sum(1).cpu()
            held = segment.kept(held)
        return total

    @alone
    def moves(self, rows: Int[Tensor, " k"]) -> Float[Tensor, "k p"]:
        """The derivative of the trained parameters in the weight of each of k training examples.

        Raises StaleError where the training data changed since.
        """
        self.recorded.check_current()
        held = self.problem.theta.new_zeros(len(rows), self.problem.p).double()
        for segment in self.segments:
            held = segment.moved(held)
            for g in self._mean_gradients(segment, rows):
                held -= segment.gained(g)
        return held.to(self.problem.theta)

    def probed(self, v: Float[Tensor, "m q"], probe: Probe) -> Float[Tensor, "m b *x"]:
        """Changed examples are not followed by segments. Raises TypeError, which says what to ask."""
        raise TypeError(
            "changed examples and inputs are followed step by step alone: ask of_change and on_inputs of Unrolled(run)"
        )

    def _mean_gradients(self, segment: Segment, rows: Tensor) -> Iterator[Tensor]:
        """The gradients (b, p) of some examples at each checkpoint of a segment, which add up to the mean."""
        share = (segment.share[rows] / self.checkpoints)[:, None]
        for problem in segment.problems:
            g = problem.train_gradients(rows).double()
            yield g * share.to(g)

    # -- what is held ----------------------------------------------------------------------------------------------

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, from the first: replays the run, and gathers the curvature at each checkpoint, once."""
        steps = len(self.recorded.steps)
        edges = [round(number * steps / self.count) for number in range(self.count + 1)]
        taken = list(pairwise(edges))
        return tuple(
            self._segment(first, stop, held)
            for (first, stop), held in zip(
                track(taken, "segments", self.count), self._held(taken), strict=True
            )
        )

    def _held(self, taken: list[tuple[int, int]]) -> Iterator[tuple[list[float], Tensor | None]]:
        """The factors by which each segment's steps were clipped, and its mean preconditioner: one replay."""
        forward, groups = self.recorded.forward, self.recorded.start.groups
        state, remembers = forward.start.state, groups.rule.preconditions
        with differentiating(), own_streams():
            for first, stop in taken:
                factors, total, weight = [1.0] * (stop - first), torch.zeros_like(state.theta).double(), 0.0
                for t in range(first, stop) if remembers or forward.clip is not None else ():
                    step = self.recorded.steps[t]
                    later, grads = forward.looked_at(state, step)
                    factors[t - first] = float(forward.shrinking(forward.packed(grads)))
                    if remembers:
                        counted, settings = (
                            forward.per_entry(state.counted),
                            groups.expanded(step.settings, state.theta),
                        )
                        each = groups.rule.preconditioner(later.memory, counted, settings)
                        rate = descent(self.recorded, step).rate * factors[t - first]
                        total, weight = total + rate * each.double(), weight + rate
                    state = later
                yield factors, total / max(weight, 1e-300) if remembers else None

    def _segment(self, first: int, stop: int, held: tuple[list[float], Tensor | None]) -> Segment:
        """The steps from the first to the one before `stop`; of it what `_held` gives."""
        start, states = self.recorded.start, self.recorded.states
        places = [first + int((c + 0.5) * (stop - first) / self.checkpoints) for c in range(self.checkpoints)]
        problems = tuple(start.problem_at(states.at(t)) for t in places)
        steps = self.recorded.steps[first:stop]
        each, (clipped, preconditioner) = [descent(self.recorded, step) for step in steps], held
        rates = [one.rate * factor for one, factor in zip(each, clipped, strict=True)]
        rate, weights = sum(rates) / len(steps), start.base.weights.double().cpu()
        share = torch.zeros(self.n, dtype=torch.float64)
        for step, lr in zip(steps, rates, strict=True):
            factors = start.objective.averaging.factors(step, torch.ones(step.count, dtype=torch.float64))
            share.index_add_(
                0, step.index, torch.cat(factors).double().cpu(), alpha=lr / max(sum(rates), 1e-300)
            )
        scale = float(share.sum() / weights.mean())
        return Segment(
            problems,
            self._curvature(problems, sum(one.penalty for one in each) / len(steps) / scale, preconditioner),
            len(steps),
            rate,
            sum(one.decay for one in each) / len(steps),
            scale,
            torch.where(weights > 0, share / weights, 0.0),
            None if preconditioner is None else preconditioner.sqrt(),
        )

    def _curvature(
        self, problems: tuple[Problem, ...], penalty: float, preconditioner: Float[Tensor, " p"] | None
    ) -> Spectrum | LowRankFactor:
        """The mean Gauss-Newton matrix of a segment's checkpoints, in the coordinates where steps are plain descent.

        Args:
            problems: the checkpoints.
            penalty: what is added to its diagonal before it is preconditioned.
            preconditioner: what each entry of the gradient is multiplied by, or None.
        """
        if self.rank is None:
            ekfac = EKFAC(problems[0], rows=self.rows)
            found = gather(problems[0], ekfac.recipe(ekfac.dtype), problems[1:]).spectrum(problems[0].theta)
            return found if preconditioner is None else found.weighted(preconditioner, penalty)
        some = self.rows or max(SOME, self.n // 10)
        even = torch.linspace(0, self.n - 1, min(some, self.n), dtype=torch.float64).long()
        there = None if preconditioner is None else Coordinates(preconditioner.sqrt())
        each = [
            Nystrom(GaussNewton(one.subset(even), damping=penalty), self.rank, there=there).leading
            for one in problems
        ]
        return LowRankFactor.mean(each)


def descent(run: TrainingRun, step: Step) -> Descent:
    """The plain descent that a step of a run takes. Raises TypeError where it takes none."""
    groups = run.start.groups
    found = groups.rule.descent(groups.expanded(step.settings, run.start.state.theta))
    if found is None:
        raise TypeError(
            f"segments are for SGD and Adam with the same settings in all parameters, and this run is of "
            f"{groups.rule!r}: ask Unrolled(run), or the last part of training alone, Unrolled(run.last(steps))"
        )
    return found


def check_descent(run: TrainingRun) -> None:
    """Refuse runs that are not in segments what they are step by step, with TypeError: each says what to do instead."""
    descent(run, run.steps[0])
    objective = run.start.objective
    refused = {
        "batch norm in train mode, whose statistics move too": bool(objective.moving.names),
        'removal="lowered", where a weight changes the other examples of its batch too': (
            objective.averaging.removal == "lowered"
        ),
    }
    for words, true in refused.items():
        if true:
            raise TypeError(
                f"segments are for runs without {words}: ask Unrolled(run), or the last part of training alone, "
                "Unrolled(run.last(steps))"
            )
