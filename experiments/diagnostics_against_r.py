"""Are leverages, Cook's distances, DFBETAS, ... those of R, of statsmodels, and of refits?

    python -m experiments diagnostics_against_r            442 and 569 rows, all of them refitted: a minute
    python -m experiments diagnostics_against_r --small    60 rows each: seconds

Least squares, weighted least squares and generalised linear models (binomial, Poisson and Gamma with their canonical
links) on scikit-learn's diabetes and breast cancer data are fitted by statsmodels and asked by `diagnostics`. Compared
are

- `R`: hatvalues, cooks.distance, dfbetas, rstudent, covratio, dffits of `lm`; of `glm` what is defined there by the
  same one step: hatvalues, cooks.distance, rstandard(type = "pearson"), residuals(type = "deviance"), and rstudent
  times its sigma. R's dfbetas, dffits and covratio of `glm` put deviance residuals in the place of working ones;
- `statsmodels`: the same of OLSInfluence for OLS, of GLMInfluence for GLM;
- `refits`: DFBETAS and COVRATIO by their definition, from statsmodels' fits without each row, held against
  `diagnostics(influence, refitted=True)`.

Stated is the largest relative difference, over rows and measures, in units of a measure's root mean square. Needs
statsmodels, and Rscript for the comparison with R (Debian: r-base-core), which is left out without it. Writes
diagnostics_against_r.json and diagnostics_against_r.png.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn import datasets

import upweight as uw
from experiments import common

SMALL = 60
LM = """
found <- data.frame(leverage = hatvalues(m), cook = cooks.distance(m), studentised = rstudent(m),
                    covratio = covratio(m), dffits = dffits(m), dfbetas(m))
"""
GLM = """
found <- data.frame(leverage = hatvalues(m), cook = cooks.distance(m), standardised = rstandard(m, type = "pearson"),
                    deviance = residuals(m, type = "deviance"),
                    likelihood = rstudent(m) * (if (family(m)$family == "Gamma") influence(m)$sigma else 1))
"""
AGAIN = "; m <- update(m, start = coef(m))"
"""R's weights are those before its last step: another fit from where it ended has those of the coefficients."""
FITS = {
    "OLS": "m <- lm(y ~ . - w, data = d)" + LM,
    "WLS": "m <- lm(y ~ . - w, data = d, weights = w)" + LM,
    "binomial": "m <- glm(y ~ . - w, data = d, family = binomial, control = tight)" + AGAIN + GLM,
    "Poisson": "m <- glm(y ~ . - w, data = d, family = poisson, control = tight)" + AGAIN + GLM,
    "Gamma": "m <- glm(y ~ . - w, data = d, family = Gamma, control = tight)" + AGAIN + GLM,
}
"""What R is asked of each model."""


class Fit(NamedTuple):
    """A table with targets `y` and weights `w`, and how statsmodels fits it."""

    table: pd.DataFrame
    results: Any


def table_of(model: str, rows: int | None) -> pd.DataFrame:
    """Four columns of the diabetes or breast cancer data, scaled, with a target that suits the model."""
    whole = datasets.load_breast_cancer() if model == "binomial" else datasets.load_diabetes()
    X = whole.data[:rows, [1, 8, 9, 21] if model == "binomial" else [1, 2, 3, 8]]
    table = pd.DataFrame((X - X.mean(0)) / X.std(0), columns=["a", "b", "c", "e"])
    y = whole.target[:rows].astype(float)
    table["w"] = np.random.default_rng(0).uniform(0.5, 3, len(y))
    table["y"] = np.round(y / 25) if model == "Poisson" else y
    return table


def fitted(model: str, table: pd.DataFrame) -> Any:
    """The model of the table by statsmodels."""
    import statsmodels.api as sm  # an extra of ours

    X, y = sm.add_constant(table[["a", "b", "c", "e"]]), table["y"]
    if model in ("OLS", "WLS"):
        return sm.WLS(y, X, weights=table["w"]).fit() if model == "WLS" else sm.OLS(y, X).fit()
    families = {"binomial": sm.families.Binomial, "Poisson": sm.families.Poisson, "Gamma": sm.families.Gamma}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the inverse link may give negative means; here it does not
        return sm.GLM(y, X, family=families[model]()).fit(tol=1e-14, maxiter=500)


