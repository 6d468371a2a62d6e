"""A classifier by the moments of its classes as a problem: they minimise no loss, but follow from the rows exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int

from ..capabilities import Facts, LayerGradients, Reduced, SecondDerivative
from ..data.names import paired_targets
from ..data.user_terms import Terms
from ..data.weights import check_weights
from ..errors import DerivativeError, NoOptimumError
from ..linalg.outer_products import Outer, written_out
from ..losses import LinearLoss, Logistic, Softmax
from ..measures import MeasureLike, as_measure
from ..objective import LinearModel, Objective
from ..outputs import (
    check_probabilities,
    encoded,
    first_not_finite,
    in_bytes,
    measure_slopes,
    measured,
    one_per_example,
)
from ..penalty import Penalty
from ..runtime.described import described
from ..runtime.distributed import shard
from ..runtime.unchanging import derived
from ..types import Tensor, as_tensor
from .gaussians import Gaussians
from .sums import ClassRows, Moments
from .unit_hessian import UnitHessian

ROWS = "training rows"
"""What stands for training rows in a batch, by their number."""
COLUMNS, TARGETS = "prepared columns", "classes"
"""What a batch that is prepared already is made of."""
HELD = 1 << 26
"""Numbers of gradients that are held at once."""


class MomentProblem(Objective):
    """A classifier whose parameters are the moments of the rows of each class: discriminant analysis, naive Bayes.

    Theta are total weight, mean and sum of squares of each class. They minimise 1/2 |theta - moments(weights)|^2 / n,
    so that the Hessian is the unit matrix over n, and the gradient of a row is minus the move of the moments with its
    weight, whatever is asked about. What a removal leaves has a closed form (`reduced`): no step is taken.

    Args:
        rows: the training rows by class.
        gaussians: how classes are told apart by their moments.
        terms: the user's terms; `prepare` gives columns (m, d) and classes 0..k-1.
    """

    given: ClassRows
    gaussians: Gaussians
    loss: LinearLoss

    def __init__(self, rows: ClassRows, gaussians: Gaussians, terms: Terms) -> None:
        theta = rows.packed(rows.all)
        super().__init__(
            given=rows,
            gaussians=gaussians,
            loss=Logistic() if rows.k == 2 else Softmax(),
            theta=theta,
            layout=rows.layout,
            weights=check_weights(rows.w, len(rows.w)),
            penalty=Penalty.of(1 / len(rows.w), theta, "total"),
            terms=terms,
        )

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return len(self.weights)

    @derived
    def rows(self) -> ClassRows:
        """The training rows by class, with the weights that they have."""
        return self.given if torch.equal(self.weights, self.given.w) else replace(self.given, w=self.weights)

    @property
    def c(self) -> int:
        """The number of outputs: the logit of the second of two classes, else a score of each."""
        return 1 if self.given.k == 2 else self.given.k

    @property
    def y(self) -> Tensor:
        """The encoded targets of the training rows."""
        return self.encode(self.given.codes, self.n)

    @property
    def facts(self) -> Facts:
        return Facts(self.n, self.p, self.c, convex=True, linear=False, closed_form=True, own_loss=False)

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return (torch.float64,)

    @property
    def gauge(self) -> None:
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        return ("The parameters are moments of the rows of each class: what a removal leaves is exact.",)

    @property
    def linear(self) -> LinearModel | None:
        return None

    @property
    def layers(self) -> LayerGradients | None:
        return None

    @property
    def output_model(self) -> MomentProblem:
        return self

    @property
    def hessian(self) -> SecondDerivative:
        if not bool(((self.l2 * self.n - 1).abs() < 1e-9).all()):
            raise ValueError("moments have no penalty: leave l2 as it is")
        return UnitHessian(self.n, self.p)

    @property
    def gauss_newton(self) -> SecondDerivative:
        return self.hessian

    @property
    def reduced(self) -> Reduced:  # type: ignore[override]
        """The moments without some of the rows."""
        return WithoutRows(self)

    # -- the moments -----------------------------------------------------------------------------------------------

    @derived
    def at_theta(self) -> Moments:
        """The moments that theta has."""
        return self.given.unpack(self.theta)

    def gradient(self) -> Float[Tensor, " p"]:
        return (self.theta - self.rows.packed(self.rows.all)) / self.n

    def train_losses(self) -> Float[Tensor, " n"]:
        return self.evaluate(self.train_batch(torch.arange(self.n)))

    def train_batch(self, index: Int[Tensor, " b"]) -> Any:
        return {ROWS: index}

    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        return self.gradients_as_train(self.train_batch(index), self.weights[index])

    def gradients_as_train(self, batch: Any, weights: Tensor | None = None) -> Float[Tensor, "b p"]:
        """Minus the move of the moments with the weight of each example, as if it were a training row."""
        X, y = self.prepared(batch)
        moves = self.rows.moves(X, self.codes(y, len(X)), self.at_theta)
        return -moves if weights is None else -weights.double()[:, None] * moves

    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        part = within or shard(self.n)
        found = self.rows.products(written_out(rows).double(), part, self.at_theta)
        yield part, -found * self.weights[part]

    @property
    def sample_weights(self) -> Float[Tensor, " n"]:
        return self.weights

    def label_weights(self, batch: Any) -> Float[Tensor, " b"]:
        return torch.ones(len(self.prepared(batch)[0]), dtype=torch.float64)

    # -- test examples ---------------------------------------------------------------------------------------------

    def prepared(self, batch: Any) -> tuple[Float[Tensor, "b d"], Any]:
        """The columns of a batch, and its classes 0..k-1."""
        if isinstance(batch, Mapping) and ROWS in batch:
            return self.given.X[batch[ROWS]], self.given.codes[batch[ROWS]]
        if isinstance(batch, Mapping) and COLUMNS in batch:
            return batch[COLUMNS], batch[TARGETS]
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a batch is (inputs, targets), got {type(batch).__name__}")
        X, y = batch
        X, y = (self.terms.prepare or (lambda *both: both))(X, paired_targets(X, y))
        X = as_tensor(X).double()
        if not bool(X.isfinite().all()):
            raise ValueError(f"X has a NaN or infinity, first in example {first_not_finite(X) // X.shape[1]}")
        return X, as_tensor(y)

    def encode(self, targets: Any, count: int) -> Tensor:
        """Targets as the loss takes them, checked."""
        return encoded(self.loss, targets, count, self.c)

    def codes(self, y: Any, count: int) -> Int[Tensor, " b"]:
        """The classes 0..k-1 of `count` examples."""
        targets = self.encode(y, count)
        return (targets > 0).long() if self.c == 1 else targets

    def outputs(self, inputs: Float[Tensor, "m d"]) -> Float[Tensor, "m c"]:
        """The logit of the second class, or the score of each, of m examples."""
        return self._outputs(self.theta, inputs)

    def _outputs(self, theta: Tensor, X: Float[Tensor, "m d"]) -> Float[Tensor, "m c"]:
        if bool(theta.isnan().any()):  # a class is gone
            return X.new_full((len(X), self.c), torch.nan)
        rule = self.gaussians.rule(self.given.unpack(theta))
        return self._said(self.gaussians.scores(rule, X))

    def _said(self, scores: Float[Tensor, "m k"]) -> Float[Tensor, "m c"]:
        return scores[:, 1:] - scores[:, :1] if self.c == 1 else scores

    def evaluate(
        self, batch: Any, measure: MeasureLike | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        asked, (X, y) = as_measure(measure), self.prepared(batch)
        at = self.theta if theta is None else theta
        if asked is None or not asked.single:
            return measured(self.loss, self._outputs(at, X), y, asked)
        return self._number(asked, X, y, at).view(1)

    def _number(self, asked: Any, X: Tensor, y: Any, theta: Tensor) -> Tensor:
        """One number of all examples; NaN where there are no outputs."""
        check_probabilities(self.loss, asked)
        if bool(theta.isnan().any()):
            return theta.new_tensor(torch.nan)
        return asked.number(
            self.layout.unpack(theta), lambda: (self._outputs(theta, X), one_per_example(y, len(X)))
        )

    def test_gradients(self, batch: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        asked, (X, y) = as_measure(measure), self.prepared(batch)
        theta = self.theta.clone().requires_grad_()
        if asked is not None and asked.single:
            asked.check_smooth()
            value = self._number(asked, X, y, theta)
            return torch.autograd.grad(value, theta, materialize_grads=True)[0][None]
        rule = self.gaussians.rule(self.given.unpack(theta))
        fixed = tuple(part.detach() for part in rule)
        slopes = measure_slopes(self.loss, self._said(self.gaussians.scores(fixed, X)), y, asked)
        found: list[Tensor] = []
        for part in torch.arange(len(X)).split(max(1, HELD // self.p)):
            pulled = torch.func.vmap(torch.func.grad(self._along), (None, 0, 0))(fixed, X[part], slopes[part])
            moving = [i for i, of_rule in enumerate(rule) if of_rule.requires_grad]
            ends, along = [rule[i] for i in moving], [pulled[i] for i in moving]
            found += torch.autograd.grad(ends, theta, along, retain_graph=True, is_grads_batched=True)
        return torch.cat([theta.new_zeros(0, self.p), *found]).detach()

    def _along(self, rule: tuple[Tensor, ...], x: Float[Tensor, " d"], slopes: Float[Tensor, " c"]) -> Tensor:
        """The outputs of one example along the slopes of what is asked about."""
        return (self._said(self.gaussians.scores(rule, x[None]))[0] * slopes).sum()

    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        X, y = self.prepared(batch)
        rows = rows.double()
        found = self.rows.input_moves(X, self.codes(y, len(X)), rows, self.at_theta)
        if (
            self.given.smoothing
        ):  # counts rows whatever their weights, which the product will be multiplied by
            known = isinstance(batch, Mapping) and ROWS in batch
            if not known and bool((self.weights != self.weights[0]).any()):
                raise DerivativeError(
                    "what var_smoothing adds moves with rows whatever their weights, and these differ: give the rows "
                    "by number"
                )
            w = self.weights[batch[ROWS]] if known else self.weights[:1]
            found = found + self.rows.spread(X, rows) / w[:, None]
        return -found

    # -- other problems --------------------------------------------------------------------------------------------

    def subset(self, index: Int[Tensor, " b"]) -> MomentProblem:
        raise TypeError("moments are those of all training rows: there is no problem on some of them")

    def without(self, rows: Int[Tensor, " k"]) -> MomentProblem:
        """The problem without those training rows, at the same moments."""
        kept = torch.ones(self.n, dtype=torch.bool)
        kept[rows] = False
        left = self.rows.of(kept.nonzero()[:, 0])
        penalty = Penalty.of(1 / max(len(left.w), 1), self.theta, "total")
        terms = self.terms.take(kept.nonzero()[:, 0])
        return self._copy(given=left, weights=left.w, penalty=penalty, terms=terms)

    def relabelled(self, rows: Int[Tensor, " k"], targets: Tensor) -> MomentProblem:
        """The problem with those encoded targets in place of the rows' own, at the same moments."""
        codes = self.rows.codes.clone()
        codes[rows] = (targets > 0).long() if self.c == 1 else targets
        return self._copy(given=replace(self.rows, codes=codes, classes=self.rows.k))

    def minimised(self) -> MomentProblem:
        """The problem at the moments of its rows; NoOptimumError where no classifier can be fitted to them."""
        at = self.rows.all
        gone = at.total.isnan()
        if bool(gone.any()) or self.gaussians.trouble(at):
            raise NoOptimumError(
                f"no classifier can be fitted: {self.gaussians.trouble(at) or 'a class is gone'}"
            )
        return self.at(self.rows.packed(at))

    def retrained(self, module: torch.nn.Module) -> MomentProblem:
        raise TypeError(
            "a classifier by moments is no module: give refit= a function that returns from_estimator of a model "
            "fitted on those rows"
        )

    # -- what tells that it is still the one that was asked about --------------------------------------------------

    def check_data(self) -> None:
        pass  # columns, classes and weights are copies

    def hashed(self) -> list[Tensor]:
        settings = repr((described(self.gaussians), self.given.smoothing)).encode()
        own = [self.given.X, self.given.codes, self.weights, in_bytes(self.loss)]
        return [*own, torch.tensor(list(settings), dtype=torch.uint8)]


