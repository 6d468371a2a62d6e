"""Influence through training on MNIST: a perceptron that stopped early, judged by replays of its own training.

    python -m experiments unrolled_mnist            5,000 digits, 10 runs, about an hour on two cores
    python -m experiments unrolled_mnist --small    300 digits, 2 runs, seconds

MLP 784-128-64-10, dropout 0.1, SGD 0.01, batch 32, 20 epochs. The run is replayed without random sets of 1, 10 and
50 % of the digits, and without single ones: same start, batches and dropout. Beside the derivatives through training
stand EKFAC and, of fewer test digits, the Gauss-Newton matrix by conjugate gradients, at the damping that is best for
these very outcomes; then what costs less than the whole way back: segments of the run (SOURCE), and the last part of
training alone. Then the published protocol: halves trained on with other seeds, scores of fewer test digits averaged
over the runs (the retrainings are those of lds_mnist). Writes unrolled_mnist.png and unrolled_mnist.json;
scores and outcomes are kept in the folder and found by the next run. Needs UPWEIGHT_DATA_DIR with mnist.npz, except
with --small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

import upweight as uw
from experiments import common, mlp
from upweight.evaluation import lds, random_subsets, retrained
from upweight.validation.verify import agreement

SHARES = {"1 %": 0.01, "10 %": 0.1, "50 %": 0.5}
EKFAC_DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
GAUSS_NEWTON_DAMPINGS = (1e-3, 1e-2, 1e-1)
SGD = partial(torch.optim.SGD, lr=mlp.RATE)


def run_of(X: torch.Tensor, y: torch.Tensor, seed: int, epochs: int) -> uw.TrainingRun:
    """A recorded run; the seed decides weights, order and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mlp.build()
    fields: dict[str, Any] = {"epochs": epochs, "batch_size": mlp.BATCH, "seed": seed}
    return uw.TrainingRun.train(model, F.cross_entropy, (X, y), optimizer=SGD, **fields)


def kept_in(path: Path, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What is in a file, or is made and written there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make().numpy())
    return torch.from_numpy(np.load(path))


def replayed(run: uw.TrainingRun, subsets: torch.Tensor, test: Any) -> torch.Tensor:
    """The losses (s, 1, m) of test digits after replays on those subsets (s, n)."""
    sets = [(~kept).nonzero()[:, 0] for kept in subsets]
    return torch.stack([end.evaluate(test) for end in run.replays.without(sets)]).double()[:, None]


def judged(effects: torch.Tensor, outcomes: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, Any]:
    """LDS of removal effects (m, n) against the outcomes of each share of dropped digits, of m test digits."""
    m = len(effects)
    return {
        share: common.told(lds(-effects, sets, found[:, :, :m])) for share, (sets, found) in outcomes.items()
    }


