"""Whether all processes of a job hold the same run."""

from __future__ import annotations

from typing import Any

from ..errors import RankError
from ..runtime.distributed import gather_objects, ranks
from ..runtime.fingerprint import content_hash


def check_agreement(run: Any) -> None:
    """Raise `RankError` on every rank unless all hold the same run, with what differs. On one process nothing is done.

    A run that each process trained or recorded for itself is another one on each, where seeds or orders differ.
    """
    if ranks() == 1:
        return
    steps = run.steps
    settings = [(step.settings, step.seed, [len(part) for part in step.parts]) for step in steps]
    held = {
        "training data, model or starting weights": run.start.base.fingerprint(),
        "order of batches": content_hash([step.index for step in steps], f"{len(steps)}"),
        "optimiser": repr(run.start.groups.rule),
        "learning rates, seeds or other settings": content_hash([], repr(settings)),
        "random numbers, clipping or meaning of a weight": run.fingerprint(),
    }
    first, *others = gather_objects(held)
    for r, other in enumerate(others, 1):
        for kind, found in other.items():
            if found != first[kind]:
                raise RankError(
                    f"rank {r} holds another run than rank 0, with other {kind}: give every rank the same run, trained "
                    "with the same seeds or read from what one process recorded"
                )
