"""The curvature of a loss in the model's outputs, and Jacobians seen through it: J^T H_out J = P^T diag(sign) P."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch.func import vjp, vmap
from torch.utils._pytree import tree_flatten

from ..data.examples import batched, examples
from ..types import Tensor
from .comparisons import FEW, gap_to_plain, head
from .evaluation import MOST_OUTPUTS, Evaluation

FEW_OUTPUTS = 128
"""Up to this many outputs per example the Gauss-Newton matrix comes from Jacobians, not from products."""
Slope: TypeAlias = Callable[[Evaluation, Tensor, Any], Tensor]
"""The derivative of the losses in the outputs of a batch, one row (c,) per example."""


def flat_outputs(outputs: Any, b: int) -> Tensor:
    """All outputs of an example in one row: (b, c)."""
    with torch.enable_grad():
        return torch.cat([leaf.reshape(b, -1) for leaf in tree_flatten(outputs)[0]], dim=1)


def output_roots(of: Evaluation, theta: Tensor, batch: Any, outputs: Any = None) -> tuple[Tensor, Tensor]:
    """S and sign with S^T diag(sign) S the Hessian of each example's loss in its c outputs, whatever the loss.

    Args:
        of: the model with its loss.
        theta: where they are evaluated (p,).
        batch: b examples.
        outputs: the model's outputs, where they are there already.

    Returns:
        S (b, c, c) and sign (b, c), which is negative where the loss is not convex in its outputs.

    Raises:
        ValueError: for more than `MOST_OUTPUTS` outputs, and where the Hessian is not finite.
    """
    flat, slope = slopes(of, theta, batch, outputs)
    c = flat.shape[1]
    if c > MOST_OUTPUTS:
        raise ValueError(
            f"an example has {c} outputs: their curvature matrix is formed for up to {MOST_OUTPUTS}; take a cross "
            "entropy over the outputs' last dimension with samples= (EKFAC(problem, samples=1), say), a loss of fewer "
            "outputs, or ConjugateGradient without EKFAC"
        )
    at = flat.requires_grad_()
    there = slope(of, at, batch)
    if there.requires_grad:
        # Examples do not mix: one backward pass per output gives a column of every example's matrix.
        with torch.enable_grad():
            sums = [there[:, j].sum() for j in range(c)]
        columns = [
            torch.autograd.grad(total, at, retain_graph=True, materialize_grads=True)[0] for total in sums
        ]
        H = torch.stack(columns, dim=2)
    else:
        H = flat.new_zeros(len(flat), c, c)
    if not bool(H.isfinite().all()):
        raise ValueError("the loss's curvature in the outputs is not finite: check loss and data")
    values, vectors = torch.linalg.eigh((H + H.mT) / 2)
    return values.abs().sqrt()[:, :, None] * vectors.mT, values.sign()


def slopes(
    of: Evaluation, theta: Tensor, batch: Any, outputs: Any = None
) -> tuple[Float[Tensor, "b c"], Slope]:
    """The outputs of every example in one row, and the derivative of the losses in such rows, with its graph.

    Args:
        of: the model with its loss.
        theta: where the model is evaluated (p,).
        batch: b examples.
        outputs: the model's outputs, where they are there already.

    Returns:
        The outputs, and the function (evaluation, outputs (b, c), batch) -> slopes (b, c).
    """
    leaves, spec = _leaves(of, theta, batch, outputs)
    sizes, shapes = [leaf[0].numel() for leaf in leaves], [leaf.shape[1:] for leaf in leaves]

    def slope(of: Evaluation, at: Tensor, batch: Any) -> Tensor:
        with torch.enable_grad():
            at = at if at.requires_grad else at.detach().requires_grad_()
            split = at.split(sizes, dim=1)
            parts = [part.view(len(at), *shape) for part, shape in zip(split, shapes, strict=True)]
            total = of.measured(spec.unflatten(parts), batch).sum()
            return torch.autograd.grad(total, at, create_graph=True, materialize_grads=True)[0]

    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves], dim=1), slope


def _leaves(of: Evaluation, theta: Tensor, batch: Any, outputs: Any) -> tuple[list[Tensor], Any]:
    """The outputs' tensors, without graph, and their structure."""
    if outputs is None:
        with torch.no_grad():
            outputs = of.outputs(theta, batch)
    leaves, spec = tree_flatten(outputs)
    return [leaf.detach() for leaf in leaves], spec


def is_convex(S: Tensor, sign: Tensor) -> bool:
    """Whether `output_roots` has no negative curvature beyond rounding."""
    size = S.square().sum(2)
    return not bool((size * (sign < 0)).max() > 1e-3 * size.max())


def convex_roots(of: Evaluation, theta: Tensor, batch: Any, outputs: Any = None) -> Float[Tensor, "k b c"]:
    """Cotangents v of the outputs whose v v^T add up to the loss's curvature in them.

    Args:
        of: the model with its loss.
        theta: where they are evaluated (p,).
        batch: b examples.
        outputs: the model's outputs, where they are there already.

    Raises:
        ValueError: where the loss is not convex in its outputs.
    """
    S, sign = output_roots(of, theta, batch, outputs)
    if not is_convex(S, sign):
        raise ValueError(
            "the loss is not convex in the model's outputs (its output Hessian has negative eigenvalues), so it has no "
            "Gauss-Newton approximation: use Hessian with damping, or a loss that is convex in the outputs"
        )
    return S.transpose(0, 1) * (sign >= 0).T[:, :, None]


