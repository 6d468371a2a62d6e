"""The table of a study, as papers print it: how much would have to go before its coefficients say something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..influence.unrolled import Answers
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from .certificates import MEMORY
from .conclusions import NotReversed, Sign, Significant
from .robustness import Robustness, robustness, with_errors
from .standard_errors import Errors

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
"""What LaTeX reads as a command, and how it is written."""


@dataclass(frozen=True, eq=False)
class RobustnessTable:
    """Answers of `robustness` in one table, as users of AMIP publish them, with the certified numbers beside.

    `answers` are named by coefficient and by what changes. `notes` say which questions have no answer, and why.
    Answers that you have asked for one by one can be put into a table too, under names of yours.
    """

    answers: Mapping[tuple[str, str], Robustness]
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A line for each answer: the numbers of rows or groups, and the estimate before and after.

        `found` go and it changes, `share (%)` of all; no set of `certified` or fewer does it; `first order` is the
        count of sums of single influences. `estimate` and `std err` are with all rows, `without them` refitted.
        A number that there is not is missing.
        """
        answers = list(self.answers.values())
        table = {
            "found": pd.array([one.found for one in answers], dtype="Int64"),
            "share (%)": [None if one.found is None else 100 * one.found / one.units for one in answers],
            "certified": [one.certified for one in answers],
            "first order": pd.array([one.first_order for one in answers], dtype="Int64"),
            "estimate": [one.estimate for one in answers],
            "std err": pd.Series([one.error for one in answers], dtype=float).to_numpy(),
            "without them": pd.Series([one.after for one in answers], dtype=float).to_numpy(),
            "std err without": pd.Series([one.error_after for one in answers], dtype=float).to_numpy(),
        }
        names = pd.MultiIndex.from_tuples(list(self.answers), names=["coefficient", "what changes"])
        return pd.DataFrame(table, index=names)

    def to_latex(self, caption: str | None = None, label: str | None = None) -> str:
        r"""The table for a paper: rules of booktabs, estimates with standard errors in parentheses, names escaped.

        Args:
            caption: what stands above it, as LaTeX.
            label: what `\ref` calls it.
        """
        lines = []
        for (name, change), one in self.answers.items():
            share = "" if one.found is None else rf" ({100 * one.found / one.units:.2g}\%)"
            lines.append(
                [
                    _escaped(name),
                    _number(one.estimate, one.error),
                    _escaped(change),
                    _number(one.after, one.error_after),
                    f"{_number(one.found)}{share}",
                    f"{one.certified}",
                ]
            )
        unit = next((one.unit for one in self.answers.values()), "row")
        heads = ("Coefficient", "Estimate", "What changes", "Refitted", f"{unit.capitalize()}s removed")
        table = pd.DataFrame(lines, columns=[*heads, "None of so few do"])
        return table.to_latex(index=False, caption=caption, label=label, column_format="llllll")

    def __repr__(self) -> str:
        return plain("\n".join([self.to_frame().to_string(), *self.notes]))

    def _repr_html_(self) -> str:
        return as_html(*self.notes, self.to_frame())


def robustness_table(
    influence: Answers,
    coefficients: str | int | Sequence[str | int],
    *,
    level: float = 0.05,
    errors: Errors | None = None,
    groups: Any = None,
    most: int | None = None,
    memory: int = MEMORY,
) -> RobustnessTable:
    """AMIP's three questions about coefficients, their sign, their significance, and both, as `robustness` answers.

    "Sign" is what gives the coefficient the other sign, "significance" what takes its significance away, "sign and
    significance" what makes it significant with the other sign. A question that a model cannot be asked (significance
    of a logistic regression) or that does not arise (of a coefficient that is not significant) is left out and noted.

    Args:
        influence: of least squares or logistic regression, with one output.
        coefficients: the names or numbers of their columns, one or several.
        level: of significance, two-sided.
        errors: which standard errors significance is about, as `Errors.of(results)` reads them; None: the classical
            ones. With others significance is searched, and not certified.
        groups: what goes together, as `robustness` takes it.
        most: the largest set that is searched.
        memory: bytes that each certificate may take.

    Raises:
        TypeError: for other models.
        ValueError: as `robustness` does about a sign.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.ones(9, 1), torch.tensor([1.0, 1, 1, -2, 1, 1, 1, 1, 1])
    >>> found = robustness_table(Influence(LinearProblem.fit(X, y, loss=Squared())), 0, most=8)
    >>> found.to_frame()[["found", "certified"]].values.tolist()  # no set makes it negative and significant
    [[6, 5], [<NA>, 5]]
    """
    names = [coefficients] if isinstance(coefficients, (str, int)) else list(coefficients)
    found: dict[tuple[str, str], Robustness] = {}
    notes: list[str] = []
    how: dict[str, Any] = {"groups": groups, "most": most, "memory": memory}
    for name in names:
        sign = Sign(name)
        alone = robustness(influence, sign, **how)
        found[str(name), "sign"] = with_errors(alone, influence.problem, sign, errors)
        for change, asked in (
            ("significance", Significant(name, level, errors)),
            ("sign and significance", NotReversed(name, level, errors)),
        ):
            try:
                found[str(name), change] = robustness(influence, asked, **how)
            except ValueError as missing:
                notes.append(f"{change} of {name}: {missing}.")
    return RobustnessTable(found, tuple(notes))


def _escaped(name: str) -> str:
    r"""A name as LaTeX prints it.

    >>> print(_escaped("share_of_50%"))
    share\_of\_50\%
    """
    return "".join(SPECIAL.get(sign, sign) for sign in name)


def _number(value: float | int | None, error: float | None = None) -> str:
    """A number in LaTeX, with its standard error in parentheses where there is one; a dash for none.

    >>> _number(-0.25, 0.1), _number(None)
    ('$-0.25$ ($0.1$)', '--')
    """
    if value is None:
        return "--"
    return f"${value:.4g}$" + ("" if error is None else f" (${error:.3g}$)")
