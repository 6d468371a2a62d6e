"""Losses of linear models, with their first two derivatives in the outputs.

A loss sees the outputs eta = X theta (b, c) and the targets. Its Hessian in eta is, example by example, diag(a) - u
u^T; that one form covers softmax (a = u = p) and all element-wise losses (u absent), and it is all that `LinearProblem`
needs for products, explicit matrices and the dual side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from ..types import Tensor
from .pairs import Ties, by_votes, classes_of_pairs, signs_in_pairs


class LinearLoss(ABC):
    """A loss l(eta, y) of linear outputs eta, with its first two derivatives; most are convex.

    A new loss is a subclass with four methods. Nobody asks for its class: what sets it apart is said by the flags.
    """

    classifies: bool
    """Whether targets are classes, between which the outputs decide."""
    separate_outputs: bool
    """Whether every output has a loss of its own, so that c outputs are c models."""
    separable: bool = True
    """Whether the loss falls forever along a direction that separates the training data."""
    self_concordant: bool = False
    """Whether its third derivative in the outputs is at most the second (docs/certificates.md, 11; B3)."""
    likelihood: bool = False
    """Whether exp(-loss) is the probability that the model gives to the target."""
    shift_invariant: bool = False
    """Whether it does not see a shift of all outputs of an example."""
    convex: bool = True
    """Whether every example's curvature is positive semi-definite at all outputs."""
    dispersed: bool = False
    """Whether its variance has a factor, the dispersion, that is estimated beside the parameters."""
    logarithms: bool = False
    """Whether outputs are logarithms of means."""
    falling: bool = False
    """Whether the mean falls as the output grows, so that a target above its mean pulls the output down."""
    repeated: bool = False
    """Whether the weight of an example says how many rows it stands for, which matters where they are counted."""
    expected_curvature: Callable[[Tensor, Tensor], Tensor] | None = None
    """From outputs and targets to the expectation of the curvature (b, c), where that is another than the curvature."""
    means: Callable[[Tensor, Tensor], Tensor] | None = None
    """From outputs and targets to what the model says in the unit of its targets, where the outputs are not it."""
    stands_in: bool = False
    """Whether it is a smooth stand-in for a loss with a kink, at whose optimum its gradient is not zero."""
    fits_scale: bool = False
    """Whether training fits a scale of the loss beside the coefficients, as `Huber` can have it."""
    note: str = ""
    """What a user should know where an estimator's own loss was replaced by this one."""
    pairs: Ties = ""
    """Who wins ties of votes, where each output is a machine for a pair of classes and votes decide between classes."""

    @property
    def gives_probabilities(self) -> bool:
        """Whether outputs are logits of probabilities of the classes; those of pairs of classes are not."""
        return self.likelihood and not self.pairs

    def classes(self, outputs: int) -> int:
        """The number of classes between which so many outputs decide."""
        return classes_of_pairs(outputs) if self.pairs else max(2, outputs)

    def by_class(self, outputs: Float[Tensor, "*b c"]) -> Float[Tensor, "*b K"]:
        """What is largest for the class decided for: the votes of pairs of classes, other outputs as they are."""
        return by_votes(outputs, self.pairs) if self.pairs else outputs

    @abstractmethod
    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        """Check targets as users give them, and turn them into what the other methods take.

        Args:
            targets: n of them, (n,) or (n, c).
            outputs: the number c of the model's outputs.

        Returns:
            Classes as whole numbers (n,), signs or numbers in float64, (n,) or (n, c).

        Raises:
            ValueError: for another shape, and for values that the loss does not know, with the example's number.
        """

    @abstractmethod
    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        """The loss l(eta_i, y_i) >= 0 of each example, (b,), from outputs (b, c) and encoded targets."""

    @abstractmethod
    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        """The first derivative dl/d eta of each example, in the shape of eta.

        The gradient of example i in the parameters is x_i (x) r_i.

        Args:
            eta: outputs (b, c), or those of k parameter vectors at once, (b, c, k).
            targets: encoded, of b examples.
        """

    @abstractmethod
    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        """The second derivative of each example in its outputs as (a, u): diag(a) - u u^T, or diag(a) where u is None.

        Both have the shape of eta. The matrix is positive semi-definite where the loss is `convex`.
        """


