"""Measures by their definitions, and what each kind looks at."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.measures import (
    OfParameters,
    Overall,
    PerExample,
    as_measure,
    logit,
    margin,
    name_of,
    prediction,
    probability,
    share_of_sigmoids,
)

PARAMS = {"weight": torch.tensor([[2.0, 3.0]])}


def named(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.sum()


def never() -> Any:
    raise AssertionError("the batch was looked at")


@given(b=st.integers(1, 6), c=st.integers(2, 5), seed=st.integers(0, 100))
def test_class_measures_by_loops(b: int, c: int, seed: int):
    outputs = draw(b, c, seed=seed)
    targets = torch.randint(c, (b,), generator=torch.Generator().manual_seed(seed))
    rows = list(zip(outputs, targets.tolist(), strict=True))
    assert logit(outputs, targets).tolist() == [float(row[y]) for row, y in rows]
    shares = [float(row[y].exp() / row.exp().sum()) for row, y in rows]
    assert_close_per_row(probability(outputs, targets), torch.tensor(shares, dtype=torch.float64), 1e-12)
    gaps = [float(row[y]) - max(float(row[k]) for k in range(c) if k != y) for row, y in rows]
    assert margin(outputs, targets).tolist() == gaps
    assert torch.equal(margin(outputs, targets) > 0, outputs.argmax(1) == targets)


@pytest.mark.parametrize("measure", [logit, probability, margin])
def test_targets_may_be_any_whole_numbers(measure):
    outputs = draw(2, 3)
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.float64):
        targets = torch.tensor([2, 0], dtype=dtype)
        assert torch.equal(measure(outputs, targets), measure(outputs, torch.tensor([2, 0])))


@pytest.mark.parametrize("measure", [logit, probability, margin])
def test_gradients_are_those_of_finite_differences(measure):
    outputs, targets = draw(3, 4), torch.tensor([3, 0, 1])
    assert torch.autograd.gradcheck(lambda eta: measure(eta, targets), outputs.requires_grad_())


def test_probability_is_that_of_the_loss_and_safe_at_large_outputs():
    outputs, targets = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 0])
    assert probability(outputs, targets).tolist() == [1.0, 0.0]
    small = draw(3, 4)
    loss = torch.nn.functional.cross_entropy(small, torch.tensor([1, 2, 3]), reduction="none")
    assert_close_per_row(probability(small, torch.tensor([1, 2, 3])), (-loss).exp(), 1e-12)


def test_a_function_is_taken_example_by_example_and_a_measure_stays():
    found = as_measure(named)
    assert isinstance(found, PerExample)
    assert found.function is named
    for measure in (PerExample(named), Overall(named), OfParameters(lambda params: params["weight"].sum())):
        assert as_measure(measure) is measure
    assert as_measure(None) is None


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (None, "loss"),
        (named, "named"),
        (Overall(named), "named"),
        (lambda outputs, targets: outputs.sum(), "measure"),
        (OfParameters(lambda params: params["weight"].sum()), "measure"),
        (partial(named), "measure"),
    ],
)
def test_names_for_headings(measure: Any, name: str):
    assert name_of(measure) == name


def test_one_number_of_the_whole_batch():
    measure = Overall(lambda outputs, targets: (outputs[:, 0] * targets).sum(0, keepdim=True))
    assert (measure.single, measure.uses_batch) == (True, True)
    found = measure.number(PARAMS, lambda: (torch.ones(3, 1), torch.arange(3.0)))
    assert found.shape == ()
    assert float(found) == 3.0


def test_one_number_of_the_parameters_alone():
    measure = OfParameters(lambda params: params["weight"][:, 1])
    assert (measure.single, measure.uses_batch) == (True, False)
    found = measure.number(PARAMS, never)
    assert found.shape == ()
    assert float(found) == 3.0


def test_a_number_per_example_is_no_single_one():
    measure = PerExample(named)
    assert (measure.single, measure.uses_batch) == (False, True)
    with pytest.raises(TypeError, match="named gives a number per example: wrap it in Overall"):
        measure.number(PARAMS, never)


@pytest.mark.parametrize("measure", [Overall(lambda o, y: o), OfParameters(lambda params: params["weight"])])
def test_more_than_one_number_is_none(measure: Any):
    with pytest.raises(RuntimeError):
        measure.number(PARAMS, lambda: (torch.ones(2), None))


def test_measures_are_equal_by_their_function():
    assert PerExample(named) == PerExample(named) != PerExample(logit)
    assert len({PerExample(named), Overall(named), Overall(named)}) == 2


@pytest.mark.parametrize("first", [0, -1])
@pytest.mark.parametrize("shape", [(4, 1), (4,)])
@pytest.mark.parametrize("column", [True, False])
def test_one_output_decides_between_two_classes_by_its_sign(first: int, shape: tuple[int, ...], column: bool):
    outputs = draw(4).view(shape)
    targets = torch.tensor([1, first, 1, first])
    signed = [v if y == 1 else -v for v, y in zip(outputs.flatten().tolist(), targets.tolist(), strict=True)]
    given = targets.double()[:, None] if column else targets
    assert logit(outputs, given).tolist() == margin(outputs, given).tolist() == signed
    shares = torch.tensor([1 / (1 + math.exp(-v)) for v in signed], dtype=torch.float64)
    assert_close_per_row(probability(outputs, given), shares, 1e-12)
    for measure in (logit, probability, margin):
        leaf = outputs.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda eta, measure=measure: measure(eta, given), leaf)


def test_what_is_no_class_has_no_probability():
    assert probability(torch.zeros(2, 1), torch.tensor([0.3, 1.0])).isnan().tolist() == [True, False]
    with pytest.raises(
        ValueError, match=r"one class per example.*\(2, 3\) and \(2, 3\): write a measure of your own"
    ):
        probability(torch.zeros(2, 3), torch.ones(2, 3))


def test_shares_of_sigmoids_by_loops():
    outputs, targets = draw(5, 3), torch.tensor([0, 2, 1, 1, 0])
    for row, y, found in zip(outputs, targets, share_of_sigmoids(outputs, targets), strict=True):
        alone = [1 / (1 + math.exp(-float(v))) for v in row]
        assert float(found) == pytest.approx(alone[int(y)] / sum(alone), rel=1e-12)


def test_a_prediction_is_the_one_output_in_whichever_shape():
    assert prediction(torch.tensor([[3.0], [4.0]]), None).tolist() == [3.0, 4.0]
    assert prediction(torch.tensor([3.0]), torch.tensor([1.0])).tolist() == [3.0]
    with pytest.raises(ValueError, match="prediction is the one output of a model of a quantity"):
        prediction(torch.zeros(2, 3), None)
