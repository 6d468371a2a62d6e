"""A sensible scikit-learn pipeline for a table that comes without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..frozen import features
from .columns import FileError, Kind, Table

RARE = 10
"""Categories with fewer rows share a column."""
VOCABULARY = 10_000


def sensible(table: Table, cache: Path | None = None) -> Any:
    """An unfitted pipeline: scaled numbers, indicators, TF-IDF, features of a frozen network; then a linear model.

    Logistic regression (C = 1) for classes, ridge regression (alpha = 1) for quantities. Features of images are kept in
    the folder `cache`. Raises ImportError without scikit-learn, or, for images, without the extra `vision`.
    """
    try:
        from sklearn.compose import ColumnTransformer
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
    except ImportError as missing:
        raise ImportError('a model is fitted with scikit-learn: pip install "upweight[sklearn]"') from missing
    parts: list[tuple[str, Any, Any]] = []
    numbers, categories = table.columns("number"), table.columns("category")
    if numbers:
        filled = SimpleImputer(strategy="median", add_indicator=bool(table.X[numbers].isna().any().any()))
        parts.append(("numbers", make_pipeline(filled, StandardScaler()), numbers))
    if categories:
        encoder = OneHotEncoder(
            min_frequency=min(RARE, max(1, len(table.X) // 100)),
            handle_unknown="infrequent_if_exist",
            feature_name_combiner=named,
        )
        parts.append(("categories", encoder, categories))
    for name in table.columns("text"):
        words = TfidfVectorizer(
            min_df=min(3, len(table.X) // 10 + 1), max_features=VOCABULARY, sublinear_tf=True
        )
        parts.append((name, words, name))
    for name in table.columns("image"):
        network = make_pipeline(FunctionTransformer(Photographs(cache)), StandardScaler())
        parts.append((name, network, name))
    words_too = bool(table.columns("text") or table.columns("image"))  # words may be named as columns are
    columns = ColumnTransformer(parts, verbose_feature_names_out=words_too and len(parts) > 1)
    return make_pipeline(columns, LogisticRegression(max_iter=1000) if table.classifies else Ridge())


_TREATED: dict[Kind, str] = {
    "number": "scaled",
    "category": "as indicators",
    "text": "as TF-IDF of their words",
    "image": "as features of EfficientNet-Lite0",
}


def described(table: Table) -> str:
    """The pipeline of `sensible` in one sentence."""
    model = "logistic regression (C = 1)" if table.classifies else "ridge regression (alpha = 1)"
    kinds = [kind for kind in _TREATED if table.columns(kind)]
    parts = [f"{', '.join(table.columns(kind))} {_TREATED[kind]}" for kind in kinds]
    return f"{model} of {table.y.name} on {'; '.join(parts)}"


def named(column: str, category: object) -> str:
    """The indicator's name.

    >>> named("age", "[0-10)")
    'age = [0-10)'
    """
    return f"{column} = {'rare' if category == 'infrequent_sklearn' else category}"


class Photographs:
    """Paths of images (n,) -> features (n, 1280) of EfficientNet-Lite0, images resized to 224 x 224."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache

    def __repr__(self) -> str:
        return "EfficientNet-Lite0"

    def __call__(self, paths: Any) -> np.ndarray:
        """Raises FileError for a file that is no image."""
        from ..vision import EfficientNetLite0

        images = torch.stack(
            [torch.from_numpy(photograph(path)).permute(2, 0, 1) for path in np.ravel(paths)]
        )
        return features(_Scaled(EfficientNetLite0()), images, cache=self.cache).numpy()


class _Scaled(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images.float() - 127) / 128)


def photograph(path: str, side: int = 224) -> np.ndarray:
    """The pixels (side, side, 3), 0..255. Raises FileError for a file that is no image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError) as error:
        raise FileError(f"{path}: cannot be read as an image ({error})") from error
