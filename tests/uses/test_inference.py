"""Standard errors, t, p and intervals without each row: against statsmodels' own refits, and finite differences."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import upweight as uw

sm = pytest.importorskip("statsmodels.api")


def study(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(n, 2)), columns=["dose", "age"])
    table["y"] = table.dose + rng.standard_t(4, n) * (1 + table.age.abs())
    table["w"] = rng.uniform(0.5, 2, n)
    table["site"] = np.r_[np.arange(n - 1) // 5, 99]  # one site of a single row
    return table


def fitted(table: pd.DataFrame, how: dict[str, Any], weighted: bool = False) -> Any:
    X = sm.add_constant(table[["dose", "age"]])
    model = sm.WLS(table.y, X, weights=table.w) if weighted else sm.OLS(table.y, X)
    if how.get("cov_type") == "cluster":
        how = {**how, "cov_kwds": {"groups": table.site}}
    return model.fit(**how)


HOW: list[dict[str, Any]] = [
    {},
    *({"cov_type": kind} for kind in ("HC0", "HC1", "HC2", "HC3")),
    {"cov_type": "HC1", "use_t": True},
    {"cov_type": "cluster"},
    {"cov_type": "cluster", "use_t": True},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("how", HOW, ids=lambda how: "-".join(map(str, how.values())) or "nonrobust")
def test_every_number_is_that_of_the_refit(how: dict[str, Any], weighted: bool) -> None:
    table = study()
    results = fitted(table, how, weighted)
    influence = uw.Influence(uw.from_results(fitted(table, {}, weighted)))
    found = uw.inference_without(influence, "dose", uw.Errors.of(results))

    def told(results: Any) -> list[float]:
        low, high = results.conf_int().loc["dose"]
        return [
            results.params["dose"], results.bse["dose"], results.tvalues["dose"], results.pvalues["dose"], low, high
        ]  # fmt: skip

    np.testing.assert_allclose(list(found.whole.values()), told(results), rtol=1e-9)
    truth = np.array([told(fitted(table.drop(index=i), how, weighted)) for i in table.index])
    np.testing.assert_allclose(found.table.to_numpy()[:, :6], truth, rtol=1e-8)


@pytest.mark.parametrize("kind", ["nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"])
def test_derivatives_have_both_terms(kind: str) -> None:
    """Central differences of the textbook's formulas in the weight of a row."""
    table = study(20)
    X, y = np.c_[table.dose, table.age, np.ones(20)], table.y.to_numpy()
    clusters = table.site.to_numpy() if kind == "cluster" else None

    def error(omega: np.ndarray) -> float:
        inverse = np.linalg.inv(X.T @ (omega[:, None] * X))
        e, n = y - X @ (inverse @ X.T @ (omega * y)), omega.sum()
        if kind == "nonrobust":
            return float(np.sqrt(inverse[0, 0] * (omega * e**2).sum() / (n - 3)))
        if clusters is not None:
            sums = np.array([(omega * e)[clusters == g] @ X[clusters == g] for g in np.unique(clusters)])
            G = len(sums)
            V = inverse @ sums.T @ sums @ inverse * G / (G - 1) * (n - 1) / (n - 3)
            return float(np.sqrt(V[0, 0]))
        h = np.einsum("ij,jk,ik->i", X, inverse, X)
        squares = omega * e**2 / (1 - h) ** {"HC2": 1, "HC3": 2}.get(kind, 0)
        V = inverse @ (X.T @ (squares[:, None] * X)) @ inverse * (n / (n - 3) if kind == "HC1" else 1)
        return float(np.sqrt(V[0, 0]))

    influence = uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Squared()))
    found = uw.inference_without(influence, 0, uw.Errors(kind, clusters))
    np.testing.assert_allclose(found.whole["standard error"], error(np.ones(20)), rtol=1e-9)
    eps = 1e-6
    slopes = [(error(1 + eps * one) - error(1 - eps * one)) / (2 * eps) for one in np.eye(20)]
    np.testing.assert_allclose(found.table["derivative"], slopes, rtol=1e-5, atol=1e-9)
    assert kind in repr(found)
    assert "<table" in found._repr_html_()


def test_a_row_that_alone_determines_something_has_no_refit() -> None:
    X = np.c_[np.eye(6)[:, 0], np.ones(6)]
    influence = uw.Influence(uw.LinearProblem.fit(X, np.arange(6.0), loss=uw.Squared()))
    assert uw.inference_without(influence, 0).table["t"].isna().tolist() == [True, *[False] * 5]


def test_inference_refuses() -> None:
    table = study()
    X, y = table[["dose", "age"]].to_numpy(), table.y.to_numpy()
    influence = uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Squared()))
    with pytest.raises(ValueError, match="there is no coefficient"):
        uw.inference_without(influence, "price")
    with pytest.raises(ValueError, match="one for each of 40 rows"):
        uw.inference_without(influence, 0, uw.Errors("cluster", [1, 2]))
    with pytest.raises(ValueError, match="kind must be one of"):
        uw.Errors("HC9")
    with pytest.raises(ValueError, match="clusters go with"):
        uw.Errors("HC1", [1, 2])
    penalised = uw.LinearProblem.fit(X, y, loss=uw.Squared(), l2=0.1)
    with pytest.raises(ValueError, match="no meaning with a penalty"):
        uw.inference_without(uw.Influence(penalised), 0)
    classes = uw.LinearProblem.fit(X, y > 0, loss=uw.Logistic(), l2=0.1)
    with pytest.raises(TypeError, match="least squares"):
        uw.inference_without(uw.Influence(classes), 0)
