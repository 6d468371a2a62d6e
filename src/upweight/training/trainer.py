"""A recorder for the Trainer of transformers: it sees the order of examples, and how their losses became one number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from ..network.modules import unwrapped
from ..network.problem import Problem
from .recorder import Recorder
from .run import TrainingRun
from .steps import Removal, own_streams
from .trainer_loss import minimised


class TrainerRecorder:
    """Writes down what `Trainer.train()` of transformers does, for `TrainingRun`: three lines around it.

    Made before `train()`, to which it adds a callback; `finish()` after it. The order of examples, learning rates and
    the random numbers of dropout are seen as they come, resumed runs too. How gradient accumulation counts is measured
    on the trainer itself, since models differ: a causal model of transformers has the sum over the tokens of a step
    divided by their number, a classifier the sum of the means of its batches, a module of one's own their mean.

    Args:
        trainer: the Trainer, before `train()`.
        loss: `loss(outputs, batch)` of one example, for models whose loss is no cross entropy, squared error or binary
            cross entropy of `logits` and `labels`; default: found among these.
        removal: what weight 0 of an example does to the denominator: "kept", or "lowered", as labels of -100 do it.
        params: the parameters that are trained, default all that require a gradient.

    Raises:
        ValueError: for settings that cannot be replayed, with what to do instead; the loss is looked at when training
            begins.

    >>> trainer = Trainer(model, args, train_dataset=texts, data_collator=collate)  # doctest: +SKIP
    >>> recorder = TrainerRecorder(trainer)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    >>> run = recorder.finish()  # doctest: +SKIP
    """

    def __init__(
        self, trainer: Any, loss: Any = None, *, removal: Removal = "kept", params: Any = None
    ) -> None:
        check_replayable(trainer)
        self._trainer, self._loss, self._removal, self._params = trainer, loss, removal, params
        self._drawn: deque[int] = deque()
        self._skipped = 0
        self._recorder: Recorder | None = None
        trainer.add_callback(callback(self))

    def begin(self, optimizer: Any, loader: Any, done: int) -> None:
        """Look at the model, the optimiser and the loader before the first step.

        Args:
            optimizer: the trainer's, as accelerate wraps it.
            loader: of the training examples.
            done: steps that an earlier run has done, where this one goes on.
        """
        args, batches = self._trainer.args, loader.batch_sampler
        if not hasattr(batches, "sampler"):
            raise ValueError(
                f"the order of examples that {type(batches).__name__} gives cannot be recorded: train with "
                'train_sampling_strategy="random", or record a loop of your own with upweight.Recorder'
            )
        if self._recorder is not None:
            self._recorder.stop()  # train() begins again, a smaller batch was found say
        batches.sampler = Drawn(getattr(batches.sampler, "inner", batches.sampler), self._drawn)
        self._size, per_epoch = batches.batch_size, -(-len(loader) // args.gradient_accumulation_steps)
        behind = 0 if args.ignore_data_skip else done % per_epoch
        self._skipped = behind * args.gradient_accumulation_steps * self._size
        train = DataLoader(loader.dataset, batch_size=self._size, collate_fn=loader.collate_fn)
        found = minimised(self._trainer, self._loss, train)
        self._recorder = Recorder(
            self._trainer.model,
            found.loss,
            train,
            optimizer=getattr(optimizer, "optimizer", optimizer),
            clip=args.max_grad_norm or None,
            counts=found.counts,
            accumulation=found.accumulation,
            removal=self._removal,
            params=self._params,
        )

    def begin_epoch(self) -> None:
        """Forget examples that were drawn ahead and not trained on."""
        self._drawn.clear()

    def begin_batch(self) -> None:
        """Write down the batch that the model is about to see."""
        assert self._recorder is not None
        while self._skipped:
            self._drawn.popleft()
            self._skipped -= 1
        size = min(self._size, len(self._drawn))
        self._recorder.step([self._drawn.popleft() for _ in range(size)])

    def finish(self) -> TrainingRun:
        """The recorded run, replayed and held against the trainer's model as it is now.

        Raises ValueError where `train()` was not called, InfluenceError where the replay ends elsewhere, with the step
        at which they part.
        """
        if self._recorder is None:
            raise ValueError("no step was recorded: call trainer.train() before finish()")
        return self._recorder.finish()


def from_trainer(trainer: Any, loss: Any = None, *, params: Any = None) -> Problem:
    """The objective that a Trainer of transformers (or TRL's SFTTrainer) minimises, at its model's weights as they are.

    The loss of an example and its weight are measured on the trainer, as `TrainerRecorder` does it: of most causal
    models the sum over a text's tokens, each with the same say. The training examples are the trainer's, as its
    collator pads them. The decay of AdamW is no part of it. It is for questions by the curvature (`Influence`,
    `GradientIndex`); those through the training itself need a recorded run.

    Args:
        trainer: before or after `train()`; its model is put in eval mode.
        loss: `loss(outputs, batch)` of one example, for models whose loss is not known.
        params: the parameters that count, by name or pattern; None: those that require a gradient.

    Raises:
        ValueError: for a loss that is not known, and for packed texts.

    >>> problem = from_trainer(trainer, params="transformer.h.1.*")  # doctest: +SKIP
    """
    with own_streams():
        loader = trainer.get_train_dataloader()
    size = trainer.args.per_device_train_batch_size
    train = DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn)
    found = minimised(trainer, loss, train)
    weight = len(found.counts) / float(found.counts.sum())
    weights = found.counts.new_full((len(found.counts),), weight)
    return Problem(unwrapped(trainer.model).eval(), found.loss, train, params=params, weights=weights)


class Drawn:
    """A sampler whose numbers are written down as they are drawn: loaders draw some batches ahead.

    Args:
        inner: the sampler.
        numbers: where they are written.
    """

    def __init__(self, inner: Any, numbers: deque[int]) -> None:
        self.inner, self._numbers = inner, numbers

    def __iter__(self) -> Iterator[int]:
        for number in self.inner:
            self._numbers.append(int(number))
            yield number

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.inner, name)


def callback(recorder: TrainerRecorder) -> Any:
    """What tells a recorder how far the trainer is: an object of a class that transformers knows."""
    from transformers import TrainerCallback

    class Seen(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            recorder.begin(seen["optimizer"], seen["train_dataloader"], state.global_step)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            recorder.begin_epoch()

        def on_step_begin(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            recorder.begin_batch()

        def on_substep_end(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            recorder.begin_batch()

    return Seen()


def check_replayable(trainer: Any) -> None:
    """Refuse settings of a Trainer that cannot be replayed, with ValueError: each says what to do instead."""
    args = trainer.args
    refused = {
        "bf16=True, which computes in bfloat16: train with bf16=False, or ask Influence(problem)": args.bf16,
        "fp16=True, which computes in float16: train with fp16=False, or ask Influence(problem)": args.fp16,
        "packing or padding_free, which join texts to one row: set both to False": (
            getattr(args, "packing", False) or getattr(args, "padding_free", False)
        ),
        "several devices: train on one (CUDA_VISIBLE_DEVICES=0)": max(args.world_size, args.n_gpu) > 1,
        "load_best_model_at_end=True, which puts an earlier model back: set it to False": (
            args.load_best_model_at_end
        ),
        "dataloader_in_order=False, by which workers decide on the order: set it to True": (
            not args.dataloader_in_order
        ),
        "an IterableDataset, whose examples have no numbers: train on a Dataset with a length": (
            isinstance(trainer.train_dataset, IterableDataset)
        ),
    }
    for words, true in refused.items():
        if true:
            raise ValueError(f"TrainerRecorder cannot replay a training with {words}")