def _classes(targets: Tensor, count: int) -> Tensor:
    if targets.is_floating_point() and not torch.equal(targets, targets.round()):
        raise ValueError(f"class targets must be whole numbers, got {targets.dtype} with fractional values")
    targets = targets.long()
    bad = ((targets < 0) | (targets >= count)).nonzero()
    if len(bad):
        i = int(bad[0, 0])
        raise ValueError(
            f"target {int(targets[i])} of example {i} is out of range: the model has {count} outputs, "
            f"so targets must lie in 0..{count - 1}"
        )
    return targets


def _binary(targets: Tensor) -> Tensor:
    if targets.ndim != 1:
        raise ValueError(f"binary targets must have shape (n,), got {tuple(targets.shape)}")
    values = set(torch.unique(targets).tolist())
    if not (values <= {0, 1} or values <= {-1, 1}):
        raise ValueError(f"binary targets must be 0/1 or -1/+1, got the values {sorted(values)[:5]}")
    return torch.where(targets > 0, 1.0, -1.0).to(torch.float64)


def _beside(targets: Tensor, eta: Tensor) -> Tensor:
    """Targets with as many dimensions as eta, in its precision."""
    return targets.to(eta).view(*targets.shape, *[1] * (eta.ndim - targets.ndim))


@dataclass(frozen=True)
class Softmax(LinearLoss):
    """Cross-entropy of the softmax: log sum_k exp(eta_k) - eta_y. Targets are classes 0..c-1.

    Residual p - e_y and curvature diag(p) - p p^T, with p the probabilities. It does not see a shift of all outputs of
    an example, so that without a penalty the Hessian is singular along such shifts.

    >>> import torch
    >>> Softmax().value(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([4.])
    """

    classifies = True
    separate_outputs = False
    self_concordant = likelihood = True
    shift_invariant = True

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        if targets.ndim != 1:
            raise ValueError(f"class targets must have shape (n,), got {tuple(targets.shape)}")
        return _classes(targets, outputs)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return torch.nn.functional.cross_entropy(eta, targets, reduction="none")

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        # The own class is minus the sum of the others: p - 1 would cancel where the model is sure.
        probability, rows = eta.softmax(1), torch.arange(len(eta), device=eta.device)
        probability[rows, targets] = 0
        probability[rows, targets] = -probability.sum(1)
        return probability

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        probability = eta.softmax(1)
        return probability, probability


@dataclass(frozen=True)
class MarginLoss(LinearLoss):
    """A function of the margins s_k eta_k, summed over the outputs: one binary loss per output.

    With one output targets are 0/1 or -1/+1 and s is their sign. With c > 1 outputs targets are classes 0..c-1 and s_k
    is +1 for the own class, -1 for the others: c independent binary models, one against the rest. With `pairs` outputs
    are those of K (K - 1) / 2 pairs of K classes, one against one, and each loss is over the rows of its two classes.
    """

    pairs: Ties = field(default="", kw_only=True)
    classifies = True
    separate_outputs = True

    @abstractmethod
    def of_margin(self, margin: Tensor) -> Tensor:
        """The loss as a function of the margin, elementwise: falls as the margin grows, convex, >= 0."""

    @abstractmethod
    def first_derivative(self, margin: Tensor) -> Tensor:
        """The derivative of `of_margin`, elementwise; <= 0."""

    @abstractmethod
    def second_derivative(self, margin: Tensor) -> Tensor:
        """The second derivative of `of_margin`, elementwise; >= 0."""

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        if outputs == 1:
            return _binary(targets)
        if targets.ndim != 1:
            raise ValueError(f"class targets must have shape (n,), got {tuple(targets.shape)}")
        return _classes(targets, self.classes(outputs))

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        s = signs(targets, eta, self.pairs)
        return self._where_asked(s, self.of_margin(s * eta)).sum(1)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        s = signs(targets, eta, self.pairs)
        return s * self.first_derivative(s * eta)

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        s = signs(targets, eta, self.pairs)
        return self._where_asked(s, self.second_derivative(s * eta)), None

    def _where_asked(self, s: Tensor, found: Tensor) -> Tensor:
        return torch.where(s == 0, 0.0, found) if self.pairs else found


