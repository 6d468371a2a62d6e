"""Fig. 1: what the train loss and the inverse Hessian contribute to influence, MNIST 1 against 7 (R9).

    python -m experiments fig1_components            training digits 5,000 to 59,999, test digit 30, a 7
    python -m experiments fig1_components --small    the embedded digits, a second

Writes fig1_components.png and fig1_components.json. Needs UPWEIGHT_DATA_DIR with mnist.npz, except with --small.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import upweight as uw
from experiments import common
from experiments.data import ones_and_sevens

L2 = 0.01
NAMES = {
    "without_train_loss": "without the train loss",
    "without_hessian": "without the inverse Hessian",
    "without_both": "without both",
}


def variants(problem: uw.LinearProblem, test: tuple[torch.Tensor, torch.Tensor]) -> dict[str, np.ndarray]:
    """-I_up,loss by the formula of Sec. 2.3 and by its three mutilations: positive = helpful."""
    (x,), (label,) = test[0].double(), test[1].double()
    X, y = problem.design.block(slice(None), torch.float64).dense(), problem.y
    theta = problem.params["weight"][0]
    train_loss = torch.sigmoid(-y * (X @ theta))
    scale = label * y * torch.sigmoid(-label * (x @ theta))
    resisted = X @ uw.Hessian(problem).factor().solve(x[None])[0]
    plain = X @ x
    return {
        "influence": (scale * train_loss * resisted).numpy(),
        "without_train_loss": (scale * resisted).numpy(),
        "without_hessian": (scale * train_loss * plain).numpy(),
        "without_both": (scale * plain).numpy(),
    }


def draw(
    values: dict[str, np.ndarray], same: np.ndarray, pictures: list[tuple[torch.Tensor, str]], path: Path
) -> None:
    """Influence (across) against each variant (up), then the test image and a harmful one of its label."""
    figure = Figure(figsize=(16, 3.6), layout="constrained")
    axes = figure.subplots(1, 5)
    x = values["influence"]
    for axis, (name, title) in zip(axes, NAMES.items(), strict=False):
        y = values[name]
        for rows, colour, marker, label in (
            (same, "#009E73", "o", "label of the test digit (7)"),
            (~same, "#D55E00", "^", "other label (1)"),
        ):
            axis.scatter(x[rows], y[rows], s=5, color=colour, marker=marker, label=label, rasterized=True)
        common.diagonal(axis, x, zorder=0)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.set(title=title, xlabel=r"$-I_{up,loss}$ (> 0: helpful)", ylabel="the variant")
    axes[0].legend(fontsize="x-small")
    for axis, (picture, title) in zip(axes[3:], pictures, strict=True):
        axis.imshow(picture.reshape(28, 28), cmap="gray_r")
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    options = common.options(common.parser(__name__, __doc__, "the embedded digits"), argv)
    X, y, X_test, y_test = ones_and_sevens(options.small)
    # Among the embedded digits the first 7 will do.
    index = int((y_test == -1).nonzero()[0, 0]) if options.small else 30
    test = (X_test[[index]], y_test[[index]])
    # keep="total" leaves the penalty out of every L, as the formula of Sec. 2.3 does.
    problem = uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=L2, tolerance=1e-9, keep="total")
    values = variants(problem, test)
    library = -np.asarray(uw.Influence(problem).on_loss(test))[0]
    folded = uw.LinearProblem(X, y, problem.params["weight"], loss=uw.Logistic(), l2=L2, keep="mean")
    with_penalty = -np.asarray(uw.Influence(folded).on_loss(test))[0]

    same = (y == y_test[index]).numpy()
    harmful = np.flatnonzero(same & (values["influence"] < 0))
    worst = int(harmful[np.argmin(values["influence"][harmful])])
    without = values["without_hessian"]
    result: dict[str, Any] = {
        "small": options.small,
        "n": problem.n,
        "p": problem.p,
        "gradient_norm": float(problem.gradient().norm()),
        "test_index": index,
        "test_label": int(y_test[index]),
        "test_probability_of_its_label": float(torch.exp(-problem.evaluate(test))),
        "library_against_formula": float(np.abs(library - values["influence"]).max() / np.abs(library).max()),
        "same_label": int(same.sum()),
        "exceptions_without_hessian": int(((without < 0) & same).sum() + ((without > 0) & ~same).sum()),
        "same_label_harmful": len(harmful),
        "same_label_harmful_penalty_folded": int((same & (with_penalty < 0)).sum()),
        "other_label_helpful": int((~same & (values["influence"] > 0)).sum()),
        "most_harmful_same_label": worst,
        "its_influence": float(values["influence"][worst]),
        "pearson_with_influence": {
            name: float(np.corrcoef(values["influence"], values[name])[0, 1]) for name in NAMES
        },
    }
    result["values"] = {name: v.tolist() for name, v in values.items()}
    common.publish(result, options.out / "fig1_components.json", silent=["values"])
    pictures = [(X_test[index], "test digit"), (X[worst], f"harmful, same label: row {worst}")]
    draw(values, same, pictures, options.out / "fig1_components.png")
