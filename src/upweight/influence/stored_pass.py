"""The pass behind all scores by way of a folder: what is finished is kept, and a job that was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float

from ..curvature.base import Curvature
from ..objective import Objective
from ..runtime.distributed import gather_objects, rank
from ..solvers import Solution
from ..types import Tensor
from . import checks
from .defaults import Settings
from .score_store import Plan, ScoreStore, write_words
from .scores import Scores


@dataclass(frozen=True, eq=False)
class StoredPass:
    """Scores of one problem whose factors, solves and blocks are kept in `folder` as they are finished.

    `solve` gives A^-1 v for rows v under `settings`. A run that was cut off and started again with equal arguments
    makes what is missing and ends with the same bytes.
    """

    folder: Path
    problem: Objective
    settings: Settings
    solve: Callable[[Tensor], Solution]

    def scores(
        self, v: Float[Tensor, "m p"], key: str, about: Callable[[Solution], Scores], top: int | None
    ) -> Scores:
        """The scores of right-hand sides, made or read.

        Args:
            v: the gradients of m test measures, (m, p).
            key: a content hash of weights, data, settings and test rows.
            about: what is known of the solved right-hand sides, as scores without columns.
            top: so many helpful and harmful training rows are kept in memory; None: all.

        Returns:
            Scores (m, n), or (m, q) of the strongest where `top` is given.

        Raises:
            StaleError: for a folder with scores of another key, and where the data changed.
        """
        problem = self.problem
        problem.check_current()
        problem.check_unmoved()
        checks.agreement(problem)
        recall(self.folder, problem)
        store = ScoreStore.begin(self.folder, key, Plan.of(len(v), problem))
        keep(self.folder, problem, [self.settings.curvature, self.settings.solver.preconditioner])
        solution = store.solved(v, self.solve)
        scores, rows = about(solution), -solution.rounded

        def block(part: slice) -> Tensor:
            products = [values for _, values in problem.products(rows, part)]
            return torch.cat(products, dim=1).to(problem.dtype).cpu()

        return store.finished(scores, block, top)


def recall(folder: str | Path, problem: Objective) -> None:
    """Take the ends of spectra that another run found and wrote into the folder, if they are this problem's.

    They decide the damping that is chosen, so that a restarted run must have the very numbers of the first.
    """
    path = Path(folder) / "spectra.json"
    if gather_objects(path.exists())[0]:
        try:
            words = json.loads(path.read_text(encoding="utf-8"))
            found = {name: tuple(map(float, ends)) for name, ends in words["spectra"].items()}
            own = words["problem"] == problem.fingerprint()
        except (KeyError, TypeError, AttributeError, ValueError) as failure:
            raise ValueError(f"{path} is damaged ({failure}): delete it and run again") from failure
        if own:
            problem.spectra.update(found)


def keep(folder: Path, problem: Objective, curvatures: list[Curvature | None]) -> None:
    """Write the ends of spectra, and what curvatures gathered from the data, into the folder, or take it from there.

    Args:
        folder: that of the store.
        problem: whose spectra.
        curvatures: the one that answers, and that of its preconditioner, if there is one.
    """
    if rank() == 0 and problem.spectra:
        write_words(folder / "spectra.json", {"problem": problem.fingerprint(), "spectra": problem.spectra})
    for curvature in curvatures:
        if curvature is not None and curvature.outer is not None:
            curvature.outer.keep(folder)
