"""What objectives can do, as typed objects: second derivatives, gradients by layers; and what defaults ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int

from .linalg.coordinates import Coordinates
from .linalg.outer_products import Outer, Pairs, WeightLayout
from .linalg.rows import Rows
from .measures import Measure
from .types import Operator, Tensor

T = TypeVar("T")
AWAY = "away"
"""Where a problem keeps how far it is from its optimum, in words, among what a changed copy does not take along."""


@dataclass(frozen=True)
class Facts:
    """What defaults need to know about an objective, so that nobody has to ask for its class.

    Args:
        n: the number of training examples.
        p: the number of parameters.
        c: the number of outputs per example.
        convex: whether the Hessian is positive semi-definite at every theta.
        linear: whether the outputs are linear in the parameters and the loss is convex in them, so that the
            Gauss-Newton matrix is the Hessian.
        closed_form: whether it differentiates without autograd: two passes over the data are then equal by
            construction, and the gradient costs no pass of its own.
        straight: whether the loss is linear in the outputs, which then have no Gauss-Newton matrix.
        caution: what must be said with every answer, where the gradients are not the derivatives of the loss; else "".
        away: how far a linear model is from the optimum of its training data, in multiples of one example's share,
            where that is more than one; else "".
        own_loss: whether training minimised the loss that examples have; else an example's part in training is not the
            derivative of its loss.
    """

    n: int
    p: int
    c: int
    convex: bool
    linear: bool
    closed_form: bool
    straight: bool = False
    caution: str = ""
    away: str = ""
    own_loss: bool = True


class SecondDerivative(ABC):
    """The Hessian of R or its Gauss-Newton matrix, penalty included, in every form that a solver asks for.

    A `Curvature` adds the damping. Every process holds the whole answer; the training rows are shared out among them.
    """

    @abstractmethod
    def product(self, dtype: torch.dtype | None = None) -> Operator:
        """The matrix as a function, rows (k, p) -> rows (k, p), prepared once for many products.

        A product with k rows is one pass over the training data. `dtype` is the precision that products are rounded to,
        one of the problem's `precisions` (default: its own); rows have at least float32.
        """

    @abstractmethod
    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The explicit symmetric matrix, p^2 numbers, in the precision `dtype` (default: the problem's own).

        For up to about 10,000 parameters it pays: one factorisation then answers everything.
        """

    @abstractmethod
    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        """Row by row the product with the curvature of that row's own sample of training examples: LiSSA's step (R13).

        Args:
            rows: k vectors.
            index: b training examples for each of them, drawn at random.

        Returns:
            (k, p), whose expectation over the draws is the product with the whole matrix, penalty included.
        """

    @abstractmethod
    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        """Random vectors whose covariance is this matrix without penalty, at the price of k gradients.

        Args:
            k: how many vectors.
            generator: what they are drawn from; it moves on.

        Returns:
            (k, p), of mean 0, independent of each other.

        Raises:
            TypeError: where the matrix may have negative eigenvalues and thus no root.
            ValueError: where the loss is not convex in its outputs.
        """

    @abstractmethod
    def root(self) -> Float[Tensor, "r p"] | Rows | None:
        """U (r, p) with this matrix = U^T U + diag(l2), where r < p and such a root is at hand, else None.

        It is a tensor, or sparse where the inputs are.

        A linear model with n c < p has one: the matrix is then inverted on its smaller side, see `DualFactor`.
        """

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " p"] | None:
        """The diagonal (p,) of this matrix, penalty included, which tells the units of the parameters; None: unknown.

        Its size is what matters: it need not be known to more than a few digits.
        """

    @abstractmethod
    def centred(self) -> tuple[SecondDerivative, Coordinates] | None:
        """The matrix where the columns of the inputs have mean 0, and the coordinates in which that is so.

        None where there is no free intercept that could take over what is subtracted.
        """


