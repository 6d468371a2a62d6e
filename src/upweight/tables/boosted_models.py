"""Boosted trees of a table that comes without a model: which library, with which settings, on what columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .columns import Table
from .default_models import named
from .reading import FileError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

TREES = 100
"""Trees for each output of a model."""
RATE = 0.1
"""Their learning rate."""
THREADS = 1
"""So that a retraining adds up in the same order; small tables are trained faster, too."""
L2 = 1.0
"""What stands beside the second derivatives in a leaf: leaves of few rows stay small, and a removal may empty one."""


@dataclass(frozen=True)
class Booster:
    """A library of boosted trees.

    Attributes:
        name: What it is called in sentences.
        extra: The extra of upweight that installs it.
        size: How large its trees get.
        make: From whether a class is predicted, and the places of columns of categories, to an unfitted estimator.
        missing: Whether categories may be missing.
    """

    name: str
    extra: str
    size: str
    make: Callable[[bool, list[int]], Any]
    missing: bool = True

    def described(self, table: Table) -> str:
        """The model that `pipeline` makes of a table, in one sentence."""
        columns = "; ".join(
            f"{named(names)} {treated}".strip()
            for kind, treated in (("number", ""), ("date", "in days"), ("category", "as categories"))
            if (names := table.columns(kind))  # type: ignore[arg-type]
        )
        kind = "classifier" if table.classifies else "regression"
        return f"{self.name} {kind} ({TREES} trees of {self.size}, learning rate {RATE}) of {table.y.name} on {columns}"

    def pipeline(self, table: Table) -> Pipeline:
        """The unfitted model of a table: its columns with their categories, then the library's own estimator.

        Raises FileError for columns of text and images, ImportError where the library is not installed.
        """
        for kind in ("text", "image"):
            if names := table.columns(kind):
                raise FileError(
                    f"--booster: trees split numbers and categories, and {', '.join(names)} "
                    f"{'holds' if len(names) == 1 else 'hold'} {kind}{'s' * (kind == 'image')}: leave "
                    f"{'it' if len(names) == 1 else 'them'} out with {' '.join(f'--drop {name}' for name in names)}, "
                    "or leave --booster out"
                )
        categories = table.columns("category")
        try:
            from sklearn.pipeline import make_pipeline

            from .as_categories import AsCategories

            places = [list(table.kinds).index(name) for name in categories]
            return make_pipeline(AsCategories(categories, self.missing), self.make(table.classifies, places))
        except ImportError as missing:
            raise ImportError(
                f'{self.name} is not installed: pip install "upweight[{self.extra}]"'
            ) from missing


def _hist(classifies: bool, categories: list[int]) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if classifies else HistGradientBoostingRegressor
    return kind(
        max_iter=TREES,
        learning_rate=RATE,
        max_leaf_nodes=31,
        l2_regularization=L2,
        early_stopping=False,
        categorical_features=categories,
        random_state=0,
    )


def _xgboost(classifies: bool, categories: list[int]) -> Any:
    from xgboost import XGBClassifier, XGBRegressor

    kind = XGBClassifier if classifies else XGBRegressor
    return kind(
        n_estimators=TREES,
        learning_rate=RATE,
        max_depth=6,
        reg_lambda=L2,
        enable_categorical=True,
        random_state=0,
        n_jobs=THREADS,
    )


def _lightgbm(classifies: bool, categories: list[int]) -> Any:
    from lightgbm import LGBMClassifier, LGBMRegressor

    kind = LGBMClassifier if classifies else LGBMRegressor
    return kind(
        n_estimators=TREES,
        learning_rate=RATE,
        num_leaves=31,
        reg_lambda=L2,
        deterministic=True,
        force_row_wise=True,
        n_jobs=THREADS,
        random_state=0,
        verbosity=-1,
    )


def _catboost(classifies: bool, categories: list[int]) -> Any:
    from catboost import CatBoostClassifier, CatBoostRegressor

    kind = CatBoostClassifier if classifies else CatBoostRegressor
    return kind(
        iterations=TREES,
        learning_rate=RATE,
        depth=6,
        l2_leaf_reg=L2,
        one_hot_max_size=255,  # no statistics of targets, which would make leaves of rows that nobody can tell
        cat_features=categories,
        random_seed=0,
        thread_count=THREADS,
        verbose=False,
        allow_writing_files=False,
    )


BOOSTERS: Mapping[str, Booster] = {
    "hist": Booster("scikit-learn's histogram boosting", "sklearn", "up to 31 leaves", _hist),
    "xgboost": Booster("XGBoost", "xgboost", "depth 6", _xgboost),
    "lightgbm": Booster("LightGBM", "lightgbm", "up to 31 leaves", _lightgbm),
    "catboost": Booster("CatBoost", "catboost", "depth 6", _catboost, missing=False),
}
"""The libraries by what `--booster` calls them."""
