"""Networks for photographs: the published architecture, weights from a file, and features for every size of image."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from upweight.vision import EfficientNetLite0, InceptionV3


def arrays_of(network: InceptionV3) -> dict[str, Any]:
    """What a file of weights holds."""
    found: dict[str, Any] = {}
    for name, module in network.convolutions.items():
        layer: Any = module
        found[f"weights_{name}"] = layer.weight.detach().permute(0, 2, 3, 1).numpy().astype(np.float16)
        found[f"bias_{name}"] = layer.bias.detach().numpy()
    return found


@pytest.fixture(scope="module")
def inception() -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3().eval()


@pytest.fixture(scope="module")
def file(inception: InceptionV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    np.savez(path, **arrays_of(inception))
    return path


def test_weights_are_read_from_a_file(inception: InceptionV3, file: Path):
    loaded = InceptionV3.load(file)
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())
    x = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = loaded(x)
        assert found.shape == (1, 1280)
        assert_close_per_row(found, inception(x), 1e-2)


@pytest.mark.parametrize("change", ["shape", "missing"])
def test_a_file_of_another_network(inception: InceptionV3, change: str, tmp_path: Path):
    arrays = arrays_of(inception)
    if change == "shape":
        arrays["weights_conv"] = arrays["weights_conv"][:5]
    else:
        del arrays["bias_conv_2"]
    np.savez(tmp_path / "other.npz", **arrays)
    error, said = (
        (ValueError, r"other\.npz: weights_conv has shape \(5, 3, 3, 3\), expected \(32, 3, 3, 3\)")
        if change == "shape"
        else (KeyError, "bias_conv_2")
    )
    with pytest.raises(error, match=said):
        InceptionV3.load(tmp_path / "other.npz")


def test_it_has_the_published_number_of_convolutions_and_weights(inception: InceptionV3):
    """Up to mixed_8: 5 before the blocks, 3 x 7, 4, 4 x 10 and 6."""
    assert len(inception.convolutions) == 5 + 3 * 7 + 4 + 4 * 10 + 6
    weights = {
        name: dict(module.named_parameters())["weight"] for name, module in inception.convolutions.items()
    }
    widths = {name: len(weight) for name, weight in weights.items()}
    assert (widths["mixed_tower_2_conv"], widths["mixed_1_tower_2_conv"]) == (32, 64)
    assert [widths[f"mixed_{i}_tower_conv"] for i in (4, 5, 6, 7)] == [128, 160, 160, 192]


def test_padding_and_strides_of_a_chain(inception: InceptionV3):
    x = torch.randn(1, 3, 33, 33, generator=torch.Generator().manual_seed(1))
    conv, second, third = (inception.convolutions[name] for name in ("conv", "conv_1", "conv_2"))
    layers: list[Any] = [conv, second, third]
    wanted = F.relu(F.conv2d(x, layers[0].weight, layers[0].bias, stride=2))
    wanted = F.relu(F.conv2d(wanted, layers[1].weight, layers[1].bias))
    wanted = F.relu(F.conv2d(wanted, layers[2].weight, layers[2].bias, padding=1))
    assert torch.equal(inception._chain(x, "conv/2 conv_1 conv_2+"), wanted)


@pytest.mark.parametrize("size", [107, 150, 299])
def test_features_of_images_of_any_size(inception: InceptionV3, size: int):
    with torch.no_grad():
        assert inception(torch.zeros(2, 3, size, size)).shape == (2, 1280)


def test_images_of_a_batch_do_not_see_each_other(inception: InceptionV3):
    x = torch.randn(3, 3, 107, 107, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_close_per_row(inception(x)[1:2], inception(x[1:2]), 1e-4)


@pytest.fixture(scope="module")
def efficient() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite_pytorch")
    return EfficientNetLite0()


def test_efficientnet_is_frozen_and_differentiable_in_its_pixels(efficient: EfficientNetLite0):
    assert not efficient.training
    assert not any(value.requires_grad for value in efficient.parameters())
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = efficient(x)
    assert found.shape == (1, 1280)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert float(gradient.norm()) > 0


def test_efficientnet_knows_what_it_was_trained_on(efficient: EfficientNetLite0):
    """Features of trained weights tell two plain colours apart more than two shades of one."""
    shades = torch.tensor([[1.0, -1, -1], [0.9, -1, -1], [-1, -1, 1.0]])[:, :, None, None].expand(
        3, 3, 224, 224
    )
    red, other_red, blue = efficient(shades)
    assert float((red - other_red).norm()) < float((red - blue).norm())


def test_efficientnet_announces_nothing(efficient: EfficientNetLite0, capsys: pytest.CaptureFixture[str]):
    EfficientNetLite0()
    assert capsys.readouterr() == ("", "")


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch):
    find = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("efficientnet"):
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'needs the extra vision: pip install "upweight\[vision\]"'):
        EfficientNetLite0()