class SidesPlan(NamedTuple):
    """How `LayerGradients.pulled_back` looks at the training data.

    Args:
        samples: how many random combinations of the outputs stand for all of them; None takes every output.
        seed: what they are drawn from.
        precision: of the numbers that are gathered.
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
        """The left factors of matrix i: derivatives in the layer's outputs, at each of its t positions."""

    @abstractmethod
    def right(self, i: int) -> Float[Tensor, "b t s"]:
        """The right factors of matrix i: the layer's inputs, at each position; the 1 of an intercept comes last."""

    @abstractmethod
    def rest(self) -> Float[Tensor, "b q"]:
        """The derivatives in the q entries outside all weight matrices, written out."""


class LayerGradients(ABC):
    """Gradients of single examples as sums of outer products, weight matrix by weight matrix.

    r + s numbers then stand for a gradient of r s, which is what EKFAC and fast scores live on. A linear model is one
    layer; a network has one for each `nn.Linear`, convolution and embedding.
    """

    @property
    @abstractmethod
    def layout(self) -> WeightLayout:
        """Where the weight matrices stand inside theta, and which entries are outside all of them."""

    @property
    @abstractmethod
    def parameters(self) -> frozenset[str]:
        """The names of the parameters that weight matrices hold; all others are entries outside them."""

    @abstractmethod
    def shares_right(self, i: int) -> bool:
        """Whether the right factors of matrix i are the same for every cotangent (not so for embeddings)."""

    @property
    @abstractmethod
    def together(self) -> bool:
        """Whether gradients of many examples can be had at once this way, in agreement with plain differentiation.

        It is tried on a few examples. Where a parameter is used past its layer, say, it is False.
        """

    @abstractmethod
    def train_pairs(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Pairs, Float[Tensor, "k b"]]]:
        """Bare gradients of training examples as small factors, and their products with `rows`, block by block.

        Bare means without weight and without folded penalty, in gradients and products alike. Only where `together`.

        Args:
            rows: k vectors, flat or as outer products.
            within: the training examples, by default this process's share.

        Returns:
            An iterator of the place of each block, its gradients and its products.
        """

    @abstractmethod
    def test_pairs(self, batch: Any, measure: Measure | None = None) -> Iterator[Pairs]:
        """The gradients of loss or measure of test examples as small factors, block by block.

        Args:
            batch: test examples.
            measure: what is asked about, one number per example; default the loss.

        Raises:
            TypeError: where not `together`.
        """

    @abstractmethod
    def pulled_back(
        self, plan: SidesPlan, title: str
    ) -> Iterator[tuple[Iterator[Sides], Float[Tensor, " b"]]]:
        """This process's training examples, some at a time: one `Sides` per cotangent, and the weights w_i.

        The cotangents v of an example's outputs are such that sum_k v v^T is the loss's curvature in the outputs,
        exactly or in expectation.

        Args:
            plan: which cotangents, and in which precision.
            title: what the progress bar calls the pass.

        Raises:
            ValueError: where the loss is not convex in its outputs.
        """

    @abstractmethod
    def patiently(self, work: Callable[[], T]) -> T:
        """What `work` gives, tried again from the start in smaller blocks where memory runs out.

        `work` may thus be begun more than once, and must not build on what an earlier try left.
        """


