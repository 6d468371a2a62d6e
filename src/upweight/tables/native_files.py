"""Trees in the files of their own libraries: XGBoost's .ubj and .json, LightGBM's .txt, CatBoost's .cbm."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..estimators.tree_models import Rows
from ..estimators.xgboost_training import trained_again
from ..estimators.xgboost_trees import strengths
from ..runtime.paths import not_there
from .boosted_models import THREADS
from .reading import FileError, check_column

Train: TypeAlias = Callable[[pd.DataFrame, pd.Series], Any]
"""From inputs and targets to the library's model of them."""


@dataclass(frozen=True, eq=False)
class Native:
    """Trees from a file of their library.

    Attributes:
        model: What the library reads from the file.
        library: Its name.
        names: The columns that it was trained on, by the library's names of them; None where the file has none.
        categories: Which of these hold categories, with their levels in the order of the library's codes; None: as in
            the training table, sorted.
        classes: How many classes it tells apart, 0 for a quantity.
        again: From all training rows, inputs and targets, to what trains on some of them by the parameters in the file.
        words: Whether the library takes categories as words, none of them missing.
    """

    model: Any
    library: str
    names: tuple[str, ...] | None
    categories: Mapping[str, Sequence[Any] | None]
    classes: int
    again: Callable[[pd.DataFrame, pd.Series], Train]
    words: bool = False

    def frame(self, train: pd.DataFrame, target: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """What gives the columns of any rows as the model takes them.

        Args:
            train: The training table (n rows).
            target: The column that is predicted.

        Raises:
            FileError: The table has no such column, or another number of them.
        """
        own = [str(name) for name in train.columns if name != target]
        names = self.names or tuple(own)
        spelled = {name.replace(" ", "_"): name for name in own} | {name: name for name in own}
        for name in names:
            check_column(train, spelled.get(name, name))
        columns = {name: spelled[name] for name in names}
        levels = {
            name: sorted(train[columns[name]].dropna().map(_word).unique()) if given is None else list(given)
            for name, given in self.categories.items()
        }

        def frame(rows: pd.DataFrame) -> pd.DataFrame:
            found = {}
            for name, column in columns.items():
                check_column(rows, column)
                known = levels.get(name)
                found[name] = _number(rows[column]) if known is None else self._category(rows[column], known)
            return pd.DataFrame(found, index=rows.index)

        return frame

    def _category(self, column: pd.Series, known: list[Any]) -> pd.Series:
        words = column.map(_word, na_action="ignore")
        if self.words:
            return words.astype(object).fillna("nan")
        return words.map({_word(level): level for level in known}).astype(pd.CategoricalDtype(known))


def read_native(path: Path, rows: pd.DataFrame, category: Sequence[str]) -> Native:
    """Trees from a file of their library, which its suffix tells.

    Args:
        path: The file.
        rows: The training table.
        category: Its columns of categories.

    Raises:
        FileError: The file is not there or none of that library's.
        ImportError: The library is not installed.
    """
    if trouble := not_there(path):
        raise FileError(trouble)
    library, extra, read = NATIVE[path.suffix.lower()]
    try:
        return read(path, rows, category)
    except ImportError as missing:
        raise ImportError(f'{library} is not installed: pip install "upweight[{extra}]"') from missing
    except FileError:
        raise
    except Exception as error:  # whatever a broken or foreign file makes the library raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise FileError(f"{path.name}: cannot be read as a model of {library} ({said[0]})") from error


def _xgboost(path: Path, rows: pd.DataFrame, category: Sequence[str]) -> Native:
    import xgboost

    model = xgboost.Booster()
    model.load_model(path)
    learner = json.loads(model.save_raw("json"))["learner"]
    objective, names = learner["objective"]["name"], model.feature_names
    types = model.feature_types or []
    found = {name: None for name, kind in zip(names or [], types, strict=False) if kind == "c"}
    several = int(learner["learner_model_param"]["num_class"])
    classes = (
        several if objective.startswith("multi") else 2 * objective.startswith(("binary", "reg:logistic"))
    )

    def again(X: pd.DataFrame, y: pd.Series) -> Train:
        return trained_again(model, X, y, strengths(model, Rows(X, np.array(y), None)))

    return Native(model, "XGBoost", None if names is None else tuple(names), found, classes, again)


def _lightgbm(path: Path, rows: pd.DataFrame, category: Sequence[str]) -> Native:
    import lightgbm

    model = lightgbm.Booster(model_file=path)
    names, levels = model.feature_name(), model.pandas_categorical or []
    spelled = {str(name).replace(" ", "_"): str(name) for name in rows.columns}
    likely = [name for name in names if spelled.get(name, name) in category]
    if len(likely) != len(levels):
        raise FileError(
            f"{path.name}: LightGBM was trained on {len(levels)} columns of categories, and the table has "
            f"{len(likely)}: {', '.join(likely) or 'none'}. Say which they are with "
            "--category COLUMN and --number COLUMN"
        )
    objective = model.dump_model()["objective"].split()[0]
    classes = (
        model.num_model_per_iteration() if objective.startswith("multi") else 2 * (objective == "binary")
    )
    settings = {**model.params, "num_iterations": model.current_iteration(), "verbosity": -1}
    columns = settings.pop("categorical_feature", "auto")

    def again(X: pd.DataFrame, y: pd.Series) -> Any:
        return lightgbm.train(settings, lightgbm.Dataset(X, y, categorical_feature=columns))

    found = dict(zip(likely, levels, strict=True))
    return Native(model, "LightGBM", tuple(names), found, classes, lambda X, y: again)


def _catboost(path: Path, rows: pd.DataFrame, category: Sequence[str]) -> Native:
    import catboost

    model = catboost.CatBoost()
    model.load_model(str(path))
    classifies = model.get_all_params()["loss_function"] in ("Logloss", "MultiClass", "MultiClassOneVsAll")
    model = catboost.CatBoostClassifier() if classifies else catboost.CatBoostRegressor()
    model.load_model(str(path))
    names = [str(name) for name in model.feature_names_]
    unnamed = names == [str(j) for j in range(len(names))]
    own = [str(name) for name in rows.columns]
    found = {(own if unnamed else names)[j]: None for j in model.get_cat_feature_indices()}
    classes = len(model.classes_) if classifies else 0
    known = inspect.signature(type(model).__init__).parameters
    settings = {name: value for name, value in model.get_all_params().items() if name in known}
    settings |= {"iterations": model.tree_count_, "cat_features": model.get_cat_feature_indices()}
    settings |= {"thread_count": THREADS, "verbose": False, "allow_writing_files": False}

    def again(X: pd.DataFrame, y: pd.Series) -> Any:
        return type(model)(**settings).fit(X, y)

    columns = None if unnamed else tuple(names)
    return Native(model, "CatBoost", columns, found, classes, lambda X, y: again, words=True)


NATIVE: Mapping[str, tuple[str, str, Callable[[Path, pd.DataFrame, Sequence[str]], Native]]] = {
    ".ubj": ("XGBoost", "xgboost", _xgboost),
    ".json": ("XGBoost", "xgboost", _xgboost),
    ".txt": ("LightGBM", "lightgbm", _lightgbm),
    ".cbm": ("CatBoost", "catboost", _catboost),
}
"""The library of a file's suffix, its extra, and what reads the file."""


def _word(value: object) -> str:
    """A category's name, whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(column: pd.Series) -> pd.Series:
    """Numbers as libraries read them, missing ones missing. Raises FileError for words."""
    if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
        raise FileError(
            f"column {column.name!r} is one of numbers in the model, and holds something else here"
        )
    return column.astype("float64")
