"""How optimisers move parameters: each as a function of the parameters, its own memory and the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float

from ..types import Tensor

Memory: TypeAlias = tuple[Tensor, ...]
"""What an optimiser keeps from step to step, one flat vector (..., p) each."""
Setting: TypeAlias = float | int | Tensor
"""A setting of a parameter group: one number, or (p,) where groups differ."""
Settings: TypeAlias = Mapping[str, Setting]


class Descent(NamedTuple):
    """The plain descent that many steps of an optimiser come to, the same in all entries but for its preconditioner.

    A step leads to (1 - rate decay) theta - rate P (g + penalty theta).
    """

    rate: float
    decay: float = 0.0
    penalty: float = 0.0


ROUNDINGS = 64
"""Errors of rounding of the largest gradient: what is no larger is taken for noise."""


class OptimizerRule(ABC):
    """One step of an optimiser, entry by entry of a flat vector, so that it can be replayed and differentiated.

    `slots` are the names of what torch keeps of each parameter in `optimizer.state`, in the order of the memory.
    Nothing is written in place. Leading dimensions of theta, memory and gradient are those of several runs at once.
    """

    slots: tuple[str, ...] = ()
    preconditions: bool = False
    """Whether steps multiply each entry of the gradient by something of the memory: `preconditioner`."""

    @abstractmethod
    def moved(
        self,
        theta: Float[Tensor, "*r p"],
        memory: Memory,
        g: Float[Tensor, "*r p"],
        count: Setting,
        at: Settings,
    ) -> tuple[Float[Tensor, "*r p"], Memory]:
        """Parameters and memory after one step.

        Args:
            theta: the parameters before it.
            memory: what earlier steps left, zeros at first.
            g: the gradient of the step's loss, clipped where it is clipped.
            count: how many steps each entry has seen before.
            at: the settings of this step, by the names that torch gives them in `param_groups`: "lr" above all.
        """

    def noisy(self, memory: Memory, theta: Float[Tensor, " p"]) -> Bool[Tensor, " p"]:
        """The entries (p,) that rounding errors of gradients have moved, as far as the memory shows it: none.

        Args:
            memory: what is left of it after the last step.
            theta: the parameters then.
        """
        return torch.zeros_like(theta, dtype=torch.bool)

    def straight(self, at: Settings) -> tuple[float, float] | None:
        """Numbers a, b with theta after = a theta + b g in every entry, where there is no memory; None: not so."""
        return None

    def descent(self, at: Settings) -> Descent | None:
        """The plain descent that many such steps come to, the same in all entries; None: none."""
        return None

    def preconditioner(self, memory: Memory, count: Setting, at: Settings) -> Float[Tensor, " p"]:
        """What a step multiplies each entry of the gradient by, beside the rate (P of `Descent`): 1.

        Args:
            memory: what is left of it after the step.
            count: how many steps each entry has seen before it.
            at: the settings of the step.
        """
        return torch.ones(())


@dataclass(frozen=True)
class SGD(OptimizerRule):
    """`torch.optim.SGD`: momentum, Nesterov's, dampening, weight decay inside the gradient.

    The first momentum buffer is the gradient itself, whatever the dampening.
    """

    momentum: bool = False
    nesterov: bool = False
    maximize: bool = False

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> SGD:
        """The rule that a parameter group follows."""
        return cls(group["momentum"] != 0, bool(group["nesterov"]), bool(group["maximize"]))

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum_buffer",) if self.momentum else ()

    def moved(
        self, theta: Tensor, memory: Memory, g: Tensor, count: Setting, at: Settings
    ) -> tuple[Tensor, Memory]:
        g = (-g if self.maximize else g) + _times(at["weight_decay"], theta)
        if not self.momentum:
            return theta - at["lr"] * g, ()
        later = at["momentum"] * memory[0] + (1 - at["dampening"]) * g
        buffer = _choose(count, g, later)
        g = g + at["momentum"] * buffer if self.nesterov else buffer
        return theta - at["lr"] * g, (buffer,)

    def straight(self, at: Settings) -> tuple[float, float] | None:
        rate, decay = at["lr"], at["weight_decay"]
        if self.momentum or isinstance(rate, Tensor) or isinstance(decay, Tensor):
            return None
        return 1 - rate * decay, rate if self.maximize else -rate

    def descent(self, at: Settings) -> Descent | None:
        rate, decay, held = at["lr"], at["weight_decay"], at["momentum"]
        if self.maximize or any(isinstance(one, Tensor) for one in (rate, decay, held)):
            return None
        return Descent(float(rate * (1 - at["dampening"]) / (1 - held)), float(decay))


@dataclass(frozen=True)
class Adam(OptimizerRule):
    """`torch.optim.Adam` and `AdamW`: the decay of the second is taken from the parameters, not put into the gradient.

    Where a coordinate's gradients have all been 0, the derivative of sqrt(v) is taken as 0: it does not move there.
    """

    decoupled: bool = False
    amsgrad: bool = False
    maximize: bool = False

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Adam:
        """The rule that a parameter group follows."""
        return cls(bool(group.get("decoupled_weight_decay")), bool(group["amsgrad"]), bool(group["maximize"]))

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if self.amsgrad else ()))

    def moved(
        self, theta: Tensor, memory: Memory, g: Tensor, count: Setting, at: Settings
    ) -> tuple[Tensor, Memory]:
        g = -g if self.maximize else g
        if self.decoupled:
            theta = theta - _times(at["lr"] * at["weight_decay"], theta)
        else:
            g = g + _times(at["weight_decay"], theta)
        first, second = at["beta1"], at["beta2"]
        m = first * memory[0] + (1 - first) * g
        v = second * memory[1] + (1 - second) * g.square()
        largest = torch.maximum(memory[2], v) if self.amsgrad else v
        theta = theta - at["lr"] / (1 - first ** (count + 1)) * m / self._size(largest, count, at)
        return theta, (m, v, *((largest,) if self.amsgrad else ()))

    def _size(self, v: Tensor, count: Setting, at: Settings) -> Tensor:
        """What the mean gradient is divided by."""
        return square_root(v) / (1 - at["beta2"] ** (count + 1)) ** 0.5 + at["eps"]

    def descent(self, at: Settings) -> Descent | None:
        rate, decay = at["lr"], at["weight_decay"]
        if self.maximize or any(isinstance(one, Tensor) for one in (rate, decay)):
            return None
        decays = (float(decay), 0.0) if self.decoupled else (0.0, float(decay))
        return Descent(float(rate), *decays)

    @property
    def preconditions(self) -> bool:  # type: ignore[override]
        return True

    def preconditioner(self, memory: Memory, count: Setting, at: Settings) -> Tensor:
        return 1 / self._size(memory[-1], count, at)

    def noisy(self, memory: Memory, theta: Tensor) -> Tensor:
        """Where the gradient has been no more than rounding errors, which Adam divides by their own size.

        The bias of a layer in front of batch norm, and that of attention's keys, have no gradient but these.

        Args:
            memory: what is left of it after the last step.
            theta: the parameters then.
        """
        root = memory[1].sqrt()
        return root <= ROUNDINGS * torch.finfo(root.dtype).eps * root.max()


def square_root(v: Tensor) -> Tensor:
    """The square root, whose derivative at 0 is taken as 0.

    >>> v = torch.zeros(1, requires_grad=True)
    >>> torch.autograd.grad(square_root(v), v)[0]
    tensor([0.])
    """
    some = v > 0
    return torch.where(some, torch.where(some, v, 1).sqrt(), 0)


def _times(factor: Setting, theta: Tensor) -> Setting | Tensor:
    """The product, or 0 where the factor is."""
    return 0.0 if isinstance(factor, float | int) and factor == 0 else factor * theta


def _choose(count: Setting, first: Tensor, later: Tensor) -> Tensor:
    """What holds at an entry's first step, and what at later ones."""
    if isinstance(count, Tensor):
        return torch.where(count == 0, first, later)
    return later if count else first


RULES: dict[str, Any] = {"SGD": SGD.of, "Adam": Adam.of, "AdamW": Adam.of}
"""From the name of an optimiser's class to a function from a parameter group to its rule."""
R = TypeVar("R")


def register_optimizer(name: str, rule: Any) -> None:
    """Teach `TrainingRun` an optimiser that it does not know: how one step of it moves parameters.

    Args:
        name: the name of the optimiser's class.
        rule: a function from a parameter group (a dict, as `optimizer.param_groups` has them) to an `OptimizerRule`.

    Raises:
        TypeError: for a rule that is no function.

    >>> class Sign(OptimizerRule):
    ...     def moved(self, theta, memory, g, count, at):
    ...         return theta - at["lr"] * g.sign(), memory
    >>> register_optimizer("SignSGD", lambda group: Sign())
    """
    if not callable(rule):
        raise TypeError(
            f"a rule is a function from a parameter group to an OptimizerRule, got {type(rule).__name__}"
        )
    RULES[name] = rule
