"""Dog against fish through a frozen network: images, features, and the logistic head that is trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import upweight as uw
from experiments import fig4_rbf
from experiments.data import folder
from upweight.data.user_terms import Terms
from upweight.frozen import features
from upweight.vision import EfficientNetLite0, InceptionV3

L2 = 0.001
NETWORKS = ("lite0", "inception")
SIDE = {"lite0": 224, "inception": 299}
OFFSET = {"lite0": 127.0, "inception": 128.0}
SCALE = 128.0


@dataclass
class Photos:
    """8-bit images (n, 3, side, side), labels (fish +1, dog -1), and the head at its optimum."""

    name: str
    pixels: torch.Tensor
    y: torch.Tensor
    pixels_test: torch.Tensor
    y_test: torch.Tensor
    problem: uw.LinearProblem
    features_test: torch.Tensor
    l2: float = L2

    def scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        """As the network takes them."""
        return (pixels.float() - OFFSET[self.name]) / SCALE

    @cached_property
    def spread(self) -> dict[float, float]:
        """Of each class the mean distance of its training images to their mean, in the network's scale."""
        found = {}
        for label in (1.0, -1.0):
            images = self.pixels[self.y == label]
            mean = images.float().mean(0)
            found[label] = float(torch.stack([(image - mean).norm() for image in images]).mean()) / SCALE
        return found

    def margins(self) -> torch.Tensor:
        """Of the test images; negative = wrong."""
        weight, bias = self.problem.params["weight"][0], self.problem.params["bias"]
        return (self.features_test.double() @ weight + bias) * self.y_test


def load(
    name: str, per_class: int, out: Path, device: str = "cpu", side: int | None = None, l2: float = L2
) -> Photos:
    """The first `per_class` of each class to train on and a third of that to test on; features are kept in `out`.

    Args:
        name: of the network, see `NETWORKS`.
        per_class: photographs of each class to train on.
        out: the folder where features are kept.
        device: where the network lives, which calculates in whole float32 there; everything else stays on the CPU.
        side: shrinks every photograph to side x side, and back to what the network takes: fewer are predicted rightly.
        l2: the penalty of the head.
    """
    torch.backends.cudnn.allow_tf32 = False
    network: torch.nn.Module = (
        EfficientNetLite0() if name == "lite0" else InceptionV3.load(folder() / "inception_v3_trunk_f16.npz")
    )
    # Channels last: a quarter less time on a processor.
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    flat, y, flat_test, y_test = fig4_rbf.load(per_class)
    pixels, pixels_test = (_resized(part, SIDE[name], side) for part in (flat, flat_test))
    made = [_features(network, part, name, out) for part in (pixels, pixels_test)]
    problem = uw.LinearProblem.fit(
        made[0],
        torch.from_numpy(y),
        loss=uw.Logistic(),
        l2=l2,
        intercept=True,
        tolerance=1e-10,
        terms=Terms(network=network),
    )
    return Photos(
        name, pixels, torch.from_numpy(y), pixels_test, torch.from_numpy(y_test), problem, made[1], l2
    )


def _resized(flat: np.ndarray, wanted: int, side: int | None) -> torch.Tensor:
    """Images of wanted x wanted pixels, as bytes; by way of side x side, where that is given."""
    images = torch.from_numpy(flat).view(-1, fig4_rbf.SIDE, fig4_rbf.SIDE, 3).permute(0, 3, 1, 2)
    if side is None and wanted == fig4_rbf.SIDE:
        return images.contiguous()
    parts = []
    for part in images.split(100):
        shown = part.float()
        if side is not None:
            shown = F.interpolate(shown, (side, side), mode="area")
        shown = F.interpolate(shown, (wanted, wanted), mode="bilinear", align_corners=False)
        parts.append(shown.round().byte())
    return torch.cat(parts)


def _features(network: torch.nn.Module, pixels: torch.Tensor, name: str, out: Path) -> torch.Tensor:
    # Scaled a few at a time: all of them as float32 would be gigabytes.
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network((images.float() - OFFSET[name]) / SCALE)

    return features(Scaled(), pixels, batch=16, cache=out)
