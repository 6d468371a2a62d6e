"""Does a solve that says it is right ever be wrong? Random systems in all units against 60-digit arithmetic.

    python -m experiments solver_zoo                300 systems
    python -m experiments solver_zoo --small        one of each kind

Each system is a small linear model or network whose columns are hard: of any units, nearly the same, far from zero,
saturated, huge or tiny. Every curvature and solver answers for three test examples. The answers are compared, row by
row, with the same formula in 60 digits. A wrong one is off by more than 1 % with a good verdict: converged, or an
estimate that states less.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import torch
from matplotlib.figure import Figure

import upweight as uw
from experiments.common import options, parser, publish
from experiments.sixty_digits import NetworkTruth, Truth, relative_outputs
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
        rows = [exact.of_removal(SETS, test, measure=output(k), steps=1).newton for k in range(problem.c)]
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


def of_network(
    seed: int,
) -> Iterator[tuple[str, Callable[[], tuple[Tensor, bool, str]], Callable[[], Tensor]]]:
    """What is asked of a small network whose inputs are in any units, by name, and the truth; precisions take turns."""
    generator, kind = np.random.default_rng(seed), KINDS[seed % len(KINDS)]
    dtype = torch.float32 if seed // len(KINDS) % 2 else torch.float64
    n, d = int(generator.integers(15, 30)), int(generator.integers(2, 4))
    X = columns(kind, generator, n, d)
    if dtype == torch.float32 and kind.startswith("units"):
        X = np.sign(X) * np.abs(X) ** 0.25  # squares of 1e12 leave float32
    model = torch.nn.Sequential(torch.nn.Linear(d, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    with torch.no_grad():
        spread, center = torch.tensor(X.std(0)), torch.tensor(X.mean(0))
        weight = torch.tensor(generator.normal(size=(3, d))) / spread
        model[0].weight.copy_(weight)
        model[0].bias.copy_(torch.tensor(generator.normal(size=3)) - weight @ center)
        model[2].weight.copy_(
            torch.tensor(generator.normal(size=(2, 3)) * (10 if kind == "saturated" else 1))
        )
    model, inputs, y = model.to(dtype), torch.tensor(X).to(dtype), torch.tensor(generator.integers(0, 2, n))
    damping = float(10.0 ** generator.uniform(-6, 0))
    problem, test = uw.Problem(model, torch.nn.functional.cross_entropy, (inputs, y)), (inputs[:3], y[:3])
    right = NetworkTruth(problem, inputs, y, damping).on_loss(test)

    def scores(solver: uw.Solver) -> tuple[Tensor, bool, str]:
        curvature = uw.GaussNewton(problem, damping)
        found = uw.Influence(problem, curvature=curvature, solver=solver).on_loss(test)
        assert found.residual is not None
        return (
            found.values,
            "estimated" in found.verdict and float(found.residual.max()) > WRONG,
            found.verdict,
        )

    solvers: dict[str, Callable[[], uw.Solver]] = {
        "network, Exact": uw.Exact,
        "network, CG": uw.ConjugateGradient,
        "network, CG, EKFAC": lambda: uw.ConjugateGradient(preconditioner=uw.EKFAC(problem, damping)),
        "network, CG, Nystrom": lambda: uw.ConjugateGradient(
            preconditioner=uw.Nystrom(uw.GaussNewton(problem, damping), rank=5)
        ),
        "network, LiSSA": lambda: uw.LiSSA(depth=300, repeats=2),
        "network, Arnoldi": lambda: uw.Arnoldi(rank=5),
    }
    for name, make in solvers.items():
        yield name, lambda make=make: scores(make()), lambda: right


def draw(count: dict[str, collections.Counter[str]], path: Path) -> None:
    """The outcomes of every way as bars."""
    figure = Figure(figsize=(8, 0.35 * len(count) + 1.2), layout="constrained")
    axis, left = figure.subplots(), np.zeros(len(count))
    colours = {
        "right": "tab:green",
        "estimate": "tab:blue",
        "refused": "0.8",
        "raw error": "black",
        "wrong": "tab:red",
    }
    for ended, colour in colours.items():
        size = np.array([found[ended] for found in count.values()])
        axis.barh(list(count), size, left=left, color=colour, label=ended)
        left += size
    axis.invert_yaxis()
    axis.set_xlabel("systems")
    axis.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
    figure.savefig(path, dpi=120)


def output(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The measure that is output k, beside the mean of several."""
    return lambda outputs, targets: relative_outputs(outputs)[:, k]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Ask every system, print the outcomes by solver and every wrong one."""
    read = parser(__name__, __doc__, "8 systems, one of each kind")
    read.add_argument("--systems", type=int, default=300)
    read.add_argument("--first", type=int, default=0, help="the first seed")
    args = options(read, argv)
    count: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    told = []
    torch.set_num_threads(1)
    for seed in range(args.first, args.first + (len(KINDS) if args.small else args.systems)):
        one = system(seed)
        with mpmath.workdps(DIGITS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, ask, right in itertools.chain(questions(one), of_network(seed)):
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
    draw(count, args.out / "solver_zoo.png")
    publish(result, args.out / "solver_zoo.json", silent=("told",))
    return result


if __name__ == "__main__":
    main()
