"""Several processes against one: a solve, EKFAC factors and scores of the paper's CNN, each process on one core.

    python benchmarks/ranks.py --weights cnn.pt --data mnist.npz --ranks 1 2

`--weights` is what `experiments/fig2_cnn.py` keeps; everything is in float64. Every count of processes is a job of
torchrun with one thread per process, so that one process is the one-core baseline. Answers are compared with those of
the first count, by the largest difference relative to the largest number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional as F

import upweight as uw
from upweight.runtime import distributed
from upweight.runtime.tensor_files import read, write

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import fig2_cnn

T = TypeVar("T")
SOLVED = 4
"""Test digits of the solve with the Gauss-Newton matrix, formed from a tenth of the digits and factorised."""


def work(options: argparse.Namespace) -> None:
    """One process of a job."""
    with np.load(options.data) as file:
        X = torch.from_numpy(file["x_train"][: options.rows]).double().reshape(-1, 1, 28, 28) / 255
        y = torch.from_numpy(file["y_train"][: options.rows]).long()
        tests = torch.from_numpy(file["x_test"][: options.tests]).double().reshape(-1, 1, 28, 28) / 255
        labels = torch.from_numpy(file["y_test"][: options.tests]).long()
    model = fig2_cnn.build()
    fig2_cnn.load_into(model, torch.load(options.weights).flatten())
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


def main() -> None:
    """All counts one after the other, or this process's part of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=55_000)
    parser.add_argument("--tests", type=int, default=100)
    parser.add_argument("--out", type=Path, help="this process is one of a job that writes here")
    options = parser.parse_args()
    if options.out is not None:
        work(options)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in options.ranks:
            out = Path(folder) / f"{count}"
            sizes = [f"--rows={options.rows}", f"--tests={options.tests}", f"--out={out}"]
            job = [__file__, f"--weights={options.weights}", f"--data={options.data}", *sizes]
            starter = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={count}",
            ]
            subprocess.run([*starter, *job], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
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


if __name__ == "__main__":
    main()
