"""An index of gradients: what it takes to build and to ask, beside passes over the training data.

    python -m benchmarks index mlp                      784-512-256-10, 55,000 digits
    python -m benchmarks index mlp --rows 5000          a trial run
    python -m benchmarks index million                  1,000,000 invented gradients of a small network
    python -m benchmarks index text                     the GPT-2 of `language`, 5,000 sequences

Printed are seconds of the processor (not of the clock: other work does not count), bytes per example, peak memory, and
the worst and the median row's relative error against EKFAC's full scores, ||difference|| / ||scores||. Factors are
gathered before anything is timed. A pass is `Influence.on_loss`: of one row, and of all `--m` together.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from benchmarks import comparing, language, networks
from benchmarks.libraries.upweight import BLOCKS
from benchmarks.measuring import peak_mib
from benchmarks.problems import MLP, read_model
from experiments.texts import TEXT, without_torchvision
from upweight.losses import next_token

T = TypeVar("T")


def measured(what: str, work: Callable[[], T]) -> T:
    """What the work gives; its seconds are printed."""
    began = time.process_time()
    found = work()
    print(f"| {what} | {time.process_time() - began:.3f} |", flush=True)
    return found


def asked(
    influence: uw.Influence, test: Any, wanted: dict[str, Any], folder: Path, truly: float | None = None
) -> None:
    """The table of one model; its truth are EKFAC's scores, with answers compressed to `truly` if that is given."""
    influence.settings.curvature.factor()
    _ = influence.inverse, influence.fingerprint
    m = len(test["labels"] if isinstance(test, dict) else test[1])
    one = {name: x[:1] for name, x in test.items()} if isinstance(test, dict) else (test[0][:1], test[1][:1])
    print("| what | processor seconds |\n|---|---|")
    measured("a pass, 1 row", lambda: influence.on_loss(one))
    measured(f"a pass, {m} rows, compress=1e-2", lambda: influence.on_loss(test, compress=1e-2))
    truth = measured(f"a pass, {m} rows, the truth", lambda: influence.on_loss(test, compress=truly))
    index = measured("build", lambda: uw.GradientIndex.build(influence, folder, **wanted))
    for time_ in ("first", "next"):
        measured(f"{time_} question, 1 row", lambda: index.on_loss(one))
        measured(f"{time_} question, 1 row, top=10", lambda: index.on_loss(one, top=10))
        found = measured(f"{time_} question, {m} rows", lambda: index.on_loss(test))
    off = (found.values - truth.values).norm(dim=1) / truth.values.norm(dim=1)
    assert found.residual is not None
    cosine = F.cosine_similarity(found.values, truth.values)
    print(
        f"\n{index.bytes_per_example} bytes an example; error worst {float(off.max()):.4f}, median "
        f"{float(off.median()):.4f}; stated {float(found.residual.max()):.4f}, {float(found.residual.median()):.4f}; "
        f"cosine lowest {float(cosine.min()):.4f}, median {float(cosine.median()):.4f}; "
        f"peak {peak_mib()} MiB; {wanted}\n",
        flush=True,
    )


def mlp(options: argparse.Namespace, folder: Path) -> None:
    """The perceptron of `networks`."""
    X, y, test = MLP.load(max(options.m), options.rows, options.data)
    path = options.out / f"mlp-{options.rows or 'all'}.pt"
    if not path.exists():
        comparing.keep_model(networks.train_mlp(networks.build_mlp(), X, y), path)
    problem = uw.Problem(read_model(path), F.cross_entropy, (X, y))
    asked(
        uw.Influence(problem, curvature=uw.EKFAC(problem, damping=0.01)),
        test,
        {"error": options.error},
        folder,
    )


def text(options: argparse.Namespace, folder: Path) -> None:
    """The GPT-2 of `language`, with the parameters that count there."""
    without_torchvision()
    path = options.out / f"gpt2-{options.steps}.pt"
    texts, _, _ = TEXT.load(1, path=options.data)
    if not path.exists():
        comparing.keep_model(language.train(texts, options.steps), path)
    train, _, (test, _) = TEXT.load(TEXT.queries, options.rows, options.data)
    problem = uw.Problem(read_model(path), next_token, train, params=[f"{name}.*" for name in BLOCKS])
    curvature = uw.EKFAC(problem, damping=0.01, samples=1)
    for size in options.bytes:
        wanted = {"bytes_per_example": size}
        asked(uw.Influence(problem, curvature=curvature), test, wanted, folder / str(size))


def million(options: argparse.Namespace, folder: Path) -> None:
    """Gradients of a network of 16-16-8, so many that only the index holds them all."""
    n = options.rows or 1_000_000
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 16, generator=generator)
    y = (X[:, 0] > 0).long() + 2 * (X[:, 1] > 0).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    problem = uw.Problem(model, F.cross_entropy, (X, y))
    influence = uw.Influence(problem, curvature=uw.EKFAC(problem, damping=0.01, rows=10_000))
    index = measured(
        f"build, n = {n:,}", lambda: uw.GradientIndex.build(influence, folder, error=options.error)
    )
    few = uw.Problem(model, F.cross_entropy, (X[:10].clone(), y[:10].clone()))
    test = X[:1].clone(), y[:1].clone()
    del X, y, problem, influence, index
    ask(folder, few, test)


def ask(folder: Path, problem: uw.Problem, test: Any) -> None:
    """Questions to an index of many rows, in a process of its own: its peak memory is theirs."""
    child = os.fork() if hasattr(os, "fork") else 0
    if child:
        os.waitpid(child, 0)
        return
    index = uw.GradientIndex.open(folder, problem)
    for time_ in ("first", "next", "next"):
        measured(f"{time_} question, 1 row, top=10", lambda: index.on_loss(test, top=10))
    print(f"\n{len(index):,} rows, {index.bytes_per_example} bytes an example", flush=True)
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> None:
    """The tables."""
    parser = comparing.parser(__name__, __doc__, [100], timeout=3600)
    parser.add_argument("problem", choices=["mlp", "million", "text"])
    parser.add_argument("--error", type=float, default=0.02)
    parser.add_argument(
        "--bytes", type=int, nargs="+", default=[1024, 4096, 16384], help="an example, of text"
    )
    parser.add_argument("--steps", type=int, default=1500, help="of training the GPT-2")
    options = comparing.options(parser, argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        {"mlp": mlp, "million": million, "text": text}[options.problem](options, Path(folder))