def best(options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The best of several dampings for each share, which flatters them: it is chosen by the outcomes themselves."""
    shares = next(iter(options.values()))
    chosen = {share: max(options, key=lambda d: options[d][share]["lds"]) for share in shares}
    return {share: {"damping": d, **options[d][share]} for share, d in chosen.items()}


def others(run: uw.TrainingRun, data: Any, test: Any, few: int, small: bool) -> dict[str, Any]:
    """Removal effects of the last weights alone, by damping: EKFAC of all test digits, Gauss-Newton of few."""
    problem = uw.Problem(run.model, F.cross_entropy, data)
    ekfac = uw.EKFAC(problem)
    found: dict[str, Any] = {"EKFAC": {}, "Gauss-Newton": {}}
    for damping in EKFAC_DAMPINGS[1:3] if small else EKFAC_DAMPINGS:
        influence = uw.Influence(problem, curvature=ekfac.damped(damping), solver=uw.Exact())
        found["EKFAC"][f"{damping:g}"] = influence.on_loss(test).removal_effect()
    for damping in GAUSS_NEWTON_DAMPINGS[1:2] if small else GAUSS_NEWTON_DAMPINGS:
        solver = uw.ConjugateGradient(rtol=1e-3, preconditioner=ekfac.damped(damping))
        influence = uw.Influence(problem, curvature=uw.GaussNewton(problem, damping=damping), solver=solver)
        found["Gauss-Newton"][f"{damping:g}"] = influence.on_loss(
            (test[0][:few], test[1][:few])
        ).removal_effect()
    return found


def cheaper(run: uw.TrainingRun, small: bool) -> dict[str, Any]:
    """What costs less than going back through the whole run: segments, and the last part of training alone."""
    steps = len(run.steps)
    return {
        "3 segments": uw.Segments(run),
        "3 segments, 300 directions": uw.Segments(run, rank=300, rows=60 if small else 1000),
        "3 segments, EKFAC": uw.Segments(run, rank=None),
        "last 50 %": run.last(steps // 2),
        "last 25 %": run.last(steps // 4),
        "last 10 %": run.last(steps // 10),
    }


def alike(predicted: torch.Tensor, actual: torch.Tensor) -> str:
    """How well predicted changes of single removals agree with replayed ones, in words."""
    return str(agreement(predicted.flatten().numpy(), actual.flatten().numpy()))


def draw(result: dict[str, Any], pairs: tuple[np.ndarray, np.ndarray], path: Path) -> None:
    """Predicted and replayed changes of single removals, and LDS by share."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*pairs, ".", markersize=2, color="#0072B2")
    common.diagonal(left, *pairs)
    left.set(title="single digits removed", xlabel="predicted change of the loss", ylabel="by replaying")
    for k, (name, found) in enumerate(result["lds"].items()):
        heights = [found[share]["lds"] for share in SHARES]
        right.bar(np.arange(len(SHARES)) + 0.25 * k, heights, 0.25, label=name)
    right.set(title="same seed: LDS by share removed", ylim=(0, 1))
    right.set_xticks(np.arange(len(SHARES)) + 0.25, list(SHARES))
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    options = common.options(
        common.parser(__name__, __doc__, "300 digits, 2 runs, 6 replays of each kind"), argv
    )
    X, y, X_test, y_test = mlp.load(options.small)
    count, members, epochs, m, few, alone = (
        (6, 2, 3, 20, 10, 10) if options.small else (50, 10, mlp.EPOCHS, 100, 30, 100)
    )
    data, test, folder = (X, y), (X_test[:m], y_test[:m]), options.out / f"unrolled_{len(X)}"
    began = time.process_time()
    mlp.train(X, y, 0, epochs)
    training = time.process_time() - began
    run = run_of(X, y, 0, epochs)
    began = time.process_time()
    first = kept_in(folder / "scores_0.npy", lambda: uw.Unrolled(run).on_loss(test).values)
    backwards = time.process_time() - began
    outcomes = {}
    for share, dropped in SHARES.items():
        subsets = random_subsets(len(X), count, share=1 - dropped)
        found = kept_in(folder / f"dropped_{dropped:g}.npy", lambda s=subsets: replayed(run, s, test))  # type: ignore[misc]
        outcomes[share] = subsets, found
    rows = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))[:alone]
    single = ~torch.zeros(alone, len(X), dtype=torch.bool).scatter_(1, rows[:, None], True)
    before = run.problem.evaluate(test)
    actual = (
        kept_in(folder / "single.npy", lambda: replayed(run, single, test))[:, 0].T - before[:, None].double()
    )
    effects = first / -len(X)
    predicted = effects[:, rows]
    known = others(run, data, test, few, options.small)
    result: dict[str, Any] = {
        "n": len(X),
        "test_digits": m,
        "epochs": epochs,
        "training_seconds": training,
        "backwards_over_training": backwards / training,
        "test_accuracy": float((run.model(X_test).argmax(1) == y_test).double().mean()),
        "leave_one_out": alike(effects[:, rows], actual),
        "leave_one_out_beside": {
            name: {d: alike(e[:, rows], actual[: len(e)]) for d, e in by.items()}
            for name, by in known.items()
        },
        "lds": {
            "through training": judged(effects, outcomes),
            **{name: best({d: judged(e, outcomes) for d, e in by.items()}) for name, by in known.items()},
        },
    }
    result["lds_of_few"] = judged(effects[:few], outcomes)
    result["cheaper"] = {}
    for name, relative in cheaper(run, options.small).items():
        began = time.process_time()
        scores = kept_in(folder / f"{name}.npy", lambda r=relative: uw.Unrolled(r).on_loss(test).values)  # type: ignore[misc]
        result["cheaper"][name] = {
            "over_training": (time.process_time() - began) / training,
            "lds": judged(scores / -len(X), outcomes),
            "leave_one_out": alike(scores[:, rows] / -len(X), actual),
        }

    def outcome(kept: torch.Tensor, seed: int) -> torch.Tensor:
        return mlp.losses(mlp.train(X[kept], y[kept], seed, epochs), X_test, y_test)

    halves = random_subsets(len(X), count)
    elsewhere = retrained(outcome, halves, seeds=(1000, 1001), folder=options.out / f"lds_{len(X)}")[
        :, :, :few
    ]
    every, some = [effects[:few]], (test[0][:few], test[1][:few])
    for seed in range(1, members):
        values = kept_in(
            folder / f"scores_{seed}_of_{few}.npy",
            lambda s=seed: uw.Unrolled(run_of(X, y, s, epochs)).on_loss(some).values,  # type: ignore[misc]
        )
        every.append(values / -len(X))
    result["other_seeds"] = [
        common.told(lds(-torch.stack(every[: k + 1]).mean(0), halves, elsewhere)) for k in range(members)
    ]
    common.publish(result, options.out / "unrolled_mnist.json")
    draw(result, (predicted.flatten().numpy(), actual.flatten().numpy()), options.out / "unrolled_mnist.png")
