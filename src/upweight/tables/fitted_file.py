"""From a user's files to what a question needs: a trained model, its influence, and the rows that are asked about."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from ..cli.app import phase
from ..errors import NotStationaryWarning
from ..estimators.from_estimator import from_estimator
from ..influence.influence import Influence
from ..objective import LinearModel, Objective
from ..runtime.progress import tell
from ..types import as_tensor
from ..uses.labels import margin_of_targets
from ..validation.refits import Refit
from .columns import FileError, Kind, Table, check_column, is_quantity, kind_of, named_by, read, understood
from .default_models import described, sensible

Batches = Callable[[pd.DataFrame, Path], Any]
"""Rows of a table, and the folder that its images are in -> a batch of the model's."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The training file as it is (`raw`), the influence of a model of it, and how rows become the model's `batches`.

    `kinds` are the columns that the model sees, `notes` what was left out or filled, `refit` is a user's way to train
    the problem again.
    """

    file: Path
    target: str
    raw: pd.DataFrame
    kinds: dict[str, Kind]
    notes: tuple[str, ...]
    model: str
    influence: Influence
    batches: Batches
    classifies: bool
    encoding: str
    id: str
    refit: Refit | None = None

    @classmethod
    def of(
        cls,
        file: Path,
        target: str,
        *,
        model: Path | None,
        trust: list[str],
        problem: str | None,
        text: list[str],
        image: list[str],
        drop: list[str],
        id: str | None,
        encoding: str,
    ) -> Asked:
        """Read, fit (or load) and prepare, saying what is done."""
        file = file.resolve()
        with phase(f"reading {file.name}"):
            raw = read(file, encoding)
        as_read: dict[str, Any] = {"file": file, "target": target, "encoding": encoding, "id": id or "row"}
        if problem is not None:
            if model is not None:
                raise FileError("--model and --problem are two ways to say the same: leave one out")
            return cls(
                **as_read,
                **_from_problem(problem, raw if id is None else raw.set_axis(named_by(raw, id)), target),
            )
        table = understood(raw, target, text=text, image=image, drop=drop, id=id, folder=file.parent)
        raw = raw.set_axis(table.X.index)
        for note in table.notes:
            tell(note)
        found = _fitted(table, file) if model is None else _from_model(model, trust, raw, table)
        return cls(**as_read, raw=raw, classifies=table.classifies, **found)

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
        return self.batches(raw, (test or self.file).resolve().parent)

    @property
    def problem(self) -> LinearModel:
        """What the model's training minimised."""
        model = self.influence.problem.linear
        if model is None:
            raise FileError("this is answered for linear models only")
        return model

    def least_certain(self, test: Any, count: int) -> Any:
        """Those rows of a batch, predicted rightly, whose margin is smallest."""
        problem = self.problem
        design, y = problem.prepared(test)
        margin = margin_of_targets(problem, problem.outputs(design), y)
        right = (margin > 0).nonzero()[:, 0]
        if not len(right):
            raise FileError("the model is wrong about every row asked about: nothing is left to attack")
        rows = right[margin[right].argsort()[:count]]
        return design.take(rows), as_tensor(y)[rows]

    def radius(self, deviations: float) -> torch.Tensor:
        """How far each column of the model may move: those made of numbers, which were scaled; the others not."""
        names = self.problem.feature_names
        assert names is not None
        moves = [float(self.kinds.get(name.removeprefix("numbers__")) == "number") for name in names]
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


def _fitted(table: Table, file: Path) -> dict[str, Any]:
    """What `Asked` needs of a model that is fitted here."""
    estimator = sensible(table, cache=file.parent / ".upweight")
    from sklearn.exceptions import ConvergenceWarning

    with phase(f"fitting {len(table.X):,} rows"), warnings.catch_warnings():
        # It is finished to rounding below: that scikit-learn stopped early does not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", NotStationaryWarning)
        estimator.fit(table.X, table.y)
        problem = from_estimator(estimator, table.X, table.y, polish=True)
    words = described(table)
    tell(f"fitted: {words}")
    return {
        "kinds": table.kinds,
        "notes": table.notes,
        "model": words,
        "influence": Influence(problem),
        "batches": table.batch,
    }


def _from_model(path: Path, trust: list[str], raw: pd.DataFrame, table: Table) -> dict[str, Any]:
    """The same of a user's scikit-learn model."""
    estimator, target = load(path, trust), str(table.y.name)

    def batches(rows: pd.DataFrame, _: Path) -> Any:
        check_column(rows, target)
        return _own_columns(estimator, rows, target), rows[target]

    X, y = batches(raw, path)
    return {
        "kinds": {name: kind for name, kind in table.kinds.items() if name in X.columns},
        "notes": (),
        "model": f"{path.name}: {' '.join(str(estimator).split())}",
        "influence": Influence(from_estimator(estimator, X, y, polish=False)),
        "batches": batches,
    }


def _from_problem(name: str, raw: pd.DataFrame, target: str) -> dict[str, Any]:
    """The same of a user's PyTorch model: `name` is MODULE:FUNCTION, called with the file's table.

    It returns a `Problem` of the rows in their order, a function that turns rows of a table into a batch of its, and,
    for `verify`, a function that trains on the rows that are kept (see `upweight.verify`).
    """
    check_column(raw, target)
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise FileError(
            f"--problem {name}: write MODULE:FUNCTION, as in mine:problem for problem() of mine.py"
        )
    with phase(f"calling {name}"):
        try:
            sys.path.insert(0, "")
            made = getattr(importlib.import_module(module), function)(raw)
        except Exception as error:  # whatever a user's own code raises
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise FileError(
                f"--problem {name}: {type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
            ) from error
        finally:
            sys.path.remove("")
    problem, batches, refit = (
        (*made, None)[:3] if isinstance(made, tuple) and len(made) > 1 else (None, None, None)
    )
    if not isinstance(problem, Objective) or not callable(batches):
        raise FileError(
            f"--problem {name} must return (problem, batches) or (problem, batches, refit), where batches(table) makes "
            f"a batch of the problem's of rows of a table; it returned {type(made).__name__}"
        )
    if problem.n != len(raw):
        raise FileError(
            f"--problem {name}: the problem has {problem.n:,} examples, the file {len(raw):,} rows"
        )
    problem = problem.changed(terms=replace(problem.terms, train_index=raw.index))
    kinds = {column: kind_of(raw[column]) for column in raw.columns.drop(target)}
    return {
        "raw": raw,
        "kinds": {column: kind for column, kind in kinds.items() if kind in get_args(Kind)},
        "notes": (),
        "model": f"{name}: {problem.n:,} examples, {problem.p:,} parameters",
        "influence": Influence(problem),
        "batches": lambda rows, _: batches(rows),
        "classifies": not is_quantity(raw[target]),
        "refit": refit,
    }


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
