"""Several processes against one: a solve, EKFAC factors and scores of the paper's CNN, each process on one core.

    python -m benchmarks ranks --ranks 1 2

`--weights` is what the experiment fig2_cnn keeps; everything is in float64. Every count of processes is a job of
torchrun with one thread per process, so that one process is the one-core baseline. Answers are compared with those of
the first count, by the largest difference relative to the largest number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn import functional as F

import upweight as uw
from benchmarks import measuring
from benchmarks.problems import CNN, trained
from experiments import commands, fig2_cnn
from upweight.runtime import distributed
from upweight.runtime.tensor_files import read, write

T = TypeVar("T")
SOLVED = 4
"""Test digits of the solve with the Gauss-Newton matrix, formed from a tenth of the digits and factorised."""


def work(options: argparse.Namespace) -> None:
    """One process of a job."""
    X, y, (tests, labels) = CNN.load(options.tests, options.rows, options.data)
    X, tests = X.double(), tests.double()
    model = fig2_cnn.build()
    fig2_cnn.load_into(model, trained(options.weights, "fig2_cnn").flatten())
    model = model.double().eval()
    l2 = fig2_cnn.penalties(model).double()
    few = uw.Problem(model, F.cross_entropy, (X[: options.rows // 10], y[: options.rows // 10]), l2=l2)
    many = uw.Problem(model, F.cross_entropy, (X, y), l2=l2)
    seconds: dict[str, float] = {}
    answers: dict[str, torch.Tensor] = {}

    def timed(name: str, run: Callable[[], T]) -> T:
        distributed.agree()
        began = time.perf_counter()
        found = run()
        distributed.agree()
        seconds[name] = time.perf_counter() - began
        return found

    test = tests, labels
    solving = uw.Influence(few, curvature=uw.GaussNewton(few, 0.01), solver=uw.Exact())
    v = few.test_gradients((tests[:SOLVED], labels[:SOLVED]))
    answers["solve"] = timed("solve", lambda: solving.solve(v).value)
    closed = uw.Influence(many, curvature=uw.EKFAC(many, 0.01))
    timed("factors", lambda: closed.inverse)
    answers["scores"] = timed("scores", lambda: closed.on_loss(test).values)
    write(options.out, answers, {"seconds": seconds})


def argv_of(options: argparse.Namespace) -> list[str]:
    """What the processes of a job are told."""
    told = {name: getattr(options, name) for name in ("weights", "data", "rows", "tests")}
    return [f"--{name}={value}" for name, value in told.items() if value is not None]


def main(argv: Sequence[str] | None = None) -> None:
    """All counts one after the other, or this process's part of one."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--weights", type=Path, help="(p,) or (1, p) tensor file")
    parser.add_argument("--data", type=Path, help="mnist.npz, if not that of UPWEIGHT_DATA_DIR")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=55_000)
    parser.add_argument("--tests", type=int, default=100)
    parser.add_argument("--out", type=Path, help="this process is one of a job that writes here")
    options = parser.parse_args(argv)
    if options.out is not None:
        work(options)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in options.ranks:
            out = Path(folder) / f"{count}"
            command = measuring.job(count, ["ranks", *argv_of(options), f"--out={out}"])
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            found[count] = read(out, "answers")
    (wanted, first), *_ = found.values()
    for count, (answers, words) in found.items():
        differences = {
            name: float((answers[name] - wanted[name]).abs().max() / wanted[name].abs().max())
            for name in wanted
        }
        faster = {name: first["seconds"][name] / taken for name, taken in words["seconds"].items()}
        print(f"{count} processes: seconds {json.dumps(words['seconds'])}; times faster {json.dumps(faster)}")
        print(f"  differences from the first: {json.dumps(differences)}")
