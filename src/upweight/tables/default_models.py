"""A sensible scikit-learn pipeline for a table that comes without a model."""

from __future__ import annotations

from collections.abc import Iterable
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
    parts = [f"{', '.join(table.columns(kind))} {_TREATED[kind]}" for kind in kinds]
    return f"{model} of {table.y.name} on {'; '.join(parts)}"


def indicator_name(column: str, category: object) -> str:
    """The name of a category's indicator: a column of ones and zeros that says where the category stands.

    >>> indicator_name("age", "[0-10)")
    'age = [0-10)'
    """
    return f"{column} = {'rare' if category == 'infrequent_sklearn' else category}"


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
