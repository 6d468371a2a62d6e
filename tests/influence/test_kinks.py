"""Rows without which an l1 penalty leaves other columns: what is shown of them are refits of the estimator."""

import numpy as np
import torch
from sklearn.linear_model import Lasso

from tests.support.compare import assert_close_per_row
from upweight import Influence, from_estimator, verify
from upweight.influence import shown

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8))
Y = X @ [1.0, -0.6, 0.3, 0.12, 0.0, 0.0, 0.0, 0.0] + 0.5 * RNG.normal(size=60)
TEST = X[:5], Y[:5]
MODEL = Lasso(alpha=0.1, tol=1e-12, max_iter=100_000)


def refits(rows: list[int]) -> np.ndarray:
    """The changes of the test losses by refits without each row."""

    def losses(kept: np.ndarray) -> np.ndarray:
        return 0.5 * (Lasso(**MODEL.get_params()).fit(X[kept], Y[kept]).predict(TEST[0]) - TEST[1]) ** 2

    everything = np.arange(60)
    return np.stack([losses(np.delete(everything, row)) - losses(everything) for row in rows])


def test_rows_over_kinks_are_refitted(monkeypatch):
    problem = from_estimator(MODEL.fit(X, Y), X, Y)
    kinked = problem.cache["kinked rows"].tolist()
    assert 3 <= len(kinked) < 60
    influence = Influence(problem)
    found = influence.of_each_removal(TEST)
    everything = list(range(60))
    assert_close_per_row(found.effect().T, refits(everything), 1e-5)
    assert found.left is not None
    assert float(found.left.nan_to_num(0).max()) < 0.01
    assert verify(influence, TEST, k=3, random=2).complete
    monkeypatch.setattr(shown, "REFITS", 1)
    fewer = influence.of_each_removal(TEST, top=1)
    assert fewer.left is not None
    for line, test_row in zip(fewer.left, range(5), strict=True):
        strongest = fewer.effect()[test_row].argsort()[[0, -1]]
        assert float(line[strongest].max()) < 0.01
        alone = influence.of_each_removal(
            (X[[test_row]], Y[[test_row]]), top=1
        )  # not up to the rows asked along
        assert_close_per_row(alone.effect(), fewer.effect()[[test_row]], 1e-12)
    assert bool((fewer.left == 1).any())
    assert "do not settle" in fewer.prediction
    prepared = influence.of_each_removal(problem.train_batch(torch.arange(3)))
    assert prepared.left is not None
    assert int((prepared.left[0] == 1).sum()) == len(kinked)


def test_a_refit_that_leaves_no_column_is_not_known():
    x = np.zeros((20, 2))
    x[:, 0] = np.linspace(-0.1, 0.1, 20)
    x[0] = 3.0
    y = x[:, 0] + 0.01 * RNG.normal(size=20)
    model = Lasso(alpha=0.05, tol=1e-12, max_iter=100_000).fit(x, y)
    problem = from_estimator(model, x, y)
    assert 0 in problem.cache["kinked rows"].tolist()
    found = Influence(problem).of_each_removal((x[:3], y[:3]))
    assert bool(found.effect()[:, 0].isnan().all())
    assert verify(Influence(problem), (x[:3], y[:3]), k=5, random=2).complete
