"""The figures show what they are given."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from upweight import Dense, plots
from upweight.validation.verify import Verification, agreement


def made_up(groups: tuple[str, ...]) -> Verification:
    x = np.array([0.1, 0.2, 0.4])
    table = pd.concat(
        pd.DataFrame({"group": g, "predicted": x * s, "actual": x * s * 1.1})
        for g, s in zip(groups, (1, -0.1), strict=False)
    )
    found = {g: agreement(part["predicted"], part["actual"]) for g, part in table.groupby("group")}
    return Verification(table, found["top"], found.get("random"))


@pytest.mark.parametrize("groups", [("top", "random"), ("top",)])
def test_verification_shows_every_removal_and_the_diagonal(groups):
    v = made_up(groups)
    (axes,) = plots.verification(v).axes
    points = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    assert len(points) == len(v.table)
    assert {tuple(p) for p in points} == set(zip(v.table["predicted"], v.table["actual"], strict=True))
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, y)
    _, legend = axes.get_legend_handles_labels()
    assert len(legend) == 1 + len(groups)
    assert "Pearson 1.0000, slope 1.100" in legend[1]
    assert axes.get_xlabel() == "predicted change of the test loss"
    assert axes.get_ylabel() == "actual change after retraining"


def test_the_spectrum_shows_sizes_signs_and_damping():
    values = torch.tensor([8.0, -3.0, 1.0, 0.5, -0.1], dtype=torch.float64)
    (axes,) = plots.spectrum(Dense(torch.diag(values), 0.01), rank=4).axes
    positive, negative = (np.asarray(c.get_offsets()) for c in axes.collections)
    np.testing.assert_allclose(positive, [[1, 8.01], [3, 1.01], [4, 0.51]])
    np.testing.assert_allclose(negative, [[2, 2.99]])
    assert np.asarray(axes.lines[0].get_ydata())[0] == 0.01
    assert axes.get_legend_handles_labels()[1] == ["positive (3)", "negative (1)", "damping 1.0e-02"]
    (plain,) = plots.spectrum(Dense(torch.eye(3))).axes
    assert not plain.lines
    assert len(plain.collections) == 1


def test_input_influence_is_drawn_as_what_the_input_is():
    torch.manual_seed(0)
    row, names = torch.randn(4), ["age", "sex", "days", "visits"]
    figure = plots.input_influence(row, torch.tensor([1.0, 0.0, 2.0, -1.0]), names=names)
    axes: Any = figure.axes[0]
    shares = row * torch.tensor([1.0, 0.0, 2.0, -1.0])
    words = [label.get_text() for label in axes.get_yticklabels()]
    lengths = {word: bar.get_width() for word, bar in zip(words, axes.patches, strict=True)}
    for name, share in zip(names, shares.tolist(), strict=True):
        assert abs(lengths[name] - share) < 1e-6
    assert words[-1] == names[int(shares.abs().argmax())]
    image = torch.randn(3, 5, 6)
    axes = plots.input_influence(image, image).axes
    left, right, bar = axes
    assert torch.allclose(torch.tensor(right.images[1].get_array().data), image.double().sum(0))
    assert "influence" in right.get_title()
    assert "test measure" in bar.get_ylabel()
    assert len(left.images) == 1
    said = plots.input_influence(torch.randn(3, 8), torch.randn(3, 8), names=["the", "cat", "sat"]).axes[0]
    assert {label.get_text() for label in said.get_yticklabels()} == {"the", "cat", "sat"}
    with pytest.raises(ValueError, match="is no row"):
        plots.input_influence(torch.ones(4, 5, 6), torch.ones(4, 5, 6))
    with pytest.raises(ValueError, match="the input"):
        plots.input_influence(torch.ones(4), torch.ones(5))
