"""Training-set attacks on dog against fish: one, two or ten training images, the same bytes (Fig. 5, R22, R23).

    python -m experiments fig5_attack                      60 test images, EfficientNet-Lite0 (extra "vision")
    python -m experiments fig5_attack --network inception  the paper's network, ten times slower
    python -m experiments fig5_attack --device cuda --workers 5   the networks on a GPU, five test images at a time
    python -m experiments fig5_attack --small              30 + 30 photographs, 2 test images, 5 steps

A logistic head (l2 = 0.001) on frozen features of 900 + 900 photographs. For a test image that is right, training
images are ranked by sum |I_pert,loss| over their pixels: exactly for the --shortlist whose features matter most, since
that many pass through the network backwards per test image. Each attack takes 100 steps of 0.02 grey levels by sign,
inside the images that are stored as the same bytes, and retrains the head exactly after each. "One image" is the better
of the two best candidates, as in the paper's code. Then one image against 30 test images of one class, least confident
first.

Writes fig5_attack_NETWORK.json after every test image (and goes on from there) and fig5_attack_NETWORK.png.
Needs UPWEIGHT_DATA_DIR with dogfish_224.zip, for --network inception also the trunk.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest, rankdata

import upweight as uw
from experiments import common, photos
from upweight.runtime.progress import track
from upweight.uses.attack import Attack, attack
from upweight.uses.box import Box, to_pixels
from upweight.uses.vulnerability import vulnerability

STEP = 0.02


def shortlist(photo: photos.Photos, target: Any, count: int) -> list[int]:
    """The `count` training images whose features matter most to the target, largest first."""
    problem = photo.problem
    solved = uw.Influence(problem).solve(problem.test_gradients(target).mean(0, keepdim=True)).value
    batch = problem.train_batch(torch.arange(problem.n))
    return (
        problem.feature_gradients(batch, solved)[0].norm(dim=1).topk(min(count, problem.n)).indices.tolist()
    )


def candidates(photo: photos.Photos, target: Any, count: int) -> list[int]:
    """The same, by what their pixels can do."""
    rows = shortlist(photo, target, count)
    table = vulnerability(uw.Influence(photo.problem), photo.scaled(photo.pixels[rows]), target, rows=rows)
    return table["row"].tolist()


def attacked(photo: photos.Photos, rows: list[int], target: Any, iterations: int) -> Attack:
    """One attack, proven to leave the stored images as they are."""
    pixels = photo.pixels[rows]
    offset = photos.OFFSET[photo.name]
    found = attack(
        photo.problem,
        photo.scaled(pixels),
        target,
        rows=rows,
        box=Box.same_pixels(pixels, photos.SCALE, offset),
        step=STEP / photos.SCALE,
        iterations=iterations,
    )
    assert torch.equal(to_pixels(found.inputs, photos.SCALE, offset), pixels)
    return found


def target_of(photo: photos.Photos, index: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Test images and labels; features, which the network would give again, are computed once inside `attack`."""
    return photo.scaled(photo.pixels_test[index]), photo.y_test[index]


def observed(photo: photos.Photos, found: Attack) -> dict[str, float]:
    """R23: how far images and features move, along which directions, and how suspicious the images look."""
    problem = photo.problem
    X = problem.design.block(slice(None), torch.float64).dense()
    row = int(found.rows[0])
    same = photo.y == photo.y[row]
    pixel_scale = photo.spread[float(photo.y[row])]
    feature_scale = float((X[same] - X[same].mean(0)).norm(dim=1).mean())
    after = found.problem.design.block(slice(None), torch.float64).dense()
    moved = after[row] - X[row]
    direction = moved / moved.norm()
    centred = X - X.mean(0)
    variance = float((centred @ direction).square().mean())
    k = len(found.rows)
    leverage, loss = (rankdata(-v) for v in suspicion(found.problem))
    return {
        "pixel_change_share": float(found.log["input distance"].iloc[-1]) / k**0.5 / pixel_scale,
        "feature_change_share": float(moved.norm()) / feature_scale,
        "variance_along_attack_over_mean": variance / float(centred.square().mean()),
        "rank_of_row_by_leverage": int(leverage[row]),
        "rank_of_row_by_loss": int(loss[row]),
        "rank_of_row_by_loss_before": int(rankdata(-photo.problem.train_losses())[row]),
    }


def suspicion(problem: uw.LinearProblem) -> tuple[Any, Any]:
    """Leverage and loss of every training row, as a defender sees them after the attack."""
    found = uw.Influence(problem).leave_one_out()
    return found.leverage.numpy(), problem.train_losses().numpy()


def one_target(
    photo: photos.Photos, index: int, counts: list[int], iterations: int, listed: int
) -> dict[str, Any]:
    """All attacks on one test image."""
    began, target = time.perf_counter(), target_of(photo, [index])
    best = candidates(photo, target, listed)
    by_features = shortlist(photo, target, listed)
    line: dict[str, Any] = {
        "test": index,
        "margin": float(photo.margins()[index]),
        "candidates": best[:10],
        "places_in_shortlist": [by_features.index(row) for row in best[:10]],
    }
    for count in counts:
        tries = [[best[0]], [best[1]]] if count == 1 else [best[:count]]
        for rows in tries:
            found = attacked(photo, rows, target, iterations)
            line[str(count)] = {
                "rows": rows,
                "flipped": bool(found.flipped[0]),
                "iterations": len(found.log) - 1,
                "loss": [float(found.log["loss"].iloc[0]), float(found.log["loss"].iloc[-1])],
                **observed(photo, found),
            }
            if bool(found.flipped[0]):
                break
    return {**line, "seconds": time.perf_counter() - began}


