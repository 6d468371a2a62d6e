"""How fragile the coefficients of a user's table are: the regression that a statistician would fit, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..uses.robustness import Robustness
from ..uses.robustness_table import RobustnessTable, robustness_table
from .file_models import FileModel
from .fitted_file import as_groups


@dataclass(frozen=True, eq=False)
class Conclusions:
    """Answers about a table's coefficients, and what to know about them, a sentence each.

    `regression` are those about the model.
    """

    table: RobustnessTable
    regression: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """Everything about them: the model, questions without an answer, the rows found, and what limits proofs."""
        each = [_in_words(f"{change} of {name}", one) for (name, change), one in self.table.answers.items()]
        return [*self.regression, *self.table.notes, *each]


def _in_words(what: str, found: Robustness) -> str:
    """The names of the rows that were found to change something, and what limits the proof, in a line.

    Args:
        what: what changes.
        found: the answer.
    """
    names = ", ".join(map(str, found.names[:20])) + ", ..." * (len(found.names) > 20)
    words = [f"without {names}." if names else "no set was found."]
    return f"{what}: {' '.join([*words, *[found.limit] * bool(found.limit and not found.smallest)])}"


def conclusions_of(
    model: FileModel, rows: pd.DataFrame, coefficients: Sequence[str], level: float, cluster: str | None
) -> Conclusions:
    """AMIP's three questions about coefficients of a plain regression of a file.

    Args:
        model: The regression (`plain_model`).
        rows: The rows of the file that it was fitted to.
        coefficients: Their names.
        level: Of significance.
        cluster: The column whose values go together, or None.

    Raises:
        FileError: There is no such column of clusters.
        ValueError: There is no such coefficient, or columns are collinear.
    """
    groups = None if cluster is None else as_groups(rows, cluster).to_numpy()
    found = robustness_table(model.influence, list(coefficients), level=level, groups=groups)
    return Conclusions(found, model.notes)
