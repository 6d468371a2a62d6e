"""Frozen networks: features whatever the batch, kept by what they are made of, and derivatives back to the inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.compare import assert_close_per_row
from upweight import frozen
from upweight.frozen import Traced, check_eval, check_features, device_of, features, pull_back
from upweight.runtime.fingerprint import FORMAT


def trunk(seed: int = 0) -> nn.Module:
    """A convolution with batch norm, pooled to 4 features."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return network.double().eval()


def images(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 1, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Rounded(nn.Module):
    """No derivative leads through it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().round()


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_features_do_not_depend_on_the_batch(batch: int):
    found = features(trunk(), images(), batch=batch)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert_close_per_row(found, trunk()(images()), 1e-6)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.numpy(), lambda x: x.tolist()])
def test_inputs_of_every_form(form: Any):
    assert_close_per_row(features(trunk(), form(images())), trunk()(images()), 1e-6)


def test_features_are_kept_by_what_they_are_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network, x = trunk(), images()
    first = features(network, x, batch=2, cache=tmp_path / "new")
    calls: list[int] = []

    def counted(found: Any, b: int) -> Any:
        calls.append(1)
        return found

    monkeypatch.setattr(frozen, "check_features", counted)
    assert torch.equal(features(network, x, cache=tmp_path / "new"), first)
    assert calls == []
    features(network, x + 1, cache=tmp_path / "new")
    assert len(calls) == 1
    features(trunk(1), x, cache=tmp_path / "new")
    features(network, x.transpose(2, 3).flip(2), cache=tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 4
    network.register_forward_hook(lambda module, args, output: 2 * output)
    assert torch.equal(features(network, x, cache=tmp_path / "new"), 2 * first)


def test_equal_numbers_of_another_shape_have_features_of_their_own(tmp_path: Path):
    flat = nn.Flatten()
    assert features(flat, torch.ones(2, 6), cache=tmp_path).shape == (2, 6)
    assert features(flat, torch.ones(3, 4), cache=tmp_path).shape == (3, 4)


def test_features_of_another_format_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(frozen, "FORMAT", FORMAT - 1)
        features(trunk(), images(), cache=tmp_path)
    features(trunk(), images(), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_pull_back_is_the_vector_jacobian_product_whatever_the_batch(batch: int):
    network, x = trunk(), images()
    V = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    J = torch.stack([torch.autograd.functional.jacobian(lambda z: network(z[None])[0], z) for z in x])
    wanted = torch.einsum("kbd,bdcij->kbcij", V, J)
    found = pull_back(network, x, V, batch=batch)
    assert_close_per_row(found.flatten(0, 1), wanted.flatten(0, 1), 1e-11)
    traced = Traced(network, x)
    assert_close_per_row(traced.features, network(x), 1e-12)
    assert_close_per_row(traced.pull_back(V).flatten(0, 1), wanted.flatten(0, 1), 1e-11)


def test_derivatives_can_be_asked_for_again_and_leave_inputs_and_network_alone():
    network, x = trunk(), images()
    before = x.clone()
    traced = Traced(network, x)
    V = torch.ones(1, 5, 4).double()
    assert torch.equal(traced.pull_back(V), traced.pull_back(V))
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert all(value.grad is None for value in network.parameters())
    with torch.no_grad():
        assert torch.equal(Traced(network, x).pull_back(V), traced.pull_back(V))


def test_cotangents_and_inputs_may_be_of_other_precisions():
    x = images().float()
    found = pull_back(trunk().float(), x, torch.ones(1, 5, 4).double())
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("network", "inputs", "error", "said"),
    [
        (
            nn.Sequential(Rounded(), nn.Flatten()),
            torch.ones(2, 3),
            ValueError,
            "do not depend differentiably",
        ),
        (nn.Flatten(), torch.ones(2, 3, dtype=torch.uint8), TypeError, "need real numbers, got torch.uint8"),
    ],
)
def test_where_no_derivative_leads_back(network: nn.Module, inputs: torch.Tensor, error: Any, said: str):
    with pytest.raises(error, match=said):
        pull_back(network, inputs, torch.ones(1, 2, 3))
    with pytest.raises(error, match=said):
        Traced(network, inputs)


@pytest.mark.parametrize(
    ("network", "inputs", "said"),
    [
        (nn.Identity(), torch.ones(2, 3, 4), r"features of shape \(2, d\) for 2 inputs, got \(2, 3, 4\)"),
        (nn.Flatten(0), torch.ones(2, 3), r"got \(6,\)"),
        (
            nn.Flatten(),
            torch.full((2, 3), torch.nan),
            "gave a NaN or infinity: check how the inputs were scaled",
        ),
        (nn.Flatten(), torch.full((2, 3), torch.inf), "gave a NaN or infinity"),
    ],
)
def test_what_is_no_row_of_features(network: nn.Module, inputs: torch.Tensor, said: str, tmp_path: Path):
    with pytest.raises(ValueError, match=said):
        features(network, inputs, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_tensor_is_named():
    with pytest.raises(ValueError, match=r"got tuple"):
        check_features((torch.ones(2, 3),), 2)
    with pytest.raises(ValueError, match=r"shape \(3, d\) for 3 inputs, got \(2, 3\)"):
        check_features(torch.ones(2, 3), 3)


RANDOM = {
    "dropout": nn.Dropout(0.5),
    "dropout of channels": nn.Dropout2d(0.1),
    "batch norm": nn.BatchNorm1d(3),
    "attention with dropout": nn.MultiheadAttention(2, 1, dropout=0.1),
    "a recurrent layer with dropout": nn.LSTM(2, 2, num_layers=2, dropout=0.1),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_layers_that_are_random_in_train_mode(kind: str):
    layer = RANDOM[kind]
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "inner": nn.ModuleList([layer])}).train()
    name = type(layer).__name__
    with pytest.raises(
        KeyError, match=rf"{name} \(inner\.0\), whose outputs then are random or depend on the batch"
    ):
        check_eval(model, KeyError)
    check_eval(model.eval(), KeyError)


def test_a_model_in_train_mode_that_is_the_same_there_passes():
    check_eval(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Dropout(0.0)).train(), ValueError)


def test_a_model_that_is_itself_random_is_named():
    with pytest.raises(ValueError, match=r"a Dropout \(the model itself\)"):
        check_eval(nn.Dropout(0.5).train(), ValueError)


def test_a_network_in_train_mode_gives_no_features():
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        features(nn.Sequential(nn.Flatten(), nn.Dropout()).train(), np.ones((2, 3)))


def test_the_device_of_a_network_and_of_one_without_numbers():
    inputs = torch.ones(1, device="meta")
    assert device_of(nn.Linear(1, 1), inputs).type == "cpu"
    assert device_of(nn.BatchNorm1d(1, affine=False), inputs).type == "cpu"  # it has buffers
    assert device_of(nn.Flatten(), inputs).type == "meta"
