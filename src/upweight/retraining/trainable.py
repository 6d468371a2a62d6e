"""Any estimator with `fit` and `predict`, trained on some of its rows: outputs as measures take them, and losses."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..data.names import same_order
from ..data.per_example import per_example
from ..data.user_terms import batch_index, row_index
from ..estimators.refitting import weight_argument
from ..estimators.user_data import Targets
from ..measures import Measure, probability
from ..runtime.described import described
from ..runtime.fingerprint import content_hash
from ..types import Tensor, as_tensor
from .content import content_of

LEAST = float(np.finfo(np.float64).eps)
"""The smallest probability there is, as in scikit-learn's `log_loss`: smaller ones are this."""


@dataclass(frozen=True, eq=False)
class Trainable:
    """An estimator with all its training rows, which trains on some of them.

    The loss is log-loss where the estimator has `predict_proba`, else 1 for a wrong class and 0 for a right one; of
    numbers half the squared error, as `Squared` has it. Outputs are log-odds (or log-probabilities), what
    `decision_function` gives, or predictions.

    Args:
        estimator: anything with `fit` and `predict`; it is copied, never changed.
        X: n rows as the user has them.
        y: n targets.
        sample_weight: their weights (n,), or None.
        seed: takes the place of a `random_state` that is None, so that a training can be repeated.
    """

    estimator: Any
    X: Any
    y: Any
    sample_weight: Any = None
    seed: int = 0
    linear: None = field(default=None, init=False)
    """No closed forms: what linear models have."""

    def __post_init__(self) -> None:
        if not (hasattr(self.estimator, "fit") and hasattr(self.estimator, "predict")):
            raise TypeError(
                f"by_refitting needs an estimator with fit and predict, got {type(self.estimator).__name__}: for a "
                "network of torch make a Problem, or give verify a refit= of your own"
            )
        rows, targets = _length(self.X), _length(self.y)
        if rows != targets or rows < 2:
            raise ValueError(f"X has {rows} rows and y {targets}: give one target per row, two rows or more")
        if self.sample_weight is not None and np.shape(self.sample_weight) != (rows,):
            raise ValueError(f"sample_weight must have shape ({rows},), got {np.shape(self.sample_weight)}")
        for what, values in (("y", self.y), ("sample_weight", self.sample_weight)):
            same_order(values, row_index(self.X), what)

    @property
    def n(self) -> int:
        """The number of training rows."""
        return _length(self.X)

    @property
    def train_index(self) -> pd.Index | None:
        """The ids of the training rows, where they came with some."""
        return batch_index((self.X, self.y))

    @cached_property
    def random_states(self) -> tuple[str, ...]:
        """The settings that say what the training draws from, of the estimator and of what it contains."""
        settings = self.estimator.get_params(deep=True) if hasattr(self.estimator, "get_params") else {}
        return tuple(name for name in settings if name.split("__")[-1] == "random_state")

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What was decided for the user, one sentence each."""
        given = self.estimator.get_params(deep=True) if self.random_states else {}
        free = [name for name in self.random_states if not isinstance(given[name], (int, np.integer))]
        if not free:
            return ()
        return (f"{' and '.join(free)} was not a number and is set to {self.seed} and the numbers after it",)

    @cached_property
    def model(self) -> Any:
        """The estimator fitted on all rows."""
        return self.fitted(torch.arange(self.n), 0)

    def fitted(self, kept: Tensor, repeat: int) -> Any:
        """A copy of the estimator fitted on the rows kept (k,), with the random states of that repetition."""
        from sklearn.base import clone
        from sklearn.utils import _safe_indexing

        model, rows = clone(self.estimator, safe=False), kept.numpy()
        if self.random_states:
            given = model.get_params(deep=True)
            own = {name: given[name] for name in self.random_states}
            model.set_params(
                **{
                    name: (int(value) if isinstance(value, (int, np.integer)) else self.seed) + repeat
                    for name, value in own.items()
                }
            )
        X, y = _safe_indexing(self.X, rows), _safe_indexing(self.y, rows)
        if self.sample_weight is None:
            return model.fit(X, y)
        return model.fit(X, y, **{weight_argument(model): np.asarray(self.sample_weight)[rows]})

    # -- what it says ----------------------------------------------------------------------------------------------

    @cached_property
    def classes(self) -> tuple[Any, ...] | None:
        """The classes of a classifier, in the order of its outputs; None for one that says numbers."""
        found = getattr(self.model, "classes_", None)
        if found is None:
            return None
        if isinstance(found, list) or np.ndim(found) != 1:
            raise ValueError(
                "a classifier of several targets at once is not supported: ask about one target at a time"
            )
        return tuple(np.asarray(found).tolist())

    @cached_property
    def likelihood(self) -> bool:
        """Whether it gives probabilities."""
        return self.classes is not None and hasattr(self.model, "predict_proba")

    @cached_property
    def _decides(self) -> bool:
        return hasattr(self.model, "decision_function")

    def __getstate__(self) -> dict[str, Any]:
        """What other processes need: not the fitted model."""
        return {name: value for name, value in self.__dict__.items() if name != "model"}

    def targets(self, y: Any) -> Tensor:
        """Targets as measures take them: classes 0..c-1, or numbers."""
        return as_tensor(Targets(self.classes)(y))

    def labels(self, rows: Tensor) -> np.ndarray:
        """The targets of some training rows (k,) as the user has them; several of one row become a tuple."""
        given = np.asarray(self.y)[rows.numpy()]
        if given.ndim == 1:
            return given
        found = np.empty(len(given), dtype=object)
        found[:] = [tuple(row) for row in given.tolist()]
        return found

    def outputs(self, model: Any, X: Any) -> Float[Tensor, "m c"]:
        """The outputs of a copy fitted on some rows, with a column for each class that all rows have."""
        if self.classes is None:
            said = np.asarray(model.predict(X), dtype=np.float64)
            return torch.from_numpy(said.reshape(len(said), -1))
        if self.likelihood:
            given = np.asarray(model.predict_proba(X), dtype=np.float64)
            return _of_columns(np.log(np.clip(self._all_classes(model, given), LEAST, 1 - LEAST)))
        if self._decides:
            given = np.asarray(model.decision_function(X), dtype=np.float64)
            if len(model.classes_) != len(self.classes):
                raise ValueError("some class has no rows, and its output is not known")
            return torch.from_numpy(given.reshape(len(given), -1))
        voted = self.targets(model.predict(X)).numpy()
        return _of_columns(np.eye(len(self.classes))[voted])

    def _all_classes(self, model: Any, given: np.ndarray) -> np.ndarray:
        """Probabilities with a column of zeros for each class that no row kept has."""
        found = np.zeros((len(given), len(self.classes or ())))
        found[:, Targets(self.classes)(model.classes_)] = given
        return found

    def certain(self, outputs: Tensor) -> float:
        """The share of rows of which models say some class with a probability of 1."""
        if not self.likelihood:
            return 0.0
        odds = outputs[..., 0].abs() if outputs.shape[-1] == 1 else outputs.amax(-1) - math.log1p(-LEAST)
        bound = -math.log(LEAST) - 1e-9 if outputs.shape[-1] == 1 else -1e-15
        return float((odds >= bound).double().mean())

    def losses(self, outputs: Float[Tensor, "k m c"], targets: Tensor) -> Float[Tensor, "k m"]:
        """The loss of each of m rows in each of k models."""
        if self.classes is None:
            return 0.5 * (outputs - targets.reshape(len(targets), -1)).square().sum(-1)
        if outputs.shape[-1] == 1:
            margins = outputs[..., 0] * (2.0 * targets - 1)
            lost = torch.nn.functional.softplus(-margins) if self.likelihood else (margins <= 0).double()
        elif self.likelihood:
            lost = -outputs.log_softmax(-1).gather(-1, targets.expand(outputs.shape[:-1])[..., None])[..., 0]
        else:
            lost = (outputs.argmax(-1) != targets).double()
        return torch.where(outputs.isnan().any(-1), torch.nan, lost)

    def measured(
        self, outputs: Float[Tensor, "k m c"], y: Any, measure: Measure | None
    ) -> Float[Tensor, "k _"]:
        """The loss or measure of each of m test examples in each of k models, or the one number (k, 1) that it is.

        Args:
            outputs: of the models; NaN of a training that failed.
            y: the targets of the test examples as the user has them.
            measure: what is asked about; None stands for the loss.
        """
        targets, (k, m) = self.targets(y), outputs.shape[:2]
        if measure is None:
            return self.losses(outputs, targets)
        self._check(measure)
        failed = outputs.isnan().flatten(1).any(1)
        known = outputs[~failed]
        if measure.single:
            values = measure.numbers(known, targets)[:, None]
        else:
            values = per_example(measure.function, known.flatten(0, 1), targets.repeat(len(known))).view(
                -1, m
            )
        found = torch.full((k, values.shape[1]), torch.nan, dtype=torch.float64)
        found[~failed] = values.double()
        return found

    def _check(self, measure: Measure) -> None:
        if not measure.uses_batch:
            raise ValueError(f"{measure.name} is of parameters, which refits of any estimator do not share")
        if (measure.probabilities or measure.function is probability) and not self.likelihood:
            raise ValueError(
                f"{measure.name} is about probabilities, and {type(self.estimator).__name__} gives none "
                "(no predict_proba): ask about measures.auroc, accuracy or cohens_d"
            )

    def evaluate(self, batch: Any, measure: Measure | None = None) -> Float[Tensor, " _"]:
        """The loss or measure of each test example, of the estimator fitted on all rows."""
        X, y = batch
        return self.measured(self.outputs(self.model, X)[None], y, measure)[0]

    def fingerprint(self) -> str:
        """A content hash of the estimator's settings and version, of X, y and weights."""
        from sklearn.base import clone

        words = described(clone(self.estimator, safe=False))
        parts = [values for given in (self.X, self.y, self.sample_weight) for values in content_of(given)]
        sizes = [tuple(values.shape) for values in parts]
        return content_hash(parts, repr((sorted(words.items()), sizes, self.seed, self.random_states)))


@dataclass(frozen=True, eq=False)
class Asked:
    """A training whose outcome is what the model says of some rows; a process of its own can do it.

    Args:
        trainable: the estimator and its rows.
        X: the rows that are asked about, as the user has them.
        shape: of the outputs (m, c): NaN where a training fails.
    """

    trainable: Trainable
    X: Any
    shape: tuple[int, int]

    def __call__(self, kept: Tensor, seed: int) -> Float[Tensor, "m c"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were shown when all rows were fitted
            try:
                return self.trainable.outputs(self.trainable.fitted(kept, seed), self.X)
            except Exception:  # an estimator may refuse some rows (one class alone, say) in any way
                return torch.full(self.shape, torch.nan, dtype=torch.float64)


def _length(values: Any) -> int:
    return int(values.shape[0]) if hasattr(values, "shape") else len(values)


def _of_columns(logs: np.ndarray) -> Float[Tensor, "m c"]:
    """One output for two classes, how much more the second has, else one for each."""
    return torch.from_numpy(logs[:, 1:] - logs[:, :1] if logs.shape[1] == 2 else logs)
