"""What a run is differentiated in beside the weights of its examples: changed examples, and inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..data.examples import Rows
from ..network.modules import layer_called, real_inputs
from ..types import Tensor
from .forward import Forward
from .minibatch import StepLoss
from .reverse import Pulled, batched
from .start import State
from .statistics import mixes
from .steps import Step

Found = tuple[Tensor, Tensor]
"""Places (k,) among the rows asked about, and derivatives there (m, k, ...)."""


class Probe(ABC):
    """Something of a step's loss that is changed at chosen training rows; a pass backwards differentiates in it."""

    rows: Int[Tensor, " b"]

    def found(self, forward: Forward, state: State, step: Step, pulled: Pulled) -> Iterator[Found]:
        """What one step adds to the derivatives; nothing where none of the rows is in it.

        Args:
            forward: the steps of the run.
            state: what the step began with.
            step: the step.
            pulled: the derivatives of m measures in what the step is made of, its gradient among them.
        """
        if bool(torch.isin(step.index, self.rows).any()):
            yield from self._found(forward, state, step, pulled)

    @abstractmethod
    def _found(self, forward: Forward, state: State, step: Step, pulled: Pulled) -> Iterator[Found]:
        """What a step with some of the rows adds."""


@dataclass(frozen=True, eq=False)
class Changed(Probe):
    """Training rows whose loss is replaced, bit by bit, by that of other examples in their places.

    Where batch norm mixes the examples of a batch, it is the loss of the whole batch that is replaced, and its running
    statistics, by those of the batch with the other example.

    Args:
        rows: b training rows; one may come several times, each with its own change.
        batch: the b examples in their place.
    """

    rows: Int[Tensor, " b"]
    batch: Any

    def _found(self, forward: Forward, state: State, step: Step, pulled: Pulled) -> Iterator[Found]:
        plain = forward.start.objective
        if mixes(plain.evaluation.model):
            yield from self._of_batches(forward, state, step, pulled)
            return
        plain = replace(plain, averaging=replace(plain.averaging, removal="kept"))  # nothing is removed here
        before = None
        for chosen in _rounds(self.rows):
            places, slots = (step.index[:, None] == self.rows[chosen]).nonzero(as_tuple=True)
            if not len(places):
                continue
            if before is None:
                before = _in_weights(forward, plain, state, step, pulled)
            data = swapped(plain.data, self.rows[chosen], self.batch, chosen)
            after = _in_weights(forward, replace(plain, data=data), state, step, pulled)
            yield chosen[slots], (after - before)[:, places.to(after.device)]

    def _of_batches(self, forward: Forward, state: State, step: Step, pulled: Pulled) -> Iterator[Found]:
        """What a step adds where its examples are mixed: of each row the whole step is taken once more."""
        assert pulled.gradient is not None
        objective = forward.start.objective

        def taken(data: Rows) -> Tensor:
            state.begin()
            leaves, buffers, w = (
                forward.leaves(state.theta),
                forward.buffers(state),
                state.theta.new_ones(step.count),
            )
            grads, buffers = replace(objective, data=data).gradient(leaves, buffers, w, step)
            return torch.cat([forward.packed(grads), *(buffers[name].flatten() for name in pulled.buffers)])

        directions = [forward.start.base.layout.pack(pulled.gradient, 1)]
        directions += [one.flatten(1) for one in pulled.buffers.values()]
        along, before = torch.cat(directions, dim=1), taken(objective.data)
        for slot in torch.isin(self.rows, step.index).nonzero().flatten():
            data = swapped(objective.data, self.rows[slot][None], self.batch, slot[None])
            yield slot[None], (along @ (taken(data) - before))[:, None]