def many_targets(photo: photos.Photos, count: int, iterations: int, listed: int) -> dict[str, Any]:
    """One training image against the mean loss of `count` test images of one class, least confident first."""
    margins = photo.margins()
    fish = ((photo.y_test > 0) & (margins > 0)).nonzero()[:, 0]
    index = fish[margins[fish].argsort()][:count].tolist()
    target = target_of(photo, index)
    row = candidates(photo, target, listed)[0]
    found = attacked(photo, [row], target, iterations)
    return {
        "targets": index,
        "row": row,
        "flipped": int(found.flipped.sum()),
        "iterations": len(found.log) - 1,
        "loss": [float(found.log["loss"].iloc[0]), float(found.log["loss"].iloc[-1])],
        **observed(photo, found),
    }


def one_of_many(loading: tuple[Any, ...], settings: tuple[Any, ...], index: int) -> dict[str, Any]:
    """The same in a process of its own, which loads the photographs once."""
    return one_target(_loaded(*loading), index, *settings)


@functools.lru_cache(maxsize=1)
def _loaded(threads: int, *loading: Any) -> photos.Photos:
    torch.set_num_threads(threads)
    return photos.load(*loading)


def summary(result: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    """Shares with their 95 % binomial intervals, and medians of the observations."""
    lines = list(result["targets"].values())
    found: dict[str, Any] = {}
    for count in counts:
        mine = [line[str(count)] for line in lines]
        flipped = sum(one["flipped"] for one in mine)
        interval = binomtest(flipped, len(mine)).proportion_ci()
        medians = {
            name: float(torch.tensor([float(one[name]) for one in mine]).median())
            for name in mine[0]
            if name not in ("rows", "flipped", "loss")
        }
        found[str(count)] = {
            "flipped": flipped,
            "of": len(mine),
            "share": flipped / len(mine),
            "interval": [interval.low, interval.high],
            **medians,
        }
    return found


def draw(photo: photos.Photos, result: dict[str, Any], path: Path) -> None:
    """The share of flipped test images by the number of training images, and the image that many targets share."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    shares = result["summary"]
    for place, (_, one) in enumerate(shares.items()):
        low, high = one["share"] - one["interval"][0], one["interval"][1] - one["share"]
        axes[0].errorbar([place], [one["share"]], [[low], [high]], fmt="o", color="#0072B2", capsize=4)
    axes[0].set(
        xticks=range(len(shares)),
        xticklabels=list(shares),
        ylim=(0, 1.05),
        xlabel="training images moved",
        ylabel="share of test images flipped",
    )
    margins = [line["margin"] for line in result["targets"].values()]
    axes[1].scatter(
        margins, [line["1"]["loss"][1] for line in result["targets"].values()], s=12, color="#D55E00"
    )
    axes[1].set(xlabel="margin before the attack", ylabel="loss after moving one image", yscale="log")
    row = result["many"]["row"]
    axes[2].imshow(photo.pixels[row].permute(1, 2, 0))
    axes[2].set(
        title=f"flips {result['many']['flipped']} of {len(result['many']['targets'])} fish",
        xticks=[],
        yticks=[],
    )
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = common.parser(__name__, __doc__, "30 + 30 photographs, 2 test images, 5 steps")
    parser.add_argument("--network", choices=photos.NETWORKS, default="lite0")
    parser.add_argument("--targets", type=int, default=60)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 10])
    parser.add_argument("--shortlist", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    options = common.options(parser, argv)
    per_class, wanted, many, iterations = (30, 2, 2, 5) if options.small else (900, options.targets, 30, 100)
    if options.small:
        options.images, options.shortlist = [1, 2], 5
    loading = (options.network, per_class, options.out, options.device)
    photo = photos.load(*loading)
    right = (photo.margins() > 0).nonzero()[:, 0]
    sample = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))][:wanted].tolist()
    kept = options.out / f"fig5_attack_{options.network}_{per_class}.json"
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"targets": {}}
    result |= {"network": options.network, "n": photo.problem.n, "right": len(right), "of": len(photo.y_test)}
    left = [index for index in sample if str(index) not in result["targets"]]
    settings = (options.images, iterations, options.shortlist)
    threads = max(1, torch.get_num_threads() // options.workers)
    # CUDA does not survive a fork.
    pool = ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn"))
    try:
        waiting = [pool.submit(one_of_many, (threads, *loading), settings, index) for index in left]
        for done in track(as_completed(waiting), "test images", len(waiting)):
            result["targets"][str(done.result()["test"])] = done.result()
            kept.write_text(json.dumps(result, indent=1))
    finally:
        pool.shutdown(cancel_futures=True)
    result["summary"] = summary(result, options.images)
    if "many" not in result:
        result["many"] = many_targets(photo, many, iterations, options.shortlist)
    common.publish(result, kept, silent=["targets"])
    draw(photo, result, options.out / f"fig5_attack_{options.network}.png")
