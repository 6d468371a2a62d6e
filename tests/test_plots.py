"""The figures show what they are given."""

import subprocess
import sys
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


@pytest.mark.parametrize(
    ("predicted", "actual"),
    [([0.0, 0.0], [0.0, 0.0]), ([1e-9, 2e-9], [1e-9, 3e-9]), ([-5.0, 5.0], [4.0, -4.0])],
)
def test_the_axes_of_a_verification_hold_every_point_at_one_scale(
    predicted: list[float], actual: list[float]
):
    table = pd.DataFrame({"group": "top", "predicted": predicted, "actual": actual})
    (axes,) = plots.verification(Verification(table, agreement(predicted, actual), None)).axes
    low, high = axes.get_xlim()
    assert (low, high) == axes.get_ylim()
    assert low < min(*predicted, *actual)
    assert max(*predicted, *actual) < high
    assert axes.get_aspect() == 1.0


def test_groups_are_told_apart_by_colour_and_marker():
    (axes,) = plots.verification(made_up(("top", "random"))).axes
    top, random = axes.collections
    assert not np.allclose(top.get_facecolor(), random.get_facecolor())
    assert not np.array_equal(top.get_paths()[0].vertices, random.get_paths()[0].vertices)
    words = axes.get_legend_handles_labels()[1]
    assert any(word.startswith("largest effects (3)") for word in words)
    assert any(word.startswith("random examples (3)") for word in words)


@pytest.mark.parametrize(("rank", "shown"), [(1, 1), (3, 3), (99, 5)])
def test_the_spectrum_has_as_many_values_as_asked_for_and_there_are(rank: int, shown: int):
    values = torch.tensor([8.0, 3.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    (axes,) = plots.spectrum(Dense(torch.diag(values)), rank=rank).axes
    (points,) = axes.collections
    np.testing.assert_allclose(np.asarray(points.get_offsets())[:, 1], values[:shown].numpy())
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "|eigenvalue| of Dense"
    assert axes.get_xlabel() == "rank, of p = 5"


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (3, 5, 6)])
def test_an_image_of_any_form_stands_beside_its_influence(shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    influence, image = (torch.randn(*shape, generator=generator) for _ in range(2))
    left, right, _ = plots.input_influence(influence, image).axes
    picture: Any = left.images[0].get_array()
    assert picture.shape == (5, 6, 3)
    assert float(picture.min()) == 0.0
    assert float(picture.max()) == pytest.approx(1.0)
    wanted = influence.double().sum(0) if len(shape) == 3 else influence.double()
    shown = right.images[1]
    np.testing.assert_allclose(np.asarray(shown.get_array()), wanted.numpy())
    low, high = shown.get_clim()
    assert low == -high  # no influence is white
    assert high == pytest.approx(float(wanted.abs().quantile(0.995)))


def test_only_the_largest_bars_are_drawn_and_columns_without_names_are_numbered():
    influence, row = torch.arange(1.0, 31.0), torch.ones(30)
    axes: Any = plots.input_influence(influence, row, most=4).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"column {j}" for j in (26, 27, 28, 29)]
    assert [bar.get_width() for bar in axes.patches] == [27.0, 28.0, 29.0, 30.0]
    words: Any = plots.input_influence(torch.eye(3), torch.eye(3), names=["a", "b", "a"]).axes[0]
    assert [bar.get_width() for bar in words.patches] == [
        1.0,
        1.0,
        1.0,
    ]  # one bar per position, also of one word


def test_nothing_is_shown_and_no_state_is_kept(tmp_path):
    code = (
        "import sys, torch; from upweight import plots; "
        "plots.input_influence(torch.ones(3), torch.ones(3)).savefig(sys.argv[1]); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    picture = tmp_path / "bars.png"
    subprocess.run([sys.executable, "-c", code, str(picture)], check=True, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")
