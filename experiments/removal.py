"""Removals from linear models without retraining, against retraining: first order, rescaled, Newton, and intervals.

    python -m experiments removal            hospital (R24), MNIST 1 against 7 (R9), Enron1 mails (R25), and a logistic
                                             head on 1,280 deep features of 1,800 photographs (extra "vision")
    python -m experiments removal --small    a tenth of the hospital and 300 + 300 digits, fewer removals

For each model: leave-one-out of 100 rows of the largest leverage and 100 drawn at random; sets of 1, 5 and 20 % of the
rows, at random and by largest effect; the row's own margin when it is left out; and, for the hospital and the digits,
guaranteed intervals of single rows and of sets up to 1 %. Every removal is retrained, to a gradient norm of 1e-9 of the
reduced objective, from the model's own parameters; the baseline is the model trained to 1e-11.

Writes removal.json and removal.png. Needs UPWEIGHT_DATA_DIR.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import upweight as uw
from experiments import common, fig6_mislabeled, photos, sec53_hospital
from experiments.data import ones_and_sevens
from upweight.data.design import as_design
from upweight.influence.woodbury import newton_steps
from upweight.runtime.progress import track
from upweight.validation.verify import agreement

TESTS = 6
KINDS = ("first_order", "rescaled", "newton")


def hospital(small: bool, out: Path) -> tuple[uw.LinearProblem, Any]:
    """Sec. 5.3's patients, children and all."""
    patients, _ = sec53_hospital.load()
    train, test = sec53_hospital.split(patients.y.numpy())
    train = train[::10] if small else train
    return sec53_hospital.fit(patients.take(train)), patients.take(test[:TESTS])


def mails(small: bool, out: Path) -> tuple[uw.LinearProblem, Any]:
    """Enron1's word counts, labels as they are."""
    X, y, X_test, y_test = fig6_mislabeled.load(4137, out / "fig6_words_4137.npz")
    problem = uw.LinearProblem(
        X,
        torch.from_numpy(y),
        torch.from_numpy(fig6_mislabeled.rough(X, y)),
        loss=uw.Logistic(),
        l2=fig6_mislabeled.L2,
    )
    return finished(problem), (X_test[:TESTS], torch.from_numpy(y_test[:TESTS]))


def digits(small: bool, out: Path) -> tuple[uw.LinearProblem, Any]:
    """Fig. 1's ones and sevens."""
    X, y, X_test, y_test = ones_and_sevens(small)
    start = uw.LinearProblem(X, y, torch.zeros(784), loss=uw.Logistic(), l2=0.01)
    return finished(start), (X_test[:TESTS], y_test[:TESTS])


def deep_features(small: bool, out: Path) -> tuple[uw.LinearProblem, Any]:
    """Dogs and fish: a logistic head with an intercept on the pooled features of a frozen EfficientNet-Lite0."""
    photo = photos.load("lite0", 900, out)
    problem = finished(photo.problem)
    right = float((photo.margins() > 0).double().mean())
    print(f"photos: accuracy {right:.3f} on {len(photo.y_test)} test images", flush=True)
    # A design: test rows are features already, which need no pass through the network.
    return problem, (as_design(photo.features_test[:TESTS].double()), photo.y_test[:TESTS])


def finished(problem: uw.LinearProblem) -> uw.LinearProblem:
    """At its optimum, by Newton steps with the factorised Hessian."""
    for _ in range(40):
        gradient = problem.gradient()
        if float(gradient.norm()) <= 1e-11:
            break
        problem = problem.at(problem.theta - uw.Hessian(problem).factor().solve(gradient[None])[0])
    return problem


