"""LiSSA: the stochastic Neumann series of Agarwal et al. (2016), in Sec. 3 of the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..curvature.base import Curvature, ExampleMean
from ..runtime.progress import track
from ..types import Tensor
from .accuracy import bound, checked, own_operator
from .base import Inverse, Solution, Solver, Status

CHECK_EVERY = 100
"""Steps between two looks at whether the series explodes."""


@dataclass(frozen=True)
class LiSSA(Solver):
    """The stochastic series h <- v + (I - A_j / scale) h with the answer h / scale (R13), the mean of several runs.

    A_j is the curvature of a few random training examples, penalty and damping included, so that `scale` changes the
    speed of convergence but never the question. All right-hand sides see the same samples: a row's answer does not
    depend on its neighbours. Memory is flat in `depth`: k x repeats vectors. The status is "estimated": the answer is
    unbiased up to truncation, its recomputed residual says how noisy it is. The default reads 50,000 examples.

    Args:
        depth: the steps of the series.
        repeats: independent runs, whose mean is the answer.
        batch: the training examples of each step.
        scale: what A_j is divided by, > 0. None finds it: sum lambda^2 / sum lambda over the top eigenvalues lambda of
            sampled batches (mean-square stability), doubled as often as a run explodes.
        seed: of the samples.

    Raises:
        ValueError: for numbers below 1 and a scale that is not positive.
        TypeError: at `prepare`, for a curvature that is no mean over training examples.

    >>> import torch
    >>> from upweight import Hessian, LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(2), torch.zeros(2), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> LiSSA(depth=200, batch=2, repeats=50).prepare(Hessian(problem))(torch.ones(1, 2)).status[0].value
    'estimated'
    """

    depth: int = 5000
    repeats: int = 10
    batch: int = 1
    scale: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("depth", "repeats", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a finite number > 0, got {self.scale}")

    def prepare(self, curvature: Curvature) -> Inverse:
        examples = curvature.examples
        if examples is None:
            raise TypeError(
                f"LiSSA needs a curvature that is a mean over training examples (Hessian, GaussNewton), "
                f"got {type(curvature).__name__}; use Exact or ConjugateGradient with it"
            )
        scale = self.scale or find_scale(curvature, examples, self.batch, self.seed)
        there, operator = curvature.coordinates, own_operator(curvature)
        energy = bound(curvature, operator)

        def solve(rows: Tensor) -> Solution:
            used = scale
            value, status, taken = self._run(curvature, examples, rows, used)
            while status is Status.DIVERGED and self.scale is None and used < 64 * scale:
                used *= 2
                value, status, taken = self._run(curvature, examples, rows, used)
            found = checked(operator, energy, there.parameters(value), there.inward(rows))
            steps = torch.full((len(rows),), taken * self.repeats)
            return Solution(value, found.residual, steps, (status,) * len(rows), error=found.error)

        return Inverse(curvature, solve)

    def _run(
        self, curvature: Curvature, examples: ExampleMean, rows: Tensor, scale: float
    ) -> tuple[Float[Tensor, "k p"], Status, int]:
        """The series for all rows and repeats at once, how it ended and after how many steps; Ctrl-C ends it early."""
        k, n = len(rows), examples.problem.n
        generator = torch.Generator().manual_seed(self.seed)
        size = rows.norm(dim=1, keepdim=True)
        size = torch.where(size > 0, size, torch.ones_like(size))
        start = (rows / size).to(curvature.fast_dtype).repeat_interleave(self.repeats, 0)
        # A stable series grows at most linearly; ten times that is an explosion, not noise.
        bound = 10.0
        h, taken, status = start.clone(), 0, Status.ESTIMATED
        try:
            for _ in track(range(self.depth), "LiSSA", self.depth):
                index = torch.randint(n, (self.repeats, self.batch), generator=generator).repeat(k, 1)
                h = torch.add(start + h, examples.minibatch_product(h, index), alpha=-1 / scale)
                taken += 1
                if taken % CHECK_EVERY == 1 and not bool((h.norm(dim=1) < bound * (taken + 1)).all()):
                    break
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        if not bool((h.norm(dim=1) < bound * (taken + 1)).all()):
            return rows.new_full(rows.shape, torch.nan), Status.DIVERGED, taken
        return h.view(k, self.repeats, -1).mean(1).to(rows.dtype) * (size / scale), status, taken


def find_scale(
    curvature: Curvature, examples: ExampleMean, batch: int, seed: int, samples: int = 256, steps: int = 10
) -> float:
    """The scale of a series that stays bounded: sum lambda^2 / sum lambda over the top eigenvalues of sampled batches.

    Args:
        curvature: the curvature whose inverse is asked for.
        examples: its estimates from a few training examples.
        batch: the number of examples of a sample.
        seed: of the samples and of the random start.
        samples: how many batches are looked at.
        steps: of the power iteration that finds their top eigenvalues lambda.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(examples.problem.n, (samples, batch), generator=generator)
    h = torch.randn(samples, curvature.p, generator=generator).to(curvature.device, curvature.fast_dtype)
    size = h.norm(dim=1, keepdim=True)
    for _ in range(steps):
        h = examples.minibatch_product(h / size.clamp(min=1e-30), index)
        size = h.norm(dim=1, keepdim=True)
    top = size[:, 0].double()
    return float(top.square().sum() / top.sum())
