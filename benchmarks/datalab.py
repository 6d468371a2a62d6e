"""Wrong labels in a file of texts: `upweight mislabeled` beside cleanlab's Datalab, from the command to the ranking.

    python -m benchmarks datalab --upweight .venv/bin/upweight

4,137 mails of Enron1 with a tenth of their labels flipped (seed 0). Both see the same TF-IDF and logistic regression;
Datalab (libraries/cleanlab.py) gets out-of-sample probabilities of 5 folds. Recall of the flipped labels at 10 and 20 %
inspected, whole processes timed, imports and reading included. Needs cleanlab[datalab] and scikit-learn in this
environment, upweight[files] in that of --upweight, and UPWEIGHT_DATA_DIR with enron1.parquet.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measuring import timed
from experiments import commands, data

COUNT, SHARE = 4137, 0.1


def flipped(mails: pd.DataFrame, out: Path) -> np.ndarray:
    """Write the file; the flipped rows."""
    rows = np.random.default_rng(0).permutation(len(mails))[:COUNT]
    table = mails.iloc[rows].reset_index(drop=True)
    wrong = np.random.default_rng(0).permutation(COUNT)[: round(SHARE * COUNT)]
    spam = table["spam"].to_numpy().copy()
    spam[wrong] = ~spam[wrong]
    pd.DataFrame({"text": table["text"], "spam": np.where(spam, "spam", "ham")}).to_parquet(out)
    return wrong


def recall(order: np.ndarray, wrong: np.ndarray) -> list[float]:
    """The share of the flipped rows among the first 10 and 20 %."""
    return [float(np.isin(wrong, order[: round(share * COUNT)]).mean()) for share in (0.1, 0.2)]


def run(command: list[object]) -> None:
    """A process from its start to its end."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run both twice, print."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--data", type=Path, help="the mails, if not those of UPWEIGHT_DATA_DIR")
    parser.add_argument("--upweight", default="upweight")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        file, csv, npy = Path(place) / "mails.parquet", Path(place) / "out.csv", Path(place) / "out.npy"
        wrong = flipped(pd.read_parquet(options.data or data.folder() / "enron1.parquet"), file)
        ours = [options.upweight, "mislabeled", file, "--target", "spam", "--out", csv]
        theirs = [sys.executable, "-m", "benchmarks.libraries.cleanlab", file, npy]
        for name, command in (("upweight", ours), ("datalab", theirs)) * 2:
            _, seconds = timed(run, command)
            order = pd.read_csv(csv)["row"].to_numpy() if name == "upweight" else np.load(npy)
            print(json.dumps({"who": name, "seconds": round(seconds, 2), "recall": recall(order, wrong)}))
