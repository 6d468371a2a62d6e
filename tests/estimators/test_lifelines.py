"""CoxPHFitter of lifelines against its own refits; lifelines needs pandas < 3, so `make oracles` runs this."""

import numpy as np
import pytest
import torch

import upweight as uw
from tests.support.compare import assert_close_per_row

lifelines = pytest.importorskip("lifelines", reason="lifelines needs pandas < 3: `make oracles` installs it")
datasets = pytest.importorskip("lifelines.datasets")
pytestmark = pytest.mark.filterwarnings(
    "ignore::lifelines.exceptions.StatisticalWarning", "ignore::FutureWarning"
)

TABLE = datasets.load_rossi().iloc[:120].set_index(np.arange(120)[::-1])
TABLE["w"] = 1.0 + np.arange(120) % 3
TABLE["entry"] = np.minimum(
    np.arange(120) % 7 * 2.0, TABLE["week"] - 1
)  # many enter late, in the weeks of events
PLAIN = ["week", "arrest", "fin", "age", "prio"]
FITS: dict[str, tuple] = {
    "plain": (PLAIN, 0.0, {}),
    "penalised": (PLAIN, 0.1, {}),
    "penalised each": (PLAIN, np.array([0.1, 0.0, 0.2]), {}),
    "weighted": ([*PLAIN, "w"], 0.0, {"weights_col": "w"}),
    "strata": ([*PLAIN, "race"], 0.05, {"strata": ["race"]}),
    "all": ([*PLAIN, "race", "w"], 0.05, {"strata": ["race"], "weights_col": "w"}),
    "late entry": ([*PLAIN, "entry"], 0.0, {"entry_col": "entry"}),
    "all, late": (
        [*PLAIN, "race", "w", "entry"],
        0.05,
        {"strata": ["race"], "weights_col": "w", "entry_col": "entry"},
    ),
    "formula": (list(TABLE.columns), 0.0, {"formula": "fin + age * prio"}),
}


def fit(rows, columns, penalizer, known):
    model = lifelines.CoxPHFitter(penalizer=penalizer)
    precise = {"precision": 1e-13, "max_steps": 500}
    return model.fit(rows[columns], "week", "arrest", fit_options=precise, **known)


@pytest.fixture(params=FITS)
def setting(request):
    return FITS[request.param]


def test_the_problem_is_the_one_that_it_solved(setting):
    fitted = fit(TABLE, *setting)
    problem = uw.from_results(fitted, TABLE)
    assert problem.feature_names == tuple(fitted.params_.index)
    assert_close_per_row(
        torch.linalg.inv(problem.hessian.matrix()) / len(TABLE), fitted.variance_matrix_, 1e-5
    )
    polished = uw.from_results(fitted, TABLE, polish=True)
    assert_close_per_row(polished.theta[None], problem.theta[None], 1e-6)


def test_removals_are_those_of_its_own_refits(setting):
    fitted = fit(TABLE, *setting)
    problem = uw.from_results(fitted, TABLE, polish=True)
    assert problem.reduced is not None
    rows = [0, 5, 17, 33, 40]
    again = [fit(TABLE.drop(index=TABLE.index[row]), *setting).params_ for row in rows]
    refits = torch.from_numpy(np.array(again)) - problem.theta
    own = torch.stack([problem.reduced.refitted(torch.tensor([row]))[0] for row in rows]) - problem.theta
    newton = problem.reduced.newton([torch.tensor([row]) for row in rows]) - problem.theta
    first = -uw.Influence(problem).on_params(torch.tensor(rows)) / problem.n
    off = [float((found - refits).norm() / refits.norm()) for found in (own, newton, first)]
    assert off[0] < 1e-5  # where its own steps end
    assert off[1] < 0.03
    assert off[1] < off[2]


