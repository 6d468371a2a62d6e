"""Training-set attacks on dog against fish: one, two or ten training images, the same bytes (Fig. 5, R22, R23).

    python -m experiments fig5_attack                      60 test images, EfficientNet-Lite0 (extra "vision")
    python -m experiments fig5_attack --side 40            photographs as hard as the paper's: see below
    python -m experiments fig5_attack --network inception  the paper's network, ten times slower
    python -m experiments fig5_attack --device cuda --workers 5   the networks on a GPU, five attacks at a time
    python -m experiments fig5_attack --small              30 + 30 photographs, 2 test images, 5 steps

A logistic head (--l2, 0.001) on frozen features of 900 + 900 photographs. Both networks predict all 600 test
photographs rightly, the paper's 98.5 % with a mean confidence of 97 %: --side shrinks every photograph, of training and
of test, to so many pixels a side (means of blocks) and back before the network sees it, until as many are wrong. What
comes out of that, in bytes, is the photograph that is attacked.

For a test image that is right, training images are ranked by sum |I_pert,loss| over their pixels: exactly for the
--shortlist whose features matter most, since that many pass through the network backwards per test image. Each attack
takes 100 steps of 0.02 grey levels by sign, inside the images that are stored as the same bytes, and retrains the head
exactly after each. "One image" is the better of the two best candidates, as in the paper's code. A flip counts where a
head that scikit-learn fits from nothing, to features computed anew, is wrong too. Beside it stands what first order
says: of the whole box, of the move that was found, of the features it gave. Then one image against 30 test images of
one class, least confident first.

Writes a line after every attack into fig5_attack_NETWORK_900.jsonl (and goes on from there: --targets 20 again sums up
the first 20), then .json, and fig5_attack_NETWORK.png with the shares by margin, and by accuracy and l2 over all
settings whose .json lies there. Needs UPWEIGHT_DATA_DIR with dogfish_224.zip, for --network inception also the trunk.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from experiments import common, photos
from experiments.photo_attacks import candidates, many_targets, one_attack, shortlist, target_of
from upweight.runtime.progress import track

LOST = ("box", "pixels", "features", "found")
PAPER = {1: 0.57, 2: 0.77, 10: 590 / 591}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run of the experiment is made with."""

    network: str
    per_class: int
    side: int | None
    l2: float
    listed: int
    iterations: int
    out: Path
    device: str
    threads: int

    def photos(self) -> photos.Photos:
        """The photographs and the head, loaded once per process."""
        return _loaded(self)

    @property
    def variant(self) -> str:
        """What file names say of it, where it is not the usual."""
        side = "" if self.side is None else f"_side{self.side}"
        return side + ("" if self.l2 == photos.L2 else f"_l2_{self.l2:g}")


def one_of_many(settings: Settings, index: int, count: int) -> dict[str, Any]:
    """An attack in a process that loads the photographs once, and ranks candidates once per test image."""
    photo = settings.photos()
    best, by_features = _ranked(settings, index)
    return {
        "test": index,
        "margin": float(photo.margins()[index]),
        "candidates": best[:10],
        "places_in_shortlist": [by_features.index(row) for row in best[:10]],
        str(count): one_attack(photo, index, best, count, settings.iterations),
    }


@functools.lru_cache(maxsize=1)
def _ranked(settings: Settings, index: int) -> tuple[list[int], list[int]]:
    photo = settings.photos()
    target = target_of(photo, [index])
    return candidates(photo, target, settings.listed), shortlist(photo, target, settings.listed)


@functools.lru_cache(maxsize=1)
def _loaded(settings: Settings) -> photos.Photos:
    torch.set_num_threads(settings.threads)
    return photos.load(
        settings.network,
        settings.per_class,
        settings.out,
        settings.device,
        side=settings.side,
        l2=settings.l2,
    )


def read(path: Path) -> dict[str, Any]:
    """The test images attacked so far, from a file with a line per attack; one that was cut off is done again."""
    targets: dict[str, Any] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        targets.setdefault(str(line["test"]), {}).update(line)
    return targets


def model_of(photo: photos.Photos) -> dict[str, Any]:
    """How hard the photographs are for the head before any attack."""
    margins = photo.margins()
    return {
        "n": photo.problem.n,
        "right": int((margins > 0).sum()),
        "of": len(margins),
        "accuracy": float((margins > 0).double().mean()),
        "mean_confidence": float(torch.sigmoid(margins.abs()).mean()),
        "median_margin": float(margins.median()),
    }


