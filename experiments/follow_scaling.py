"""What does it cost to hold a pipeline's scaler fixed in predicted removals, and does following it agree with refits?

    python -m experiments follow_scaling            nine pipelines (a minute)
    python -m experiments follow_scaling --small    three of them

Pipelines on data sets that scikit-learn brings along, raw columns in front of the scaler; 40 rows are held out. Removed
are six rows picked evenly and the three that are farthest out in any column. Effects on the held-out losses by
`of_each_removal` are compared with refits of the whole pipeline, by the relative error (L2): with the scaler held fixed
(`held`), and with `follow_scaling=True` (`followed`).

Writes follow_scaling.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

import upweight as uw
from experiments.common import options, parser, publish
from experiments.estimators_refits import HELD_OUT, TIGHT, agreement

NEWTON: dict[str, Any] = {"solver": "newton-cholesky", **TIGHT}
MIXED = make_column_transformer((StandardScaler(), list(range(5))), (MinMaxScaler(), list(range(5, 10))))
PIPELINES: list[tuple[str, Any]] = [
    ("breast_cancer", make_pipeline(StandardScaler(), LogisticRegression(C=0.1, **NEWTON))),
    ("diabetes", make_pipeline(StandardScaler(), Ridge(10.0))),
    ("diabetes", make_pipeline(MIXED, Ridge(10.0))),
    ("breast_cancer", make_pipeline(MinMaxScaler(), LogisticRegression(**NEWTON))),
    (
        "breast_cancer",
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", **NEWTON)),
    ),
    ("wine", make_pipeline(StandardScaler(), LogisticRegression(C=0.1, **TIGHT))),
    ("diabetes", make_pipeline(StandardScaler(), Ridge(300.0))),
    ("diabetes", make_pipeline(MaxAbsScaler(), Ridge(10.0))),
    ("diabetes", make_pipeline(StandardScaler(), Lasso(0.02, **TIGHT))),
]


def judged(data: str, pipeline: Any) -> dict[str, Any]:
    """One pipeline, with its scaler held and followed."""
    X, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    y = (y - y.mean()) / y.std() if data == "diabetes" else y
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    test, X, y = (X[-HELD_OUT:], y[-HELD_OUT:]), X[:-HELD_OUT], y[:-HELD_OUT]
    far = np.abs((X - X.mean(0)) / X.std(0)).max(1).argsort()[-3:]
    rows = np.unique([*np.linspace(0, len(X) - 1, 6).astype(int), *far]).tolist()
    pipeline.fit(X, y)
    found = {}
    for name, follow in (("held", False), ("followed", True)):
        problem = uw.from_estimator(pipeline, X, y, follow_scaling=follow)
        refit, base, everything = problem.cache["own estimator"], problem.evaluate(test), torch.arange(len(X))
        actual = torch.stack([refit(everything[everything != i]).evaluate(test) - base for i in rows], 1)
        found[name] = agreement(uw.Influence(problem).of_each_removal(test).effect()[:, rows], actual)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Go through the pipelines, print a line for each, and write the numbers."""
    chosen = options(parser(__name__, __doc__, "three pipelines"), argv)
    table = []
    for data, pipeline in PIPELINES[: 3 if chosen.small else None]:
        name = " ".join(str([step for _, step in pipeline.steps]).split())
        table.append({"data": data, "pipeline": name, **judged(data, pipeline)})
        held, followed = table[-1]["held"]["error"], table[-1]["followed"]["error"]
        print(f"{data}, {name[:90]}: held {held:.2%}, followed {followed:.2%}", flush=True)
    worst = {kind: max(line[kind]["error"] for line in table) for kind in ("held", "followed")}
    publish(
        {"small": chosen.small, "largest error": worst, "table": table},
        chosen.out / "follow_scaling.json",
        ("table",),
    )


if __name__ == "__main__":
    main()
