"""A linear model's answers in 60 digits: what solves are judged by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import torch

import upweight as uw
from upweight.types import Tensor


class Truth:
    """The same answers in 60 digits, from the numbers that the problem holds."""

    def __init__(self, problem: uw.LinearProblem) -> None:
        self.problem, (n, p) = problem, (problem.n, problem.p)
        self.theta = [mpmath.mpf(v) for v in problem.theta.tolist()]
        self.l2 = [mpmath.mpf(v) for v in problem.l2.tolist()]
        X = problem.design.block(slice(None), torch.float64).dense().tolist()
        self.rows = [self.one(x, y) for x, y in zip(X, problem.y.tolist(), strict=True)]
        folded = problem.keep == "mean"
        self.folded = [s * t if folded else mpmath.mpf(0) for s, t in zip(self.l2, self.theta, strict=True)]
        self.total = mpmath.matrix(p, p)
        for _, W, at, x in self.rows:
            self.add(self.total, W, at, x, 1)
        for j in range(p):
            self.total[j, j] += n * self.l2[j]
        self.inverse = self.inverted(self.total)

    def one(self, row: Sequence[float], target: Any) -> tuple[list[Any], Any, list[list[int]], list[Any]]:
        """The gradient of an example, its curvature in the outputs, the places of each output, and its inputs."""
        problem = self.problem
        c, d, bias = problem.c, problem.d, problem.has_intercept
        x = [mpmath.mpf(v) for v in row] + [mpmath.mpf(1)] * bias
        at = [[*range(k * d, (k + 1) * d), *([c * d + k] if bias else [])] for k in range(c)]
        r, W = derivatives(problem.loss, self.outputs(self.theta, x, at), target)
        g = [mpmath.mpf(0)] * problem.p
        for k in range(c):
            for j, v in zip(at[k], x, strict=True):
                g[j] = r[k] * v
        return g, W, at, x

    @staticmethod
    def outputs(theta: Any, x: list[Any], at: list[list[int]]) -> list[Any]:
        return [mpmath.fsum(theta[j] * v for j, v in zip(places, x, strict=True)) for places in at]

    @staticmethod
    def add(H: Any, W: Any, at: list[list[int]], x: list[Any], sign: int) -> None:
        for k, m in itertools.product(range(len(at)), repeat=2):
            for a, i in enumerate(at[k]):
                for b, j in enumerate(at[m]):
                    H[i, j] += sign * W[k][m] * x[a] * x[b]

    def inverted(self, H: Any) -> Any:
        """The inverse; what is flat by construction, where no gradient goes, is given some curvature."""
        H, gauge = H.copy(), self.problem.gauge
        for direction in [] if gauge is None else gauge.tolist():
            ends = [j for j, v in enumerate(direction) if v]
            size = mpmath.fsum(H[j, j] for j in ends)
            for i, j in itertools.product(ends, repeat=2):
                H[i, j] += size
        return H**-1

    def test(self, test: tuple[Tensor, Tensor]) -> list[Any]:
        targets = self.problem.encode(test[1], len(test[1])).tolist()
        return [self.one(x, y) for x, y in zip(test[0].tolist(), targets, strict=True)]

    def on_loss(self, test: tuple[Tensor, Tensor]) -> Tensor:
        """-g_test . H^-1 g_i of all rows."""
        n, p = self.problem.n, range(self.problem.p)
        found = []
        for g, *_ in self.test(test):
            s = self.inverse * mpmath.matrix(g) * n
            found.append(
                [-float(mpmath.fsum(s[j] * (row[0][j] + self.folded[j]) for j in p)) for row in self.rows]
            )
        return torch.tensor(found, dtype=torch.float64)

    def on_self(self) -> Tensor:
        """-g_i . H^-1 g_i of all rows."""
        found = []
        for g, *_ in self.rows:
            s = self.inverse * mpmath.matrix(g) * self.problem.n
            found.append(-mpmath.fsum(a * (b + f) for a, b, f in zip(s, g, self.folded, strict=True)))
        return torch.tensor([[float(v) for v in found]], dtype=torch.float64)

    def step(self, rows: Sequence[int]) -> list[Any]:
        """The Newton step of the parameters without these rows."""
        H, k = self.total.copy(), len(rows)
        g = [k * f for f in self.folded]
        for i in rows:
            own, W, at, x = self.rows[i]
            self.add(H, W, at, x, -1)
            g = [a + b for a, b in zip(g, own, strict=True)]
        for j in range(len(g)) if self.problem.keep == "mean" else ():
            H[j, j] -= k * self.l2[j]
        return list(self.inverted(H) * mpmath.matrix(g))

    def newton(self, sets: Sequence[Sequence[int]], test: tuple[Tensor, Tensor]) -> Tensor:
        """The change of the outputs of test rows, (m c, g), by each set's Newton step, but for a common shift."""
        steps = [self.step(rows) for rows in sets]
        found = [[self.outputs(step, x, at) for step in steps] for _, _, at, x in self.test(test)]
        return relative_outputs(as_floats(found)).mT.flatten(0, 1)

    def left_out(self, rows: int) -> Tensor:
        """The change of each of the first rows' own outputs by the Newton step without it, but for a common shift."""
        return relative_outputs(
            as_floats([self.outputs(self.step([i]), self.rows[i][3], self.rows[i][2]) for i in range(rows)])
        )


