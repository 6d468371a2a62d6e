"""Figures, by matplotlib's object-oriented interface: no global state, nothing shown, the caller saves.

Colours are told apart with every kind of colour vision, and markers differ as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from .curvature.base import Curvature
from .types import Tensor
from .uses.diagnostics import Diagnostics
from .validation.verify import Verification

COLOURS = {"top": "#0072B2", "random": "#E69F00"}
"""Blue and orange of Okabe and Ito's palette, told apart with every kind of colour vision; the markers differ too."""
MARKERS = {"top": "o", "random": "^"}
NAMES = {"top": "largest effects", "random": "random examples"}


def verification(v: Verification) -> Figure:
    """A figure of predicted against actual changes of the test loss, with the diagonal of a perfect prediction.

    There is one point per removed training example, of those with the largest effects and of random ones; the legend
    gives Pearson correlation and slope of both groups.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared, verify
    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> influence = Influence(LinearProblem.fit(X, X[:, 0].sin() + 0.1, loss=Squared(), l2=0.1))
    >>> figure = verification(verify(influence, (X[:1], X[:1, 0]), k=5))
    >>> figure.axes[0].get_xlabel()
    'predicted change of the test loss'
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
        xlabel=f"predicted change of the {'test loss' if v.measure == 'loss' else v.measure}",
        ylabel="actual change after retraining",
        xlim=ends,
        ylim=ends,
        aspect="equal",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", loc="upper left")
    return figure


def leverage(found: Diagnostics, named: int = 5) -> Figure:
    """A figure of leverage against studentised residual, with the rows of the largest Cook's distances by name.

    A point far to the right could pull much, one far up or down is not fitted; what is both changes the model. Areas
    of points are proportional to Cook's distance.

    Args:
        found: Of rows, not of groups.
        named: The number of rows that are named.

    Raises:
        ValueError: For diagnostics of groups, which have no residuals.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared, diagnostics
    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> figure = leverage(diagnostics(Influence(LinearProblem.fit(X, X[:, 0].sin() + 0.1, loss=Squared()))))
    >>> figure.axes[0].get_xlabel()
    'leverage'
    """
    if "studentised" not in found.table:
        raise ValueError("groups have no residuals to draw: make the diagnostics of rows, without by=")
    table = found.table.dropna()
    distances = table["cooks distance"]
    figure = Figure(figsize=(5.8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    sizes = 8 + 200 * distances / (distances.max() or 1)
    axes.scatter(
        table["leverage"], table["studentised"], s=sizes, color=COLOURS["top"], alpha=0.6, linewidths=0
    )
    for row in distances.nlargest(named).index:
        axes.annotate(str(row), table.loc[row, ["leverage", "studentised"]], fontsize="small")
    axes.axhline(0, color="0.55", linewidth=1)
    axes.set(xlabel="leverage", ylabel="studentised residual")
    axes.grid(alpha=0.25)
    return figure


def spectrum(curvature: Curvature, rank: int = 50, seed: int = 0) -> Figure:
    """A figure of a curvature's eigenvalues by size on a logarithmic scale, negative ones apart, the damping a line.

    The values include the damping: what lies far above the line is inverted as it is, what lies at the line was far
    below it and is replaced by it.

    Args:
        curvature: The curvature, with its damping.
        rank: The number of eigenvalues, those of largest size.
        seed: The seed of the random start from which they are found where the matrix is large.

    >>> import torch
    >>> from upweight import Dense
    >>> spectrum(Dense(torch.diag(torch.tensor([3.0, 1.0, -0.1])))).axes[0].get_xlabel()
    'rank, of p = 3'
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


def input_influence(
    influence: Tensor,
    inputs: Tensor,
    *,
    names: Sequence[str] | None = None,
    most: int = 15,
) -> Figure:
    """A figure of I_pert,loss of one training input (Eq. 5), drawn as what the input is: by its shape.

    A row of columns (d,) gives bars of x_j I_pert_j, the first-order share of each column in the row's influence.
    Word vectors (t, d), with the words as `names`, give bars of the sizes of their derivatives. An image (3, h, w),
    (1, h, w) or (h, w) is shown beside the signed sum over its channels: red where a brighter pixel would raise the
    test measure after retraining, blue where a darker one would.

    Args:
        influence: One entry of `Influence.on_inputs`, of the input's shape: the change of the test measure per unit of
            the input, n times.
        inputs: The training input itself.
        names: The columns of a row, or the words.
        most: The number of bars, the largest shares first.

    Raises:
        ValueError: The shapes differ, or are of none of these kinds.

    >>> import torch
    >>> figure = input_influence(torch.tensor([0.5, -2.0]), torch.tensor([1.0, 1.0]), names=["age", "size"])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['age', 'size']
    """
    values, shown = influence.detach().cpu().double(), inputs.detach().cpu().double()
    if values.shape != shown.shape:
        raise ValueError(f"influence has shape {tuple(values.shape)}, the input {tuple(shown.shape)}")
    if values.ndim == 1:
        return _bars((values * shown).numpy(), names, "x · influence on the test measure", "column", most)
    if values.ndim == 2 and names is not None:
        return _bars(values.norm(dim=1).numpy(), names, "size of the influence", "position", most)
    if values.ndim not in (2, 3) or (values.ndim == 3 and len(values) not in (1, 3)):
        raise ValueError(
            f"an input of shape {tuple(values.shape)} is no row (d,), no image (3, h, w), (1, h, w) or (h, w), and has "
            "no names of positions"
        )
    channels = values.ndim == 3
    return _overlay(values.sum(0) if channels else values, shown if channels else shown[None])


def _bars(
    values: Float[np.ndarray, " j"], names: Sequence[str] | None, label: str, kind: str, most: int
) -> Figure:
    order = np.argsort(-np.abs(values))[:most][::-1]
    words = [f"{kind} {j}" if names is None else str(names[j]) for j in order]
    figure = Figure(figsize=(5.8, 1 + 0.26 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    colours = [COLOURS["random"] if values[j] > 0 else COLOURS["top"] for j in order]
    axes.barh(range(len(order)), values[order], color=colours)
    axes.set(yticks=range(len(order)), yticklabels=words, xlabel=label)
    axes.axvline(0, color="0.55", linewidth=1)
    return figure


def _overlay(values: Tensor, image: Float[Tensor, "c h w"]) -> Figure:
    low, high = image.min(), image.max()
    picture = ((image - low) / (high - low).clamp(min=1e-12)).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    figure = Figure(figsize=(8.4, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(picture)
    left.set(title="training input", xticks=[], yticks=[])
    right.imshow(picture.mean(2), cmap="gray", alpha=0.6)
    limit = float(values.abs().quantile(0.995)) or 1e-12
    shown = right.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.6)
    right.set(title="influence of its pixels", xticks=[], yticks=[])
    figure.colorbar(shown, ax=right, shrink=0.8, label="change of the test measure per unit, n times")
    return figure
