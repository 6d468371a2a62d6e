"""Layers as curvature sees them: weights whose gradient is a sum of outer products of two small vectors.

The gradient of a weight (r, s) for one example is sum_t left_t right_t^T over the positions t where it was used:
for a dense layer right is the input and left the derivative in the output, for a convolution right is a patch, for an
embedding left is one-hot and right the derivative. An intercept is one more column of right, constantly one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F

from ...data.examples import batched, count, examples
from ...linalg.flat_vectors import Layout
from ...linalg.outer_products import Pair
from ...types import Tensor
from ..evaluation import Evaluation, plain_gradient
from ..output_curvature import cotangents, flat_outputs
from ..transformers import transposed
from .norm import Calls, Scale, is_scale, scales_of

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
"""And the transposed dense layer of transformers."""
MOST_WORDS = 4096
"""Rows of an embedding that is treated as a layer; it needs a square matrix of them."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight (or one group of a convolution): `index` are its entries of theta, row by row, then its intercept."""

    weight: str
    bias: str | None
    modules: tuple[nn.Module, ...] = field(repr=False)
    group: int
    rows: int
    columns: int
    index: Tensor = field(repr=False)

    @property
    def intercept(self) -> bool:
        """Whether the layer has an intercept of its own."""
        return self.bias is not None

    @property
    def words(self) -> bool:
        """Whether it is (also) an embedding."""
        return any(isinstance(module, nn.Embedding) for module in self.modules)

    def pair(self, calls: Calls, b: int) -> Pair:
        """Left and right of all places where b examples used the weight, from inputs and output derivatives."""
        return self.left(calls, b), self.right(calls, b)

    def left(self, calls: Calls, b: int) -> Float[Tensor, "b t r"]:
        """One-hot words of an embedding, else the derivatives in the outputs."""
        return self._all(calls, b, self._left, self.rows)

    def right(self, calls: Calls, b: int) -> Float[Tensor, "b t s"]:
        """Derivatives in the outputs of an embedding, else the inputs; the constant of an intercept comes last."""
        return self._all(calls, b, self._right, self.columns + self.intercept)

    def gradients(self, calls: Calls, b: int) -> Float[Tensor, "b q"]:
        """Of b examples, in the order of `index`."""
        left, right = self.pair(calls, b)
        return self.flat(left.mT @ right)

    def flat(self, G: Float[Tensor, "*k r s"]) -> Float[Tensor, "*k q"]:
        """A gradient of weight and intercept in the order of `index`."""
        if not self.intercept:
            return G.flatten(-2)
        return torch.cat([G[..., :-1].flatten(-2), G[..., -1]], dim=-1)

    def stack(self, rows: Float[Tensor, "*k p"]) -> Float[Tensor, "*k r s"]:
        """The part of flat vectors that this layer holds; the inverse of `flat`."""
        part = rows[..., self.index]
        weights = part[..., : self.rows * self.columns].unflatten(-1, (self.rows, self.columns))
        if not self.intercept:
            return weights
        return torch.cat([weights, part[..., self.rows * self.columns :, None]], dim=-1)

    def _all(self, calls: Calls, b: int, side: Callable[..., Tensor], width: int) -> Tensor:
        found = [side(module, *call, b) for module in self.modules for call in calls.get(module, [])]
        if not found:  # a model that did not come this way
            return next(self.modules[0].parameters()).new_zeros(b, 0, width)
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def _left(self, module: nn.Module, x: Tensor, slope: Tensor, b: int) -> Tensor:
        if isinstance(module, nn.Embedding):
            words = x.reshape(b, -1)
            left = F.one_hot(words, module.num_embeddings).to(slope)
            if module.padding_idx is not None:
                left[words == module.padding_idx] = 0
            return left
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            return slope.chunk(module.groups, dim=1)[self.group].flatten(2).mT
        return slope.reshape(b, -1, self.rows)

    def _right(self, module: nn.Module, x: Tensor, slope: Tensor, b: int) -> Tensor:
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            return _patches(module, x, self.group, self.intercept)
        embedding = isinstance(module, nn.Embedding)
        right = (slope if embedding else x).reshape(b, -1, self.columns)
        return F.pad(right, (0, 1), value=0.0 if embedding else 1.0) if self.intercept else right


