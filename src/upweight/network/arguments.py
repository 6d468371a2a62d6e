"""What a `Problem` is made of, looked at before anything is computed."""

from __future__ import annotations

from typing import Any

import torch

from ..data.examples import Rows
from ..data.weights import check_weights
from ..frozen import check_eval
from ..runtime.described import described
from ..types import Tensor


def computed(model: Any, loss: Any) -> dict[str, str]:
    """Model and loss in words, without the model's parameters and buffers."""
    parts = {"model": described(model, state=False), "loss": described(loss)}
    return {f"{name}{place}": words for name, found in parts.items() for place, words in found.items()}


def weights_of(weights: Any, data: Rows) -> Tensor:
    """The weights that the user gives, or those of the loader's sampler."""
    if weights is not None and data.seen.weights is not None:
        raise ValueError(
            "weights= were given, and train is a DataLoader whose sampler draws some rows more often than others, "
            "which is a weight already: pass its dataset with weights=, or leave weights= out"
        )
    return check_weights(data.seen.weights if weights is None else weights, len(data))


def check_arguments(model: Any, loss: Any, batch_size: Any, autocast: Any) -> None:
    """Refuse what no problem can be made of: see `Problem`.

    Args:
        model: what was trained.
        loss: the loss.
        batch_size: examples of a block, or None.
        autocast: a lower precision, or None.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model is a scripted or traced module, whose parameters cannot be replaced for derivatives: give the "
            "torch.nn.Module that it was made of"
        )
    if not callable(loss):
        raise TypeError(f"loss must be a function (outputs, targets) -> numbers, got {type(loss).__name__}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}")
    check_eval(model, ValueError)
