"""What the pages of a review cost their server: processor time, which other work on the machine does not change.

    python -m benchmarks review_pages                       200,000 made-up rows with 5 and with 20,000 decisions

Needs no browser. Prints, for each number of decisions, the time to write down a decision, to make the next row's page,
and to export.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from starlette.testclient import TestClient

from experiments import commands
from upweight.review import Journal, Keys, Session, application, corrected_file
from upweight.runtime.paths import file_hash
from upweight.tables import FittedFile

HOME = "http://127.0.0.1:8765"


def made_up(n: int) -> pd.DataFrame:
    """A table whose target depends on numbers and categories, one label in twenty wrong."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(size=(n, 20)), columns=[f"number {j}" for j in range(20)])
    for j in range(5):
        table[f"category {j}"] = random.choice(list("abcdefgh"), n)
    score = (
        table["number 0"] + table["number 1"] + 2 * (table["category 0"] == "a") + random.normal(0, 0.5, n)
    )
    wrong = random.random(n) < 0.05
    table["label"] = np.where((score > 0.3) ^ wrong, "yes", "no")
    return table


def decided_before(journal: Path, file: Path, target: str, count: int) -> list[dict[str, Any]]:
    """So many decisions in a new journal, of every kind, about rows here and there."""
    table = pd.read_csv(file, dtype=str, na_filter=False)
    rows = np.random.default_rng(1).permutation(len(table))[:count].tolist()
    labels = sorted(table[target].unique())
    kinds = (("keep", "k"), ("drop", "d"), ("relabel", "r"))
    found = [
        {"row": row, "action": kinds[i % 3], "label": labels[i % 2] if i % 3 == 2 else None}
        for i, row in enumerate(rows)
    ]
    Journal(journal, file.name, target, file_hash(file))
    with sqlite3.connect(journal) as connection:
        connection.executemany(
            "INSERT INTO decision (row, action, label, time) VALUES (?, ?, ?, '')",
            [(d["row"], d["action"][0], d["label"]) for d in found],
        )
    return [{**d, "action": d["action"][1]} for d in found]


def milliseconds(ask: Callable[..., object], *words: object, **options: object) -> float:
    """The processor time of this process while something is asked."""
    before = time.process_time()
    ask(*words, **options)
    return 1000 * (time.process_time() - before)


def session_with(fitted: FittedFile, journal: Path, count: int) -> Session:
    """A session whose model knows so many decisions, and stands still from then on."""
    decided_before(journal, fitted.path, fitted.target, count)
    session = Session(fitted, Journal(journal, fitted.path.name, fitted.target, fitted.hash))
    session.catch_up()
    return session


def main(argv: Sequence[str] | None = None) -> None:
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--decided", type=int, nargs="+", default=[5, 20_000])
    parser.add_argument("--keys", type=int, default=20, help="decisions that are timed")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        made_up(asked.rows).to_csv(file, index=False)
        fitted = FittedFile.of(file, "label")
        for count in asked.decided:
            session, keys = session_with(fitted, Path(folder) / f"decisions {count}", count), Keys()
            app = application(session, partial(corrected_file, session), 8765, keys)
            browser = TestClient(app, base_url=HOME, headers={"origin": HOME}, follow_redirects=False)
            browser.get(f"/?token={keys.token}")
            browser.get("/")
            deciding, showing = [], []
            for _ in range(asked.keys):
                form = {"row": next(session.waiting()), "action": "keep"}
                deciding.append(milliseconds(browser.post, "/decide", data=form))
                showing.append(milliseconds(browser.get, "/"))
            both = [a + b for a, b in zip(deciding, showing, strict=True)]
            print(
                f"{asked.rows:,} rows, {count:,} decisions: a key to the next row {statistics.median(both):.0f} ms "
                f"median, {max(both):.0f} ms at most ({statistics.median(deciding):.0f} ms to decide); export "
                f"{milliseconds(browser.get, '/export') / 1000:.1f} s"
            )
