"""Answers by honest retraining, for estimators that no derivative reaches: forests, neighbours, anything that fits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import stats

from ..data.row_sets import as_sets, row_numbers
from ..data.user_terms import batch_index
from ..influence.scores import Scores
from ..measures import Measure, MeasureLike, as_measure, name_of
from ..runtime.fingerprint import content_hash
from ..runtime.trainings import Training, trained
from ..types import Tensor
from .answers import OutOfBag, RemovalByRefits
from .content import content_of
from .subsets import differences, drawn
from .trainable import Asked, Trainable

PROBES = 3
"""Trainings that tell whether the random state moves what the model says."""
SUBSETS = (
    "Effects are how much higher a measure is without the row than with it, on average over {used:,} refits on random "
    "subsets with each row in with probability {share:g} (Banzhaf values where that is 1/2): retrained, no derivative."
)
SOME = 0.01
"""The share of certain predictions from which on it is told what their log-loss is."""
CERTAIN = (
    "{share:.0%} of what the refits say are probabilities of 0 or 1, whose log-loss is 36 where they are wrong, as in "
    "scikit-learn: measures.probability jumps less than the loss."
)
ALONE = "Effects are the changes by refits without the row, {seeds}: retrained, no derivative."


@dataclass(frozen=True, eq=False)
class Budget:
    """What retraining may cost.

    Args:
        refits: the most trainings behind one answer.
        seconds: after which no further training is begun, or None; how many there are then depends on the machine.
        jobs: trainings at once; -1 as many as there are processors.
        folder: where each result is kept as soon as it is there, so that a killed job goes on from there; or None.
    """

    refits: int = 500
    seconds: float | None = None
    jobs: int = 1
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        if self.refits < 1 or self.jobs == 0 or (self.seconds is not None and self.seconds <= 0):
            raise ValueError(
                f"refits must be >= 1, jobs not 0 and seconds above 0, got {self.refits}, {self.jobs}, {self.seconds}"
            )


class _Changes(NamedTuple):
    """What refits without some sets of rows gave: of the sets that were finished."""

    change: Float[Tensor, "m g"]
    error: Float[Tensor, "m g"]
    noise: Float[Tensor, " m"]
    seeds: int


@dataclass(frozen=True, eq=False, repr=False)
class Refits:
    """Answers about any estimator by training it again without rows, or on random subsets of them.

    `by_refitting` makes one. Effects have the sign and scale of `Influence`: positive = the measure would rise without
    the row (helpful, for a loss). Each has a standard error. Results are kept by their content: asked again, nothing is
    trained again. Ctrl-C keeps what is finished.
    """

    problem: Trainable
    """The estimator with its training rows."""
    budget: Budget = field(default_factory=Budget)
    share: float = 0.5
    seeds: int = 10
    formulas: None = None
    """No derivative is behind these answers."""
    _known: dict[str, Tensor] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            raise AttributeError(
                f"answers by refits have no {name!r}, which needs a derivative (Influence): they have on_loss, "
                "of_each_removal, of_removal, out_of_bag and noise, and explain and mislabeled take them"
            )
        raise AttributeError(name)

    def __repr__(self) -> str:
        name, n = type(self.problem.estimator).__name__, len(self.problem.y)
        return f"Refits of {name} on {n:,} rows, at most {self.budget.refits} for a question"

    @cached_property
    def fingerprint(self) -> str:
        """A content hash of estimator, data and settings: equal ones give equal answers."""
        return self.problem.fingerprint()

    # -- questions -------------------------------------------------------------------------------------------------

    def on_loss(self, test: Any, *, measure: MeasureLike | None = None) -> Scores:
        """What each training row does to each test measure on average over random subsets of the rows: Banzhaf values.

        One set of `budget.refits` trainings answers for all rows and test examples at once, so ask about all test
        examples together. The removal effect of a row is the mean of the measure over subsets without it less that over
        subsets with it: it tells of smaller training sets than the whole, and of every random state.

        Args:
            test: m test examples (X, y), in the form of the training data.
            measure: what is asked about, default the loss.

        Returns:
            Scores (m, n) with standard errors; `remarks` says whether the budget was enough for the rows.

        Raises:
            ValueError: where the budget leaves some row without subsets.
        """
        (X, y), asked = test, as_measure(measure)
        masks, outputs = self._on_subsets(X)
        values = self.problem.measured(outputs, y, asked)
        found = differences(masks, values)
        lost = len(values) - found.used
        words = [SUBSETS.format(used=found.used, share=self.share), found.summary()]
        if asked is None and (certain := self.problem.certain(outputs)) > SOME:
            words.append(CERTAIN.format(share=certain))
        if lost:
            words.append(
                f"{lost} of {len(values)} refits failed, or had no value of the measure, and do not count."
            )
        return self._scores(found.effect, found.error, test, asked, words)

    def of_each_removal(self, test: Any, rows: Any = None, *, measure: MeasureLike | None = None) -> Scores:
        """The change of each test measure as each of some training rows is removed, alone: leave-one-out refits.

        Where the random state moves what the model says, each change is the mean over several, the same with and
        without the row.

        Args:
            test: m test examples (X, y), in the form of the training data.
            rows: training rows as `Influence.of_removal` takes one set; None: all of them, and where the budget does
                not reach for that, the effects of `on_loss` instead: `Scores.prediction` says which.
            measure: what is asked about, default the loss.

        Returns:
            Scores (m, n), or of those rows alone, with standard errors.

        Raises:
            ValueError: for unknown rows, and more of them than the budget allows.
        """
        problem, asked = self.problem, as_measure(measure)
        if rows is None:
            chosen = torch.arange(problem.n)
            if problem.n * self._seeds(test[0]) > self.budget.refits:
                return self.on_loss(test, measure=measure)
        else:
            chosen = row_numbers(rows, problem.n, problem.train_index)
            as_sets([[row] for row in chosen.tolist()], problem.n)  # checks them
        found = self._without(list(chosen.split(1)), test, asked)
        done = chosen[: found.change.shape[1]]
        columns = None if rows is None and len(done) == problem.n else done.expand(len(found.change), -1)
        words = [ALONE.format(seeds=_seeds_in_words(found.seeds)), *_noise(found, name_of(asked))]
        return self._scores(found.change, found.error, test, asked, words, columns)

    def of_removal(self, groups: Any, test: Any, *, measure: MeasureLike | None = None) -> RemovalByRefits:
        """The change of each test measure as whole sets of training rows are removed, by refits.

        Args:
            groups: sets of rows, as `Influence.of_removal` takes them.
            test: m test examples (X, y), in the form of the training data.
            measure: what is asked about, default the loss.

        Raises:
            ValueError: for sets that are empty, unknown or everything, and more refits than the budget allows.
        """
        asked = as_measure(measure)
        names, sets = as_sets(groups, self.problem.n, self.problem.train_index)
        found = self._without(sets, test, asked)
        done = found.change.shape[1]
        sizes = torch.tensor([len(rows) for rows in sets[:done]])
        words = [_seeds_in_words(found.seeds), *_noise(found, name_of(asked)), *self.problem.notes]
        return RemovalByRefits(
            names[:done], sizes, found.change, found.error, name_of(asked), found.noise, tuple(words)
        )

    def noise(self, test: Any, *, measure: MeasureLike | None = None) -> Float[Tensor, " m"]:
        """How much each test measure moves by another random state alone: its standard deviation over seeds.

        The yardstick of single removals: `test` are m test examples, `measure` what is asked about, default the loss.
        """
        X, y = test
        return _spread(self.problem.measured(self._on_everything(X), y, as_measure(measure)))

    def out_of_bag(self) -> OutOfBag:
        """Each training row as models say it that have not seen it: trained on random subsets without the row.

        The refits are those of `on_loss` for the training rows themselves.
        """
        problem = self.problem
        masks, outputs = self._on_subsets(problem.X)
        losses = problem.measured(outputs, problem.y, None)
        return OutOfBag.of(outputs, losses, ~masks & losses.isfinite(), problem.likelihood)

    # -- trainings -------------------------------------------------------------------------------------------------

    def _on_subsets(self, X: Any) -> tuple[Bool[Tensor, "s n"], Float[Tensor, "s m c"]]:
        """Subsets, and outputs of models trained on them: as many as the budget allows."""
        masks = drawn(self.problem.n, self.budget.refits, self.share, self.problem.seed)
        wanted = [(mask.nonzero()[:, 0], place) for place, mask in enumerate(masks)]
        outputs = self._outputs(X, wanted)
        return masks[: len(outputs)], outputs

    def _on_everything(self, X: Any) -> Float[Tensor, "r m c"]:
        """Outputs of models trained on all rows, with other random states where they make a difference."""
        everything = torch.arange(self.problem.n)
        probed = self._outputs(X, [(everything, seed) for seed in range(PROBES)])
        if bool((probed == probed[0]).all()):
            return probed[:1]
        return self._outputs(X, [(everything, seed) for seed in range(self.seeds)])

    def _seeds(self, X: Any) -> int:
        return len(self._on_everything(X))

    def _without(self, sets: Sequence[Tensor], test: Any, measure: Measure | None) -> _Changes:
        """Changes by refits without each set, of the sets that the time sufficed for."""
        X, y = test
        before = self.problem.measured(self._on_everything(X), y, measure)
        r, n = len(before), self.problem.n
        if len(sets) * r > self.budget.refits:
            each = f" with {r} random states each" if r > 1 else ""
            raise ValueError(
                f"{len(sets):,} removals{each} take {len(sets) * r:,} refits, the budget is "
                f"{self.budget.refits:,}: ask about fewer, or give by_refitting refits={len(sets) * r} (or seeds=)"
            )
        everything = torch.arange(n)
        wanted = [(everything[~torch.isin(everything, rows)], seed) for rows in sets for seed in range(r)]
        outputs = self._outputs(X, wanted)
        g = len(outputs) // r
        after = self.problem.measured(outputs[: g * r], y, measure)
        moved = after.view(g, r, -1) - before
        error = moved.std(1) / r**0.5 if r > 1 else torch.zeros_like(moved[:, 0])
        return _Changes(moved.mean(1).T, error.T, _spread(before), r)

    def _outputs(self, X: Any, wanted: Sequence[tuple[Tensor, int]]) -> Float[Tensor, "s m c"]:
        """Outputs for X of models trained on the rows kept with those seeds: the first of them, if time runs out."""
        m, c = self.problem.outputs(self.problem.model, X).shape
        words = f"{self.fingerprint} {content_hash(content_of(X), repr((m, c)))}"
        trainings = [Training(kept, seed, content_hash([kept], f"{words} {seed}")) for kept, seed in wanted]
        left = [one for one in trainings if one.name not in self._known]
        asked, began = Asked(self.problem, X, (m, c)), time.monotonic()
        results = trained(asked, left, folder=self.budget.folder, jobs=self.budget.jobs)
        try:
            for training, result in zip(left, results, strict=True):
                self._known[training.name] = result
                if self.budget.seconds is not None and time.monotonic() - began > self.budget.seconds:
                    break
        except KeyboardInterrupt:
            if trainings[0].name not in self._known:
                raise
        found = []
        for one in trainings:
            if one.name not in self._known:
                break
            found.append(self._known[one.name])
        return torch.stack(found)

    def _scores(
        self,
        effect: Tensor,
        error: Tensor,
        test: Any,
        measure: Measure | None,
        words: list[str],
        columns: Tensor | None = None,
    ) -> Scores:
        """Effects as Scores, with all that is known about them."""
        problem = self.problem
        provenance = {"fingerprint": self.fingerprint, "settings": [repr(problem.estimator)]}
        return Scores(
            -problem.n * effect,
            problem.n,
            measure=name_of(measure),
            columns=columns,
            ids=problem.train_index,
            test_ids=batch_index(test) if measure is None or not measure.single else None,
            errors=error,
            said=(*words, *(f"{note[0].upper()}{note[1:]}." for note in problem.notes)),
            provenance={**provenance, "keep": "refits", "notes": list(problem.notes)},
        )


def _spread(values: Float[Tensor, "r m"]) -> Float[Tensor, " m"]:
    return values.std(0) if len(values) > 1 else torch.zeros_like(values[0])


def _seeds_in_words(seeds: int) -> str:
    return (
        "one each, for the random state changes nothing"
        if seeds == 1
        else f"the mean over {seeds} random states"
    )


def _noise(found: _Changes, measure: str) -> list[str]:
    """How the effects compare with what the random state does, in a sentence."""
    if found.seeds == 1:
        return []
    below = float((found.change.abs() < found.noise[:, None]).double().mean())
    factor = float(stats.t.ppf(0.975, found.seeds - 1))  # few seeds: the error itself is an estimate
    sure = float((found.change.abs() > factor * found.error).double().mean())
    return [
        f"Another random state alone moves the {measure} by {float(found.noise.median()):.2g} (standard deviation, "
        f"median): {below:.0%} of the effects are below that noise of the seed. {sure:.0%} are more than {factor:.2f} "
        "standard errors from 0 (Student's t), where chance alone makes 5%."
    ]


def by_refitting(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    refits: int = 500,
    seconds: float | None = None,
    seeds: int = 10,
    share: float = 0.5,
    jobs: int = 1,
    folder: str | Path | None = None,
    seed: int = 0,
) -> Refits:
    """Answers about any estimator with `fit` and `predict` by training it again: forests, neighbours, pipelines.

    Leave-one-out (`of_each_removal`), groups (`of_removal`), a score of every row from random subsets (`on_loss`) and
    each row as models say it that have not seen it (`out_of_bag`), with standard errors, for any measure. `explain` and
    `mislabeled` take it in the place of an `Influence`. Pipelines are fitted again whole. Nothing is trained before the
    first question.

    Args:
        estimator: fitted or not; copies are trained, it is not changed.
        X: n training rows as the estimator takes them.
        y: n targets.
        sample_weight: the weights (n,) that `fit` takes, or None.
        refits: the budget: the most trainings behind one answer.
        seconds: after which no further training is begun; None: no limit.
        seeds: trainings with other random states behind each removal, at least 2; one does where they change nothing.
        share: the probability with which each row is in a random subset; 1/2 gives Banzhaf values, near 1 what rows do
            to nearly all the data, with larger standard errors.
        jobs: trainings at once; -1 as many as there are processors.
        folder: where results are kept, by their content: a killed job goes on from there, and nothing is trained twice.
        seed: of the subsets, and of a `random_state` that is not a number.

    Returns:
        What answers. Its effects have the sign and scale of `Influence`.

    Raises:
        TypeError: for what has no `fit` and `predict`.
        ValueError: for lengths that do not fit, and options out of range.
        ImportError: without scikit-learn.

    >>> import numpy as np
    >>> from sklearn.neighbors import KNeighborsRegressor
    >>> X, y = np.arange(4.0)[:, None], np.array([0.0, 1.0, 2.0, 9.0])
    >>> found = by_refitting(KNeighborsRegressor(1), X, y)
    >>> found.of_each_removal(
    ...     (X[3:], y[3:]), [3, 0]
    ... ).effect()  # without the last row it says 2: a loss of 49 / 2
    tensor([[24.5000,  0.0000]], dtype=torch.float64)
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as missing:
        raise ImportError('by_refitting needs scikit-learn: pip install "upweight[sklearn]"') from missing
    if not 0 < share < 1 or seeds < 2:
        raise ValueError(
            f"share must be a probability and seeds >= 2 (one tells nothing of noise), got {share} and {seeds}"
        )
    if sample_weight is not None and not isinstance(sample_weight, pd.Series):
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
    problem = Trainable(estimator, X, y, sample_weight, seed)
    return Refits(problem, Budget(refits, seconds, jobs, folder), share, seeds)
