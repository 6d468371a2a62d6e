"""The libraries that benchmarks compare: found by name, asked alike; what was measured is kept."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

import upweight as uw
from benchmarks import comparing
from benchmarks.judging import row_cosines, row_errors
from benchmarks.libraries import catalogue, library, names
from benchmarks.libraries.base import measured
from benchmarks.problems import PROBLEMS, SOFTMAX, Task, linear_model
from experiments.data import embedded

ROWS, PIXELS, TESTS = 120, slice(300, 420), 3


@pytest.fixture(scope="module")
def task() -> tuple[Task, tuple[torch.Tensor, torch.Tensor]]:
    """Softmax regression on a few pixels of a few digits, away from its optimum."""
    X, y, (X_test, y_test) = SOFTMAX.load(TESTS, ROWS, embedded())
    theta = torch.randn(10, 120, generator=torch.Generator().manual_seed(0)).double() / 10
    return Task(linear_model(theta), X[:, PIXELS], y, SOFTMAX.l2), (X_test[:, PIXELS], y_test)


def test_every_library_is_found_by_its_name_and_says_what_it_computes() -> None:
    found = catalogue()
    assert {name.partition("-")[0] for name in found} == {
        "captum",
        "dattri",
        "kronfluence",
        "pydvl",
        "upweight",
    }
    for name, problems in found.items():
        for problem, asked in problems.items():
            assert library(name, problem) == asked
            assert asked.package == name.partition("-")[0]
            assert len(asked.notes.split()) >= 5
            assert problem in PROBLEMS
            assert name in names(problem)


def test_state_follows_from_settings() -> None:
    assert library("pydvl", "softmax").state() == library("pydvl", "softmax").state()
    assert library("pydvl", "softmax").state() != library("pydvl-repaired", "softmax").state()


@pytest.mark.parametrize("name", [name for name in names("softmax") if name.startswith("upweight")])
def test_our_ways_agree(name: str, task: tuple[Task, tuple[torch.Tensor, torch.Tensor]]) -> None:
    asked, test = task
    weights = next(asked.model.parameters())
    problem = uw.LinearProblem(asked.X, asked.y, weights.detach(), loss=uw.Softmax(), l2=asked.l2)
    exact = uw.Influence(problem, solver=uw.Exact()).on_loss(test).values
    result = measured(library(name, "softmax"), asked, test)
    assert result.scores.shape == (TESTS, ROWS)
    assert row_errors(result.scores, exact).max() < 2e-3
    assert row_cosines(result.scores, exact).min() > 1 - 1e-5
    assert next(asked.model.parameters()) is weights


def test_what_was_measured_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(rows=60, data=embedded(), timeout=300, again=False, out=tmp_path)
    path = comparing.keep_model(linear_model(torch.zeros(10, 784).double()), tmp_path / "softmax.pt")
    measurements = comparing.Measurements("softmax", path, options)
    line = measurements.line("upweight-cg-ekfac", 2)
    assert (line["m"], line["n"], line["version"]) == (2, 60, uw.__version__)
    assert min(line["setup_s"], line["query_s"], line["peak_mib"]) >= 0
    with np.load(measurements.scores("upweight-cg-ekfac", 2)) as file:
        assert file["scores"].shape == (2, 60)

    asked = []
    monkeypatch.setattr(comparing, "child", lambda arguments, timeout: asked.append(arguments))
    assert measurements.line("upweight-cg-ekfac", 2) == line
    assert not asked
    assert measurements.line("upweight-cg-ekfac", 3) == {"failed": "failed or over 300 s"}
    comparing.keep_model(linear_model(torch.ones(10, 784).double()), path)
    assert measurements.line("upweight-cg-ekfac", 2) == {"failed": "failed or over 300 s"}
    assert len(asked) == 2
