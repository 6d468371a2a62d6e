"""Training-set attacks: training inputs moved inside a box until the retrained model changes its mind (Sec. 5.2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from ..curvature.hessian import Hessian
from ..data.design import as_design, as_inputs
from ..frozen import Traced
from ..influence.influence import Influence
from ..linalg.factorizations import Factor
from ..linalg.low_rank import UpdatedFactor
from ..objective import LinearModel, Objective
from ..runtime.progress import track
from ..types import Tensor, as_tensor
from .labels import classifier, margin_of_targets

TOLERANCE = 1e-9
"""Gradient norm at which a retrained head is finished."""
CONTRACTION = 0.3
"""Where a step with an earlier factor leaves more of an error than this, the factor is renewed."""


@dataclass(frozen=True, eq=False)
class Box:
    """What an attacker may make of some training inputs: everything between `low` and `high`, in the inputs' shape.

    >>> box = Box.same_pixels(torch.tensor([0, 128, 255], dtype=torch.uint8))
    >>> to_pixels(box.low).tolist() == to_pixels(box.high).tolist() == [0, 128, 255]
    True
    """

    low: Tensor
    high: Tensor

    @classmethod
    def same_pixels(cls, pixels: Tensor, scale: float = 127.5, offset: float = 127.5) -> Box:
        """All inputs x = (value - offset) / scale, 0 <= value <= 255, that are rounded to the same 8-bit `pixels`."""
        if pixels.dtype != torch.uint8:
            raise TypeError(f"pixels must be uint8, got {pixels.dtype}")
        # A little inside half a grey level: rounding must go the same way in float32.
        half, values = 0.499, pixels.float()
        low, high = (values - half).clamp(min=0), (values + half).clamp(max=255)
        return cls((low - offset) / scale, (high - offset) / scale)

    @classmethod
    def around(cls, inputs: Tensor, radius: Any) -> Box:
        """Every column may move by its `radius` (a number, or one per column; 0 holds it fixed)."""
        radius = torch.as_tensor(radius).to(inputs)
        if not bool((radius >= 0).all()):
            raise ValueError("the radius of a box must be >= 0")
        return cls(inputs - radius, inputs + radius)

    def check(self, inputs: Tensor) -> None:
        """Refuse a box that does not hold the inputs."""
        if self.low.shape != inputs.shape or self.high.shape != inputs.shape:
            raise ValueError(
                f"the box has shape {tuple(self.low.shape)}, the inputs have {tuple(inputs.shape)}"
            )
        outside = ~((inputs >= self.low) & (inputs <= self.high))
        if bool(outside.any()):
            raise ValueError(
                f"{int(outside.sum())} numbers of the inputs lie outside the box: it must hold what the attack starts "
                "from (are the inputs scaled as the box is?)"
            )


def to_pixels(inputs: Tensor, scale: float = 127.5, offset: float = 127.5) -> Tensor:
    """Inputs (value - offset) / scale as the 8-bit image that is stored of them.

    >>> to_pixels(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (inputs.double() * scale + offset).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Attack:
    """Training inputs that an attacker would put in place of rows `rows`, and what they did.

    `inputs` (k, ...) are those inputs, `problem` the model retrained with them. `flipped` (m,) says which targets the
    model now gets wrong. `log` has a line per iteration: the targets' mean loss, the smallest margin that is left, how
    many are flipped, and how far inputs and features have moved.
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
    test: Any,
    *,
    rows: Sequence[int],
    box: Box,
    step: float,
    iterations: int = 100,
) -> Attack:
    """Move the training inputs of `rows` inside `box` so that the retrained model gets `test` wrong (Sec. 5.2).

    Iterates x := Proj(x + step sign(I_pert,loss(x, test))), the loss averaged over the targets, and retrains exactly
    after each step; stops when all targets are flipped. `inputs` (k, ...) are the training inputs of `rows` as the
    problem's frozen network takes them (`Terms.network`), or rows of X without one. For linear classifiers.

    Raises ValueError where a target is wrong to begin with, the inputs are not those that were trained on, or the box
    does not hold them; TypeError for inputs of whole numbers and models that are no linear classifiers.

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
            "attack is for linear classifiers, also on features of a frozen network: it retrains each step"
        )
    index, x = torch.tensor(list(rows)), as_tensor(inputs).detach().clone()
    state = _State(model, index, x, test)
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


