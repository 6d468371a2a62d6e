"""Small linear problems of every kind, each with its objective written out plainly: the twin of all fast paths."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy import sparse

from upweight import LinearProblem, Logistic, SmoothHinge, Softmax, Squared, SquaredHinge
from upweight.losses import LinearLoss, SeveralLabels


def plain_losses(loss: LinearLoss, eta: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of each example as a textbook writes it; y as the user gives it."""
    if isinstance(loss, Softmax):
        return eta.exp().sum(1).log() - eta[torch.arange(len(eta)), y]
    if isinstance(loss, Squared):
        return 0.5 * ((eta - y.reshape(len(eta), -1)) ** 2).sum(1)
    if isinstance(loss, SeveralLabels):  # every label by itself
        return torch.stack(
            [plain_losses(loss.binary, eta[:, [k]], y[:, k]) for k in range(eta.shape[1])]
        ).sum(0)
    if loss.pairs:  # every pair by itself, over the examples of its two classes
        alone: Any = replace(loss, pairs="")  # type: ignore[type-var]
        total = torch.zeros(len(eta), dtype=eta.dtype)
        for k, (i, j) in enumerate(combinations(range(loss.classes(eta.shape[1])), 2)):
            total = total + ((y == i) | (y == j)) * plain_losses(alone, eta[:, [k]], (y == i).long())
        return total
    if eta.shape[1] > 1:  # one against the rest: every output by itself
        columns = [plain_losses(loss, eta[:, [k]], (y == k).long()) for k in range(eta.shape[1])]
        return torch.stack(columns).sum(0)
    margin = torch.where(y > 0, 1.0, -1.0).double() * eta[:, 0]
    if isinstance(loss, Logistic):
        return (1 + (-margin).exp()).log()
    if isinstance(loss, SquaredHinge):
        return (1 - margin).clamp(min=0) ** 2
    assert isinstance(loss, SmoothHinge)
    return loss.temperature * (1 + ((1 - margin) / loss.temperature).exp()).log()