def as_floats(values: Any) -> Tensor:
    """Nested lists of long numbers as a tensor."""
    return torch.tensor(np.array(values, dtype=object).astype(float), dtype=torch.float64)


def relative_outputs(outputs: Tensor) -> Tensor:
    """Outputs of several classes beside their mean: losses of the softmax see no more of them."""
    return outputs if outputs.shape[-1] == 1 else outputs - outputs.mean(-1, keepdim=True)


def derivatives(loss: uw.losses.LinearLoss, eta: list[Any], target: Any) -> tuple[list[Any], list[list[Any]]]:
    """First and second derivatives of a loss in the outputs, written out."""
    if isinstance(loss, uw.Squared):
        target = target[0] if isinstance(target, list) else target
        return [eta[0] - mpmath.mpf(target)], [[mpmath.mpf(1)]]
    if isinstance(loss, uw.Logistic):
        p = 1 / (1 + mpmath.exp(-eta[0]))
        return [p - (1 if target > 0 else 0)], [[p * (1 - p)]]
    total = mpmath.fsum(mpmath.exp(e) for e in eta)
    p = [mpmath.exp(e) / total for e in eta]
    classes = range(len(eta))
    return (
        [p[k] - (1 if k == target else 0) for k in classes],
        [[p[k] * ((1 if k == m else 0) - p[m]) for m in classes] for k in classes],
    )


class NetworkTruth:
    """A network of one hidden layer, softmax(W2 tanh(W1 x + b1) + b2), with its Gauss-Newton matrix in 60 digits."""

    def __init__(self, problem: uw.Problem, X: Tensor, y: Tensor, damping: float) -> None:
        self.parts = [
            mpmath.matrix(part.double().tolist())
            for part in problem.layout.unpack(problem.theta.cpu()).values()
        ]
        self.damping, n = damping, len(y)
        self.l2 = [mpmath.mpf(v) for v in problem.l2.tolist()]
        theta = [mpmath.mpf(v) for v in problem.theta.tolist()]
        H = mpmath.matrix(problem.p, problem.p)
        self.rows = []
        for x, target in zip(X.double().tolist(), y.tolist(), strict=True):
            g, J, W = self.one(x, target)
            self.rows.append([a + s * t for a, s, t in zip(g, self.l2, theta, strict=True)])
            H += J.T * (W * J) / n
        for j in range(problem.p):
            H[j, j] += self.l2[j] + mpmath.mpf(damping)
        self.inverse = H**-1

    def one(self, row: Sequence[float], target: int) -> tuple[list[Any], Any, Any]:
        """The gradient of an example, the Jacobian of its outputs and the loss's curvature in them."""
        W1, b1, W2, b2 = self.parts
        x = mpmath.matrix(list(row))
        h = (W1 * x + b1).apply(mpmath.tanh)
        e = W2 * h + b2
        total = mpmath.fsum(mpmath.exp(v) for v in e)
        p = [mpmath.exp(v) / total for v in e]
        c, q, d = len(p), len(h), len(x)
        J = mpmath.matrix(c, q * d + q + c * q + c)
        for k, j in itertools.product(range(c), range(q)):
            slope = W2[k, j] * (1 - h[j] ** 2)
            for m in range(d):
                J[k, j * d + m] = slope * x[m]
            J[k, q * d + j] = slope
            J[k, q * d + q + k * q + j] = h[j]
            J[k, q * d + q + c * q + k] = 1
        r = mpmath.matrix([p[k] - (1 if k == target else 0) for k in range(c)])
        W = mpmath.matrix(c, c)
        for k, m in itertools.product(range(c), repeat=2):
            W[k, m] = p[k] * ((1 if k == m else 0) - p[m])
        return list(J.T * r), J, W

    def on_loss(self, test: tuple[Tensor, Tensor]) -> Tensor:
        """-g_test . A^-1 g_i of all rows."""
        found = []
        for x, target in zip(test[0].double().tolist(), test[1].tolist(), strict=True):
            s = self.inverse * mpmath.matrix(self.one(x, target)[0])
            found.append(
                [-float(mpmath.fsum(a * b for a, b in zip(s, row, strict=True))) for row in self.rows]
            )
        return torch.tensor(found, dtype=torch.float64)
