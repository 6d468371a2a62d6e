"""The command about a model's vulnerability: what one training row, moved a little, could do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import tell
from .options import Format_, K, Out, Seed, TestOrHeld
from .questions import asks
from .show import show

if TYPE_CHECKING:
    from jaxtyping import Float64

    from ..data.design import Design
    from ..objective import LinearModel
    from ..tables.fitted_file import FittedFile
    from ..types import Batch, Tensor

AUDITED = 200
"""Test rows whose vulnerability is looked at: the least certain ones."""


@asks(without=("model", "trust", "image", "problem"))
def attack(
    fitted: FittedFile,
    radius: Annotated[
        float,
        typer.Option(help="How far each number of a training row may move, in standard deviations.", min=0),
    ] = 0.5,
    test: TestOrHeld = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows asked about of which this holds, as pandas queries say it.")
    ] = None,
    seed: Seed = 0,
    k: K = 20,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """How vulnerable a model is: which predictions one training row, moved a little, could turn (to first order).

    Only columns of numbers move. Among the rows asked about the 200 least certain ones are looked at.
    """
    import torch

    from .. import uses
    from ..data.user_terms import batch_index
    from ..influence.stationarity import finishing
    from ..measures import margin
    from ..tables.held_out import unseen
    from ..uses.labels import label_names

    if not fitted.model.classifies:
        raise ValueError(f"attack is for classes; the target {fitted.target!r} is a quantity")
    apart = unseen(fitted, test, where=where, seed=seed)
    fitted = apart.fitted
    problem, influence = fitted.linear_problem, fitted.model.influence
    design, codes, places = least_certain(problem, apart.batch, AUDITED)
    table = uses.vulnerable_targets(
        influence, problem.design, (design, codes), rows=torch.arange(problem.n), radius=moves(fitted, radius)
    )
    place = table.index.to_numpy()
    table["row"] = fitted.raw.index[table["row"].to_numpy()]
    table.insert(0, "class", label_names(problem, problem.encode(codes, len(codes)))[place])
    table.insert(1, "rival", label_names(problem, rivals(problem.outputs(design)))[place])
    names = batch_index(apart.batch)
    assert names is not None
    table.index = names[places.numpy()[place]]
    table = table.rename(columns={"row": "training row"}).rename_axis(fitted.heading)
    words = (
        f"Moving the numbers of one training row, each by up to {radius:g} standard deviations, could turn "
        f"{int(table['flips'].sum()):,} of the {len(table):,} least certain predictions: those whose margin over the "
        "rival is smaller than the worst effect (to first order)."
    )
    drift = influence.on_loss((design, codes), measure=margin).drift
    assert drift is not None
    effects = torch.tensor(table["worst effect"].tolist(), dtype=torch.float64)[:, None]
    words = "\n".join(filter(None, [apart.words, words]))
    tell(
        f"{words}\n{finishing('margin', drift[place.tolist()], effects, influence.problem.facts.away)}",
        always=True,
    )
    show(table.head(k), format, out, "The predictions that one training row could turn, the weakest first")


def rivals(outputs: Tensor) -> Tensor:
    """The encoded classes (b,) that come second in outputs (b, c)."""
    from ..uses.labels import decided

    return -decided(outputs) if outputs.shape[1] == 1 else outputs.topk(2).indices[:, 1]


def least_certain(problem: LinearModel, test: Batch, count: int) -> tuple[Design, Tensor, Tensor]:
    """The rows of a batch that a linear classifier predicts rightly, but with the smallest margins.

    Args:
        problem: The classifier.
        test: The batch (m rows): inputs and targets.
        count: The most rows to give.

    Returns:
        A batch of at most `count` rows, the smallest margin first, and their places in the batch that was given.

    Raises:
        FileError: Every row is predicted wrongly.
    """
    from ..tables.reading import FileError
    from ..types import as_tensor
    from ..uses.labels import margin_of_targets

    design, y = problem.prepared(test)
    found = margin_of_targets(problem, problem.outputs(design), y)
    right = (found > 0).nonzero()[:, 0]
    if not len(right):
        raise FileError("the model is wrong about every row asked about: nothing is left to attack")
    rows = right[found[right].argsort()[:count]]
    return design.take(rows), as_tensor(y)[rows], rows


def moves(fitted: FittedFile, deviations: float) -> Float64[Tensor, " d"]:
    """How far each of the model's columns may move (d,): those made of numbers, which were scaled; the others not.

    Raises FileError where no column is made of numbers.
    """
    import torch

    from ..tables.reading import FileError

    names, kinds = fitted.linear_problem.feature_names, fitted.model.kinds
    assert names is not None
    numbers = [float(kinds.get(name) == "number") for name in names]
    if not any(numbers):
        raise FileError("no column of numbers is there to move")
    return deviations * torch.tensor(numbers, dtype=torch.float64)