def refits(
    problem: uw.LinearProblem, sets: list[torch.Tensor], test: Any, tolerance: float = 1e-9
) -> tuple[torch.Tensor, list[torch.Tensor], float]:
    """The change of each test loss (m, g), each set's own outputs without it, and the largest gradient norm.

    Steps with the downdated Hessian held fixed, then, where they do not converge, `minimised` alone; only the
    independently computed gradient of the reduced objective says when a refit is done.
    """
    curvature = uw.Hessian(problem).examples
    assert curvature is not None
    change = torch.empty(len(problem.evaluate(test)), len(sets), dtype=torch.float64)
    own: list[torch.Tensor] = [torch.empty(0)] * len(sets)
    worst = 0.0
    for batch, inverse, step in newton_steps(problem, curvature, sets, "retraining"):
        chosen = [sets[j] for j in batch]
        left = torch.tensor([problem.n - len(rows) for rows in chosen])[:, None]
        theta = problem.theta + step
        for _ in range(100):
            gradient = problem.gradients_without(chosen, theta)
            norms = gradient.norm(dim=1)
            if float(norms.max()) <= tolerance:
                break
            theta = theta - inverse.solve((gradient * left)[:, None])[:, 0]
        open_sets = (~(norms <= max(tolerance, 1e-9))).nonzero()[:, 0].tolist()
        for j in track(open_sets, "retraining alone", len(open_sets)):
            theta[j] = problem.without(chosen[j]).minimised(1e-9).theta
            norms[j] = problem.gradients_without([chosen[j]], theta[[j]]).norm()
        worst = max(worst, float(norms.max()))
        change[:, batch] = (problem.evaluate_each(test, theta) - problem.evaluate(test)).T
        for j, rows, there in zip(batch, chosen, theta, strict=True):
            own[j] = problem.output_gradients(problem.train_batch(rows))[:, 0] @ there
    return change, own, worst


def judged(predicted: torch.Tensor, actual: torch.Tensor) -> dict[str, float]:
    """Slope and relative error over all pairs, and over the worst test row."""
    found = agreement(predicted.flatten(), actual.flatten())
    return {
        "pearson": found.pearson,
        "slope": found.slope,
        "relative_error": found.relative_error,
        "slope_through_origin": float((predicted * actual).sum() / predicted.square().sum()),
    }


def compare(influence: uw.Influence, sets: list[torch.Tensor], test: Any) -> dict[str, Any]:
    """The three predictions against retraining."""
    assert isinstance(influence.problem, uw.LinearProblem)
    began = time.perf_counter()
    predicted = influence.of_removal(sets, test, steps=1)
    seconds = time.perf_counter() - began
    actual, _, worst = refits(influence.problem, sets, test)
    found: dict[str, Any] = {kind: judged(getattr(predicted, kind), actual) for kind in KINDS}
    return found | {
        "refits": len(sets),
        "pairs": actual.numel(),
        "largest_gradient_norm": worst,
        "prediction_seconds": seconds,
        "points": {kind: getattr(predicted, kind).flatten().tolist()[:1200] for kind in KINDS},
        "actual": actual.flatten().tolist()[:1200],
    }


def margins(influence: uw.Influence, rows: torch.Tensor, alone: Any) -> dict[str, Any]:
    """Change of each row's own output when it is left out: first order and approximate leave-one-out."""
    problem = influence.problem
    assert isinstance(problem, uw.LinearProblem)
    E = problem.output_gradients(problem.train_batch(rows))[:, 0]
    first = (E * influence.solve(problem.train_gradients(rows)).value).sum(1) / problem.n
    eta = E @ problem.theta
    _, own, _ = refits(problem, list(rows.split(1)), problem.train_batch(rows[:1]))
    actual = torch.cat(own) - eta
    return {
        "rows": len(rows),
        "leverage": [float(alone.leverage[rows].min()), float(alone.leverage[rows].max())],
        "first_order": judged(first, actual),
        "approximate_leave_one_out": judged(alone.outputs[rows, 0] - eta, actual),
    }


def guaranteed(influence: uw.Influence, sets: list[torch.Tensor], test: Any, steps: int) -> dict[str, Any]:
    """Whether any refit leaves its interval, and how wide they are."""
    assert isinstance(influence.problem, uw.LinearProblem)
    began = time.perf_counter()
    found = influence.of_removal(sets, test, guarantee=steps, steps=1)
    seconds = time.perf_counter() - began
    # A refit that is not exact must not be blamed on the interval: the tightest that rounding allows.
    actual, _, worst = refits(influence.problem, sets, test, 1e-14)
    assert found.low is not None
    assert found.high is not None
    outside = torch.maximum(found.low - actual, actual - found.high).clamp(min=0)
    width = (found.high - found.low) / 2 / actual.abs()
    return {
        "newton_steps": steps,
        "removals": len(sets),
        "pairs": actual.numel(),
        "violations": int((outside > 0).sum()),
        "largest_violation": float(outside.max()),
        "median_halfwidth_over_effect": float(width.median()),
        "quantile_90": float(width.quantile(0.9)),
        "infinite": int(width.isinf().sum()),
        "largest_gradient_norm_of_a_refit": worst,
        "seconds": seconds,
    }