def share_of(flipped: Sequence[bool]) -> dict[str, Any]:
    """A share with its 95 % interval (Clopper-Pearson)."""
    interval = binomtest(sum(flipped), len(flipped)).proportion_ci()
    return {
        "flipped": sum(flipped),
        "of": len(flipped),
        "share": sum(flipped) / len(flipped),
        "interval": [interval.low, interval.high],
    }


def summary(targets: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    """Shares with their intervals, what first order says of them, and medians of the observations.

    "flipped" counts what the head fitted anew gets wrong. "first_order" is the share of targets whose margin is less
    than what that step of `lost` predicts; an attack ends when it flips, so that "pixels" and "features" are cut short
    there, and the medians of "lost" are those of the attacks that do not flip. "told_apart_by": the probability that a
    target that flips has a smaller margin than one that does not, or more that the box can take, as a share of it.
    """
    found: dict[str, Any] = {}
    for count in counts:
        lines = [line for line in targets.values() if str(count) in line]
        mine = [line[str(count)] for line in lines]
        failed = [one for one in mine if not one["flipped"]]
        names = [name for name, value in mine[0].items() if isinstance(value, int | float)]
        found[str(count)] = {
            **share_of([one["margin_refitted"] <= 0 for one in mine]),
            "flips_not_confirmed": sum(one["flipped"] and one["margin_refitted"] > 0 for one in mine),
            "largest_gap_of_refits": max(abs(one["margin_refitted"] - one["margin_left"]) for one in mine),
            "first_order": {
                step: sum(line["margin"] <= one["lost"][step] for line, one in zip(lines, mine, strict=True))
                / len(mine)
                for step in LOST
            },
            "told_apart_by": {
                "margin": told_apart([line["margin"] for line in lines], mine),
                "box over margin": told_apart(
                    [-one["lost"]["box"] / line["margin"] for line, one in zip(lines, mine, strict=True)],
                    mine,
                ),
            },
            "lost_where_it_fails": {step: median(one["lost"][step] for one in failed) for step in LOST},
            "median": {name: median(one[name] for one in mine) for name in names if name != "flipped"},
            "seconds": sum(one["seconds"] for one in mine),
        }
    return found


def told_apart(values: list[float], attacks: list[dict[str, Any]]) -> float | None:
    """The probability that the value of a target that flips is below that of one that does not (an AUROC)."""
    flipped = [one["margin_refitted"] <= 0 for one in attacks]
    if all(flipped) or not any(flipped):
        return None
    return 1 - float(roc_auc_score(flipped, values))


def median(values: Iterable[float]) -> float | None:
    """The median, or None of nothing."""
    kept = [float(value) for value in values]
    return statistics.median(kept) if kept else None


def by_margin(targets: dict[str, Any], count: int, bins: int = 5) -> list[dict[str, Any]]:
    """The share flipped in groups of equal size, from the smallest margins to the largest."""
    lines = sorted((line for line in targets.values() if str(count) in line), key=lambda line: line["margin"])
    groups = [list(part) for part in np.array_split(np.array(lines, dtype=object), min(bins, len(lines)))]
    return [
        {
            "margins": [group[0]["margin"], group[-1]["margin"]],
            "median_margin": median(line["margin"] for line in group),
            **share_of([line[str(count)]["margin_refitted"] <= 0 for line in group]),
        }
        for group in groups
    ]


def draw(photo: photos.Photos, result: dict[str, Any], others: list[dict[str, Any]], path: Path) -> None:
    """Shares flipped: by the number of training images, by margin, and in all settings by accuracy and l2."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    shares = result["summary"]
    for place, (count, one) in enumerate(shares.items()):
        colour = COLOURS[place % len(COLOURS)]
        _bar(axes[0, 0], place, one, colour, None)
        if int(count) in PAPER:
            axes[0, 0].plot([place - 0.2, place + 0.2], [PAPER[int(count)]] * 2, color="0.4")
        for group in result["by_margin"][count]:
            _bar(axes[0, 1], group["median_margin"], group, colour, None)
        lines = [line for line in result["targets"].values() if count in line]
        axes[0, 2].scatter(
            [line[count]["lost"]["box"] / line["margin"] for line in lines],
            [line[count]["lost"]["found"] / line["margin"] for line in lines],
            s=12,
            color=colour,
            label=f"{count} moved",
        )
        for other in others:
            if count in other["summary"]:
                _bar(axes[1, 0], other["accuracy"], other["summary"][count], colour, other)
                _bar(axes[1, 1], other["l2"], other["summary"][count], colour, other)
    axes[0, 0].set(xticks=range(len(shares)), xticklabels=list(shares), xlabel="training images moved")
    axes[0, 1].set(xlabel="margin before the attack (fifths)")
    axes[0, 2].set(
        xlabel="first order: most the box takes / margin",
        ylabel="taken / margin (1: flipped)",
        xscale="log",
        ylim=(-0.05, 1.3),
    )
    axes[0, 2].axvline(1, color="0.6", linewidth=1)
    axes[0, 2].legend()
    axes[1, 0].set(xlabel="test accuracy before the attack")
    axes[1, 1].set(xlabel="l2", xscale="log")
    for axis in (axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1]):
        axis.set(ylim=(-0.02, 1.05), ylabel="share of test images flipped")
    axes[1, 2].imshow(photo.pixels[result["many"]["row"]].permute(1, 2, 0))
    axes[1, 2].set(
        title=f"flips {result['many']['flipped']} of {len(result['many']['targets'])} fish",
        xticks=[],
        yticks=[],
    )
    figure.savefig(path, dpi=110)


def _bar(axis: Any, x: float, one: dict[str, Any], colour: str, setting: dict[str, Any] | None) -> None:
    low, high = one["share"] - one["interval"][0], one["interval"][1] - one["share"]
    marker = "s" if setting is not None and setting["network"] == "inception" else "o"
    axis.errorbar([x], [one["share"]], [[max(low, 0)], [max(high, 0)]], fmt=marker, color=colour, capsize=4)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = common.parser(__name__, __doc__, "30 + 30 photographs, 2 test images, 5 steps")
    parser.add_argument("--network", choices=photos.NETWORKS, default="lite0")
    parser.add_argument("--side", type=int, help="shrink every photograph to side x side, and back")
    parser.add_argument("--l2", type=float, default=photos.L2)
    parser.add_argument("--targets", type=int, default=60)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 10])
    parser.add_argument("--shortlist", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    options = common.options(parser, argv)
    per_class, wanted, many, iterations = (30, 2, 2, 5) if options.small else (900, options.targets, 30, 100)
    if options.small:
        options.images, options.shortlist = [1, 2], 5
    settings = Settings(
        options.network,
        per_class,
        options.side,
        options.l2,
        options.shortlist,
        iterations,
        options.out,
        options.device,
        max(1, torch.get_num_threads() // options.workers),
    )
    photo = settings.photos()
    kept = options.out / f"fig5_attack_{options.network}_{per_class}{settings.variant}.json"
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    result |= {"network": options.network, "side": options.side, "l2": options.l2, **model_of(photo)}
    print(json.dumps({name: value for name, value in result.items() if name != "targets"}), flush=True)
    sample = sample_of(photo, wanted)
    targets = run(settings, sample, options.images, options.workers, kept.with_suffix(".jsonl"))
    result["targets"] = {str(index): targets[str(index)] for index in sample}
    result["summary"] = summary(result["targets"], options.images)
    result["by_margin"] = {str(count): by_margin(result["targets"], count) for count in options.images}
    if "many" not in result:
        result["many"] = many_targets(photo, many, iterations, options.shortlist)
    common.publish(result, kept, silent=["targets"])
    beside = [json.loads(path.read_text()) for path in options.out.glob(f"fig5_attack_*_{per_class}*.json")]
    draw(photo, result, beside, options.out / f"fig5_attack_{options.network}{settings.variant}.png")


def sample_of(photo: photos.Photos, wanted: int) -> list[int]:
    """Test images drawn with seed 0 among those that are right."""
    right = (photo.margins() > 0).nonzero()[:, 0]
    return right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))][:wanted].tolist()


def run(settings: Settings, sample: list[int], counts: list[int], workers: int, path: Path) -> dict[str, Any]:
    """All attacks on the sample, and those of before; each is written as a line when it is done, and not done again."""
    found = read(path)
    jobs = [
        (index, count) for index in sample for count in counts if str(count) not in found.get(str(index), {})
    ]
    # CUDA does not survive a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        waiting = [pool.submit(one_of_many, settings, *job) for job in jobs]
        with path.open("a") as lines:
            for done in track(as_completed(waiting), "attacks", len(waiting)):
                # The end of a line comes before the next: one that was cut off spoils no other.
                lines.write("\n" + json.dumps(done.result()))
                lines.flush()
    finally:
        pool.shutdown(cancel_futures=True)
    return read(path)
