"""The command line from its start to its end, beside cleanlab and scikit-learn: processor seconds, memory, recall.

    python -m benchmarks door --upweight .venv/bin/python

Every measurement is a process of its own, imports and reading included. A share of the labels is flipped (seed 0), and
recall is that of the flipped rows among as many as were flipped, and twice as many. Both see the same features and
model: of 4,137 mails of Enron1 cleanlab's Datalab, of tables of 32 and of 9 classes (invented, 1,907 x 58 and
19,537 x 30) its label scores, each with out-of-sample probabilities of 5 folds. `explain` (19,980 hospital
stays) stands beside reading the same file, and the same fit and prediction by scikit-learn. Needs cleanlab[datalab] and
scikit-learn in this environment, upweight[files] in that of --upweight, and the data of UPWEIGHT_DATA_DIR.
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

from experiments import commands, data

WRAP = """
import atexit, runpy, sys, time
def tell():
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(time.process_time(), int(peak) // 1024, file=sys.stderr)
atexit.register(tell)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module as `python -m` does; the last line of standard error has its processor seconds and its peak in MiB."""
TIMES = 3
MAILS, PATIENTS = 4137, 19980


def measured(python: str, *words: object) -> tuple[float, int]:
    """The processor seconds of `python -m WORDS`, the least of some runs, and the most MiB that it held."""
    found = []
    for _ in range(TIMES):
        command = [python, "-c", WRAP, *map(str, words)]
        said = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()[-1].split()
        found.append((float(said[0]), int(said[1])))
    return min(found)


def flipped(y: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a share is replaced by others, and the places of these."""
    random, classes = np.random.default_rng(0), np.unique(y)
    wrong = random.permutation(len(y))[: round(share * len(y))]
    codes = np.searchsorted(classes, y)
    codes[wrong] = (codes[wrong] + random.integers(1, len(classes), len(wrong))) % len(classes)
    return classes[codes], wrong


def mails(file: Path) -> np.ndarray:
    """Write mails as a file, a tenth of them with the other label; the places of these."""
    table = pd.read_parquet(data.folder() / "enron1.parquet")
    table = table.iloc[np.random.default_rng(0).permutation(len(table))[:MAILS]]
    y, wrong = flipped(np.where(table["spam"], "spam", "ham"), 0.1)
    pd.DataFrame({"text": table["text"].to_numpy(), "y": y}).to_parquet(file)
    return wrong


def classes(file: Path, n: int, d: int, c: int) -> np.ndarray:
    """Write an invented table of c classes, a twentieth of its labels flipped; the places of these."""
    from sklearn.datasets import make_classification

    told = 2 * int(np.ceil(np.log2(c)))
    X, y = make_classification(
        n, d, n_informative=told, n_classes=c, n_clusters_per_class=1, class_sep=1.5, random_state=0
    )
    y, wrong = flipped(np.array([f"class {k:02d}" for k in y]), 0.05)
    pd.DataFrame(X, columns=[f"x{j}" for j in range(d)]).assign(y=y).to_parquet(file)
    return wrong


def stays(file: Path) -> None:
    """Write hospital stays as a CSV file, without the columns that name them."""
    table = pd.read_parquet(data.folder() / "diabetic_data.parquet")
    table = table.iloc[np.random.default_rng(0).permutation(len(table))[:PATIENTS]]
    y = np.where(table["readmitted"].astype(str) == "<30", "yes", "no")
    table.drop(columns=["encounter_id", "patient_nbr", "readmitted"]).assign(y=y).to_csv(file, index=False)


def recall(order: np.ndarray, wrong: np.ndarray) -> list[float]:
    """The share of the flipped rows among the first ones: as many as were flipped, and twice as many."""
    return [round(float(np.isin(wrong, order[: k * len(wrong)]).mean()), 3) for k in (1, 2)]


def line(what: str, who: str, found: tuple[float, int], recalled: list[float] | None = None) -> None:
    """Print a line of the table."""
    print(
        json.dumps(
            {"what": what, "who": who, "cpu_s": round(found[0], 2), "mib": found[1], "recall": recalled}
        )
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all, print."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--upweight", default=sys.executable, help="the Python that has upweight installed")
    ours = parser.parse_args(argv).upweight
    cleanlab = "benchmarks.libraries.cleanlab"
    for words in (["--help"], ["--version"], ["mislabeled", "nothing.csv", "--target", "y"]):
        line(" ".join(words), "upweight", measured(ours, "upweight", *words))
    with tempfile.TemporaryDirectory() as place:
        file, csv, npy = Path(place) / "rows.parquet", Path(place) / "out.csv", Path(place) / "out.npy"
        tables = {
            "Enron1": lambda: mails(file),
            "32 classes": lambda: classes(file, 1907, 58, 32),
            "9 classes": lambda: classes(file, 19537, 30, 9),
        }
        for what, write in tables.items():
            wrong = write()
            found = measured(ours, "upweight", "mislabeled", file, "--target", "y", "--out", csv)
            line(what, "upweight", found, recall(pd.read_csv(csv)["row"].to_numpy(), wrong))
            found = measured(sys.executable, cleanlab, file, npy)
            line(what, "cleanlab", found, recall(np.load(npy), wrong))
        file = Path(place) / "stays.csv"
        stays(file)
        words = ["upweight", "explain", file, "--target", "y", "--row", "3", "--out", csv]
        line("explain", "upweight", measured(ours, *words))
        line("explain", "scikit-learn alone", measured(sys.executable, "benchmarks.libraries.sklearn", file))
