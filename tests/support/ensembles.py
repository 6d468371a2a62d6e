"""Invented ensembles of trees: leaves drawn at random, so that nothing about a library comes in; and a naive twin."""

from typing import Any

import torch

from upweight.trees.losses import (
    BoostedLogistic,
    BoostedLoss,
    BoostedSoftmax,
    BoostedSquared,
    BoostedTweedie,
    CoupledSoftmax,
)
from upweight.trees.seen import Fitted
from upweight.trees.start import FromMean
from upweight.trees.structure import Round, Structure, Tree
from upweight.trees.trained import Trained

LOSSES: dict[str, tuple[BoostedLoss, int]] = {
    "logistic": (BoostedLogistic(), 1),
    "against the rest": (BoostedLogistic(), 3),
    "softmax": (BoostedSoftmax(1.5), 3),
    "squared": (BoostedSquared(), 1),
    "poisson": (BoostedTweedie(1.0, 2.0), 1),
    "tweedie": (BoostedTweedie(1.5), 1),
    "gamma": (BoostedTweedie(2.0), 1),
}
"""Losses and how many outputs they have here."""
ALL = {**LOSSES, "coupled": (CoupledSoftmax(), 3)}
"""With those whose values in a leaf are solved for together."""


def invented(
    loss: BoostedLoss, c: int, *, steps: tuple[float, ...] = (1.0,), bags: bool = False, l1: float = 1e-5
) -> Trained:
    """Two rounds of trees with four leaves, on 40 rows with weights."""
    n, rounds, size = 40, 2, 4
    l1 = 0.0 if loss.together else l1
    draw = torch.Generator().manual_seed(3)
    leaf = torch.randint(0, size, (rounds * c, n), generator=draw).short()
    bag = torch.randint(0, 3, (rounds, n), generator=draw).to(torch.uint8) if bags else None
    damping = torch.rand(size, generator=draw).double() + 0.5
    trees = [
        [
            Tree(t * c + k * (not loss.together), k, size, damping, l1=l1, bag=t if bags else None)
            for k in range(c)
        ]
        for t in range(rounds)
    ]
    structure = Structure(
        tuple(Round(tuple(own), 0.3, steps) for own in trees),
        c,
        leaf,
        lambda rows: leaf[:, torch.as_tensor(rows)],
        bag,
    )
    w = torch.rand(n, generator=draw).double() + 0.5
    link, y = "identity", torch.rand(n, generator=draw).double()[:, None] + 0.1
    if isinstance(loss, BoostedLogistic) and c == 1:
        link, y = "logit", torch.where(y[:, 0] < 0.5, 1.0, -1.0).double()
    elif loss.loss.classifies:
        link, y = "log", torch.randint(0, c, (n,), generator=draw)
    elif isinstance(loss, BoostedTweedie):
        link = "log"
    return Trained(structure, loss, FromMean(link, centred=c > 1), y, loss.numbers(y, c), w)


def equations(trained: Trained, theta: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """What is 0 at the fitted leaf values, written out: (H + L) V - soft(G) of every leaf."""
    structure, loss = trained.structure, trained.loss
    scores = theta[: structure.c].repeat(trained.n, 1)
    start = trained.start.value((w @ trained.numbers) / w.sum())
    found = [theta[: structure.c] - start]
    for one, places in structure.numbered():
        inside = scores
        for step, share in zip(places, one.steps, strict=True):
            moved = inside
            values = torch.stack([theta[place] for place in step], 1)
            for tree, place in zip(one.trees, step, strict=True):
                where = structure.leaf[tree.leaf].long()
                slopes = plain_slopes(loss, inside, trained.targets)
                if loss.together:
                    p = inside.softmax(1)
                    Hv = p * values[where] - p * (p * values[where]).sum(1, keepdim=True)
                    slopes = slopes[0], Hv / values[where]
                own = w if tree.bag is None or structure.bags is None else w * structure.bags[tree.bag]
                G, H = (
                    torch.zeros(tree.size, dtype=w.dtype).index_add(0, where, own * part[:, tree.output])
                    for part in slopes
                )
                pulled = torch.sign(G) * (G.abs() - tree.l1).clamp(min=0)
                found.append((H + tree.damping) * theta[place] - pulled)
                moved = moved + share * theta[place][where][:, None] * one_hot(tree.output, structure.c)
            inside = moved
        scores = scores + one.rate * (inside - scores)
    return torch.cat(found)


def one_hot(k: int, c: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(k), c).double()


def plain_slopes(
    loss: BoostedLoss, scores: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals and second derivatives (n, c) that autograd can go through: those of classes are computed in place."""
    if scores.shape[1] == 1 or isinstance(loss, BoostedLogistic):
        return loss.slopes(scores, targets)[:2]
    p = scores.softmax(1)
    return torch.nn.functional.one_hot(targets, scores.shape[1]) - p, loss.factor * p * (1 - p)


def differentiated(
    loss: BoostedLoss, scores: torch.Tensor, targets: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and second derivative of the loss in output k, the latter times the library's factor."""
    scores = scores if scores.requires_grad else scores.clone().requires_grad_()
    value = loss.loss.value(scores, targets).sum()
    slope = torch.autograd.grad(value, scores, create_graph=True)[0][:, k]
    bend = torch.autograd.grad(slope.sum(), scores, create_graph=True, materialize_grads=True)[0][:, k]
    return slope, loss.factor * bend


def jacobians(trained: Trained, fitted: Fitted) -> tuple[torch.Tensor, torch.Tensor]:
    """The derivatives of all equations in theta (p, p), and what each row puts into them (n, p), both written out."""

    def of_theta(theta: torch.Tensor) -> torch.Tensor:
        return equations(trained, theta, trained.w)

    def of_rows(log: torch.Tensor) -> torch.Tensor:
        return equations(trained, fitted.theta, trained.w * log.exp())

    dense: Any = torch.func.jacfwd
    return dense(of_theta)(fitted.theta), -dense(of_rows)(torch.zeros_like(trained.w)).T