def _patches(module: Any, x: Tensor, group: int, intercept: bool) -> Float[Tensor, "b t s"]:
    """The patch that each output position of a convolution saw, s = in / groups * k, and an intercept's constant."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode).chunk(module.groups, dim=1)[group]
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    places = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, d, s in zip(x.shape[2:], kernel, dilation, stride, strict=True)
    ]
    steps = x.stride()[2:]
    inside = [d * step for d, step in zip(dilation, steps, strict=True)]
    across = [s * step for s, step in zip(stride, steps, strict=True)]
    # A view of x; copied in this order, with the positions last, it is several times faster than F.unfold.
    view = x.as_strided((*x.shape[:2], *kernel, *places), (*x.stride()[:2], *inside, *across))
    size = x.shape[1] * math.prod(kernel)
    patches = x.new_ones(len(x), size + intercept, math.prod(places))
    patches[:, :size].view(view.shape).copy_(view)
    return patches.mT


def find_layers(of: Evaluation, theta: Tensor, batch: Any) -> tuple[list[Layer], list[Scale]]:
    """The layers and scales whose weight is among the parameters in question.

    Left out is a weight whose gradient its modules do not explain: one that is also used by itself, as `x @ weight.T`.
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

    def explained(part: Layer | Scale) -> bool:
        for slopes, whole in pulled:
            mine, wanted = part.gradients(slopes, 1)[0], whole[part.index]
            if not float((mine - wanted).norm()) <= 1e-3 * float(wanted.norm()):
                return False
        return True

    parts = [part for part in _candidates(of.model, of.layout, called) if explained(part)]
    layers = [part for part in parts if isinstance(part, Layer)]
    return layers, [part for part in parts if isinstance(part, Scale)]


def _candidates(model: nn.Module, layout: Layout, called: set[nn.Module]) -> Iterator[Layer | Scale]:
    names = {id(value): name for name, value in model.named_parameters()}
    used: dict[str, list[Any]] = {}
    for module in model.modules():
        name = names.get(id(module._parameters.get("weight")), "")
        if name in layout.names and module in called:
            used.setdefault(name, []).append(module)
    every = torch.arange(layout.size, device=next(model.parameters()).device)
    places = dict(zip(layout.names, every.split(layout.sizes), strict=True))
    for name, modules in used.items():
        if any(is_scale(module) for module in modules):
            yield from scales_of(name, modules, names, places)
        else:
            yield from _layers_of(name, modules, names, places)


def _layers_of(
    name: str, modules: list[Any], names: dict[int, str], places: dict[str, Tensor]
) -> Iterator[Layer]:
    """One layer per group of the weight; none where its uses do not fit one pair of bases."""
    kind, shape = type(modules[0]), modules[0].weight.shape
    turned = isinstance(modules[0], transposed())
    if any(isinstance(module, nn.Embedding) for module in modules) and shape[0] > MOST_WORDS:
        return
    groups = {getattr(module, "groups", 1) for module in modules}
    convolves = issubclass(kind, (nn.Conv1d, nn.Conv2d))
    alone = convolves or turned
    if len(groups) > 1 or (alone and any(type(module) is not kind for module in modules)):
        return
    biases = {names.get(id(bias)) for m in modules if (bias := m._parameters.get("bias")) is not None}
    bias = biases.pop() if len(biases) == 1 else None  # intercepts of their own do not fit one shared weight
    bias = bias if bias in places else None
    count = groups.pop()
    entries = places[name].view(shape)
    if turned:
        entries = entries.T
    rows, columns = len(entries) // count, entries[0].numel()
    weight = entries.reshape(count, rows * columns)
    for group in range(count):
        index = weight[group]
        if bias is not None:
            index = torch.cat([index, places[bias].view(count, rows)[group]])
        yield Layer(name, bias, tuple(modules), group, rows, columns, index)


