"""Attacks on the training photographs of `photos`, what they take from a margin, and the refit that judges them."""

from __future__ import annotations

import time
from typing import Any

import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

import upweight as uw
from experiments import photos
from upweight.objective import LinearModel
from upweight.uses.attack import Attack, attack
from upweight.uses.box import Box, to_pixels
from upweight.uses.vulnerability import vulnerability

STEP = 0.02
"""Grey levels that every number of a photograph moves by in an iteration."""


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


def suspicion(problem: LinearModel) -> tuple[Any, Any]:
    """Leverage and loss of every training row, as a defender sees them after the attack."""
    found = uw.Influence(problem).leave_one_out()
    return found.leverage.numpy(), problem.train_losses().numpy()


def own_margin(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By how much the head decides for the right class; negative = wrong."""
    return outputs[:, 0] * y


def lost(photo: photos.Photos, found: Attack, target: Any) -> dict[str, float]:
    """What the attack takes from the target's margin, and what first order says of it, step by step.

    "box": the most that any move inside the box takes, to first order in the pixels; "pixels": what the move that was
    found takes, to first order in the pixels; "features": to first order in the head, with the features that the
    network really gives (Eq. 3); "found": what it took, the head being trained again.
    """
    influence = uw.Influence(photo.problem)
    pixels = photo.pixels[found.rows]
    x, y = photo.scaled(pixels), photo.y[found.rows]
    box = Box.same_pixels(pixels, photos.SCALE, photos.OFFSET[photo.name])
    per_pixel = -influence.on_inputs((x, y), target, measure=own_margin)[0] / photo.problem.n
    moved = influence.of_change(found.rows, (found.inputs, y), target, measure=own_margin).effect()
    margins = found.log["smallest margin"]
    return {
        "box": float(torch.maximum(per_pixel * (box.low - x), per_pixel * (box.high - x)).sum()),
        "pixels": float((per_pixel * (found.inputs - x)).sum()),
        "features": -float(moved.sum()),
        "found": float(margins.iloc[0] - margins.iloc[-1]),
    }


def refitted(photo: photos.Photos, found: Attack, target: Any) -> float:
    """The target's margin in a head that scikit-learn fits from nothing to features computed anew: the judge."""
    problem, network = photo.problem, photo.problem.terms.network
    assert network is not None
    X = problem.design.block(slice(None), torch.float64).dense().clone()
    with torch.no_grad():
        X[found.rows] = network(found.inputs).double()
        asked = network(target[0]).double()
    head = LogisticRegression(C=1 / (problem.n * photo.l2), solver="newton-cholesky", tol=1e-9)
    outputs = head.fit(X.numpy(), photo.y.numpy()).decision_function(asked.numpy())
    return float(outputs[0] * target[1][0])


def one_attack(
    photo: photos.Photos, index: int, best: list[int], count: int, iterations: int
) -> dict[str, Any]:
    """The attack on one test image by `count` training images; by one: the better of the two best candidates."""
    began, target, tried = time.process_time(), target_of(photo, [index]), []
    for rows in [[best[0]], [best[1]]] if count == 1 else [best[:count]]:
        tried.append(attacked(photo, rows, target, iterations))
        if bool(tried[-1].flipped[0]):
            break
    found = min(tried, key=lambda one: one.log["smallest margin"].iloc[-1])
    first, last = found.log.iloc[0], found.log.iloc[-1]
    return {
        "rows": found.rows.tolist(),
        "flipped": bool(found.flipped[0]),
        "iterations": len(found.log) - 1,
        "loss": [float(first["loss"]), float(last["loss"])],
        "margin_left": float(last["smallest margin"]),
        "margin_refitted": refitted(photo, found, target),
        "lost": lost(photo, found, target),
        **observed(photo, found),
        "seconds": time.process_time() - began,
    }


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
