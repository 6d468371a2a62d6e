"""Folders of scores: who fills them in tests, and what they hold."""

from pathlib import Path

import upweight as uw


def preconditioned(problem: uw.Problem | uw.LinearProblem) -> uw.Influence:
    """Questions whose factors, solves and scores all go to a store."""
    curvature = uw.GaussNewton(problem, damping=0.1)
    solver = uw.ConjugateGradient(rtol=1e-11, preconditioner=uw.EKFAC(problem, damping=0.1))
    return uw.Influence(problem, curvature=curvature, solver=solver)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
