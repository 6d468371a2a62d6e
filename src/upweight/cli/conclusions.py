"""The command about conclusions: how many rows would have to go before a coefficient says something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import phase, tell
from .options import Format_, Out
from .questions import asks
from .show import show

if TYPE_CHECKING:
    import numpy as np

    from ..influence.unrolled import Answers
    from ..tables.fitted_file import FittedFile
    from ..uses.robustness import Robustness


@asks(without=("model", "booster", "trust", "problem"))
def robustness(
    fitted: FittedFile,
    coef: Annotated[
        str,
        typer.Option(
            help='The column whose coefficient it is, as "age" or "town = north".', show_default=False
        ),
    ],
    cluster: Annotated[
        str | None,
        typer.Option(help="The column whose values go together: patients, villages, firms."),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(
            help="The column with 1 for rows whose target is the time of an event and 0 for censored ones: Cox's model."
        ),
    ] = None,
    level: Annotated[float, typer.Option(help="The level of significance.", min=0.0001, max=0.9999)] = 0.05,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """How many rows would have to go before a coefficient changes its sign or its significance, and a proof for fewer.

    Least squares, or logistic regression for two classes, or with --event Cox's model, of the columns as they are and
    without a penalty. found: the rows whose removal does it, by a search that a refit confirms. certified: no set of so
    many rows or fewer does it, which is a proof (of Cox's model for single rows alone, by refits). first order: the
    count that sums of single influences give, not refitted.
    """
    import pandas as pd

    from ..influence import Influence
    from ..tables.plain_regression import plain_regression

    assert fitted.table is not None
    if event is not None:
        fitted.column(event)  # it is there
    problem, rows, notes = plain_regression(fitted.table, event)
    influence = Influence(problem)
    groups = None if cluster is None else fitted.column(cluster).loc[rows].to_numpy()
    with phase("searching and proving"):
        found, words = _asked(influence, coef, level, groups)
    members = [
        f"Found for {name!r}: {', '.join(map(str, one.names[:20]))}{', ...' * (len(one.names) > 20)}"
        for name, one in found.items()
        if one.found is not None
    ]
    limits = list(dict.fromkeys(one.limit for one in found.values() if one.limit and not one.smallest))
    tell("\n".join([*notes, *words, *members, *limits]), always=True)
    unit = "rows" if groups is None else "groups"
    table = pd.DataFrame(
        {
            "found": [one.found for one in found.values()],
            "share (%)": [
                None if one.found is None else 100 * one.found / one.units for one in found.values()
            ],
            "certified": [one.certified for one in found.values()],
            "first order": [one.first_order for one in found.values()],
            "estimate": [one.estimate for one in found.values()],
            "without them": [one.after for one in found.values()],
        },
        index=pd.Index(list(found), name="what changes"),
    ).astype({"found": "Int64", "first order": "Int64"})
    show(
        table,
        format,
        out,
        f"The coefficient of {coef}: {unit} to remove, of {next(iter(found.values())).units:,}",
    )


def _asked(
    influence: Answers, coef: str, level: float, groups: np.ndarray | None
) -> tuple[dict[str, Robustness], list[str]]:
    """The answers by what changes, and sentences about those that have none: AMIP's three questions.

    Args:
        influence: Of the regression.
        coef: The coefficient.
        level: Of significance.
        groups: What goes together, or None.
    """
    from .. import uses

    asked = {
        "sign": uses.Sign(coef),
        "significance": uses.Significant(coef, level),
        "sign and significance": uses.NotReversed(coef, level),
    }
    found: dict[str, Robustness] = {"sign": uses.robustness(influence, asked.pop("sign"), groups=groups)}
    words = []
    for name, conclusion in asked.items():
        try:
            found[name] = uses.robustness(influence, conclusion, groups=groups)
        except ValueError as missing:
            words.append(f"{name}: {missing}.")
    return found, words
