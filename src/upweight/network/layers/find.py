"""Which parameters the layers of a model explain, by looking at a few examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...data.examples import batched, examples
from ...linalg.flat_vectors import Layout
from ...linalg.outer_products import WeightMatrix
from ...runtime.fallback import out_of_memory
from ...types import Tensor
from ..comparisons import plain_gradient
from ..evaluation import Evaluation
from ..output_curvature import flat_outputs
from .kinds import layer_of, norm_of
from .layer import Calls, Weight
from .norm import Norm
from .recorder import pull_back, record


def find_layers(of: Evaluation, theta: Tensor, batch: Any) -> tuple[list[Weight], list[Norm]]:
    """The weights and norms among the parameters in question.

    Left out is a weight whose gradient its modules do not explain: one that is also used by itself, as `x @ weight.T`.

    Args:
        of: the model.
        theta: where gradients are compared (p,).
        batch: a few examples to compare them on.
    """
    called: set[nn.Module] = set()
    pulled: list[tuple[Calls, Tensor]] = []
    for example in examples(batch):
        one = batched(example)
        outputs, calls = record(of, theta, one)
        outputs = flat_outputs(outputs, 1)
        called |= set(calls)
        whole = plain_gradient(lambda t, z=one: flat_outputs(of.call(t, z), 1).sum(), theta)  # type: ignore[misc]
        pulled.append((pull_back(outputs, calls, torch.ones_like(outputs)), whole))

    def explained(part: Weight | Norm) -> bool:
        for slopes, whole in pulled:
            try:
                mine, wanted = part.gradients(slopes, 1)[0], whole[part.index]
            except (RuntimeError, TypeError, IndexError, AttributeError) as error:
                if out_of_memory(error):
                    raise
                return False  # of that class by its name alone: it takes other inputs
            if not float((mine - wanted).norm()) <= 1e-3 * float(wanted.norm()):
                return False
        return True

    parameters = _Parameters(of.model, of.layout, called)
    return list(filter(explained, parameters.weights())), list(filter(explained, parameters.norms()))


class _Parameters:
    """The parameters in question by name: where they are in theta, and the modules that were called with them."""

    def __init__(self, model: nn.Module, layout: Layout, called: set[nn.Module]) -> None:
        every = torch.arange(layout.size, device=next(model.parameters()).device)
        self.places = dict(zip(layout.names, every.split(layout.sizes), strict=True))
        self.names = {id(value): name for name, value in model.named_parameters()}
        self.used: dict[str, list[nn.Module]] = {}
        for module in model.modules():
            name = self._name(module, "weight")
            if name in self.places and module in called:
                self.used.setdefault(name, []).append(module)

    def _name(self, module: nn.Module, part: str) -> str:
        """What the model calls the weight or the bias of a module; "" where it has none."""
        return self.names.get(id(module._parameters.get(part)), "")

    def weights(self) -> Iterator[Weight]:
        """One per group of each weight; none where its uses do not fit one pair of bases."""
        for name, modules in self.used.items():
            uses = [(kind, module) for module in modules if (kind := layer_of(module)) is not None]
            entries = [kind.entries(module, self.places[name]) for kind, module in uses]
            groups = entries[0] if entries else None
            if (
                len(uses) < len(modules)
                or groups is None
                or not all(_equal(groups, other) for other in entries)
            ):
                continue
            biases = {
                self._name(module, "bias") for module in modules if module._parameters.get("bias") is not None
            }
            bias = (
                biases.pop() if len(biases) == 1 else ""
            )  # intercepts of their own do not fit one shared weight
            names = (name, bias) if bias in self.places else (name,)
            for group, own in enumerate(groups):
                index = own.flatten()
                if bias in self.places:
                    index = torch.cat([index, self.places[bias].view(len(groups), -1)[group]])
                matrix = WeightMatrix(index, *own.shape)
                yield Weight(names, matrix, tuple(kind(module, matrix, group) for kind, module in uses))

    def norms(self) -> Iterator[Norm]:
        """The norms that share their weight with nothing."""
        for name, modules in self.used.items():
            kind = norm_of(modules[0])
            if kind is not None and len(modules) == 1:
                parts = [
                    self.places[key] for key in (name, self._name(modules[0], "bias")) if key in self.places
                ]
                yield kind(modules[0], torch.cat(parts), len(self.places[name]))


def _equal(groups: Tensor, others: Tensor | None) -> bool:
    return others is not None and torch.equal(groups, others)
