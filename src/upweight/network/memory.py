"""How many examples are looked at at once, and what is done where memory does not suffice. It changes no answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch

from ..data.examples import count
from ..errors import SmallerBlocksWarning
from ..runtime.alone import differentiating
from ..runtime.fallback import attempt, out_of_memory
from ..runtime.warned import warned
from ..types import Tensor
from .evaluation import Evaluation

KEPT_BYTES = 4 << 30
"""The graphs of all blocks are kept for the next product while their estimated memory is under this."""
KEPT_COPIES = 4
"""Memory of the graph of a gradient over that of one backward pass, about."""
BLOCK_BYTES = 32 << 20
"""Memory of one backward pass over a block."""
CPU_BLOCK_BYTES = 2 << 20
"""The same on a processor, where larger tensors are mapped afresh, page by page."""
FEW_EXAMPLES = 128
"""A block has so many where they take no more than MOST_BLOCK_BYTES: a call of a deep model costs milliseconds."""
MOST_BLOCK_BYTES = 256 << 20
BLOCK_EXAMPLES = 8192
GRADIENT_BYTES = 256 << 20
"""Per-example gradients held at once."""
CPU_GRADIENT_BYTES = 16 << 20
"""The same on a processor: what malloc hands out again (under 32 MiB) instead of mapping afresh."""
JACOBIAN_BYTES = 64 << 20
"""Jacobians held at once while the Gauss-Newton matrix is summed."""
LAYERED_EXAMPLES = 512
"""Examples whose gradients are taken layer by layer at once: enough for fast matrix products, few enough for caches."""

T = TypeVar("T")
P = ParamSpec("P")


class MemoryPlan:
    """Block sizes of all passes over the data of a model; they are halved where memory runs out.

    Args:
        per_example: bytes that automatic differentiation keeps of one example.
        gradient: bytes of one flat vector.
        on_cpu: whether the model is on a processor.
        size: examples of a block, by the user; None: as many as seem good.
    """

    def __init__(self, per_example: int, gradient: int, on_cpu: bool, size: int | None = None) -> None:
        self._per_example, self._gradient, self._on_cpu = per_example, gradient, on_cpu
        # Every block also reads and adds up p numbers: it must be worth that.
        room = min(BLOCK_BYTES, max(CPU_BLOCK_BYTES, 8 * gradient)) if on_cpu else BLOCK_BYTES
        enough = min(FEW_EXAMPLES, MOST_BLOCK_BYTES // per_example)
        self._size = size or max(1, enough, min(BLOCK_EXAMPLES, room // per_example))

    @property
    def size(self) -> int:
        """Examples of a block whose losses are differentiated together."""
        return self._size

    @property
    def gradient_size(self) -> int:
        """Examples whose gradients are held at once."""
        most = CPU_GRADIENT_BYTES if self._on_cpu else GRADIENT_BYTES
        return max(1, min(self._size, most // self._gradient))

    @property
    def layered_size(self) -> int:
        """Examples whose gradients are taken layer by layer at once."""
        return min(self._size, LAYERED_EXAMPLES)

    def jacobians(self, c: int) -> int:
        """Examples whose Jacobians of c outputs are held at once."""
        return max(1, JACOBIAN_BYTES // (c * self._gradient))

    def keeps_graphs(self, examples: int, blocks: int) -> bool:
        """Whether the graphs of so many blocks of examples in all, each with its gradient, fit into memory."""
        return KEPT_COPIES * examples * self._per_example + 2 * blocks * self._gradient <= KEPT_BYTES

    def patiently(self, work: Callable[[], T]) -> T:
        """What `work` gives, tried again from the start in blocks of half the size where memory runs out."""
        while True:
            try:
                with differentiating():
                    return work()
            except RuntimeError as error:
                self.take_smaller_blocks(error)

    def take_smaller_blocks(self, error: RuntimeError) -> None:
        """Halve the blocks after running out of memory, and say so; any other error is raised again."""
        if not out_of_memory(error) or self._size == 1:
            raise error
        self._size //= 2
        warned(
            f"out of memory: going on in blocks of {self._size} examples (batch_size={self._size} starts there)",
            SmallerBlocksWarning,
        )


@runtime_checkable
class Planned(Protocol):
    """What has a memory plan."""

    @property
    def memory(self) -> MemoryPlan:
        """The block sizes."""


S = TypeVar("S", bound=Planned)


def patient(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """The method of something with a memory plan, tried again in smaller blocks where memory runs out."""

    @functools.wraps(method)
    def tried(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.memory.patiently(lambda: method(self, *args, **kwargs))

    return tried


def bytes_per_example(of: Evaluation, theta: Tensor, batch: Any) -> int:
    """Bytes that automatic differentiation keeps per example; 1 MiB where torch does not tell.

    Args:
        of: the model with its loss.
        theta: where it is differentiated (p,).
        batch: a few examples, over which the bytes are averaged.
    """
    seen: dict[tuple[int, int], int] = {}
    own = theta.detach().clone().requires_grad_()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != own.untyped_storage().data_ptr():
            seen[tensor.data_ptr(), tensor.numel()] = tensor.numel() * tensor.element_size()
        return tensor

    def measure() -> int:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            of.losses(own, batch).sum()
        return sum(seen.values()) // count(batch) + 1

    return attempt(measure, lambda: 1 << 20)
