"""Linear models in closed form: with eta = X theta, the gradient of example i is x_i (x) r_i and H = X^T W X.

A linear model is never treated as a network: no automatic differentiation, float64, products at the price of reading X.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..capabilities import AWAY, Facts, LayerGradients, SecondDerivative
from ..data.column_scales import ColumnScales
from ..data.design import Design, as_design
from ..data.design_on_disk import opened
from ..data.names import own_terms, paired_targets
from ..data.user_terms import Terms
from ..data.watch import Watch
from ..data.weights import check_weights
from ..errors import StaleError
from ..frozen import features, pull_back
from ..linalg.outer_products import Outer, written_out
from ..losses import LinearLoss, Parts
from ..measures import MeasureLike, as_measure
from ..objective import LinearModel
from ..outputs import encoded, in_bytes, measured_at_each
from ..runtime.distributed import shard
from ..runtime.unchanging import derived
from ..types import Keep, Tensor, as_tensor, wide
from . import class_weights as by_label
from . import questions
from .arguments import packed, penalised
from .first_pass import first_pass
from .following import scale_factors
from .newton_training import minimise
from .one_layer import OneLayer
from .output_map import OutputMap
from .reduced_gradients import Sets, first_gradients, reduced_gradients
from .second_derivative import LinearHessian, product_rows, rows_at_once


class LinearProblem(LinearModel):
    """A linear model with its loss: R = (1/n) sum_i w_i l(x_i theta, y_i) + 1/2 sum_j l2_j theta_j^2.

    Gradients and curvatures are closed forms (R8), at the price of reading X. Theta is `coef` row by row, then the
    intercepts, as `torch.nn.Linear` orders them. Everything is float64; X stays in its own precision. A problem never
    changes: `changed` and `at` give copies. `fit` trains one, `from_estimator` takes one over from scikit-learn.

    Args:
        X: the training inputs (n, d), dense or SciPy-sparse, or a design on disk (`stream`).
        y: n targets, as `loss` documents them.
        coef: the trained coefficients, (c, d) or (d,).
        intercept: the trained intercepts (c,), or None for a model without.
        loss: the loss of one example, without weight and penalty.
        l2: the strength of the penalty on the mean loss, a number or one per parameter (p,).
        l2_intercept: the strength on the intercepts, 0 unless given.
        weights: the weight w_i of each example (n,), >= 0, 1 unless given.
        class_weights: one number per class that its examples' weights are multiplied by; it follows a changed label.
        slope: what an l1 penalty adds to the gradient (p,), its signs held fixed, or None.
        counted: what each example counts for (n,), where class weights are N / (K N_k) of K classes and follow the
            counts in every removal and retraining. None: class weights stay.
        scales: the columns that are scaled anew in every removal and retraining, as `from_estimator` finds them.
        keep: which retraining is predicted: "mean" (the paper) or "total" (scikit-learn with the same C).
        terms: for data that the user has in another form than X and y, see `Terms`.

    Raises:
        ValueError: for wrong shapes, targets out of range, NaN or infinity (with the first example's index).

    >>> import torch
    >>> from upweight.losses import Logistic
    >>> X, y = torch.eye(4, 3), torch.tensor([0, 1, 0, 1])
    >>> problem = LinearProblem.fit(X, y, loss=Logistic(), l2=0.1)
    >>> problem.n, problem.p, bool(problem.gradient().norm() < 1e-9)
    (4, 3, True)
    """

    map: OutputMap
    """How theta becomes outputs."""
    watch: Watch
    """What tells that X has been changed in place."""

    def __init__(
        self,
        X: Any,
        y: Any,
        coef: Any,
        intercept: Any = None,
        *,
        loss: LinearLoss,
        l2: Any = 0.0,
        l2_intercept: float = 0.0,
        weights: Any = None,
        class_weights: Any = None,
        slope: Any = None,
        counted: Any = None,
        scales: ColumnScales | None = None,
        keep: Keep = "mean",
        terms: Terms | None = None,
    ) -> None:
        design = opened(X)
        theta, to_outputs = packed(coef, intercept, design.shape[1])
        penalty = penalised((l2, l2_intercept), theta, to_outputs, keep, slope)
        n = design.shape[0]
        targets, own = encoded(loss, y, n, to_outputs.c).clone(), check_weights(weights, n)
        by_class = by_label.check_class_weights(class_weights, loss, to_outputs.c)
        super().__init__(
            design=design,
            y=targets,
            theta=theta,
            layout=to_outputs.layout,
            map=to_outputs,
            loss=loss,
            penalty=penalty,
            weights=check_weights(own * by_label.of_labels(by_class, targets), n),
            class_weights=by_class,
            counts=by_label.counts_of(counted, targets, loss.classes(to_outputs.c)),
            scales=scales,
            terms=terms or own_terms(X, y, weights),
            watch=Watch(design.sample, design.versioned),
        )

    @classmethod
    def fit(
        cls,
        X: Any,
        y: Any,
        *,
        loss: LinearLoss,
        outputs: int = 1,
        intercept: bool = False,
        tolerance: float | None = None,
        **options: Any,
    ) -> LinearProblem:
        """The problem at its optimum, trained from zero by Newton steps.

        Args:
            X: the training inputs (n, d), as the constructor takes them.
            y: n targets, as `loss` documents them.
            loss: the loss of one example.
            outputs: the number of outputs c, such as the number of classes of softmax.
            intercept: whether the model has intercepts.
            tolerance: the gradient norm of R at which training ends; None: 1e-8 of one example's share of it.
            options: what else the constructor takes: `l2`, `weights`, `keep`, ...

        Raises:
            NotConvergedError: where the optimum is not reached (separable data without a penalty, say).
        """
        design = opened(X)
        bias = np.zeros(outputs) if intercept else None
        start = cls(design, y, np.zeros((outputs, design.shape[1])), bias, loss=loss, **options)
        return start.minimised(tolerance)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return self.design.shape[0]

    @property
    def d(self) -> int:
        return self.map.d

    @property
    def c(self) -> int:
        return self.map.c

    @property
    def has_intercept(self) -> bool:
        return self.map.intercept

    @property
    def facts(self) -> Facts:
        convex, away = self.loss.convex, self.cache.get(AWAY, "")
        return Facts(self.n, self.p, self.c, convex=convex, linear=convex, closed_form=True, away=away)

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return self.design.precisions

    @property
    def remarks(self) -> tuple[str, ...]:
        return ()

    @property
    def gauge(self) -> Float[Tensor, "q p"] | None:
        return self.map.shifts(self.l2) if self.loss.shift_invariant else None

    @derived
    def layers(self) -> LayerGradients:
        return OneLayer(self, self.map)

    @derived
    def hessian(self) -> SecondDerivative:
        return LinearHessian(self, self.map)

    @property
    def gauss_newton(self) -> SecondDerivative:
        return self.hessian

    # -- outputs and derivatives in them ---------------------------------------------------------------------------

    def outputs(self, design: Design | None = None, theta: Tensor | None = None) -> Float[Tensor, "b c"]:
        design, rows = design or self.design, (self.theta if theta is None else theta).view(1, -1)
        blocks = design.blocks(rows_at_once(self.d), rows.dtype)
        return torch.cat([self.map.forward(block, rows)[:, :, 0] for _, block in blocks])

    def outputs_at_each(
        self, thetas: Float[Tensor, "k p"], design: Design | None = None, size: int = 1024
    ) -> Iterator[tuple[slice, Float[Tensor, "b c k"]]]:
        for part, block in (design or self.design).blocks(size, torch.float64):
            yield part, self.map.forward(block, thetas)

    def derivatives(self, dtype: torch.dtype = torch.float64) -> Parts:
        dtype, known = wide(dtype), self._known_derivatives
        if dtype not in known:
            known[dtype] = self._first_pass[0].to(dtype)
        return known[dtype]

    @derived
    def _known_derivatives(self) -> dict[torch.dtype, Parts]:
        return {torch.float64: self._first_pass[0]}

    @derived
    def _first_pass(self) -> tuple[Parts, Float[Tensor, " p"]]:
        """Losses, derivatives in the outputs and the sum of all gradients: one pass, in float64."""
        return first_pass(self, self.map)

    # -- the objective ---------------------------------------------------------------------------------------------

    def value(self) -> float:
        return float((self.train_losses() * self.weights).mean() + self.penalty.value(self.theta))

    def train_losses(self) -> Float[Tensor, " n"]:
        return self.derivatives().loss

    def gradient(self) -> Float[Tensor, " p"]:
        return self._first_pass[1] / self.n + self.penalty.gradient(self.theta)

    def train_batch(self, index: Int[Tensor, " b"]) -> tuple[Design, Tensor]:
        return self.design.take(index), self.y[index]

    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        X = self.design.take(index).block(slice(None), torch.float64).dense()
        return self.map.outer(self.derivatives().r[index], X) + self.folded_penalty

    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        rows = written_out(rows)
        r = self.derivatives(rows.dtype).r
        constant = rows @ self.folded_penalty.to(rows.dtype)
        within = within or shard(self.n)
        for part, block in self.design.blocks(product_rows(len(rows), self.c), rows.dtype, within):
            eta, own = self.map.forward(block, rows), r[part, :, None]
            scores = eta.mul_(own) if self.c == 1 else torch.bmm(own.mT, eta)
            yield part, scores[:, 0].add_(constant).T

    @property
    def sample_weights(self) -> Float[Tensor, " n"]:
        return by_label.without_labels(self.weights, self.class_weights, self.y)

    # -- test examples ---------------------------------------------------------------------------------------------

    def label_weights(self, batch: Any) -> Float[Tensor, " b"]:
        return by_label.of_batch(self, self.class_weights, batch)

    def prepared(self, batch: Any) -> tuple[Design, Any]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a batch is (inputs, targets), got {type(batch).__name__}")
        X, y = batch
        if isinstance(X, Design):  # rows of `train_batch`: nothing to prepare
            return X, y
        X, y = (self.terms.prepare or (lambda *both: both))(X, paired_targets(X, y))
        if self.terms.network is not None:
            X = features(self.terms.network, X)
        design = as_design(X, "the batch's inputs")
        if design.shape[1] != self.d:
            raise ValueError(f"the batch has {design.shape[1]} columns, the model was trained on {self.d}")
        return design, y

    def encode(self, targets: Any, count: int) -> Tensor:
        return encoded(self.loss, targets, count, self.c)

    def evaluate(
        self, batch: Any, measure: MeasureLike | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        theta = self.theta if theta is None else theta
        return questions.evaluated(self, batch, theta, as_measure(measure))

    def evaluate_each(
        self, batch: Any, thetas: Float[Tensor, "k p"], measure: MeasureLike | None = None
    ) -> Float[Tensor, "k m"]:
        return questions.evaluated_at_each(self, self.map, batch, thetas, as_measure(measure))

    def measured(
        self, eta: Float[Tensor, "k m c"], targets: Any, measure: MeasureLike | None = None
    ) -> Float[Tensor, "k _"]:
        return measured_at_each(self.loss, eta, targets, as_measure(measure))

    def test_gradients(self, batch: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        asked = as_measure(measure)
        if asked is not None and asked.single:
            return questions.gradient_of_number(self, self.map, batch, asked)
        design, y = self.prepared(batch)
        in_outputs = questions.output_derivatives(self, (design, y), asked)
        return self.map.outer(in_outputs, design.block(slice(None), torch.float64).dense())

    def output_gradients(self, batch: Any) -> Float[Tensor, "m c p"]:
        X = self.prepared(batch)[0].block(slice(None), torch.float64).dense()
        return self.map.outer(torch.eye(self.c, dtype=torch.float64).expand(len(X), -1, -1), X)

    def hessian_roots(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b c p"]:
        parts = self.derivatives().take(index)
        S = parts.root() if self.loss.convex else parts.signed_root()[0]
        X = self.design.take(index).block(slice(None), torch.float64).dense()
        return self.map.outer(S.transpose(1, 2), X)

    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        if at is not None:
            raise ValueError(f"a linear problem has no layer {at!r}: leave out at=")
        found = self.feature_gradients(batch, rows)
        if self.terms.network is None or isinstance(batch[0], Design):
            return found
        return pull_back(self.terms.network, as_tensor(batch[0]), found)

    def feature_gradients(self, batch: Any, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k b d"]:
        return questions.feature_gradients(self, self.map, batch, rows)

    # -- other problems ----------------------------------------------------------------------------------------------

    def retrained(self, module: torch.nn.Module) -> LinearProblem:
        return self.at(self.layout.taken(dict(module.named_parameters())))

    def subset(self, index: Int[Tensor, " b"]) -> LinearProblem:
        return self._copy(**self._rows(index))

    def _rows(self, index: Int[Tensor, " b"]) -> dict[str, Any]:
        """The fields of a problem with those training examples."""
        return {
            "design": self.design.take(index),
            "y": self.y[index],
            "weights": self.weights[index],
            "counts": None if self.counts is None else self.counts.take(index),
            "scales": None if self.scales is None else self.scales.take(index),
            "terms": self.terms.take(index),
            "watch": Watch(lambda: []),
        }

    def without(self, rows: Int[Tensor, " k"]) -> LinearProblem:
        kept = torch.ones(self.n, dtype=torch.bool)
        kept[rows] = False
        fields = self._rows(kept.nonzero()[:, 0])
        if self.counts is not None:
            fields |= by_label.followed(self, self.counts.factors([rows])[0], fields["y"], fields["weights"])
        scaled, penalty = scale_factors(self, [rows]), self.penalty.without(len(rows), self.n)
        return self._copy(**fields, penalty=penalty if scaled is None else penalty.on_other_scales(scaled[0]))

    def relabelled(self, rows: Int[Tensor, " k"], targets: Tensor) -> LinearProblem:
        return self._copy(**by_label.relabelled(self, rows, targets))

    def with_design(self, design: Design) -> LinearProblem:
        return self._copy(design=design, watch=Watch(design.sample, design.versioned))

    def with_loss(self, loss: LinearLoss) -> LinearProblem:
        return self._copy(loss=loss)

    def minimised(self, tolerance: float | None = None) -> LinearProblem:
        return minimise(self, tolerance)

    def gradients_without(
        self, sets: Sets, thetas: Float[Tensor, "g p"] | None = None
    ) -> Float[Tensor, "g p"]:
        if thetas is None and self.loss.fits_scale:
            thetas = self.theta.expand(len(sets), -1)
        if thetas is None:
            return first_gradients(self, sets)
        return reduced_gradients(self, self.map, thetas, sets)

    # -- what tells that it is still the one that was asked about -----------------------------------------------------

    def check_data(self) -> None:
        if self.watch.moved():
            raise StaleError(
                "X changed in place since this problem was made: make the problem anew, or give it a copy of X"
            )

    def hashed(self) -> list[Tensor]:
        followed = [] if self.counts is None else [self.counts.counted]
        followed += [] if self.scales is None else [self.scales.values, self.scales.columns]
        settings = in_bytes(self.loss, self.class_weights)
        return [*self.design.buffers(), self.y, self.weights, settings, *followed]
