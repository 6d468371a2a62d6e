"""What every problem offers to curvatures, influence and verification: the objective's values and derivatives.

R(theta) = (1/n) sum_i w_i l(z_i, theta) + 1/2 sum_j l2_j theta_j^2

Nobody asks a problem for its class. What only some can do is a capability, a typed object or None: `linear`, `layers`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, overload

import pandas as pd
import torch
from jaxtyping import Float, Int

from .data.design import Design
from .data.user_terms import Terms
from .errors import StaleError
from .linalg.flat_vectors import Layout
from .linalg.outer_products import Outer, Pairs, WeightLayout
from .losses import LinearLoss, Parts
from .measures import Measure, MeasureLike
from .penalty import Penalty
from .runtime.distributed import gather_rows
from .runtime.fingerprint import FORMAT, content_hash
from .types import Keep, Operator, Params, Tensor, as_tensor

T = TypeVar("T")
Self = TypeVar("Self", bound="Objective")


class derived(Generic[T]):  # noqa: N801 - used like `property`
    """A property that is computed once and kept in the problem's cache, which no copy takes along."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    @overload
    def __get__(self, problem: None, owner: Any = None) -> derived[T]: ...

    @overload
    def __get__(self, problem: Objective, owner: Any = None) -> T: ...

    def __get__(self, problem: Objective | None, owner: Any = None) -> derived[T] | T:
        if problem is None:
            return self
        name = self.compute.__name__
        if name not in problem.cache:
            problem.cache[name] = self.compute(problem)
        return problem.cache[name]


@dataclass(frozen=True)
class Facts:
    """What defaults need to know about an objective.

    `n` training examples, `p` parameters, `c` outputs per example. `convex` says whether the Hessian is positive
    semi-definite at every theta, `linear` whether the outputs are linear in the parameters and the loss is convex in
    them, so that the Gauss-Newton matrix is the Hessian. `closed_form` problems differentiate without autograd: two
    passes over their data are equal by construction, and the gradient costs no pass of its own.
    """

    n: int
    p: int
    c: int
    convex: bool
    linear: bool
    closed_form: bool


class SecondDerivative(ABC):
    """The Hessian of R or its Gauss-Newton matrix, penalty included, in every form that a solver asks for."""

    @abstractmethod
    def product(self, dtype: torch.dtype | None = None) -> Operator:
        """Rows (k, p) -> rows (k, p), prepared once for many products, in the precision `dtype`."""

    @abstractmethod
    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The explicit matrix; p^2 numbers."""

    @abstractmethod
    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        """Row by row the product with the curvature of that row's own sample of training examples."""

    @abstractmethod
    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        """Random vectors whose covariance is this matrix without penalty, at the price of k gradients.

        Raises TypeError where it may have negative eigenvalues and thus no root, ValueError where the loss is not
        convex in its outputs.
        """

    @abstractmethod
    def root(self) -> Float[Tensor, "r p"] | None:
        """U (r, p) with this matrix = U^T U + diag(l2), where r < p and such a root is at hand, else None."""


class SidesPlan(NamedTuple):
    """How `LayerGradients.pulled_back` looks at the training data.

    `samples` random combinations of the outputs (None: every output), drawn from `seed`; numbers in `precision`.
    """

    samples: int | None
    seed: int
    precision: torch.dtype


class Sides(ABC):
    """One cotangent of the outputs of some examples, pulled back to every weight matrix.

    The gradient of cotangent . outputs in matrix i is sum_t left_t right_t^T, for each example.
    """

    @abstractmethod
    def left(self, i: int) -> Float[Tensor, "b t r"]:
        """The left factors of matrix i."""

    @abstractmethod
    def right(self, i: int) -> Float[Tensor, "b t s"]:
        """The right factors of matrix i; the constant of an intercept comes last."""

    @abstractmethod
    def rest(self) -> Float[Tensor, "b q"]:
        """The entries outside weight matrices."""


