"""Linear models in closed form: with eta = X theta, the gradient of example i is x_i (x) r_i and H = X^T W X.

A linear model is never treated as a network: no automatic differentiation, float64, products at the price of reading X.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..data.design import Block, Design, as_design
from ..data.design_on_disk import opened
from ..data.per_example import per_example
from ..data.user_terms import Terms
from ..frozen import features, pull_back
from ..linalg.flat_vectors import Layout
from ..losses import LinearLoss, Parts, Softmax
from ..measures import Measure, OfParameters, Overall
from ..objective import Objective, check_keep, check_weights, expand_l2
from ..runtime.distributed import gather_rows, own_seed, shard, sum_across
from ..types import Keep, Operator, Tensor, as_tensor, wide
from .newton_training import minimise

BLOCK_ELEMENTS = 1 << 18
"""Numbers of a block (of X, or rows x classes x vectors of a product): they stay in cache until they are read again."""
BLOCK_ROWS = 2048
"""The least rows of a block of X."""


class LinearProblem(Objective):
    """A linear model with its loss: R = (1/n) sum_i w_i l(x_i theta, y_i) + 1/2 sum_j l2_j theta_j^2.

    X (n, d) is dense or SciPy-sparse, y the targets as `loss` documents them, `coef` (c, d) and `intercept` (c,) or
    None the trained parameters. theta is `coef` row by row, then the intercept, as `torch.nn.Linear` orders them.
    The intercept's penalty `l2_intercept` is 0 unless given. Everything is float64; X stays in its own precision.
    `keep` says which retraining is predicted: "mean" (the paper) or "total" (scikit-learn with the same C).
    `terms` is for data that the user has in another form than X and y: see `Terms`.

    Raises ValueError for wrong shapes, targets out of range, NaN or infinity (with the first example's index).

    >>> import torch
    >>> from upweight.losses import Logistic
    >>> X, y = torch.eye(4, 3), torch.tensor([0, 1, 0, 1])
    >>> problem = LinearProblem.fit(X, y, loss=Logistic(), l2=0.1)
    >>> problem.n, problem.p, bool(problem.gradient().norm() < 1e-9)
    (4, 3, True)
    """

    convex = True
    deterministic = True

    def __init__(
        self,
        X: Any,
        y: Any,
        coef: Any,
        intercept: Any = None,
        *,
        loss: LinearLoss,
        l2: Any = 0.0,
        l2_intercept: float = 0.0,
        weights: Any = None,
        keep: Keep = "mean",
        terms: Terms | None = None,
    ) -> None:
        check_keep(keep)
        self.terms = terms or Terms()
        self.design: Design = X if isinstance(X, Design) else opened(X)
        coef = as_tensor(coef).double()
        coef = coef.reshape(1, -1) if coef.ndim == 1 else coef
        if coef.ndim != 2:
            raise ValueError(f"coef must have shape (c, d) or (d,), got {tuple(coef.shape)}")
        self.n, self.d = self.design.shape
        self.c = len(coef)
        if coef.shape[1] != self.d:
            raise ValueError(f"coef has {coef.shape[1]} columns, X has {self.d}")
        parts = [coef.flatten()]
        names: tuple[str, ...] = ("weight",)
        shapes: tuple[tuple[int, ...], ...] = ((self.c, self.d),)
        self.has_intercept = intercept is not None
        if self.has_intercept:
            bias = as_tensor(intercept).double().flatten()
            if len(bias) != self.c:
                raise ValueError(f"intercept has {len(bias)} entries, coef has {self.c} rows")
            parts.append(bias)
            names, shapes = ("weight", "bias"), (*shapes, (self.c,))
        self.layout = Layout(names, shapes)
        self.theta = torch.cat(parts)
        if not self.theta.isfinite().all():
            raise ValueError(
                f"coef or intercept has a NaN or infinity, first at entry {_first_bad(self.theta)}"
            )
        self.loss, self.keep = loss, keep
        self.y = self._encode(y, self.n)
        self.l2 = expand_l2(l2, self.theta)
        if not (math.isfinite(l2_intercept) and l2_intercept >= 0):
            raise ValueError(f"l2_intercept must be >= 0 and finite, got {l2_intercept}")
        if torch.as_tensor(l2).ndim == 1 and l2_intercept != 0:
            raise ValueError("l2 per parameter already covers the intercept; leave l2_intercept out")
        if self.has_intercept and torch.as_tensor(l2).ndim == 0:
            self.l2[self.c * self.d :] = l2_intercept
        self.weights = check_weights(weights, self.n)
        self._parts: dict[torch.dtype, Parts] = {}
        self._sum: Tensor | None = None

    @classmethod
    def fit(
        cls,
        X: Any,
        y: Any,
        *,
        loss: LinearLoss,
        outputs: int = 1,
        intercept: bool = False,
        tolerance: float = 1e-9,
        **options: Any,
    ) -> LinearProblem:
        """Train from zero to a gradient norm of `tolerance`.

        `options` go to the constructor. Raises `NotConvergedError` where the optimum is not reached (separable data
        without a penalty, say).
        """
        design = X if isinstance(X, Design) else opened(X)
        bias = np.zeros(outputs) if intercept else None
        start = cls(design, y, np.zeros((outputs, design.shape[1])), bias, loss=loss, **options)
        return start.minimised(tolerance)

    def minimised(self, tolerance: float = 1e-9) -> LinearProblem:
        """This problem at its optimum, starting from theta. Raises `NotConvergedError`."""
        return minimise(self, tolerance)

    def at(self, theta: Float[Tensor, " p"]) -> LinearProblem:
        """The same problem at other parameters; the data are shared."""
        other = object.__new__(LinearProblem)
        other.__dict__.update(self.__dict__)
        other._forget()
        other.theta = theta.detach().double().clone()
        other._parts = {}
        other._sum = None
        return other

    def subset(self, index: Int[Tensor, " b"]) -> LinearProblem:
        other = self.at(self.theta)
        other.design = self.design.take(index)
        other.n = len(index)
        other.y, other.weights = self.y[index], self.weights[index]
        other.terms = self.terms.take(index)
        other._parts = {dtype: parts.take(index) for dtype, parts in self._parts.items()}
        return other

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return self.design.precisions

    # -- the model's outputs ---------------------------------------------------------------------------------------

    def _encode(self, y: Any, count: int) -> Tensor:
        targets = as_tensor(y)
        if targets.ndim == 0 or len(targets) != count:
            raise ValueError(f"X has {count} examples, y has {len(targets) if targets.ndim else 0}")
        if targets.is_floating_point() and not targets.isfinite().all():
            raise ValueError(f"y has a NaN or infinity, first in example {_first_bad(targets)}")
        return self.loss.encode(targets, self.c)

    def _split(self, rows: Float[Tensor, "k p"]) -> tuple[Tensor, Tensor | None]:
        """Rows -> weights (k, c, d), intercepts (k, c)."""
        cd = self.c * self.d
        bias = rows[:, cd:] if self.has_intercept else None
        return rows[:, :cd].view(len(rows), self.c, self.d), bias

    def _outputs(self, design: Design, theta: Tensor) -> Float[Tensor, "b c"]:
        rows = theta.view(1, -1)
        return torch.cat(
            [
                self._forward(block, rows)[:, :, 0]
                for _, block in design.blocks(self._rows_at_once, theta.dtype)
            ]
        )

    def _forward(self, block: Block, rows: Float[Tensor, "k p"]) -> Float[Tensor, "b c k"]:
        weight, bias = self._split(rows)
        eta = block.forward(weight.transpose(0, 1).reshape(-1, self.d)).view(-1, self.c, len(rows))
        return eta if bias is None else eta + bias.T

    def _backward(self, block: Block, Z: Float[Tensor, "b c k"]) -> Float[Tensor, "k p"]:
        k = Z.shape[2]
        weight = block.backward(Z.flatten(1)).view(self.c, k, self.d).transpose(0, 1).reshape(k, -1)
        return weight if not self.has_intercept else torch.cat([weight, Z.sum(0).T], dim=1)

    def _derivatives(self, dtype: torch.dtype) -> Parts:
        """Losses and derivatives in the outputs of every example, at theta: one pass, in float64."""
        dtype = wide(dtype)
        if dtype not in self._parts:
            exact = self._parts.get(torch.float64) or self._differentiate()
            self._parts[torch.float64] = exact
            self._parts[dtype] = exact.to(dtype)
        return self._parts[dtype]

    def _differentiate(self) -> Parts:
        rows = self.theta.view(1, -1)
        total = torch.zeros(1, self.p, dtype=torch.float64)
        own = shard(self.n)
        size = own.stop - own.start
        loss, a, r = (torch.empty(size, *more, dtype=torch.float64) for more in ((), (self.c,), (self.c,)))
        u: Tensor | None = None
        for part, block in self.design.blocks(self._rows_at_once, torch.float64, own):
            here = slice(part.start - own.start, part.stop - own.start)
            eta, y, w = self._forward(block, rows)[:, :, 0], self.y[part], self.weights[part, None]
            loss[here], r[here] = self.loss.value(eta, y), self.loss.residual(eta, y) * w
            bend, low = self.loss.curvature(eta, y)
            a[here] = bend * w
            if low is not None:
                u = torch.empty_like(a) if u is None else u
                u[here] = low * w.sqrt()
            total += self._backward(block, r[here, :, None])
        self._sum = sum_across(total)[0]
        return Parts(gather_rows(loss), gather_rows(a), None if u is None else gather_rows(u), gather_rows(r))

    def _block_size(self, k: int) -> int:
        return max(1024, min(8192, BLOCK_ELEMENTS // max(1, k * self.c)))

    @property
    def _rows_at_once(self) -> int:
        return max(BLOCK_ROWS, min(8192, BLOCK_ELEMENTS // self.d))

    # -- the objective ---------------------------------------------------------------------------------------------

    def value(self) -> float:
        """R(theta)."""
        losses = self.train_losses() * self.weights
        return float(losses.mean() + 0.5 * (self.l2 * self.theta.square()).sum())

    def train_losses(self) -> Float[Tensor, " n"]:
        return self._derivatives(torch.float64).loss

    def gradient(self) -> Float[Tensor, " p"]:
        if self._sum is None:
            self._parts[torch.float64] = self._differentiate()
        assert self._sum is not None
        return self._sum / self.n + self.l2 * self.theta

    def train_batch(self, index: Int[Tensor, " b"]) -> tuple[Design, Tensor]:
        return self.design.take(index), self.y[index]

    def train_gradients(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        r = self._derivatives(torch.float64).r
        X = self.design.take(index).block(slice(None), torch.float64).dense()
        return self._outer(r[index], X) + self.folded_penalty

    def gradients_as_train(self, batch: Any) -> Float[Tensor, "b p"]:
        return self.test_gradients(batch) + self.folded_penalty

    def _outer(self, r: Float[Tensor, "b *s c"], X: Float[Tensor, "b d"]) -> Float[Tensor, "b *s p"]:
        """r_i (x) x_i, laid out as theta."""
        weight = torch.einsum("b...c,bd->b...cd", r, X).flatten(-2)
        return weight if not self.has_intercept else torch.cat([weight, r], dim=-1)

    def output_gradients(self, batch: Any) -> Float[Tensor, "m c p"]:
        """The gradient of each output of each example of `batch`."""
        X = self._test(batch)[0].block(slice(None), torch.float64).dense()
        return self._outer(torch.eye(self.c, dtype=torch.float64).expand(len(X), -1, -1), X)

    def products(
        self, rows: Float[Tensor, "k p"], within: slice | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "k b"]]]:
        r = self._derivatives(rows.dtype).r
        constant = rows @ self.folded_penalty.to(rows.dtype)
        within = within or shard(self.n)
        for part, block in self.design.blocks(self._block_size(len(rows)), rows.dtype, within):
            eta, own = self._forward(block, rows), r[part, :, None]
            scores = eta.mul_(own) if self.c == 1 else torch.bmm(own.mT, eta)
            yield part, scores[:, 0].add_(constant).T

    # -- test examples ---------------------------------------------------------------------------------------------

    def _test(self, batch: Any) -> tuple[Design, Any]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a batch is (inputs, targets), got {type(batch).__name__}")
        X, y = batch
        if isinstance(X, Design):  # rows of `train_batch`: nothing to prepare
            return X, y
        if self.terms.prepare is not None:
            X, y = self.terms.prepare(X, y)
        if self.terms.network is not None:
            X = features(self.terms.network, X)
        design = as_design(X, "the batch's inputs")
        if design.shape[1] != self.d:
            raise ValueError(f"the batch has {design.shape[1]} columns, the model was trained on {self.d}")
        return design, y

    def evaluate(
        self, batch: Any, measure: Measure | None = None, theta: Tensor | None = None
    ) -> Float[Tensor, " m"]:
        theta = self.theta if theta is None else theta
        if isinstance(measure, OfParameters):
            return measure.function(self.layout.unpack(theta)).view(1)
        design, y = self._test(batch)
        return self._measured(self._outputs(design, theta), y, measure)

    def evaluate_each(
        self, batch: Any, thetas: Float[Tensor, "k p"], measure: Measure | None = None
    ) -> Float[Tensor, "k m"]:
        """`evaluate` at each of many parameters."""
        if isinstance(measure, (OfParameters, Overall)):
            return torch.stack([self.evaluate(batch, measure, theta) for theta in thetas])
        design, y = self._test(batch)
        found = []
        for part in thetas.split(max(1, BLOCK_ELEMENTS // (design.shape[0] * self.c))):
            blocks = design.blocks(self._rows_at_once, torch.float64)
            eta = torch.cat([self._forward(block, part) for _, block in blocks]).permute(2, 0, 1)
            targets = as_tensor(y)
            targets = targets.repeat(len(part), *[1] * (targets.ndim - 1))
            found.append(self._measured(eta.flatten(0, 1), targets, measure).view(len(part), -1))
        return torch.cat(found)

    def _measured(self, eta: Tensor, y: Any, measure: Measure | None) -> Float[Tensor, " m"]:
        if measure is None:
            return self.loss.value(eta, self._encode(y, len(eta)))
        y = as_tensor(y)
        if y.ndim == 0 or len(y) != len(eta):
            raise ValueError(f"X has {len(eta)} examples, y has {len(y) if y.ndim else 0}")
        if isinstance(measure, Overall):
            return measure.function(eta, y).view(1)
        assert not isinstance(measure, OfParameters)
        return per_example(measure, eta, y)

    def test_gradients(self, batch: Any, measure: Measure | None = None) -> Float[Tensor, "m p"]:
        if isinstance(measure, OfParameters):
            theta = self.theta.clone().requires_grad_()
            return torch.autograd.grad(self.evaluate(batch, measure, theta), theta)[0].view(1, -1)
        design, y = self._test(batch)
        eta = self._outputs(design, self.theta)
        if measure is None:
            X = design.block(slice(None), torch.float64).dense()
            return self._outer(self.loss.residual(eta, self._encode(y, len(eta))), X)
        eta.requires_grad_()
        # Examples do not mix in `_measured` (unless Overall), so one gradient of the sum holds every row's own.
        residual = torch.autograd.grad(self._measured(eta, y, measure).sum(), eta)[0]
        if isinstance(measure, Overall):
            blocks = design.blocks(self._rows_at_once, torch.float64)
            return torch.stack(
                [self._backward(block, residual[part, :, None]) for part, block in blocks]
            ).sum(0)
        return self._outer(residual, design.block(slice(None), torch.float64).dense())

    def input_gradients(
        self, batch: Any, rows: Float[Tensor, "k p"], at: str | None = None
    ) -> Float[Tensor, "k b *x"]:
        if at is not None:
            raise ValueError(f"a linear problem has no layer {at!r}: leave out at=")
        found = self.feature_gradients(batch, rows)
        if self.terms.network is None or isinstance(batch[0], Design):
            return found
        return pull_back(self.terms.network, as_tensor(batch[0]), found)

    def feature_gradients(self, batch: Any, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k b d"]:
        """The same in the columns of X: where a frozen network ends."""
        design, y = self._test(batch)
        eta = self._outputs(design, self.theta)
        encoded = self._encode(y, len(eta))
        r = self.loss.residual(eta, encoded)
        parts = Parts(r[:, 0], *self.loss.curvature(eta, encoded), r)
        Z = parts.curve(self._forward(design.block(slice(None), torch.float64), rows.to(torch.float64)))
        weight, _ = self._split(rows.to(torch.float64))
        theta, _ = self._split(self.theta.view(1, -1))
        return torch.einsum("bc,kcd->kbd", r, weight) + torch.einsum("bck,cd->kbd", Z, theta[0])

    # -- curvature -------------------------------------------------------------------------------------------------

    def operator(self, *, gauss_newton: bool = False, dtype: torch.dtype | None = None) -> Operator:
        # A linear model's Gauss-Newton matrix is its Hessian.
        dtype = dtype or self.dtype
        parts = self._derivatives(dtype)
        l2 = self.l2.to(wide(dtype))

        def product(rows: Tensor) -> Tensor:
            total = torch.zeros_like(rows)
            for part, block in self.design.blocks(self._block_size(len(rows)), dtype, shard(self.n)):
                total += self._backward(block, parts.take(part).curve(self._forward(block, rows)))
            return sum_across(total).div_(self.n).add_(l2 * rows)

        return product

    def sampled(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"], *, gauss_newton: bool = False
    ) -> Float[Tensor, "k p"]:
        k, b = index.shape
        flat = index.flatten()
        X = self.design.take(flat).block(slice(None), rows.dtype).dense().view(k, b, self.d)
        weight, bias = self._split(rows)
        eta = X @ weight.transpose(1, 2)
        eta = eta if bias is None else eta + bias[:, None]
        parts = self._derivatives(rows.dtype).take(flat)
        Z = parts.curve(eta.view(k * b, self.c, 1)).view(k, b, self.c) / b
        out = (Z.transpose(1, 2) @ X).flatten(1)
        out = torch.cat([out, Z.sum(1)], dim=1) if self.has_intercept else out
        return out + self.l2.to(rows.dtype) * rows

    def matrix(self, *, gauss_newton: bool = False, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """H (p, p) from symmetric products, class pair by class pair; memory p^2 numbers and two blocks."""
        dtype = dtype or self.dtype
        _, a, u, _ = self._derivatives(dtype)
        c, d = self.c, self.d
        H = torch.zeros(self.p, self.p, dtype=dtype)
        weight, cross, corner = H[: c * d, : c * d].view(c, d, c, d), H[: c * d, c * d :], H[c * d :, c * d :]
        pairs = [(i, j) for i in range(c) for j in range(i, c if u is not None else i + 1)]
        for part, block in self.design.blocks(self._rows_at_once, dtype, shard(self.n)):
            for i, j in pairs:
                w = a[part, i] if i == j else torch.zeros_like(a[part, i])
                if u is not None:
                    w = w - u[part, i] * u[part, j]
                block.gram(w, weight[i, :, j])
                if self.has_intercept:
                    cross.view(c, d, c)[i, :, j] += block.backward(w[:, None])[0]
                    corner[i, j] += w.sum()
        sum_across(H)
        for i, j in pairs:
            upper = weight[i, :, j].triu()
            weight[i, :, j] = upper + upper.triu(1).T
            weight[j, :, i] = weight[i, :, j]
            if self.has_intercept:
                cross.view(c, d, c)[j, :, i] = cross.view(c, d, c)[i, :, j]
                corner[j, i] = corner[i, j]
        H[c * d :, : c * d] = cross.T
        H.div_(self.n).diagonal().add_(self.l2.to(dtype))
        return H

    def draws(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        generator = torch.Generator().manual_seed(own_seed(generator))
        parts, total = self._derivatives(torch.float64), torch.zeros(k, self.p, dtype=torch.float64)
        for part, block in self.design.blocks(self._block_size(k), torch.float64, shard(self.n)):
            S = parts.take(part).root()
            total += self._backward(
                block, S @ torch.randn(*S.shape[:2], k, generator=generator, dtype=S.dtype)
            )
        return sum_across(total) / self.n**0.5

    def root(self, *, gauss_newton: bool = False) -> Float[Tensor, "r p"] | None:
        if self.n * self.c >= self.p:
            return None
        every = torch.arange(self.n)
        return self.curvature_root(every).flatten(0, 1) / self.n**0.5

    def curvature_root(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b c p"]:
        """C_i (c, p) of those training examples: C_i^T C_i is the Hessian of w_i l(z_i), without penalty."""
        S = self._derivatives(torch.float64).take(index).root()
        X = self.design.take(index).block(slice(None), torch.float64).dense()
        return self._outer(S.transpose(1, 2), X)

    @property
    def gauge(self) -> Float[Tensor, "q p"] | None:
        # Softmax does not see a shift of all outputs: each unpenalised column (or intercept) can be shifted freely.
        if not isinstance(self.loss, Softmax):
            return None
        weight, bias = self._split(self.l2.view(1, -1))
        free = [i for i in range(self.d) if not bool(weight[0, :, i].any())]
        identity = torch.eye(self.d, dtype=torch.float64)[free].repeat(1, self.c)
        if bias is None:
            return identity / self.c**0.5 if free else None
        rows = torch.cat([identity, torch.zeros(len(free), self.c, dtype=torch.float64)], dim=1)
        if not bool(bias.any()):
            shift = torch.zeros(1, self.p, dtype=torch.float64)
            shift[0, self.c * self.d :] = 1.0
            rows = torch.cat([rows, shift])
        return rows / self.c**0.5 if len(rows) else None

    def _hashed(self) -> list[Tensor]:
        settings = repr(dataclasses.asdict(self.loss)) + type(self.loss).__name__  # type: ignore[call-overload]
        name = torch.tensor(list(settings.encode()), dtype=torch.uint8)
        return [*self.design.buffers(), self.y, self.weights, name]


def _first_bad(values: Tensor) -> int:
    return int((~values.isfinite()).flatten().nonzero()[0, 0])
