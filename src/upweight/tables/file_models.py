"""The three ways to a trained model of a file: fitted here, read from a skops file, made by a user's own function."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..errors import NotStationaryWarning
from ..estimators.from_estimator import from_estimator
from ..estimators.refitting import GIVEN, OWN, Refitting
from ..estimators.user_data import Targets
from ..influence.influence import Influence
from ..influence.unrolled import Answers, Unrolled
from ..objective import LinearModel, Objective
from ..runtime.paths import not_there
from ..runtime.progress import phase, tell
from ..types import Batch, Tensor
from ..validation.refits import Refit
from .boosted_models import BOOSTERS
from .columns import Table
from .default_models import described, feature_names, sensible
from .kinds import Kind, is_kind, is_quantity, kind_of
from .native_files import Train, read_native
from .reading import FileError, check_column

Batches = Callable[[pd.DataFrame, Path], Batch]
"""Rows of a table, and the folder that their images are in -> a batch of the model's."""

SAME = 1e-6
"""How far leaf values that are trained again on the same rows may be apart, as a share of the largest."""
CACHE = ".upweight"
"""The folder beside the file in which features of images are kept."""


@dataclass(frozen=True, eq=False)
class FileModel:
    """A trained model of a file's rows, however it came about.

    Attributes:
        words: What the model is, in one sentence.
        influence: The influence of the training rows, in the file's order.
        batches: Makes a batch of the model's of rows of a table with the file's columns.
        kinds: The columns that the model sees, and what they are.
        classifies: Whether the target is a class.
        notes: What was left out of the file or filled, and why, a sentence each.
        refit: A user's way to train the model again, for models that upweight cannot train itself.
        retrained: Finds out how the trees of a file are trained again; FileError where the file does not say.
    """

    words: str
    influence: Answers
    batches: Batches
    kinds: Mapping[str, Kind]
    classifies: bool
    notes: tuple[str, ...] = ()
    refit: Refit | None = None
    retrained: Callable[[], Refitting] | None = None

    def check_refit(self) -> None:
        """Raises FileError for a model that nobody trains again: a network that came without a `refit`, say."""
        if self.refit is None and self.again is None and self.influence.problem.replays is None:
            raise FileError(
                "this model is not trained again here: for a network the function of --problem must return (problem, "
                "batches, refit), where refit(kept rows) trains it anew, or a TrainingRun in the problem's place"
            )

    def untrained(self) -> str:
        """Why trees from a file cannot be trained again, in a sentence; "" where they can, and for all other models."""
        if self.retrained is not None:
            try:
                self.retrained()
            except FileError as error:
                return str(error)
        return ""

    @property
    def again(self) -> Callable[[Tensor], Objective] | None:
        """What trains the model on some rows (k,) alone; None where that cannot be done here, as for a network.

        A linear model is trained from where it was, and transformers before it stay; other estimators are fitted anew
        with theirs. Raises FileError for trees from a file that does not say how they were trained.
        """
        if self.retrained is not None:
            return self.retrained()
        problem = self.influence.problem
        if (linear := problem.linear) is None:
            return problem.cache.get(OWN)

        def again(kept: Tensor) -> LinearModel:
            gone = torch.ones(linear.n, dtype=torch.bool).index_fill(0, kept, False)
            return linear.without(gone.nonzero()[:, 0]).minimised()

        return again


def fitted_here(table: Table, folder: Path, booster: str | None = None) -> FileModel:
    """A model that is fitted here: the sensible pipeline for the table's columns, trained to rounding.

    Args:
        table: The rows.
        folder: That of the file; features of images are kept in its folder `.upweight`.
        booster: The library of boosted trees that fits it, a key of `BOOSTERS`; None: it is linear.
    """
    if booster is not None:
        return boosted_here(table, booster)
    pipeline = sensible(table, cache=folder / CACHE)
    from sklearn.exceptions import ConvergenceWarning

    with phase(f"fitting {len(table.X):,} rows"), warnings.catch_warnings():
        # `polish` finishes the training: that scikit-learn stopped early does not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", NotStationaryWarning)
        pipeline.fit(table.X, table.y)
        problem = from_estimator(pipeline, table.X, table.y, polish=True)
    problem = problem.changed(terms=replace(problem.terms, feature_names=feature_names(pipeline, table)))
    words = described(table)
    tell(f"fitted: {words}", always=True)
    return FileModel(
        words=words,
        influence=Influence(problem),
        batches=table.batch,
        kinds=table.kinds,
        classifies=table.classifies,
        notes=table.notes,
    )


def boosted_here(table: Table, booster: str) -> FileModel:
    """Boosted trees that are fitted here, by the library that `booster` names.

    Raises FileError for columns that trees cannot split, ImportError where the library is not installed.
    """
    library = BOOSTERS[booster]
    pipeline, targets = library.pipeline(table), numbered(table)
    codes = pd.Series(targets(table.y), table.y.index)
    with phase(f"fitting {len(table.X):,} rows"):
        pipeline.fit(table.X, codes)
    problem = in_words(from_estimator(pipeline, table.X, codes), targets)
    words = library.described(table)
    tell(f"fitted: {words}", always=True)
    return FileModel(
        words=words,
        influence=Influence(problem),
        batches=table.batch,
        kinds=table.kinds,
        classifies=table.classifies,
        notes=table.notes,
    )