class LayerGradients(ABC):
    """Gradients of single examples as sums of outer products, weight matrix by weight matrix."""

    layout: WeightLayout
    """The weight matrices inside theta, and the entries outside all of them."""

    @property
    @abstractmethod
    def parameters(self) -> frozenset[str]:
        """The names of the parameters that weight matrices hold."""

    @abstractmethod
    def shares_right(self, i: int) -> bool:
        """Whether the right factors of matrix i are the same for every cotangent (not so for embeddings)."""

    @property
    @abstractmethod
    def together(self) -> bool:
        """Whether gradients of many examples can be had at once this way, in agreement with plain differentiation."""

    @abstractmethod
    def train_pairs(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Pairs, Float[Tensor, "k b"]]]:
        """Bare gradients of training examples as small factors, and their products with `rows`.

        The examples are those `within`, by default this process's share. Only where `together`.
        """

    @abstractmethod
    def test_pairs(self, batch: Any, measure: Measure | None = None) -> Iterator[Pairs]:
        """The gradients of loss or measure of test examples as small factors, block by block.

        Raises TypeError where not `together`.
        """

    @abstractmethod
    def pulled_back(self, plan: SidesPlan, title: str) -> Iterator[tuple[Iterator[Sides], Float[Tensor, " b"]]]:
        """This process's training examples, some at a time: one `Sides` per cotangent, and the weights w_i.

        The cotangents v of an example's outputs are such that sum_k v v^T is the loss's curvature in the outputs,
        exactly or in expectation. `title` names the pass in the progress bar. Raises ValueError where the loss is not
        convex in its outputs.
        """

    @abstractmethod
    def patiently(self, work: Callable[[], T]) -> T:
        """What `work` gives, tried again from the start in smaller blocks where memory runs out."""