@dataclass(frozen=True, eq=False)
class WithoutRows(Reduced):
    """The moments of the rows that are left: by what the others added, or summed anew from those that are left."""

    problem: MomentProblem
    said = "Effects are exact: those of the moments of the other rows, which a fit without the row has."

    @property
    def editable(self) -> MomentProblem:
        return self.problem

    def known(self, batch: Any) -> dict[str, Any]:
        X, y = self.problem.prepared(batch)
        return {COLUMNS: X, TARGETS: y}

    def newton(self, sets: list[Tensor]) -> Float[Tensor, "g p"]:
        rows = self.problem.rows
        return torch.stack([self._usable(rows.packed(rows.without(gone))) for gone in sets])

    def settled(self, sets: list[Tensor]) -> Float[Tensor, "g p"]:
        return self.newton(sets)

    def refitted(self, rows: Tensor) -> tuple[Float[Tensor, " p"], float]:
        own = self.problem.rows
        return self._usable(own.packed(own.summed_without(rows))), 0.0

    def refusal(self, rows: Tensor) -> str:
        own, names = self.problem.rows, self.problem.classes
        found = own.without(rows)
        gone = found.total.isnan().nonzero()[:, 0].tolist()
        if gone:
            name = gone[0] if names is None else names[gone[0]]
            return (
                f"class {name!r} has no other rows, and a model of the other classes alone is another model"
            )
        return self.problem.gaussians.trouble(found)

    def alone(self, row: int, theta: Float[Tensor, " p"]) -> tuple[Float[Tensor, " c"], Float[Tensor, ""]]:
        there = self.problem.at(theta)
        outputs = there.outputs(there.rows.X[[row]])
        if bool(outputs.isnan().any()):
            return outputs[0], outputs.new_tensor(torch.nan)
        return outputs[0], there.loss.value(outputs, there.y[[row]])[0]

    def leverages(self) -> Float[Tensor, " n"]:
        return torch.full((self.problem.n,), torch.nan, dtype=torch.float64)

    @property
    def estimates(self) -> None:
        return None

    def parts(self, rows: Int[Tensor, " k"], gradient: Float[Tensor, "1 p"]) -> Float[Tensor, "k d_1"]:
        problem = self.problem
        found = problem.rows.by_columns(gradient[0].double(), rows, problem.at_theta)
        return -problem.weights[rows, None] * found

    @property
    def numbers(self) -> int:
        k, d = self.problem.given.k, self.problem.given.X.shape[1]
        return (k - 1) * self.problem.gaussians.numbers(d)

    def _usable(self, theta: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Moments that a classifier can be fitted to, NaN for others."""
        at = self.problem.rows.unpack(theta)
        if bool(at.total.isnan().any()) or self.problem.gaussians.trouble(at):
            return torch.full_like(theta, torch.nan)
        return theta
