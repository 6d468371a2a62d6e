"""From a user's files to what a question needs: a trained model, its influence, and the rows that are asked about."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..errors import NotStationaryWarning
from ..estimators import from_estimator
from ..influence import Influence
from ..linear import LinearProblem
from ..pipelines import described, sensible
from ..tables import FileError, Kind, Table, check_column, read, understood
from ..types import as_tensor
from ..uses.names import margins
from .app import phase, say


@dataclass(frozen=True, eq=False)
class Asked:
    """The training file as it is (`raw`), what the model sees of it, and the model's influence.

    `table` is None for a model that came with its own idea of the columns.
    """

    raw: pd.DataFrame
    X: pd.DataFrame
    y: pd.Series
    table: Table | None
    kinds: dict[str, Kind]
    notes: tuple[str, ...]
    model: str
    influence: Influence
    classifies: bool
    folder: Path
    encoding: str
    id: str

    @classmethod
    def of(
        cls,
        file: Path,
        target: str,
        *,
        model: Path | None,
        trust: list[str],
        text: list[str],
        image: list[str],
        drop: list[str],
        id: str | None,
        encoding: str,
    ) -> Asked:
        """Read, fit (or load) and prepare, saying what is done."""
        folder = file.resolve().parent
        with phase(f"reading {file.name}"):
            raw = read(file, encoding)
        table = understood(raw, target, text=text, image=image, drop=drop, id=id, folder=folder)
        raw = raw.set_axis(table.X.index)
        for note in table.notes:
            say(note)
        X, y = table.X, table.y
        if model is None:
            estimator = sensible(table, cache=folder / ".upweight")
            with phase(f"fitting {len(X):,} rows"), warnings.catch_warnings():
                _quiet_convergence()
                estimator.fit(X, y)
            words = described(table)
            say(f"fitted: {words}")
        else:
            estimator = load(model, trust)
            words = f"{model.name}: {' '.join(str(estimator).split())}"
            X, y = _own_columns(estimator, raw, target), raw[target]
        with warnings.catch_warnings():
            if model is None:  # it is finished below
                warnings.simplefilter("ignore", NotStationaryWarning)
            problem = from_estimator(estimator, X, y, polish=model is None)
        return cls(
            raw=raw,
            X=X,
            y=y,
            table=table if model is None else None,
            kinds={name: kind for name, kind in table.kinds.items() if name in X.columns},
            notes=table.notes if model is None else (),
            model=words,
            influence=Influence(problem),
            classifies=table.classifies,
            folder=folder,
            encoding=encoding,
            id=id or "row",
        )

    def looked_up(self, test: Path | None, row: str) -> pd.Series:
        """The row asked about as it stands in its file."""
        raw = self._rows_of(test)
        return raw.loc[_label(raw, row)]

    def _rows_of(self, test: Path | None) -> pd.DataFrame:
        if test is None:
            return self.raw
        raw = read(test, self.encoding)
        return raw.set_index(self.id) if self.id != "row" and self.id in raw.columns else raw

    def batch(self, test: Path | None, row: str | None = None, where: str | None = None) -> Any:
        """Inputs and targets of the rows asked about: of the test file if there is one, one of them if `row`."""
        raw = self._rows_of(test)
        if where is not None:
            raw = raw.loc[_mask(raw, where)]
        if row is not None:
            raw = raw.loc[[_label(raw, row)]]
        if self.table is not None:
            return self.table.batch(raw, self.folder if test is None else test.resolve().parent)
        check_column(raw, str(self.y.name))
        return raw[self.X.columns], raw[str(self.y.name)]

    @property
    def problem(self) -> LinearProblem:
        """What the model's training minimised."""
        assert isinstance(self.influence.problem, LinearProblem)
        return self.influence.problem

    def least_certain(self, test: Any, count: int) -> Any:
        """Those rows of a batch, predicted rightly, whose margin is smallest."""
        problem = self.problem
        design, y = problem._test(test)
        outputs = problem._outputs(design, problem.theta)
        margin = margins(outputs, problem._encode(y, len(outputs)).flatten())
        right = (margin > 0).nonzero()[:, 0]
        if not len(right):
            raise FileError("the model is wrong about every row asked about: nothing is left to attack")
        rows = right[margin[right].argsort()[:count]]
        return design.take(rows), as_tensor(y)[rows]

    def radius(self, deviations: float) -> torch.Tensor:
        """How far each column of the model may move: those made of numbers, which were scaled; the others not."""
        names = self.problem.feature_names
        numbers = set(self.table.columns("number")) if self.table is not None else set()
        assert names is not None
        moves = [float(name.removeprefix("numbers__") in numbers) for name in names]
        if not any(moves):
            raise FileError("no column of numbers is there to move")
        return deviations * torch.tensor(moves, dtype=torch.float64)

    def column(self, name: str) -> pd.Series:
        """A column of the training file, for groups; a missing value is a group of its own."""
        check_column(self.raw, name)
        return self.raw[name].map(str, na_action="ignore").fillna("(missing)")

    def rows(self, where: str) -> list[int]:
        """The places of the training rows of which a condition holds."""
        found = np.flatnonzero(_mask(self.raw, where)).tolist()
        if len(found) == len(self.raw):
            raise FileError(f"{where!r} holds of all {len(found):,} rows: leave some to learn from")
        return found


def load(path: Path, trust: list[str]) -> Any:
    """A model from a skops file, with no other types than those known to be safe and those in `trust`.

    Raises FileError naming the types that were not trusted.
    """
    try:
        import skops.io
    except ImportError as missing:
        raise ImportError('models are read with skops: pip install "upweight[files]"') from missing
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        unknown = [name for name in skops.io.get_untrusted_types(file=path) if name not in trust]
        if unknown:
            options = " ".join(f"--trust {name}" for name in unknown)
            raise FileError(
                f"{path.name} uses types that could run code of its author: {', '.join(unknown)}. "
                f"If you trust where it comes from: {options}"
            )
        return skops.io.load(path, trusted=trust)
    except FileError:
        raise
    except Exception as error:  # whatever a broken or foreign archive makes skops raise
        raise FileError(
            f"{path.name}: cannot be read as a skops file ({type(error).__name__}: {error})"
        ) from error


def _own_columns(estimator: Any, raw: pd.DataFrame, target: str) -> pd.DataFrame:
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return raw.drop(columns=target)
    for name in names:
        check_column(raw, str(name))
    return raw[list(names)]


def _label(raw: pd.DataFrame, row: str) -> Any:
    for label in (row, *([int(row)] if row.lstrip("-").isdigit() else [])):
        if label in raw.index:
            return label
    if len(raw) == 0:
        raise FileError("no row is left to ask about")
    raise FileError(f"no row {row!r}; they go from {raw.index[0]!r} to {raw.index[-1]!r}")


def _mask(raw: pd.DataFrame, where: str) -> np.ndarray:
    """Which rows a condition holds of; the condition is the user's own, it sees the columns and nothing else."""
    try:
        found = raw.eval(where, engine="python", parser="pandas", local_dict={}, global_dict={})
    except Exception as error:  # pandas raises whatever the parser, the operator or a lookup does
        raise FileError(f"the condition {where!r} cannot be understood: {error}") from error
    mask = np.asarray(found)
    if mask.dtype != bool or mask.shape != (len(raw),):
        raise FileError(f"the condition {where!r} is not true or false of each row")
    if not mask.any():
        raise FileError(f"no row fulfils {where!r}")
    return mask


def _quiet_convergence() -> None:
    """The fit is finished to rounding afterwards: that scikit-learn stopped early does not matter."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
