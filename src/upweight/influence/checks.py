"""The assumptions behind influence functions, checked."""

from __future__ import annotations

import socket
from typing import Any

import torch
from jaxtyping import Float

from ..curvature.base import Curvature
from ..errors import InfluenceError, NotDeterministicError, RankError
from ..objective import Objective
from ..runtime.distributed import gather_objects, ranks
from ..runtime.fingerprint import content_hash
from ..types import Tensor

FLAT = 1e-6
"""The share of a question along a direction that training leaves open, above which it has no answer."""
LOOKED_AT = 1024
"""The number of training examples that are passed over twice, spread evenly over all."""


def determinism(problem: Objective) -> None:
    """Raise `NotDeterministicError` unless two passes over (a sample of) the training data give the same gradient.

    Dropout, augmentation and shuffling all show here, as a gap above 1e-3 of the gradient's norm. Closed forms are
    equal by construction and are not looked at. Of a model whose gradients are not the derivatives of its loss it is
    told here, once (`DerivativeWarning`).
    """
    if problem.facts.closed_form:
        return
    whole = problem
    if problem.n > LOOKED_AT:
        problem = problem.subset(torch.linspace(0, problem.n - 1, LOOKED_AT, dtype=torch.float64).long())
    first, second = problem.gradient(), problem.gradient()
    scale = float(first.norm())
    gap = float((first - second).norm())
    if gap > 1e-3 * scale + 1e3 * torch.finfo(first.dtype).eps:
        raise NotDeterministicError(
            f"two passes over the same training data gave gradients that differ by {gap:.1e} (norm {scale:.1e}); "
            "call model.eval() and turn off shuffling and augmentation"
        )
    _ = whole.facts.caution  # warns


def question(problem: Objective, rows: Float[Tensor, "k p"], damping: float) -> None:
    """Raise where a question has no answer: `StaleError` of data that moved, `InfluenceError` along flat directions.

    Args:
        problem: whose answers are asked for.
        rows: k right-hand sides (k, p), the gradients of what is asked about.
        damping: of the curvature; any makes every question have an answer.
    """
    problem.check_current()
    gauge = problem.gauge if damping == 0 else None
    if gauge is None:
        return
    along = (rows.to(gauge) @ gauge.T).norm(dim=1) > FLAT * rows.to(gauge).norm(dim=1)
    if bool(along.any()):
        raise InfluenceError(
            f"question {int(along.nonzero()[0, 0])} moves when the outputs of all classes are shifted alike, which "
            "neither the loss nor a penalty sees, so that training leaves it open: a logit by itself means nothing "
            "here; ask for measures.margin, measures.probability or a difference of logits"
        )


def agreement(problem: Objective) -> None:
    """Raise `RankError` on every rank unless all hold the same problem, each on a device of its own.

    Compared are the number of training examples, the parameters, and a content hash of data and settings. On one
    process nothing is done.
    """
    if ranks() == 1:
        return
    if problem.n < ranks():
        raise RankError(
            f"{problem.n} training examples cannot be divided over {ranks()} processes: start fewer"
        )
    held = {
        "n": f"{problem.n} training examples",
        "parameters": f"parameters {content_hash([problem.theta])} in {problem.dtype}",
        "data": f"data and settings {problem.fingerprint()}",
    }
    first, *_ = everyone = gather_objects(held)
    for r, other in enumerate(everyone):
        for kind, words in other.items():
            if words != first[kind]:
                raise RankError(
                    f"rank {r} has {words}, rank 0 has {first[kind]}: give every rank the same weights and the whole "
                    "training set; it is divided here"
                )
    place = None if problem.device.type == "cpu" else f"{problem.device} of {socket.gethostname()}"
    places = gather_objects(place)
    for r, place in enumerate(places):
        if place is not None and places.index(place) < r:
            raise RankError(
                f"ranks {places.index(place)} and {r} both work on {place}: put the model of each on "
                'torch.device("cuda", int(os.environ["LOCAL_RANK"]))'
            )


def arguments(problem: Objective, curvature: Curvature | None) -> None:
    """Raise TypeError unless the first is a problem, and ValueError for a curvature of another size than it has."""
    if not isinstance(problem, Objective):
        raise TypeError(f"Influence needs a Problem or LinearProblem, got {type(problem).__name__}")
    if curvature is not None and curvature.p != problem.p:
        raise ValueError(f"the curvature has p = {curvature.p}, the problem p = {problem.p}")


def options(top: int | None, compress: float | None, store: Any) -> None:
    """Refuse options of `Influence.on_loss` that are out of range or do not go together.

    Args:
        top: how many rows are kept, >= 1.
        compress: the tolerance of compressed answers.
        store: a folder.

    Raises:
        ValueError: with what to leave out.
    """
    if top is not None and top < 1:
        raise ValueError(f"top must be >= 1, got {top}")
    if compress is not None and store is not None:
        raise ValueError("compress and store do not go together: leave one of them out")


def drift(gradient: Tensor, solved: Tensor) -> Tensor:
    """The predicted change (m,) of each measure if training were finished: -s . grad R, a Newton step's effect.

    It measures stationarity in the unit that matters: effects smaller than the drift are below the model's own
    distance from its optimum (the Newton decrement, seen through the measure).
    """
    return 0.0 - solved @ gradient  # never -0.0
