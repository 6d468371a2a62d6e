"""Does a solve that says it is right ever be wrong? Random systems in all units against 60-digit arithmetic.

Each system is a small linear model or network whose columns are hard: of any units, nearly the same, far from zero,
saturated, huge or tiny. Every curvature and solver answers for three test examples. The answers are compared, row by
row, with the same formula in 60 digits (networks: with plain differentiation and a scaled dense solve). A wrong one is
off by more than 1 % with a good verdict: converged, or an estimate that states less.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mpmath
import numpy as np
import torch

import upweight as uw
from experiments.common import options, parser, publish
from upweight.types import Tensor

DIGITS = 60
WRONG = 0.01
FIRST = 5
SETS = ([0], [1, 2], [3, 4, 5])
KINDS = (
    "plain",
    "units",
    "near-collinear",
    "saturated",
    "huge",
    "tiny",
    "far from zero",
    "units and collinear",
)


@dataclasses.dataclass(frozen=True)
class System:
    """A linear model on n rows, what is asked about it, and what makes it hard."""

    kind: str
    problem: uw.LinearProblem
    test: tuple[Tensor, Tensor]


def columns(kind: str, generator: np.random.Generator, n: int, d: int) -> Any:
    """The columns of a system: standard normal ones, made hard as its kind says."""
    X = generator.normal(size=(n, d))
    if "collinear" in kind and d > 1:
        X[:, 1] = X[:, 0] + 10.0 ** -generator.uniform(2, 9) * X[:, 1]
    if kind.startswith("units"):
        X = X * 10.0 ** generator.uniform(-12, 12, d)
    if kind == "huge":
        X = X * 1e10
    if kind == "tiny":
        X = X * 1e-10
    if kind == "far from zero":
        X = X + 10.0 ** generator.uniform(1, 9, d)
    return X


def system(seed: int) -> System:
    """A random system; eight kinds take turns."""
    generator, kind = np.random.default_rng(seed), KINDS[seed % len(KINDS)]
    n, d = int(generator.integers(20, 60)), int(generator.integers(2, 8))
    X = columns(kind, generator, n, d)
    spread = X.std(0)
    loss = [uw.Squared(), uw.Logistic(), uw.Softmax()][int(generator.integers(3))]
    c = 3 if isinstance(loss, uw.Softmax) else 1
    coef = generator.normal(size=(c, d)) / spread * (20.0 if kind == "saturated" else 0.5)
    intercept = -coef @ X.mean(0) if kind == "far from zero" or generator.random() < 0.5 else None
    y = (
        generator.normal(size=n)
        if c == 1 and isinstance(loss, uw.Squared)
        else generator.integers(0, max(c, 2), n)
    )
    strength, keep = float(10.0 ** generator.uniform(-8, 0)), "mean"
    per_column = np.tile(strength * spread**2, c)
    l2: Any = per_column if intercept is None else np.concatenate([per_column, np.zeros(c)])
    if generator.random() < 0.3:
        # Far from any optimum: the penalty's own gradient would be all that there is to see.
        l2, keep = float(strength * np.median(spread) ** 2), "total"
    problem = uw.LinearProblem(torch.tensor(X), torch.tensor(y), coef, intercept, loss=loss, l2=l2, keep=keep)
    return System(kind, problem, (torch.tensor(X[:3]), torch.tensor(y[:3])))


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


def ways(problem: uw.LinearProblem) -> Iterator[tuple[str, Callable[[], uw.Influence]]]:
    """Every curvature with every solver and preconditioner, by name; made where they are called."""
    half = torch.arange(0, problem.n, 2)

    def asked(curvature: Any = uw.Hessian, **kw: Any) -> uw.Influence:
        return uw.Influence(problem, curvature=curvature(problem), **kw)

    def cg(**kw: Any) -> uw.ConjugateGradient:
        return uw.ConjugateGradient(**kw)

    yield "default", lambda: uw.Influence(problem)
    yield "Exact", lambda: asked(solver=uw.Exact())
    yield "CG", lambda: asked(solver=cg())
    yield "CG, GaussNewton", lambda: asked(uw.GaussNewton, solver=cg())
    yield "CG, EKFAC", lambda: asked(solver=cg(preconditioner=uw.EKFAC(problem)))
    yield (
        "CG, Nystrom",
        lambda: asked(solver=cg(preconditioner=uw.Nystrom(uw.Hessian(problem), rank=max(1, problem.p // 2)))),
    )
    yield "CG, half", lambda: asked(solver=cg(preconditioner=uw.Hessian(problem.subset(half))))
    yield "LiSSA", lambda: asked(solver=uw.LiSSA(depth=300, repeats=2))
    yield "Arnoldi", lambda: asked(solver=uw.Arnoldi(rank=2))


def outcome(ask: Callable[[], tuple[Tensor, bool, str]], right: Tensor) -> tuple[str, float, str]:
    """How a question ended: "right", "wrong", "refused", "estimate" or "raw error"; its worst error; its words."""
    try:
        values, stated, words = ask()
    except (uw.InfluenceError, ValueError, TypeError) as error:
        return "refused", float("nan"), str(error)
    except Exception as error:  # somebody else's words
        return "raw error", float("nan"), f"{type(error).__name__}: {error}"
    known = ~values.isnan()
    if not bool(known.any()):
        return "refused", float("nan"), "NaN"
    right, values = torch.where(known, right, 0.0), values.nan_to_num(0.0)
    size = right.norm(dim=1)
    off = float(((values - right).norm(dim=1) / size.where(size > 0, torch.ones(()))).max())
    if off <= WRONG:
        return "right", off, words
    return "estimate" if stated else "wrong", off, words


def questions(
    one: System,
) -> Iterator[tuple[str, Callable[[], tuple[Tensor, bool, str]], Callable[[], Tensor]]]:
    """What is asked of a system, by name: the answer, whether it states that it is off, its words; and the truth."""
    problem, test = one.problem, one.test
    truth = Truth(problem)
    right = truth.on_loss(test)

    def scores(influence: Callable[[], uw.Influence]) -> tuple[Tensor, bool, str]:
        found = influence().on_loss(test)
        assert found.residual is not None
        return (
            found.values,
            "estimated" in found.verdict and float(found.residual.max()) > WRONG,
            found.verdict,
        )

    for name, influence in ways(problem):
        yield name, lambda influence=influence: scores(influence), lambda: right
    exact = uw.Influence(problem, solver=uw.Exact())
    yield "on_self", lambda: (exact.on_self().values.T, False, ""), lambda: truth.on_self().T

    def removal() -> tuple[Tensor, bool, str]:
        rows = [exact.of_removal(SETS, test, measure=output(k)).newton for k in range(problem.c)]
        return torch.stack(rows, 1).flatten(0, 1), False, ""

    yield "of_removal", removal, lambda: truth.newton(SETS, test)

    def alone() -> tuple[Tensor, bool, str]:
        found = exact.leave_one_out()
        moves = relative_outputs(found.outputs - problem.outputs())[:FIRST]
        return torch.where(seen(), moves, torch.nan), False, str(found.leverage[:FIRST])

    def seen() -> Tensor:
        """Where a move of the outputs is far above the rounding of the outputs themselves."""
        X, (weight, _) = (
            problem.design.block(slice(None), torch.float64).dense(),
            problem.map.split(problem.theta[None]),
        )
        terms = (X[:FIRST, None] * weight).abs().sum(2).amax(1, keepdim=True)
        return truth.left_out(FIRST).abs() > 1e-12 * terms

    yield "leave_one_out", alone, lambda: truth.left_out(FIRST)


def output(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The measure that is output k, beside the mean of several."""
    return lambda outputs, targets: relative_outputs(outputs)[:, k]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Ask every system, print the outcomes by solver and every wrong one."""
    read = parser(__name__, __doc__, "16 systems")
    read.add_argument("--systems", type=int, default=300)
    read.add_argument("--first", type=int, default=0, help="the first seed")
    args = options(read, argv)
    count: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    told = []
    torch.set_num_threads(1)
    for seed in range(args.first, args.first + (16 if args.small else args.systems)):
        one = system(seed)
        with mpmath.workdps(DIGITS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, ask, right in questions(one):
                ended, off, words = outcome(ask, right())
                count[name][ended] += 1
                if ended in ("wrong", "raw error", "refused"):
                    loss = type(one.problem.loss).__name__
                    told.append(f"{seed} {one.kind} {loss} {name}: {ended} {off:.1e} {words[:300]}")
    result = {
        "outcomes": {name: dict(found) for name, found in count.items()},
        "wrong": sum(found["wrong"] for found in count.values()),
        "raw errors": sum(found["raw error"] for found in count.values()),
        "told": told,
    }
    publish(result, args.out / "solver_zoo.json", silent=("told",))
    return result


if __name__ == "__main__":
    main()
