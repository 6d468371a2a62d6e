"""Any torch model with its loss and training data: the objective that training minimised, and its derivatives."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch.utils._pytree import tree_map

from ..data.examples import Rows, as_rows, count, targets_of
from ..data.per_example import Loss
from ..errors import SmallerBlocksWarning, StaleError
from ..frozen import check_eval
from ..linalg.outer_products import Outer, Pairs
from ..measures import Measure, OfParameters, Overall
from ..objective import Objective, check_keep, check_weights, expand_l2
from ..runtime.distributed import gather_rows, own_seed, shard, sum_across
from ..runtime.fallback import attempt, out_of_memory
from ..runtime.progress import track
from ..types import Keep, Operator, Tensor
from .evaluation import (
    ROWS_AT_ONCE,
    Evaluation,
    Mode,
    directional,
    example_gradients,
    gauss_newton_product,
    hessian_product,
    input_directional,
    memory_of,
    plain_gradient,
)
from .layers.gradients import Layered
from .modules import in_words, layer_inputs, real_inputs, snapshot
from .output_curvature import cotangents, flat_outputs, is_convex, output_roots, through_outputs

T = TypeVar("T")

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
SQUARED_BYTES = 64 << 20
"""Jacobians held at once while the Gauss-Newton matrix is summed."""
GRAM_COLUMNS = 512
"""Columns of a symmetric product that are taken at once: what is below the diagonal is left out in such steps."""
FEW_OUTPUTS = 128
"""Up to this many outputs per example the Gauss-Newton matrix comes from Jacobians, not from products."""
TRIED = 8
"""Examples that the model and loss are tried on."""
OUTSIDE = 0.1
"""Share of the parameters outside layers up to which gradients are taken layer by layer."""
LAYERED_EXAMPLES = 512
"""Examples whose gradients are taken layer by layer at once: enough for fast matrix products, few enough for caches."""


def patient(method: Callable[..., T]) -> Callable[..., T]:
    """The method of a problem, tried again in blocks of half the size where memory runs out."""

    @functools.wraps(method)
    def tried(self: Problem, *args: Any, **kwargs: Any) -> T:
        return self.patiently(lambda: method(self, *args, **kwargs))

    return tried


class Problem(Objective):
    """Any model and loss: R(theta) = (1/n) sum_i w_i l(z_i, theta) + 1/2 sum_j l2_j theta_j^2, at the model's theta.

    `loss(outputs, targets)` gives one number per example, or is reduced: it is evaluated on batches of one. `train` is
    (inputs, targets) as tensors or arrays, a mapping of tensors (then `model(**batch)` and `loss(outputs, batch)`), a
    map-style Dataset or a DataLoader that does not shuffle. A model of transformers is called without "labels", and of
    its outputs there are the logits. `l2` is a number or one per parameter (p,), `weights` the w_i (n,), `params` the
    names (or patterns like "head.*") of the parameters that count, default all that require a gradient. `keep` says
    which retraining is predicted: "mean" (the paper) or "total" (scikit-learn with the same C). `autocast` is what the
    model computes in while EKFAC's factors are gathered and training examples are scored layer by layer; curvature
    products and test gradients stay in its own precision. `autocast_error` says what that does to gradients.

    The parameters are copied now and the model is never modified. Data are moved to the model's device. Gradients of
    training examples carry weight and folded penalty, those of test examples neither.

    Raises ValueError or TypeError for empty or unequal data, NaN or infinity (with the first example or the parameter),
    another precision than the model's, dropout or batch norm in train mode, a loss or model that mixes examples.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> train = torch.eye(4, 3), torch.tensor([0, 1, 0, 1])
    >>> problem = Problem(model, torch.nn.functional.cross_entropy, train, l2=0.1)
    >>> problem.n, problem.p, problem.gradient().shape
    (4, 8, torch.Size([8]))
    """

    convex = False

    def __init__(
        self,
        model: Any,
        loss: Any,
        train: Any,
        *,
        l2: Any = 0.0,
        weights: Any = None,
        params: Any = None,
        keep: Any = "mean",
        batch_size: Any = None,
        autocast: Any = None,
    ) -> None:
        check_keep(keep)
        self.keep: Keep = keep
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not callable(loss):
            raise TypeError(
                f"loss must be a function (outputs, targets) -> numbers, got {type(loss).__name__}"
            )
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}")
        self.autocast: torch.dtype | None = autocast
        check_eval(model, ValueError)
        self.layout, self.theta, fixed = snapshot(model, params)
        self.evaluation = Evaluation(model, loss, self.layout, fixed)
        self._rows = as_rows(train, self.device, self.dtype)
        self.n = len(self._rows)
        self.l2 = expand_l2(l2, self.theta)
        self.weights = check_weights(weights, self.n).to(self.device)
        with torch.no_grad():
            self.evaluation.choose(self.theta, self.trial)
            tried = self.evaluation.outputs(self.theta, self.trial)
        self.c = flat_outputs(tried, count(self.trial)).shape[1]
        self._memory = memory_of(self.evaluation, self.theta, self.trial)
        enough = min(FEW_EXAMPLES, MOST_BLOCK_BYTES // self._memory)
        self._size: int = batch_size or max(
            1, enough, min(BLOCK_EXAMPLES, self._block_bytes() // self._memory)
        )

    @property
    def trial(self) -> Any:
        """A few training examples, to try things on."""
        return self._rows.take(torch.linspace(0, self.n - 1, min(TRIED, self.n)).long())

    @cached_property
    def linear(self) -> bool:
        """Whether the outputs are linear in the parameters and the loss convex in them, on the trial examples."""
        if self.c > FEW_OUTPUTS:
            return False
        step = torch.randn(self.p, generator=torch.Generator().manual_seed(0)).to(self.theta)
        with torch.no_grad():
            steps = (self.theta + step, self.theta - step, self.theta)
            up, down, here = (
                flat_outputs(self.evaluation.outputs(t, self.trial), count(self.trial)) for t in steps
            )
        bend = (up + down - 2 * here).norm() / (up - down).norm()
        if not float(bend) <= 1e3 * torch.finfo(self.dtype).eps:
            return False
        return is_convex(*output_roots(self.evaluation, self.theta, self.trial))

    @cached_property
    def layered(self) -> Layered:
        """The model's layers, as far as they explain its gradients."""
        return Layered.find(self.evaluation, self.theta, self.trial)

    @cached_property
    @patient
    def by_layers(self) -> Layered | None:
        """The same, if gradients are to be taken that way: it must agree with plain differentiation."""
        found = self.layered
        if not found.together or len(found.loose) > OUTSIDE * self.p:
            return None
        batch = self._rows.take(slice(0, min(self.n, self._size, LAYERED_EXAMPLES)))
        return found if attempt(lambda: found.agrees(batch), lambda: False) else None

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """Inside, the model computes in `autocast`, if its layers see the examples of a batch together."""
        self.evaluation.autocast = self.autocast if self.layered.together else None
        try:
            yield
        finally:
            self.evaluation.autocast = None

    @cached_property
    def autocast_error(self) -> float:
        """The largest relative error that `autocast` makes in the gradient of one of a few training examples.

        0 where it is not used, since the model's layers do not see examples together; infinite where numbers overflow.
        """
        if self.autocast is None or not self.layered.together:
            return 0.0
        exact = self.layered.gradients(self.trial)
        with self.rounded():
            off = (self.layered.gradients(self.trial) - exact).norm(dim=1)
        if not bool(off.isfinite().all()):
            return math.inf
        return float((off / exact.norm(dim=1).clamp(min=torch.finfo(exact.dtype).tiny)).max())

    def blocks(self) -> Iterator[tuple[Any, Tensor]]:
        """This process's share of the training data as batches, with the examples' weights."""
        for part, batch in self._rows.blocks(self._size, shard(self.n)):
            yield batch, self._weights(part)

    @property
    def block_count(self) -> int:
        """How many `blocks` there are."""
        return math.ceil(self._share / self._size)

    @property
    def _share(self) -> int:
        """Training examples of this process."""
        own = shard(self.n)
        return own.stop - own.start

    def subset(self, index: Int[Tensor, " b"]) -> Problem:
        other = object.__new__(Problem)
        other.__dict__.update(self.__dict__)
        other._forget()
        if len(index) == 0:
            raise ValueError("a subset needs at least one example")
        other.n, other._rows = len(index), self._rows.subset(index)
        other.weights = self.weights[index.to(self.device)]
        return other

    def check_current(self) -> None:
        check_eval(self.evaluation.model, StaleError)
        live = dict(self.evaluation.model.named_parameters())
        for name, then in {**self.evaluation.fixed, **self.params}.items():
            if name in live and not torch.equal(live[name].detach(), then):
                raise StaleError(
                    f"the model's parameter {name!r} changed since this problem was made: make the Problem anew"
                )

    def _weights(self, index: Tensor | slice) -> Tensor:
        index = index if isinstance(index, slice) else index.to(self.device)
        return self.weights[index].to(self.dtype)

    def _block_bytes(self) -> int:
        # Every block also reads and adds up p numbers: it must be worth that.
        own = 8 * self.p * self.theta.element_size()
        return min(BLOCK_BYTES, max(CPU_BLOCK_BYTES, own)) if self.device.type == "cpu" else BLOCK_BYTES

    def patiently(self, run: Callable[[], T]) -> T:
        """What `run` gives, tried again in blocks of half the size where memory runs out."""
        while True:
            try:
                return run()
            except RuntimeError as error:
                self.take_smaller_blocks(error)

    def take_smaller_blocks(self, error: RuntimeError) -> None:
        """Halve the blocks after running out of memory, and say so; any other error is raised again."""
        if not out_of_memory(error) or self._size == 1:
            raise error
        self._size //= 2
        warnings.warn(
            f"out of memory: going on in blocks of {self._size} examples (batch_size={self._size} starts there)",
            SmallerBlocksWarning,
            stacklevel=4,
        )

    def _gradient_size(self) -> int:
        most = CPU_GRADIENT_BYTES if self.device.type == "cpu" else GRADIENT_BYTES
        return max(1, min(self._size, most // (self.p * self.theta.element_size())))

    def _keeps_graphs(self) -> bool:
        """Whether the graphs of all blocks, each with its gradient, fit into memory."""
        own = self.block_count * self.p * self.theta.element_size()
        return KEPT_COPIES * self._share * self._memory + 2 * own <= KEPT_BYTES

    # -- the objective ---------------------------------------------------------------------------------------------

    def gradient(self) -> Float[Tensor, " p"]:
        total = sum_across(self._sum_of_gradients())
        return (total / self.n + self.l2.double() * self.theta.double()).to(self.dtype)

    @patient
    def _sum_of_gradients(self) -> Float[Tensor, " p"]:
        total = torch.zeros(self.p, dtype=torch.float64, device=self.device)
        for batch, w in self.blocks():
            total += plain_gradient(lambda t, z=batch, w=w: self.evaluation.losses(t, z) @ w, self.theta)  # type: ignore[misc]
        return total

    def train_losses(self) -> Float[Tensor, " n"]:
        return gather_rows(self._own_losses())

    @patient
    @torch.no_grad()
    def _own_losses(self) -> Float[Tensor, " s"]:
        found = [self.evaluation.losses(self.theta, batch) for batch, _ in self.blocks()]
        return torch.cat([self.theta.new_zeros(0), *found])

    def train_batch(self, index: Int[Tensor, " b"]) -> Any:
        return self._rows.take(index)

    @patient
    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        parts = index.split(self._gradient_size())
        found = [self._gradients(self._rows.take(part)) for part in parts if len(part)]
        plain = torch.cat([self.theta.new_zeros(0, self.p), *found])
        return plain.mul_(self._weights(index)[:, None]).add_(self.folded_penalty)

    def gradients_as_train(self, batch: Any) -> Float[Tensor, "b p"]:
        return self.test_gradients(batch) + self.folded_penalty

    def products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        rows = rows.to(self.dtype) if isinstance(rows, Outer) else rows.to(self.theta)
        constant = self.dot(rows, self.folded_penalty)[:, None]
        for part, values in self._products(rows, within or shard(self.n)):
            yield part, values * self._weights(part) + constant

    def dot(self, rows: Float[Tensor, "k p"] | Outer, vector: Float[Tensor, " p"]) -> Float[Tensor, " k"]:
        """The product of every row with one vector."""
        return self.layered.dot(rows, vector) if isinstance(rows, Outer) else rows @ vector

    def _products(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        """Without weights and penalty: layer by layer, else in forward mode for few rows, else from gradients."""
        if self.by_layers is not None:
            for part, _, values in self.train_pairs(rows, within):
                yield part, values
            return
        assert not isinstance(rows, Outer)
        few = len(rows) <= ROWS_AT_ONCE

        def work(batch: Any) -> Tensor:
            if few:
                return directional(self.evaluation, self.theta, batch, rows)
            return rows @ example_gradients(self.evaluation, self.theta, batch).T

        yield from self._streamed(work, lambda: self._size if few else self._gradient_size(), within)

    def _streamed(
        self, work: Callable[[Any], T], size: Callable[[], int], within: slice
    ) -> Iterator[tuple[slice, T]]:
        """What `work` makes of each block of training examples; a block that does not fit is taken in smaller ones."""
        done = within.start
        while done < within.stop:
            try:
                for part, batch in self._rows.blocks(size(), slice(done, within.stop)):
                    found = work(batch)
                    done = part.stop
                    yield part, found
            except RuntimeError as error:
                self.take_smaller_blocks(error)

    # -- test examples ---------------------------------------------------------------------------------------------

    def _test(self, batch: Any) -> Rows:
        return as_rows(batch, self.device, self.dtype, "the batch")

    @patient
    def evaluate(
        self, batch: Any, measure: Measure | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        at = self.theta if theta is None else theta.detach().to(self.theta)
        with torch.no_grad():
            if isinstance(measure, (OfParameters, Overall)):
                return self._single(batch, measure)(at).view(1)
            blocks = self._test(batch).blocks(self._size)
            return torch.cat([self.evaluation.losses(at, part, measure) for _, part in blocks])

    def _single(self, batch: Any, measure: OfParameters | Overall) -> Callable[[Tensor], Tensor]:
        """A measure that is one number, as a function of theta."""
        if isinstance(measure, OfParameters):
            return lambda theta: measure.function(self.layout.unpack(theta)).reshape(())
        rows = self._test(batch)
        whole = rows.take(slice(0, len(rows)))

        def value(theta: Tensor) -> Tensor:
            outputs = self.evaluation.outputs(theta, whole)
            if self.evaluation.strategy != "batch":
                outputs = tree_map(lambda leaf: leaf.flatten(0, 1), outputs)
            return measure.function(outputs, targets_of(whole)).reshape(())

        return value

    @patient
    def test_gradients(self, batch: Any, measure: Measure | None = None) -> Float[Tensor, "m p"]:
        if isinstance(measure, (OfParameters, Overall)):
            return plain_gradient(self._single(batch, measure), self.theta).view(1, -1)
        blocks = self._test(batch).blocks(self._gradient_size())
        return torch.cat([self._gradients(part, measure) for _, part in blocks])

    def train_pairs(
        self, rows: Float[Tensor, "k p"] | Outer, within: slice | None = None
    ) -> Iterator[tuple[slice, Pairs, Float[Tensor, "k b"]]]:
        """Bare gradients of training examples as small factors, and their products with `rows`, as `products`."""
        assert self.by_layers is not None
        layered = self.by_layers
        vectors = rows if isinstance(rows, Outer) else layered.take_apart(rows.to(self.theta))

        def work(batch: Any) -> tuple[Pairs, Tensor]:
            with self.rounded():
                pairs = layered.pairs(batch)
            return pairs, vectors.products(pairs)

        size = functools.partial(min, self._size, LAYERED_EXAMPLES)
        for part, (pairs, values) in self._streamed(work, size, within or shard(self.n)):
            yield part, pairs, values

    def test_pairs(self, batch: Any, measure: Loss | None = None) -> Iterator[Pairs]:
        """The same as the small factors of each layer, block by block.

        Raises TypeError where examples cannot be taken layer by layer.
        """
        if self.by_layers is None:
            raise TypeError(
                "this model's gradients are not taken layer by layer (its layers do not see examples one by one, or "
                "hold few of its parameters): ask without compress="
            )
        for _, part in self._test(batch).blocks(min(self._size, LAYERED_EXAMPLES)):
            yield self.by_layers.pairs(part, measure)

    def _gradients(self, batch: Any, measure: Loss | None = None) -> Float[Tensor, "b p"]:
        if self.by_layers is not None:
            return self.by_layers.gradients(batch, measure)
        return example_gradients(self.evaluation, self.theta, batch, measure)

    @patient
    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        rows, of, found = rows.to(self.theta), self.evaluation, []
        # A layer's outputs stand in for all examples at once, or for one.
        alone = at is not None and of.strategy != "batch"
        for _, block in self._test(batch).blocks(1 if alone else self._size):
            entry = (
                nullcontext(real_inputs(block))
                if at is None
                else layer_inputs(of.model, at, block, functools.partial(of.call, self.theta, block))
            )
            with entry as (inputs, rebuild):
                parts = [
                    input_directional(of, self.theta, inputs, rebuild, part)
                    for part in rows.split(ROWS_AT_ONCE)
                ]
            found.append(torch.cat(parts))
        return torch.cat(found, dim=1)

    # -- curvature -------------------------------------------------------------------------------------------------

    def _block(self, batch: Any, weights: Tensor, gauss_newton: bool, mode: Mode) -> Operator:
        build = gauss_newton_product if gauss_newton else hessian_product
        return build(self.evaluation, self.theta, batch, weights, mode)

    def operator(self, *, gauss_newton: bool = False, dtype: torch.dtype | None = None) -> Operator:
        fits, used = self._keeps_graphs(), False
        kept: list[Operator] = []
        wide = torch.promote_types(self.dtype, torch.float32)

        def blocks() -> Iterator[Operator]:
            for batch, w in self.blocks():
                yield self._block(batch, w, gauss_newton, "double")

        def once(inner: Tensor) -> Tensor:
            nonlocal fits
            try:
                if fits and used and not kept:  # one product alone does not pay for the memory
                    kept.extend(blocks())
                total = torch.zeros(inner.shape, dtype=wide, device=self.device)
                for block in kept or blocks():
                    total += block(inner)
            except RuntimeError:
                kept.clear()
                fits = False
                raise
            return total

        def product(rows: Tensor) -> Tensor:
            nonlocal used
            inner = rows.to(self.theta)
            total = sum_across(self.patiently(lambda: once(inner)))
            used = True
            return total.div_(self.n).add_(self.l2 * inner).to(rows.dtype)

        return product

    def sampled(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"], *, gauss_newton: bool = False
    ) -> Float[Tensor, "k p"]:
        inner, b = rows.to(self.theta), index.shape[1]
        samples = [(self._rows.take(i), self._weights(i)) for i in index]

        def one(row: Tensor, sample: tuple[Any, Tensor], mode: Mode) -> Tensor:
            return self._block(*sample, gauss_newton, mode)(row[None])[0]

        def fast() -> Tensor:
            stack = tree_map(lambda *leaves: torch.stack(leaves), *samples)
            return torch.vmap(lambda row, sample: one(row, sample, "forward"))(inner, stack)

        def slow() -> Tensor:
            return torch.stack(
                [one(row, sample, "double") for row, sample in zip(inner, samples, strict=True)]
            )

        return (attempt(fast, slow) / b + self.l2 * inner).to(rows.dtype)

    def draws(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        return sum_across(self._draws(k, own_seed(generator))).div_(self.n**0.5).to(self.dtype)

    @patient
    def _draws(self, k: int, seed: int) -> Float[Tensor, "k p"]:
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(k, self.p, dtype=torch.float64, device=self.device)
        for batch, w in track(self.blocks(), "random right-hand sides", self.block_count):
            V = k**0.5 * cotangents(self.evaluation, self.theta, batch, k, generator) * w.sqrt()[:, None]
            at = self.theta.detach().clone().requires_grad_()
            with torch.enable_grad():
                outputs = flat_outputs(self.evaluation.outputs(at, batch), count(batch))
            for row, v in zip(total, V, strict=True):
                row += torch.autograd.grad(outputs, at, v, retain_graph=True, materialize_grads=True)[0]
        return total

    def matrix(self, *, gauss_newton: bool = False, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        if gauss_newton and self.c <= FEW_OUTPUTS:
            return self._squared(dtype or self.dtype)
        product = self.operator(gauss_newton=gauss_newton)
        eye = torch.eye(self.p, dtype=self.dtype, device=self.device)
        H = torch.cat([product(part) for part in eye.split(64)])
        H = (H + H.T) / 2
        return H if dtype is None else H.to(dtype)

    def _squared(self, dtype: torch.dtype) -> Float[Tensor, "p p"]:
        """The Gauss-Newton matrix from Jacobians: one pass over the data, summed in float64."""
        total = sum_across(self._sum_of_squares()).div_(self.n)
        total = total.triu() + total.triu(1).T
        total.diagonal().add_(self.l2.double())
        return total.to(dtype)

    @patient
    def _sum_of_squares(self) -> Float[Tensor, "p p"]:
        """The upper triangle over this process's share."""
        total = torch.zeros(self.p, self.p, dtype=torch.float64, device=self.device)
        every = torch.arange(self.p, device=self.device)
        held: list[tuple[Tensor, Tensor]] = []
        room = max(1, SQUARED_BYTES // (self.c * self.p * self.theta.element_size()))
        size = min(self._size, room)
        own = shard(self.n)
        blocks = self._rows.blocks(size, own)
        for part, batch in track(blocks, "Gauss-Newton matrix", math.ceil(self._share / size)):
            S, sign = output_roots(self.evaluation, self.theta, batch)
            if self.by_layers is not None:
                P = self.by_layers.jacobians(batch, S)
            else:
                P = through_outputs(self.evaluation, self.theta, batch, S, every)
            held.append((P.flatten(0, 1), (self._weights(part)[:, None] * sign).flatten()))
            if part.stop == own.stop or (len(held) + 1) * size > room:
                _add_gram(total, *(torch.cat(sides) for sides in zip(*held, strict=True)))
                held.clear()
        return total

    def root(self, *, gauss_newton: bool = False) -> None:
        return None

    def _hashed(self) -> list[Tensor]:
        words = f"{in_words(self.evaluation.loss)} {type(self.evaluation.model).__qualname__}"
        words += f" {self.autocast}" if self.autocast else ""
        settings = torch.tensor(list(words.encode()), dtype=torch.uint8)
        return [*self.evaluation.fixed.values(), self.weights, self._rows.digest(), settings]


def _add_gram(total: Float[Tensor, "p p"], P: Float[Tensor, "b p"], w: Float[Tensor, " b"]) -> None:
    """Add P^T diag(w) P to the upper triangle, with a little more below it."""
    scaled = P * w[:, None]
    for start in range(0, len(total), GRAM_COLUMNS):
        total[start : start + GRAM_COLUMNS, start:] += (
            scaled[:, start : start + GRAM_COLUMNS].T @ P[:, start:]
        )
