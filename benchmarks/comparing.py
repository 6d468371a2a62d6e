"""Tables of libraries side by side: every measurement is a process of its own, and what is finished is kept."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.libraries import library, names
from benchmarks.measuring import OUT, child
from experiments import commands


def parser(name: str, doc: str | None, m: list[int], timeout: float) -> argparse.ArgumentParser:
    """The options of every table; `m` and `timeout` are defaults."""
    found = commands.parser(name, doc)
    found.add_argument("--libraries", nargs="*", help="who is asked; `measure --list` shows all")
    found.add_argument("--m", type=int, nargs="+", default=m, help="numbers of test points")
    found.add_argument("--rows", type=int, help="only the first rows of the training set")
    found.add_argument("--data", type=Path, help="the problem's file, if not that of UPWEIGHT_DATA_DIR")
    found.add_argument("--timeout", type=float, default=timeout, help="seconds for one measurement")
    found.add_argument("--again", action="store_true", help="measure anew what is there already")
    found.add_argument("--out", type=Path, default=OUT, help="folder of models, scores and measurements")
    return found


def options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the folder in place."""
    found = parser.parse_args(argv)
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def chosen(options: argparse.Namespace, problem: str) -> list[str]:
    """Those who are asked: all who can be, if the options say nothing."""
    return names(problem) if options.libraries is None else options.libraries


def keep_model(model: nn.Module, path: Path) -> Path:
    """Write a whole module for the processes that measure, which thus need not know how it is built."""
    torch.save(model.eval(), path)
    return path


class Measurements:
    """Measurements of one problem and model, made where they are missing."""

    def __init__(self, problem: str, model: Path, options: argparse.Namespace, damping: float = 0.0) -> None:
        self.problem, self.model, self.options, self.damping = problem, model, options, damping

    def scores(self, name: str, m: int) -> Path:
        """The file of a library's scores."""
        return self.options.out / f"{self.problem}-{name}-{m}.npz"

    def line(self, name: str, m: int) -> dict[str, Any]:
        """What was measured, or why not under `failed`. The next run finds it, unless it crashed or took too long."""
        kept, asked = self.scores(name, m).with_suffix(".json"), self._asked(name, m)
        if kept.exists() and not self.options.again:
            found = json.loads(kept.read_text())
            if found.pop("asked") == asked:
                print(f"found {kept.name}", file=sys.stderr, flush=True)
                return found
        found = child(
            ["measure", name, *self._arguments(m), "--out", self.scores(name, m)], self.options.timeout
        )
        if found is None:
            return {"failed": f"failed or over {self.options.timeout:.0f} s"}
        kept.write_text(json.dumps({"asked": asked, **found}))
        return found

    def _arguments(self, m: int) -> list[Any]:
        words = ["--problem", self.problem, "--model", self.model, "--m", m, "--damping", self.damping]
        for option in ("rows", "data"):
            value = getattr(self.options, option)
            words += [] if value is None else [f"--{option}", value]
        return words

    def _asked(self, name: str, m: int) -> list[str]:
        """What a measurement follows from: the library and its sources, the model, the question."""
        weights = hashlib.sha256(self.model.read_bytes()).hexdigest()
        return [library(name, self.problem).state(), weights, *map(str, self._arguments(m))]
