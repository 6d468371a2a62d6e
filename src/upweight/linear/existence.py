"""Whether a linear problem has an optimum, and only one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog

from ..losses import signs
from ..measures import margin
from ..objective import LinearModel
from ..types import Tensor

NULL = 1e-12
"""Columns of length 1 are dependent where their Gram matrix has an eigenvalue below this, times their number."""
GRAM = 3000
"""Up to this many unpenalised columns their dependence is looked for before anything is solved."""
CURE = "drop columns, or fit with a penalty"
PENALISE = "fit with a penalty (a finite C, or alpha > 0)"
PROGRAMME = 1 << 22
"""Margins x parameters up to which a separating direction is looked for: some seconds."""


def check_identified(problem: LinearModel) -> None:
    """Refuse linearly dependent columns without a penalty: there the optimum is not unique.

    One pass over X forms the Gram matrix of the columns that have no penalty (up to `GRAM` of them; more are not
    looked at), scaled to length 1; an eigenvalue that is zero to rounding is a dependence.

    Raises:
        ValueError: naming the columns that take part in it.
    """
    cd = problem.c * problem.d
    bare = (problem.l2[:cd].view(problem.c, problem.d) == 0).any(0).nonzero()[:, 0]
    if not 0 < len(bare) <= GRAM:
        return
    used = (problem.weights > 0).double()
    if len(bare) > int(used.sum()):
        raise ValueError(
            f"{len(bare)} columns without a penalty and {int(used.sum())} examples: the optimum is not unique; {CURE}"
        )
    names = [_name(problem, int(j)) for j in bare]
    gram, sums = torch.zeros(problem.d, problem.d, dtype=torch.float64), torch.zeros(problem.d).double()
    for rows, block in problem.design.blocks(8192, torch.float64):
        block.gram(used[rows], gram)
        sums += block.backward(used[rows, None])[0]
    gram = (gram.triu() + gram.triu(1).T)[bare][:, bare]
    if problem.has_intercept:
        edge = sums[bare, None]
        gram = torch.cat([torch.cat([gram, edge], 1), torch.cat([edge.T, used.sum().view(1, 1)], 1)])
        names.append("the intercept")
    length = gram.diagonal().sqrt()
    zero = [name for name, size in zip(names, length.tolist(), strict=True) if size == 0]
    if zero:
        raise ValueError(f"columns that are all zero and have no penalty: {', '.join(zero[:10])}; {CURE}")
    values, vectors = torch.linalg.eigh(gram / length / length[:, None])
    null = vectors[:, values < NULL * len(gram)]
    involved = [name for name, size in zip(names, null.norm(dim=1).tolist(), strict=True) if size > 1e-5]
    if involved:
        raise ValueError(f"linearly dependent columns without a penalty: {', '.join(involved[:10])}; {CURE}")


def _name(problem: LinearModel, column: int) -> str:
    return str(column) if problem.feature_names is None else repr(problem.feature_names[column])


def check_separable(problem: LinearModel) -> None:
    """Refuse training data that a direction separates, all or in part, where nothing is penalised.

    Then the loss falls for as long as the weights grow along it: no finite optimum (Albert & Anderson, 1984). A
    separation by the weights at hand is seen at once; any other (a category with one class only, say) by a linear
    programme (Konis, 2007) of up to `PROGRAMME` numbers, beyond which it is not looked for.

    Raises:
        ValueError: naming the columns of the direction, where the weights at hand do not separate.
    """
    penalised = bool(problem.l2[: problem.c * problem.d].any()) or problem.penalty.slope is not None
    if not problem.loss.separable or penalised:
        return
    used = (problem.weights > 0).nonzero()[:, 0]
    eta = problem.outputs()[used]
    y = problem.y[used]
    if problem.loss.separate_outputs:  # each output is a model of its own
        every = signs(y, eta, problem.loss.pairs)
        separated = bool(((every * eta > 0) | (every == 0)).all(0).any())
    else:
        separated = bool((margin(eta, y) > 0).all())
    if separated:
        raise ValueError(
            "no finite optimum: the model separates the training data and has no penalty, so that its loss falls for "
            f"as long as its weights grow; {PENALISE}"
        )
    names = _separating(problem, used) if len(used) * problem.p * problem.c <= PROGRAMME else []
    if names:
        raise ValueError(
            f"no finite optimum: {', '.join(names[:10])} separate a part of the training data (some examples are on "
            f"the right side however large the weights, none on the wrong side) and have no penalty; {PENALISE}"
        )


def _separating(problem: LinearModel, used: Tensor) -> list[str]:
    """The columns of a direction w with every margin m_i(w) >= 0 and some m_i(w) > 0, or none."""
    X = problem.design.take(used).block(slice(None), torch.float64).dense()
    X = X / X.norm(dim=0).clamp(min=1e-300)
    names = [_name(problem, j) for j in range(problem.d)]
    if problem.has_intercept:
        X, names = torch.cat([X, X.new_full((len(X), 1), len(X) ** -0.5)], dim=1), [*names, "the intercept"]
    for sides in _sides(problem, used):
        margins = torch.einsum("brc,bd->brcd", sides, X).flatten(2).flatten(0, 1).numpy()
        best = linprog(-margins.sum(0), -margins, np.zeros(len(margins)), bounds=(-1, 1), method="highs")
        if best.status != 0:
            continue
        reached = margins @ best.x
        if reached.max() > 1e-4 and reached.min() > -1e-3 * reached.max():
            found = best.x.reshape(sides.shape[2], -1)
            # Softmax does not see a shift of all outputs.
            sizes = np.ptp(found, axis=0) if len(found) > 1 else np.abs(found[0])
            return [name for name, size in zip(names, sizes, strict=True) if size > 1e-3]
    return []


def _sides(problem: LinearModel, used: Tensor) -> Iterator[Float[Tensor, "b r c"]]:
    """The r margins of each example as combinations of outputs: one by one where each output is a model of its own.

    Of softmax: the target's output less each other one, all together.
    """
    y = problem.y[used]
    if problem.loss.separate_outputs:
        every = signs(y, torch.zeros(len(y), problem.c, dtype=torch.float64), problem.loss.pairs)
        yield from (one[:, None] for one in every.split(1, dim=1))
        return
    eye = torch.eye(problem.c, dtype=torch.float64)
    others = torch.stack([eye[torch.arange(problem.c) != k] for k in range(problem.c)])  # (c, c - 1, c)
    yield eye[y][:, None] - others[y]
