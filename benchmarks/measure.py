"""One measurement of one library in this process: prints a JSON line; `--list` says which libraries there are.

    python -m benchmarks measure --list
    python -m benchmarks measure pydvl --problem softmax --model softmax.pt --m 16 --out scores.npz

The other benchmarks run this once per measurement, so that the peak memory is that of one library. `--model` is a whole
`nn.Module` in a file. `--set` changes settings, the fields of the library's class. The scores go to `--out`. An answer
that a library refuses is its line's `failed`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.libraries import catalogue, library
from benchmarks.libraries.base import Library, measured
from benchmarks.measuring import peak_mib, silence
from benchmarks.problems import PROBLEMS, Task, read_model
from experiments import commands


def show() -> None:
    """Who can be asked about what, and how."""
    for name, problems in catalogue().items():
        for problem, asked in problems.items():
            print(f"{name}, {problem}: {asked}\n    {asked.notes.partition(chr(10))[0]}")


def line_of(asked: Library, options: argparse.Namespace) -> dict[str, Any]:
    """Measure; what there is to say, the scores apart."""
    problem = PROBLEMS[options.problem]
    X, y, test = problem.load(options.m, options.rows, options.data)
    task = Task(read_model(options.model), X, y, problem.l2, options.damping)
    line = {"library": options.library, "version": asked.version, "m": options.m, "n": task.n}
    line |= {"settings": str(asked), "data_mib": peak_mib()}
    try:
        result = measured(asked, task, test)
    except asked.refusals as refusal:
        return line | {"failed": f"refused: {refusal}"}
    if options.out:
        kind = asked.penalty_in_train_gradient
        np.savez(options.out, scores=result.scores.numpy(), penalty_in_train_gradient=kind)
    seconds = {"setup_s": round(result.setup_s, 3), "query_s": round(result.query_s, 3)}
    return line | seconds | {"peak_mib": peak_mib()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("library", nargs="?", help="one of those that --list shows")
    parser.add_argument("--list", action="store_true", help="print the libraries and stop")
    parser.add_argument("--problem", choices=PROBLEMS, default="softmax")
    parser.add_argument("--model", type=Path, help="the trained model: a whole module, saved by torch")
    parser.add_argument("--m", type=int, default=1, help="test points")
    parser.add_argument("--rows", type=int, help="only the first rows of the training set")
    parser.add_argument("--damping", type=float, default=0.0)
    parser.add_argument("--data", type=Path, help="the problem's file, if not that of UPWEIGHT_DATA_DIR")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings as JSON values")
    parser.add_argument("--out", type=Path, help="npz file for the scores")
    options = parser.parse_args(argv)
    if options.list:
        show()
        return
    if options.library is None or options.model is None:
        parser.error("a library and --model are needed")
    silence()
    settings = {name: json.loads(value) for name, value in (item.split("=", 1) for item in options.set)}
    asked = replace(library(options.library, options.problem), **settings)  # type: ignore[type-var]
    print(json.dumps(line_of(asked, options)))