class Reduced(ABC):
    """What is left of an objective of few parameters without some of its rows, where it is no linear model.

    Its gradient and Hessian are those of the rows that are left, also where rows take part in each other's terms.
    """

    said: str = ""
    """How effects by it are got, in a sentence, where it is not by Newton steps."""
    squares: Any = None
    """What it is by its columns, where it is least squares with absorbed effects or instruments."""

    @abstractmethod
    def known(self, batch: Any) -> Any:
        """A batch in a form in which `Objective.evaluate` has nothing to prepare: for many parameters."""

    @abstractmethod
    def newton(self, sets: list[Tensor]) -> Float[Tensor, "g p"]:
        """The parameters after one Newton step of what is left without each set of rows; NaN where there is none."""

    @abstractmethod
    def settled(self, sets: list[Tensor]) -> Float[Tensor, "g p"]:
        """The parameters after as many Newton steps as each set needs; NaN where they do not arrive."""

    @abstractmethod
    def refitted(self, rows: Tensor) -> tuple[Float[Tensor, " p"], float]:
        """The parameters that training arrives at without those rows, and the norm of the gradient there.

        Raises:
            NotConvergedError: where it does not arrive.
        """

    @abstractmethod
    def refusal(self, rows: Tensor) -> str:
        """Why nothing can be trained without those rows, in words; "" where nothing is known against it."""

    @abstractmethod
    def alone(self, row: int, theta: Float[Tensor, " p"]) -> tuple[Float[Tensor, " c"], Float[Tensor, ""]]:
        """The outputs of a training row, and its loss, at parameters `theta` without it; NaN where these are."""

    @abstractmethod
    def leverages(self) -> Float[Tensor, " n"]:
        """The share of its own fit that each training row carries; NaN where that has no meaning."""

    @property
    @abstractmethod
    def editable(self) -> Any:
        """The problem as an `Editable`, where its outputs are classes; None for others."""

    @property
    @abstractmethod
    def estimates(self) -> Any:
        """The problem as `likelihood.Estimates`, where it is fitted by maximum likelihood; None for others."""

    @abstractmethod
    def parts(self, rows: Int[Tensor, " k"], gradient: Float[Tensor, "1 p"]) -> Float[Tensor, "k d_1"] | None:
        """The effects of first order of the removal of k training rows, taken apart by columns, or None.

        The last part is that of the share of the row's class. `gradient` is that of the measure in the parameters.
        """

    @property
    @abstractmethod
    def numbers(self) -> int:
        """How many free numbers the model consists of."""


class Replays(ABC):
    """A model whose training was recorded, and can be gone through again without some of its examples."""

    @abstractmethod
    def without(self, sets: list[Tensor]) -> Iterator[Any]:
        """The problem (an `Objective`) at the end of each replay without a set of training rows, in their order.

        Start, batches and random numbers are those of the run: without any rows it is the run itself.
        """

    @abstractmethod
    def weighted(self, weights: Float[Tensor, "r n"]) -> Iterator[Any]:
        """The problem at the end of each of r replays, whose examples have those multiples of their weights (r, n)."""


class Stages(ABC):
    """A model whose parameters were computed in stages, each at what the stages before it left: boosting.

    They minimise no objective, but solve one equation each, E(theta) = 0, a sum over the training examples. A, the
    derivative of these equations in theta per example of training (over n, as a Hessian is), is lower triangular by
    stages: it takes the place of the Hessian, and is not symmetric.
    """

    @abstractmethod
    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A^-1 v for every row v: how theta moves as its equations do, from the first stage to the last."""

    @abstractmethod
    def solve_transposed(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A^-T v for every row v, the gradients of measures in theta, from the last stage to the first."""

    @abstractmethod
    def product(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A v for every row v, which shows what a solve left over."""

    @abstractmethod
    def recomputed(self, rows: Int[Tensor, " k"]) -> Float[Tensor, " p"]:
        """Theta as training without those rows gives it, whatever else is held fixed: no linearisation.

        NaN where a parameter had no other rows.
        """

    @abstractmethod
    def parts(
        self, rows: Int[Tensor, " k"], solved: Float[Tensor, "1 p"], inputs: Tensor
    ) -> Float[Tensor, "k d_2"] | None:
        """The effects of first order of the removal of k training rows on a test row, taken apart by columns.

        Args:
            rows: numbers of the training rows.
            solved: A^-T times the gradient of the measure.
            inputs: the test row, as `OutputModel.prepared` gives it.

        Returns:
            For each column what goes through it directly, then what goes through the start, and through other
            rows; they add up to the effect. None where the columns are not known.
        """

    @property
    @abstractmethod
    def smooth(self) -> bool:
        """Whether theta has a derivative in the weights of rows: without, only `recomputed` answers."""

    @abstractmethod
    def read(self, prepared: tuple[Tensor, Any]) -> Any:
        """Examples that `OutputModel.prepared` has looked up in all stages, as a batch that nobody looks up again."""

    @property
    @abstractmethod
    def cost(self) -> int:
        """How many rows meet a stage in one pass: what an answer of `recomputed` costs."""

    @abstractmethod
    def free(self) -> Float[Tensor, " p"]:
        """1 for parameters that move with the data, 0 for those that are clipped or empty and stay as they are."""
