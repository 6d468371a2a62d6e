"""cleanlab's Datalab: ranks the rows of a file by how likely their labels are wrong.

It is asked about a file, and its whole process is timed, so it is a program of its own that imports nothing of ours:

    python -m benchmarks.libraries.cleanlab mails.parquet ranking.npy

TF-IDF and logistic regression, as `upweight mislabeled` has them; Datalab gets out-of-sample probabilities of 5 folds,
as its documentation says, and looks for label issues alone.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd


def ranking(path: str) -> np.ndarray:
    """The rows, the most suspicious first."""
    from cleanlab import Datalab
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    table = pd.read_parquet(path)
    X = TfidfVectorizer(min_df=3, max_features=10_000, sublinear_tf=True).fit_transform(table["text"])
    p = cross_val_predict(LogisticRegression(max_iter=1000), X, table["spam"], cv=5, method="predict_proba")
    lab = Datalab(data={"label": table["spam"].tolist()}, label_name="label", verbosity=0)
    lab.find_issues(pred_probs=p, issue_types={"label": {}})
    return lab.get_issues("label")["label_score"].to_numpy().argsort(kind="stable")


if __name__ == "__main__":
    np.save(sys.argv[2], ranking(sys.argv[1]))
