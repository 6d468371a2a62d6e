"""Wrong labels in a file of texts: `upweight mislabeled` beside cleanlab's Datalab, from the command to the ranking.

    python benchmarks/datalab.py --data enron1.parquet --upweight .venv/bin/upweight

4,137 mails of Enron1 with a tenth of their labels flipped (seed 0). Both see the same TF-IDF and logistic regression;
Datalab gets out-of-sample probabilities of 5 folds, as its documentation says, and looks for label issues alone. Recall
of the flipped labels at 10 and 20 % inspected, whole processes timed, imports and reading included.
Needs cleanlab[datalab] and scikit-learn in this environment, and upweight[files] in that of --upweight.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

COUNT, SHARE = 4137, 0.1


def flipped(data: Path, out: Path) -> np.ndarray:
    """Write the file; the flipped rows."""
    mails = pd.read_parquet(data)
    rows = np.random.default_rng(0).permutation(len(mails))[:COUNT]
    table = mails.iloc[rows].reset_index(drop=True)
    wrong = np.random.default_rng(0).permutation(COUNT)[: round(SHARE * COUNT)]
    spam = table["spam"].to_numpy().copy()
    spam[wrong] = ~spam[wrong]
    pd.DataFrame({"text": table["text"], "spam": np.where(spam, "spam", "ham")}).to_parquet(out)
    return wrong


def datalab(path: Path, out: Path) -> None:
    """Cleanlab's ranking of the rows, the most suspicious first."""
    from cleanlab import Datalab
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    table = pd.read_parquet(path)
    X = TfidfVectorizer(min_df=3, max_features=10_000, sublinear_tf=True).fit_transform(table["text"])
    p = cross_val_predict(LogisticRegression(max_iter=1000), X, table["spam"], cv=5, method="predict_proba")
    lab = Datalab(data={"label": table["spam"].tolist()}, label_name="label", verbosity=0)
    lab.find_issues(pred_probs=p, issue_types={"label": {}})
    np.save(out, lab.get_issues("label")["label_score"].to_numpy().argsort(kind="stable"))


def recall(order: np.ndarray, wrong: np.ndarray) -> list[float]:
    """The share of the flipped rows among the first 10 and 20 %."""
    return [float(np.isin(wrong, order[: round(share * COUNT)]).mean()) for share in (0.1, 0.2)]


def main() -> None:
    """Run both, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--upweight", default="upweight")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        datalab(*options.one)
        return
    with tempfile.TemporaryDirectory() as place:
        file, csv, npy = Path(place) / "mails.parquet", Path(place) / "out.csv", Path(place) / "out.npy"
        wrong = flipped(options.data, file)
        ours = [options.upweight, "mislabeled", file, "--target", "spam", "--out", csv]
        theirs = [sys.executable, __file__, "--data", options.data, "--one", file, npy]
        for name, command in (("upweight", ours), ("datalab", theirs)) * 2:
            began = time.perf_counter()
            subprocess.run([str(word) for word in command], check=True, capture_output=True)
            seconds = time.perf_counter() - began
            order = pd.read_csv(csv)["row"].to_numpy() if name == "upweight" else np.load(npy)
            print(json.dumps({"who": name, "seconds": round(seconds, 2), "recall": recall(order, wrong)}))


if __name__ == "__main__":
    main()
