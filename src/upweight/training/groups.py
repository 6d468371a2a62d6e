"""Parameter groups of an optimiser: which rule they follow, and the settings of each step by entry of theta."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Int

from ..linalg.flat_vectors import Layout
from ..types import Tensor
from .rules import RULES, Memory, OptimizerRule, Setting, Settings

GroupSettings: TypeAlias = tuple[Mapping[str, float], ...]
"""The numbers among the settings of each parameter group, at one step."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The rule of an optimiser, and which group each entry of theta belongs to.

    Args:
        rule: what all groups follow.
        of: the number of each entry's group (p,); None where there is one group.
        start: the settings of each group when the run begins.
        only: the number of that one group among the optimiser's.
    """

    rule: OptimizerRule
    of: Int[Tensor, " p"] | None
    start: GroupSettings
    only: int = 0

    def seen(self, optimizer: torch.optim.Optimizer) -> GroupSettings:
        """The settings that an optimiser has now, of the groups that count."""
        found = tuple(numbers_of(group) for group in optimizer.param_groups)
        return found if self.of is not None else (found[self.only],)

    def expanded(self, settings: GroupSettings, like: Tensor) -> Settings:
        """The settings of a step by name: a number where all groups have the same, else one per entry (p,)."""
        found: dict[str, Setting] = {}
        for name, value in settings[0].items():
            values = [group[name] for group in settings]
            same = self.of is None or all(other == value for other in values)
            found[name] = value if same else like.new_tensor(values)[self.of]
        return found


def numbers_of(group: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a parameter group's settings; betas as beta1 and beta2."""
    found = {
        name: float(value)
        for name, value in group.items()
        if name != "params" and not isinstance(value, bool) and _is_number(value)
    }
    if "betas" in group:
        found["beta1"], found["beta2"] = (float(beta) for beta in group["betas"])
    if found.get("momentum") == 0:  # torch then looks at no dampening
        found["dampening"] = 0.0
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def groups_of(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], layout: Layout, like: Tensor
) -> Groups:
    """The groups of an optimiser over a model's parameters.

    Args:
        optimizer: of torch, over the parameters of the model.
        names: what each parameter is called, by its id.
        layout: the parameters that count.
        like: a tensor on the device of theta.

    Raises:
        TypeError: for an optimiser that is not known.
        ValueError: for groups that follow different rules, and parameters that no group has.
    """
    kind = next((base.__name__ for base in type(optimizer).__mro__ if base.__name__ in RULES), None)
    if kind is None:
        raise TypeError(
            f"{type(optimizer).__name__} is an optimiser that is not known (known are {', '.join(RULES)}): say how one "
            "step of it moves parameters with upweight.register_optimizer(name, rule)"
        )
    rules = [RULES[kind](group) for group in optimizer.param_groups]
    if any(rule != rules[0] for rule in rules):
        raise ValueError(
            f"the parameter groups of {type(optimizer).__name__} differ in more than numbers ({rules}): train with one "
            "rule, or give groups without momentum a very small one"
        )
    place = {}
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ValueError(
                    "the optimiser moves a parameter that the model does not have: give it this model's"
                )
            place[names[id(parameter)]] = number
    if missing := [name for name in layout.names if name not in place]:
        raise ValueError(
            f"the optimiser does not move {', '.join(missing[:3])}: leave them out of params=, or set requires_grad "
            "to False as in training"
        )
    numbers = [place[name] for name in layout.names]
    one = len(set(numbers)) == 1
    of = None if one else torch.tensor(numbers).repeat_interleave(torch.tensor(layout.sizes)).to(like.device)
    used = [optimizer.param_groups[numbers[0]]] if one else optimizer.param_groups
    return Groups(rules[0], of, tuple(numbers_of(group) for group in used), numbers[0])


def memory_of(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], layout: Layout, rule: OptimizerRule
) -> tuple[Callable[[Tensor], Memory], tuple[int, ...]]:
    """What earlier steps left in an optimiser, as a function of theta, and how many each parameter has seen.

    Args:
        optimizer: new, or one that has trained before.
        names: what each parameter is called, by its id.
        layout: the parameters that count.
        rule: what it follows.
    """
    state = {names[id(key)]: value for key, value in optimizer.state.items() if id(key) in names and value}
    seen = tuple(int(state[name].get("step", 1)) if name in state else 0 for name in layout.names)

    def held(theta: Tensor) -> Memory:
        found = []
        for slot in rule.slots:
            zeros = layout.unpack(torch.zeros_like(theta))
            kept = {name: state.get(name, {}).get(slot) for name in layout.names}
            parts = {
                name: zeros[name] if part is None else part.detach().to(theta) for name, part in kept.items()
            }
            found.append(layout.pack(parts))
        return tuple(found)

    return held, seen


Schedule: TypeAlias = Callable[[int], float] | Sequence[float] | None
"""What multiplies the learning rate at each step (from 0), as a function or one number per step."""


def scheduled(start: GroupSettings, schedule: Schedule, count: int) -> list[GroupSettings]:
    """The settings of every step.

    Args:
        start: of the groups as the optimiser was made.
        schedule: what multiplies their learning rates.
        count: how many steps there are.

    Raises:
        ValueError: for a list of another length.
    """
    if schedule is None:
        return [start] * count
    if not callable(schedule) and len(schedule) != count:
        raise ValueError(
            f"schedule has {len(schedule)} numbers, and there are {count} steps: give one for each"
        )
    times = [float(schedule(t) if callable(schedule) else schedule[t]) for t in range(count)]
    return [tuple({**group, "lr": group["lr"] * factor} for group in start) for factor in times]
