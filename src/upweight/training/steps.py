"""One step of a run: the examples of its batches, the optimiser's settings, and where its random numbers start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int

from ..types import Tensor
from .groups import GroupSettings

Removal: TypeAlias = Literal["kept", "lowered"]
"""What a weight below 1 does to the denominator of its batch's mean: it is kept, or lowered with the weight."""
Accumulation: TypeAlias = Literal["mean", "sum", "together"] | int
"""What becomes of the batches of one step: the mean of their means, their sum, one mean over all, or sum / number."""


@dataclass(frozen=True)
class Streams:
    """Where torch's generators of random numbers stand: of the processor, and of each GPU."""

    cpu: Tensor
    devices: tuple[Tensor, ...] = ()

    @classmethod
    def now(cls) -> Streams:
        """The state of all generators."""
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(torch.get_rng_state(), tuple(devices))

    def set(self) -> None:
        """Let the generators stand here."""
        torch.set_rng_state(self.cpu)
        if self.devices:
            torch.cuda.set_rng_state_all(list(self.devices))


@contextmanager
def own_streams() -> Iterator[None]:
    """The generators stand afterwards where they stood before."""
    before = Streams.now()
    try:
        yield
    finally:
        before.set()


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the optimiser.

    Args:
        parts: the examples (b,) of each batch whose gradients are added up; mostly one.
        settings: of each parameter group.
        seed: what the generators are seeded with before it, or None.
        streams: where the generators stood before each part, as a recorder saw it, or None.
        seen: some entries of theta after the step, as a recorder saw them, or None.
    """

    parts: tuple[Tensor, ...]
    settings: GroupSettings
    seed: int | None = None
    streams: tuple[Streams, ...] | None = None
    seen: Tensor | None = None

    @property
    def index(self) -> Int[Tensor, " b"]:
        """The examples of all parts."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)

    @property
    def count(self) -> int:
        """The number of examples."""
        return sum(map(len, self.parts))

    def begin(self, part: int) -> None:
        """Let the generators stand where they stood before a part."""
        if self.streams is not None:
            self.streams[part].set()
        elif self.seed is not None and part == 0:
            torch.manual_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Averaging:
    """How the losses of a step's examples become one number.

    Args:
        weights: what the loss of each example is multiplied by (n,).
        counts: what it counts in the denominator of its batch's mean (n,): 1, its tokens, or its class weight.
        accumulation: how the parts of a step are put together.
        removal: what a weight does to the denominator.
    """

    weights: Float[Tensor, " n"]
    counts: Float[Tensor, " n"]
    accumulation: Accumulation
    removal: Removal

    def factors(self, step: Step, w: Float[Tensor, "*r b"]) -> list[Tensor]:
        """What the loss of each example is multiplied by in the step's loss, part by part.

        Args:
            step: the step.
            w: the weights of its examples, 1 as trained; with leading dimensions of several runs.
        """
        sizes = [len(part) for part in step.parts]
        own, each = w.split(sizes, dim=-1), [self.counts[part] for part in step.parts]
        if self.removal == "lowered":
            left = [(count.to(w) * part).sum(-1, keepdim=True) for count, part in zip(each, own, strict=True)]
        else:
            left = [count.sum().to(w).expand(1) for count in each]
        if self.accumulation == "together":
            left, share = [torch.stack(left).sum(0)] * len(left), 1.0
        elif self.accumulation == "sum":
            share = 1.0
        else:
            share = 1 / (len(left) if self.accumulation == "mean" else self.accumulation)
        return [
            share * part * self.weights[index].to(w) / torch.where(total > 0, total, 1)
            for part, index, total in zip(own, step.parts, left, strict=True)
        ]


def parts_of(batch: Any, n: int, number: int) -> tuple[Tensor, ...]:
    """The examples of one step, as users give them: an index, or several whose gradients are accumulated.

    Args:
        batch: numbers of examples, or a list of such.
        n: how many examples there are.
        number: of the step, for errors.

    Raises:
        ValueError: for numbers that are none of examples, and for none at all.
    """
    several = isinstance(batch, Sequence) and len(batch) > 0 and not isinstance(batch[0], int)
    parts = tuple(torch.as_tensor(part).cpu().flatten() for part in (batch if several else [batch]))
    for part in parts:
        if part.dtype.is_floating_point or part.dtype == torch.bool or not len(part):
            raise ValueError(
                f"batches: step {number} must be the numbers of its training examples, got {part.dtype} of shape "
                f"{tuple(part.shape)}"
            )
        if int(part.min()) < 0 or int(part.max()) >= n:
            raise ValueError(
                f"batches: step {number} names example {int(part.max() if part.max() >= n else part.min())}, and there "
                f"are {n:,} training examples, 0 to {n - 1:,}"
            )
    return tuple(part.long() for part in parts)
