"""Indexes of gradients that are written while a Trainer of transformers trains, at its checkpoints or at its end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..curvature.base import Curvature
from ..curvature.ekfac import EKFAC
from ..network.modules import unwrapped
from ..objective import Objective
from ..training.steps import own_streams
from ..training.trainer import from_trainer
from .gradient_index import GradientIndex
from .influence import Influence

MOMENTS = {"end": "on_train_end", "epoch": "on_epoch_end", "save": "on_save"}


class IndexRecorder:
    """Writes a `GradientIndex` of the training examples while `Trainer.train()` runs, without changing the training.

    Made before `train()`, to which it adds a callback. Each index is of the weights of its moment, in a folder of its
    own: `GradientIndex.open(recorder.folders[500], problem)` answers from that of step 500, with the problem at these
    weights: `from_trainer(trainer)` after the end, or after a checkpoint was loaded into the model. An index that
    cannot be written is warned of, and training goes on.

    Args:
        trainer: the Trainer (or TRL's SFTTrainer), before `train()`.
        folder: where the indexes go.
        moment: "end" writes one after the last step, "epoch" one after each epoch, "save" one with each checkpoint.
        curvature: makes the curvature of a problem; None: `EKFAC(problem, relative=0.1, samples=1)`.
        error: the relative error of a question that is aimed at, see `GradientIndex.build`.
        bytes_per_example: or the most that an example may take.
        loss: `loss(outputs, batch)` of one example, for models whose loss is not known.
        params: the parameters that count, by name or pattern; None: those that require a gradient.

    Raises:
        ValueError: for other moments; when training begins, for a loss that is not known, and for a folder that holds
            the indexes of another training.

    >>> recorder = IndexRecorder(trainer, "index", moment="save")  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    >>> index = GradientIndex.open(recorder.last, from_trainer(trainer))  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Any,
        folder: str | Path,
        *,
        moment: str = "end",
        curvature: Callable[[Objective], Curvature] | None = None,
        error: float | None = None,
        bytes_per_example: int | None = None,
        loss: Any = None,
        params: Any = None,
    ) -> None:
        if moment not in MOMENTS:
            raise ValueError(f"moment must be one of {', '.join(map(repr, MOMENTS))}, got {moment!r}")
        self.folder = Path(folder)
        self._trainer, self._loss, self._params = trainer, loss, params
        self._curvature = curvature or (lambda problem: EKFAC(problem, relative=0.1, samples=1))
        self._wanted: dict[str, Any] = {"error": error, "bytes_per_example": bytes_per_example}
        trainer.add_callback(_callback(self, MOMENTS[moment]))

    @property
    def folders(self) -> dict[int, Path]:
        """The finished indexes by the number of steps that had been taken."""
        found = sorted(self.folder.glob("step-*/index.json"))
        return {int(path.parent.name.removeprefix("step-")): path.parent for path in found}

    @property
    def last(self) -> Path:
        """The folder of the latest index. Raises FileNotFoundError where none was written."""
        if not self.folders:
            raise FileNotFoundError(f"no index stands in {self.folder}: call trainer.train() before")
        return self.folders[max(self.folders)]

    def begin(self, step: int) -> None:
        """Look at the loss and at the folder before the first step: what fails there is said before hours have passed.

        Args:
            step: how many steps were taken before, by a training that this one goes on from.
        """
        later = [number for number in self.folders if number > step]
        if later:
            raise ValueError(
                f"{self.folder} holds indexes of a training that went to step {max(later)}, this one begins at {step}: "
                "give another folder"
            )
        with _undisturbed(self._trainer):
            self._problem()

    def write(self, step: int) -> None:
        """The index of the weights as they are.

        Args:
            step: how many steps were taken.
        """
        if step in self.folders:
            return  # an epoch's end is a checkpoint too, or the training's
        try:
            with _undisturbed(self._trainer):
                problem = self._problem()
                influence = Influence(problem, curvature=self._curvature(problem))
                GradientIndex.build(influence, self.folder / f"step-{step:08d}", **self._wanted)
        except Exception as error:  # whatever it is, hours of training are worth more
            warnings.warn(f"the index of step {step} was not written: {error}", stacklevel=2)

    def _problem(self) -> Objective:
        return from_trainer(self._trainer, self._loss, params=self._params)


@contextmanager
def _undisturbed(trainer: Any) -> Iterator[None]:
    """Random numbers, and which modules are in training mode, are afterwards as they were before."""
    was = {module: module.training for module in unwrapped(trainer.model).modules()}
    with own_streams():
        try:
            yield
        finally:
            for module, training in was.items():
                module.training = training


def _callback(recorder: IndexRecorder, moment: str) -> Any:
    """What tells a recorder that a moment has come: an object of a class that transformers knows."""
    from transformers import TrainerCallback

    class Moments(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            recorder.begin(state.global_step)

    def reached(self: Any, args: Any, state: Any, control: Any, **seen: Any) -> None:
        recorder.write(state.global_step)

    setattr(Moments, moment, reached)
    return Moments()