@dataclass(frozen=True)
class Case:
    """One problem: X as handed to the library, `dense` the same numbers in float64, and a test batch."""

    name: str
    loss: LinearLoss
    X: Any
    y: torch.Tensor
    test: tuple[Any, torch.Tensor]
    c: int = 1
    intercept: bool = False
    keep: Any = "mean"
    l2: float = 0.05
    l2_intercept: float = 0.0
    weights: torch.Tensor | None = field(default=None, repr=False)

    @cached_property
    def dense(self) -> torch.Tensor:
        return to_dense(self.X)

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def w(self) -> torch.Tensor:
        return torch.ones(self.n, dtype=torch.float64) if self.weights is None else self.weights

    @cached_property
    def problem(self) -> LinearProblem:
        """At the optimum."""
        options: dict[str, Any] = {
            "loss": self.loss,
            "l2": self.l2,
            "weights": self.weights,
            "keep": self.keep,
        }
        if self.intercept:
            options["l2_intercept"] = self.l2_intercept
        return LinearProblem.fit(
            self.X, self.y, outputs=self.c, intercept=self.intercept, tolerance=1e-11, **options
        )

    @cached_property
    def elsewhere(self) -> LinearProblem:
        """At parameters that are no optimum, so that nothing cancels."""
        return self.problem.at(draw(self.p, seed=5))

    @property
    def p(self) -> int:
        return self.c * (self.dense.shape[1] + self.intercept)

    @cached_property
    def penalty(self) -> torch.Tensor:
        """(p,)."""
        cd = self.c * self.dense.shape[1]
        return torch.tensor([self.l2] * cd + [self.l2_intercept] * (self.p - cd), dtype=torch.float64)

    def outputs(self, theta: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
        cd = self.c * X.shape[1]
        eta = X @ theta[:cd].view(self.c, -1).T
        return eta + theta[cd:] if self.intercept else eta

    def losses(self, theta: torch.Tensor, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return plain_losses(self.loss, self.outputs(theta, X), y)

    def losses_of(self, eta: torch.Tensor) -> torch.Tensor:
        """The training losses at other outputs (n, c)."""
        return plain_losses(self.loss, eta, self.y)

    def train_objective(self, theta: torch.Tensor) -> torch.Tensor:
        """(n,): w_i l(z_i), with the penalty folded in where keep is "mean"."""
        folded = (0.5 * self.penalty * theta**2).sum() if self.keep == "mean" else 0.0
        return self.w * self.losses(theta, self.dense, self.y) + folded

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        return (self.w * self.losses(theta, self.dense, self.y)).mean() + (
            0.5 * self.penalty * theta**2
        ).sum()

    def hessian(self, theta: torch.Tensor) -> torch.Tensor:
        return torch.autograd.functional.hessian(self.value, theta)

    def up_weighted(self, eps: float, X: torch.Tensor, y: torch.Tensor, *, less: Any = None) -> torch.Tensor:
        """argmin R + eps L(z) for the one example (X, y), minus eps L(`less`) where given. The judge: plain Newton."""
        folded = 1 + eps * (less is None) * (self.keep == "mean")

        def value(theta: torch.Tensor) -> torch.Tensor:
            total = (self.w * self.losses(theta, self.dense, self.y)).mean() + eps * self.losses(
                theta, X, y
            ).sum()
            if less is not None:
                total = total - eps * self.losses(theta, *less).sum()
            return total + folded * (0.5 * self.penalty * theta**2).sum()

        return newton(value, self.problem.theta)


def newton(value: Any, start: torch.Tensor, tolerance: float = 1e-13) -> torch.Tensor:
    """argmin of a smooth convex function of few numbers, by autograd alone."""
    theta = start.clone()
    for _ in range(50):
        leaf = theta.clone().requires_grad_()
        gradient = torch.autograd.grad(value(leaf), leaf)[0]
        if float(gradient.norm()) <= tolerance:
            break
        step = torch.linalg.solve(torch.autograd.functional.hessian(value, theta), gradient)
        size, here = 1.0, float(value(theta))
        while float(value(theta - size * step)) > here + 1e-14 * (1 + abs(here)) and size > 1e-4:
            size /= 2
        theta = theta - size * step
    assert float(gradient.norm()) <= 1e-11, f"the judge stopped at gradient norm {float(gradient.norm()):.1e}"
    return theta


def to_dense(X: Any) -> torch.Tensor:
    """Any X as a float64 tensor."""
    return torch.as_tensor(X.toarray() if sparse.issparse(X) else np.asarray(X)).double()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(
    name: str, loss: LinearLoss, n: int = 40, d: int = 4, c: int = 1, kind: str = "dense", **fields: Any
) -> Case:
    """A problem with some structure: targets depend on X, so that no example is typical."""
    X, noise = draw(n + 5, d, seed=1), draw(n + 5, c, seed=2)
    eta = X @ draw(c, d, seed=3).T + noise
    if isinstance(loss, Squared):
        y = eta if c > 1 else eta[:, 0]
    elif isinstance(loss, SeveralLabels):
        y = (eta > 0).long()
    elif isinstance(loss, Softmax) or c > 1:
        y = eta[:, : loss.classes(c)].argmax(1)
    else:
        y = (eta[:, 0] > 0).long()
        y = y if fields.pop("zero_one", True) else 2 * y - 1
    given: Any = X
    if kind == "float32":
        given = X.float()
    elif kind == "sparse":
        given = sparse.csr_array((X * (X.abs() > 0.5)).numpy())
    if fields.pop("weighted", False):
        fields["weights"] = 0.2 + torch.rand(n, generator=torch.Generator().manual_seed(4)).double()
    return Case(name, loss, given[:n], y[:n], (given[n:], y[n:]), c=c, **fields)


CASES = [
    make("softmax", Softmax(), c=3),
    make("softmax total intercept", Softmax(), c=3, intercept=True, l2_intercept=0.02, keep="total"),
    make(
        "softmax weights float32",
        Softmax(),
        c=3,
        kind="float32",
        weighted=True,
        intercept=True,
        l2_intercept=0.01,
    ),
    make("softmax n < p", Softmax(), n=6, d=12, c=3, weighted=True, keep="total"),
    make("logistic", Logistic(), keep="total"),
    make("logistic sparse intercept weights", Logistic(), kind="sparse", intercept=True, weighted=True),
    make("logistic n < p intercept", Logistic(), n=12, d=20, intercept=True, zero_one=False),
    make("logistic n < p penalised", Logistic(), n=12, d=20, intercept=True, l2_intercept=0.1, keep="total"),
    make("squared", Squared(), intercept=True, weighted=True, keep="total"),
    make("squared two outputs", Squared(), c=2, kind="float32"),
    make("squared two outputs sparse n < p", Squared(), n=7, d=11, c=2, kind="sparse", intercept=True),
    make("smooth hinge", SmoothHinge(0.5), intercept=True),
    make("smooth hinge sparse total", SmoothHinge(0.3), kind="sparse", keep="total", zero_one=False),
    make("logistic one against the rest", Logistic(), c=3, intercept=True, weighted=True, keep="total"),
    make("smooth hinge one against the rest n < p", SmoothHinge(0.5), n=10, d=12, c=3),
    make("logistic several labels", SeveralLabels(Logistic()), c=2, intercept=True, weighted=True),
    make(
        "logistic one against one",
        Logistic(pairs="surest"),
        n=70,
        c=6,
        intercept=True,
        weighted=True,
        keep="total",
    ),
    make(
        "smooth hinge one against one n < p", SmoothHinge(0.5, pairs="first"), n=14, d=16, c=3, keep="total"
    ),
    make("squared hinge", SquaredHinge(), intercept=True, l2_intercept=0.05, weighted=True),
]
BY_NAME = {case.name: case for case in CASES}


def case_id(case: Case) -> str:
    """For pytest.mark.parametrize."""
    return case.name.replace(" ", "-")