def signs(targets: Tensor, eta: Tensor, pairs: Ties = "") -> Tensor:
    """The sign -1/+1 of every output for encoded targets, to be multiplied with eta: one class against the rest.

    Args:
        targets: signs (b,) of a model of one output, or classes (b,) of one of several.
        eta: outputs (b, c), or (b, c, k), whose dimensions and precision the signs get.
        pairs: as `LinearLoss.pairs`; the sign is 0 in pairs that a target is not in.

    Returns:
        (b, c), or (b, 1) where c = 1, with as many dimensions as eta.

    >>> signs(torch.tensor([1]), torch.zeros(1, 3))
    tensor([[-1.,  1., -1.]])
    """
    if targets.is_floating_point():
        return _beside(targets, eta)
    if pairs:
        return _beside(signs_in_pairs(targets, eta.shape[1]), eta)
    out = torch.full((len(eta), eta.shape[1]), -1.0, dtype=eta.dtype, device=eta.device)
    return _beside(out.scatter_(1, targets[:, None], 1.0), eta)


@dataclass(frozen=True)
class Logistic(MarginLoss):
    """log(1 + exp(-m)) of the margin m = y eta (Sec. 2.3; R8). Targets are 0/1 or -1/+1, or classes of several outputs.

    With s(m) = 1 / (1 + exp(-m)) its derivatives in the margin are -s(-m) and s(m) s(-m): the closed form of influence
    in Sec. 2.3. Safe from overflow at any margin.

    >>> import torch
    >>> Logistic().value(torch.zeros(1, 1), torch.tensor([1.0])).exp()
    tensor([2.])
    """

    self_concordant = likelihood = True

    def of_margin(self, margin: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-margin, threshold=60)

    def first_derivative(self, margin: Tensor) -> Tensor:
        return -torch.sigmoid(-margin)

    def second_derivative(self, margin: Tensor) -> Tensor:
        return torch.sigmoid(margin) * torch.sigmoid(-margin)


@dataclass(frozen=True)
class Squared(LinearLoss):
    """1/2 sum_k (eta_k - y_k)^2, of least squares and ridge regression. Targets are numbers, (n,) or (n, c).

    The curvature is 1 for every example and output, so that a Newton step is exact: with leverages (B1) leave-one-out
    predictions are those of retraining.

    >>> import torch
    >>> Squared().value(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([2.])
    """

    classifies = False
    separate_outputs = True
    separable = False
    dispersed = True

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        targets = targets.to(torch.float64).reshape(len(targets), -1)
        if targets.shape[1] != outputs:
            raise ValueError(f"targets have {targets.shape[1]} columns, the model has {outputs} outputs")
        return targets

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return 0.5 * (eta - targets.to(eta)).square().sum(1)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        return eta - _beside(targets, eta)

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        return torch.ones_like(eta), None


@dataclass(frozen=True)
class SmoothHinge(MarginLoss):
    """t log(1 + exp((1 - m) / t)) of the margin m = y eta, which tends to max(0, 1 - m) as t -> 0 (Sec. 4.3; R19).

    `t` is the smoothing `temperature` > 0. Safe from overflow at any t. Targets as `Logistic` takes them.

    >>> import torch
    >>> SmoothHinge(1e-3).value(torch.tensor([[-2.0]]), torch.tensor([1.0]))
    tensor([3.])
    """

    temperature: float
    stands_in = True

    @property
    def note(self) -> str:  # type: ignore[override]
        """What a user should know where an estimator's own loss was replaced by this one."""
        return f"the hinge is smoothed with temperature {self.temperature:g}"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def of_margin(self, margin: Tensor) -> Tensor:
        t = self.temperature
        return t * torch.nn.functional.softplus((1 - margin) / t, threshold=60)

    def first_derivative(self, margin: Tensor) -> Tensor:
        return -torch.sigmoid((1 - margin) / self.temperature)

    def second_derivative(self, margin: Tensor) -> Tensor:
        gap = (1 - margin) / self.temperature
        return torch.sigmoid(gap) * torch.sigmoid(-gap) / self.temperature


@dataclass(frozen=True)
class SquaredHinge(MarginLoss):
    """max(0, 1 - m)^2 of the margin m = y eta. Targets as `Logistic` takes them.

    Its curvature is 2 inside the margin and 0 outside; an example exactly on the margin counts as outside.

    >>> import torch
    >>> SquaredHinge().value(torch.tensor([[-2.0]]), torch.tensor([1.0]))
    tensor([9.])
    """

    def of_margin(self, margin: Tensor) -> Tensor:
        return (1 - margin).clamp(min=0).square()

    def first_derivative(self, margin: Tensor) -> Tensor:
        return -2 * (1 - margin).clamp(min=0)

    def second_derivative(self, margin: Tensor) -> Tensor:
        return 2 * (margin < 1).to(margin)
