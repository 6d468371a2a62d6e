"""The penalty of an objective, and what of it a retraining without some examples keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from .types import ArrayLike, Keep, Tensor


@dataclass(frozen=True, eq=False)
class Penalty:
    """The penalty 1/2 sum_j l2_j theta_j^2 on the mean loss of n examples, and the convention of a retraining.

    `keep="mean"` is the paper's: the penalty is folded into the loss of every example (footnote 1), so that a
    retraining without k of n examples has the same l2 on the mean loss of the n - k others. `keep="total"` is that of
    scikit-learn with the same C: the penalty on the *sum* of the losses stays, so that l2 on their mean grows by n / (n
    - k). Only this class knows what the two words mean.

    An l1 penalty adds sum_j slope_j theta_j, its signs held fixed: near parameters that are not zero it is that.

    Args:
        l2: the strengths (p,) on the mean loss, >= 0.
        keep: "mean" or "total".
        slope: what an l1 penalty adds to the gradient (p,), or None.

    >>> penalty = Penalty.of(0.3, torch.zeros(2), "total")
    >>> penalty.without(1, 4).l2
    tensor([0.4000, 0.4000])
    >>> penalty.folded(torch.ones(2))
    tensor([0., 0.])
    """

    l2: Float[Tensor, " p"]
    keep: Keep
    slope: Float[Tensor, " p"] | None = None

    @classmethod
    def of(
        cls, l2: ArrayLike, theta: Float[Tensor, " p"], keep: str, slope: ArrayLike | None = None
    ) -> Penalty:
        """Make the penalty of parameters `theta` from what a user gives, checked and copied.

        Args:
            l2: the strength, a number or one number per parameter (p,), >= 0 and finite.
            theta: the parameters (p,), whose precision and device the strengths get.
            keep: "mean" or "total".
            slope: that of an l1 penalty whose signs are held fixed (p,), or None.

        Raises:
            ValueError: for another shape, a negative or infinite strength, another word.
        """
        if keep not in ("mean", "total"):
            raise ValueError(f'keep must be "mean" or "total", got {keep!r}')
        strength = torch.as_tensor(l2, dtype=theta.dtype, device=theta.device)
        if strength.ndim not in (0, 1) or (strength.ndim == 1 and len(strength) != len(theta)):
            raise ValueError(
                f"l2 must be a number or have shape ({len(theta)},), got shape {tuple(strength.shape)}"
            )
        bad = ~((strength >= 0) & strength.isfinite())
        if bool(bad.any()):
            raise ValueError(f"l2 must be >= 0 and finite, got {float(strength[bad].flatten()[0])}")
        if slope is not None:
            slope = torch.as_tensor(slope, dtype=theta.dtype, device=theta.device)
            if slope.shape != theta.shape or not bool(slope.isfinite().all()):
                raise ValueError(
                    f"slope must be finite and have shape ({len(theta)},), got {tuple(slope.shape)}"
                )
        return cls(strength.expand(len(theta)).clone(), keep, slope)  # type: ignore[arg-type]

    def value(self, theta: Float[Tensor, " p"]) -> Float[Tensor, ""]:
        """The penalty itself, 1/2 sum_j l2_j theta_j^2: one number, the second term of R(theta) on the mean loss."""
        quadratic = 0.5 * (self.l2 * theta.square()).sum()
        return quadratic if self.slope is None else quadratic + self.slope @ theta

    def gradient(
        self, theta: Float[Tensor, "*k p"], factors: Float[Tensor, "*k p"] | None = None
    ) -> Float[Tensor, "*k p"]:
        """The gradient of the penalty on the mean loss, l2_j theta_j, and the slope of an l1 penalty.

        Args:
            theta: parameters (p,), or a stack of them (..., p).
            factors: the squares of the scales' ratios, where columns are scaled otherwise (`on_other_scales`).

        Returns:
            The gradient, in the shape of `theta`.

        >>> Penalty.of(0.5, torch.zeros(2), "mean").gradient(torch.tensor([2.0, -4.0]))
        tensor([ 1., -2.])
        """
        if factors is not None:
            linear = 0.0 if self.slope is None else self.slope * factors.sqrt()
            return self.l2 * factors * theta + linear
        return self.l2 * theta if self.slope is None else self.l2 * theta + self.slope

    def folded(self, theta: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """The penalty's part of one training example's gradient: l2 * theta, or 0 where the total is kept.

        In the paper's convention L contains the penalty (footnote 1), so that Eq. 1 to 5 take it along; where the total
        is kept, up-weighting an example does not touch it. Gradients of test examples never have it.
        """
        return self.gradient(theta) if self.keep == "mean" else torch.zeros_like(theta)

    @property
    def leaves_with_examples(self) -> bool:
        """Whether every removed example takes its share of the penalty's total, 1/n of it, along: so for "mean".

        The Hessian of the total objective that is left after a removal differs by this much of the penalty.
        """
        return self.keep == "mean"

    def factor(self, removed: int, n: int) -> float:
        """What l2 on the mean loss is multiplied with in a retraining without `removed` of n examples.

        1 where the mean is kept, n / (n - removed) where the total is: fewer examples then share the same penalty.

        >>> Penalty.of(0.3, torch.zeros(2), "total").factor(1, 4)
        1.3333333333333333
        """
        return n / (n - removed) if self.keep == "total" else 1.0

    def without(self, removed: int, n: int) -> Penalty:
        """The penalty of a retraining without `removed` of n examples, on the mean loss of those that are left.

        >>> Penalty.of(0.3, torch.zeros(1), "mean").without(1, 4).l2
        tensor([0.3000])
        """
        return self._times(self.factor(removed, n))

    def left_in_total(self, removed: int, n: int) -> Penalty:
        """The penalty of a retraining without `removed` of n examples, on the sum of the losses left divided by *n*.

        Removal effects are derived on that scale, where the losses of the other examples stay as they are: l2 shrinks
        by (n - removed) / n where the mean is kept, and stays where the total is.

        >>> Penalty.of(0.4, torch.zeros(1), "mean").left_in_total(1, 4).l2
        tensor([0.3000])
        """
        return self._times(self.factor(removed, n) * (n - removed) / n)

    def on_other_scales(self, factors: Float[Tensor, " p"]) -> Penalty:
        """The penalty where columns are scaled otherwise: `factors` (p,) are the squares of the scales' ratios."""
        slope = None if self.slope is None else self.slope * factors.sqrt()
        return Penalty(self.l2 * factors, self.keep, slope)

    def _times(self, factor: float) -> Penalty:
        return Penalty(self.l2 * factor, self.keep, None if self.slope is None else self.slope * factor)
