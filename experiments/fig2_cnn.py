"""Fig. 2, right: influence on a convolutional network that is not at a minimum, against further training (R17, R18).

    python -m experiments fig2_cnn            5,500 digits, 100 removals, about half an hour on two cores
    python -m experiments fig2_cnn --small    100 digits, 4 removals, seconds

The paper's all-convolutional tanh network (p = 2,616, weight decay 0.001 on weights) is trained by Adam on batches of
500 (--steps at 1e-3, then as many at 1e-4; the paper: 500,000). Of the most confident wrong test digit the scores come
from the Hessian + 0.01, or more where that is not positive definite. Then each of the 100 most influential digits is
removed and training goes on for --more steps at 1e-4 (the paper: 30,000) with the same batches, all removals
side by side; one more does so with nothing removed: the drift control, which is subtracted. Beside these scores stand
the derivatives through exactly that further training, of the same digits: it is recorded as a run.

Writes fig2_cnn.png and fig2_cnn.json. Needs UPWEIGHT_DATA_DIR with mnist.npz, except with --small.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

import upweight as uw
from experiments import common
from experiments.data import digits
from upweight.runtime.progress import track
from upweight.validation.verify import agreement

L2, DAMPING, BATCH = 0.001, 0.01, 500
NOBODY = torch.tensor([-1])
"""The copy that nothing is removed from."""


def build() -> nn.Sequential:
    """The network, untrained."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 1
    for stride in (1, 2, 1, 2, 1):
        layers += [nn.Conv2d(channels, 8, 3, stride=stride), nn.Tanh()]
        channels = 8
    layers += [nn.Conv2d(8, 10, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 10)]
    return nn.Sequential(*layers)


def penalties(model: nn.Module) -> torch.Tensor:
    """l2 per parameter: weights only."""
    return torch.cat([torch.full((v.numel(),), L2 * (v.ndim > 1)) for v in model.parameters()])


def batches(n: int, steps: int) -> list[torch.Tensor]:
    """The digits of each step, the same in every training."""
    generator, found = torch.Generator().manual_seed(1), list[torch.Tensor]()
    size = min(BATCH, n)
    while len(found) < steps:
        order = torch.randperm(n, generator=generator)
        found += [part for part in order.split(size) if len(part) == size]
    return found[:steps]


def further(model: nn.Sequential, data: Any, more: int) -> uw.TrainingRun:
    """The further training with nothing removed, as a recorded run: weight decay is Adam's own, which adds it."""
    groups = [{"params": [v], "lr": 1e-4, "weight_decay": L2 * (v.ndim > 1)} for v in model.parameters()]
    return uw.TrainingRun(
        model,
        F.cross_entropy,
        data,
        optimizer=torch.optim.Adam(groups),
        batches=batches(len(data[0]), more),
    )


