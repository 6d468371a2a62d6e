"""Outputs of pairs of classes, one machine for each pair (one against one), and the votes that decide between classes.

Pairs are in the order of scikit-learn, (0, 1), (0, 2), ..., (1, 2), ...; a positive output speaks for the first class
of its pair.
"""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int

from ..types import Tensor

Ties: TypeAlias = Literal["", "first", "surest"]
"""Who wins among classes with as many votes: the first, or the one of the surest machines; "" where nobody votes."""


def classes_of_pairs(outputs: int) -> int:
    """The number of classes whose pairs are so many, K (K - 1) / 2.

    >>> classes_of_pairs(3), classes_of_pairs(45)
    (3, 10)
    """
    classes = round((1 + (1 + 8 * outputs) ** 0.5) / 2)
    if classes * (classes - 1) // 2 != outputs:
        raise ValueError(f"{outputs} outputs are not those of all pairs of some classes: 3, 6, 10, ...")
    return classes


def pairs_of(classes: int) -> Int[Tensor, "c 2"]:
    """The two classes of each pair."""
    return torch.tensor(list(itertools.combinations(range(classes), 2)))


def signs_in_pairs(targets: Int[Tensor, " b"], outputs: int) -> Float[Tensor, "b c"]:
    """+1 where the target is the first class of a pair, -1 where it is the second, 0 in pairs that it is not in.

    >>> signs_in_pairs(torch.tensor([1]), 3)
    tensor([[-1.,  0.,  1.]])
    """
    first, second = pairs_of(classes_of_pairs(outputs)).T
    own = targets[:, None].cpu()
    return ((own == first).float() - (own == second).float()).to(targets.device)


def by_votes(outputs: Float[Tensor, "*b c"], ties: Ties) -> Float[Tensor, "*b K"]:
    """The votes of the pairs for each class, with less than half a vote for how sure they are where that breaks ties.

    As scikit-learn has it: x / (3 (|x| + 1)) of the sum x of a class's outputs, signed. NaN where an output is.

    Args:
        outputs: of all pairs.
        ties: who wins among classes with as many votes; "first" counts votes alone.

    >>> by_votes(torch.tensor([[1.0, -2.0, 3.0]]), "first")
    tensor([[1., 1., 1.]])
    """
    first, second = pairs_of(classes_of_pairs(outputs.shape[-1])).T
    one = torch.nn.functional.one_hot
    K = int(second.max()) + 1
    for_first, for_second = one(first, K).to(outputs), one(second, K).to(outputs)
    won = (outputs > 0).to(outputs)
    votes = won @ for_first + (1 - won) @ for_second
    sure = outputs @ (for_first - for_second)
    return votes + (sure / (3 * (sure.abs() + 1)) if ties == "surest" else torch.where(sure.isnan(), sure, 0))
