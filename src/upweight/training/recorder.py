"""A recorder for a user's own loop: it sees each batch and each step of the optimiser, and changes neither."""

from __future__ import annotations

from typing import Any

import torch

from ..network.modules import unwrapped
from ..types import ArrayLike, Tensor
from .ending import places
from .run import TrainingRun
from .start import Meaning, Start
from .steps import Step, Streams, parts_of


class Recorder:
    """Writes down a loop of training while it runs, for `TrainingRun`: three lines in the loop.

    Made before the first step; `step(indices)` before the model sees a batch; `finish()` after the last step. Learning
    rates, momenta and random numbers are seen at each step; gradient clipping is not, it has to be said.

    Args:
        model: the model, at its start.
        loss: `loss(outputs, targets)`, as `Problem` takes it.
        train: the training examples, as `Problem` takes them.
        optimizer: the optimiser of the loop, over the model's parameters.
        clip: the norm to which the loop clips gradients, or None.
        weights: what the loop multiplies the loss of each example by (n,), default 1.
        counts: what an example counts in the denominator of its batch's mean (n,), default 1.
        accumulation: how the batches of one step are put together, as for `TrainingRun`.
        removal: what weight 0 of an example does to the denominator.
        augment: what the loop does to each batch, at random.
        params: the parameters that are trained, default all that require a gradient.

    Raises:
        TypeError: for an optimiser that is not known.

    >>> import torch
    >>> model, X, y = torch.nn.Linear(2, 1), torch.eye(2), torch.ones(2, 1)
    >>> optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.MSELoss()
    >>> recorder = Recorder(model, loss, (X, y), optimizer=optimizer)
    >>> for indices in torch.tensor([[0], [1], [0]]):
    ...     recorder.step(indices)
    ...     optimizer.zero_grad()
    ...     loss(model(X[indices]), y[indices]).backward()
    ...     _ = optimizer.step()
    >>> run = recorder.finish()
    >>> len(run.steps)
    3
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        train: Any,
        *,
        optimizer: torch.optim.Optimizer,
        clip: float | None = None,
        weights: ArrayLike | None = None,
        counts: ArrayLike | None = None,
        accumulation: Any = "mean",
        removal: Any = "kept",
        augment: Any = None,
        params: Any = None,
    ) -> None:
        meaning = Meaning(weights, counts, accumulation, removal, augment)
        streams = Streams.now()  # making a problem of the model draws nothing that the loop would see
        self._start = Start.of(model, loss, train, optimizer=optimizer, params=params, meaning=meaning)
        streams.set()
        self._model, self._optimizer, self._clip = unwrapped(model), optimizer, clip
        self._parts: list[Tensor] = []
        self._streams: list[Streams] = []
        self._steps: list[Step] = []
        self._places = places(self._start.base.p)
        self._hooks = [
            optimizer.register_step_post_hook(self._stepped),
            self._model.register_forward_pre_hook(_check_precision),
        ]

    def step(self, indices: Any) -> None:
        """Write down a batch, before the model sees it: the numbers (b,) of its examples.

        Several before one step of the optimiser are accumulated. Raises ValueError for numbers of no examples.
        """
        self._parts += parts_of(indices, self._start.base.n, len(self._steps))
        self._streams.append(Streams.now())

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self._parts:
            self.stop()
            raise ValueError(
                f"step {len(self._steps)} (from 0) of the optimiser came without a batch: call step(indices) before "
                "the model sees one, since a run whose order of examples is not known cannot be replayed"
            )
        used = self._start.groups.seen(optimizer)
        self._steps.append(Step(tuple(self._parts), used, streams=tuple(self._streams), seen=self._seen()))
        self._parts, self._streams = [], []

    def _seen(self) -> Tensor:
        parts = dict(self._model.named_parameters())
        return torch.cat([parts[name].detach().flatten() for name in self._start.base.layout.names])[
            self._places
        ]

    def stop(self) -> None:
        """Look at no further step of the optimiser, and at no further call of the model."""
        for hook in self._hooks:
            hook.remove()

    def finish(self) -> TrainingRun:
        """The recorded run, replayed and held against the model as it is now.

        Raises ValueError where no step was seen, InfluenceError where the replay ends elsewhere, with the step at which
        they part.
        """
        self.stop()
        if not self._steps:
            raise ValueError(
                "no step was recorded: call step(indices) before each batch, and optimizer.step() after it"
            )
        return TrainingRun.recorded(self._start, tuple(self._steps), self._clip, self._model)


def _check_precision(model: torch.nn.Module, args: Any) -> None:
    """Refuse a call of the model in train mode inside autocast, with ValueError: replays compute as the model is."""
    device = next(model.parameters()).device.type
    if model.training and torch.is_autocast_enabled(device):
        raise ValueError(
            f"the model is trained in autocast ({torch.get_autocast_dtype(device)}), whose rounding a replay does not "
            "follow: train without it, or ask Influence(problem) about the last weights"
        )