def cotangents(
    of: Evaluation,
    theta: Tensor,
    batch: Any,
    samples: int | None,
    generator: torch.Generator | None,
    outputs: Any = None,
) -> Float[Tensor, "k b c"]:
    """Cotangents v of the outputs with sum_k v v^T the loss's curvature in them, exactly or in expectation.

    Args:
        of: the model with its loss.
        theta: where they are evaluated (p,).
        batch: b examples.
        samples: how many random ones, which for a cross entropy take no matrix of outputs; None: k = c exact ones.
        generator: draws them.
        outputs: the model's outputs, where they are there already.

    Raises:
        ValueError: where the loss is not convex in its outputs, or has too many of them for that.
    """
    if samples is None:
        return convex_roots(of, theta, batch, outputs)
    entropy = _as_cross_entropy(of, theta, batch, outputs)
    if entropy is None:
        roots = convex_roots(of, theta, batch, outputs)
        signs = _signs((samples, *roots.shape[:2]), generator).to(roots)
        return torch.einsum("kcb,cbo->kbo", signs, roots) / samples**0.5
    p, scale = entropy
    z = _signs((samples, *p.shape), generator).to(p)
    # With S = diag(q) - p q^T and q = sqrt(p), S S^T = diag(p) - p p^T.
    q = p.sqrt()
    v = (scale / samples).sqrt()[..., None] * q * (z - q * (q * z).sum(-1, keepdim=True))
    return v.flatten(2)


def _signs(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2 - 1


def _as_cross_entropy(
    of: Evaluation, theta: Tensor, batch: Any, outputs: Any
) -> tuple[Tensor, Tensor] | None:
    """The p (b, ..., c) and s (b, ...) of a loss whose curvature in the outputs is s (diag(p) - p p^T) at every place.

    Here p is the softmax over the last dimension; s, zero at masked tokens, say, is fitted to one product with a random
    vector, which must then agree. None for other losses.
    """
    leaves, spec = _leaves(of, theta, batch, outputs)
    if len(leaves) != 1 or leaves[0].ndim < 2 or leaves[0].shape[-1] < 2:
        return None
    out = leaves[0].detach().requires_grad_()
    u = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
    with torch.enable_grad():
        total = of.measured(spec.unflatten([out]), batch).sum()
        slope = torch.autograd.grad(total, out, create_graph=True, materialize_grads=True)[0]
    if not slope.requires_grad:
        return None
    curved = torch.autograd.grad(slope, out, u, materialize_grads=True)[0]
    p = out.detach().softmax(-1)
    own = p * (u - (p * u).sum(-1, keepdim=True))
    size = own.square().sum(-1)
    scale = ((curved * own).sum(-1) / size.clamp(min=torch.finfo(p.dtype).tiny)).clamp(min=0)
    near = torch.finfo(p.dtype).eps ** 0.5
    error = (curved - scale[..., None] * own).flatten(1).norm(dim=1)
    return (p, scale) if bool((error <= near * curved.flatten(1).norm(dim=1)).all()) else None


def through_outputs(of: Evaluation, theta: Tensor, batch: Any, S: Tensor, index: Tensor) -> Tensor:
    """S_i J_i, the rows of S pulled back to some entries of theta, example by example.

    Args:
        of: the model.
        theta: where it is differentiated (p,).
        batch: b examples.
        S: k cotangents of each example's outputs (b, k, c).
        index: those entries (q,).

    Returns:
        The derivatives (b, k, q).
    """

    def one(example: Any, rows: Tensor) -> Tensor:
        pull = vjp(lambda part: _flat(of, theta.index_put((index,), part), example), theta[index])[1]
        return vmap(lambda row: pull(row)[0])(rows)

    def loop() -> Tensor:
        pairs = zip(examples(batch), S, strict=True)
        found = [plainly_through_outputs(of, theta, example, rows, index) for example, rows in pairs]
        return torch.stack(found)

    v = torch.randn(S.shape[1], generator=torch.Generator().manual_seed(0)).to(S)

    def plain(of: Evaluation, theta: Tensor, batch: Any) -> Tensor:
        pairs = zip(examples(batch), (v @ S).to(theta), strict=False)
        found = [plainly_through_outputs(of, theta, example, row[None], index)[0] for example, row in pairs]
        return torch.stack(found)

    return of.shortcuts.go(
        "Jacobians by vmap",
        "Jacobians are taken example by example",
        lambda: vmap(one)(batch, S),
        loop,
        lambda found: gap_to_plain(v @ found[:FEW], plain, of, theta, head(batch)),
    )


def plainly_through_outputs(
    of: Evaluation, theta: Tensor, example: Any, rows: Float[Tensor, "k c"], index: Tensor
) -> Float[Tensor, "k q"]:
    """Cotangents of one example's outputs pulled back to some entries of theta by a backward pass each.

    Args:
        of: the model.
        theta: where it is differentiated (p,).
        example: one example, without its batch dimension.
        rows: k cotangents of its outputs (k, c).
        index: those entries (q,).
    """
    part = theta[index].requires_grad_()
    with torch.enable_grad():
        there = _flat(of, theta.index_put((index,), part), example)
    if not there.requires_grad:
        return rows.new_zeros(len(rows), len(index))
    found = [
        torch.autograd.grad(there, part, row, retain_graph=True, materialize_grads=True)[0] for row in rows
    ]
    return torch.stack(found)


def _flat(of: Evaluation, theta: Tensor, example: Any) -> Float[Tensor, " c"]:
    """The outputs of one example."""
    return flat_outputs(of.call(theta, batched(example)), 1)[0]
