"""Figures, by matplotlib's object-oriented interface: no global state, nothing shown, the caller saves."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .verify import Verification

COLOURS = {"top": "#0072B2", "random": "#E69F00"}
"""Blue and orange of Okabe and Ito's palette, told apart with every kind of colour vision; the markers differ too."""
MARKERS = {"top": "o", "random": "^"}
NAMES = {"top": "largest effects", "random": "random examples"}


def verification(v: Verification) -> Figure:
    """Predicted against actual changes of the test loss, with the diagonal that a perfect prediction lies on.

    One point per removed training example; the legend gives Pearson correlation and slope of each group.
    """
    figure = Figure(figsize=(5.8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    table = v.table
    both = np.concatenate([table["predicted"].to_numpy(), table["actual"].to_numpy()])
    low, high = float(both.min()), float(both.max())
    margin = 0.05 * (high - low) or 1e-12
    ends = [low - margin, high + margin]
    axes.plot(ends, ends, color="0.55", linewidth=1, zorder=1, label="predicted = actual")
    for group, agreement in (("random", v.random), ("top", v.top)):
        if agreement is None:
            continue
        part = table[table["group"] == group]
        label = f"{NAMES[group]} ({len(part)}): Pearson {agreement.pearson:.4f}, slope {agreement.slope:.3f}"
        axes.scatter(
            part["predicted"],
            part["actual"],
            s=28,
            marker=MARKERS[group],
            color=COLOURS[group],
            edgecolors="white",
            linewidths=0.4,
            zorder=2,
            label=label,
        )
    axes.set(
        xlabel="predicted change of the test loss",
        ylabel="actual change after retraining",
        xlim=ends,
        ylim=ends,
        aspect="equal",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", loc="upper left")
    return figure
