"""All scores of a trained network, upweight beside the peers, each against the reference of the matrix it solves with.

    python -m benchmarks networks cnn --m 1 16 --damping 0.25
    python -m benchmarks networks mlp --m 100 1000 --damping 0.01
    python -m benchmarks networks mlp --rows 500 --m 4            a trial run

`cnn` is the paper's network (p = 2,616; --weights is what the experiment fig2_cnn keeps) on 5,500 digits, l2 = 0.001
on weights: all methods here are exact, and a row's error is ||scores - reference|| / ||reference||, the reference
being that of the same matrix in float64, for the first 16 test digits. The peers solve with the Hessian. dattri's loss
sees the parameters and has the penalty in it; pyDVL and captum take one number for the whole diagonal, damping + l2:
biases are penalised too, and training gradients have no penalty. With a damping of 0.01 the Hessian is indefinite: ours
refuses, peers answer.
`mlp` is 784-512-256-10 (p = 535,818; trained here and kept) on 55,000 digits: EKFAC is an approximation, and a row is
judged by its cosine with the exact Gauss-Newton scores, of the first 4 test digits.

Every measurement is a process of its own, so that its peak memory is its own; times are from trained weights to
factors (set-up) and to scores (query), imports and loading apart. References and measurements are kept in --out and
found by the next run. Peers need benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from benchmarks import comparing
from benchmarks.judging import row_cosines, row_errors
from benchmarks.problems import CNN, MLP, read_model, trained
from benchmarks.references import ExactReferences, gauss_newton_scores
from experiments import fig2_cnn

EPOCHS, BATCH, RATE = 5, 128, 1e-3


def build_mlp(widths: tuple[int, ...] = (784, 512, 256, 10), seed: int = 0) -> nn.Sequential:
    """The untrained perceptron; torch's own random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_mlp(model: nn.Module, X: torch.Tensor, y: torch.Tensor, epochs: int = EPOCHS) -> nn.Module:
    """A few epochs of Adam without weight decay, in an order of its own seed."""
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(X), generator=generator).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(model(X[rows]), y[rows]).backward()
            optimiser.step()
    return model


class Judge(ABC):
    """A trained network, and what stands in a table's last two cells."""

    path: Path
    """Of the whole module."""
    judged: int
    """Test digits, from the first, whose exact scores are known."""
    header: str

    @abstractmethod
    def cells(self, name: str, found: Any) -> str:
        """Two numbers on a library's file of scores."""


class Cnn(Judge):
    """The paper's network: methods are exact, each for its own matrix, and judged by the error of a row."""

    judged = 16
    header = "worst error | median error"

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        model = fig2_cnn.build()
        fig2_cnn.load_into(model, trained(options.weights, "fig2_cnn").flatten())
        self.path = comparing.keep_model(model, options.out / "cnn.pt")
        X, y, self.test = CNN.load(min(max(options.m), self.judged), options.rows, options.data)
        self.exact = ExactReferences(read_model(self.path), (X, y), options.out)

    def cells(self, name: str, found: Any) -> str:
        scores = found["scores"][: self.judged]
        truth = self.exact.scores(
            self.test,
            self.options.damping,
            gauss_newton=name == "upweight-gauss-newton",
            penalty_in_loss=bool(found["penalty_in_train_gradient"]),
        )
        off = row_errors(scores, truth[: len(scores)])
        return f"{off.max():.1e} | {np.median(off):.1e}"


class Mlp(Judge):
    """A perceptron without a penalty: EKFAC is judged by its cosine with the Gauss-Newton matrix."""

    judged = 4
    header = "worst cosine | median cosine"

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        X, y, self.test = MLP.load(min(max(options.m), self.judged), options.rows, options.data)
        self.path = options.weights or options.out / f"mlp-{options.rows or 'all'}.pt"
        if not self.path.exists():
            comparing.keep_model(train_mlp(build_mlp(), X, y), self.path)
        self.problem = uw.Problem(read_model(self.path), F.cross_entropy, (X, y))

    def cells(self, name: str, found: Any) -> str:
        scores = found["scores"][: self.judged]
        truth = gauss_newton_scores(self.problem, self.test, self.options.damping, self.options.out)
        cosine = row_cosines(scores, truth[: len(scores)])
        return f"{cosine.min():.4f} | {np.median(cosine):.4f}"


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = comparing.parser(__name__, __doc__, [16], timeout=3600)
    parser.add_argument("problem", choices=["cnn", "mlp"])
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--weights", type=Path, help="cnn: (p,) or (1, p) tensor file; mlp: a whole module")
    options = comparing.options(parser, argv)
    judge: Judge = Cnn(options) if options.problem == "cnn" else Mlp(options)
    measurements = comparing.Measurements(options.problem, judge.path, options, options.damping)
    print(f"| | m | set-up s | query s | MiB | {judge.header} |\n|---|---|---|---|---|---|---|")
    for m in options.m:
        for name in comparing.chosen(options, options.problem):
            line = measurements.line(name, m)
            if why := line.get("failed"):
                print(f"| {name} | {m} | {why} | | | | |", flush=True)
                continue
            cells = judge.cells(name, np.load(measurements.scores(name, m)))
            numbers = f"{line['setup_s']:.2f} | {line['query_s']:.2f} | {line['peak_mib']}"
            print(f"| {name} | {m} | {numbers} | {cells} |", flush=True)
