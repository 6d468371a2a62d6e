"""What common trainers minimise, as a loss of single examples and the weights that make a mean of it.

A mean over tokens, or one with class weights, divides by a number that belongs to all examples together; taken for one
example at a time it is another objective. Each function here gives `loss` and `weights` of a `Problem`:

`Problem(model, train=texts, **token_mean(texts))`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch.nn import functional as F

from ..data.examples import PASS, as_rows
from ..losses import next_token
from ..losses.language import IGNORED
from ..types import ArrayLike, Tensor, as_tensor


class Trained(TypedDict):
    """An objective that was trained, as `Problem` takes it: `Problem(model, train=..., **these)`."""

    loss: Callable[[Any, Any], Tensor]
    weights: Float[Tensor, " n"]


@dataclass(frozen=True)
class TokenSum:
    """The cross entropy of every labelled position of an example, summed: 0 for one without any.

    Of a mapping the labels are under "labels"; outputs are logits (b, t, c) or (b, c), alone or as their `logits`.

    Args:
        shift: whether position t is scored by label t + 1.
        single: whether it is computed in float32, as transformers does it for models of float64 too.
        smoothing: the share of each label that all classes have.

    >>> TokenSum()(torch.zeros(1, 3, 4), torch.tensor([[2, -100, 1]]))
    tensor([2.7726])
    """

    shift: bool = False
    single: bool = False
    smoothing: float = 0.0

    def __call__(self, outputs: Any, targets: Any) -> Float[Tensor, " b"]:
        return self.tokens(outputs, targets).sum(1)

    def tokens(self, outputs: Any, targets: Any) -> Float[Tensor, "b t"]:
        """What each labelled position has in it; where labels are shifted the first has nothing."""
        labels = targets["labels"] if isinstance(targets, Mapping) else targets
        logits = logits_of(outputs)
        if self.shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        each = F.cross_entropy(
            (logits.float() if self.single else logits).flatten(0, -2),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        found = each.view(len(labels), -1)
        return F.pad(found, (1, 0)) if self.shift else found


def logits_of(outputs: Any) -> Tensor:
    """The logits of a model's outputs: the field or entry of that name, or the outputs themselves."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return getattr(outputs, "logits", outputs)


def token_mean(train: Any, *, shift: bool = True, first: bool = False) -> Trained:
    """The mean over all labelled tokens of the training data: what transformers' Trainer minimises for language models.

    R = (1/T) sum_i (sum over the tokens t of text i) l_it with T labelled tokens in all: each text has the sum over
    its tokens as its loss, and the weight n / T. The mean over the tokens of each text alone, `losses.next_token`,
    would give the tokens of short texts more say.

    Args:
        train: the training data as `Problem` takes them, with labels (n, t); -100 does not count.
        shift: whether position t is scored by label t + 1 (language models), or by its own (token classification).
        first: whether the labels of first tokens count in T, as GPT-2's Trainer counts them; only with `shift`.

    Returns:
        `loss` and `weights` (n,), for `Problem(model, train=train, **token_mean(train))`.

    Raises:
        ValueError: where no token is labelled, and for a loader that draws some texts more often than others.

    >>> words = torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])
    >>> token_mean({"input_ids": words.clamp(min=0), "labels": words})["weights"]  # 2 texts, 4 tokens
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    rows, total = as_rows(train, torch.device("cpu"), None), 0
    if rows.seen.weights is not None:
        raise ValueError(
            "the loader draws some texts more often than others, so a mean over tokens has no one number of tokens: "
            "give Problem the loader with loss=functools.partial(upweight.losses.next_token, reduction='sum')"
        )
    for _, batch in rows.blocks(PASS):
        labels = batch["labels"] if isinstance(batch, dict) else batch[1]
        total += int((labels[:, 1 if shift and not first else 0 :] != IGNORED).sum())
    if total == 0:
        raise ValueError("no token of the training data is labelled: every label is -100")
    loss: Any = partial(next_token, reduction="sum") if shift else TokenSum()
    return Trained(loss=loss, weights=torch.full((len(rows),), len(rows) / total, dtype=torch.float64))


def class_weighted(
    targets: ArrayLike, weight: ArrayLike, *, loss: Callable[..., Tensor] = F.cross_entropy
) -> Trained:
    """The mean with class weights, as `CrossEntropyLoss(weight=...)` and `NLLLoss(weight=...)` take it.

    R = sum_i w_i l_i / sum_i w_i, w_i the weight of the class of i: each example has its plain loss, and its class
    weight over the mean of these.

    Args:
        targets: the class numbers of the training examples, (n,).
        weight: one number per class, (c,).
        loss: the plain loss, `F.cross_entropy` or `F.nll_loss`.

    Returns:
        `loss` and `weights` (n,), for `Problem(model, train=train, **class_weighted(targets, weight))`.

    Raises:
        ValueError: for targets that are no class numbers, or weights that are all zero.

    >>> class_weighted([0, 0, 0, 1], [1.0, 5.0])["weights"]
    tensor([0.5000, 0.5000, 0.5000, 2.5000], dtype=torch.float64)
    """
    y, each = as_tensor(targets), as_tensor(weight).double()
    if y.ndim != 1 or y.is_floating_point() or not bool(((y >= 0) & (y < len(each))).all()):
        raise ValueError(
            f"targets must be class numbers (n,) from 0 to {len(each) - 1}, got shape {tuple(y.shape)} of {y.dtype}"
        )
    found = each[y.long()]
    if not float(found.sum()) > 0:
        raise ValueError("the class weights of all targets are zero: nothing was trained on")
    return Trained(loss=loss, weights=found / found.mean())