def vulnerability(
    influence: Influence, inputs: Any, test: Any, *, rows: Sequence[int], radius: Any = 1.0
) -> pd.DataFrame:
    """How far an attacker gets by moving one training input each: the worst first-order effect, largest first.

    `inputs` (k, ...) are the training inputs of `rows`; each of their numbers may move by `radius` (a number, or one
    per column). "worst effect" is sum_j radius_j |I_pert,loss_j| / n, the rise of the targets' mean loss after
    retraining (Sec. 5.2, Eq. 5); to first order nothing inside that box does more. "loss" is the row's own.

    >>> from upweight import LinearProblem, Logistic
    >>> X = torch.tensor([[1.0], [0.1], [-1.0], [-0.8]]).double()
    >>> problem = LinearProblem.fit(X, torch.tensor([1, 1, 0, 0]), loss=Logistic(), l2=0.1)
    >>> target = torch.tensor([[0.5]]).double(), torch.tensor([1])
    >>> vulnerability(Influence(problem), X, target, rows=range(4))["row"].tolist()[0]
    1
    """
    problem, index = influence.problem, torch.tensor(list(rows))
    x = as_inputs(inputs)
    solved = influence.solve(problem.test_gradients(test).mean(0, keepdim=True)).value
    targets = problem.train_batch(index)[1]
    found = problem.input_gradients((x, targets), solved)[0].double().abs()
    weight = problem.weights[index].to(found)
    worst = weight * (found * torch.as_tensor(radius).to(found)).flatten(1).sum(1) / problem.n
    table = pd.DataFrame(
        {"row": index, "worst effect": worst, "loss": problem.train_losses()[index].double()}
    )
    return table.sort_values("worst effect", ascending=False, ignore_index=True)


def vulnerable_targets(
    influence: Influence, inputs: Any, test: Any, *, rows: Sequence[int], radius: Any = 1.0
) -> pd.DataFrame:
    """Which test examples one moved training input could turn, to first order: the model's exposure, weakest first.

    For every test example its "margin" (what its own class is ahead of the strongest rival), the training "row" among
    `rows` that can lower it most by moving its input by at most `radius`, and that "worst effect"
    sum_j radius_j |I_pert,margin_j| / n. "flips" says where it exceeds the margin: `table["flips"].mean()` is the share
    of targets that an attacker owns. For linear classifiers; a test example takes a backward pass per row where the
    problem has a frozen network.

    >>> from upweight import LinearProblem, Logistic
    >>> X = torch.tensor([[1.0], [0.1], [-1.0], [-0.8]]).double()
    >>> problem = LinearProblem.fit(X, torch.tensor([1, 1, 0, 0]), loss=Logistic(), l2=0.1, intercept=True)
    >>> test = torch.tensor([[0.1], [2.0]]).double(), torch.tensor([1, 1])
    >>> vulnerable_targets(Influence(problem), X, test, rows=range(4), radius=2.0)["flips"].tolist()
    [True, False]
    """
    problem, index, x = classifier(influence.problem), torch.tensor(list(rows)), as_inputs(inputs)
    if problem is None:
        raise TypeError("vulnerable_targets is for linear classifiers, also on features of a frozen network")

    def margin_of(outputs: Tensor, y: Tensor) -> Tensor:
        return margin_of_targets(problem, outputs, y)

    margin = problem.evaluate(test, margin_of)
    solved = influence.solve(problem.test_gradients(test, margin_of)).value
    targets, weight = problem.train_batch(index)[1], problem.weights[index]
    worst = torch.zeros(len(margin), len(index), dtype=torch.float64)
    for t in track(range(len(margin)), "test examples", len(margin)):
        found = problem.input_gradients((x, targets), solved[t : t + 1])[0].double().abs()
        worst[t] = weight * (found * torch.as_tensor(radius).to(found)).flatten(1).sum(1) / problem.n
    effect, place = worst.max(1)
    table = pd.DataFrame(
        {"margin": margin, "row": index[place], "worst effect": effect, "flips": effect > margin}
    )
    order = (margin - effect).argsort(stable=True)
    return table.rename_axis("test row").iloc[order.numpy()]