def test_derivatives_are_those_of_its_fits_with_other_weights():
    columns, penalizer, known = FITS["weighted"]
    problem = uw.from_results(fit(TABLE, columns, penalizer, known), TABLE, polish=True)
    for row in (5, 17):
        moved = []
        for step in (1e-2, -1e-2):
            other = TABLE.copy()
            other.loc[other.index[row], "w"] *= 1 + step
            moved.append(fit(other, columns, penalizer, {**known, "robust": True}).params_.to_numpy())
        expected = torch.from_numpy((moved[0] - moved[1]) / 2e-2)
        found = uw.Influence(problem).on_params(torch.tensor([row])) / problem.n
        assert_close_per_row(found, expected[None], 1e-4)  # central differences over 1 %


def test_verify_fits_it_again(setting):
    influence = uw.Influence(uw.from_results(fit(TABLE, *setting), TABLE))
    found = uw.verify(influence, (TABLE.iloc[:3], None), k=5, measure=uw.measures.prediction)
    assert found.estimator is not None
    assert found.estimator < 1e-4


def test_what_is_not_supported_is_named_with_what_is():
    columns, _, _ = FITS["plain"]
    fitted = fit(TABLE, *FITS["plain"])
    with pytest.raises(TypeError, match=r"give the DataFrame .* from_results\(fitter, table\)"):
        uw.from_results(fitted)
    with pytest.raises(ValueError, match="on other rows"):
        uw.from_results(fitted, TABLE.iloc[:60])
    kinked = lifelines.CoxPHFitter(penalizer=0.1, l1_ratio=0.5).fit(TABLE[columns], "week", "arrest")
    spline = lifelines.CoxPHFitter(baseline_estimation_method="spline", n_baseline_knots=2)
    refused = {
        "l1_ratio": kinked,
        "parametric baseline": spline.fit(TABLE[columns], "week", "arrest"),
        "knows CoxPHFitter": lifelines.WeibullAFTFitter().fit(TABLE[columns], "week", "arrest"),
    }
    for said, other in refused.items():
        with pytest.raises((TypeError, ValueError), match=said):
            uw.from_results(other, TABLE)


PRECISE = {"precision": 1e-13, "r_precision": 1e-15, "max_steps": 500}
NAMES = {"id_col": "id", "event_col": "event", "start_col": "start", "stop_col": "stop"}


@pytest.mark.parametrize("more", [{}, {"penalizer": 0.1, "strata": ["surgery"]}])
def test_subjects_of_several_rows_are_removed_as_its_own_refits_do(more):
    table = datasets.load_stanford_heart_transplants()

    def fit(rows):
        return lifelines.CoxTimeVaryingFitter(**more).fit(rows, fit_options=PRECISE, **NAMES)

    problem = uw.from_results(fit(table), table)
    assert problem.reduced is not None
    covariance = torch.linalg.inv(problem.hessian.matrix()) / problem.n
    assert_close_per_row(covariance, fit(table).variance_matrix_, 1e-6)
    for subject in (3, 10, 54):
        rows = torch.from_numpy(np.flatnonzero(table.id == subject))
        moved = torch.from_numpy(fit(table[table.id != subject]).params_.to_numpy().copy()) - problem.theta
        assert_close_per_row((problem.reduced.refitted(rows)[0] - problem.theta)[None], moved[None], 1e-6)
        assert_close_per_row((problem.reduced.newton([rows])[0] - problem.theta)[None], moved[None], 0.02)
    verified = uw.verify(uw.Influence(problem), (table[:3], None), k=3, measure=uw.measures.prediction)
    assert verified.estimator is not None
    assert verified.estimator < 1e-6


def test_delta_beta_is_that_of_lifelines_where_that_is_right():
    """Without ties, which it takes in the order of the table, and with covariates of unit deviation."""
    table = TABLE[PLAIN].assign(week=np.random.default_rng(0).permutation(120) + 1.0)
    for name in ("fin", "age", "prio"):
        table[name] = table[name] / table[name].std()
    fitted = fit(table, PLAIN, 0.0, {})
    found = uw.diagnostics(uw.Influence(uw.from_results(fitted, table)), first_order=True)
    for kind, ours in (("delta_beta", found.dfbeta), ("score", found.scores)):
        assert_close_per_row(ours, fitted.compute_residuals(table, kind).loc[table.index], 1e-6)
