"""A function of batches taken example by example: vectorised or not, one at a time is what it means."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.data.per_example import each, number, per_example

LOGITS, CLASSES = draw(6, 3), torch.arange(6) % 3


def by_hand(function: Any, outputs: Any, targets: Any) -> torch.Tensor:
    """A loop over batches of one."""
    return torch.stack(
        [function(outputs[i : i + 1], targets[i : i + 1]).reshape(()) for i in range(len(targets))]
    )


LOSSES: dict[str, Any] = {
    "reduced": F.cross_entropy,
    "a module": nn.CrossEntropyLoss(),
    "per example": lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
    "summed": nn.CrossEntropyLoss(reduction="sum"),
    "with a dimension left": lambda outputs, targets: outputs.gather(1, targets[:, None]),
    "weights by the batch": lambda outputs, targets: outputs.sum() / len(outputs),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_is_that_of_batches_of_one(kind: str):
    found = per_example(LOSSES[kind], LOGITS, CLASSES)
    assert found.shape == (6,)
    assert_close_per_row(found[:, None], by_hand(LOSSES[kind], LOGITS, CLASSES)[:, None], 1e-12)


def test_what_mixes_examples_cannot():
    """A loss that subtracts the batch's mean sees batches of one, whose mean is the example itself."""
    found = per_example(lambda outputs, targets: (outputs - outputs.mean(0)).square().sum(), LOGITS, CLASSES)
    assert not found.any()


def test_control_flow_by_the_data_is_done_in_a_loop():
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum() if targets.item() > 0 else -outputs.sum()

    found = per_example(loss, LOGITS, CLASSES)
    assert torch.equal(found, by_hand(loss, LOGITS, CLASSES))


def test_outputs_and_targets_may_be_nested():
    def loss(outputs: Any, targets: Any) -> torch.Tensor:
        return (outputs["a"] * targets["weight"][:, None]).sum() + outputs["pair"][1].sum()

    outputs = {"a": LOGITS, "pair": (LOGITS, 2 * LOGITS)}
    weight = draw(6, seed=1)
    found = per_example(loss, outputs, {"weight": weight})
    assert_close_per_row(found, (LOGITS * weight[:, None]).sum(1) + 2 * LOGITS.sum(1), 1e-12)


def test_it_can_be_differentiated():
    leaf = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(per_example(F.cross_entropy, leaf, CLASSES).sum(), leaf)
    assert_close_per_row(found, LOGITS.softmax(1) - F.one_hot(CLASSES), 1e-12)


def test_each_sees_no_batch_dimension():
    seen = []

    def one(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append((output.shape, target.shape))
        return output[int(target)]  # no vmap

    found = each(one, LOGITS, CLASSES)
    assert torch.equal(found, LOGITS[torch.arange(6), CLASSES])
    assert seen[-1] == ((3,), ())


def test_an_error_of_the_users_function_is_theirs():
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("in the loss")

    with pytest.raises(ZeroDivisionError, match="in the loss"):
        per_example(loss, LOGITS, CLASSES)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_of_any_shape(shape: tuple[int, ...]):
    assert number(torch.full(shape, 3.0)).shape == ()


def test_more_than_one_number():
    with pytest.raises(ValueError, match=r"one number per example, got shape \(1, 3\) for one example"):
        per_example(lambda outputs, targets: outputs, LOGITS, CLASSES)
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        number(torch.zeros(0))


@pytest.mark.parametrize("value", [1.0, None, (torch.ones(1),)])
def test_what_is_no_tensor(value: Any):
    with pytest.raises(
        TypeError, match=f"must give a tensor, got {type(value).__name__}; a model of transformers"
    ):
        per_example(lambda outputs, targets: value, LOGITS, CLASSES)