def numbered(table: Table) -> Targets:
    """A table's classes as numbers from 0, in their sorted order; not all libraries take names. Quantities stay."""
    return Targets(tuple(sorted(table.y.unique().tolist())) if table.classifies else None)


def in_words(problem: Objective, targets: Targets) -> Objective:
    """A problem of `from_estimator` whose classes are numbers, in the names that `targets` numbers; and its refits."""
    if targets.classes is None:
        return problem
    prepare, again = problem.terms.prepare, problem.cache.get(OWN)
    assert prepare is not None
    terms = replace(problem.terms, classes=targets.classes, prepare=lambda X, y: prepare(X, targets(y)))
    found = problem.changed(terms=terms)
    found.cache[OWN] = None if again is None else lambda kept: in_words(again(kept), targets)
    if (given := problem.cache.get(GIVEN)) is not None:
        names = np.asarray(targets.classes, dtype=object)

        def in_names(rows: Tensor) -> tuple[Any, Any]:
            X, codes = given(rows)
            return X, names[np.asarray(codes)]

        found.cache[GIVEN] = in_names
    return found


def from_skops(path: Path, trust: Collection[str], rows: pd.DataFrame, table: Table) -> FileModel:
    """A scikit-learn model that its user fitted, read from a skops file.

    Args:
        path: The skops file.
        trust: Types that the file may use, besides those known to be safe.
        rows: The training file as it was read (n rows): what the model was fitted on.
        table: The same file, understood.

    Raises:
        FileError: The file cannot be read, uses types that are not trusted, or needs columns that are not there.
    """
    estimator, target = read_skops(path, trust), str(table.y.name)

    def batches(rows: pd.DataFrame, _: Path) -> tuple[pd.DataFrame, pd.Series]:
        check_column(rows, target)
        return _own_columns(estimator, rows, target), rows[target]

    X, y = batches(rows, path)
    return FileModel(
        words=f"{path.name}: {' '.join(str(estimator).split())}",
        influence=Influence(from_estimator(estimator, X, y, polish=False)),
        batches=batches,
        kinds={name: kind for name, kind in table.kinds.items() if name in X.columns},
        classifies=table.classifies,
    )


def from_native(path: Path, rows: pd.DataFrame, table: Table) -> FileModel:
    """Trees that their user trained, read from a file of their library.

    Args:
        path: The file.
        rows: The training file as it was read (n rows): what they were trained on.
        table: The same file, understood.

    Raises:
        FileError: The file cannot be read, or needs other columns or classes than are there.
    """
    native, target = read_native(path, rows, table.columns("category")), str(table.y.name)
    frame = native.frame(rows, target)
    names = tuple(sorted(rows[target].unique().tolist())) if native.classes else None
    if names is not None and len(names) != native.classes:
        raise FileError(
            f"{path.name}: the model tells {native.classes} classes apart, and {target!r} has {len(names)} values"
        )

    def batches(rows: pd.DataFrame, _: Path) -> tuple[pd.DataFrame, pd.Series]:
        check_column(rows, target)
        return frame(rows), rows[target]

    says = native.classes > 0 and hasattr(
        native.model, "classes_"
    )  # the file itself, whose name has which number
    targets, X = Targets(None if says else names), frame(rows)
    y = rows[target] if says else pd.Series(targets(rows[target]), rows.index)
    problem = in_words(from_estimator(native.model, X, y), targets)
    problem.cache[OWN] = (
        None  # whether the file says all of how it was trained is found out where it is asked
    )

    def refits(train: Train, X: pd.DataFrame, y: pd.Series) -> Refitting:
        """How the trees are trained again on some of those rows; and these on some of theirs."""

        def again(kept: Tensor) -> Objective:
            some = X.iloc[kept.numpy()], y.iloc[kept.numpy()]
            found = in_words(from_estimator(train(*some), *some), targets)
            found.cache[OWN] = refits(train, *some)
            return found

        return again

    def retrained() -> Refitting:
        if problem.cache[OWN] is None:
            with phase("training again as the file says"):
                again = refits(native.again(X, y), X, y)
                _check_again(path.name, problem, again(torch.arange(problem.n)))
            problem.cache[OWN] = again
        return problem.cache[OWN]

    spelled = f", classes in sorted order ({', '.join(map(str, names[:5]))})" if names and not says else ""
    return FileModel(
        words=f"{path.name}: trees of {native.library}{spelled}",
        influence=Influence(problem),
        batches=batches,
        kinds={name: kind for name, kind in table.kinds.items() if name in X.columns},
        classifies=names is not None,
        retrained=retrained,
    )


