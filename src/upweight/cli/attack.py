"""The command about a model's vulnerability: what one training row, moved a little, could do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import tell
from .options import Format_, K, Out, Test
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
    test: Test = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows asked about of which this holds, as pandas queries say it.")
    ] = None,
    k: K = 20,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """How vulnerable a model is: which predictions one training row, moved a little, could turn (to first order).

    Only columns of numbers move. Among the rows asked about the 200 least certain ones are looked at.
    """
    from .. import uses

    if not fitted.model.classifies:
        raise ValueError(f"attack is for classes; the target {fitted.target!r} is a quantity")
    problem = fitted.linear_problem
    table = uses.vulnerable_targets(
        fitted.model.influence,
        problem.design,
        least_certain(problem, fitted.batch(test, where=where), AUDITED),
        rows=range(len(fitted.raw)),
        radius=moves(fitted, radius),
    )
    table["row"] = fitted.raw.index[table["row"].to_numpy()]
    words = (
        f"One row could turn {int(table['flips'].sum()):,} of the {len(table):,} least certain predictions."
    )
    show(table.rename_axis("place").head(k), format, out, words)
    tell(words, always=True)


def least_certain(problem: LinearModel, test: Batch, count: int) -> tuple[Design, Tensor]:
    """The rows of a batch that a linear classifier predicts rightly, but with the smallest margins.

    Args:
        problem: The classifier.
        test: The batch (m rows): inputs and targets.
        count: The most rows to give.

    Returns:
        A batch of at most `count` rows, the smallest margin first.

    Raises:
        FileError: Every row is predicted wrongly.
    """
    from ..tables.reading import FileError
    from ..types import as_tensor
    from ..uses.labels import margin_of_targets

    design, y = problem.prepared(test)
    margin = margin_of_targets(problem, problem.outputs(design), y)
    right = (margin > 0).nonzero()[:, 0]
    if not len(right):
        raise FileError("the model is wrong about every row asked about: nothing is left to attack")
    rows = right[margin[right].argsort()[:count]]
    return design.take(rows), as_tensor(y)[rows]


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
