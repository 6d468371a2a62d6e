"""Whether a linear problem has an optimum, and whether it is there."""

from __future__ import annotations

import warnings

import torch

from .errors import NotStationaryWarning
from .linear import LinearProblem
from .losses import SmoothHinge, Softmax, Squared, signs
from .measures import margin

NULL = 1e-12
"""Columns of length 1 are dependent where their Gram matrix has an eigenvalue below this, times their number."""
GRAM = 3000
"""Up to this many unpenalised columns their dependence is looked for before anything is solved."""
CURE = "drop columns, or fit with a penalty"
ELEMENTS = 1 << 22
"""Numbers of X that are looked at densely at once."""


def check_identified(problem: LinearProblem) -> None:
    """Raise ValueError, naming the columns, where unpenalised columns are linearly dependent: no unique optimum."""
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


def _name(problem: LinearProblem, column: int) -> str:
    return str(column) if problem.feature_names is None else repr(problem.feature_names[column])


def check_separable(problem: LinearProblem) -> None:
    """Raise ValueError where nothing is penalised and the training data are separated: no finite optimum."""
    if isinstance(problem.loss, Squared) or bool(problem.l2[: problem.c * problem.d].any()):
        return
    eta = problem._outputs(problem.design, problem.theta)[problem.weights > 0]
    y = problem.y[problem.weights > 0]
    if isinstance(problem.loss, Softmax):
        separated = bool((margin(eta, y) > 0).all())
    else:  # each output is a model of its own
        separated = bool((signs(y, eta) * eta > 0).all(0).any())
    if separated:
        raise ValueError(
            "no finite optimum: the model separates the training data and has no penalty, so that its loss falls for "
            "as long as its weights grow; fit with a penalty (a finite C, or alpha > 0)"
        )


def finished(problem: LinearProblem, *, polish: bool) -> LinearProblem:
    """At its optimum if asked; else as it is, with a warning where that is far from one."""
    own = own_contribution(problem)
    if polish:
        return problem.minimised(1e-6 * own)
    off = float(problem.gradient().norm())
    # At the true hinge's optimum the smooth one has a gradient by construction.
    if off > own and not isinstance(problem.loss, SmoothHinge):
        warnings.warn(
            f"the estimator is not at its optimum: the gradient of its objective has norm {off:.1e}, {off / own:.1f} "
            "times what one example contributes, so that effects of single examples are uncertain; pass polish=True, "
            "or fit with a lower tol and a higher max_iter (if X, y and weights are those it was fitted on)",
            NotStationaryWarning,
            stacklevel=3,
        )
    return problem


def own_contribution(problem: LinearProblem) -> float:
    """The root mean square over examples of ||w_i grad l_i|| / n, or what rounding leaves of it."""
    parts = problem._derivatives(torch.float64)
    residual = parts.r.norm(dim=1)
    rounding = 1e-12 * (1 + parts.loss)
    lengths = torch.cat(
        [
            torch.linalg.vector_norm(block.dense(), dim=1).square() + problem.has_intercept
            for _, block in problem.design.blocks(max(1, ELEMENTS // problem.d), torch.float64)
        ]
    )
    return float((lengths * torch.maximum(residual, rounding).square()).mean().sqrt()) / problem.n