def _check_again(name: str, problem: Objective, again: Objective) -> None:
    """Refuse trees of a file that come out otherwise where they are trained again on all rows.

    Args:
        name: The file's.
        problem: Its trees.
        again: What they came out as.

    Raises:
        FileError: The file does not have all parameters of the training.
    """
    found, own = again.theta, problem.theta
    if found.shape == own.shape:
        off = float((found - own).abs().max() / own.abs().max().clamp(min=1e-300))
        figure = f"leaf values are off by up to {off:.1g} of the largest"
        if torch.allclose(found, own, rtol=SAME, atol=SAME * float(own.abs().max())):
            return
    else:
        figure = f"they have {len(found):,} leaves in place of {len(own):,}"
    raise FileError(
        f"{name}: trained again by the parameters in the file, the trees come out otherwise ({figure}), so that "
        "nothing could be told of a training without some rows: give --booster in place of --model, or ask in Python "
        "with the estimator that was fitted"
    )


def read_skops(path: Path, trust: Collection[str] = ()) -> object:
    """A model from a skops file, with no other types than those known to be safe and those in `trust`.

    Raises FileError for files that are not there or broken, and naming the types that were not trusted; ImportError
    without skops.
    """
    try:
        import skops.io
    except ImportError as missing:
        raise ImportError('models are read with skops: pip install "upweight[files]"') from missing
    if trouble := not_there(path):
        raise FileError(trouble)
    try:
        unknown = [name for name in skops.io.get_untrusted_types(file=path) if name not in trust]
        if unknown:
            options = " ".join(f"--trust {name}" for name in unknown)
            raise FileError(
                f"{path.name} uses types that could run code of its author: {', '.join(unknown)}. "
                f"If you trust where it comes from: {options}"
            )
        return skops.io.load(path, trusted=list(trust))
    except FileError:
        raise
    except Exception as error:  # whatever a broken or foreign archive makes skops raise
        raise FileError(
            f"{path.name}: cannot be read as a skops file ({type(error).__name__}: {error})"
        ) from error


def _own_columns(estimator: object, rows: pd.DataFrame, target: str) -> pd.DataFrame:
    """The columns that an estimator was fitted on; all but the target where it does not say."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return rows.drop(columns=target)
    for name in names:
        check_column(rows, str(name))
    return rows[list(names)]


def from_function(name: str, rows: pd.DataFrame, target: str) -> FileModel:
    """A PyTorch model that a user's own function makes of the file's table.

    The function returns a `Problem` of the rows in their order, or a `TrainingRun` on them (or its `Unrolled`); a
    function that turns rows of a table into a batch of the problem's; and, for `verify`, a function that trains on the
    rows that are kept (see `upweight.verify`), which a run does not need.

    Args:
        name: Where the function is: MODULE:FUNCTION, as Python imports it from the current folder.
        rows: The training file as it was read (n rows), its index the ids of the rows.
        target: The column that the model predicts.

    Raises:
        FileError: There is no such column or function, the function fails, or it returns something else.
    """
    check_column(rows, target)
    influence, batches, refit = _as_promised(name, _called(name, rows), rows.index)
    problem = influence.problem
    kinds = {column: kind_of(rows[column]) for column in rows.columns.drop(target)}
    return FileModel(
        words=f"{name}: {problem.n:,} examples, {problem.p:,} parameters",
        influence=influence,
        batches=lambda rows, _: batches(rows),
        kinds={column: kind for column, kind in kinds.items() if is_kind(kind)},
        classifies=not is_quantity(rows[target]),
        refit=refit,
    )


def _called(name: str, rows: pd.DataFrame) -> object:
    """What MODULE:FUNCTION returns for the table; whatever the user's code raises, as one sentence."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise FileError(
            f"--problem {name}: write MODULE:FUNCTION, as in mine:problem for problem() of mine.py"
        )
    with phase(f"calling {name}"):
        try:
            sys.path.insert(0, "")
            return getattr(importlib.import_module(module), function)(rows)
        except Exception as error:  # whatever a user's own code raises
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise FileError(
                f"--problem {name}: {type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
            ) from error
        finally:
            sys.path.remove("")


def _as_promised(
    name: str, made: object, index: pd.Index
) -> tuple[Answers, Callable[[pd.DataFrame], Batch], Refit | None]:
    """What answers about what a user's function made, with the names of its n rows; its batches, perhaps a refit."""
    found, batches, refit = (
        (*made, None)[:3] if isinstance(made, tuple) and len(made) > 1 else (None, None, None)
    )
    run = getattr(found, "run", found)  # of an Unrolled, or the run itself
    problem = getattr(run, "problem", run)
    if not isinstance(problem, Objective) or not callable(batches):
        raise FileError(
            f"--problem {name} must return (problem, batches) or (problem, batches, refit), where batches(table) makes "
            "a batch of the problem's of rows of a table, and a TrainingRun may take the place of the problem; it "
            f"returned {type(made).__name__}"
        )
    if problem.n != len(index):
        raise FileError(
            f"--problem {name}: the problem has {problem.n:,} examples, the file {len(index):,} rows"
        )
    if run is not problem:
        return Unrolled(run.named(index)), batches, refit
    return Influence(problem.changed(terms=replace(problem.terms, train_index=index))), batches, refit
