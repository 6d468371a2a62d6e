"""Rows, labels and columns in the user's own words, and what outputs decide."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.classifiers import blobs, estimator, network
from tests.support.compare import assert_close_per_row
from upweight import Influence, LinearProblem, Logistic
from upweight.uses import labels

CLASSIFIERS = [case for case in CASES if case.loss.classifies]


def test_rows_are_called_by_their_ids_or_numbers() -> None:
    named, X, _ = estimator()
    rows = torch.tensor([5, 0, 59])
    assert labels.row_names(named, rows).tolist() == ["patient 5", "patient 0", "patient 59"]
    assert labels.row_names(blobs(2), rows).tolist() == [5, 0, 59]
    assert labels.row_names(named, rows).name == labels.row_names(blobs(2), rows).name == "train row"
    assert labels.row_names(named.subset(torch.tensor([7, 3])), torch.tensor([1])).tolist() == [X.index[3]]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_linear_models_whose_loss_decides_are_classifiers(case: Case) -> None:
    found = labels.classifier(case.problem)
    others = ("squared", "squared two outputs", "squared two outputs sparse n < p", "logistic several labels")
    assert (found is case.problem) == (case.name not in others and "one against one" not in case.name)
    assert labels.classifier(network()[0]) is None


@given(outputs=st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_one_output_decides_by_its_sign(outputs: list[float]) -> None:
    eta = torch.tensor(outputs, dtype=torch.float64)[:, None]
    decided = labels.decided(eta)
    assert decided.tolist() == [1.0 if value > 0 else -1.0 for value in outputs]
    assert torch.equal(labels.margins(eta, decided), eta[:, 0].abs())
    assert torch.equal(labels.margins(eta, -decided), -eta[:, 0].abs())


@given(st.integers(2, 5), st.integers(0, 2**16))
def test_several_outputs_decide_for_the_largest(c: int, seed: int) -> None:
    eta = draw(6, c, seed=seed)
    decided = labels.decided(eta)
    for row, best in zip(eta.tolist(), decided.tolist(), strict=True):
        assert row[best] == max(row)
    for k in range(c):
        found = labels.margins(eta, torch.full((6,), k))
        wanted = [row[k] - max(row[:k] + row[k + 1 :]) for row in eta.tolist()]
        assert_close_per_row(found, torch.tensor(wanted, dtype=torch.float64), 1e-12)
        assert ((found > 0) == (decided == k)).all()


@pytest.mark.parametrize("case", CLASSIFIERS, ids=case_id)
def test_margins_of_targets_are_positive_where_the_model_is_right(case: Case) -> None:
    problem = case.elsewhere
    outputs = problem.outputs()
    found = labels.margin_of_targets(problem, outputs, case.y)
    assert ((found > 0) == (labels.decided(outputs) == problem.y.flatten())).all()


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_mean_loss_is_one_question_with_the_mean_gradient(case: Case) -> None:
    problem = case.elsewhere
    measure = labels.mean_loss(problem)
    assert measure.single
    assert_close_per_row(
        problem.evaluate(case.test, measure), problem.evaluate(case.test).mean()[None], 1e-10
    )
    gradient = problem.test_gradients(case.test).mean(0, keepdim=True)
    assert_close_per_row(problem.test_gradients(case.test, measure), gradient, 1e-9)


def test_labels_are_the_users_where_they_have_names() -> None:
    named, _, y = estimator()
    assert labels.label_names(named, named.y).tolist() == y.tolist()
    assert labels.label_names(named, torch.tensor([-1.0, 1.0])).tolist() == list(named.classes or ())
    plain = blobs(3)
    assert labels.label_names(plain, plain.y[:4]).tolist() == plain.y[:4].tolist()
    regression = BY_NAME["squared"].problem
    assert labels.label_names(regression, regression.y[:2]).tolist() == regression.y[:2, 0].tolist()
    two = next(case.problem for case in CASES if case.name == "squared two outputs")
    assert labels.label_names(two, two.y[:2]).tolist() == [tuple(row) for row in two.y[:2].tolist()]


def test_columns_are_named() -> None:
    named, X, _ = estimator()
    assert [labels.feature_name(named, j) for j in range(3)] == list(X.columns)
    assert labels.feature_name(blobs(2), 2) == "column 2"


@pytest.mark.parametrize(
    "name", ["softmax", "logistic sparse intercept weights", *(c.name for c in CLASSIFIERS[-2:])]
)
def test_contradicted_labels_are_those_of_confident_learning(name: str) -> None:
    """Written out row by row: the confident joint of Northcutt et al., less the rows whose label is proposed."""
    model = BY_NAME[name].problem
    outputs = 2 * draw(model.n, model.c, seed=4)
    bar = labels.bars(model, outputs, model.y)
    if model.c == 1:
        sure = [[1 / (1 + math.exp(eta)), 1 / (1 + math.exp(-eta))] for eta in outputs[:, 0].tolist()]
    else:
        sure = labels.confidences(model, outputs).tolist()
    own = [int(y > 0) if model.c == 1 else int(y) for y in model.y.flatten().tolist()]
    bars = {}
    for k in set(own):
        mine, others = (
            [p[k] for p, y in zip(sure, own, strict=True) if (y == k) is side] for side in (True, False)
        )
        gap = statistics.mean(mine) - statistics.mean(others)
        if gap > 2 * math.sqrt(
            statistics.variance(mine) / len(mine) + statistics.variance(others) / len(others)
        ):
            bars[k] = statistics.mean(mine)
    assert {k: b for k, b in enumerate(bar.tolist()) if math.isfinite(b)} == pytest.approx(bars, rel=1e-9)
    bars = {k: statistics.mean(p[k] for p, y in zip(sure, own, strict=True) if y == k) for k in set(own)}
    found = labels.contradicted(
        model, outputs, model.y, torch.tensor([bars[k] for k in sorted(bars)]).double()
    )
    wanted = []
    for p, y in zip(sure, own, strict=True):
        above = [k for k in bars if p[k] > bars[k]]
        says = max(above, key=lambda k: p[k]) if above else y
        wanted.append(says != y and p.index(max(p)) != y)
    assert found.tolist() == wanted
    assert any(wanted)


@pytest.mark.parametrize("case", CLASSIFIERS, ids=case_id)
def test_confidences_are_the_models_probabilities(case: Case) -> None:
    model = case.problem
    sure = labels.confidences(model, draw(7, model.c, seed=1))
    assert_close_per_row(sure.sum(1), torch.ones(7, dtype=torch.float64), 1e-12)
    if model.loss.likelihood and model.c > 1 and not model.loss.separate_outputs:
        given = torch.tensor([0] * 7)
        outputs = draw(7, model.c, seed=1)
        assert_close_per_row(sure[:, 0], (-model.loss.value(outputs, given)).exp(), 1e-12)


@pytest.mark.parametrize("unknown", [-3.0, math.nan])
def test_a_model_that_knows_nothing_contradicts_nothing(unknown: float) -> None:
    model = blobs(2)
    outputs = torch.full((model.n, 1), unknown).double()
    bar = labels.bars(model, outputs, model.y)
    assert bar.isinf().all()
    assert not labels.contradicted(model, outputs, model.y, bar).any()
    assert not labels.contradicted(model, outputs, model.y, torch.full((2,), 0.99).double()).any()


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_labels_that_are_noise_are_not_contradicted(share: float) -> None:
    contradictions = []
    for seed in range(5):
        X, y = draw(400, 3, seed=seed), (draw(400, 1, seed=50 + seed)[:, 0] > normal_above(share)).long()
        model = LinearProblem.fit(X, y, loss=Logistic(), l2=1e-3, intercept=True)
        alone = Influence(model).leave_one_out()
        bar = labels.bars(model, alone.outputs, model.y)
        contradictions.append(int(labels.contradicted(model, alone.outputs, model.y, bar).sum()))
    assert sorted(contradictions)[3] == 0  # one of five may seem to know something


def normal_above(share: float) -> float:
    """The number above which this share of a standard normal variable lies."""
    return statistics.NormalDist().inv_cdf(1 - share)
