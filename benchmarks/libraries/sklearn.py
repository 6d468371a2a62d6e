"""scikit-learn alone: a file is read, the model of `upweight explain` fitted, one row predicted, nothing explained.

    python -m benchmarks.libraries.sklearn rows.csv

A program of its own, whose whole process is measured. Labels are the column `y`.
"""

from __future__ import annotations

import sys

import pandas as pd


def predicted(path: str, row: int = 3) -> float:
    """The largest probability of a row."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = pd.read_csv(path, keep_default_na=False)
    X, y = table.drop(columns="y"), table["y"]
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (
            OneHotEncoder(min_frequency=10, handle_unknown="infrequent_if_exist"),
            make_column_selector(dtype_exclude="number"),
        ),
    )
    pipeline = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(X, y)
    return float(pipeline.predict_proba(X.iloc[[row]]).max())


if __name__ == "__main__":
    print(predicted(sys.argv[1]))
