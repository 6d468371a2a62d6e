"""Figures, by matplotlib's object-oriented interface: no global state, nothing shown, the caller saves."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .curvature import Curvature
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


def spectrum(curvature: Curvature, rank: int = 50, seed: int = 0) -> Figure:
    """The eigenvalues of largest size on a logarithmic scale, negative ones apart, with the damping as a line.

    What lies far above the line is inverted as it is, what was far below is replaced by it: the values include it.
    """
    values = curvature.eigenpairs(rank, seed)[0].cpu().numpy()
    figure = Figure(figsize=(5.8, 4), layout="constrained")
    axes = figure.add_subplot()
    order = np.arange(1, len(values) + 1)
    for name, group, chosen in (("positive", "top", values > 0), ("negative", "random", values < 0)):
        if chosen.any():
            axes.scatter(
                order[chosen],
                np.abs(values[chosen]),
                s=20,
                marker=MARKERS[group],
                color=COLOURS[group],
                label=f"{name} ({int(chosen.sum())})",
            )
    if curvature.damping > 0:
        axes.axhline(curvature.damping, color="0.55", linewidth=1, label=f"damping {curvature.damping:.1e}")
    axes.set(
        yscale="log",
        xlabel=f"rank, of p = {curvature.p}",
        ylabel=f"|eigenvalue| of {type(curvature).__name__}",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small")
    return figure
