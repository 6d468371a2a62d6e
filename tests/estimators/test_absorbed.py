"""Least squares with absorbed effects and instruments against columns for each group, written out in NumPy."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import upweight as uw
from upweight.estimators.absorbed import Regression, regression


class Study:
    """Rows in unbalanced groups, one of them alone, of one effect or two; the second regressor is endogenous."""

    def __init__(self, seed: int, effects: int = 1, weighted: bool = False, rows: int = 0) -> None:
        rng = np.random.default_rng(seed)
        firm = np.repeat(np.arange(7), [1, 2, 2, 3, 3, 4, 5]) if not rows else rng.integers(0, 5, rows)
        n = len(firm)
        self.effects = pd.DataFrame({"firm": firm, "year": rng.integers(0, 3, n)}).iloc[:, :effects]
        self.Z = rng.normal(size=(n, 3))
        own = self.Z @ [0.0, 1.0, 0.5] + rng.normal(size=n)
        self.X = np.c_[self.Z[:, 0], own]
        self.y = rng.uniform(0, 1.5) * self.X[:, 0] + own + rng.normal(size=7)[firm] + rng.normal(size=n)
        self.w = rng.uniform(0.5, 2, n) if weighted else np.ones(n)

    def fit(self, rows: np.ndarray, instruments: bool = False) -> tuple[np.ndarray, float, float]:
        """Coefficients, the classical error of the first and its degrees of freedom, on some rows, by the textbook."""
        root = np.sqrt(self.w[rows])[:, None]
        tables = [pd.get_dummies(self.effects[name].iloc[rows]).to_numpy(float) for name in self.effects]
        D = root * np.column_stack([np.zeros((len(rows), 0)), *tables])
        X, Z, y = root * self.X[rows], root * self.Z[rows], root[:, 0] * self.y[rows]
        X, Z, y = (part - D @ np.linalg.lstsq(D, part, rcond=1e-10)[0] for part in (X, Z, y))
        fitted = Z @ np.linalg.lstsq(Z, X, rcond=1e-10)[0] if instruments else X
        if np.linalg.matrix_rank(fitted, tol=1e-8) < 2:
            return np.full(2, np.nan), np.nan, 0
        theta = np.linalg.lstsq(fitted, y, rcond=None)[0]
        freedom = len(rows) - 2 - np.linalg.matrix_rank(D)
        variance = np.linalg.inv(fitted.T @ fitted)[0, 0] * ((y - X @ theta) ** 2).sum()
        return theta, float(np.sqrt(variance / freedom)) if freedom > 0 else np.nan, freedom

    def problem(self, instruments: bool = False) -> uw.objective.Objective:
        every = np.arange(len(self.y))

        def refitted(rows: np.ndarray) -> Mapping[str, float]:
            return dict(zip(("a", "b"), self.fit(rows, instruments)[0], strict=True))

        X = pd.DataFrame(self.X, columns=["a", "b"])
        return regression(
            Regression(
                "our", X, self.y, self.fit(every, instruments)[0], self.w, self.effects, pd.RangeIndex(len(every)),
                refitted, instruments=self.Z if instruments else None,
            )
        )  # fmt: skip


def holds(asked: uw.uses.Conclusion, now: tuple[np.ndarray, float, float], side: float) -> bool:
    theta, error, freedom = now
    if np.isnan(theta[0]):
        return False
    if isinstance(asked, uw.Sign):
        return side * theta[0] > 0
    if not freedom > 0:
        return False
    half = stats.t.ppf(0.9, freedom) * error
    return side * theta[0] - half > 0 if isinstance(asked, uw.Significant) else side * theta[0] + half > 0


@pytest.mark.parametrize("instruments", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("effects", [0, 1, 2])
def test_coefficients_without_sets_are_those_of_columns_for_each_group(
    effects: int, weighted: bool, instruments: bool
) -> None:
    study = Study(effects, effects, weighted)
    problem = study.problem(instruments)
    influence, n = uw.Influence(problem), len(study.y)
    first = uw.OfParameters(lambda params: params["weight"][0, 0])
    start = study.fit(np.arange(n), instruments)[0][0]
    np.testing.assert_allclose(problem.theta[0], start, rtol=1e-9)
    changes = influence.of_each_removal((np.zeros((1, 2)), np.zeros(1)), measure=first).changes
    assert changes is not None
    truth = [study.fit(np.delete(np.arange(n), i), instruments)[0][0] - start for i in range(n)]
    np.testing.assert_allclose(changes[0], truth, rtol=1e-8, atol=1e-11)
    groups = study.effects["firm"].to_numpy() if effects else np.arange(n) // 3
    found = influence.of_removal(groups, (np.zeros((1, 2)), np.zeros(1)), measure=first).to_frame()
    truth = [study.fit(np.flatnonzero(groups != g), instruments)[0][0] - start for g in found["group"]]
    np.testing.assert_allclose(found["newton"], truth, rtol=1e-8, atol=1e-11)
    said = str(uw.verify(influence, (np.zeros((1, 2)), np.zeros(1)), measure=first, k=3))
    assert "0.0%" in said


def test_first_order_is_the_derivative_in_a_rows_weight() -> None:
    for effects, instruments in ((1, False), (2, False), (1, True)):
        study = Study(3, effects, weighted=True)
        moves = -uw.Influence(study.problem(instruments)).on_params([0, 4, 11]) / len(study.y)
        for row, move in zip([0, 4, 11], moves, strict=True):
            ends, w = [], study.w.copy()
            for eps in (1e-5, -1e-5):
                study.w = w * (1 + eps * (np.arange(len(w)) == row))
                ends.append(study.fit(np.arange(len(w)), instruments)[0])
            study.w = w
            np.testing.assert_allclose(move, -(ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("effects", [1, 2])
def test_no_set_undercuts_a_certificate(effects: int, grouped: bool) -> None:
    """Every set of rows, or groups, of at most as many as are certified, up to three; found sets change it."""
    certified = confirmed = 0
    for seed in range(8):
        study = Study(seed, effects, weighted=bool(seed % 2))
        influence, n = uw.Influence(study.problem()), len(study.y)
        firm = study.effects["firm"].to_numpy()
        units = (
            [np.flatnonzero(firm == g) for g in np.unique(firm)] if grouped else list(np.arange(n)[:, None])
        )
        start = study.fit(np.arange(n))
        side = 1.0 if start[0][0] > 0 else -1.0
        for asked in (uw.Sign("a"), uw.Significant("a", 0.2), uw.NotReversed("a", 0.2)):
            if not holds(asked, start, side):
                continue
            found = uw.robustness(influence, asked, groups=firm if grouped else None)
            for k in range(1, min(found.certified, 3) + 1):
                for gone in combinations(units, k):
                    left = np.setdiff1d(np.arange(n), np.concatenate(gone))
                    assert holds(asked, study.fit(left), side), (seed, asked, gone)
            certified += found.certified
            if found.rows is not None:
                left = np.setdiff1d(np.arange(n), found.rows.numpy())
                assert not holds(asked, study.fit(left), side)
                confirmed += 1
    assert certified
    assert confirmed


def test_found_sets_of_instruments_and_robust_errors_are_refitted_and_nothing_is_proven() -> None:
    for seed in range(4):
        study = Study(seed, 1, rows=30)
        influence = uw.Influence(study.problem(instruments=True))
        found = uw.robustness(influence, "b")
        assert found.certified == 0
        assert "No certificate is known for instruments" in repr(found)
        assert "already one may" not in repr(found)
        assert found.rows is not None
        assert found.after is not None
        left = np.setdiff1d(np.arange(30), found.rows.numpy())
        np.testing.assert_allclose(found.after, study.fit(left, True)[0][1], rtol=1e-8)
        assert found.after * found.estimate <= 0
        plain = uw.Influence(study.problem())
        robust = uw.robustness(plain, uw.NotReversed("b", 0.3, uw.Errors("HC0")))
        assert "No certificate is known for HC0" in repr(robust)
        classical = uw.robustness(plain, uw.NotReversed("b", 0.3, uw.Errors()))
        assert classical.certified == uw.robustness(plain, uw.NotReversed("b", 0.3)).certified


def test_a_unit_that_leaves_nothing_determined_is_no_found_set() -> None:
    """Without the only rows with instruments that vary the coefficient is undetermined: that is not a sign."""
    study = Study(0, 0)
    study.Z[:, 1:] *= (np.arange(len(study.y)) < 2)[:, None]
    study.X[:, 1] = study.Z[:, 1]
    influence = uw.Influence(study.problem(instruments=True))
    found = uw.robustness(influence, "b", groups=np.minimum(np.arange(len(study.y)) // 2, 5))
    assert found.rows is None or 0 not in found.rows.tolist() or 1 not in found.rows.tolist()


def test_other_coefficients_are_not_taken_for_least_squares() -> None:
    study = Study(0)
    X = pd.DataFrame(study.X, columns=["a", "b"])
    read = Regression(
        "our", X, study.y, np.array([9.0, 9.0]), study.w, study.effects, pd.RangeIndex(20), lambda rows: {}
    )
    with pytest.raises(ValueError, match="standard errors from the least squares"):
        regression(read)


def test_of_too_many_groups_signs_are_certified_by_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same certificate as with a column for each group, and no proof otherwise."""
    for seed in range(4):
        study = Study(seed)
        influence, firm = uw.Influence(study.problem()), study.effects["firm"].to_numpy()
        wide = uw.robustness(influence, "b", groups=firm // 2)
        inference = uw.inference_without(influence, "b").table
        with monkeypatch.context() as few:
            few.setattr("upweight.estimators.absorbed.WIDEST", 10)
            found = uw.robustness(influence, "b", groups=firm // 2)
            by_rows = uw.robustness(influence, "b")
            again = uw.inference_without(influence, "b").table
        assert found.certified == wide.certified
        assert found.error is not None
        assert wide.error is not None
        np.testing.assert_allclose(found.error, wide.error, rtol=1e-9)
        assert by_rows.certified == 0
        assert "too many groups" in repr(by_rows)
        np.testing.assert_allclose(again, inference, rtol=1e-8, atol=1e-11)


def test_errors_of_absorbed_effects_count_them() -> None:
    study = Study(1, 2)
    influence = uw.Influence(study.problem())
    asked = uw.inference_measure(influence, "a", "standard error")
    changes = influence.of_each_removal(None, measure=asked).changes
    assert changes is not None
    every = np.arange(len(study.y))
    truth = [study.fit(np.delete(every, i))[1] - study.fit(every)[1] for i in every]
    np.testing.assert_allclose(changes[0], truth, rtol=1e-8, atol=1e-11)
    slopes = influence.on_loss(None, measure=asked).values[0] / len(every)
    known = uw.inference_without(influence, "a").table["derivative"]
    np.testing.assert_allclose(slopes, known, rtol=1e-7, atol=1e-10)


def test_diagnostics_of_rows_are_in_standard_errors() -> None:
    study = Study(2)
    problem = study.problem()
    found = uw.diagnostics(uw.Influence(problem))
    n = len(study.y)
    theta, error, _ = study.fit(np.arange(n))
    betas = [(theta - study.fit(np.delete(np.arange(n), i))[0])[0] / error for i in range(n)]
    np.testing.assert_allclose(found.dfbetas["a"], betas, rtol=1e-8, atol=1e-10)
    assert torch.isfinite(problem.theta).all()
