"""How effects were predicted, in words: of first order, or by Newton steps, and which of these did not settle."""

from __future__ import annotations

from jaxtyping import Float, Int

from ..objective import LinearModel
from ..types import Tensor
from .settling import ENOUGH, UNSETTLED

FIRST_ORDER = "Effects are of first order in an example's weight (Eq. 2)."
BETTER = "Where the model leans on a row they are too small: of_each_removal takes Newton steps, if there is a factor."
HELD = "Effects are of first order in a row's weight (Eq. 2), the splits held fixed."
ONE = "Effects are those of a Newton step without the row, with its leverage accounted for."
SEVERAL = (
    "Effects are those of a Newton step without the row, its leverage accounted for, and of further ones ({} in all) "
    "until {:.1%} of the move is left."
)
SETTLED = (
    "Effects are those of a Newton step without the row, its leverage accounted for: less than {:.1%} of the move is "
    "left."
)
SOME = "Of the other rows, which are not among the strongest, they are those of the first step alone."
UNDETERMINED = "Without {} of the rows nothing determines the model: their effect is not known (NaN)."
LEFT = (
    "Beware: {} of the rows do not settle: more than {:.0%} of the move is left (of the worst {:.0%}), so that their "
    "effects say little of what training again without them gives. Verify by retraining."
)


def of_stand_in(model: LinearModel | None) -> str:
    """Why effects of single rows may mean little, in a sentence: a smooth loss stands in for the model's own.

    "" for models that are trained with the loss itself, and for those that are not linear.
    """
    if model is None or not model.loss.stands_in:
        return ""
    note = f" ({model.loss.note})" if model.loss.note else ""
    return (
        f"Beware: a smooth loss stands in for the model's own{note}. Where training again moves a row across the kink, "
        "single effects say little, and those of rows near it are the least certain. Verify by retraining."
    )


def of_newton(
    changes: Float[Tensor, "m q"], steps: Int[Tensor, "m q"] | None, left: Float[Tensor, "m q"] | None
) -> str:
    """How changes were predicted by Newton steps, and which of them to beware of, in a few sentences.

    Args:
        changes: the changes, NaN of rows without which nothing is determined.
        steps: how many steps led to each; None: one.
        left: what is left to move of each, a share; NaN or None where nobody looked.
    """
    words = [ONE]
    if steps is not None and left is not None and bool((known := left.isfinite()).any()):
        more = bool((steps[known] > 1).any()) or bool((left[known] > ENOUGH).any())
        words = [SEVERAL.format(spread(steps[known]), ENOUGH) if more else SETTLED.format(ENOUGH)]
        if not bool(known.all()):
            words.append(SOME)
        if count := int(unsettled(left).any(0).sum()):
            most = float(left.nan_to_num(0).max())
            words.append(LEFT.format(count, UNSETTLED, most))
    if lost := int(changes.isnan().all(0).sum()):
        words.append(UNDETERMINED.format(lost))
    return " ".join(words)


def unsettled(left: Float[Tensor, "*q"]) -> Tensor:
    """Where so much is left to move that an effect means little (a mask); what nobody looked at counts as settled."""
    return left > UNSETTLED


def spread(steps: Int[Tensor, " q"]) -> str:
    """The smallest and the largest of some numbers, in words.

    >>> import torch
    >>> spread(torch.tensor([1, 4, 2])), spread(torch.tensor([3]))
    ('1 to 4', '3')
    """
    low, high = int(steps.min()), int(steps.max())
    return str(low) if low == high else f"{low} to {high}"
