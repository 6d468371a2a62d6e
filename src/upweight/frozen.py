"""A frozen network in front of a linear model: its features, kept on disk, and derivatives back to its inputs.

A frozen network is any module that maps inputs (b, ...) to features (b, d) and is differentiable in its inputs. It may
live on a GPU: inputs are taken to it a batch at a time, what is found comes back to where they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from .runtime.fingerprint import content_hash
from .runtime.progress import track
from .runtime.tensor_files import read, write
from .types import Tensor, as_tensor

BATCH = 32
"""Inputs that go through a network at once."""


def features(
    network: nn.Module, inputs: Any, *, batch: int = BATCH, cache: str | Path | None = None
) -> Tensor:
    """The features (n, d) of inputs (n, ...), float32, with a bar; kept in the folder `cache` by a hash of both.

    Raises ValueError where the network gives something else than one row of numbers per input, or is in train mode.

    >>> features(torch.nn.Flatten(), torch.ones(2, 3, 4)).shape
    torch.Size([2, 12])
    """
    check_eval(network, ValueError)
    inputs = as_tensor(inputs)
    path = None
    if cache is not None:
        state = [*network.state_dict().values(), inputs]
        path = (
            Path(cache) / f"features_{content_hash(state, f'{network!r} {tuple(inputs.shape)}')}.safetensors"
        )
        if path.exists():
            return read(path, "a file of features")[0]["features"]
    found = []
    with torch.no_grad():
        for part in track(inputs.split(batch), "features", -(-len(inputs) // batch)):
            found.append(check_features(network(part.to(device_of(network, part))), len(part)).float().cpu())
    whole = torch.cat(found)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, {"features": whole}, {"network": type(network).__name__})
    return whole


def device_of(network: nn.Module, inputs: Tensor) -> torch.device:
    """Where the network's numbers are; of one that has none, where the inputs are."""
    return next((values.device for values in network.state_dict().values()), inputs.device)


def check_features(found: Any, b: int) -> Tensor:
    """One finite row of numbers per input, or ValueError."""
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != b:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"a frozen network must give features of shape ({b}, d) for {b} inputs, got {shape}")
    if not bool(found.isfinite().all()):
        raise ValueError("a frozen network gave a NaN or infinity: check how the inputs were scaled")
    return found


def check_eval(model: torch.nn.Module, error: type[Exception]) -> None:
    """Raise `error` for layers in train mode whose outputs are random or depend on the batch."""
    batch_norm, dropout = torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd
    for name, module in model.named_modules():
        rate = getattr(module, "p" if isinstance(module, dropout) else "dropout", 0.0)
        random = isinstance(rate, float) and rate > 0
        if module.training and (random or isinstance(module, batch_norm)):
            raise error(
                f"the model is in train mode and has a {type(module).__name__} ({name or 'the model itself'}), whose "
                "outputs then are random or depend on the batch: call model.eval() first"
            )


class Traced:
    """Inputs (b, ...) gone through a frozen network once: their `features` (b, d), and derivatives back to the inputs.

    Raises TypeError for inputs of whole numbers, ValueError where the features do not depend differentiably on them.
    """

    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        if not inputs.is_floating_point():
            raise TypeError(
                f"derivatives in the inputs need real numbers, got {inputs.dtype}: scale images to floating point first"
            )
        self._home = inputs.device
        self._inputs = inputs.detach().clone().to(device_of(network, inputs)).requires_grad_()
        with torch.enable_grad():
            self._features = check_features(network(self._inputs), len(inputs))
        if not self._features.requires_grad:
            raise ValueError(
                "the network's features do not depend differentiably on its inputs (detached, rounded, or computed "
                "without gradients): its preprocessing must be made of differentiable torch operations"
            )
        self.features = self._features.detach().to(self._home)

    def pull_back(self, cotangents: Float[Tensor, "k b d"]) -> Float[Tensor, "k b *x"]:
        """The derivatives of cotangent . features in the inputs: k backward passes."""
        rows = [
            torch.autograd.grad(self._features, self._inputs, v.to(self._features), retain_graph=True)[0]
            for v in cotangents
        ]
        return torch.stack(rows).to(self._home)


def pull_back(
    network: nn.Module, inputs: Tensor, cotangents: Float[Tensor, "k b d"], *, batch: int = BATCH
) -> Float[Tensor, "k b *x"]:
    """The same for any number of inputs, `batch` at a time: one forward and k backward passes, O(dim x) memory."""
    parts = list(zip(inputs.split(batch), cotangents.split(batch, dim=1), strict=True))
    found = [Traced(network, part).pull_back(V) for part, V in track(parts, "input derivatives", len(parts))]
    return torch.cat(found, dim=1)
