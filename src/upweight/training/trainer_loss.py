"""What a Trainer of transformers minimised, measured on it: the loss of an example, and how losses are averaged.

Which denominator a step has depends on the class of the model, on its `forward` and on settings; none is assumed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..data.examples import Rows, as_rows, targets_of
from ..data.per_example import Loss, per_example
from ..losses.language import IGNORED
from ..network.trained import TokenSum, logits_of
from ..network.transformers import arguments, counted
from ..types import Tensor
from .steps import Accumulation, own_streams

BLOCK = 64
"""Examples of a batch whose labels are counted."""
SAME = 1e-5
"""How far a loss may be from the trainer's, as a share of it."""


class Minimised(NamedTuple):
    """The loss of an example, what it counts in the denominator (n,), and how batches of a step are put together."""

    loss: Loss
    counts: Float[Tensor, " n"]
    accumulation: Accumulation


@dataclass(frozen=True)
class ValueLoss:
    """The mean over the outputs of an example of its squared error, or of the binary cross entropy of yes and no.

    >>> ValueLoss("mse_loss")({"logits": torch.ones(2, 1)}, {"labels": torch.zeros(2)})
    tensor([1., 1.])
    """

    function: str

    def __call__(self, outputs: Any, targets: Any) -> Float[Tensor, " b"]:
        logits, labels = logits_of(outputs), targets["labels"]
        each = getattr(F, self.function)(logits, labels.reshape(logits.shape), reduction="none")
        return each.flatten(1).mean(1)


def minimised(trainer: Any, loss: Loss | None, train: DataLoader[Any]) -> Minimised:
    """What a trainer minimises, by its own loss of a few examples and its own count of all labels.

    Args:
        trainer: before its first step; its model is in eval mode meanwhile, and random numbers stand where they stood.
        loss: of an example, or None: one of those that transformers has.
        train: the training examples, in order.

    Raises:
        ValueError: where no way to put together losses of examples gives what the trainer computes.
    """
    rows = as_rows(train, trainer.args.device, None)
    ways = list(_counted(trainer, rows))
    parts = [rows.take(torch.arange(min(3, len(rows)))), rows.take(torch.arange(1))]
    model = trainer.model
    was = {module: module.training for module in model.modules()}
    with torch.no_grad(), own_streams():
        model.eval()
        try:
            told = _told(trainer, parts)
            for one in losses(trainer) if loss is None else [loss]:
                for counts in ways:
                    for accumulation, found in _averaged(_own(model, one, parts), counts):
                        if _same(told, found):
                            return Minimised(one, counts, accumulation)
        finally:
            for module, training in was.items():
                module.training = training
    given = "none that is known (cross entropy, squared error, binary cross entropy of logits and labels)"
    raise ValueError(
        f"the loss that Trainer computes for {type(model).__name__} on two batches, {told[0]:.6g} and {told[1]:.6g}, "
        f"is {given if loss is None else 'no mean or sum of the given loss'}: give loss=, a function of the outputs "
        "and the batch that is the loss of one example, from which a mean or a sum over examples makes it"
    )


def losses(trainer: Any) -> Iterator[Loss]:
    """The losses of one example that models of transformers have."""
    smoother = trainer.label_smoother
    smoothing = 0.0 if smoother is None else float(smoother.epsilon)
    for single in (True, False):
        for shift in (True, False):
            yield TokenSum(shift=shift, single=single, smoothing=smoothing)
    yield from (ValueLoss("mse_loss"), ValueLoss("binary_cross_entropy_with_logits"))


def _counted(trainer: Any, rows: Rows) -> Iterator[Float[Tensor, " n"]]:
    """What each example may count (n,): one, or its labels with or without the first; as the trainer counts."""
    blocks = [batch for _, batch in rows.blocks(BLOCK)]
    items = [trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)[1] for batch in blocks]
    counts = [torch.ones(len(rows), dtype=torch.float64)]
    if all(isinstance(batch, dict) and _has_tokens(batch) for batch in blocks):
        for first in (1, 0):
            each = [(batch["labels"][:, first:] != IGNORED).flatten(1).sum(1) for batch in blocks]
            counts.append(torch.cat(each).double())
    for one in counts:
        parts = one.split(BLOCK)
        if all(item is None or int(item) == int(part.sum()) for item, part in zip(items, parts, strict=True)):
            yield one


def _has_tokens(batch: dict[str, Any]) -> bool:
    labels = batch.get("labels")
    return isinstance(labels, Tensor) and labels.ndim > 1 and not labels.is_floating_point()


def _told(trainer: Any, parts: list[Any]) -> list[Tensor]:
    """What the trainer adds to a step's loss for each of its batches."""
    _, items = trainer.get_batch_samples(iter(parts), len(parts), trainer.args.device)
    scaled = trainer.loss_is_scaled_for_ga
    if scaled is None:
        handed_on = trainer.model_accepts_loss_kwargs and items is not None
        scaled = handed_on or trainer.compute_loss_func is not None
    found = [trainer.compute_loss(trainer.model, dict(part), num_items_in_batch=items) for part in parts]
    return [one if scaled else one / len(parts) for one in found]


def _own(model: Any, loss: Loss, parts: list[Any]) -> list[Tensor] | None:
    """The loss of each example of each batch; None where the loss takes no such outputs."""
    try:
        return [
            per_example(loss, counted(model(**arguments(model, dict(part)))), targets_of(part))
            for part in parts
        ]
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
        return None


def _averaged(
    own: list[Tensor] | None, counts: Float[Tensor, " n"]
) -> Iterator[tuple[Accumulation, list[Tensor]]]:
    """What a step's loss would have for each of its batches, by every way to put them together."""
    if own is None:
        return
    sums = [one.sum() for one in own]
    sizes = [float(counts[: len(one)].sum()) for one in own]
    yield "together", [total / sum(sizes) for total in sums]
    yield "sum", [total / size for total, size in zip(sums, sizes, strict=True)]
    yield "mean", [total / size / len(own) for total, size in zip(sums, sizes, strict=True)]


def _same(told: list[Tensor], found: list[Tensor]) -> bool:
    """Whether the numbers agree, and were computed in the same precision: in float64 too the trainer's may be less."""
    pairs = list(zip(told, found, strict=True))
    near = all(bool((a - b).abs() <= SAME * a.abs()) for a, b in pairs)
    return near and all(a.dtype == b.dtype for a, b in pairs)
