"""Class weights follow the labels: a relabelled problem is the one that would be made with those labels."""

from typing import Any

import pytest
import torch

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight import LinearProblem, Logistic, Softmax, Squared
from upweight.linear.class_weights import of_labels, without_labels

X, OWN = draw(30, 3), 0.5 + draw(30, seed=1).abs()
SIGNS, THREE = (X[:, 0] > 0).long(), torch.arange(30) % 3


@pytest.mark.parametrize("own", [None, OWN])
@pytest.mark.parametrize(
    ("loss", "y", "by_class"), [(Logistic(), SIGNS, [1.0, 4.0]), (Softmax(), THREE, [0.5, 2.0, 3.0])]
)
def test_relabelling_is_a_problem_with_those_labels(loss, y, by_class, own):
    c = 1 if loss == Logistic() else 3
    options: dict[str, Any] = {
        "loss": loss,
        "l2": 0.1,
        "weights": own,
        "class_weights": by_class,
        "keep": "total",
    }
    problem = LinearProblem(X, y, draw(c, 3, seed=2), torch.zeros(c), **options)
    rows = torch.tensor([4, 9, 20])
    other = 1 - y if c == 1 else (y + 1) % 3
    changed = y.clone()
    changed[rows] = other[rows]
    wanted = LinearProblem(X, changed, draw(c, 3, seed=2), torch.zeros(c), **options)
    encoded = problem.encode(other, 30)[rows]
    found = problem.relabelled(rows, encoded)
    assert_close_per_row(found.weights[None], wanted.weights[None], 1e-14)
    assert_close_per_row(found.gradient()[None], wanted.gradient()[None], 1e-13)
    assert_close_per_row(found.sample_weights[None], (torch.ones(30) if own is None else own)[None], 1e-14)
    assert found.subset(rows).sample_weights.shape == (3,)
    batch = X[rows], other[rows]
    assert_close_per_row(problem.label_weights(batch)[None], torch.tensor(by_class)[other[rows]][None], 1e-14)


def test_a_class_that_weighs_nothing_hides_sample_weights_that_differ():
    options: dict[str, Any] = {"loss": Logistic(), "l2": 0.1, "class_weights": [0.0, 2.0]}
    same = LinearProblem(X, SIGNS, torch.zeros(3), weights=torch.full((30,), 3.0), **options)
    assert same.sample_weights.tolist() == pytest.approx([3.0] * 30)
    row = (SIGNS == 0).nonzero()[:1, 0]
    assert float(same.relabelled(row, torch.ones(1)).weights[row]) == pytest.approx(6.0)
    differ = LinearProblem(X, SIGNS, torch.zeros(3), weights=OWN, **options)
    with pytest.raises(ValueError, match=f"row {int(row)} has a class of weight 0"):
        differ.relabelled(row, torch.ones(1))


def test_what_is_no_class_weight_is_refused():
    for wrong in ([1.0], [1.0, -1.0], [1.0, float("inf")]):
        with pytest.raises(ValueError, match="2 finite numbers >= 0, one per class"):
            LinearProblem(X, SIGNS, torch.zeros(3), loss=Logistic(), class_weights=wrong)
    with pytest.raises(ValueError, match="class_weights are for classifiers"):
        LinearProblem(X, X[:, 0], torch.zeros(3), loss=Squared(), class_weights=[1.0, 1.0])


def test_without_class_weights_nothing_changes():
    assert of_labels(None, SIGNS).tolist() == [1.0] * 30
    assert without_labels(OWN, None, SIGNS) is OWN


@pytest.mark.parametrize("own", [None, OWN])
@pytest.mark.parametrize(("loss", "y"), [(Logistic(), SIGNS), (Softmax(), THREE)])
def test_balanced_weights_of_the_rows_that_are_left(loss, y, own):
    c = 1 if loss == Logistic() else 3

    def problem_of(kept: torch.Tensor, labels: torch.Tensor) -> LinearProblem:
        counted = torch.ones(len(kept)).double() if own is None else own[kept]
        totals = torch.stack([counted[labels[kept] == k].sum() for k in labels.unique()])
        options: dict[str, Any] = {
            "loss": loss,
            "l2": 0.1 * 30 / len(kept),
            "weights": None if own is None else own[kept],
            "class_weights": counted.sum() / (len(totals) * totals),
            "counted": counted,
            "keep": "total",
        }
        return LinearProblem(X[kept], labels[kept], draw(c, 3, seed=2), torch.zeros(c), **options)

    everything, rows = torch.arange(30), torch.tensor([4, 9, 20])
    problem, kept = problem_of(everything, y), everything[~torch.isin(everything, rows)]
    wanted = problem_of(kept, y)
    for found in (problem.without(rows), problem.without(rows[:1]).without(rows[1:] - 1)):
        assert_close_per_row(found.weights[None], wanted.weights[None], 1e-13)
        assert_close_per_row(found.gradient()[None], wanted.gradient()[None], 1e-13)
    thetas = problem.theta[None].expand(2, -1)
    sets, gradients = [rows, rows[:0]], torch.stack([wanted.gradient(), problem.gradient()])
    assert_close_per_row(problem.gradients_without(sets), gradients, 1e-13)
    assert_close_per_row(problem.gradients_without(sets, thetas), gradients, 1e-13)
    changed = y.clone()
    changed[rows] = (1 - y if c == 1 else (y + 1) % 3)[rows]
    relabelled, anew = (
        problem.relabelled(rows, problem.encode(changed, 30)[rows]),
        problem_of(everything, changed),
    )
    assert_close_per_row(relabelled.weights[None], anew.weights[None], 1e-13)
    assert_close_per_row(relabelled.without(rows).weights[None], anew.without(rows).weights[None], 1e-13)
    assert problem.fingerprint() != anew.fingerprint()
