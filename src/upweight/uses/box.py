"""What an attacker may make of training inputs: boxes around them, and the bytes that images are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..types import Tensor


@dataclass(frozen=True, eq=False)
class Box:
    """What an attacker may make of some training inputs: everything between `low` and `high`, in the inputs' shape.

    Made by `same_pixels` for images that are stored as bytes, by `around` for columns of a table.

    >>> import torch
    >>> box = Box.same_pixels(torch.tensor([0, 128, 255], dtype=torch.uint8))
    >>> to_pixels(box.low).tolist() == to_pixels(box.high).tolist() == [0, 128, 255]
    True
    """

    low: Tensor
    high: Tensor

    @classmethod
    def same_pixels(cls, pixels: Tensor, scale: float = 127.5, offset: float = 127.5) -> Box:
        """The box of all inputs that are stored as the same 8-bit image: changes that nobody can see (R22).

        Inputs are x = (value - offset) / scale, 0 <= value <= 255; they may move by half a grey level.

        Args:
            pixels: the images, uint8, in the inputs' shape.
            scale: grey levels per unit of the inputs.
            offset: the grey level of an input of 0.

        Raises:
            TypeError: for pixels that are not uint8.
        """
        if pixels.dtype != torch.uint8:
            raise TypeError(f"pixels must be uint8, got {pixels.dtype}")
        # A little inside half a grey level: rounding must go the same way in float32.
        half, values = 0.499, pixels.float()
        low, high = (values - half).clamp(min=0), (values + half).clamp(max=255)
        return cls((low - offset) / scale, (high - offset) / scale)

    @classmethod
    def around(cls, inputs: Tensor, radius: Any) -> Box:
        """The box in which every column may move by its `radius` (a number, or one per column; 0 holds it fixed).

        Raises ValueError for a negative radius.

        >>> import torch
        >>> Box.around(torch.tensor([[1.0, 5.0]]), torch.tensor([0.5, 0.0])).high
        tensor([[1.5000, 5.0000]])
        """
        radius = torch.as_tensor(radius).to(inputs)
        if not bool((radius >= 0).all()):
            raise ValueError("the radius of a box must be >= 0")
        return cls(inputs - radius, inputs + radius)

    def check(self, inputs: Tensor) -> None:
        """Raise ValueError for inputs of another shape than the box, or outside it."""
        if self.low.shape != inputs.shape or self.high.shape != inputs.shape:
            raise ValueError(
                f"the box has shape {tuple(self.low.shape)}, the inputs have {tuple(inputs.shape)}"
            )
        outside = ~((inputs >= self.low) & (inputs <= self.high))
        if bool(outside.any()):
            raise ValueError(
                f"{int(outside.sum())} numbers of the inputs lie outside the box: it must hold what the attack starts "
                "from (are the inputs scaled as the box is?)"
            )


def to_pixels(inputs: Tensor, scale: float = 127.5, offset: float = 127.5) -> Tensor:
    """Inputs (value - offset) / scale as the 8-bit image that is stored of them.

    Args:
        inputs: of any shape.
        scale: grey levels per unit of the inputs.
        offset: the grey level of an input of 0.

    >>> import torch
    >>> to_pixels(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (inputs.double() * scale + offset).round().clamp(0, 255).to(torch.uint8)
