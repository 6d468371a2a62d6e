"""Rows that a model has not seen: a fifth of the file, or a second file."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.files import NETWORK, people
from upweight.tables import FileError, FittedFile, Unseen, unseen


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("held") / "people.csv"
    people(150).to_csv(path, index=False)
    return FittedFile.of(path, "opinion", drop=["said"])


def asked_about(found: Unseen) -> tuple[pd.DataFrame, pd.Series]:
    """The batch, which of a model that was fitted here is a pair."""
    inputs, targets = found.batch
    return inputs, targets


def test_a_fifth_is_asked_about_and_the_model_has_seen_the_others_alone(fitted):
    found = unseen(fitted, None, seed=3)
    X, y = asked_about(found)
    assert (len(found.fitted.raw), len(X), len(y)) == (120, 30, 30)
    assert sorted([*found.fitted.raw.index, *X.index]) == list(range(150))
    assert y.tolist() == fitted.raw.loc[X.index, "opinion"].tolist()
    problem, whole = found.fitted.linear_problem, fitted.linear_problem
    assert problem.n == 120
    kept = torch.tensor(found.fitted.raw.index.to_numpy())
    # The optimum of the losses of the kept rows and the whole penalty, as fitting the same estimator finds it.
    theta = problem.theta.clone().requires_grad_()
    design = whole.design.take(kept)
    losses = whole.loss.value(whole.outputs(design, theta), whole.y[kept])
    value = losses.sum() / 120 + 0.5 * (problem.l2 * theta.square()).sum()
    assert float(torch.autograd.grad(value, theta)[0].norm()) < 1e-9
    torch.testing.assert_close(problem.l2 * 120, whole.l2 * 150)
    assert "the model is fitted to 120 rows, and asked about the 30 others" in found.words
    assert "seed 3" in found.words
    assert set(asked_about(unseen(fitted, None, seed=4))[0].index) != set(X.index)


def test_a_condition_is_about_the_rows_that_were_held_out(fitted):
    every, some = unseen(fitted, None), unseen(fitted, None, where="town == 'south'")
    wanted = [row for row in asked_about(every)[0].index if fitted.raw["town"][row] == "south"]
    assert asked_about(some)[0].index.tolist() == wanted
    assert f"the {len(wanted)} of which" in some.words
    with pytest.raises(FileError, match="no row fulfils"):
        unseen(fitted, None, where="age > 500")
    one = next(row for row in range(150) if row not in asked_about(every)[0].index)
    with pytest.raises(FileError, match=r"holds of none of the 30 rows that are held out \(seed 0\)"):
        unseen(fitted, None, where=f"name == 'person {one}'")


def test_a_second_file_holds_nothing_out(fitted, tmp_path):
    path = tmp_path / "other.csv"
    people(40, seed=5).to_csv(path, index=False)
    found = unseen(fitted, path)
    assert found.fitted is fitted
    assert (len(asked_about(found)[0]), found.words) == (40, "")


def test_where_no_model_is_left_a_second_file_is_asked_for(tmp_path, monkeypatch):
    table = people(50).assign(opinion=np.where(np.arange(50) == 7, "likes", "dislikes"))
    table.to_csv(tmp_path / "a.csv", index=False)
    fitted = FittedFile.of(tmp_path / "a.csv", "opinion")
    alone = [
        seed
        for seed in range(40)
        if 7 in torch.randperm(50, generator=torch.Generator().manual_seed(seed))[:10]
    ]
    with pytest.raises(FileError, match=r"--test FILE is needed: .* one class is left"):
        unseen(fitted, None, seed=alone[0])
    (tmp_path / "held_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    table.assign(size=1.0, age=40.0).to_csv(tmp_path / "b.csv", index=False)
    network = FittedFile.of(tmp_path / "b.csv", "opinion", problem="held_network:problem")
    with pytest.raises(FileError, match=r"--test FILE is needed: .* a network is not trained again"):
        unseen(network, None)
