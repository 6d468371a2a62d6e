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

from .runtime.described import described
from .runtime.fingerprint import FORMAT, content_hash
from .runtime.progress import track
from .runtime.tensor_files import read, write
from .types import ArrayLike, Tensor, as_tensor

BATCH = 32
"""Inputs that go through a network at once."""


def features(
    network: nn.Module, inputs: ArrayLike, *, batch: int = BATCH, cache: str | Path | None = None
) -> Tensor:
    """Compute the features that a frozen network gives, to fit a linear model on and explain it.

    Args:
        network: maps inputs (b, ...) to features (b, d); in eval mode, on any device.
        inputs: n of them, (n, ...), scaled as the network wants them.
        batch: how many go through the network at once.
        cache: a folder in which features are kept under a hash of network and inputs, to be found there the next time.

    Returns:
        The features (n, d), float32, on the processor.

    Raises:
        ValueError: where the network gives something else than one row of finite numbers per input, or is in train
            mode.

    >>> features(torch.nn.Flatten(), torch.ones(2, 3, 4)).shape
    torch.Size([2, 12])
    """
    check_eval(network, ValueError)
    inputs = as_tensor(inputs)
    path = None
    if cache is not None:
        words = f"format {FORMAT} {described(network)!r} {tuple(inputs.shape)}"
        path = Path(cache) / f"features_{content_hash([inputs], words)}.safetensors"
        if path.exists():
            return read(path, "a file of features", "features")[0]["features"]
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
    """The device of a network's parameters and buffers; for one that has neither, the device of the inputs."""
    return next((values.device for values in network.state_dict().values()), inputs.device)


def check_features(found: Any, b: int) -> Tensor:
    """What a network gave, if it is one finite row of numbers for each of b inputs, (b, d).

    Raises ValueError, which says what arrived, for anything else.

    >>> check_features(torch.ones(2, 3), 2).shape
    torch.Size([2, 3])
    """
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != b:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"a frozen network must give features of shape ({b}, d) for {b} inputs, got {shape}")
    if not bool(found.isfinite().all()):
        raise ValueError("a frozen network gave a NaN or infinity: check how the inputs were scaled")
    return found


def check_eval(model: torch.nn.Module, error: type[Exception]) -> None:
    """Refuse a model with layers in train mode whose outputs are random (dropout) or depend on the batch (batch norm).

    Influence of such a model would differ from pass to pass. `error` is raised, which names the first such layer; a
    model in train mode without one passes.

    >>> check_eval(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)).eval(), ValueError)
    """
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
    """Inputs gone through a frozen network once, for derivatives from the features back to the inputs.

    Args:
        network: maps inputs (b, ...) to features (b, d).
        inputs: b of them, of real numbers; they stay as they are.

    Attributes:
        features: (b, d), on the inputs' device.

    Raises:
        TypeError: for inputs of whole numbers.
        ValueError: where the features do not depend differentiably on the inputs.

    >>> Traced(torch.nn.Flatten(), torch.ones(2, 3, 4)).pull_back(torch.ones(1, 2, 12)).shape
    torch.Size([1, 2, 3, 4])
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
        """The derivatives of cotangent . features in the inputs, for k cotangents of every example: k backward passes.

        What comes back is (k, b, ...), each input's own derivative; inputs of a batch do not see each other.
        """
        rows = [
            torch.autograd.grad(self._features, self._inputs, v.to(self._features), retain_graph=True)[0]
            for v in cotangents
        ]
        return torch.stack(rows).to(self._home)


def pull_back(
    network: nn.Module, inputs: Tensor, cotangents: Float[Tensor, "k b d"], *, batch: int = BATCH
) -> Float[Tensor, "k b *x"]:
    """Derivatives of cotangent . features in the inputs of a frozen network, for any number of inputs (R14).

    One forward and k backward passes, some inputs at a time; memory: the answer and one batch.

    Args:
        network: maps inputs (b, ...) to features (b, d).
        inputs: b of them, of real numbers.
        cotangents: k rows (d,) for every input.
        batch: how many inputs go through the network at once.

    Returns:
        (k, b, ...), in the shape of the inputs.

    Raises:
        TypeError: for inputs of whole numbers.
        ValueError: where the features do not depend differentiably on the inputs.

    >>> pull_back(torch.nn.Flatten(), torch.ones(3, 2, 2), torch.ones(1, 3, 4), batch=2).shape
    torch.Size([1, 3, 2, 2])
    """
    parts = list(zip(inputs.split(batch), cotangents.split(batch, dim=1), strict=True))
    found = [Traced(network, part).pull_back(V) for part, V in track(parts, "input derivatives", len(parts))]
    return torch.cat(found, dim=1)