def record(of: Evaluation, theta: Tensor, batch: Any) -> tuple[Any, Calls]:
    """The model's outputs with their graph, and what goes into and comes out of every supported layer."""
    calls: Calls = {}
    b = count(batch)

    def spread(module: nn.Module, args: Any) -> Any:
        """Positions that all examples share are looked up by each."""
        if args and args[0].ndim > 1 and len(args[0]) == 1 < b:
            return (args[0].expand(b, *args[0].shape[1:]), *args[1:])
        return None

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        calls.setdefault(module, []).append(((args[0] if args else kwargs["input"]).detach(), output))
        return output.clone()  # what follows may write into it

    hooks: list[Any] = []
    for module in of.model.modules():
        if isinstance(module, (*KINDS, *transposed())) or is_scale(module):
            hooks.append(module.register_forward_hook(keep, with_kwargs=True))
        if isinstance(module, nn.Embedding) and of.strategy == "batch":
            hooks.append(module.register_forward_pre_hook(spread))
    try:
        with torch.enable_grad():
            outputs = of.call(theta.detach().requires_grad_(), batch)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, calls


def pull_back(outputs: Tensor, calls: Calls, v: Tensor | None = None) -> Calls:
    """Of every layer the inputs and the derivatives of v . outputs (of a single number without v) in its outputs."""
    flat = [(module, x, out) for module, found in calls.items() for x, out in found if out.requires_grad]
    slopes: Calls = {}
    if flat:
        leaves = [out for _, _, out in flat]
        found = torch.autograd.grad(outputs, leaves, v, retain_graph=True, materialize_grads=True)
        for (module, x, _), slope in zip(flat, found, strict=True):
            x = x.to(outputs.dtype) if x.is_floating_point() else x  # what autocast has rounded
            slopes.setdefault(module, []).append((x, slope.to(outputs.dtype)))
    return slopes


def example_first(of: Evaluation, theta: Tensor, batch: Any) -> set[nn.Module]:
    """The modules that see the examples of a batch along their first dimension, compared with batches of one."""
    if of.strategy != "batch":
        return set()
    _, together = record(of, theta, batch)
    found = set(together)
    for i, example in enumerate(examples(batch)):
        _, alone = record(of, theta, batched(example))
        for module in alone.keys() | together.keys():
            if not _same(alone.get(module, []), together.get(module, []), i, count(batch)):
                found.discard(module)
    return found


def _same(alone: list[Pair], together: list[Pair], i: int, b: int) -> bool:
    """Whether what a module saw of example i is row i of what it saw of a batch of b."""
    if len(alone) != len(together):
        return False
    for (x, out), (xs, outs) in zip(alone, together, strict=True):
        if x.shape[1:] != xs.shape[1:] or out.shape[1:] != outs.shape[1:] or len(xs) != b:
            return False
        if not torch.allclose(x[0].double(), xs[i].double(), rtol=1e-3, atol=1e-5):
            return False
    return True


def pseudo_gradients(
    of: Evaluation, theta: Tensor, batch: Any, samples: int | None, generator: torch.Generator | None
) -> tuple[Tensor, Iterator[Calls]]:
    """Cotangents V (k, b, c) of the outputs with sum_k v v^T the loss's output curvature, and every layer's calls.

    Exact with k = c, or k = `samples` random combinations of expectation one. Each item maps a layer to its inputs and
    the derivatives of v . outputs in its outputs. Raises ValueError where the loss is not convex in its outputs.
    """
    outputs, calls = record(of, theta, batch)
    V = cotangents(of, theta, batch, samples, generator, outputs if of.strategy == "batch" else None)
    flat = flat_outputs(outputs, count(batch))
    return V, (pull_back(flat, calls, v) for v in V)
