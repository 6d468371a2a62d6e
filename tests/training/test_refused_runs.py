"""Runs that cannot be replayed or differentiated are refused in a sentence, as early as it shows."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import upweight as uw

from ..support.runs import data, network, sgd, trained

BATCHES = [torch.arange(8), torch.arange(8, 16), torch.arange(16, 24)]


def recorded(model, step, said=True):
    """A loop of three steps, recorded."""
    X, y = data()
    optimizer = sgd()(model.parameters())
    recorder = uw.Recorder(model, F.cross_entropy, (X, y), optimizer=optimizer)
    for rows in BATCHES:
        if said:
            recorder.step(rows)
        optimizer.zero_grad()
        step(model, X[rows], y[rows]).backward()
        optimizer.step()
    return recorder.finish()


def plain(model, x, y):
    return F.cross_entropy(model(x), y)


def test_training_in_autocast():
    def step(model, x, y):
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(x.float()), y)

    with pytest.raises(ValueError, match=r"in autocast \(torch.bfloat16\).*train without it"):
        recorded(network(), step)


def test_a_loop_whose_order_is_not_recorded():
    with pytest.raises(ValueError, match=r"step 0 \(from 0\) of the optimiser came without a batch"):
        recorded(network(), plain, said=False)


def test_a_loop_that_multiplies_its_loss_is_told_where_it_parts():
    with pytest.raises(uw.InfluenceError, match="they part at step 0"):
        recorded(network(), lambda model, x, y: 2 * plain(model, x, y))


def test_a_compiled_model_is_replayed_as_it_was_written():
    compiled = torch.compile(network(), backend="eager")
    run = recorded(compiled, plain)
    assert run.gap < 1e-12
    assert recorded(network(), plain).gap < 1e-12


def test_random_numbers_that_are_not_torchs():
    draw = np.random.default_rng(0)

    def augment(batch):
        return batch[0] + torch.as_tensor(draw.normal(size=batch[0].shape)), batch[1]

    with pytest.raises(uw.InfluenceError, match=r"taken twice, part by .* draw by torch"):
        trained(augment=augment)


def test_examples_without_numbers():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from zip(*data(), strict=True)

    with pytest.raises(TypeError, match="examples need an index and a length"):
        uw.TrainingRun(network(), F.cross_entropy, Endless(), optimizer=sgd(), batches=BATCHES)


def test_sparse_adam_is_named():
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4, sparse=True), torch.nn.Flatten()).double()
    words = torch.randint(0, 9, (8, 1), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SparseAdam(list(model.parameters()))
    with pytest.raises(TypeError, match=r"SparseAdam is an optimiser that is not known .*register_optimizer"):
        uw.Recorder(model, F.cross_entropy, (words, words[:, 0] % 4), optimizer=optimizer)


def test_little_memory_takes_fewer_test_rows_at_once_and_then_says_so(monkeypatch):
    run = trained()
    v = run.gradients(data(n=6, seed=1))
    expected, grad = run.derivatives(v), torch.autograd.grad

    def within(most):
        def scarce(outputs, inputs, cotangents=None, **fields):
            if fields.get("is_grads_batched") and len(cotangents[0]) > most:
                raise torch.OutOfMemoryError
            return grad(outputs, inputs, cotangents, **fields)

        return scarce

    monkeypatch.setattr(torch.autograd, "grad", within(2))
    torch.testing.assert_close(run.derivatives(v), expected, rtol=1e-12, atol=1e-15)
    monkeypatch.setattr(torch.autograd, "grad", within(0))
    with pytest.raises(
        uw.InfluenceError, match=r"step 11 of the run does not fit into memory.*fewer test rows"
    ):
        run.derivatives(v)
