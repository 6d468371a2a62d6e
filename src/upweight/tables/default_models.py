"""A sensible scikit-learn pipeline for a table that comes without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from ..frozen import features
from .columns import Table
from .kinds import Kind
from .reading import FileError

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

RARE = 10
"""Categories with fewer rows share a column."""
VOCABULARY = 10_000
"""The most words of a column of text that get a column of their own."""
ABSENT = "missingindicator_"
"""What scikit-learn writes in front of the name of a column that says where a number was filled."""
NAMED = 6
"""Columns of a kind that a sentence names, where there are more of them than that and two."""
SIDE = 224
"""Pixels of the side of an image, as the frozen network takes it."""

_TREATED: dict[Kind, str] = {
    "number": "scaled",
    "date": "in days, scaled",
    "category": "as indicators",
    "text": "as TF-IDF of their words",
    "image": "as features of EfficientNet-Lite0",
}


def sensible(table: Table, cache: Path | None = None) -> Pipeline:
    """An unfitted pipeline for a table: scaled numbers, indicators, TF-IDF, features of images; then a linear model.

    The linear model is logistic regression (C = 1) for classes, ridge regression (alpha = 1) for quantities.
    `described` says the same in words. Features of images are kept in the folder `cache`, if there is one.

    Raises ImportError without scikit-learn, or, when it is fitted on images, without the extra `vision`.
    """
    try:
        from sklearn.compose import ColumnTransformer
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
    except ImportError as missing:
        raise ImportError('a model is fitted with scikit-learn: pip install "upweight[sklearn]"') from missing
    parts = _parts(table, cache)
    words_too = bool(table.columns("text") or table.columns("image"))  # words may be named as columns are
    columns = ColumnTransformer(parts, verbose_feature_names_out=words_too and len(parts) > 1)
    return make_pipeline(columns, LogisticRegression(max_iter=1000) if table.classifies else Ridge())


def _parts(table: Table, cache: Path | None) -> list[tuple[str, BaseEstimator, str | list[str]]]:
    """How each kind of columns becomes numbers: a name, a transformer, and the columns that it gets."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    parts: list[tuple[str, BaseEstimator, str | list[str]]] = []
    n = len(table.X)
    if numbers := [name for name, kind in table.kinds.items() if kind in ("number", "date")]:
        filled = SimpleImputer(strategy="median", add_indicator=bool(table.X[numbers].isna().any().any()))
        parts.append(("numbers", make_pipeline(filled, StandardScaler()), numbers))
    if categories := table.columns("category"):
        encoder = OneHotEncoder(
            min_frequency=min(RARE, max(1, n // 100)),
            handle_unknown="infrequent_if_exist",
            feature_name_combiner=indicator_name,
        )
        parts.append(("categories", encoder, categories))
    for name in table.columns("text"):
        words = TfidfVectorizer(min_df=min(3, n // 10 + 1), max_features=VOCABULARY, sublinear_tf=True)
        parts.append((name, words, name))
    for name in table.columns("image"):
        network = make_pipeline(FunctionTransformer(Photographs(cache)), StandardScaler())
        parts.append((name, network, name))
    return parts


def described(table: Table) -> str:
    """The pipeline that `sensible` makes of a table, in one sentence, as a report shows it.

    >>> import pandas as pd
    >>> described(Table(pd.DataFrame({"age": [31, 52]}), pd.Series([0, 1], name="likes"), {"age": "number"}))
    'logistic regression (C = 1) of likes on age scaled'
    """
    model = "logistic regression (C = 1)" if table.classifies else "ridge regression (alpha = 1)"
    kinds = [kind for kind in _TREATED if table.columns(kind)]
    parts = [f"{named(table.columns(kind))} {_TREATED[kind]}" for kind in kinds]
    return f"{model} of {table.y.name} on {'; '.join(parts)}"


def named(columns: Sequence[str]) -> str:
    """The names of columns in a sentence: all of a few, of many the first ones and how many more there are.

    >>> named(["age", "dose"]), named([f"x{i}" for i in range(30)])
    ('age, dose', 'x0, x1, x2, x3, x4, x5 and 24 more')
    """
    shown = columns if len(columns) <= NAMED + 2 else columns[:NAMED]
    return ", ".join(shown) + (f" and {len(columns) - NAMED} more" if len(shown) < len(columns) else "")


def indicator_name(column: str, category: object) -> str:
    """The name of a category's indicator: a column of ones and zeros that says where the category stands.

    >>> indicator_name("age", "[0-10)")
    'age = [0-10)'
    """
    return f"{column} = {'rare' if category == 'infrequent_sklearn' else category}"


def feature_names(pipeline: Pipeline, table: Table) -> tuple[str, ...]:
    """What a fitted pipeline of `sensible` makes of a table's columns, in words, in the order of its features.

    A number or date keeps its column's name, "age missing" says where it was filled, "town = north" is a category's
    indicator, "said: good" a word, "photo: feature 3" a number that the frozen network makes of an image.
    """
    columns = pipeline[0]
    found: list[str] = [""] * sum(its.stop - its.start for its in columns.output_indices_.values())
    for name, fitted, its in columns.transformers_:
        if (place := columns.output_indices_.get(name)) is None or place.start == place.stop:
            continue
        if name == "numbers":
            given = fitted.get_feature_names_out(its)
            words = [
                f"{n.removeprefix(ABSENT)} missing" if n.startswith(ABSENT) and n not in its else n
                for n in given
            ]
        elif name == "categories":
            words = fitted.get_feature_names_out(its).tolist()
        elif its in table.columns("text"):
            words = [f"{its}: {word}" for word in fitted.get_feature_names_out()]
        else:
            words = [f"{its}: feature {j}" for j in range(place.stop - place.start)]
        found[place] = words
    return tuple(found)


def origin(feature: str, kinds: Mapping[str, Kind]) -> tuple[str, str]:
    """The column of the file that a feature is made of, and its word, category or "missing"; "" where it is a number.

    Features of a user's own pipeline may carry the names of its parts in front, as scikit-learn writes them. A feature
    of no known column is a column of its own.

    >>> kinds = {"age": "number", "town": "category", "said": "text"}
    >>> [origin(name, kinds) for name in ("age", "age missing", "town = north", "said: good", "numbers__age")]
    [('age', ''), ('age', 'missing'), ('town', 'north'), ('said', 'good'), ('age', '')]
    """
    for name in (feature, feature.partition("__")[2].removeprefix(ABSENT)):
        if name in kinds:
            return name, ""
        for column in sorted(kinds, key=len, reverse=True):
            for between in (" = ", ": ", " "):
                if name.startswith(column + between):
                    return column, name[len(column + between) :]
    prefix, _, word = feature.partition("__")
    return (prefix, word) if kinds.get(prefix) == "text" else (feature, "")


class Photographs:
    """A function of paths of images (n,) that gives features (n, 1280) of a frozen network, EfficientNet-Lite0.

    Images are resized to 224 x 224 pixels. Features are kept in the folder `cache`, if there is one.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache

    def __repr__(self) -> str:
        return "EfficientNet-Lite0"

    def __call__(self, paths: Iterable[str]) -> Float32[np.ndarray, "n 1280"]:
        """Raises FileError for a file that is no image, ImportError without the extra `vision`."""
        from ..vision import EfficientNetLite0

        pixels = [torch.from_numpy(photograph(path)).permute(2, 0, 1) for path in np.ravel(np.asarray(paths))]
        return features(_Scaled(EfficientNetLite0()), torch.stack(pixels), cache=self.cache).numpy()


class _Scaled(torch.nn.Module):
    """The network on pixels 0..255, which it knows as numbers around 0."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images.float() - 127) / 128)


def photograph(path: str, side: int = SIDE) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The pixels (side, side, 3) of an image, red, green and blue from 0 to 255, resized to a square of `side`.

    Raises FileError for a file that is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError) as error:
        raise FileError(f"{path}: cannot be read as an image ({error})") from error
