"""Copies of models that compute with their own parameters, whatever a library has put in a forward's place."""

from __future__ import annotations

import copy
import types
from typing import Any

import torch


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy of a model that computes with the copy's parameters.

    Libraries replace a model's `forward` by a function of their own that remembers the old one, bound to the model: a
    plain deep copy then goes on to compute with the model's parameters (SFTTrainer of TRL 1.16). What such functions
    remember of the model's modules is the copy's here.

    Args:
        model: any.
    """
    memo: dict[int, Any] = {}
    found = copy.deepcopy(model, memo)
    for module in model.modules():
        if "forward" in vars(module):
            twin = memo[id(module)]
            twin.forward = _moved(module.forward, memo)
    return found


def keep_activations(model: torch.nn.Module) -> None:
    """Switch off what computes activations anew on the way back: the numbers are the same, a derivative more is there.

    Args:
        model: of transformers, or any other, which is left as it is.
    """
    # The second name is that of transformers before 5.
    for name in ("activation_checkpointing_disable", "gradient_checkpointing_disable"):
        if (disable := getattr(model, name, None)) is not None:
            disable()
            return


def _moved(function: Any, memo: dict[int, Any]) -> Any:
    """A function that remembers copies in the place of the modules, and of their methods, that it remembered.

    Args:
        function: a function or method; anything else is deep-copied.
        memo: copies by the `id` of what was copied, of `copy.deepcopy`.
    """
    if isinstance(function, types.MethodType):
        owner = function.__self__
        return types.MethodType(_moved(function.__func__, memo), memo.get(id(owner), owner))
    if id(function) in memo:
        return memo[id(function)]
    if not isinstance(function, types.FunctionType):
        return copy.deepcopy(function, memo)
    if not function.__closure__:
        return function
    cells = tuple(types.CellType() for _ in function.__closure__)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    memo[id(function)] = made  # before what it remembers, which may be itself
    made.__kwdefaults__ = function.__kwdefaults__
    vars(made).update(vars(function))
    for cell, old in zip(cells, function.__closure__, strict=True):
        value = old.cell_contents
        is_function = isinstance(value, (types.MethodType, types.FunctionType))
        cell.cell_contents = _moved(value, memo) if is_function else memo.get(id(value), value)
    return made
