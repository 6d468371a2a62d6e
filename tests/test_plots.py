"""The figures show what they are given."""

import numpy as np
import pandas as pd
import pytest

from upweight import plots
from upweight.verify import Verification, agreement


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
