"""Diagnostics against refits by NumPy without each row or group, and textbook formulas."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import upweight as uw
from tests.support.cases import draw
from upweight import plots

RNG = np.random.default_rng(0)
N, D = 40, 3
X = RNG.normal(size=(N, D))
Y = X @ np.array([1.0, -2.0, 0.0]) + RNG.normal(size=N)
X[5] *= 6
WEIGHTS = RNG.uniform(0.5, 2, N)
PATIENTS = np.array(["a", "b", "c", "d", "e", "f", "g", "h"])[RNG.integers(0, 8, N)]


def with_ones(X: np.ndarray) -> np.ndarray:
    return np.column_stack([X, np.ones(len(X))])


class Fitted:
    """Weighted ridge regression as a textbook has it; `l2` on the sum of losses, not on the intercept."""

    def __init__(self, kept: np.ndarray, weights: np.ndarray, l2: float, used: float | None = None) -> None:
        Z, self.w = with_ones(X)[kept], weights[kept]
        self.data = Z.T @ (self.w[:, None] * Z)
        self.inverse = np.linalg.inv(self.data + l2 * np.diag([1.0] * D + [0.0]))
        self.coef = self.inverse @ Z.T @ (self.w * Y[kept])
        self.hat = Z @ self.inverse @ Z.T * np.sqrt(np.outer(self.w, self.w))
        self.used = np.trace(self.hat) if used is None else used
        self.off = np.sqrt(self.w) * (Y[kept] - Z @ self.coef)
        self.scale = np.sqrt((self.off**2).sum() / (len(Z) - self.used))


@pytest.mark.parametrize("l2", [0.0, 3.0])
@pytest.mark.parametrize("weights", [np.ones(N), WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "groups"])
def test_least_squares_by_refits(l2: float, weights: np.ndarray, grouped: bool):
    problem = uw.LinearProblem.fit(
        X, Y, loss=uw.Squared(), intercept=True, l2=l2 / N, weights=weights, keep="total", tolerance=1e-13
    )
    found = uw.diagnostics(uw.Influence(problem), PATIENTS if grouped else None)
    whole = Fitted(np.ones(N, bool), weights, l2)
    assert np.isclose(found.parameters, whole.used, rtol=1e-8)
    assert np.isclose(found.scale, whole.scale, rtol=1e-8)
    names: Any = sorted(set(PATIENTS)) if grouped else range(N)
    for name in names:
        gone = name == PATIENTS if grouped else np.arange(N) == name
        without = Fitted(~gone, weights, l2, whole.used)
        change = whole.coef - without.coef
        hat, line = whole.hat[np.ix_(gone, gone)], found.table.loc[name]
        left = (without.scale / whole.scale) ** (2 * whole.used) / np.linalg.det(np.eye(gone.sum()) - hat)
        expected = {
            "rows": gone.sum(),
            "leverage": np.trace(hat),
            "cooks distance": change @ whole.data @ change / (whole.used * whole.scale**2),
            "covratio": left,
        }
        if not grouped:
            h, e = hat[0, 0], whole.off[gone][0]
            expected |= {
                "residual": e,
                "standardised": e / (whole.scale * np.sqrt(1 - h)),
                "studentised": e / (without.scale * np.sqrt(1 - h)),
                "dffits": e / (without.scale * np.sqrt(1 - h)) * np.sqrt(h / (1 - h)),
            }
        assert set(expected) == set(found.table)
        for key, value in expected.items():
            assert np.isclose(line[key], value, rtol=1e-8), key
        betas = change / (without.scale * np.sqrt(np.diag(whole.inverse)))
        assert np.allclose(found.dfbetas.loc[name], betas, rtol=1e-8, atol=1e-12)


def test_covratio_is_the_ratio_of_the_determinants_of_covariances():
    found = uw.diagnostics(uw.Influence(uw.LinearProblem.fit(X, Y, loss=uw.Squared(), intercept=True)))
    whole = Fitted(np.ones(N, bool), np.ones(N), 0.0)
    for i in range(N):
        without = Fitted(np.arange(N) != i, np.ones(N), 0.0)
        ratio = np.linalg.det(without.scale**2 * without.inverse) / np.linalg.det(
            whole.scale**2 * whole.inverse
        )
        assert np.isclose(found.table["covratio"][i], ratio, rtol=1e-8)


def test_logistic_regression_by_the_formulas_of_one_newton_step():
    y = (Y > 0).astype(int)
    problem = uw.LinearProblem.fit(
        X, y, loss=uw.Logistic(), intercept=True, l2=1 / N, keep="total", tolerance=1e-13
    )
    found, Z = uw.diagnostics(uw.Influence(problem)), with_ones(X)
    p = 1 / (1 + np.exp(-Z @ problem.theta.numpy()))
    v = p * (1 - p)
    data = Z.T @ (v[:, None] * Z)
    inverse = np.linalg.inv(data + np.diag([1.0] * D + [0.0]))
    h = v * np.einsum("ij,jk,ik->i", Z, inverse, Z)
    pearson = (y - p) / np.sqrt(v)
    steps = -(Z @ inverse) * ((y - p) / (1 - h))[:, None]
    expected = {
        "leverage": h,
        "residual": pearson,
        "standardised": pearson / np.sqrt(1 - h),
        "studentised": pearson / np.sqrt(1 - h),
        "dffits": pearson * np.sqrt(h) / (1 - h),
        "cooks distance": np.einsum("ij,jk,ik->i", steps, data, steps) / h.sum(),
        "covratio": 1 / (1 - h),
    }
    for name, values in expected.items():
        assert np.allclose(found.table[name], values, rtol=1e-8), name
    assert np.allclose(found.dfbetas, -steps / np.sqrt(np.diag(inverse)), rtol=1e-8)
    assert found.scale == 1


def test_rows_and_columns_have_their_names():
    table = pd.DataFrame(X, columns=["age", "dose", "time"], index=[f"row {i}" for i in range(N)])
    from sklearn.linear_model import LinearRegression

    problem = uw.from_estimator(LinearRegression().fit(table, Y), table, Y)
    found = uw.diagnostics(uw.Influence(problem))
    assert found.table.index[3] == "row 3"
    assert found.dfbetas.columns[:2].tolist() == ["age", "dose"]
    assert "row 5" in repr(found)
    assert "row 5" in found._repr_html_()


def test_a_row_that_alone_determines_a_coefficient_has_no_number():
    alone = np.column_stack([X, np.arange(N) == 7])
    found = uw.diagnostics(uw.Influence(uw.LinearProblem.fit(alone, Y, loss=uw.Squared())))
    assert found.table["leverage"][7] == pytest.approx(1)
    assert found.table.loc[7, ["studentised", "cooks distance", "dffits", "covratio"]].isna().all()
    assert found.dfbetas.loc[7].isna().all()
    assert found.table.drop(7).notna().all(axis=None)
    assert len(plots.leverage(found).axes[0].texts) == 5


def test_what_has_no_diagnostics_is_refused():
    three = torch.arange(N) % 3
    softmax = uw.LinearProblem.fit(X, three, loss=uw.Softmax(), outputs=3, l2=0.1)
    with pytest.raises(ValueError, match="one output, the model has 3"):
        uw.diagnostics(uw.Influence(softmax))
    hinge = uw.LinearProblem.fit(X, (Y > 0).astype(int), loss=uw.SquaredHinge(), l2=0.1)
    with pytest.raises(ValueError, match="not SquaredHinge: ask"):
        uw.diagnostics(uw.Influence(hinge))
    network = torch.nn.Linear(D, 1).double()
    problem = uw.Problem(network, torch.nn.functional.mse_loss, (torch.tensor(X), draw(N, 1)), l2=0.1)
    with pytest.raises(TypeError, match="diagnostics are for linear models"):
        uw.diagnostics(uw.Influence(problem))
    groups = uw.diagnostics(uw.Influence(uw.LinearProblem.fit(X, Y, loss=uw.Squared())), PATIENTS)
    with pytest.raises(ValueError, match="groups have no residuals"):
        plots.leverage(groups)
