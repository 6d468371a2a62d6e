"""What waits for a device: nothing inside the loops over training data (counted on the CPU, where it costs nothing)."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.networks import problem_of
from upweight import EKFAC
from upweight.influence.top_k import strongest

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")
"""A number, or a size, that the program needs before it goes on; a copy to the host does the same."""


class Counting(TorchDispatchMode):
    """Counts the calls that would wait for a device, and the copies between two."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        moved = name == "_to_copy" and (kwargs or {}).get("device") not in (None, args[0].device)
        if name in WAITS or moved:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def waits(work) -> list[str]:
    with Counting() as counting:
        work()
    return counting.seen


LOOPS = {
    "gradient": lambda problem: problem.gradient(),
    "Hessian": lambda problem: problem.hessian.product()(torch.ones(2, problem.p).double()),
    "Gauss-Newton": lambda problem: problem.gauss_newton.product()(torch.ones(2, problem.p).double()),
    "scores": lambda problem: list(problem.products(torch.ones(2, problem.p).double())),
    "factors": lambda problem: EKFAC(problem, 0.1).factor(),
}
CHECKS = {"factors": 4}
"""Per block in two passes: whether the loss's curvature is finite, and whether it is convex."""


@pytest.mark.parametrize("name", ["mlp", "patch", "sequence"])
@pytest.mark.parametrize("loop", LOOPS)
def test_blocks_wait_for_their_checks_only(name: str, loop: str):
    counts = []
    for size in (48, 3):
        problem = problem_of(name, n=48, batch_size=size)
        assert problem.layers.together  # looked at once, before any loop
        counts.append(len(waits(lambda problem=problem: LOOPS[loop](problem))))
    assert counts[1] - counts[0] == 15 * CHECKS.get(loop, 0)


def test_a_wait_is_seen():
    assert waits(lambda: float(torch.ones(2).sum())) == ["_local_scalar_dense"]
    assert waits(lambda: torch.ones(2).nonzero()) == ["nonzero"]


def test_the_strongest_scores_wait_once_a_block_where_nothing_is_added():
    first, later = torch.randn(5, 400), torch.randn(5, 400).clamp(-0.1, 0.1)
    blocks = [(slice(0, 400), first), *((slice(400 * i, 400 * i + 400), later) for i in (1, 2, 3))]
    alone = len(waits(lambda: strongest(blocks[:1], 5, 3)))
    assert len(waits(lambda: strongest(blocks, 5, 3))) - alone <= 3