class Objective(ABC):
    """The objective that training minimised, at the parameters it arrived at.

    Every gradient of a *training* example is that of w_i l(z_i, theta), plus l2 * theta where `keep="mean"` (the
    penalty is folded into every L, footnote 1). Gradients of *test* examples have neither weight nor penalty.

    A problem never changes: `changed` gives a copy with other weights, penalty or parameters. What is computed from it
    lives in one cache that a copy does not take along. Data that are changed in place after the problem was made
    raise `StaleError` at the next question.
    """

    layout: Layout
    """The order and shapes of the parameters in a flat vector."""
    theta: Float[Tensor, " p"]
    """The parameters that training arrived at."""
    weights: Float[Tensor, " n"]
    """The weight w_i of each training example."""
    penalty: Penalty
    """l2 per parameter, and what of it a retraining without some examples keeps."""
    terms: Terms
    """The user's own terms: the form of their batches and the names of rows, columns and classes."""
    cache: dict[str, Any]
    """What was computed from all of this."""

    def __init__(self, **fields: Any) -> None:
        """Take validated fields; from then on they are fixed."""
        vars(self).update(fields, cache={})

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"a problem does not change, so that no answer can be about another one: {name!r} cannot be set; make a "
            f"copy with problem.changed({name}=...)"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a problem does not change: {name!r} cannot be deleted")

    def changed(self: Self, **fields: Any) -> Self:
        """A copy with other values of some fields; nothing that was computed from the old ones comes along.

        Args:
            fields: `theta` (p,), `weights` (n,), `l2` (a number or (p,)), `keep` ("mean" or "total") or `terms`;
                by problems themselves also their data.

        Raises:
            TypeError: for a field that the problem does not have.
            ValueError: for a value of another shape, negative or infinite.

        >>> import torch
        >>> from upweight import LinearProblem, Squared
        >>> problem = LinearProblem(torch.eye(2), torch.zeros(2), torch.zeros(2), loss=Squared(), l2=0.5)
        >>> problem.changed(l2=1.0).l2.tolist(), problem.l2.tolist()
        ([1.0, 1.0], [0.5, 0.5])
        """
        fields = dict(fields)
        if fields.keys() & {"l2", "keep"}:
            l2, keep = fields.pop("l2", self.penalty.l2), fields.pop("keep", self.penalty.keep)
            fields["penalty"] = Penalty.of(l2, self.theta, keep)
        unknown = sorted(fields.keys() - vars(self).keys())
        if unknown:
            raise TypeError(f"a {type(self).__name__} has no {', '.join(unknown)} that could be changed")
        other = copy.copy(self)
        vars(other).update(fields, cache={})
        if "theta" in fields:
            vars(other)["theta"] = check_theta(fields["theta"], self.theta)
        if "weights" in fields:
            vars(other)["weights"] = check_weights(fields["weights"], other.n).to(self.device)
        return other

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def n(self) -> int:
        """The number of training examples."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What defaults need to know."""

    @property
    def p(self) -> int:
        """The number of parameters."""
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
        """The precision of parameters and answers."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where parameters and answers live."""
        return self.theta.device

    @property
    @abstractmethod
    def precisions(self) -> tuple[torch.dtype, ...]:
        """The precisions that products can be evaluated in, from the fastest to `dtype`."""

    @property
    def params(self) -> Params:
        """Theta by name."""
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
        """The class names by their number, where there are some."""
        return self.terms.classes

    @property
    @abstractmethod
    def gauge(self) -> Float[Tensor, "q p"] | None:
        """Unit directions along which R is flat whatever the data (softmax without penalty), or None.

        Gradients of losses are orthogonal to them, so answers are well defined although the curvature is singular.
        """

    @property
    @abstractmethod
    def remarks(self) -> tuple[str, ...]:
        """How it is evaluated, where that needs saying among the settings: one sentence each."""

    # -- capabilities ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def linear(self) -> LinearModel | None:
        """The closed forms of a model whose outputs are linear in its parameters, or None."""

    @property
    @abstractmethod
    def layers(self) -> LayerGradients | None:
        """Gradients as sums of outer products, or None."""

    @property
    @abstractmethod
    def hessian(self) -> SecondDerivative:
        """The Hessian of R at theta, penalty included."""

    @property
    @abstractmethod
    def gauss_newton(self) -> SecondDerivative:
        """J^T H_out J, the generalised Gauss-Newton matrix of R at theta, penalty included."""

    # -- the objective ---------------------------------------------------------------------------------------------

    @abstractmethod
    def gradient(self) -> Float[Tensor, " p"]:
        """The gradient of R at theta, penalty included."""

    @abstractmethod
    def train_losses(self) -> Float[Tensor, " n"]:
        """l(z_i, theta) of every training example, without weight and penalty."""

    @abstractmethod
    def train_batch(self, index: Int[Tensor, " b"]) -> Any:
        """Those training examples, as a batch."""

    @abstractmethod
    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """The gradients of those training examples, weights and folded penalty included."""

    @property
    def folded_penalty(self) -> Float[Tensor, " p"]:
        """The penalty's part of one training example's gradient: l2 * theta, or 0 where the total is kept."""
        return self.penalty.folded(self.theta)

    def gradients_as_train(self, batch: Any) -> Float[Tensor, "b p"]:
        """The gradients that examples of `batch` would have in training (weight 1, folded penalty)."""
        return self.test_gradients(batch) + self.folded_penalty

    @abstractmethod
    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        """S . g_i for every row s and training example i: the streamed pass behind all scores.

        Args:
            rows: k vectors, flat (k, p) or as outer products of the weight matrices of `layers`.
            within: the training examples, by default this process's share of all.
        """

    def all_products(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k n"]:
        """The products of all training examples, of all processes."""
        own = [values.T for _, values in self.products(rows)]
        return gather_rows(torch.cat([rows.new_zeros(0, len(rows)), *own])).T

    @abstractmethod
    def evaluate(
        self, batch: Any, measure: MeasureLike | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        """The measure of each test example.

        Args:
            batch: m test examples, as (inputs, targets) or a mapping.
            measure: what is asked about, default the loss.
            theta: other parameters (p,) than the problem's own.

        Returns:
            One number per example, (m,); (1,) for measures of a whole batch.
        """

    @abstractmethod
    def test_gradients(self, batch: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m p"]:
        """The gradients of the measure (default: the loss) in the parameters."""

    @abstractmethod
    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        """The derivative of s . grad L(z) in the inputs of z, for every row s and example z of `batch`.

        Args:
            batch: b examples as training sees them.
            rows: k vectors s (k, p).
            at: a layer of a network, whose outputs then take the place of the inputs.
        """

    @abstractmethod
    def subset(self: Self, index: Int[Tensor, " b"]) -> Self:
        """The same parameters and penalty on some of the training examples."""

    # -- what tells that it is still the one that was asked about -----------------------------------------------------

    @abstractmethod
    def check_current(self) -> None:
        """Raise `StaleError` if the live model or the training data have moved since the problem was made.

        Small data are compared whole, of large ones a sample of rows: at each question that costs a millisecond.
        """

    @abstractmethod
    def hashed(self) -> list[Tensor]:
        """The data and settings that the fingerprint covers, besides theta and penalty; a pass over the data."""

    def fingerprint(self) -> str:
        """A content hash of weights, data and settings: equal problems give equal answers."""
        if "fingerprint" not in self.cache:
            self.cache["fingerprint"] = self._fingerprint()
        return self.cache["fingerprint"]

    def _fingerprint(self) -> str:
        settings = repr((FORMAT, self.n, self.keep, self.layout))
        return content_hash([self.theta, self.l2, *self.hashed()], settings)

    def check_unmoved(self) -> None:
        """Raise `StaleError` if any number of the training data moved since the fingerprint was taken; reads them all.

        Before scores are kept for others to read, a sample of rows would not do.
        """
        if self.fingerprint() != self._fingerprint():
            raise StaleError(
                "the training data changed in place since this problem was made: make the problem anew, or give it a "
                "copy of the data"
            )

    @derived
    def spectra(self) -> dict[str, tuple[float, float]]:
        """The ends of the spectrum of "Hessian" and "GaussNewton", without damping, once somebody looked."""
        return {}


class LinearModel(Objective):
    """An objective whose model is linear in its parameters: eta = X theta, H = X^T W X + diag(l2), all in closed form.

    Letters: d columns of X, c outputs; targets are `encoded` as the loss wants them.
    """

    loss: LinearLoss
    design: Design
    """X (n, d)."""
    y: Tensor
    """The encoded targets, (n,) or (n, c)."""

    @property
    def linear(self) -> LinearModel:
        return self

    @property
    @abstractmethod
    def c(self) -> int:
        """Outputs per example."""

    @property
    @abstractmethod
    def d(self) -> int:
        """Columns of X."""

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
    def outputs_at_each(self, design: Design, thetas: Float[Tensor, "k p"]) -> Iterator[Float[Tensor, "b c k"]]:
        """The outputs of those rows at each of k parameter vectors, some rows at a time."""

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
            thetas: parameters (k, p).
            measure: what is asked about, default the loss.
        """

    @abstractmethod
    def output_gradients(self, batch: Any) -> Float[Tensor, "m c p"]:
        """The gradient of each output of each example of `batch`."""

    @abstractmethod
    def hessian_roots(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b c p"]:
        """C_i (c, p) of those training examples: C_i^T C_i is the Hessian of w_i l(z_i), without penalty."""

    @abstractmethod
    def feature_gradients(self, batch: Any, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k b d"]:
        """`input_gradients` in the columns of X: where a frozen network ends."""

    @abstractmethod
    def gradients_without(
        self, sets: list[Int[Tensor, " _"]], thetas: Float[Tensor, "g p"] | None = None
    ) -> Float[Tensor, "g p"]:
        """The gradient of the objective without each set of training rows, at its own parameters.

        Without `thetas` all are at the problem's own parameters, and only the removed rows are looked at.
        """

    @abstractmethod
    def without(self, rows: Int[Tensor, " k"]) -> LinearModel:
        """The problem without those training rows, at the same parameters; the penalty by the convention `keep`."""

    @abstractmethod
    def relabelled(self, rows: Int[Tensor, " k"], targets: Tensor) -> LinearModel:
        """The problem with those encoded targets in place of the rows' own, at the same parameters."""

    @abstractmethod
    def with_design(self, design: Design) -> LinearModel:
        """The problem with other numbers in X, at the same parameters."""

    @abstractmethod
    def minimised(self, tolerance: float = 1e-9) -> LinearModel:
        """The problem at its optimum, from theta on, to that gradient norm. Raises `NotConvergedError`."""


def check_theta(theta: Tensor, before: Tensor) -> Tensor:
    """Parameters (p,) in the precision of the earlier ones. Raises ValueError for another shape."""
    if theta.shape != before.shape:
        raise ValueError(f"theta must have shape {tuple(before.shape)}, got {tuple(theta.shape)}")
    return theta.detach().to(before).clone()


def check_weights(weights: Any, n: int) -> Tensor:
    """Per-example weights (n,), finite and >= 0, or ones; a copy of the user's."""
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    w = as_tensor(weights).to(torch.float64, copy=True)
    if w.shape != (n,):
        raise ValueError(f"weights must have shape ({n},), got {tuple(w.shape)}")
    if not bool((w >= 0).all() and w.isfinite().all()):
        raise ValueError("weights must be finite and >= 0")
    if not bool(w.any()):
        raise ValueError("weights are all zero: nothing was trained on")
    return w