def train(
    model: nn.Sequential, thetas: torch.Tensor, data: Any, removed: torch.Tensor, steps: int, rate: float
) -> torch.Tensor:
    """Adam on many copies (k, p) at once, on the same batches; copy j never sees row removed[j] (-1: sees all)."""
    X, y = data
    named = dict(model.named_parameters())
    sizes = [value.numel() for value in named.values()]
    l2 = penalties(model)
    n = len(X) - (removed >= 0).double()
    stack = nn.Parameter(thetas.clone())
    optimiser = torch.optim.Adam([stack], lr=rate)

    def loss(
        theta: torch.Tensor, weights: torch.Tensor, x: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        parts = theta.split(sizes)
        params = {name: part.view(named[name].shape) for name, part in zip(named, parts, strict=True)}
        losses = F.cross_entropy(functional_call(model, params, (x,)), target, reduction="none")
        return (losses * weights).mean() + 0.5 * (l2 * theta.square()).sum()

    for rows in track(batches(len(X), steps), f"training {len(thetas)} copies", steps):
        weights = (rows != removed[:, None]).float() * (len(X) / n)[:, None].float()
        optimiser.zero_grad()
        if len(stack) == 1:
            total = loss(stack[0], weights[0], X[rows], y[rows])
        else:
            total = vmap(loss, in_dims=(0, 0, None, None))(stack, weights, X[rows], y[rows]).sum()
        total.backward()
        optimiser.step()
    return stack.detach()


def trained(model: nn.Sequential, data: Any, steps: int, kept: Path) -> torch.Tensor:
    """The parameters (1, p) after `steps` at either rate, found in `kept` or else trained and put there."""
    if kept.exists():
        return torch.load(kept)
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()[None]
    for rate in (1e-3, 1e-4):
        theta = train(model, theta, data, NOBODY, steps, rate)
    torch.save(theta, kept)
    return theta


def load_into(model: nn.Module, theta: torch.Tensor) -> None:
    """Set the parameters."""
    torch.nn.utils.vector_to_parameters(theta.clone(), model.parameters())


def draw(result: dict[str, Any], path: Path) -> None:
    """Predicted against actual change."""
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axis = figure.subplots()
    common.diagonal(axis, result["actual"], result["predicted"])
    axis.scatter(result["actual"], result["predicted"], s=8, color="#0072B2")
    axis.set(
        title=f"R = {result['agreement']['pearson']:.3f}",
        xlabel="actual change of the test loss, drift subtracted",
        ylabel="predicted change",
    )
    figure.savefig(path, dpi=120)


def most_wrong(outputs: torch.Tensor, y: torch.Tensor) -> int:
    """The test digit that is wrong with the most confidence."""
    doubt = F.cross_entropy(outputs, y, reduction="none") * (outputs.argmax(1) != y)
    return int(doubt.argmax())


def retrained(model: nn.Sequential, theta: torch.Tensor, data: Any, rows: torch.Tensor, more: int) -> Any:
    """Parameters after `more` steps without each of the rows, a few copies at a time."""
    parts = [train(model, theta.expand(len(part), -1), data, part, more, 1e-4) for part in rows.split(26)]
    return torch.cat(parts)


def predicted_and_actual(
    problem: uw.Problem,
    run: uw.TrainingRun,
    damping: float,
    test: Any,
    k: int,
    retrain: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, Any]:
    """The k largest removal effects on the test digit against `retrain` without each of these rows, less its drift.

    Args:
        problem: the trained network.
        run: its further training.
        damping: of the Hessian.
        test: the test digit.
        k: how many removals.
        retrain: the parameters after the further training without each of some rows.
    """
    began = time.perf_counter()
    influence = uw.Influence(problem, curvature=uw.Hessian(problem, damping))
    scores = influence.on_loss(test)
    answering = time.perf_counter() - began
    assert scores.drift is not None
    effect = scores.removal_effect()[0]
    top = effect.abs().topk(k).indices
    print(f"{answering:.0f} s of scores; {scores.verdict}", flush=True)
    began = time.perf_counter()
    after = retrain(torch.cat([NOBODY, top]))
    retraining = time.perf_counter() - began
    losses = torch.stack([problem.evaluate(test, theta=one)[0] for one in after]).double()
    actual = (losses[1:] - losses[0]).numpy()
    predicted = effect[top].numpy()
    began = time.perf_counter()
    through = uw.Unrolled(run).on_loss(test).removal_effect()[0, top].numpy()
    through_seconds = time.perf_counter() - began
    print(f"{through_seconds:.0f} s through the further training", flush=True)
    return {
        "score_seconds": answering,
        "retraining_seconds": retraining,
        "solver": str(influence.settings),
        "drift_predicted": float(scores.drift[0]),
        "drift_control": float(losses[0] - problem.evaluate(test)[0]),
        "agreement": dataclasses.asdict(agreement(predicted, actual)),
        "through_training": {
            "seconds": through_seconds,
            "apart": float((run.end.theta - after[0]).norm() / (after[0] - problem.theta).norm()),
            "agreement": dataclasses.asdict(agreement(through, actual)),
            "predicted": through.tolist(),
        },
        "predicted": predicted.tolist(),
        "actual": actual.tolist(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    parser = common.parser(__name__, __doc__, "100 digits, 4 removals")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--more", type=int, default=120)
    options = common.options(parser, argv)
    X, y, X_test, y_test = digits(options.small)
    n, k, steps, more = (100, 4, 20, 3) if options.small else (5500, 100, options.steps, options.more)
    data = X[:n].view(-1, 1, 28, 28), y[:n]
    X_test = X_test.view(-1, 1, 28, 28)
    model = build()
    began = time.perf_counter()
    theta = trained(model, data, steps, options.out / f"cnn_{n}_{steps}.pt")
    training = time.perf_counter() - began
    print(f"{training:.0f} s of training", flush=True)
    load_into(model, theta[0])
    model.eval()
    problem = uw.Problem(model, F.cross_entropy, data, l2=penalties(model))
    with torch.no_grad():
        outputs = model(X_test)
    index = most_wrong(outputs, y_test)
    lowest, highest = uw.Hessian(problem).spectrum()
    damping = max(DAMPING, -1.5 * lowest)
    result = {
        "n": n,
        "p": problem.p,
        "training_steps": 2 * steps,
        "further_steps": more,
        "training_seconds": training,
        "gradient_norm": float(problem.gradient().norm()),
        "hessian_spectrum": [lowest, highest],
        "damping": damping,
        "test_accuracy": float((outputs.argmax(1) == y_test).double().mean()),
        "test_index": index,
        **predicted_and_actual(
            problem,
            further(model, data, more),
            damping,
            (X_test[[index]], y_test[[index]]),
            k,
            lambda rows: retrained(model, theta, data, rows, more),
        ),
    }
    common.publish(result, options.out / "fig2_cnn.json", silent=["predicted", "actual"])
    draw(result, options.out / "fig2_cnn.png")
