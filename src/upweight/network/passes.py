"""Passes over the training examples of a network, each process over its own share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int

from ..data.examples import Rows, as_rows
from ..runtime.alone import differentiating
from ..runtime.distributed import shard
from ..types import Tensor
from .company import check_padding, own_losses
from .comparisons import plain_gradient
from .evaluation import Evaluation
from .memory import MemoryPlan, patient

TRIED = 8
"""Examples whose losses are taken together at least."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Passes:
    """A model at theta with its training examples and their weights, gone through in blocks that fit into memory."""

    evaluation: Evaluation
    theta: Float[Tensor, " p"]
    data: Rows
    weights: Float[Tensor, " n"]
    memory: MemoryPlan
    prepare: Callable[[Any, Any], tuple[Any, Any]] | None = None

    @property
    def n(self) -> int:
        """The number of training examples."""
        return len(self.data)

    @property
    def share(self) -> slice:
        """The training examples of this process."""
        return shard(self.n)

    @property
    def block_count(self) -> int:
        """How many `blocks` there are."""
        own = self.share
        return math.ceil((own.stop - own.start) / self.memory.size)

    @property
    def keeps_graphs(self) -> bool:
        """Whether the graphs of all blocks of this process fit into memory."""
        own = self.share
        return self.memory.keeps_graphs(own.stop - own.start, self.block_count)

    def weights_of(self, index: Int[Tensor, " b"] | slice) -> Float[Tensor, " b"]:
        """The weights of those examples, in theta's precision."""
        index = index if isinstance(index, slice) else index.to(self.theta.device)
        return self.weights[index].to(self.theta.dtype)

    def blocks(self) -> Iterator[tuple[Any, Float[Tensor, " b"]]]:
        """This process's share as batches, with the examples' weights."""
        for part, batch in self.data.blocks(self.memory.size, self.share):
            yield batch, self.weights_of(part)

    def streamed(
        self, work: Callable[[Any], T], size: Callable[[], int], within: slice | None = None
    ) -> Iterator[tuple[slice, T]]:
        """What `work` makes of each block; one that does not fit into memory is taken in smaller ones.

        Args:
            work: makes something of a batch.
            size: how many examples a block has, asked anew after memory ran out.
            within: the training examples, by default this process's share.

        Returns:
            Each block's place and what was made of it, in order.
        """
        within = within or self.share
        done = within.start
        while done < within.stop:
            try:
                for part, batch in self.data.blocks(size(), slice(done, within.stop)):
                    with differentiating():
                        found = work(batch)
                    done = part.stop
                    yield part, found
            except RuntimeError as error:
                self.memory.take_smaller_blocks(error)

    def test_rows(self, batch: Any) -> Rows:
        """Test examples, checked as training examples are. Raises ValueError or TypeError for what cannot be one.

        Tensors are what the model computes with; what else a user of `from_estimator` has is prepared first.
        """
        if self.prepare is not None and isinstance(batch, (tuple, list)) and not isinstance(batch[0], Tensor):
            batch = self.prepare(*batch)
        rows = as_rows(batch, self.theta.device, self.theta.dtype, "the batch")
        check_padding(self.evaluation, self.theta, rows, "the batch")
        return rows

    @patient
    def gradient(self) -> Float[Tensor, " p"]:
        """The sum of w_i grad l_i over this process's share, in float64."""
        total = torch.zeros(len(self.theta), dtype=torch.float64, device=self.theta.device)
        for batch, w in self.blocks():
            total += plain_gradient(lambda t, z=batch, w=w: self.evaluation.losses(t, z) @ w, self.theta)  # type: ignore[misc]
        return total

    @patient
    @torch.no_grad()
    def losses(self) -> Float[Tensor, " s"]:
        """The losses of this process's share. Raises ValueError where they are not those of single examples."""
        # Several at once, also where they are differentiated one by one: a loss that mixes them shows.
        blocks = self.data.blocks(max(TRIED, self.memory.size), self.share)
        return torch.cat([self.theta.new_zeros(0), *own_losses(self.evaluation, self.theta, blocks)])
