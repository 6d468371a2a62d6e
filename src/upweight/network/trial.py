"""What a few examples tell of a model: whether its outputs are linear, which of its layers explain its gradients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float

from ..data.examples import Rows, count
from ..runtime.fallback import attempt
from ..types import Tensor
from .comparisons import gap_to_loss
from .evaluation import Evaluation
from .layers.layered import Layered
from .output_curvature import FEW_OUTPUTS, flat_outputs, is_convex, output_roots

TRIED = 8
"""Examples that the model and loss are tried on."""

PSEUDO = (
    "the model's gradients are not the derivatives of its loss (off by {off:.0%} along a random direction: .detach() "
    "in its forward pass, a straight-through estimator, scale_grad_by_freq?): effects are those of a training that "
    "follows these gradients, as far as it ends where they vanish, not those of minimising the loss"
)
"""What is said of a model whose gradients are not those of its loss."""


def tried(data: Rows) -> Any:
    """A few examples, evenly spaced, as a batch."""
    return data.take(torch.linspace(0, len(data) - 1, min(TRIED, len(data))).long())


@dataclass(frozen=True, eq=False)
class Trial:
    """A model with its loss at theta, and a few training examples to try them on.

    It knows neither weights nor penalty nor the other examples, so that problems that differ in those share it.

    Args:
        of: the model with its loss.
        theta: where it is tried (p,).
        batch: those examples.
        c: outputs per example.
    """

    of: Evaluation
    theta: Float[Tensor, " p"] = field(repr=False)
    batch: Any = field(repr=False)
    c: int

    def at(self, theta: Float[Tensor, " p"]) -> Trial:
        """The trial at these parameters: this one where they are its own, else another."""
        return self if theta is self.theta else replace(self, theta=theta)

    def on(self, batch: Any) -> Trial:
        """The trial on other examples."""
        return replace(self, batch=batch)

    @cached_property
    def linear(self) -> bool:
        """Whether the outputs are linear in the parameters and the loss convex in them; False for many outputs."""
        if self.c > FEW_OUTPUTS:
            return False
        step = torch.randn(len(self.theta), generator=torch.Generator().manual_seed(0)).to(self.theta)
        with torch.no_grad():
            steps = (self.theta + step, self.theta - step, self.theta)
            up, down, here = (flat_outputs(self.of.outputs(t, self.batch), count(self.batch)) for t in steps)
        bend = (up + down - 2 * here).norm() / (up - down).norm()
        if not float(bend) <= 1e3 * torch.finfo(self.theta.dtype).eps:
            return False
        return attempt(lambda: is_convex(*output_roots(self.of, self.theta, self.batch)), lambda: False)

    @cached_property
    def caution(self) -> str:
        """What a difference of the losses says against the model's gradients, if anything; warns of it."""
        off = self.of.shortcuts.pseudo = gap_to_loss(self.of, self.theta, self.batch)
        if not off:
            return ""
        said = PSEUDO.format(off=off)
        self.of.shortcuts.say(said)
        return said

    @cached_property
    def layered(self) -> Layered:
        """The model's layers, as far as they explain its gradients."""
        return Layered.find(self.of, self.theta, self.batch)
