"""Loops of training as people write them, with a weight for each example, and what judges a recorded one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.support.compare import assert_close_per_row
from tests.support.runs import STEP, data, network
from upweight import Recorder, TrainingRun, Unrolled

ASKED = (0, 3, 11)
"""Training examples whose weights are moved."""


@dataclass(frozen=True)
class Loop:
    """A loop of plain torch.

    Args:
        optimizer: from the model to its optimiser.
        model: makes the model.
        data: inputs and targets.
        each: the loss of each example of a batch from outputs and targets, (b,).
        shares: what divides the sum of a batch's weighted losses, from its targets.
        schedule: from the optimiser to a scheduler, or None.
        per_epoch: whether the scheduler steps once an epoch.
        loader: keywords of its DataLoader.
        validates: whether another loader goes through the data after each epoch.
        warm: steps of the optimiser before the recorder is made.
        group: batches whose gradients are added up; each is divided by this number, also where the last are fewer.
        said: keywords of `Recorder`.
    """

    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer]
    model: Callable[[], torch.nn.Module] = network
    data: Callable[[], tuple[torch.Tensor, torch.Tensor]] = data
    each: Callable[[Any, Any], torch.Tensor] = lambda outputs, y: F.cross_entropy(
        outputs, y, reduction="none"
    )
    loss: Any = F.cross_entropy
    shares: Callable[[torch.Tensor], Any] = len
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    per_epoch: bool = False
    group: int = 1
    batch: int = 5
    epochs: int = 3
    loader: Callable[[], dict[str, Any]] = lambda: {"shuffle": True}
    validates: bool = False
    warm: int = 0
    said: dict[str, Any] = field(default_factory=dict)

    def trained(self, w: torch.Tensor | None = None) -> tuple[torch.nn.Module, TrainingRun | None]:
        """The model at the end, and the run where there are no weights: then it is recorded.

        Args:
            w: what the loss of each example is multiplied by (n,).
        """
        torch.manual_seed(0)
        X, y = self.data()
        model = self.model().double().train()
        optimizer = self.optimizer(model)
        for _ in range(self.warm):  # steps before the recorder is there
            self.each(model(X), y).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule = None if self.schedule is None else self.schedule(optimizer)
        seen = None
        if w is None:
            seen, w = Recorder(model, self.loss, (X, y), optimizer=optimizer, **self.said), torch.ones(len(X))
        loader = DataLoader(TensorDataset(X, y, torch.arange(len(X))), batch_size=self.batch, **self.loader())
        for _ in range(self.epochs):
            for k, (x, targets, rows) in enumerate(loader):
                if seen is not None:
                    seen.step(rows)
                total = self.each(model(x), targets) @ w[rows].double()
                (total / self.shares(targets) / self.group).backward()
                if (k + 1) % self.group == 0 or k + 1 == len(loader):
                    if "clip" in self.said:
                        torch.nn.utils.clip_grad_norm_(model.parameters(), self.said["clip"])
                    optimizer.step()
                    optimizer.zero_grad()
                    if schedule is not None and not self.per_epoch:
                        schedule.step()
            if schedule is not None and self.per_epoch:
                schedule.step()
            if self.validates:  # its loader draws one number: the order from the next epoch on is another
                model.eval()
                for x, _, _ in DataLoader(TensorDataset(X, y, y), batch_size=8):
                    model(x)
                model.train()
        return model, None if seen is None else seen.finish()

    def recorded(self) -> TrainingRun:
        """The run, as a recorder saw it."""
        run = self.trained()[1]
        assert run is not None
        return run


def assert_follows_weights(
    train: Callable[[torch.Tensor | None], tuple[torch.nn.Module, TrainingRun | None]],
    test: Any,
    rows: tuple[int, ...] = ASKED,
    rtol: float = 1e-6,
) -> TrainingRun:
    """The answers of a recorded run are the derivatives of the loop itself in the weights of its examples.

    Central differences of the loop, run again with other weights: neither the recorder nor the replay is in it.

    Args:
        train: a loop that takes weights (n,), or None: as it is, recorded.
        test: test examples.
        rows: whose weights are moved.
        rtol: how far a derivative may be off, as a share of the test example's largest.
    """
    run = train(None)[1]
    assert run is not None
    found = Unrolled(run).on_loss(test).values[:, list(rows)] / run.n
    columns = []
    for row in rows:
        moved = []
        for sign in (1, -1):
            w = torch.ones(run.n, dtype=torch.float64)
            w[row] += sign * STEP
            model = train(w)[0].eval()
            moved.append(run.problem.retrained(model).evaluate(test))
        columns.append((moved[0] - moved[1]) / (2 * STEP))
    assert_close_per_row(found, torch.stack(columns, dim=1), rtol)
    return run
