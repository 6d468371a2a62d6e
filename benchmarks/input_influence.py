"""I_pert,loss of whole photographs through a frozen network: time, memory, and finite differences of refits.

    python -m benchmarks input_influence                        100 photographs, 299 x 299 x 3, through Inception v3
    python -m benchmarks input_influence --network lite0        224 x 224 x 3, through EfficientNet-Lite0
    python -m benchmarks input_influence --check                5 coordinates of 5 photographs against refits

The head is trained on 150 + 150 photographs: what a pass through the network costs does not depend on how many.
Time and memory stand beside one forward and one backward pass of the same photographs in the same batches. The check
moves a coordinate by --step grey levels both ways in a float64 network, retrains the head to rounding, and compares
the difference of the test loss with I_pert / n, relative to it. Needs UPWEIGHT_DATA_DIR.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import upweight as uw
from benchmarks.measuring import peak_mib, timed
from experiments import commands, photos
from upweight.data.design import as_design
from upweight.data.user_terms import Terms
from upweight.frozen import BATCH


def passes(network: torch.nn.Module, images: torch.Tensor) -> float:
    """Seconds of one forward and one backward pass, to the images."""
    began = time.perf_counter()
    for part in images.split(BATCH):
        x = part.clone().requires_grad_()
        torch.autograd.grad(network(x).sum(), x)
    return time.perf_counter() - began


def cost(photo: photos.Photos, count: int) -> dict[str, Any]:
    """All pixels of `count` training photographs on the least certain test photograph."""
    network: Any = photo.problem.terms.network
    images, y = photo.scaled(photo.pixels[:count]), photo.y[:count]
    hardest = photo.margins().argsort()[:1]
    test = (photo.scaled(photo.pixels_test[hardest]), photo.y_test[hardest])
    influence = uw.Influence(photo.problem)
    influence.on_inputs((images[:1], y[:1]), test)  # the head's factor, and what torch imports on first use
    before = peak_mib()
    plain = passes(network, images)
    of_passes = peak_mib()
    found, seconds = timed(influence.on_inputs, (images, y), test)
    return {
        "photographs": count,
        "shape": list(found.shape),
        "seconds": seconds,
        "seconds_of_a_forward_and_backward_pass": plain,
        "ratio": seconds / plain,
        "peak_mib_before": before,
        "peak_mib_of_the_passes": of_passes,
        "peak_mib": peak_mib(),
        "p_times_dim_x_mib": photo.problem.p * images[0].numel() * 4 / 2**20,
    }


def checked(photo: photos.Photos, step: float) -> dict[str, Any]:
    """The five photographs that matter most to a test photograph, the five steepest of 25 random coordinates each."""
    network: Any = photo.problem.terms.network
    network.double()
    X = features_in_full(network, photo.scaled(photo.pixels).double())
    settings: dict[str, Any] = {"loss": uw.Logistic(), "l2": photos.L2}
    problem = uw.LinearProblem.fit(
        X, photo.y, intercept=True, tolerance=1e-13, terms=Terms(network=network), **settings
    )
    hardest = photo.margins().argsort()[:1]
    features_test = features_in_full(network, photo.scaled(photo.pixels_test[hardest]).double())
    test = (as_design(features_test), photo.y_test[hardest])
    solved = uw.Influence(problem).solve(problem.test_gradients(test)).value
    every = torch.arange(problem.n)
    rows = problem.feature_gradients(problem.train_batch(every), solved)[0].norm(dim=1).topk(5).indices
    images = photo.scaled(photo.pixels[rows]).double()
    found = -problem.input_gradients((images, photo.y[rows]), solved)[0].flatten(1) / problem.n
    generator = torch.Generator().manual_seed(0)
    errors = []
    for row, image, slopes in zip(rows.tolist(), images, found, strict=True):
        drawn = torch.randperm(len(slopes), generator=generator)[:25]
        places = drawn[slopes[drawn].abs().topk(5).indices]
        for place in places.tolist():
            losses = []
            for sign in (1, -1):
                moved = image.clone().flatten()
                moved[place] += sign * step / photos.SCALE
                there = X.clone()
                there[row] = network(moved.view_as(image)[None])[0].detach()
                start = uw.LinearProblem(there, photo.y, *problem.params.values(), **settings)
                losses.append(float(start.minimised(1e-13).evaluate(test)[0]))
            actual = (losses[0] - losses[1]) / (2 * step / photos.SCALE)
            errors.append(abs(actual - float(slopes[place])) / abs(actual))
    return {
        "rows": rows.tolist(),
        "step_in_grey_levels": step,
        "coordinates": len(errors),
        "largest_relative_error": max(errors),
        "median_relative_error": float(torch.tensor(errors).median()),
    }


def features_in_full(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The features in float64."""
    with torch.no_grad():
        return torch.cat([network(part) for part in images.split(8)])


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--network", choices=photos.NETWORKS, default="inception")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--step", type=float, default=0.001)
    parser.add_argument("--per-class", type=int, default=150)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    options = parser.parse_args(argv)
    photo = photos.load(options.network, options.per_class, options.out, options.device)
    found = checked(photo, options.step) if options.check else cost(photo, options.count)
    print(json.dumps({"network": options.network, **found}, indent=1))
