"""What every problem offers to curvatures, influence and verification: the objective's values and derivatives.

R(theta) = (1/n) sum_i w_i l(z_i, theta) + 1/2 sum_j l2_j theta_j^2
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float, Int

from .capabilities import Facts, LayerGradients, Reduced, Replays, SecondDerivative, Stages
from .data.class_counts import ClassCounts
from .data.column_scales import ColumnScales
from .data.design import Design
from .data.user_terms import Terms
from .data.weights import check_theta, check_weights
from .linalg.flat_vectors import Layout
from .linalg.outer_products import Outer
from .losses import LinearLoss, Parts
from .measures import MeasureLike
from .outputs import OutputModel
from .penalty import Penalty
from .runtime.distributed import gather_rows
from .runtime.fingerprint import Identified
from .runtime.unchanging import derived
from .types import Keep, Params, Tensor

Self = TypeVar("Self", bound="Objective")
Linear = TypeVar("Linear", bound="LinearModel")
CHANGEABLE = frozenset({"theta", "weights", "l2", "keep", "terms"})


class Objective(Identified):
    """The objective that training minimised, at the parameters it arrived at.

    A gradient of a *training* example is that of w_i l(z_i, theta), plus l2 * theta where `keep="mean"` (footnote 1).
    Gradients of *test* examples have neither weight nor penalty. A problem never changes: `changed` gives a copy. Data
    changed in place raise `StaleError` at the next question.
    """

    layout: Layout
    """The order and shapes of the parameters in a flat vector."""
    theta: Float[Tensor, " p"]
    """The parameters that training arrived at."""
    weights: Float[Tensor, " n"]
    """The weight w_i >= 0 of each training example."""
    penalty: Penalty
    """l2 per parameter, and what of it a retraining without some examples keeps."""
    terms: Terms
    """The user's own terms: the form of their batches and the names of rows, columns and classes."""
    stages: Stages | None = None
    """The derivatives of a model that was trained stage by stage, and has no Hessian; None for all others."""
    reduced: Reduced | None = None
    """What is left without some rows, of few parameters; None for others, and linear models, which do better."""
    replays: Replays | None = None
    """The recorded training of the model without some rows; None where it was not recorded."""

    def changed(self: Self, **fields: Any) -> Self:
        """A copy with other values of some fields; nothing that was computed from the old ones comes along.

        `fields` are `theta` (p,), `weights` (n,), `l2` (a number or (p,)), `keep` ("mean" or "total") or `terms`.
        Raises TypeError for any other field, ValueError for a value of another shape, negative or infinite.

        >>> import torch
        >>> from upweight import LinearProblem, Squared
        >>> LinearProblem(torch.eye(1), [0.0], [0.0], loss=Squared()).changed(l2=1.0).l2
        tensor([1.], dtype=torch.float64)
        """
        if unknown := ", ".join(sorted(fields.keys() - CHANGEABLE)):
            known = ", ".join(sorted(CHANGEABLE))
            raise TypeError(f"of a problem {known} can be changed, not {unknown}: make it anew")
        found = {name: fields[name] for name in fields.keys() & {"terms"}}
        if "theta" in fields:
            found["theta"] = check_theta(fields["theta"], self.theta)
        if "weights" in fields:
            found["weights"] = check_weights(fields["weights"], self.n).to(self.device)
        if fields.keys() & {"l2", "keep"}:
            found["penalty"] = Penalty.of(
                fields.get("l2", self.l2), self.theta, fields.get("keep", self.keep), self.penalty.slope
            )
        return self._copy(**found)

    def at(self: Self, theta: Float[Tensor, " p"]) -> Self:
        """The problem at other parameters (p,), as `changed(theta=theta)` gives it: the data are shared."""
        return self.changed(theta=theta)

    @property
    @abstractmethod
    def n(self) -> int:
        """The number of training examples, on all processes together."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What the defaults of curvature, damping and solver need to know of it."""

    @property
    def p(self) -> int:
        """The number of parameters that training moved: the length of theta."""
        return self.layout.size

    @property
    def l2(self) -> Float[Tensor, " p"]:
        """The strength of the penalty on each parameter, on the mean loss."""
        return self.penalty.l2

    @property
    def keep(self) -> Keep:
        """What a retraining keeps: the penalty on the mean loss ("mean") or on the total ("total")."""
        return self.penalty.keep

    @property
    def dtype(self) -> torch.dtype:
        """The precision of parameters and answers: float64 for linear problems, the model's own for networks."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where parameters and answers live: the processor for linear problems, the model's device for networks."""
        return self.theta.device

    @property
    @abstractmethod
    def precisions(self) -> tuple[torch.dtype, ...]:
        """The precisions of products, from the fastest to `dtype`."""

    @property
    def params(self) -> Params:
        """Theta by name, each parameter in its own shape; views of theta."""
        return self.layout.unpack(self.theta)

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The columns of X as the model sees them (after a pipeline's transformers), where they have names."""
        return self.terms.feature_names

    @property
    def train_index(self) -> pd.Index | None:
        """The ids of the training rows, where they came with some."""
        return self.terms.train_index

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The class names by their number, where the model's targets are classes and have names."""
        return self.terms.classes

    @property
    @abstractmethod
    def gauge(self) -> Float[Tensor, "q p"] | None:
        """Unit directions along which R is flat whatever the data, orthogonal to all gradients of losses, or None."""

    @property
    @abstractmethod
    def remarks(self) -> tuple[str, ...]:
        """How it is evaluated, where that needs saying among the settings: one sentence each."""

    @property
    @abstractmethod
    def linear(self) -> LinearModel | None:
        """The closed forms of a model whose outputs are linear in its parameters, or None for any other."""

    @property
    @abstractmethod
    def layers(self) -> LayerGradients | None:
        """Gradients as sums of outer products, layer by layer, or None where they have no such form."""

    @property
    def output_model(self) -> OutputModel | None:
        """What the model says of rows, where its outputs are known to be classes or values; else None."""
        return self.linear

    @property
    @abstractmethod
    def hessian(self) -> SecondDerivative:
        """The Hessian H of R at theta, penalty included, as products and as a matrix; damping is the curvature's."""

    @property
    @abstractmethod
    def gauss_newton(self) -> SecondDerivative:
        """The generalised Gauss-Newton matrix (1/n) sum_i w_i J_i^T H_out J_i + diag(l2), never indefinite."""

    @abstractmethod
    def gradient(self) -> Float[Tensor, " p"]:
        """The gradient of R at theta, penalty included, summed over all processes: 0 at an optimum."""

    @abstractmethod
    def train_losses(self) -> Float[Tensor, " n"]:
        """l(z_i, theta) of every training example, without weight and penalty."""

    @abstractmethod
    def train_batch(self, index: Int[Tensor, " b"]) -> Any:
        """Some training examples as a batch, in the order of the index; questions take it as a test batch."""

    @abstractmethod
    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """The gradient of some training examples each, weights and folded penalty included: grad L of Eq. 1."""

    @property
    def folded_penalty(self) -> Float[Tensor, " p"]:
        """The penalty's part of one training example's gradient: l2 * theta, or 0 where the total is kept."""
        return self.penalty.folded(self.theta)

    @property
    @abstractmethod
    def sample_weights(self) -> Float[Tensor, " n"]:
        """The weights of the training examples without what their labels put into them (class weights)."""

    @abstractmethod
    def label_weights(self, batch: Any) -> Float[Tensor, " b"]:
        """What the label of each example of `batch` puts into its weight in training: its class weight, else 1."""

    def gradients_as_train(self, batch: Any, weights: Tensor | None = None) -> Float[Tensor, "b p"]:
        """The gradients that examples of `batch` would have in training: with `weights` (b,) or 1, and the penalty."""
        g = self.test_gradients(batch)
        return (g if weights is None else g * weights.to(g)[:, None]) + self.folded_penalty

    @abstractmethod
    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        """S . g_i for every row s and training example i, block by block: the streamed pass behind all scores (R11).

        Weight and folded penalty are included. `rows` are flat or outer products of the weight matrices of `layers`;
        `within` is by default this process's share of all.
        """

    def all_products(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k n"]:
        """The products (k, n) of k rows with the gradients of all training examples, gathered from all processes."""
        own = [values.T for _, values in self.products(rows)]
        return gather_rows(torch.cat([rows.new_zeros(0, len(rows)), *own])).T

    @abstractmethod
    def evaluate(
        self, batch: Any, measure: MeasureLike | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        """The measure of each test example: default the loss; a measure of the whole batch is one number, (1,).

        Args:
            batch: m test examples, as (inputs, targets) or a mapping.
            measure: what is asked about.
            theta: other parameters (p,) than the problem's own.
        """

    @abstractmethod
    def test_gradients(self, batch: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        """The gradient of the measure (default: the loss) of each test example in the parameters: grad L(z_test)."""

    @abstractmethod
    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        """The derivative of s . grad L(z) in the inputs of z, for every row s and example z of `batch`.

        Args:
            batch: b examples as training sees them.
            rows: k vectors s.
            at: a layer of a network, whose outputs are the inputs then.
        """

    @abstractmethod
    def subset(self: Self, index: Int[Tensor, " b"]) -> Self:
        """The problem on some of the training examples, in the order of the index, at the same theta and penalty."""

    @abstractmethod
    def retrained(self: Self, module: torch.nn.Module) -> Self:
        """The problem at what a retraining gave: a module whose parts are called as those of the problem's own model.

        All of it counts, buffers and fixed parameters too. Raises ValueError where one is missing or of another shape.
        """

    @abstractmethod
    def hashed(self) -> list[Tensor]:
        """The data and settings that the fingerprint covers, besides theta and penalty; a pass over the data."""

    def identity(self) -> tuple[list[Tensor], str]:
        penalty = [part for part in (self.l2, self.penalty.slope) if part is not None]
        return [self.theta, *penalty, *self.hashed()], repr((self.n, self.keep, self.layout))

    @derived
    def spectra(self) -> dict[str, tuple[float, float]]:
        """The ends of the spectrum of "Hessian" and "GaussNewton", without damping, once somebody looked."""
        return {}


class LinearModel(Objective):
    """An objective of a model linear in its parameters, in closed form: eta = X theta, H = X^T W X / n + diag(l2)."""

    loss: LinearLoss
    design: Design
    y: Tensor  # the encoded targets, (n,) or (n, c)
    class_weights: Float[Tensor, " k"] | None  # what the weights of each class's examples were multiplied by
    counts: ClassCounts | None  # what tells class weights that follow the counts of the classes
    scales: ColumnScales | None  # likewise the scales of columns, where these are scaled anew

    @property
    def linear(self) -> LinearModel:
        return self

    @property
    @abstractmethod
    def c(self) -> int:
        """The number of outputs per example: 1 for binary models and regression, the classes of softmax."""

    @property
    @abstractmethod
    def d(self) -> int:
        """The number of columns of X, the intercept's constant not among them."""

    @property
    @abstractmethod
    def has_intercept(self) -> bool:
        """Whether the model has an intercept for each output, at the end of theta."""

    @abstractmethod
    def value(self) -> float:
        """The objective R(theta) that training minimised, penalty included."""

    @abstractmethod
    def prepared(self, batch: Any) -> tuple[Design, Any]:
        """A test batch as the model computes with it, (X, targets); what is prepared already stays as it is."""

    @abstractmethod
    def encode(self, targets: Any, count: int) -> Tensor:
        """Targets of `count` examples, checked, as the loss wants them."""

    @abstractmethod
    def outputs(self, design: Design | None = None, theta: Tensor | None = None) -> Float[Tensor, "b c"]:
        """The outputs eta of those rows (default: the training rows) at theta or other parameters."""

    @abstractmethod
    def outputs_at_each(self, thetas: Tensor, design: Design | None = None) -> Iterator[tuple[slice, Tensor]]:
        """The outputs (b, c, k) of those rows (default: the training rows) at thetas (k, p), some rows at a time."""

    @abstractmethod
    def derivatives(self, dtype: torch.dtype = torch.float64) -> Parts:
        """Losses and derivatives in the outputs of every training example, at theta, weights folded in."""

    @abstractmethod
    def evaluate_each(
        self, batch: Any, thetas: Float[Tensor, "k p"], measure: MeasureLike | None = None
    ) -> Float[Tensor, "k m"]:
        """`evaluate` at each of k parameter vectors.

        Args:
            batch: m test examples.
            thetas: the parameters.
            measure: as there.
        """

    @abstractmethod
    def measured(self, eta: Tensor, targets: Any, measure: MeasureLike | None = None) -> Tensor:
        """The measure (k, m) of m test examples with known outputs.

        Args:
            eta: k stacks of outputs.
            targets: of the m examples, as `prepared` gives them.
            measure: one number per example, default the loss.
        """

    @abstractmethod
    def output_gradients(self, batch: Any) -> Float[Tensor, "m c p"]:
        """The gradient of each of the c outputs of each example of `batch` in the parameters."""

    @abstractmethod
    def hessian_roots(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b c p"]:
        """C_i (c, p) of those training examples: C_i^T C_i is the Hessian of w_i l(z_i) (see `Parts.signed_root`)."""

    @abstractmethod
    def feature_gradients(self, batch: Any, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k b d"]:
        """`input_gradients` in the columns of X: where a frozen network ends."""

    @abstractmethod
    def gradients_without(self, sets: Sequence[Tensor], thetas: Tensor | None = None) -> Float[Tensor, "g p"]:
        """The gradient of the objective without each set of training rows, at its own parameters or the problem's."""

    @abstractmethod
    def without(self: Linear, rows: Int[Tensor, " k"]) -> Linear:
        """The problem without those training rows, at the same parameters; the penalty by the convention `keep`."""

    @abstractmethod
    def relabelled(self: Linear, rows: Int[Tensor, " k"], targets: Tensor) -> Linear:
        """The problem with those encoded targets in place of the rows' own, at the same parameters."""

    @abstractmethod
    def with_design(self: Linear, design: Design) -> Linear:
        """The problem with another X (n, d) of the same examples, at the same parameters; attacks change X so."""

    @abstractmethod
    def with_loss(self: Linear, loss: LinearLoss) -> Linear:
        """The problem with another loss of the same targets, at the same parameters: a softer hinge, say."""

    @abstractmethod
    def minimised(self: Linear, tolerance: float | None = None) -> Linear:
        """The problem at its optimum, to a gradient norm of `tolerance` or 1e-8 of one example's (`GradientScale`)."""
