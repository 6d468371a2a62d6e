"""Influence through training: a pass backwards, and replays without rows, beside the training itself, in one run.

    python -m benchmarks training
    python -m benchmarks training --n 500 --epochs 2

MLP 784-128-64-10, dropout 0.1, SGD 0.01, batch 32, 20 epochs, on --n invented rows. Told are seconds and seconds of
the processor of a plain loop of torch, of the recorded run, of the pass backwards for --m test rows together, and of
--removals replays at once; each also as a multiple of the plain loop, by seconds of the processor. The last line is the
worst relative error of derivatives against central differences of replays, of a run in float64. OMP_NUM_THREADS sets
the threads of all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

import upweight as uw
from experiments import commands, mlp

SGD = partial(torch.optim.SGD, lr=mlp.RATE)
STEP = 1e-4


def data(n: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as sparse as digits are, of ten classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(10, 784, generator=torch.Generator().manual_seed(0))
    y = torch.randint(10, (n,), generator=generator)
    X = (centres[y] + torch.rand(n, 784, generator=generator)) * (
        torch.rand(n, 784, generator=generator) < 0.2
    )
    return X.to(dtype), y


def run_of(X: torch.Tensor, y: torch.Tensor, epochs: int) -> uw.TrainingRun:
    """A recorded run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp.build().to(X.dtype)
    fields: dict[str, Any] = {"epochs": epochs, "batch_size": mlp.BATCH, "seed": 0}
    return uw.TrainingRun.train(model, F.cross_entropy, (X, y), optimizer=SGD, **fields)


def differences(run: uw.TrainingRun, test: Any, rows: list[int]) -> torch.Tensor:
    """Central differences (m, k) of the losses in the weights of some rows, by replays."""
    weights = run.start.state.theta.new_ones(2 * len(rows), run.n)
    for k, row in enumerate(rows):
        weights[2 * k, row] += STEP
        weights[2 * k + 1, row] -= STEP
    ends = [end.evaluate(test) for end in run.replays.weighted(weights)]
    return torch.stack(
        [(up - down) / (2 * STEP) for up, down in zip(ends[::2], ends[1::2], strict=True)], dim=1
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run, and print a table."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--n", type=int, default=5000, help="training rows")
    parser.add_argument("--epochs", type=int, default=mlp.EPOCHS, help="how often each is seen")
    parser.add_argument("--m", type=int, default=30, help="test rows")
    parser.add_argument("--removals", type=int, default=100, help="replays")
    options = parser.parse_args(argv)
    (X, y), test = data(options.n, 1), data(options.m, 2)
    print("| what | seconds | of the processor | trainings |\n|---|---|---|---|", flush=True)
    plain: list[float] = []

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter(), time.process_time()
        found = work()
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        plain.append(cpu)
        print(f"| {what} | {wall:.2f} | {cpu:.2f} | {cpu / plain[0]:.2f} |", flush=True)
        return found

    timed("a plain loop", lambda: mlp.train(X, y, 0, options.epochs))
    run = timed("the recorded run", lambda: run_of(X, y, options.epochs))
    v = run.gradients(test)
    timed(f"backwards, {options.m} test rows", lambda: run.derivatives(v))
    alone = list(torch.arange(options.removals).split(1))
    timed(f"{options.removals} replays", lambda: list(run.replays.without(alone)))
    exact = run_of(*data(200, 3, torch.float64), epochs=2)
    asked, rows = data(4, 4, torch.float64), [0, 50, 100, 199]
    found, expected = exact.derivatives(exact.gradients(asked))[:, rows], differences(exact, asked, rows)
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    print(f"worst relative error against central differences: {float(error.max()):.1e}")
