"""Fig. 4, both halves: what helps a prediction in an RBF machine on pixels, and what in a head on a network (R21).

    python -m experiments fig4_inception_vs_rbf                    Inception v3, 900 + 900 photographs
    python -m experiments fig4_inception_vs_rbf --network lite0    EfficientNet-Lite0 (extra "vision"), ten times faster
    python -m experiments fig4_inception_vs_rbf --small            Lite0, 75 + 75

The RBF half is `fig4_rbf`, which this runs where its numbers are not in --out; the same test fish is asked of a
logistic head (l2 = 0.001) on the frozen network's features of the same photographs. Distances are between pixels in
both halves. The network's predictions are checked against the exact refits without the 30 most influential photographs.

Writes fig4_NETWORK_vs_rbf.png and .json. Needs UPWEIGHT_DATA_DIR with dogfish_224.zip, for Inception also the trunk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import upweight as uw
from experiments import common, fig4_rbf, photos
from upweight.data.design import as_design

TOP = 10


def rbf(out: Path, small: bool) -> dict[str, Any]:
    """The numbers of the RBF half, computed where they are missing."""
    path = out / "fig4_rbf.json"
    if not path.exists() or json.loads(path.read_text())["small"] != small:
        fig4_rbf.main(["--out", str(out), *(["--small"] if small else [])])
    return json.loads(path.read_text())


def described(effect: np.ndarray, distance: np.ndarray, fish: np.ndarray) -> dict[str, Any]:
    """The shape of one half: fall with distance, and who helps a fish."""
    spearman, purity, count = fig4_rbf.shape_of(effect, distance, fish)
    helpful = np.argsort(-effect)[:TOP]
    return {
        "points_with_influence": count,
        "spearman_influence_distance": spearman,
        "sign_purity_nearest_tenth": purity,
        "most_helpful": helpful.tolist(),
        "most_helpful_that_are_dogs": int((~fish[helpful]).sum()),
        "share_of_dogs_that_help": float((effect[~fish] > 0).mean()),
    }


def asked(photo: photos.Photos, rows: torch.Tensor) -> Any:
    """Test images as features, which need no pass through the network."""
    return as_design(photo.features_test[rows].double()), photo.y_test[rows]


def draw(
    photo: photos.Photos, index: int, halves: dict[str, tuple[np.ndarray, np.ndarray]], path: Path
) -> None:
    """Influence against distance, and the two most helpful photographs of each half beside the test image."""
    fish = (photo.y > 0).numpy()
    figure = Figure(figsize=(15, 6.6), layout="constrained")
    axes = figure.subplots(2, 4)
    for row, (name, (effect, distance)) in enumerate(halves.items()):
        left = axes[row, 0]
        for rows, colour, marker, label in ((fish, "#009E73", "o", "fish"), (~fish, "#D55E00", "^", "dog")):
            left.scatter(distance[rows], effect[rows], s=6, color=colour, marker=marker, label=label)
        left.set(xlabel="squared pixel distance", ylabel=r"$-I_{up,loss}$ (> 0: helpful)", title=name)
        left.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        left.legend(fontsize="small")
        chosen = [(photo.pixels_test[index], "test fish")]
        chosen += [
            (photo.pixels[j], f"helpful {'fish' if fish[j] else 'dog'} {place}")
            for place, j in enumerate(np.argsort(-effect)[:2].tolist(), 1)
        ]
        for axis, (picture, title) in zip(axes[row, 1:], chosen, strict=True):
            axis.imshow(picture.permute(1, 2, 0))
            axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    parser = common.parser(__name__, __doc__, "EfficientNet-Lite0, 75 + 75 photographs")
    parser.add_argument("--network", choices=photos.NETWORKS, default="inception")
    parser.add_argument("--device", default="cpu")
    options = common.options(parser, argv)
    network, per_class, checked = ("lite0", 75, 5) if options.small else (options.network, 900, 30)
    first = rbf(options.out, options.small)
    photo = photos.load(network, per_class, options.out, options.device)
    index, fish = first["test_index"], (photo.y > 0).numpy()
    distance = np.array(first["values"]["distance"])
    head = photo.problem
    influence = uw.Influence(head)

    def effects(rows: torch.Tensor) -> np.ndarray:
        """-I_up,loss of all training images on these test images, whose features are known."""
        return influence.on_loss(asked(photo, rows)).removal_effect().numpy() * head.n

    effect = effects(torch.tensor([index]))[0]
    check = uw.verify(influence, asked(photo, torch.tensor([index])), k=checked, random=0)
    margins = photo.margins()
    of_fish = effects((photo.y_test > 0).nonzero()[:, 0])
    helped_by_dogs = [int((~fish[np.argsort(-one)[:TOP]]).sum()) for one in of_fish]
    result: dict[str, Any] = {
        "small": options.small,
        "network": network,
        "n": head.n,
        "test_accuracy": float((margins > 0).double().mean()),
        "median_margin": float(margins.median()),
        "test_index": index,
        "test_margin": float(margins[index]),
        "gradient_norm": float(head.gradient().norm()),
        "rbf_test_accuracy": first["test_accuracy"],
        "rbf": described(np.array(first["values"]["influence"]), distance, fish),
        network: described(effect, distance, fish),
        "test_fish_with_a_dog_among_their_ten_most_helpful": float(np.mean(np.array(helped_by_dogs) > 0)),
        "verified": str(check),
    }
    common.publish(result, options.out / f"fig4_{network}_vs_rbf.json")
    halves = {
        "RBF machine on pixels": (np.array(first["values"]["influence"]), distance),
        f"{network}, logistic head": (effect, distance),
    }
    draw(photo, index, halves, options.out / f"fig4_{network}_vs_rbf.png")
