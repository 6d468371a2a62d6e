"""Losses of causal language models: of whole sequences, and what each token has in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float, Int
from torch.nn import functional as F

from ..types import Tensor

IGNORED = -100
"""The label of what does not count, as in torch and transformers."""


def next_token(
    outputs: Any, batch: Mapping[str, Any], reduction: Literal["mean", "sum"] = "mean"
) -> Float[Tensor, " b"]:
    """The loss of a causal language model: the cross entropy of each sequence's next tokens, mean or sum over them.

    For one sequence the mean is what a model of transformers returns as its loss. The sum, by
    `functools.partial(next_token, reduction="sum")`, gives every token the same say.

    Args:
        outputs: what the model gives, with `logits` (b, t, words).
        batch: the mapping that the model was called with, with `labels` (b, t), which are shifted here; tokens
            labelled -100, padding say, do not count.
        reduction: "mean" over the tokens of a sequence, or "sum".

    Returns:
        One number per sequence, (b,); 0 for one in which no token counts.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> outputs = SimpleNamespace(logits=torch.zeros(2, 4, 10))
    >>> next_token(outputs, {"labels": torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])})
    tensor([2.3026, 2.3026])
    """
    total = token_losses(outputs, batch, "sum").sum(1)
    return total if reduction == "sum" else total / counted(batch).clamp(min=1)


def token_losses(
    outputs: Any, batch: Mapping[str, Any], reduction: Literal["mean", "sum"] = "mean"
) -> Float[Tensor, "b t"]:
    """What each token of a sequence has in `next_token`: over the tokens they add up to it.

    Args:
        outputs: what the model gives, with `logits` (b, t, words).
        batch: the mapping that the model was called with, with `labels` (b, t).
        reduction: of `next_token`: "mean" divides by the tokens of the sequence that count.

    Returns:
        One number per token (b, t), at the token that is predicted; 0 for the first, and for those labelled -100.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> outputs = SimpleNamespace(logits=torch.zeros(1, 4, 10))
    >>> token_losses(outputs, {"labels": torch.tensor([[1, 2, 3, -100]])})
    tensor([[0.0000, 1.1513, 1.1513, 0.0000]])
    """
    each = F.cross_entropy(outputs.logits[:, :-1].mT, batch["labels"][:, 1:], reduction="none")
    found = F.pad(each, (1, 0))
    return found if reduction == "sum" else found / counted(batch).clamp(min=1)[:, None]


def counted(batch: Mapping[str, Any]) -> Int[Tensor, " b"]:
    """How many tokens of each sequence are predicted."""
    return (batch["labels"][:, 1:] != IGNORED).sum(1)
