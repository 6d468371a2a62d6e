"""cleanlab: ranks the rows of a file by how likely their labels are wrong.

It is asked about a file, and its whole process is measured, so it is a program of its own that imports nothing of ours:

    python -m benchmarks.libraries.cleanlab rows.parquet ranking.npy

Labels are the column `y`. Of a column `text` it gets TF-IDF and uses Datalab, for label issues alone; of columns of
numbers it gets them scaled and ranks by the own label's probability. Both use out-of-sample probabilities of 5 folds of
logistic regression, as its documentation says. Features and model are those of `upweight mislabeled`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd


def probabilities(X: Any, y: pd.Series) -> np.ndarray:
    """Out-of-sample probabilities of 5 folds (n, c)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    return cross_val_predict(LogisticRegression(max_iter=1000), X, y, cv=5, method="predict_proba")


def of_texts(table: pd.DataFrame) -> np.ndarray:
    """The rows, the most suspicious first, by Datalab."""
    from cleanlab import Datalab
    from sklearn.feature_extraction.text import TfidfVectorizer

    X = TfidfVectorizer(min_df=3, max_features=10_000, sublinear_tf=True).fit_transform(table["text"])
    lab = Datalab(data={"label": table["y"].tolist()}, label_name="label", verbosity=0)
    lab.find_issues(pred_probs=probabilities(X, table["y"]), issue_types={"label": {}})
    return lab.get_issues("label")["label_score"].to_numpy().argsort(kind="stable")


def of_numbers(table: pd.DataFrame) -> np.ndarray:
    """The rows, the most suspicious first, by their own label's out-of-sample probability."""
    from cleanlab.rank import get_self_confidence_for_each_label
    from sklearn.preprocessing import StandardScaler

    codes, _ = pd.factorize(table["y"], sort=True)
    p = probabilities(StandardScaler().fit_transform(table.drop(columns="y")), codes)
    return get_self_confidence_for_each_label(codes, p).argsort(kind="stable")


if __name__ == "__main__":
    rows = pd.read_parquet(sys.argv[1])
    np.save(sys.argv[2], of_texts(rows) if "text" in rows else of_numbers(rows))
