"""Verification: its refits against refits made alone, its statistics, and its refusals."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import upweight as uw
from tests.support.classifiers import estimator, weighted_softmax
from upweight.validation.verify import Agreement, Verification, agreement


def test_reduced_gradients_without_removal_is_the_gradient() -> None:
    problem = weighted_softmax()
    shifted = problem.at(problem.theta + 0.1)
    got = problem.gradients_without([torch.tensor([], dtype=torch.long)], shifted.theta[None])[0]
    assert torch.allclose(got, shifted.gradient(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_first_gradients_are_the_reduced_ones_at_theta(keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upweight.linear.reduced_gradients.GONE_ROWS", 4)
    problem = weighted_softmax(keep)
    problem = problem.at(problem.theta + 0.1)
    sets = [torch.tensor(rows, dtype=torch.long) for rows in ([], [0], [39, 2], list(range(15)))]
    got = problem.gradients_without(sets)
    expected = problem.gradients_without(sets, problem.theta.repeat(len(sets), 1))
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_predictions_agree_with_retraining_and_the_sign_is_right() -> None:
    problem = weighted_softmax(n=400)
    generator = torch.Generator().manual_seed(1)
    test = (torch.randn(2, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 2]))
    result = uw.verify(uw.Influence(problem), test, k=20)
    assert result.random is not None
    assert result.top.pearson > 0.999
    assert 0.95 < result.top.slope < 1.1
    assert result.top.count == 40
    assert float(result.table["gradient norm"].max()) <= 1e-9
    low, high = result.top.interval["pearson"]
    assert low <= result.top.pearson <= high


def test_a_user_given_refit_is_used() -> None:
    problem = weighted_softmax()
    test = (
        torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
        torch.tensor([1]),
    )
    influence = uw.Influence(problem)
    own = uw.verify(influence, test, k=4)
    given = uw.verify(influence, test, k=4, refit=lambda kept: problem.subset(kept).minimised(1e-10).theta)
    assert np.allclose(own.table["actual"], given.table["actual"], rtol=1e-4, atol=1e-10)


def test_an_interrupt_keeps_what_is_finished() -> None:
    problem = weighted_softmax()
    calls = []

    def refit(kept: torch.Tensor) -> torch.Tensor:
        calls.append(len(kept))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return problem.subset(kept).minimised(1e-9).theta

    test = (torch.ones(1, 4, dtype=torch.float64), torch.tensor([1]))
    result = uw.verify(uw.Influence(problem), test, k=6, refit=refit)
    assert not result.complete
    assert "interrupted" in str(result)
    assert 2 <= len(result.table) < 12


def test_networks_need_a_refit() -> None:
    model = torch.nn.Linear(2, 2).double()
    X = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y = torch.arange(12) % 2
    problem = uw.Problem(model, torch.nn.functional.cross_entropy, (X, y), l2=0.1)
    with pytest.raises(ValueError, match="refit="):
        uw.verify(uw.Influence(problem), (X[:1], y[:1]), k=2)


@pytest.mark.parametrize(("k", "random"), [(0, 1), (1, -1)])
def test_bad_counts(k: int, random: int) -> None:
    test = (torch.ones(1, 4, dtype=torch.float64), torch.tensor([1]))
    with pytest.raises(ValueError, match="k must be"):
        uw.verify(uw.Influence(weighted_softmax()), test, k=k, random=random)


def test_agreement_statistics() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    found = agreement(x, 2 * x)
    assert found.pearson == pytest.approx(1)
    assert found.spearman == pytest.approx(1)
    assert found.slope == pytest.approx(2)
    assert found.relative_error == pytest.approx(0.5)
    assert agreement(x, -x).pearson == pytest.approx(-1)


@settings(max_examples=40)
@given(count=st.integers(3, 30), seed=st.integers(0, 2**16), slope=st.sampled_from([-2.0, 0.3, 1.0]))
def test_agreement_is_that_of_scipy(count: int, seed: int, slope: float) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=count)
    y = slope * x + 0.3 * random.normal(size=count)
    found = agreement(x.tolist(), pd.Series(y))
    assert found.count == count
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic, rel=1e-9)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-9)
    assert found.slope == pytest.approx(stats.linregress(x, y).slope, rel=1e-9)
    assert found.relative_error == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y), rel=1e-9)


def test_intervals_narrow_with_the_number_of_removals_and_repeat() -> None:
    random = np.random.default_rng(0)
    widths = []
    for count in (10, 1000):
        x = random.normal(size=count)
        y = x + 0.5 * random.normal(size=count)
        found = agreement(x, y)
        for name in ("pearson", "spearman", "slope", "relative_error"):
            low, high = found.interval[name]
            assert low < getattr(found, name) < high
        assert agreement(x, y) == found
        assert agreement(x, y, seed=1).interval != found.interval
        widths.append(found.interval["slope"][1] - found.interval["slope"][0])
    # The standard error of a slope falls with the root of the number: by a factor of 10.
    assert 4 < widths[0] / widths[1] < 25


def test_what_is_not_defined_is_not_a_number() -> None:
    found = agreement([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    assert all(np.isnan(value) for value in (found.pearson, found.spearman, found.slope))
    assert all(np.isnan(end) for end in found.interval["pearson"])
    assert np.isfinite(found.relative_error)
    assert np.isnan(agreement([1.0, 2.0], [0.0, 0.0]).relative_error)


def test_the_table_holds_predictions_as_scores_give_them() -> None:
    problem = weighted_softmax()
    influence, test = uw.Influence(problem), problem.train_batch(torch.tensor([3, 8]))
    result = uw.verify(influence, test, k=5, random=3, seed=2)
    effects = influence.of_each_removal(test).removal_effect()
    for _, line in result.table.iterrows():
        assert line["predicted"] == float(effects[line["test row"], line["train row"]])
    top = result.table[result.table["group"] == "top"]
    for t in (0, 1):
        rows = effects[t].abs().topk(5).indices.tolist()
        assert top.loc[top["test row"] == t, "train row"].tolist() == rows
    control = result.table[result.table["group"] == "random"].groupby("test row")["train row"]
    assert len({tuple(rows) for _, rows in control}) == 1  # the same rows for all
    assert result.random is not None
    assert (result.top.count, result.random.count) == (10, 6)
    other = uw.verify(influence, test, k=5, random=3, seed=3).table
    assert other["train row"].tolist() != result.table["train row"].tolist()


def test_without_random_rows_there_is_no_control() -> None:
    problem = weighted_softmax()
    result = uw.verify(uw.Influence(problem), problem.train_batch(torch.tensor([3])), k=4, random=0)
    assert result.random is None
    assert set(result.table["group"]) == {"top"}
    assert "random control" not in str(result)
    assert str(result).startswith("most influential: 4 removals: Pearson")
    assert repr(result) == str(result)
    assert "<table" in result._repr_html_()


def test_more_removals_than_there_are_rows_are_all_of_them_but_one() -> None:
    problem = weighted_softmax(n=8)
    result = uw.verify(uw.Influence(problem), problem.train_batch(torch.tensor([3])), k=100)
    assert result.random is not None
    assert (result.top.count, result.random.count) == (7, 7)


def test_rows_are_called_by_their_ids() -> None:
    problem, X, y = estimator()
    result = uw.verify(uw.Influence(problem), (X[:1], y[:1]), k=3)
    assert all(name.startswith("patient ") for name in result.table["train row"])
    assert set(result.table["test row"]) == {"patient 0"}
    assert result.top.pearson > 0.99


def test_another_measure_is_retrained_for_as_well() -> None:
    problem = weighted_softmax(n=200)
    coefficient = uw.OfParameters(lambda params: params["weight"][0, 0] - params["weight"][1, 0])
    test = problem.train_batch(torch.tensor([3]))
    result = uw.verify(uw.Influence(problem), test, k=15, measure=coefficient)
    assert result.top.pearson > 0.99
    assert 0.9 < result.top.slope < 1.1


@pytest.mark.parametrize(
    ("unit", "of_targets"), [(1.0, 1e6), (1.0, 1e9), (1e6, 1e6), (1e-6, 1e-6), (1e6, 1e-6)]
)
def test_judgement_does_not_depend_on_units(unit: float, of_targets: float) -> None:
    """Dollars, yen, rates: the same refits, and the same agreement, as of the problem in plain numbers."""
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(80, 3, dtype=torch.float64, generator=generator)
    y = X @ torch.tensor([1.0, -2.0, 0.5]).double() + torch.randn(
        80, dtype=torch.float64, generator=generator
    )
    found = []
    for u, t in ((1.0, 1.0), (unit, of_targets)):
        columns = X * torch.tensor([1.0, u, 1.0])
        l2 = 0.1 * torch.tensor([1.0, u**2, 1.0]).double()
        problem = uw.LinearProblem.fit(columns, y * t, loss=uw.Squared(), l2=l2)
        found.append(uw.verify(uw.Influence(problem), (columns[:3], y[:3] * t), k=5).table)
    assert found[0]["train row"].tolist() == found[1]["train row"].tolist()
    for name in ("predicted", "actual"):
        assert np.allclose(found[1][name] / of_targets**2, found[0][name], rtol=1e-5)


@pytest.mark.parametrize(
    ("pearson", "error", "estimator", "complete", "judgement", "reasons"),
    [
        (0.999, 0.05, 0.01, True, "The explanation holds", ()),
        (0.95, 0.3, None, True, "The explanation holds roughly", ()),
        (0.95, 0.6, None, True, "The ranking holds, the sizes do not", ("off by 60%",)),
        (0.2, 3.0, None, True, "The explanation does not hold", ("off by 300%",)),
        (0.999, 0.05, 0.4, False, "The explanation holds", ("estimator", "finished")),
        (math.nan, math.nan, None, True, "The explanation does not hold", ("off by nan",)),
    ],
)
def test_what_was_measured_is_judged_in_words(pearson, error, estimator, complete, judgement, reasons):
    top = Agreement(20, pearson, pearson, 1.0, error, {})
    found = Verification(pd.DataFrame(), top, None, complete, estimator)
    assert found.judgement == judgement
    said = found.shortcoming()
    assert bool(said) == bool(reasons)
    assert all(reason in said for reason in reasons)


def test_changes_that_are_all_nothing_agree() -> None:
    """A count that no removal changes, as an AUROC of 1 is."""
    found = agreement([0.0, 0.0], [0.0, 0.0])
    assert found.relative_error == 0
    assert agreement([0.0, 1.0], [0.0, 0.0]).relative_error != 0
    table = pd.DataFrame({"train row": [0, 1], "actual": [0.0, 0.0]})
    verified = Verification(table, found, None)
    assert verified.judgement == "The explanation holds"
    assert verified.shortcoming() == ""