def ours(results: Any, refitted: bool) -> pd.DataFrame:
    """What `diagnostics` says, of one step or of refits, by the names that the other tables have."""
    found = uw.diagnostics(uw.Influence(uw.from_results(results)), refitted=refitted)
    table = found.table.rename(columns={"cooks distance": "cook"})
    if "likelihood" in table and not refitted and results.model.family.__class__.__name__ == "Gamma":
        # R divides by a scale of its own, of deviances: undone on both sides
        table["likelihood"] *= table["standardised"] / table["studentised"] * found.scale
    return pd.concat([table, found.dfbetas], axis=1)


def of_r(model: str, table: pd.DataFrame) -> pd.DataFrame:
    """What R says of the same model."""
    with tempfile.TemporaryDirectory() as folder:
        data, answer = Path(folder) / "data.csv", Path(folder) / "answer.csv"
        table.to_csv(data, index=False, float_format="%.17g")
        script = (
            f'd <- read.csv("{data}"); tight <- glm.control(epsilon = 1e-15, maxit = 200); {FITS[model]}\n'
            f'write.csv(format(found, digits = 17), "{answer}", row.names = FALSE)'
        )
        subprocess.run(["Rscript", "--vanilla", "-e", script], check=True, capture_output=True)
        return pd.read_csv(answer).rename(columns={"X.Intercept.": "const"})


def of_statsmodels(results: Any) -> pd.DataFrame:
    """What statsmodels says where it is right: of OLS and GLM; `OLSInfluence` of WLS forgets the weights."""
    found = results.get_influence()
    table = pd.DataFrame({"leverage": found.hat_matrix_diag, "cook": found.cooks_distance[0]})
    if hasattr(found, "resid_studentized_external"):
        table["studentised"], table["covratio"] = found.resid_studentized_external, found.cov_ratio
        table["dffits"] = found.dffits[0]
        return pd.concat([table, pd.DataFrame(found.dfbetas, columns=results.model.exog_names)], axis=1)
    table["standardised"] = found.resid_studentized
    return table


def of_refits(model: str, table: pd.DataFrame, results: Any) -> pd.DataFrame:
    """DFBETAS and COVRATIO by their definitions, from fits without each row."""
    lines = []
    for row in range(len(table)):
        other = fitted(model, table.drop(index=row))
        scale = np.sqrt(other.scale)
        unscaled = np.sqrt(np.diag(results.cov_params()) / results.scale)
        line = (results.params - other.params) / (scale * unscaled)
        line["covratio"] = np.linalg.det(other.cov_params()) / np.linalg.det(results.cov_params())
        lines.append(line)
    return pd.DataFrame(lines)


def apart(found: pd.DataFrame, other: pd.DataFrame) -> dict[str, float]:
    """The largest difference of each measure that both have, as a share of its root mean square."""
    columns = [name for name in other if name in found]
    return {
        name: float(
            np.abs(found[name].to_numpy() - other[name].to_numpy(float)).max()
            / np.sqrt(np.square(other[name].to_numpy(float)).mean())
        )
        for name in columns
    }


def measured(model: str, rows: int | None) -> dict[str, Any]:
    """The differences of one model from R, statsmodels and refits."""
    table = table_of(model, rows)
    results = fitted(model, table)
    result: dict[str, Any] = {"rows": len(table)}
    others = {"refits": of_refits(model, table, results)}
    if model != "WLS":
        others["statsmodels"] = of_statsmodels(results)
    if shutil.which("Rscript"):
        others["R"] = of_r(model, table)
    for name, other in others.items():
        each = apart(ours(results, name == "refits"), other)
        result[name] = {"largest": max(each.values()), **each}
    return result


def picture(result: dict[str, Any]) -> Figure:
    """The largest difference from each other source, by model."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, mark in (("R", "o"), ("statsmodels", "x"), ("refits", "s")):
        known = {model: line[name]["largest"] for model, line in result.items() if name in line}
        axis.plot(list(known), list(known.values()), mark, label=name)
    axis.set(yscale="log", ylabel="largest relative difference")
    axis.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    chosen = common.options(common.parser(__name__, __doc__, f"{SMALL} rows each"), argv)
    result = {model: measured(model, SMALL if chosen.small else None) for model in FITS}
    picture(result).savefig(chosen.out / "diagnostics_against_r.png", dpi=160)
    common.publish(result, chosen.out / "diagnostics_against_r.json")


if __name__ == "__main__":
    main()
