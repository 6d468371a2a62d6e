"""A trained ensemble of trees as a problem in its leaf values, the structure held fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int

from ..capabilities import Facts, LayerGradients, SecondDerivative
from ..data.names import paired_targets
from ..data.user_terms import Terms
from ..linalg.flat_vectors import Layout
from ..linalg.outer_products import Outer, written_out
from ..losses import LinearLoss
from ..measures import Measure, MeasureLike, as_measure
from ..objective import LinearModel, Objective
from ..outputs import (
    check_probabilities,
    encoded,
    in_bytes,
    measure_slopes,
    measured,
    one_per_example,
)
from ..penalty import Penalty
from ..types import Tensor
from .passes import fit, row_equations
from .seen import Fitted
from .stages import READ, Boosting
from .trained import Trained

WRITTEN = 1 << 30
"""Numbers of rows and leaf values that are written out at most: 8 GB."""


ROWS = "training rows"
"""What stands for training rows in a batch, by their number: their leaves are known."""


class Found(NamedTuple):
    """Examples of a batch: their leaves (t, m), their targets as the user has them, and which training rows they are.

    Of training rows the targets are encoded.
    """

    leaf: Tensor
    y: Any
    rows: Tensor | None


class TreeProblem(Objective):
    """Boosted trees, or a forest, as they were trained: each round's leaf values at the scores that the others left.

    Theta is the start score of each output and then the leaf values, round by round. They minimise no objective, but
    solve one equation for each leaf (`stages`); up-weighting a training row moves the leaves that it is in, and through
    the scores of all rows those of later rounds. Which rows share a leaf is held fixed: retraining would split anew.

    Args:
        trained: structure, loss, start, targets and weights.
        fitted: the leaf values.
        terms: the user's terms; `prepare` gives what `trained.structure.apply` takes.
        class_weights: what the weights of each class's rows were multiplied by (k,), or None.
    """

    trained: Trained
    fitted: Fitted
    class_weights: Tensor | None
    stages: Boosting

    def __init__(
        self, trained: Trained, fitted: Fitted, terms: Terms, class_weights: Tensor | None = None
    ) -> None:
        theta = fitted.theta.clone()
        super().__init__(
            trained=trained,
            fitted=fitted,
            theta=theta,
            layout=Layout(
                ("start", "leaves"),
                ((trained.structure.c,), (trained.structure.p - trained.structure.c,)),
            ),
            weights=trained.w.clone(),
            penalty=Penalty.of(0.0, theta, "total"),
            terms=terms,
            class_weights=class_weights,
            stages=Boosting(trained, fitted),
        )

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return self.trained.n

    @property
    def c(self) -> int:
        """The number of scores per row."""
        return self.trained.structure.c

    @property
    def facts(self) -> Facts:
        return Facts(self.n, self.p, self.c, convex=False, linear=False, closed_form=True, own_loss=False)

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return (torch.float64,)

    @property
    def gauge(self) -> None:
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        return (
            "The splits of the trees are held fixed: a retraining without a row may split otherwise, and moves single "
            "predictions by more than most single rows do: ask about groups of rows too; `verify` prints both.",
        )

    @property
    def linear(self) -> LinearModel | None:
        return None

    @property
    def layers(self) -> LayerGradients | None:
        return None

    @property
    def output_model(self) -> TreeProblem:
        return self

    @property
    def loss(self) -> LinearLoss:
        """The loss of the scores."""
        return self.trained.loss.loss

    @property
    def y(self) -> Tensor:
        """The encoded targets of the training rows."""
        return self.trained.targets

    @property
    def hessian(self) -> SecondDerivative:
        raise TypeError(NO_HESSIAN)

    @property
    def gauss_newton(self) -> SecondDerivative:
        raise TypeError(NO_HESSIAN)

    # -- the equations of the leaves -------------------------------------------------------------------------------

    def gradient(self) -> Float[Tensor, " p"]:
        return torch.zeros_like(
            self.theta
        )  # the leaf values are recomputed from the data when the problem is made

    def train_losses(self) -> Float[Tensor, " n"]:
        return self.loss.value(self.fitted.scores, self.trained.targets)

    def train_batch(self, index: Int[Tensor, " b"]) -> Any:
        return {ROWS: index}

    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        self._check_size(len(index))
        return -row_equations(self.trained.rows(index), self.fitted.theta)

    def gradients_as_train(self, batch: Any, weights: Tensor | None = None) -> Float[Tensor, "b p"]:
        """What each example takes from the equations of its leaves, as if it were a training row of those weights."""
        given = self._given(batch)
        w = torch.ones(len(given.targets), dtype=torch.float64) if weights is None else weights.double()
        return -row_equations(replace(given, w=w), self.fitted.theta)

    def _given(self, batch: Any) -> Trained:
        """The examples of a batch as rows of the training: of the weights that their labels give them."""
        leaf, y, index = self._found(batch)
        if index is not None:
            return self.trained.rows(index)
        targets = self.encode(y, leaf.shape[1])
        by_label = self._by_label(targets)
        unseen = None if self.trained.by_label is None else by_label
        return self.trained.others(
            leaf, (targets, self.trained.loss.numbers(targets, self.c)), by_label, unseen
        )

    def _by_label(self, targets: Tensor) -> Float[Tensor, " b"]:
        """The class weight of each of b encoded targets."""
        if self.class_weights is None:
            return torch.ones(len(targets), dtype=torch.float64)
        return self.class_weights[(targets > 0).long() if self.c == 1 else targets.long()]

    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        found = -self.stages.row_products(written_out(rows).double())
        part = within or slice(0, self.n)
        yield part, found[:, part]

    @property
    def sample_weights(self) -> Float[Tensor, " n"]:
        return self.weights / self._by_label(self.trained.targets)

    def label_weights(self, batch: Any) -> Float[Tensor, " b"]:
        return self._by_label(self._given(batch).targets)

    # -- test examples ---------------------------------------------------------------------------------------------

    def _found(self, batch: Any) -> Found:
        if isinstance(batch, Mapping) and READ in batch:
            leaf, y = batch[READ]
            return Found(leaf, y, None)
        if isinstance(batch, Mapping) and ROWS in batch:
            index = batch[ROWS]
            return Found(self.trained.structure.leaf[:, index], self.trained.targets[index], index)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a batch is (inputs, targets), got {type(batch).__name__}")
        X, y = batch
        X, y = (self.terms.prepare or (lambda *both: both))(X, paired_targets(X, y))
        return Found(self.trained.structure.apply(X), y, None)

    def encode(self, targets: Any, count: int) -> Tensor:
        """Targets as the loss takes them, checked."""
        return encoded(self.loss, targets, count, self.c)

    def prepared(self, batch: Any) -> tuple[Tensor, Any]:
        """The leaves (t, m) of m examples, and their targets as the user has them."""
        return self._found(batch)[:2]

    def outputs(self, inputs: Int[Tensor, "t m"]) -> Float[Tensor, "m c"]:
        """The scores of m examples by their leaves, before any link."""
        return self.trained.structure.scores(self.theta[None], inputs)[0]

    def evaluate(
        self, batch: Any, measure: MeasureLike | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        asked, loss = as_measure(measure), self.loss
        leaf, y, _ = self._found(batch)
        eta = self.trained.structure.scores((self.theta if theta is None else theta)[None], leaf)[0]
        if asked is None or not asked.single:
            return measured(loss, eta, y, asked)
        check_probabilities(loss, asked)
        return asked.number(self.params, lambda: (eta, one_per_example(y, len(eta)))).view(1)

    def test_gradients(self, batch: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        asked, structure, loss = as_measure(measure), self.trained.structure, self.loss
        leaf, y, _ = self._found(batch)
        eta = structure.scores(self.theta[None], leaf)[0]
        if asked is None or not asked.single:
            self._check_size(len(eta))
            return structure.gradients(measure_slopes(loss, eta, y, asked), leaf)
        return structure.pulled_back(self._slopes_of_number(eta, y, asked)[:, :, None], leaf)

    def _check_size(self, m: int) -> None:
        """Raises ValueError where numbers for each of m rows and every leaf value would not fit in 8 GB."""
        if m * self.p > WRITTEN:
            raise ValueError(
                f"{m:,} rows times {self.p:,} leaf values are {m * self.p * 8 / 1e9:,.0f} GB: ask about at most "
                f"{max(1, WRITTEN // self.p):,} rows at a time, or about one number of all of them"
            )

    def _slopes_of_number(self, eta: Tensor, y: Any, measure: Measure) -> Float[Tensor, "m c"]:
        measure.check_smooth()
        check_probabilities(self.loss, measure)
        eta = eta.requires_grad_()
        value = measure.number(self.params, lambda: (eta, one_per_example(y, len(eta))))
        return torch.autograd.grad(value, eta, materialize_grads=True)[0]

    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        raise TypeError(
            "trees are constant between their splits, so that nothing has a derivative in the inputs: ask what another "
            "row in its place does, influence.of_change(before, after, test)"
        )

    # -- other problems --------------------------------------------------------------------------------------------

    def refitted(self, w: Float[Tensor, " n"]) -> TreeProblem:
        """The problem with the leaf values that training gives with other weights of its rows, the splits held fixed.

        Weights (n,) of 0 leave rows out. No linearisation: it is what a retraining would give that splits as before.
        """
        trained = self.trained.with_weights(w)
        return TreeProblem(trained, fit(trained), self.terms, self.class_weights)

    def subset(self, index: Int[Tensor, " b"]) -> TreeProblem:
        raise TypeError(
            "the leaf values of trees are those of all training rows: there is no problem on some of them"
        )

    def retrained(self, module: torch.nn.Module) -> TreeProblem:
        raise TypeError(
            "trees are no module: give refit= a function that returns from_estimator of a model trained on those rows"
        )

    # -- what tells that it is still the one that was asked about --------------------------------------------------

    def check_data(self) -> None:
        pass  # leaves, targets and weights are copies

    def hashed(self) -> list[Tensor]:
        structure = self.trained.structure
        rounds = repr(
            [
                (one.rate, one.steps, [(t.output, t.size, t.l1, t.limit) for t in one.trees])
                for one in structure.rounds
            ]
        )
        own = [structure.leaf, self.trained.targets, self.trained.numbers, self.weights, self.fitted.below]
        return [
            *own,
            in_bytes(self.loss),
            torch.tensor(list(rounds.encode()), dtype=torch.uint8),
        ]


NO_HESSIAN = (
    "trees were trained one after the other and minimise no objective: they have no Hessian; leave curvature out, "
    "Influence solves them round by round"
)