def study(name: str, problem: uw.LinearProblem, test: Any, small: bool) -> dict[str, Any]:
    """All figures of one model."""
    influence = uw.Influence(problem, solver=uw.Exact())
    began = time.perf_counter()
    alone = influence.leave_one_out()
    found: dict[str, Any] = {
        "n": problem.n,
        "p": problem.p,
        "leave_one_out_seconds": time.perf_counter() - began,
    }
    print(
        f"{name}: n = {problem.n}, p = {problem.p}, gradient {float(problem.gradient().norm()):.1e}",
        flush=True,
    )
    generator = torch.Generator().manual_seed(0)
    half = 20 if small else 100
    shuffled = torch.randperm(problem.n, generator=generator)
    singles = torch.cat([alone.leverage.topk(half).indices, shuffled]).unique_consecutive()
    singles = torch.tensor(list(dict.fromkeys(singles.tolist()))[: 2 * half])
    found["single_rows"] = compare(influence, list(singles.split(1)), test)
    found["own_margins"] = margins(influence, alone.leverage.topk(half).indices, alone)
    found["own_margins_at_random"] = margins(influence, shuffled[:half], alone)
    strongest = influence.on_loss(test).values.abs().sum(0).argsort(descending=True)
    for share in (0.01, 0.05, 0.2):
        size = int(share * problem.n)
        for kind, order in (("random", shuffled), ("top", strongest)):
            sets = [order[:size]] if kind == "top" else list(shuffled[: 3 * size].split(size))
            found[f"{share:.0%} {kind}"] = compare(influence, sets, test)
    if name != "mails":
        sizes = [1] * (20 if small else 220) + [2, 5, 20, problem.n // 200, problem.n // 100] * (
            1 if small else 6
        )
        sets = [torch.randperm(problem.n, generator=generator)[: max(1, size)] for size in sizes]
        found["intervals"] = [guaranteed(influence, sets, test, steps) for steps in (1, 2)]
    report(found)
    return found


def report(found: dict[str, Any]) -> None:
    """The figures in words."""
    for name, part in found.items():
        if isinstance(part, dict) and "newton" in part:
            words = [f"{k} {part[k]['slope']:.3f} / {part[k]['relative_error']:.2%}" for k in KINDS]
            print(f"  {name} ({part['refits']} refits), slope / error: {', '.join(words)}")
    print(f"  own margins, largest leverage: {found['own_margins']}")
    print(f"  own margins, at random: {found['own_margins_at_random']}")
    for line in found.get("intervals", []):
        print(f"  {line}", flush=True)


def draw(results: dict[str, Any], path: Path) -> None:
    """Predicted against actual effect of single rows, a panel per model."""
    figure = Figure(figsize=(4.2 * len(results), 4), layout="constrained")
    for axes, (name, result) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
    ):
        part = result["single_rows"]
        common.diagonal(axes, part["actual"])
        for kind, colour, marker in zip(KINDS, ("#E69F00", "#56B4E9", "#0072B2"), "^sd", strict=True):
            label = f"{kind.replace('_', ' ')}: slope {part[kind]['slope']:.2f}"
            axes.scatter(part["points"][kind], part["actual"], s=9, color=colour, marker=marker, label=label)
        axes.set(title=name, xlabel="predicted change of a test loss", ylabel="after retraining")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


MODELS = {"hospital": hospital, "digits": digits, "mails": mails, "photos": deep_features}


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = common.parser(__name__, __doc__, "a tenth of the hospital, 300 + 300 digits")
    parser.add_argument("--only", nargs="*", default=list(MODELS))
    options = common.options(parser, argv)
    kept = options.out / "removal.json"
    results: dict[str, Any] = {}
    for name in options.only:
        if options.small and name in ("mails", "photos"):
            continue
        problem, test = MODELS[name](options.small, options.out)
        results[name] = study(name, problem, test, options.small)
        kept.write_text(json.dumps(results, indent=1))
    draw(results, options.out / "removal.png")