class _State:
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
        self.index, self.first = index, inputs.clone()
        self.targets = problem.train_batch(index)[1]
        self.X = problem.design.block(slice(None), torch.float64).dense().clone()
        self.begun = self.X[index].clone()
        self.problem, self.seconds = self._with(problem, self.X), 0.0
        self.others = self._others(self.problem)
        if bool(self.flipped().any()):
            wrong = self.flipped().nonzero()[:, 0].tolist()
            raise ValueError(f"targets {wrong} are misclassified before the attack: leave them out")
        features = self._look(inputs)
        if features.shape != self.begun.shape:
            raise ValueError(
                f"inputs give features of shape {tuple(features.shape)}, X has rows of {problem.d} columns"
            )
        gap = float((features - self.begun).norm() / self.begun.norm())
        if not gap <= 1e-3:
            raise ValueError(
                f"the inputs are not those that rows {index.tolist()} were trained on: their features differ by "
                f"{gap:.1e} of their size (is `rows` right, and are the inputs scaled as in training?)"
            )

    def _look(self, inputs: Tensor) -> Float[Tensor, "k d"]:
        """Features of the inputs, and how to get back from them: one pass through the network serves both."""
        self.inputs, network = inputs, self.problem.terms.network
        self.traced = None if network is None else Traced(network, inputs)
        return (inputs if self.traced is None else self.traced.features).double()

    @staticmethod
    def _with(problem: LinearModel, X: Tensor) -> LinearModel:
        return problem.with_design(as_design(X))

    def margins(self) -> Float[Tensor, " m"]:
        """What each target's own class is ahead of its strongest rival."""
        design, y = self.test
        return margin_of_targets(self.problem, self.problem.outputs(design), y)

    def flipped(self) -> Bool[Tensor, " m"]:
        """Which targets the model gets wrong."""
        return self.margins() <= 0

    def ascent(self) -> Tensor:
        """I_pert,loss of the attacked inputs on the targets' mean loss (Eq. 5)."""
        gradient = self.problem.test_gradients(self.test).mean(0, keepdim=True)
        solved = self._solve(gradient)
        here = self.problem.feature_gradients(self.problem.train_batch(self.index), solved)
        return -(here if self.traced is None else self.traced.pull_back(here))[0]

    def _others(self, problem: LinearModel) -> Factor:
        """The Hessian without the attacked rows, factorised: it hardly changes while they move."""
        weights = problem.weights.clone()
        weights[self.index] = 0
        return Hessian(problem.changed(weights=weights)).factor()

    def _near(self, problem: LinearModel) -> Factor:
        """The Hessian of `problem`, exact but for the slight change of what the others weigh."""
        attacked = problem.hessian_roots(self.index).flatten(0, 1) / problem.n**0.5
        return UpdatedFactor(self.others, attacked)

    def _solve(self, rows: Float[Tensor, "1 p"]) -> Float[Tensor, "1 p"]:
        """H^-1 v to a residual of 1e-6, of which the ascent takes the signs."""
        product, near = self.problem.hessian.product(), self._near(self.problem)
        value, left = torch.zeros_like(rows), rows
        while float(left.norm()) > 1e-6 * float(rows.norm()):
            step = value + near.solve(left)
            rest = rows - product(step)
            if float(rest.norm()) > CONTRACTION * float(left.norm()):
                self.others = self._others(self.problem)
                near = self._near(self.problem)
                continue
            value, left = step, rest
        return value

    def move(self, inputs: Tensor) -> None:
        """Other inputs, and the model retrained with them by Newton steps."""
        self.X[self.index] = self._look(inputs)
        began = time.perf_counter()
        here = self._with(self.problem, self.X)
        gradient = here.gradient()
        while float(gradient.norm()) > TOLERANCE:
            there = here.at(here.theta - self._near(here).solve(gradient[None])[0])
            rest = there.gradient()
            if float(rest.norm()) > CONTRACTION * float(gradient.norm()):
                here = here.minimised(TOLERANCE)
                self.others = self._others(here)
                break
            here, gradient = there, rest
        self.problem, self.seconds = here, time.perf_counter() - began

    def line(self) -> dict[str, float]:
        """What the log says."""
        margins = self.margins()
        return {
            "loss": float(self.problem.evaluate(self.test).mean()),
            "smallest margin": float(margins.min()),
            "flipped": int((margins <= 0).sum()),
            "input distance": float((self.inputs - self.first).double().norm()),
            "largest input change": float((self.inputs - self.first).abs().max()),
            "feature distance": float((self.X[self.index] - self.begun).norm()),
            "retraining seconds": self.seconds,
        }