@dataclass(frozen=True, eq=False)
class Inputs(Probe):
    """Numbers that are added to the inputs of training rows, before they are augmented.

    Args:
        rows: b training rows.
        at: a layer whose outputs take the place of the inputs, or None.
    """

    rows: Int[Tensor, " b"]
    at: str | None

    def _found(self, forward: Forward, state: State, step: Step, pulled: Pulled) -> Iterator[Found]:
        objective, added = forward.start.objective, list[Tensor]()

        def plus(x: Tensor) -> Tensor:
            added.append(torch.zeros_like(x).requires_grad_())
            return x + added[-1]

        with _adding(objective, self.at, plus) as probed:
            state.begin()
            leaves, buffers = forward.leaves(state.theta), forward.buffers(state)
            grads, _, later = probed.tapped(leaves, buffers, state.theta.new_ones(step.count), step, ())
        if len(added) != len(step.parts):
            runs = len(added) / len(step.parts)
            raise ValueError(
                f"at: layer {self.at!r} must run once when the model does, it ran {runs:g} times"
            )
        values = torch.cat(_in({**grads, **later}, added, pulled), dim=1)
        places, slots = (step.index[:, None] == self.rows).nonzero(as_tuple=True)
        yield slots, values[:, places.to(values.device)]


def _in_weights(forward: Forward, objective: StepLoss, state: State, step: Step, pulled: Pulled) -> Tensor:
    """The derivatives (m, b) in the weights of a step's examples."""
    state.begin()
    w = state.theta.new_ones(step.count).requires_grad_()
    grads, _, _ = objective.tapped(forward.leaves(state.theta), forward.buffers(state), w, step, ())
    return _in(grads, [w], pulled)[0]


def _in(made: Mapping[str, Tensor | None], inputs: list[Tensor], pulled: Pulled) -> list[Tensor]:
    """The derivatives of m measures in some inputs, through a step's gradient and the running statistics it leaves."""
    assert pulled.gradient is not None
    along = {**pulled.gradient, **pulled.buffers}
    there = {
        name: part for name, part in made.items() if name in along and part is not None and part.requires_grad
    }
    return batched(list(there.values()), inputs, [along[name] for name in there])


def _rounds(rows: Tensor) -> list[Tensor]:
    """Places of rows in as few groups as each row comes once in a group."""
    left, found = torch.arange(len(rows)), []
    while len(left):
        seen: set[int] = set()
        first = torch.tensor([not (row in seen or seen.add(row)) for row in rows[left].tolist()])  # type: ignore[func-returns-value]
        found.append(left[first])
        left = left[~first]
    return found


def swapped(data: Rows, rows: Int[Tensor, " b"], batch: Any, chosen: Tensor | None = None) -> Rows:
    """The training examples with others in the place of some.

    Args:
        data: the training examples.
        rows: the numbers (b,) of those that are replaced, each once.
        batch: the examples in their place.
        chosen: which of the batch they are (b,), default all in order.

    Raises:
        ValueError: for examples of another form than those of training.
    """
    place = torch.full((len(data),), -1)
    place[rows] = torch.arange(len(rows)) if chosen is None else chosen
    new, _ = tree_flatten(batch)

    def change(index: Tensor | slice, batch: Any) -> Any:
        old, form = tree_flatten(batch)
        _check_alike(old, new)
        at = place[index if isinstance(index, slice) else index.cpu()]
        hit = (at >= 0).nonzero().flatten()
        return tree_unflatten(
            [
                one.index_put((hit.to(one.device),), other[at[hit].to(other.device)].to(one))
                for one, other in zip(old, new, strict=True)
            ],
            form,
        )

    return data.mapped(change)


def _check_alike(old: list[Any], new: list[Any]) -> None:
    """Refuse examples whose tensors have other shapes, or other numbers, than those of training."""
    forms = [[(tuple(one.shape[1:]), one.is_floating_point()) for one in some] for some in (old, new)]
    if forms[0] != forms[1]:
        shapes = [", ".join(str(shape) for shape, _ in form) for form in forms]
        raise ValueError(
            f"changed examples must have the form of the training examples in their places: those are tensors of shape "
            f"{shapes[0]}, the new ones of {shapes[1]} (or whole numbers in place of real ones)"
        )


@contextmanager
def _adding(objective: StepLoss, at: str | None, plus: Any) -> Iterator[StepLoss]:
    """The loss of a step where something is added to the inputs, or to what a layer gives."""
    if at is None:

        def change(index: Tensor | slice, batch: Any) -> Any:
            inputs, rebuild = real_inputs(batch)
            return rebuild(plus(inputs))

        yield replace(objective, data=objective.data.mapped(change))
        return
    layer = layer_called(objective.evaluation.model, at)
    hook = layer.register_forward_hook(lambda _, __, output: plus(output))
    try:
        yield objective
    finally:
        hook.remove()
