"""Training-set attacks: training inputs moved inside a box until the retrained model changes its mind (Sec. 5.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from ..curvature.hessian import Hessian
from ..data.design import as_design
from ..data.row_sets import row_numbers
from ..frozen import Traced
from ..linalg.factorizations import Factor
from ..linalg.low_rank import UpdatedFactor
from ..objective import LinearModel, Objective
from ..runtime.progress import track
from ..types import Batch, Tensor, as_tensor
from .box import Box
from .labels import classifier, margin_of_targets

TOLERANCE = 1e-9
"""Gradient norm at which a retrained head is finished."""
CONTRACTION = 0.3
"""Where a step with an earlier factor leaves more of an error than this, the factor is renewed."""


@dataclass(frozen=True, eq=False)
class Attack:
    """Training inputs that an attacker would put in place of rows `rows`, and what they did.

    `inputs` (k, ...) are those inputs, `problem` the model retrained with them. `flipped` (m,) says which targets the
    model now gets wrong. `log` has a line per iteration, the first before any move: the targets' mean loss, the
    smallest margin that is left, how many are flipped, and how far inputs and features have moved.
    """

    rows: Int[Tensor, " k"]
    inputs: Tensor
    problem: LinearModel = field(repr=False)
    flipped: Bool[Tensor, " m"]
    log: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"Attack on rows {self.rows.tolist()}: {int(self.flipped.sum())} of {len(self.flipped)} targets flipped "
            f"after {len(self.log) - 1} iterations"
        )


def attack(
    problem: Objective,
    inputs: Any,
    test: Batch,
    *,
    rows: Any,
    box: Box,
    step: float,
    iterations: int = 100,
) -> Attack:
    """A training-set attack: inputs of `rows` are moved until the retrained model gets `test` wrong (Sec. 5.2).

    Iterates x := Proj(x + step sign(I_pert,loss(x, test))), Proj being the clamp into `box` and the loss averaged over
    the targets, and retrains exactly after each step; stops when all targets are flipped. For linear classifiers, also
    on features of a frozen network. Somebody may do this to your data: `vulnerability` tells where to look.

    Args:
        problem: a linear classifier, trained.
        inputs: the training inputs of `rows` as the problem's frozen network takes them (`Terms.network`), or rows of X
            without one, (k, ...).
        test: the targets of the attack, (inputs, targets), which the model gets right.
        rows: k different training rows, by number, or by name as a pandas Index.
        box: how far each input may move.
        step: what each number of the inputs moves by in an iteration, > 0.
        iterations: the most steps, each with one retraining.

    Raises:
        ValueError: where a target is wrong to begin with, the inputs are not those that were trained on, or the box
            does not hold them.
        TypeError: for inputs of whole numbers and models that are no linear classifiers.

    >>> from upweight import LinearProblem, Logistic
    >>> X = torch.tensor([[1.0], [0.9], [-1.0], [-0.8]]).double()
    >>> problem = LinearProblem.fit(X, torch.tensor([1, 1, 0, 0]), loss=Logistic(), l2=0.1, intercept=True)
    >>> target = torch.tensor([[0.05]]).double(), torch.tensor([1])
    >>> attack(problem, X[2:3], target, rows=[2], box=Box.around(X[2:3], 1.0), step=0.2)
    Attack on rows [2]: 1 of 1 targets flipped after 1 iterations
    """
    model = classifier(problem)
    if model is None:
        raise TypeError(
            "attack is for linear classifiers with an output for each class (or one for two), also on features of a "
            "frozen network: it retrains each step"
        )
    index, x = row_numbers(rows, model.n, model.train_index), as_tensor(inputs).detach().clone()
    state = _Attacked(model, index, x, test)
    box.check(x)
    if not (step > 0 and iterations >= 1):
        raise ValueError(f"step must be > 0 and iterations >= 1, got {step} and {iterations}")
    log = [state.line()]
    for _ in track(range(iterations), "attack", iterations):
        if bool(state.flipped().all()):
            break
        state.move((state.inputs + step * state.ascent().sign()).clamp(box.low, box.high))
        log.append(state.line())
    return Attack(index, state.inputs, state.problem, state.flipped(), pd.DataFrame(log))


class _Attacked:
    """The attacked inputs, the model retrained with them, and the targets."""

    def __init__(self, problem: LinearModel, index: Tensor, inputs: Tensor, test: Any) -> None:
        if not inputs.is_floating_point():
            raise TypeError(
                f"inputs must be real numbers, got {inputs.dtype}: scale images to floating point first"
            )
        if len(index) == 0 or len(index) != len(inputs) or len(index.unique()) != len(index):
            raise ValueError(
                f"rows must be distinct, one per input: got {index.tolist()} and {len(inputs)} inputs"
            )
        if not bool(((index >= 0) & (index < problem.n)).all()):
            raise ValueError(f"rows must lie in 0..{problem.n - 1}, got {index.tolist()}")
        # The targets' features do not change, and are computed once.
        self.test = problem.prepared(test)
        self.index, self.first_inputs = index, inputs.clone()
        self.targets = problem.train_batch(index)[1]
        self.X = problem.design.block(slice(None), torch.float64).dense().clone()
        self.first_features = self.X[index].clone()
        self.problem, self.seconds = self._with_rows(problem, self.X), 0.0
        self.factor_of_others = self._without_attacked(self.problem)
        if bool(self.flipped().any()):
            wrong = self.flipped().nonzero()[:, 0].tolist()
            raise ValueError(f"targets {wrong} are misclassified before the attack: leave them out")
        features = self._features(inputs)
        if features.shape != self.first_features.shape:
            raise ValueError(
                f"inputs give features of shape {tuple(features.shape)}, X has rows of {problem.d} columns"
            )
        gap = float((features - self.first_features).norm() / self.first_features.norm())
        if not gap <= 1e-3:
            raise ValueError(
                f"the inputs are not those that rows {index.tolist()} were trained on: their features differ by "
                f"{gap:.1e} of their size (is `rows` right, and are the inputs scaled as in training?)"
            )

    def _features(self, inputs: Tensor) -> Float[Tensor, "k d"]:
        """The features of the inputs, and how to get back from them: one pass through the network serves both."""
        self.inputs, network = inputs, self.problem.terms.network
        self.traced = None if network is None else Traced(network, inputs)
        return (inputs if self.traced is None else self.traced.features).double()

    @staticmethod
    def _with_rows(problem: LinearModel, X: Tensor) -> LinearModel:
        return problem.with_design(as_design(X))

    def margins(self) -> Float[Tensor, " m"]:
        """The margin of each target: own class less strongest rival."""
        design, y = self.test
        return margin_of_targets(self.problem, self.problem.outputs(design), y)

    def flipped(self) -> Bool[Tensor, " m"]:
        """Which targets the model gets wrong, a margin of 0 included."""
        return self.margins() <= 0

    def ascent(self) -> Tensor:
        """I_pert,loss of the attacked inputs on the targets' mean loss (Eq. 5)."""
        gradient = self.problem.test_gradients(self.test).mean(0, keepdim=True)
        solved = self._solve(gradient)
        here = self.problem.feature_gradients(self.problem.train_batch(self.index), solved)
        return -(here if self.traced is None else self.traced.pull_back(here))[0]

    def _without_attacked(self, problem: LinearModel) -> Factor:
        """The Hessian without the attacked rows, factorised: it hardly changes while they move."""
        weights = problem.weights.clone()
        weights[self.index] = 0
        return Hessian(problem.changed(weights=weights)).factor()

    def _factor_at(self, problem: LinearModel) -> Factor:
        """The Hessian of `problem`, exact but for the slight change of what the others weigh."""
        attacked = problem.hessian_roots(self.index).flatten(0, 1) / problem.n**0.5
        return UpdatedFactor(self.factor_of_others, attacked)

    def _solve(self, rows: Float[Tensor, "1 p"]) -> Float[Tensor, "1 p"]:
        """H^-1 v to a residual of 1e-6, of which the ascent takes the signs."""
        product, near, renewed = self.problem.hessian.product(), self._factor_at(self.problem), False
        value, left = torch.zeros_like(rows), rows
        while float(left.norm()) > 1e-6 * float(rows.norm()):
            step = value + near.solve(left)
            rest = rows - product(step)
            if not renewed and float(rest.norm()) > CONTRACTION * float(left.norm()):
                self.factor_of_others = self._without_attacked(self.problem)
                near, renewed = self._factor_at(self.problem), True
                continue
            if not float(rest.norm()) < float(left.norm()):  # the exact factor gains no more: rounding
                break
            value, left = step, rest
        return value

    def move(self, inputs: Tensor) -> None:
        """Put other inputs in place of the rows, and retrain the model with them by Newton steps."""
        self.X[self.index] = self._features(inputs)
        began = time.perf_counter()
        here = self._with_rows(self.problem, self.X)
        gradient = here.gradient()
        while float(gradient.norm()) > TOLERANCE:
            there = here.at(here.theta - self._factor_at(here).solve(gradient[None])[0])
            rest = there.gradient()
            if float(rest.norm()) > CONTRACTION * float(gradient.norm()):
                here = here.minimised(TOLERANCE)
                self.factor_of_others = self._without_attacked(here)
                break
            here, gradient = there, rest
        self.problem, self.seconds = here, time.perf_counter() - began

    def line(self) -> dict[str, float]:
        """What the log says about this iteration."""
        margins = self.margins()
        return {
            "loss": float(self.problem.evaluate(self.test).mean()),
            "smallest margin": float(margins.min()),
            "flipped": int((margins <= 0).sum()),
            "input distance": float((self.inputs - self.first_inputs).double().norm()),
            "largest input change": float((self.inputs - self.first_inputs).abs().max()),
            "feature distance": float((self.X[self.index] - self.first_features).norm()),
            "retraining seconds": self.seconds,
        }
