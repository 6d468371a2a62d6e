"""Many trainings, one after the other or side by side: what is finished is kept at once, and found by the next run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..types import Tensor, as_tensor
from .progress import track
from .whole_files import whole


class Training(NamedTuple):
    """One training: the rows kept (k,), a seed, and the name under which its result is kept."""

    kept: Tensor
    seed: int
    name: str


def trained(
    outcome: Callable[[Tensor, int], Tensor],
    trainings: Sequence[Training],
    *,
    folder: str | Path | None = None,
    jobs: int = 1,
) -> Iterator[Tensor]:
    """The results of some trainings, in their order, each as soon as it and all before it are there.

    Args:
        outcome: `outcome(kept rows, seed)` trains and returns numbers; with several jobs it runs in other processes.
        trainings: what is trained on.
        folder: where results are kept, one file each, written whole: a killed job goes on where it was.
        jobs: trainings at once; -1 as many as there are processors. More than one needs joblib.

    >>> list(trained(lambda kept, seed: kept + seed, [Training(as_tensor([1]), 2, "a")]))
    [tensor([3])]
    """
    places = [None if folder is None else Path(folder) / f"{one.name}.npy" for one in trainings]
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    there = [place is not None and place.exists() for place in places]
    tasks = list(zip(trainings, places, there, strict=True))
    left = [(training, place) for training, place, found in tasks if not found]
    made = _each(outcome, left, jobs)
    for _, place, found in track(tasks, f"training {len(left)} times", len(tasks)):
        yield as_tensor(np.load(place, allow_pickle=False)) if found and place is not None else next(made)


def _each(
    outcome: Callable[[Tensor, int], Tensor], left: Sequence[tuple[Training, Path | None]], jobs: int
) -> Iterator[Tensor]:
    """Results in the order of the trainings; with several jobs each process keeps its own on the disk."""
    if jobs == 1:
        yield from (_kept(outcome, *task) for task in left)
        return
    from joblib import Parallel, delayed

    with_others = Parallel(n_jobs=jobs, return_as="generator")
    yield from with_others(delayed(_kept)(outcome, *task) for task in left)


def _kept(outcome: Callable[[Tensor, int], Tensor], training: Training, place: Path | None) -> Tensor:
    result = outcome(training.kept, training.seed)
    if place is not None:
        with whole(place) as part, part.open("wb") as file:
            np.save(file, result.numpy(), allow_pickle=False)
    return result
