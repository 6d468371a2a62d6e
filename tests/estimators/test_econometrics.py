"""Results of linearmodels and feols of pyfixest against refits by these packages: `make oracles` installs them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import upweight as uw

panel_models = pytest.importorskip("linearmodels.panel", reason="`make oracles` installs linearmodels")
iv_models = pytest.importorskip("linearmodels.iv")
pf = pytest.importorskip("pyfixest", reason="`make oracles` installs pyfixest")
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of the packages, about singletons and their own dependencies

NAMES = ["union", "married", "hours"]
EXACT = {"demeaner": pf.MapDemeaner(fixef_tol=1e-13)}


def study() -> pd.DataFrame:
    """Firms with 1 to 5 rows, so that some are alone, in towns; hours are endogenous."""
    rng = np.random.default_rng(0)
    firm = np.repeat(np.arange(18), np.arange(18) % 5 + 1)
    table = pd.DataFrame({"firm": firm, "town": firm % 4, "year": rng.integers(2000, 2004, len(firm))})
    table["year"] = 2000 + table.groupby("firm").cumcount()
    for name in ("z1", "z2", "union", "married", "noise"):
        table[name] = rng.normal(size=len(firm))
    table["hours"] = table.z1 + 0.5 * table.z2 + table.noise
    effect = rng.normal(size=18)[firm] + 0.3 * table.year
    table["wage"] = 0.25 * table.union - 0.2 * table.married + 0.5 * table.hours + effect + table.noise
    table["wage"] += rng.standard_t(4, len(firm))
    table["w"] = rng.uniform(0.5, 2, len(firm))
    return table.set_index(np.arange(len(firm)) * 7)


TABLE = study()
Fit = Callable[[pd.DataFrame], Any]


def entity(weights: bool = False, const: bool = False, **how: Any) -> Fit:
    fit = {name: how.pop(name) for name in list(how) if name not in ("time_effects",)}

    def made(table: pd.DataFrame) -> Any:
        t = table.assign(row=table.index).set_index(["firm", "year"])
        X = t[NAMES].assign(**({"one": 1.0} if const else {}))
        own = {"weights": t.w} if weights else {}
        clusters = {"clusters": t[[fit["clusters"]]]} if "clusters" in fit else {}
        return panel_models.PanelOLS(t.wage, X, entity_effects=True, **own, **how).fit(**{**fit, **clusters})

    return made


def absorbing(effects: list[str], **fit: Any) -> Fit:
    def made(table: pd.DataFrame) -> Any:
        own = {"clusters": table[fit["clusters"]]} if "clusters" in fit else {}
        model = iv_models.AbsorbingLS(
            table.wage, table[NAMES].assign(one=1.0), absorb=table[effects].astype("category")
        )
        return model.fit(**{**fit, **own})

    return made


def instruments(weights: bool = False, **fit: Any) -> Fit:
    def made(table: pd.DataFrame) -> Any:
        own = {"clusters": table[fit["clusters"]]} if "clusters" in fit else {}
        exog, w = table[["union"]].assign(one=1.0), table.w if weights else None
        model = iv_models.IV2SLS(table.wage, exog, table[["hours"]], table[["z1", "z2"]], weights=w)
        return model.fit(**{**fit, **own})

    return made


def feols(formula: str, vcov: Any = "iid", **how: Any) -> Fit:
    return lambda table: pf.feols(f"wage ~ {formula}", table, vcov=vcov, **EXACT, **how)


BY_FIRM: dict[str, Any] = {"cov_type": "clustered", "cluster_entity": True}
ALL = "union + married + hours"
FITS: dict[str, Fit] = {
    "PanelOLS": entity(),
    "PanelOLS weighted, robust": entity(weights=True, cov_type="robust"),
    "PanelOLS not debiased": entity(debiased=False),
    "PanelOLS by firm": entity(**BY_FIRM),
    "PanelOLS by firm, constant": entity(const=True, group_debias=True, **BY_FIRM),
    "PanelOLS two effects by town": entity(time_effects=True, cov_type="clustered", clusters="town"),
    "AbsorbingLS": absorbing(["firm"], debiased=True),
    "AbsorbingLS by firm": absorbing(["firm"], cov_type="clustered", clusters="firm", debiased=True),
    "IV2SLS": instruments(),
    "IV2SLS unadjusted, weighted": instruments(weights=True, cov_type="unadjusted"),
    "IV2SLS by town": instruments(cov_type="clustered", clusters="town", debiased=True),
    "feols": feols(f"{ALL} | firm"),
    "feols two effects, robust": feols(f"{ALL} | firm + year", "hetero", weights="w"),
    "feols by firm": feols(f"{ALL} | firm + year", {"CRV1": "firm"}),
    "feols by town": feols(f"{ALL} | firm", {"CRV1": "town"}, fixef_rm="none"),
    "feols repeated rows": feols(f"{ALL} | firm", weights="town1", weights_type="fweights"),
    "feols without effects": feols(f"i(year, ref=2000) + {ALL}", {"CRV1": "town"}),
    "feols instruments": feols("union | firm | hours ~ z1 + z2", {"CRV1": "firm"}),
}
TABLE["town1"] = TABLE.town + 1


def told(results: Any, name: str) -> list[float]:
    """Estimate, standard error, t, p and interval of a coefficient."""
    if hasattr(results, "tidy"):
        line = results.tidy().loc[name]
        return line[["Estimate", "Std. Error", "t value", "Pr(>|t|)", "2.5%", "97.5%"]].tolist()
    found = [getattr(results, part)[name] for part in ("params", "std_errors", "tstats", "pvalues")]
    return [*found, *results.conf_int().loc[name]]


def rows_of(problem: Any) -> np.ndarray:
    """Where in the table the rows of the problem are: feols drops some, PanelOLS names them by firm and year."""
    if isinstance(problem.train_index[0], tuple):
        places = {pair: i for i, pair in enumerate(zip(TABLE.firm, TABLE.year, strict=True))}
        return np.array([places[pair] for pair in problem.train_index])
    return TABLE.index.get_indexer(problem.train_index)


def without(fit: Fit, places: np.ndarray) -> Any:
    return fit(TABLE.drop(index=TABLE.index[places]))


@pytest.fixture(params=FITS, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[Fit, Any, Any]:
    fit = FITS[request.param]
    results = fit(TABLE)
    return fit, results, uw.from_results(results, TABLE if hasattr(results, "tidy") else None)


def test_coefficients_without_rows_and_groups_are_those_of_refits(case: tuple[Fit, Any, Any]) -> None:
    fit, results, problem = case
    places = rows_of(problem)
    influence = uw.Influence(problem)
    column = problem.feature_names.index("union")
    union = uw.OfParameters(lambda params: params["weight"][0, column])
    asked = (np.zeros((1, len(problem.feature_names))), np.zeros(1))
    start = told(results, "union")[0]
    np.testing.assert_allclose(problem.theta[column], start, rtol=1e-9)
    changes = influence.of_each_removal(asked, measure=union).changes
    assert changes is not None
    for row in range(0, problem.n, 5):
        truth = told(without(fit, places[[row]]), "union")[0] - start
        np.testing.assert_allclose(changes[0, row], truth, rtol=1e-8, atol=1e-12)
    firm = TABLE.firm.to_numpy()[places]
    removal = influence.of_removal(firm, asked, measure=union).to_frame()
    for name, effect in list(zip(removal["group"], removal["newton"], strict=True))[::4]:
        truth = told(without(fit, places[firm == name]), "union")[0] - start
        np.testing.assert_allclose(effect, truth, rtol=1e-8, atol=1e-12)


def test_inference_is_that_of_the_package_with_its_own_factors(case: tuple[Fit, Any, Any]) -> None:
    fit, results, problem = case
    places = rows_of(problem)
    found = uw.inference_without(uw.Influence(problem), "union", uw.Errors.of(results))
    np.testing.assert_allclose(list(found.whole.values()), told(results, "union"), rtol=1e-8)
    for row in range(0, problem.n, 5):
        truth = told(without(fit, places[[row]]), "union")
        np.testing.assert_allclose(found.table.iloc[row, :6].to_numpy(float), truth, rtol=1e-8)


@pytest.mark.parametrize("by_firm", [False, True])
def test_found_sets_change_what_the_package_says(case: tuple[Fit, Any, Any], by_firm: bool) -> None:
    fit, results, problem = case
    places, errors, confirmed = rows_of(problem), uw.Errors.of(results), 0
    groups = TABLE.firm.to_numpy()[places] if by_firm else None
    for asked in (
        uw.Sign("union"),
        uw.Significant("union", 0.3, errors),
        uw.NotReversed("union", 0.3, errors),
    ):
        start = told(results, "union")
        if isinstance(asked, uw.Significant) and start[3] >= 0.3:
            with pytest.raises(ValueError, match="does not hold to begin with"):
                uw.robustness(uw.Influence(problem), asked, groups=groups)
            continue
        found = uw.robustness(uw.Influence(problem), asked, groups=groups)
        assert found.certified < (found.found or problem.n)
        if found.rows is None:
            continue
        after = told(without(fit, places[found.rows.numpy()]), "union")
        assert found.after is not None
        np.testing.assert_allclose(found.after, after[0], rtol=1e-8)
        same = after[0] * start[0] > 0
        holds = {
            uw.Sign: same,
            uw.Significant: same and after[3] < 0.3,
            uw.NotReversed: same or after[3] >= 0.3,
        }
        assert not holds[type(asked)]
        confirmed += 1
    assert confirmed


def test_certified_sets_of_firms_keep_the_sign() -> None:
    """Every set of at most as many firms as are certified, refitted by the package."""
    from itertools import combinations

    fit = FITS["PanelOLS"]
    problem = uw.from_results(fit(TABLE))
    firm = TABLE.firm.to_numpy()[rows_of(problem)]
    found = uw.robustness(uw.Influence(problem), "hours", groups=firm)
    assert found.certified >= 1
    for gone in combinations(np.unique(firm), min(found.certified, 1)):
        assert told(fit(TABLE[~TABLE.firm.isin(gone)]), "hours")[0] * found.estimate > 0


def test_a_table_has_the_errors_of_the_package() -> None:
    for name in ("PanelOLS by firm", "feols by town", "IV2SLS by town"):
        results = FITS[name](TABLE)
        problem = uw.from_results(results, TABLE)
        table = uw.robustness_table(
            uw.Influence(problem), "union", level=0.3, errors=uw.Errors.of(results)
        ).to_frame()
        np.testing.assert_allclose(table["std err"], told(results, "union")[1], rtol=1e-8)
        answers = uw.robustness(uw.Influence(problem), "union")
        assert answers.rows is not None
        after = told(without(FITS[name], rows_of(problem)[answers.rows.numpy()]), "union")
        np.testing.assert_allclose(table["std err without"].iloc[0], after[1], rtol=1e-8)


def test_verify_fits_the_package_again() -> None:
    results = FITS["feols by firm"](TABLE)
    influence = uw.Influence(uw.from_results(results, TABLE))
    union = uw.OfParameters(lambda params: params["weight"][0, 0])
    said = str(uw.verify(influence, (TABLE[:1], TABLE.wage[:1]), measure=union, k=3))
    assert "your estimator, fitted again" in said
    assert "0.0%" in said


def test_derivatives_of_errors_see_the_effects_move() -> None:
    """Central differences in a row's weight, of the textbook's formula with a column for each group."""
    results = FITS["PanelOLS by firm"](TABLE)
    problem = uw.from_results(results)
    firm = TABLE.firm.to_numpy()[rows_of(problem)]
    X = np.c_[TABLE[NAMES].to_numpy(), np.eye(18)[TABLE.firm]][rows_of(problem)]
    y = TABLE.wage.to_numpy()[rows_of(problem)]

    def error(omega: np.ndarray) -> float:
        inverse = np.linalg.inv(X.T @ (omega[:, None] * X))
        e, n = y - X @ (inverse @ X.T @ (omega * y)), omega.sum()
        sums = np.array([(omega * e)[firm == g] @ X[firm == g] for g in range(18)])
        return float(np.sqrt((inverse @ sums.T @ sums @ inverse)[0, 0] * n / (n - 3)))

    found = uw.inference_without(uw.Influence(problem), "union", uw.Errors.of(results)).table["derivative"]
    eps = 1e-5
    steps = eps * np.eye(len(y))
    slopes = [(error(1 + one) - error(1 - one)) / (2 * eps) for one in steps]
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda t: panel_models.RandomEffects.from_formula("wage ~ union", t.set_index(["firm", "year"])).fit(),
            "use PanelOLS with entity_effects=True",
        ),
        (
            lambda t: iv_models.IVGMM(t.wage, t[["union"]], t[["hours"]], t[["z1", "z2"]]).fit(),
            "use IV2SLS",
        ),
        (lambda t: pf.fepois("town ~ union | year", t), "one fit of feols"),
        (lambda t: pf.feols("wage ~ csw(union, married)", t), "one fit of feols"),
        (lambda t: pf.feols("wage ~ union | firm", t, lean=True), "keeps no data"),
        (
            lambda t: iv_models.AbsorbingLS(t.wage, t[["union"]], absorb=t[["z1"]]).fit(),
            "categories alone in absorb",
        ),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused(make: Fit, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        uw.from_results(make(TABLE))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (entity(cov_type="kernel"), "unadjusted, robust and clustered"),
        (entity(cov_type="clustered", cluster_entity=True, cluster_time=True), "in several"),
        (feols("union", "HC3"), "iid, hetero and CRV1"),
        (feols("union | firm", {"CRV1": "firm"}, ssc=pf.ssc(G_adj=False)), "usual small-sample factors"),
        (feols("union | firm", "hetero", weights="town1", weights_type="fweights"), "repeat the rows"),
    ],
)
def test_errors_that_are_not_known_are_refused(make: Fit, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        uw.Errors.of(make(TABLE))


def test_predictions_with_absorbed_effects_are_refused() -> None:
    influence = uw.Influence(uw.from_results(FITS["PanelOLS"](TABLE)))
    with pytest.raises(ValueError, match="absorbed effects"):
        uw.robustness(influence, uw.MeanPrediction(TABLE[:2]))
    with pytest.raises(ValueError, match="no loss of its own"):
        influence.on_loss((np.zeros((1, 3)), np.zeros(1)))
    with pytest.raises(ValueError, match="there is no coefficient 'age'"):
        uw.robustness(influence, "age")
    moved = FITS["PanelOLS"](TABLE)
    moved._params[0] += 1.0
    with pytest.raises(ValueError, match="standard errors from the least squares"):
        uw.from_results(moved)


def test_a_fit_of_few_effects_in_parts_is_counted_as_the_package_counts() -> None:
    """Two effects in two parts that nothing ties together."""
    table = TABLE.assign(year=np.where(TABLE.firm < 9, 0, 10) + TABLE.year)
    results = pf.feols("wage ~ union | firm + year", table, vcov="hetero", **EXACT)
    problem = uw.from_results(results, table)
    found = uw.inference_without(uw.Influence(problem), "union", uw.Errors.of(results))
    np.testing.assert_allclose(list(found.whole.values()), told(results, "union"), rtol=1e-8)
    assert torch.isfinite(problem.theta).all()
